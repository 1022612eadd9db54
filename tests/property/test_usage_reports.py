"""Usage reports read where they stand, against the reader of reports in full."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.types import Api
from warmroute.dialects.usage import MOST_TOKENS, Usage, believed, find_usage
from warmroute.dialects.usage_report import read_report

COUNTS = st.integers(-300, 10**30) | st.integers(0, MOST_TOKENS) | st.integers(0, 300)
DETAILS = st.none() | st.fixed_dictionaries({"cached_tokens": COUNTS | st.none()}, optional={"more": COUNTS})
NAMES = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
REPORTS = st.fixed_dictionaries(
    {"prompt_tokens": COUNTS, "completion_tokens": COUNTS},
    optional={"total_tokens": COUNTS, "prompt_tokens_details": DETAILS, "other": COUNTS},
)


@given(
    REPORTS.flatmap(lambda report: st.permutations(list(report.items())).map(dict)),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.integers(0, 300),
)
def test_any_order_of_keys_and_any_cut_reads_as_in_full(
    report: dict[str, Any], separators: tuple[str, str], kept_bytes: int
) -> None:
    body = json.dumps({"id": "x", "usage": report}, separators=separators).encode()
    for data in (body, body[:kept_bytes]):
        counts = read_report(Api.CHAT, data)
        in_full = None if counts is None else believed(Usage(*counts))
        found = find_usage(Api.CHAT, data)
        if found != in_full:
            # What is told of the prompt is complete before the report is: that much may be known earlier.
            assert in_full is None
            assert found is not None
            assert data != body
            assert found.prompt_tokens == report["prompt_tokens"]


@given(st.sampled_from(list(Api)), st.dictionaries(st.sampled_from(NAMES), COUNTS | DETAILS | st.none()))
def test_whatever_is_reported_no_figure_is_negative_or_beyond_belief(
    api: Api, report: dict[str, Any]
) -> None:
    usage = find_usage(api, json.dumps({"usage": report}, separators=(",", ":")).encode())
    if usage is not None:
        assert 0 <= usage.prompt_tokens <= MOST_TOKENS
        assert 0 <= usage.completion_tokens <= MOST_TOKENS
        assert usage.cached_tokens is None or 0 <= usage.cached_tokens <= usage.prompt_tokens
