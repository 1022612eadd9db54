"""`cache_control` is how Anthropic's clients mark the ends of prefixes that are to be cached.

This module decides which marks are right and which blocks they mean, as Anthropic does: up to 4 of them, 5 minutes or 1
hour, longer ones first (in the order tools, system, messages), each looking back over 20 blocks. A mark at top level
means the last block that can be marked. Minimum lengths are not decided here: they are settings, and in tokens.

Source: docs of Anthropic's prompt caching and the field notes of anthropic 2.12.
"""

from __future__ import annotations

from typing import Final

import msgspec

from warmroute.core.errors import ClientError
from warmroute.dialects.cache_asked import Asked, Breakpoint, decoded
from warmroute.dialects.fields import ABSENT
from warmroute.dialects.messages import MessagesRequest
from warmroute.dialects.prompt_blocks import Body, PromptBlock, marked, marks_messages, of_messages

MOST_BREAKPOINTS: Final = 4
LOOKBACK_BLOCKS: Final = 20
"""How many blocks a breakpoint looks back over, its own included; a run of calls, or of their results, is one."""

TTL_S: Final = {"5m": 300.0, "1h": 3600.0}
DEFAULT_TTL: Final = "5m"


class _Output(msgspec.Struct, gc=False):
    format: msgspec.Raw = ABSENT


class _Answer(msgspec.Struct, gc=False):
    tool_choice: msgspec.Raw = ABSENT
    output_config: _Output | None = None


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode

_UNMARKABLE: Final = frozenset(("thinking", "redacted_thinking"))
_RUNS: Final = frozenset(("tool_use", "tool_result"))


def refusal(message: str, param: str | None = None) -> ClientError:
    """What Anthropic's API refuses, too."""
    return ClientError(message, code="invalid_cache_control", param=param)


def read(request: MessagesRequest, body: Body) -> Asked | None:
    """What a request asks for; None: it marks nothing.

    Raises:
        ClientError: 400, for marks that Anthropic's API refuses.
    """
    if not marks_messages(request):
        return None
    try:
        blocks = of_messages(request, body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # the engine judges it
    marks: dict[int, str] = {}
    for index, block in enumerate(blocks):
        if marked(block.mark):
            marks[index] = _ttl(block)
    if marked(request.cache_control):
        _add_automatic(blocks, marks, _ttl_of(request.cache_control, "cache_control"))
    if len(marks) > MOST_BREAKPOINTS:
        raise refusal(
            f"A maximum of {MOST_BREAKPOINTS} blocks with cache_control may be provided. Found {len(marks)}."
        )
    ordered = sorted(marks.items())
    for (_, before), (index, after) in zip(ordered, ordered[1:], strict=False):
        if TTL_S[after] > TTL_S[before]:
            raise refusal(
                f"{blocks[index].path}.cache_control.ttl: a ttl='{after}' cache_control block must not come after a"
                f" ttl='{before}' cache_control block. Note that blocks are processed in the following order:"
                " `tools`, `system`, `messages`."
            )
    return _asked(blocks, ordered)


def prewarms(request: MessagesRequest, body: Body) -> bool:
    """Whether a request wants no answer, but that its prompt is computed.

    Raises:
        ClientError: 400, where Anthropic's API does not let both be asked for.
    """
    if bytes(request.max_tokens) != b"0":
        return False
    try:
        asked = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False  # the engine judges it
    if request.stream:
        raise refusal("max_tokens: 0 is not supported with `stream: true`", "max_tokens")
    if request.thinking is not None and request.thinking.type == "enabled":
        raise refusal("max_tokens: 0 is not supported with `thinking.type: enabled`", "max_tokens")
    if marked(asked.tool_choice):
        choice = decoded(asked.tool_choice)
        if isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
            raise refusal(
                "max_tokens: 0 is not supported with a tool_choice that forces a tool", "max_tokens"
            )
    if asked.output_config is not None and marked(asked.output_config.format):
        raise refusal("max_tokens: 0 is not supported with `output_config.format`", "max_tokens")
    return True


def with_one_token(body: bytes | bytearray) -> bytes | bytearray:
    """The body with a `max_tokens` that engines take: of two equal keys they take the last (`tenants.salts`).

    Raises:
        ClientError: It does not end as an object does.
    """
    end = body.rfind(b"}")
    if end < 0 or body[end + 1 :].strip():
        raise ClientError("the body must be a JSON object", code="invalid_json")
    return body[:end] + b',"max_tokens":1}'


def _asked(blocks: list[PromptBlock], marks: list[tuple[int, str]]) -> Asked:
    ends: list[int] = []
    place: list[int] = []
    numbers: list[int] = []
    number = 0
    before = ""
    for block in blocks:
        if block.end_bytes > (ends[-1] if ends else 0):
            ends.append(block.end_bytes)
        place.append(len(ends) - 1)
        if not (block.kind in _RUNS and block.kind == before):
            number += 1
        numbers.append(number)
        before = block.kind
    points: dict[int, Breakpoint] = {}
    for index, ttl in marks:
        if place[index] < 0:
            continue  # nothing is there yet
        first = index
        while first > 0 and numbers[first - 1] > numbers[index] - LOOKBACK_BLOCKS:
            first -= 1
        at = place[index]
        known = points.get(at)
        ttl_s = TTL_S[ttl] if known is None else max(known.ttl_s, TTL_S[ttl])
        points[at] = Breakpoint(at, max(place[first], 0), ttl_s, blocks[index].path)
    return Asked(ends, list(points.values()))


def _add_automatic(blocks: list[PromptBlock], marks: dict[int, str], ttl: str) -> None:
    """Mark the last block that can be, as one mark at top level means."""
    for index in range(len(blocks) - 1, -1, -1):
        block = blocks[index]
        if block.kind in _UNMARKABLE or block.empty:
            continue
        own = marks.get(index)
        if own is None:
            marks[index] = ttl
        elif own != ttl:
            raise refusal(
                f"cache_control.ttl: the last block has a cache_control of ttl='{own}' of its own; make both the same,"
                " or leave one out"
            )
        return


def _ttl(block: PromptBlock) -> str:
    path = f"{block.path}.cache_control"
    if block.kind in _UNMARKABLE:
        raise refusal(f"{path}: Extra inputs are not permitted")
    ttl = _ttl_of(block.mark, path)
    if block.empty:
        raise refusal(f"{path}: cache_control cannot be set for empty text blocks")
    return ttl


def _ttl_of(mark: msgspec.Raw, path: str) -> str:
    value = decoded(mark)
    if not isinstance(value, dict):
        raise refusal(f"{path}: Input should be a valid dictionary")
    if "type" not in value:
        raise refusal(f"{path}.type: Field required")
    if value["type"] != "ephemeral":
        raise refusal(f"{path}.type: Input should be 'ephemeral'")
    ttl = value.get("ttl")
    if ttl is None:
        return DEFAULT_TTL
    if ttl not in ("5m", "1h"):
        raise refusal(f"{path}.ephemeral.ttl: Input should be '5m' or '1h'")
    return str(ttl)
