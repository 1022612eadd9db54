"""Bodies that the strict readers refuse are read as far as they can be, and judged by nobody but the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import Parsed, invoked_api, lax, parse

SAID = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> Parsed:
    return parse(Api.CHAT, json.dumps({"model": "m", "messages": SAID, **fields}).encode())


@pytest.mark.parametrize(
    "field",
    [
        {"max_tokens": "64"},
        {"stream": "true"},
        {"stream": 0},
        {"stream": [1]},
        {"session_id": 4711},
        {"prompt_cache_key": 1.5},
        {"metadata": 5},
        {"stream_options": "x"},
        {"temperature": float("nan")},
        {"seed": 10**400},
        {"cache_salt": None},
    ],
)
def test_fields_of_another_type_leave_the_prompt_as_it_is(field: dict[str, Any]) -> None:
    parsed = chat(**field)
    assert parsed.model == "m"
    assert parsed.canonical == chat().canonical
    assert not parsed.may_ask_usage


def test_what_pydantic_converts_is_converted() -> None:
    assert chat(stream="true").stream
    assert not chat(stream="false").stream
    assert chat(truncate_prompt_tokens="7").canonical == chat(truncate_prompt_tokens=7).canonical


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
    ],
)
def test_other_encodings_of_the_same_text_have_the_same_prompt(encode: Any) -> None:
    text = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Grüß"}], "tools": [{"a": 1}]})
    parsed = parse(Api.CHAT, encode(text))
    assert (parsed.model, parsed.canonical) == ("m", parse(Api.CHAT, text.encode()).canonical)


def test_a_message_that_cannot_be_read_counts_as_sent_and_the_others_as_ever() -> None:
    odd = {"role": "assistant", "content": "x", "reasoning_content": ["a"]}
    parsed = chat(messages=[*SAID, odd, *SAID])
    assert parsed.canonical.startswith(chat().canonical)
    other = chat(messages=[*SAID, {**odd, "reasoning_content": ["b"]}, *SAID])
    assert other.canonical != parsed.canonical
    assert chat(messages=[*SAID, odd, *SAID]).canonical == parsed.canonical


def test_an_item_and_a_block_that_cannot_be_read_count_as_sent() -> None:
    def items(value: Any) -> bytes:
        body = {"model": "m", "input": [{"role": "user", "content": "a"}, {"type": "message", "role": value}]}
        return parse(Api.RESPONSES, json.dumps(body).encode()).canonical

    def blocks(value: Any) -> bytes:
        body = {"model": "m", "messages": [*SAID, {"role": "user", "content": [{"text": value}]}]}
        return parse(Api.MESSAGES, json.dumps(body).encode()).canonical

    assert len({items(1), items(2), items(3)}) == 3
    assert len({blocks("a"), blocks("b")}) == 2
    assert blocks("a").startswith(b"\xffmuser\xfftHello")


def test_a_part_of_the_prompt_that_cannot_be_read_still_tells_prompts_apart() -> None:
    def system(value: Any) -> Parsed:
        return parse(Api.MESSAGES, json.dumps({"model": "m", "messages": SAID, "system": value}).encode())

    one, two = system({"a": 1}), system({"a": 2})
    assert one.canonical != two.canonical
    assert one.canonical == system({"a": 1}).canonical
    assert one.prompt_bytes == len(one.canonical)


@pytest.mark.parametrize(
    ("api", "field"),
    [
        (Api.CHAT, "messages"),
        (Api.COMPLETIONS, "prompt"),
        (Api.MESSAGES, "messages"),
        (Api.RESPONSES, "input"),
    ],
)
@pytest.mark.parametrize("body", ["[]", '"text"', "5", "null", '{"model": "m", "FIELD": 5}'])
def test_what_no_prompt_can_be_read_from_has_none(api: Api, field: str, body: str) -> None:
    parsed = parse(api, body.replace("FIELD", field).encode())
    assert parsed.canonical == b""
    assert parsed.model == ("m" if "model" in body else "")


def test_only_json_is_asked_for() -> None:
    for body in (
        b"{",
        b"nope",
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b"[" * 100_000,
    ):
        with pytest.raises(ClientError) as caught:
            parse(Api.CHAT, body)
        assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_very_long_body_is_read_for_its_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lax, "LAX_BYTES", 100)
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 200}], "stream": "yes"}
    assert parse(Api.CHAT, json.dumps(body).encode()).model == "m"
    assert parse(Api.CHAT, json.dumps(body).encode()).canonical == b""
    assert parse(Api.CHAT, json.dumps(body).encode("utf-16")).model == ""


@pytest.mark.parametrize(
    ("body", "api"),
    [
        ({"messages": SAID}, Api.CHAT),
        ({"prompt": "a"}, Api.COMPLETIONS),
        ({"input": "a"}, Api.OTHER),
        ([1], Api.OTHER),
    ],
)
def test_an_invocation_is_for_the_api_that_its_body_fits(body: Any, api: Api) -> None:
    assert invoked_api(json.dumps(body).encode()) is api
    assert invoked_api(json.dumps(body).encode("utf-16")) is api


def test_half_a_surrogate_anywhere_leaves_what_says_where_a_request_goes_and_how() -> None:
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","\\ud800":"x"}]}'
    parsed = parse(Api.CHAT, body)
    assert (parsed.model, parsed.stream, parsed.canonical) == ("m", True, b"")


@pytest.mark.parametrize(
    "body", [b"\x002\x00\x00", "{}\0".encode("utf-16-be"), '{"model":"m"}\0'.encode("utf-16")]
)
def test_text_is_decoded_once(body: bytes) -> None:
    """What follows the value is not taken for a byte of another encoding, of what was decoded already."""
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    with pytest.raises(ClientError, match="not valid JSON"):
        parse(Api.CHAT, body)
