"""Lists of models: the default one, and Anthropic's form."""

from __future__ import annotations

from typing import Any

import pytest

from warmroute.dialects.model_list import anthropic_list, anthropic_model, default_model


@pytest.mark.parametrize(
    ("cards", "model"),
    [
        ({}, ""),
        ({"m": {"id": "m", "root": "/m", "parent": None}}, "m"),
        ({"m": "no card at all"}, "m"),
        ({"m": {"root": "/m"}, "sql": {"root": "/l", "parent": "m"}}, "m"),
        ({"b": {"root": "/m"}, "a": {"root": "/m"}}, "b"),
        ({"a": {"root": "/a"}, "b": {"root": "/b"}}, None),
        ({"a": {}, "b": {}}, None),
    ],
)
def test_no_model_means_the_one_base_model(cards: dict[str, Any], model: str | None) -> None:
    assert default_model(cards) == model


def test_a_model_as_anthropics_clients_expect_it() -> None:
    assert anthropic_model("org/m", {"created": 1_700_000_000}) == {
        "type": "model",
        "id": "org/m",
        "display_name": "org/m",
        "created_at": "2023-11-14T22:13:20Z",
    }
    for created in (None, "x", 10**30, -(10**30)):
        assert anthropic_model("m", {"created": created})["created_at"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("query", "names", "more"),
    [
        (b"", "abcde", False),
        (b"limit=1000", "abcde", False),
        (b"limit=2", "ab", True),
        (b"limit=2&after_id=b", "cd", True),
        (b"limit=2&after_id=d", "e", False),
        (b"limit=2&before_id=d", "bc", True),
        (b"limit=x&after_id=nobody", "abcde", False),
        (b"after_id=e", "", False),
    ],
)
def test_pages(query: bytes, names: str, more: bool) -> None:
    page = anthropic_list({name: {} for name in "abcde"}, query)
    assert [model["id"] for model in page["data"]] == list(names)  # type: ignore[index, attr-defined]
    assert page["has_more"] is more
    assert (page["first_id"], page["last_id"]) == ((names[0], names[-1]) if names else (None, None))
