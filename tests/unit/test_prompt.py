"""The canonical prompt's own rules; what each API makes of a request is tested with its dialect."""

from __future__ import annotations

import struct

import pytest

from warmroute.core.prompt import prompt


def test_text_between_messages_looks_like_nothing_a_client_can_send() -> None:
    out: list[bytes] = []
    prompt.start_message(out, "user", name="ann")
    prompt.add_text(out, "hello \x00\x01 ÿ þ")
    canonical = b"".join(out)
    assert canonical.split(b"\xff")[1:] == [b"muser", b"nann", b"t" + "hello \x00\x01 ÿ þ".encode()]


def test_all_turns_of_a_conversation_begin_with_what_stands_before_its_first_answer() -> None:
    out: list[bytes] = []
    prompt.start_message(out, "system")
    prompt.add_text(out, "be brief")
    prompt.start_message(out, "user")
    prompt.add_text(out, "hello")
    first = b"".join(out)
    prompt.start_message(out, "assistant")
    prompt.add_text(out, "hi")
    prompt.start_message(out, "user")
    prompt.add_text(out, "\xffmassistant")  # what a client writes is no field
    second = b"".join(out)
    assert prompt.beginning(first, 4096) == prompt.beginning(second, 4096) == first
    assert prompt.beginning(second, 10) == first[:10]


def test_a_data_url_enters_by_digest_and_any_other_url_as_it_is() -> None:
    inline: list[bytes] = []
    prompt.add_media(inline, "image", "data:image/png;base64," + "A" * 100_000)
    linked: list[bytes] = []
    prompt.add_media(linked, "image", "https://example.org/a.png")
    assert len(b"".join(inline)) < 64
    assert linked == [b"\xffgimage https://example.org/a.png"]


def test_base64_content_equals_the_data_url_made_of_it() -> None:
    url: list[bytes] = []
    prompt.add_media(url, "image", "data:image/jpeg;base64,AAAA")
    data: list[bytes] = []
    prompt.add_media_data(data, "image", "image/jpeg", "AAAA")
    other: list[bytes] = []
    prompt.add_media_data(other, "image", "image/jpeg", "AAAB")
    assert url == data != other


def test_a_clients_own_media_id_is_part_of_the_prompt() -> None:
    plain: list[bytes] = []
    prompt.add_media(plain, "image", "https://example.org/a.png")
    named: list[bytes] = []
    prompt.add_media(named, "image", "https://example.org/a.png", "7")
    assert b"".join(named) == b"".join(plain) + b"\xffu7"


def test_json_that_is_not_utf8_is_refused_because_it_could_forge_a_field() -> None:
    with pytest.raises(UnicodeDecodeError):
        prompt.add_json([], prompt.TOOLS, b'["\xff"]')


@pytest.mark.parametrize("empty", [b"", b"null", b"[]", b"{}"])
def test_empty_json_is_absent_json(empty: bytes) -> None:
    out: list[bytes] = []
    prompt.add_json(out, prompt.TOOLS, empty)
    assert out == []


def test_token_ids_are_packed_little_endian() -> None:
    assert prompt.pack_tokens([1, 2**32 - 1]) == struct.pack("<2I", 1, 2**32 - 1)


@pytest.mark.parametrize("bad", [[-1], [2**32]])
def test_token_ids_outside_32_bits_are_refused(bad: list[int]) -> None:
    with pytest.raises(OverflowError):
        prompt.pack_tokens(bad)
