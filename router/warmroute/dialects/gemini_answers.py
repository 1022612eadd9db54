"""A chat answer becomes the answer of Google's `generateContent` here, whole or event by event, and errors theirs.

Decides what each field of an answer is called there. It reads nothing of requests. What an engine does not tell is left
out rather than made up: `cachedContentTokenCount` is what the engine found in its cache, not what was to be there.

Calls of functions come in pieces in a chat stream and whole in Google's, so they are collected until the answer's end;
text passes at once. Source: google-genai 1.x `types.GenerateContentResponse`; vLLM 0.32.0 (tests/golden/vllm).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from warmroute.dialects.sse import end_of_event

Json = dict[str, Any]

_FINISHES: Final = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "function_call": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
MOST_EVENT_BYTES: Final = 8 << 20
"""A longer event of an engine is taken for none: what is kept of a stream stays bounded."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def error_body(status: int, message: str, reason: str = "") -> bytes:
    """An error as Google's API answers it; `reason` is our own stable code."""
    error: Json = {
        "code": status,
        "message": message,
        "status": _STATUSES.get(status) or ("INVALID_ARGUMENT" if status < 500 else "INTERNAL"),
    }
    if reason:
        error["details"] = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason.upper(),
                "domain": "warmroute",
            }
        ]
    return _encode({"error": error})


def translated_error(status: int, body: bytes) -> bytes:
    """An error of the router's own, or of an engine, in Google's form."""
    message, code = _told(body)
    return error_body(status, message or f"the replica answered {status}", code)


def _told(body: bytes) -> tuple[str, str]:
    """Message and code of an error in OpenAI's form, or in one of those that engines use."""
    try:
        found = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return body[:500].decode("utf-8", "replace"), ""
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, str):
        return error, ""
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message") or error.get("detail")
    code = error.get("code")
    return (
        message if isinstance(message, str) else _encode(message).decode() if message else "",
        code if isinstance(code, str) else "",
    )


def whole(body: bytes, *, thoughts: bool) -> bytes | None:
    """A whole answer; None: the engine's is none."""
    chat = _object(body)
    if chat is None or not isinstance(chat.get("choices"), list):
        return None
    candidates = []
    for position, choice in enumerate(_dicts(chat["choices"])):
        said = _Said()
        said.add(_dict(choice.get("message")), thoughts=thoughts)
        candidates.append(said.candidate(_index(choice, position), choice.get("finish_reason")))
    return _encode(_response(chat, candidates, chat.get("usage")))


def counted(body: bytes) -> bytes | None:
    """The answer to `countTokens`, from that of `/tokenize`."""
    found = _object(body)
    if found is None or not isinstance(found.get("count"), int):
        return None
    return _encode({"totalTokens": found["count"]})


class Stream:
    """Events of one chat stream, translated as they come. Feed bytes split anywhere.

    Args:
        sse: Events are written; else the items of a JSON array.
        thoughts: Whether the client wants to see what the model thought.
    """

    def __init__(self, *, sse: bool, thoughts: bool) -> None:
        self._sse = sse
        self._thoughts = thoughts
        self._kept = b""
        self._said: dict[int, _Said] = {}
        self._finished: dict[int, object] = {}
        self._last: Json = {}
        self._usage: Any = None
        self._begun = False
        self._over = False

    def feed(self, data: bytes) -> bytes:
        """What there is to be written now."""
        kept = self._kept + data
        out = []
        start = 0
        while True:
            end = end_of_event(kept, start)
            if end < 0:
                break
            out.append(self._event(kept[start:end]))
            start = end
        self._kept = kept[start:] if len(kept) - start <= MOST_EVENT_BYTES else b""
        return b"".join(out)

    def end(self) -> bytes:
        """The stream is over: what is left, and the end of the array."""
        out = self._event(self._kept) if self._kept.strip() else b""
        self._kept = b""
        out += self._finish()
        if not self._sse:
            out += b"]" if self._begun else b"[]"
        return out

    def _event(self, event: bytes) -> bytes:
        data = b"\n".join(
            [
                line[5:].removeprefix(b" ")
                for line in event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
                if line.startswith(b"data:")
            ]
        )
        if not data:
            return b""
        if data == b"[DONE]":
            return self._finish()
        chunk = _object(data)
        if chunk is None:
            return b""
        if "error" in chunk and not chunk.get("choices"):
            self._over = True
            error = chunk["error"]
            status = error.get("code") if isinstance(error, dict) else None
            code = status if isinstance(status, int) and 400 <= status < 600 else 502
            return self._item(translated_error(code, data))
        if not isinstance(chunk.get("choices"), list) or self._over:
            return b""
        return self._chunk(chunk)

    def _chunk(self, chunk: Json) -> bytes:
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        self._last = chunk
        candidates = []
        for position, choice in enumerate(_dicts(chunk["choices"])):
            index = _index(choice, position)
            said = self._said.setdefault(index, _Said())
            said.add(_dict(choice.get("delta")), thoughts=self._thoughts)
            if choice.get("finish_reason") is not None:
                self._finished[index] = choice["finish_reason"]
            elif said.parts:
                candidates.append(said.candidate(index, None, partly=True))
        if not candidates:
            return b""
        return self._item(_encode(_response(chunk, candidates, None)))

    def _finish(self) -> bytes:
        """The last item: what the end tells, once for all answers of the stream."""
        if self._over or not self._said:
            return b""
        self._over = True
        candidates = [
            said.candidate(index, self._finished.get(index)) for index, said in sorted(self._said.items())
        ]
        return self._item(_encode(_response(self._last, candidates, self._usage)))

    def _item(self, item: bytes) -> bytes:
        if self._sse:
            return b"data: " + item + b"\r\n\r\n"
        begun, self._begun = self._begun, True
        return (b",\r\n" if begun else b"[") + item


class _Said:
    """What one answer has said and nobody was told yet."""

    def __init__(self) -> None:
        self.parts: list[Json] = []
        self._calls: dict[int, list[str]] = {}
        """Id, name and arguments so far, of each call."""

    def add(self, message: Json, *, thoughts: bool) -> None:
        """A message, or a piece of one."""
        thought = message.get("reasoning") or message.get("reasoning_content")
        if thoughts and isinstance(thought, str) and thought:
            self.parts.append({"text": thought, "thought": True})
        text = message.get("content") or message.get("refusal")
        if isinstance(text, str) and text:
            self.parts.append({"text": text})
        for position, call in enumerate(_dicts(message.get("tool_calls"))):
            function = _dict(call.get("function"))
            known = self._calls.setdefault(_index(call, position), ["", "", ""])
            known[0] = known[0] or _text(call.get("id"))
            known[1] += _text(function.get("name"))
            arguments = function.get("arguments") or ""
            known[2] += arguments if isinstance(arguments, str) else _encode(arguments).decode()

    def candidate(self, index: int, finish: object, *, partly: bool = False) -> Json:
        """What there is to be told; `partly`: more will come."""
        parts, self.parts = self.parts, []
        candidate: Json = {"index": index}
        broken = ""
        if not partly:
            for call_id, name, arguments in self._calls.values():
                call: Json = {"name": name}
                if call_id:
                    call["id"] = call_id
                arguments_read = _object(arguments.encode()) if arguments.strip() else {}
                if arguments_read is None:
                    broken = f"{name}({arguments[:500]})"
                    continue
                call["args"] = arguments_read
                parts.append({"functionCall": call})
        candidate["content"] = {"parts": parts, "role": "model"} if parts else {"role": "model"}
        if broken:
            candidate["finishReason"] = "MALFORMED_FUNCTION_CALL"
            candidate["finishMessage"] = f"the model's call cannot be read: {broken}"
        elif not partly:
            candidate["finishReason"] = _FINISHES.get(_text(finish), "OTHER")
        return candidate


def _response(chat: Json, candidates: list[Json], usage: Any) -> Json:
    response: Json = {"candidates": candidates}
    if isinstance(usage, dict):
        response["usageMetadata"] = usage_metadata(usage)
    if isinstance(chat.get("model"), str):
        response["modelVersion"] = chat["model"]
    if isinstance(chat.get("id"), str):
        response["responseId"] = chat["id"]
    return response


def usage_metadata(usage: Json) -> Json:
    """Usage as Google's API tells it: thoughts are counted apart from the answer."""
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    thought = _count(_dict(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    told: Json = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": max(0, completion - thought),
        "totalTokenCount": prompt + completion,
    }
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") is not None:
        told["cachedContentTokenCount"] = _count(details["cached_tokens"])
    if thought:
        told["thoughtsTokenCount"] = thought
    return told


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [_dict(one) for one in value] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _index(source: Json, position: int) -> int:
    index = source.get("index")
    return index if isinstance(index, int) else position


def _object(data: bytes) -> Json | None:
    try:
        found = _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
