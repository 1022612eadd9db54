"""`cache_control` means what it means at Anthropic's: how many, for how long, in which order, looking back how far."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import parse
from warmroute.dialects.cache_asked import Asked
from warmroute.dialects.cache_control import read
from warmroute.dialects.messages import MessagesRequest
from warmroute.dialects.render import render_error

FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def text(said: str, mark: Any = None, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": said, **({} if mark is None else {"cache_control": mark})}


def asked(messages: list[Any] | None = None, **fields: Any) -> tuple[Asked | None, bytes]:
    if messages is None:
        messages = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": messages, **fields}).encode()
    parsed = parse(Api.MESSAGES, body)
    assert isinstance(parsed.request, MessagesRequest)
    return read(parsed.request, body), parsed.canonical


def prefixes(messages: list[Any] | None = None, **fields: Any) -> list[tuple[bytes, float]]:
    found, canonical = asked(messages, **fields)
    assert found is not None
    return [(canonical[: found.ends_bytes[p.at]], p.ttl_s) for p in found.breakpoints]


def refused(messages: list[Any] | None = None, **fields: Any) -> str:
    with pytest.raises(ClientError) as caught:
        asked(messages, **fields)
    assert caught.value.status == 400
    body = json.loads(render_error(Api.MESSAGES, caught.value, "id"))
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    return str(body["error"]["message"])


def test_a_request_that_marks_nothing_asks_for_nothing() -> None:
    assert asked()[0] is None
    assert asked([{"role": "user", "content": [text("Hi")]}], system=[text("Be brief.")])[0] is None
    assert asked(cache_control=None)[0] is None


def test_marks_on_tools_system_and_messages_are_ends_of_prefixes_in_that_order() -> None:
    tools = [
        {"name": "a", "input_schema": {"type": "object"}},
        {"name": "b", "input_schema": {"type": "object"}, "cache_control": HOUR},
        {"name": "c", "input_schema": {"type": "object"}},
    ]
    found = prefixes(
        [
            {"role": "user", "content": [text("First."), text("Second.", FIVE), text("Third.")]},
            {"role": "assistant", "content": "Yes."},
        ],
        tools=tools,
        system=[text("Be brief."), text("Be kind.", {"type": "ephemeral", "ttl": "5m"}), text("Be true.")],
    )
    assert [ttl_s for _, ttl_s in found] == [3600.0, 300.0, 300.0]
    ends = [prefix[-20:] for prefix, _ in found]
    assert ends[0].endswith(b'"ttl": "1h"}}')
    assert ends[1].endswith(b"Be kind.")
    assert ends[2].endswith(b"Second.")


def test_calls_and_results_end_where_the_engine_puts_them() -> None:
    found = prefixes(
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                    text("Looking."),
                    {"type": "tool_use", "id": "t1", "name": "w", "input": {"a": 1}, "cache_control": FIVE},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [text("12 degrees", FIVE)]},
                    text("And tomorrow?", FIVE),
                ],
            },
        ]
    )
    assert [prefix[-9:] for prefix, _ in found] == [b'a{"a": 1}', b"2 degrees", b"tomorrow?"]


def test_a_mark_at_top_level_marks_the_last_block_that_can_be() -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [text("Yes"), text("")]}]
    (found,) = prefixes(said, cache_control=HOUR)
    assert found[0].endswith(b"Yes")
    assert found[1] == 3600.0
    own = [{"role": "user", "content": [text("Hi", FIVE)]}]
    assert len(prefixes(own, cache_control=FIVE)) == 1
    assert "of its own" in refused(own, cache_control=HOUR)


def test_there_are_four_slots_and_the_automatic_one_takes_one() -> None:
    four = [{"role": "user", "content": [text(str(n), FIVE) for n in range(4)]}]
    assert len(prefixes(four)) == 4
    five = [{"role": "user", "content": [text(str(n), FIVE) for n in range(5)]}]
    assert refused(five) == "A maximum of 4 blocks with cache_control may be provided. Found 5."
    assert "Found 5" in refused([*four, {"role": "user", "content": "x"}], cache_control=FIVE)


def test_longer_lifetimes_come_first() -> None:
    assert len(prefixes([{"role": "user", "content": [text("a", HOUR), text("b", FIVE)]}])) == 2
    message = refused([{"role": "user", "content": [text("b", HOUR)]}], system=[text("a", FIVE)])
    assert message.startswith(
        "messages.0.content.0.cache_control.ttl: a ttl='1h' cache_control block must not"
    )
    assert "`tools`, `system`, `messages`" in message


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ({"type": "persistent"}, "type: Input should be 'ephemeral'"),
        ({}, "type: Field required"),
        ("ephemeral", "Input should be a valid dictionary"),
        ({"type": "ephemeral", "ttl": "2h"}, "ttl: Input should be '5m' or '1h'"),
        ({"type": "ephemeral", "ttl": 300}, "ttl: Input should be '5m' or '1h'"),
        ({"type": "ephemeral", "x": "y" * 5000}, "Input should be a valid dictionary"),
    ],
)
def test_marks_of_another_form_are_refused_with_their_place(mark: Any, said: str) -> None:
    message = refused([{"role": "user", "content": [text("a"), text("b", mark)]}])
    assert message.startswith("messages.0.content.1.cache_control")
    assert message.endswith(said)
    assert said in refused(cache_control=mark)


def test_what_cannot_be_cached_cannot_be_marked() -> None:
    assert "empty text blocks" in refused([{"role": "user", "content": [text("", FIVE)]}])
    thinking = [{"type": "thinking", "thinking": "Hm.", "signature": "s", "cache_control": FIVE}]
    assert "Extra inputs" in refused([{"role": "assistant", "content": thinking}])


def test_a_breakpoint_looks_back_over_twenty_blocks_and_a_run_of_calls_is_one() -> None:
    blocks = [text(f"part {number}.") for number in range(30)]
    blocks[-1]["cache_control"] = FIVE
    found, _ = asked([{"role": "user", "content": blocks}])
    assert found is not None
    (point,) = found.breakpoints
    assert (point.at, point.first) == (29, 10)
    calls = [{"type": "tool_use", "id": f"t{n}", "name": "w", "input": {}} for n in range(15)]
    results = [{"type": "tool_result", "tool_use_id": f"t{n}", "content": "ok"} for n in range(15)]
    found, _ = asked(
        [
            {"role": "user", "content": [text(f"part {number}.") for number in range(17)]},
            {"role": "assistant", "content": calls},
            {"role": "user", "content": results},
            {"role": "user", "content": [text("Now?", FIVE)]},
        ]
    )
    assert found is not None
    (point,) = found.breakpoints
    assert point.at == 17 + 15 + 15
    assert point.first == 0


def test_a_mark_before_which_there_is_nothing_asks_for_nothing() -> None:
    billing = text("x-anthropic-billing-header: cch=1", FIVE)
    found, _ = asked([{"role": "user", "content": "Hi"}], system=[billing, text("Be brief.")])
    assert found is not None
    assert not found.breakpoints
