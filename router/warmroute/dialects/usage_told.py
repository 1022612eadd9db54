"""Usage is told in the words of the provider whose interface was asked, from what the engine itself counted.

This module decides what is added to a usage report, in a whole answer or in the events of a stream. It makes no figure
up: `cache_write_tokens` is vLLM's `created_cache_tokens`, hits are its cached tokens, and of what it created only the
split by lifetime is an estimate. Where an engine does not tell, nothing is added. What is not a report stays as it is,
byte for byte; so does all that cannot be read.

Source: vLLM 0.32.0 (tests/golden/vllm): `/v1/messages` tells cached tokens in `message_delta` only, since it learns
them with the last of the engine's outputs.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from warmroute.core.types import Api

USAGE: Final = b'"usage":'
CREATED: Final = b"created_cache_tokens"
CREATION: Final = b"cache_creation_input_tokens"
"""What engines call the tokens that they put into their caches."""
_WRITTEN: Final = re.compile(rb'(?<!\\)"(?:%b|%b)"\s*:\s*(\d{1,15})' % (CREATED, CREATION))
"""The last one counts, as with all that is read of usage (`usage`)."""
_DATA: Final = b"data:"
_Fields = dict[str, msgspec.Raw]
_decode_fields: Final = msgspec.json.Decoder(_Fields).decode
_decode_usage: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder().encode
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)


def written_for_an_hour(prompt_tokens: int, read: int, written: int, hour_ratio: float) -> int:
    """How many of the written tokens are to be kept for an hour, where this part of the prompt is."""
    return min(max(round(prompt_tokens * hour_ratio) - read, 0), written)


def written_tokens(seen: bytes, prompt_tokens: int, cached_tokens: int, hour_ratio: float) -> tuple[int, int]:
    """Prompt tokens that an engine says it put into its cache, in any API's words, and how many of them for an hour.

    Args:
        seen: The end of an answer, with its usage.
    """
    found = _WRITTEN.findall(seen)
    written = min(int(found[-1]), max(prompt_tokens - cached_tokens, 0)) if found else 0
    return written, written_for_an_hour(prompt_tokens, cached_tokens, written, hour_ratio)


class UsageTold:
    """What one answer's usage is to say besides. Holds no state of a stream: every event stands for itself."""

    __slots__ = ("_api", "_openai", "deepseek", "hour_ratio", "prewarms")

    def __init__(
        self,
        api: Api,
        *,
        openai: bool = False,
        deepseek: bool = False,
        hour_ratio: float = 0.0,
        prewarms: bool = False,
    ) -> None:
        """Args:
        openai: Tell `cache_write_tokens`.
        deepseek: Tell `prompt_cache_hit_tokens` and `prompt_cache_miss_tokens`.
        hour_ratio: Part of the prompt, from its start, that is to be kept for an hour (`Api.MESSAGES`).
        prewarms: The answer is to be none: nothing was asked for but that the prompt is computed.
        """
        self._api = api
        self._openai = openai
        self.deepseek = deepseek
        self.hour_ratio = hour_ratio
        self.prewarms = prewarms

    def whole(self, body: bytes) -> bytes:
        """A whole answer as the client gets it."""
        if body.find(USAGE) < 0 and not self.prewarms:
            return body
        try:
            fields = _decode_fields(body)
            changed = self._change_usage(fields, last=True)
        except _UNREADABLE:
            return body
        if self.prewarms and "content" in fields:
            fields |= {
                "content": msgspec.Raw(b"[]"),
                "stop_reason": msgspec.Raw(b'"max_tokens"'),
                "stop_sequence": msgspec.Raw(b"null"),
            }
            changed = True
        return _encode(fields) if changed else body

    def events(self, events: bytes) -> bytes:
        """Events of a stream as the client gets them; of one that comes in parts, any part."""
        if events.find(USAGE) < 0:
            return events
        lines = events.splitlines(keepends=True)
        for index, line in enumerate(lines):
            if line[:5] == _DATA and USAGE in line:
                lines[index] = self._line(line)
        return b"".join(lines)

    def _line(self, line: bytes) -> bytes:
        data = line[5:].strip()
        try:
            fields = _decode_fields(data)
            message = fields.get("message")
            if message is not None and self._api is Api.MESSAGES:
                inner = _decode_fields(message)
                changed = self._change_usage(inner, last=False)
                fields["message"] = msgspec.Raw(_encode(inner))
            else:
                changed = self._change_usage(fields, last=True)
        except _UNREADABLE:
            return line
        if not changed:
            return line
        begin = line.index(data)
        return line[:begin] + _encode(fields) + line[begin + len(data) :]

    def _change_usage(self, fields: _Fields, *, last: bool) -> bool:
        """Whether there is a usage and it was changed. `last`: what the engine does not tell here it never tells."""
        raw = fields.get("usage")
        if raw is None or bytes(raw)[:1] != b"{":
            return False
        usage = _decode_usage(raw)
        changed = self._message(usage, last) if self._api is Api.MESSAGES else self._chat(usage)
        if changed:
            fields["usage"] = msgspec.Raw(_encode(usage))
        return changed

    def _chat(self, usage: dict[str, Any]) -> bool:
        details = usage.get("prompt_tokens_details")
        if not isinstance(details, dict):
            return False
        changed = False
        created = details.get("created_cache_tokens")
        if self._openai and isinstance(created, int) and "cache_write_tokens" not in details:
            details["cache_write_tokens"] = created
            changed = True
        cached, prompt = details.get("cached_tokens"), usage.get("prompt_tokens")
        if self.deepseek and isinstance(cached, int) and isinstance(prompt, int):
            usage["prompt_cache_hit_tokens"] = cached
            usage["prompt_cache_miss_tokens"] = max(prompt - cached, 0)
            changed = True
        return changed

    def _message(self, usage: dict[str, Any], last: bool) -> bool:
        if self.prewarms:
            usage["output_tokens"] = 0
        read = usage.get("cache_read_input_tokens")
        if not isinstance(read, int):
            if last:
                return self.prewarms
            # As Anthropic's clients expect the fields; what they are is told with `message_delta`.
            usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
            return True
        created = usage.get("cache_creation_input_tokens")
        if not isinstance(created, int):
            created = usage["cache_creation_input_tokens"] = 0
        rest = usage.get("input_tokens")
        total = read + created + (rest if isinstance(rest, int) else 0)
        hour = written_for_an_hour(total, read, created, self.hour_ratio)
        usage["cache_creation"] = {
            "ephemeral_5m_input_tokens": created - hour,
            "ephemeral_1h_input_tokens": hour,
        }
        return True
