"""Which API a body looks like, for people who did not say: for hints, never for routing."""

from __future__ import annotations

from typing import Any

import msgspec

_ANTHROPIC_KEYS = frozenset({"system", "stop_sequences", "thinking"})
_ANTHROPIC_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking"})
_RESPONSES_KEYS = frozenset(
    {"instructions", "max_output_tokens", "previous_response_id", "reasoning", "store", "text", "include"}
)


def likely_paths(body: bytes) -> tuple[str, ...]:
    """Paths of the APIs that this body may be meant for, likeliest first; none where nothing tells."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    if not isinstance(request, dict):
        return ()
    if "messages" in request:
        return ("/v1/messages",) if _is_anthropic(request) else ("/v1/chat/completions",)
    if "prompt" in request:
        return ("/v1/completions",)
    if "documents" in request and "query" in request:
        return ("/v1/rerank",)
    if "input" in request:
        if _RESPONSES_KEYS & request.keys() or _has_items(request["input"]):
            return ("/v1/responses",)
        return ("/v1/responses", "/v1/embeddings")
    return ()


def _is_anthropic(request: dict[str, Any]) -> bool:
    if _ANTHROPIC_KEYS & request.keys():
        return True
    messages = request["messages"]
    return any(
        isinstance(block, dict) and block.get("type") in _ANTHROPIC_BLOCKS
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for block in message["content"]
    )


def _has_items(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)
