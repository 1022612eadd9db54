"""Whether an answer is whole and good, so that it may be given again: judged by its own words, for each API.

Decides that from the bytes that a client was sent. A stream must have its terminal event and a reason for the end of
each of its choices, and no error; an answer that was cut, filtered or aborted is none.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from warmroute.core.types import Api
from warmroute.dialects.sse import end_of_event

Json = dict[str, Any]

_MESSAGES: Final = Api.MESSAGES
_RESPONSES: Final = Api.RESPONSES

ENDS: Final = frozenset(("stop", "length", "tool_calls", "function_call"))
"""Reasons with which a choice has ended by itself, or by a limit that its request names."""
MESSAGE_ENDS: Final = frozenset(("end_turn", "stop_sequence", "tool_use", "max_tokens"))

_decode: Final = msgspec.json.Decoder().decode


def is_complete(api: Api, body: bytes, *, stream: bool) -> bool:
    """Whether this is such an answer; nothing is raised whatever it holds."""
    try:
        if stream:
            return _stream(api, body)
        answer = _decode(body)
        return isinstance(answer, dict) and _whole(api, answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


def events_of(body: bytes) -> list[bytes]:
    """Its events, each with its end; what is behind the last end is one, too."""
    found = []
    at = 0
    while at < len(body):
        end = end_of_event(body, at)
        if end < 0:
            end = len(body)
        found.append(body[at:end])
        at = end
    return found


def _whole(api: Api, answer: Json) -> bool:
    if answer.get("error") is not None:
        return False
    if api is _MESSAGES:
        return answer.get("type") == "message" and _in(answer.get("stop_reason"), MESSAGE_ENDS)
    if api is _RESPONSES:
        return _response(answer)
    choices = answer.get("choices")
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(isinstance(one, dict) and _in(one.get("finish_reason"), ENDS) for one in choices)
    )


def _in(value: Any, known: frozenset[str]) -> bool:
    return isinstance(value, str) and value in known


def _response(response: Any) -> bool:
    if not isinstance(response, dict) or response.get("error") is not None:
        return False
    if response.get("status") == "completed":
        return True
    details = response.get("incomplete_details")
    return (
        response.get("status") == "incomplete"
        and isinstance(details, dict)
        and details.get("reason") == "max_output_tokens"
    )


def _stream(api: Api, body: bytes) -> bool:
    ended: dict[Any, bool] = {}
    over = False
    for event in events_of(body):
        data = _data(event)
        if not data:
            continue
        if over:
            # vLLM sends one behind the API's own end, too.
            return data == b"[DONE]" and (api is _RESPONSES or api is _MESSAGES) and _good(ended)
        if data == b"[DONE]":
            over = True
            continue
        said = _decode(data)
        if not isinstance(said, dict) or said.get("error") is not None or said.get("type") == "error":
            return False
        if api is _MESSAGES:
            kind = said.get("type")
            if kind == "message_delta":
                delta = said.get("delta")
                ended[0] = isinstance(delta, dict) and _in(delta.get("stop_reason"), MESSAGE_ENDS)
            over = kind == "message_stop"
        elif api is _RESPONSES:
            if said.get("type") in ("response.completed", "response.incomplete", "response.failed"):
                ended[0] = _response(said.get("response"))
                over = True
        elif not _note_choices(said, ended):
            return False
    return over and _good(ended)


def _good(ended: dict[Any, bool]) -> bool:
    return bool(ended) and all(ended.values())


def _note_choices(said: Json, ended: dict[Any, bool]) -> bool:
    choices = said.get("choices")
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict) or not isinstance(choice.get("index"), int):
            return False
        reason = choice.get("finish_reason")
        if reason is not None:
            ended[choice["index"]] = _in(reason, ENDS)
        else:
            ended.setdefault(choice["index"], False)
    return True


def _data(event: bytes) -> bytes:
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)
