"""What a request of the router's own makes of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.dataplane.own_requests import _prefilled


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, (9, 4)),
        ({"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}, (9, 4)),
        ({"prompt_tokens": -9}, (0, None)),
        ({"prompt_tokens": 10**30}, (0, None)),
        ({"prompt_tokens": True}, (0, None)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 99}}, (9, 9)),
    ],
)
def test_only_figures_that_can_be_true_are_taken(
    usage: dict[str, Any], found: tuple[int, int | None]
) -> None:
    prefilled = _prefilled(200, json.dumps({"usage": usage}).encode())
    assert (prefilled.status, prefilled.prompt_tokens, prefilled.cached_tokens) == (200, *found)
