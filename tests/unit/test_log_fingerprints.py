"""What the access log says of prompts: which share how much, under a key, and nothing else."""

from __future__ import annotations

import json

from warmroute.core.prompt.fingerprint import GRID, Fingerprinter
from warmroute.core.types import RequestShape
from warmroute.telemetry.log_fingerprints import LogFingerprints

SECRET = b"a secret of sixteen bytes"


def shape(canonical: bytes, session: str | None = None) -> RequestShape:
    return Fingerprinter(SECRET).shape("m", "", canonical, session)


def members(of: RequestShape, secret: bytes = SECRET) -> dict[str, str | int | None]:
    text = LogFingerprints(secret).members(of)
    assert text.startswith(b",")
    read: dict[str, str | int | None] = json.loads(b"{" + text[1:] + b"}")
    return read


def rungs(of: RequestShape, secret: bytes = SECRET) -> list[str]:
    digits = str(members(of, secret)["rungs"])
    return [digits[at : at + 16] for at in range(0, len(digits), 16)]


def test_prompts_that_share_rungs_share_them_in_the_log_and_no_more() -> None:
    one, other = shape(b"a" * 2048 + b"b" * 2048), shape(b"a" * 2048 + b"c" * 2048)
    assert [x == y for x, y in zip(rungs(one), rungs(other), strict=True)] == [True] * 4 + [False] * 4
    assert len(set(rungs(one))) == 8


def test_nothing_of_the_prompt_or_of_the_routers_own_hashes_is_in_the_log() -> None:
    asked = shape(b"my secret prompt " * 100, "my session")
    text = LogFingerprints(SECRET).members(asked)
    assert b"secret" not in text
    assert b"session 1" not in text
    for rung in [*asked.rungs, asked.ring_key, asked.head_key]:
        for form in (f"{rung:016x}", rung.to_bytes(8, "little").hex(), str(rung)):
            assert form.encode() not in text


def test_another_secret_gives_fingerprints_that_cannot_be_compared() -> None:
    asked = shape(b"a" * 4096)
    assert not set(rungs(asked)) & set(rungs(asked, b"another secret of a deployment"))


def test_sessions_are_told_apart_without_their_names() -> None:
    ids = [members(shape(b"x" * 600, name))["session"] for name in ("one", "two", "one", None)]
    assert ids[0] == ids[2] != ids[1]
    assert ids[3] is None
    assert len(str(ids[0])) == 16


def test_the_longest_prompt_adds_less_than_two_kilobytes() -> None:
    longest = RequestShape("m", list(range(1, len(GRID) + 1)), GRID[-1], 1, 1, 2)  # type: ignore[arg-type]
    assert len(LogFingerprints(SECRET).members(longest)) < 1900


def test_a_request_without_a_prompt_has_no_rungs() -> None:
    assert members(RequestShape("m")) == {"prompt_bytes": 0, "session": None, "rungs": ""}
