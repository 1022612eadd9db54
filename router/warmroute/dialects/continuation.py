"""A stream that broke in the middle, told anew to another engine: what was said so far, and what is asked for then.

Decides which requests can be gone on with, and how the rest of the answer becomes the rest of the same stream. Only
chat and completions, of one answer, of nothing but text.

Source: vLLM's entrypoints/openai/chat_completion/protocol.py and serving.py: `continue_final_message` with
`add_generation_prompt: false` renders the last message without its end, and the answer goes on from there. An event
carries one token, or several where the server lags; one that holds back half a character has an empty text. The last
token's event carries the finish reason.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from warmroute.core.types import Api

_CHAT: Final = Api.CHAT

UNFIT: Final = (
    "tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "n", "best_of", "response_format",
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "echo", "suffix",
    "continue_final_message", "add_generation_prompt", "return_token_ids", "return_tokens_as_token_ids",
    "use_beam_search", "prompt_embeds", "truncate_prompt_tokens", "kv_transfer_params",
    "continuous_usage_stats",
)  # fmt: skip
"""Fields of requests that are not gone on with, unless they say what is the case without them."""

_HARMLESS: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "add_generation_prompt": (True,),
    "response_format": ({"type": "text"},),
}
_KEYS: Final = tuple([f'"{name}"'.encode() for name in UNFIT if name not in _HARMLESS])
_MAX_TOKENS: Final = ("max_completion_tokens", "max_tokens")
COMPLETION_TOKENS: Final = 16
"""vLLM's limit of a completion that names none."""
FOLDED_BYTES: Final = 32 * 1024
"""What is kept of a stream as it came, before it is read."""
REPLACEMENT: Final = "\ufffd"
"""What a tokenizer makes of bytes that are no character: the tokens cannot be had back from it."""


class _Delta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[_Choice] = []
    error: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


def may_continue(body: bytes | bytearray) -> bool:
    """Whether it is worth keeping what is said: a quick look, which takes a field of that name for a reason not to."""
    for key in _KEYS:
        if key in body:
            return False
    return True


class Transcript:
    """What a client has been sent of one stream."""

    __slots__ = ("_chars", "_events", "_size", "_text", "created", "finished", "fit", "id", "model", "role_sent",
                 "solid_chars", "solid_tokens", "tokens")  # fmt: skip

    def __init__(self) -> None:
        self._chars = 0
        self._events: list[bytes] = []
        self._size = 0
        self._text: list[str] = []
        self.fit = True
        """Nothing was seen that cannot be gone on with."""
        self.finished = False
        """The finish reason was sent: nothing but the end is missing."""
        self.role_sent = False
        self.id: str | None = None
        self.created: int | None = None
        self.model: str | None = None
        self.tokens = 0
        """Events with a token, whether or not it has a text."""
        self.solid_chars = 0
        """The text up to the last event that is not blank alone, and its tokens: what another engine is told. Templates
        may trim a message's end, so the blanks behind are generated again, and left out."""
        self.solid_tokens = 0

    def feed(self, events: bytes) -> None:
        """Whole events that were passed on."""
        self._events.append(events)
        self._size += len(events)
        if self._size > FOLDED_BYTES:
            self.fold()

    def fold(self) -> None:
        """Read what came."""
        joined = b"".join(self._events)
        self._events.clear()
        self._size = 0
        if not self.fit:
            return
        for line in joined.splitlines():
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data != b"[DONE]":
                    self._read(data)

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(self._text)

    def _read(self, data: bytes) -> None:
        try:
            chunk = _decode(data)
        except (msgspec.MsgspecError, UnicodeError):
            self.fit = False
            return
        if self.id is None:
            self.id, self.created, self.model = chunk.id, chunk.created, chunk.model
        if chunk.error or len(chunk.choices) > 1:
            self.fit = False
        for choice in chunk.choices:
            self._heard(choice)

    def _heard(self, choice: _Choice) -> None:
        delta = choice.delta
        said = choice.text if delta is None else delta.content
        if choice.index or (
            delta is not None
            and (delta.reasoning or delta.reasoning_content or delta.tool_calls or delta.refusal)
        ):
            self.fit = False
        if choice.finish_reason is not None:
            self.finished = True
        if delta is not None and delta.role is not None and not said and choice.finish_reason is None:
            self.role_sent = True
            return
        self.tokens += 1
        if said:
            self._text.append(said)
            self._chars += len(said)
            if not said.isspace():
                self.solid_chars = self._chars
                self.solid_tokens = self.tokens


def continued_body(api: Api, body: bytes | bytearray, said: Transcript) -> bytes | None:
    """The request for the rest of the answer, to be sent instead of `body`; None where there is none."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not isinstance(request, dict) or not said.fit or said.finished or not _plain(request):
        return None
    text = said.text[: said.solid_chars]
    if not text:
        return bytes(body)
    if text.endswith(REPLACEMENT):
        return None
    limited = False
    for name in _MAX_TOKENS:
        limit = request.get(name)
        if limit is None:
            continue
        if not isinstance(limit, int) or limit <= said.solid_tokens:
            return None
        request[name] = limit - said.solid_tokens
        limited = True
    least = request.get("min_tokens")
    if isinstance(least, int):
        request["min_tokens"] = max(0, least - said.solid_tokens)
    if api is _CHAT:
        messages = request.get("messages")
        if not isinstance(messages, list):
            return None
        request["messages"] = [*messages, {"role": "assistant", "content": text}]
        request["add_generation_prompt"] = False
        request["continue_final_message"] = True
    else:
        prompt = request.get("prompt")
        if not isinstance(prompt, str):
            return None
        request["prompt"] = prompt + text
        if not limited:
            if said.solid_tokens >= COMPLETION_TOKENS:
                return None
            request["max_tokens"] = COMPLETION_TOKENS - said.solid_tokens
    return _encode(request)


def _plain(request: dict[str, Any]) -> bool:
    options = request.get("stream_options")
    if isinstance(options, dict) and options.get("continuous_usage_stats"):
        return False
    for name in UNFIT:
        value = request.get(name)
        if value is not None and value is not False and value != [] and value not in _HARMLESS.get(name, ()):
            return False
        if value is False and name == "add_generation_prompt":
            return False
    return True


class Rest:
    """Makes of another engine's stream the rest of the one that broke."""

    __slots__ = ("_created", "_id", "_model", "_overlap", "_role_sent", "_tokens", "done", "failed")

    def __init__(self, said: Transcript) -> None:
        self._id = said.id
        self._created = said.created
        self._model = said.model
        self._role_sent = said.role_sent
        self._tokens = said.solid_tokens
        self._overlap = said.text[said.solid_chars :]
        """Blanks that the client has and the engine will say again."""
        self.done = False
        """The engine said that its answer is complete."""
        self.failed = False
        """It said something that cannot follow what the client has: nothing from there on is passed on."""

    def passed_on(self, events: bytes) -> bytes:
        """What of these whole events the client gets."""
        out: list[bytes] = []
        for event in events.replace(b"\r\n", b"\n").split(b"\n\n"):
            if self.failed:
                break
            if event.startswith(b"data:"):
                data = event[5:].strip()
                if data == b"[DONE]":
                    self.done = True
                    out.append(b"data: [DONE]\n\n")
                else:
                    out.append(self._event(data))
            elif event:
                out.append(event + b"\n\n")
        return b"".join(out)

    def _event(self, data: bytes) -> bytes:
        try:
            chunk = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict) or "error" in chunk:
            self.failed = True
            return b""
        for name, value in (("id", self._id), ("created", self._created), ("model", self._model)):
            if value is not None and name in chunk:
                chunk[name] = value
        choices = chunk.get("choices")
        if isinstance(choices, list) and choices and not self._choice(choices[0]):
            return b""
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._sum(usage)
        return b"data: %b\n\n" % _encode(chunk)

    def _choice(self, choice: Any) -> bool:
        """Whether anything of it is to be passed on."""
        if not isinstance(choice, dict) or choice.get("finish_reason") == "abort":
            self.failed = True
            return False
        finished = choice.get("finish_reason") is not None
        delta = choice.get("delta")
        place, key = (delta, "content") if isinstance(delta, dict) else (choice, "text")
        if isinstance(delta, dict):
            if delta.get("reasoning") or delta.get("reasoning_content") or delta.get("tool_calls"):
                self.failed = True
                return False
            if self._role_sent and delta.pop("role", None) is not None and not delta.get("content"):
                return finished
        text = place.get(key)
        overlap = self._overlap
        if overlap and isinstance(text, str) and text:
            same = 0
            while same < len(overlap) and same < len(text) and overlap[same] == text[same]:
                same += 1
            place[key] = text[same:]
            self._overlap = overlap[same:] if same == len(text) else ""
            return finished or same < len(text)
        return True

    def _sum(self, usage: dict[str, Any]) -> None:
        """Of both streams together: what was said before counts as said, not as prompt."""
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            usage["prompt_tokens"] = prompt = max(0, prompt - self._tokens)
            usage["completion_tokens"] = completion + self._tokens
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
                details["cached_tokens"] = min(details["cached_tokens"], prompt)
