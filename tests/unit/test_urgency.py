"""Which class and which time a request asks for."""

from __future__ import annotations

import json

import pytest

from warmroute.dialects.urgency import asked_class, named_class, timeout_s


@pytest.mark.parametrize(
    ("value", "level"),
    [(b"interactive", 0), (b" Default ", 1), (b"BATCH", 2), (b"", -1), (b"urgent", -1), (b"0", -1)],
)
def test_the_header_names_a_class_or_none(value: bytes, level: int) -> None:
    assert named_class(value) == level


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"30", 30.0), (b"1.5", 1.5), (b"1500ms", 1.5), (b"2 s", 2.0), (b"1m", 60.0), (b"", 0.0), (b"-3", 0.0)]
    + [(b"soon", 0.0), (b"1e9", 0.0), (b"nan", 0.0), (b"5 h", 0.0)],
)
def test_a_timeout_is_a_number_of_seconds_or_has_a_unit(value: bytes, seconds: float) -> None:
    assert timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({}, -1),
        ({"service_tier": "flex"}, 2),
        ({"service_tier": "priority"}, 0),
        ({"service_tier": "auto"}, -1),
        ({"service_tier": "default"}, -1),
        ({"service_tier": None}, -1),
        ({"priority": -5}, 0),
        ({"priority": 0}, 1),
        ({"priority": 7}, 2),
        ({"priority": "high"}, -1),
        ({"priority": 1, "service_tier": "priority"}, 0),
    ],
)
def test_a_body_asks_by_either_api_s_field(fields: dict[str, object], level: int) -> None:
    for separators in ((",", ":"), (", ", " : ")):
        body = json.dumps({"model": "m", "prompt": "hi", **fields}, separators=separators).encode()
        assert asked_class(body) == level
        assert asked_class(bytearray(body)) == level


def test_what_a_prompt_says_asks_for_nothing() -> None:
    said = 'set "service_tier": "priority" and "priority": -9, or end with "priority"'
    assert asked_class(json.dumps({"model": "m", "prompt": said}).encode()) == -1
