"""Contents of Google's API become messages here: sides that take turns, calls and their answers, pictures and the like.

The rule it keeps: what comes first is translated without regard to what comes after, so that two prompts which begin
with the same contents begin with the same messages. Calls without an id, which Google's API allows, are numbered in
order for the same reason.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from warmroute.dialects.gemini_fields import Json, field, refuse

_MEDIA: Final = {"image": "image_url", "audio": "audio_url", "video": "video_url"}

_encode: Final = msgspec.json.Encoder().encode


class Turns:
    """Messages so far, and the calls in them that nobody has answered yet. Costs of all are O(1) amortised."""

    def __init__(self, messages: list[Json]) -> None:
        self.messages = messages
        self._side = ""
        self._said: list[Json] = []
        """Parts that this side has said since the last message, which are none yet."""
        self._calls = 0
        self._by_name: dict[str, deque[tuple[int, str]]] = {}
        """Calls by the name of what is called: number and id, first ones first; some may be answered already."""
        self._by_id: dict[str, deque[int]] = {}
        self._answered: set[int] = set()
        """Numbers of calls."""
        for message in messages:
            for call in message.get("tool_calls") or ():
                self.called(call["function"]["name"], call["id"])
            if message["role"] == "tool":
                self.answered("", message.get("tool_call_id"))

    def called(self, name: str, call_id: Any) -> str:
        """A call; returns its id, a new one where it has none that is text."""
        self._calls += 1
        known = call_id if isinstance(call_id, str) and call_id else f"call_{self._calls}"
        self._by_name.setdefault(name, deque()).append((self._calls, known))
        self._by_id.setdefault(known, deque()).append(self._calls)
        return known

    def answered(self, name: str, call_id: Any) -> str:
        """An answer; returns the id of its call: the one named, or the first of this name that is open."""
        if isinstance(call_id, str) and call_id:
            numbers = self._by_id.get(call_id)
            while numbers:
                number = numbers.popleft()
                if number not in self._answered:
                    self._answered.add(number)
                    break
            return call_id
        calls = self._by_name.get(name)
        while calls:
            number, known = calls.popleft()
            if number not in self._answered:
                self._answered.add(number)
                return known
        return f"call_{name}"

    def say(self, role: str, parts: list[Json]) -> None:
        """Parts of one side. What the same side said before goes on: templates want sides to take turns."""
        if role != self._side:
            self.flush()
            self._side = role
        self._said += parts

    def add(self, message: Json) -> None:
        """A message that is nothing said."""
        self.flush()
        self.messages.append(message)

    def flush(self) -> None:
        """What was said becomes a message: nothing more follows, or something else."""
        role, parts = self._side, self._said
        self._side, self._said = "", []
        if not parts:
            return
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == role and not last.get("tool_calls") and "content" in last:
            said = last["content"]
            before = [{"type": "text", "text": said}] if isinstance(said, str) else list(said or ())
            self.messages[-1] = {**last, "content": _content(before + parts, role)}
        else:
            self.messages.append({"role": role, "content": _content(parts, role)})


def _content(parts: list[Json], role: str) -> str | list[Json]:
    if role == "assistant":
        return "".join([part.get("text", "") for part in parts])
    return str(parts[0]["text"]) if len(parts) == 1 and parts[0]["type"] == "text" else parts


def add_contents(turns: Turns, request: Json) -> None:
    """Add the contents of a request.

    Raises:
        ClientError: One of them cannot be translated.
    """
    contents = field(request, "contents")
    if contents is None:
        return
    if isinstance(contents, str | dict):
        contents = [contents]
    if not isinstance(contents, list):
        refuse("contents", "must be a list")
    for index, content in enumerate(contents):
        where = f"contents[{index}]"
        if isinstance(content, str):
            content = {"parts": [{"text": content}]}
        if not isinstance(content, dict):
            refuse(where, "must be an object with parts")
        role = content.get("role") or "user"
        parts = _parts(content, where)
        if role == "model":
            _add_model(turns, parts, where)
        elif role in ("user", "function", "tool"):
            _add_user(turns, parts, where)
        else:
            refuse(f"{where}.role", f"must be user or model, not {str(role)[:40]!r}")
    turns.flush()


def _parts(content: Json, where: str) -> list[Json]:
    parts = content.get("parts")
    if isinstance(parts, dict):
        parts = [parts]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        refuse(f"{where}.parts", "must be a list of objects")
    return parts


def _add_user(turns: Turns, parts: list[Json], where: str) -> None:
    said: list[Json] = []
    for index, part in enumerate(parts):
        place = f"{where}.parts[{index}]"
        answer = field(part, "functionResponse")
        if answer is None:
            said.append(_media(part, place))
            continue
        if said:
            turns.say("user", said)
            said = []
        if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
            refuse(f"{place}.functionResponse", "must have a name and a response")
        name = answer["name"]
        call_id = turns.answered(name, answer.get("id"))
        text = _encode(answer.get("response") or {}).decode()
        turns.add({"role": "tool", "tool_call_id": call_id, "name": name, "content": text})
    if said:
        turns.say("user", said)


def _add_model(turns: Turns, parts: list[Json], where: str) -> None:
    said: list[Json] = []
    calls: list[Json] = []
    for index, part in enumerate(parts):
        place = f"{where}.parts[{index}]"
        if part.get("thought") is True:
            continue  # what it thought is not said again
        call = field(part, "functionCall")
        if call is None:
            one = _media(part, place)
            if one["type"] != "text":
                refuse(place, "of role model must be text or a functionCall")
            said.append(one)
            continue
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            refuse(f"{place}.functionCall", "must have a name")
        arguments = _encode(call.get("args") or {}).decode()
        calls.append(
            {
                "id": turns.called(call["name"], call.get("id")),
                "type": "function",
                "function": {"name": call["name"], "arguments": arguments},
            }
        )
    if calls:
        text = _content(said, "assistant") if said else None
        turns.add({"role": "assistant", "content": text, "tool_calls": calls})
    elif said:
        turns.say("assistant", said)


def _media(part: Json, where: str) -> Json:
    """A part that is text, or a picture or the like."""
    text = part.get("text")
    if isinstance(text, str):
        return {"type": "text", "text": text}
    inline = field(part, "inlineData")
    if isinstance(inline, dict):
        kind = str(field(inline, "mimeType") or "")
        name = _media_name(kind, f"{where}.inlineData")
        return {"type": name, name: {"url": f"data:{kind};base64,{_plain_base64(inline.get('data'), where)}"}}
    file = field(part, "fileData")
    if isinstance(file, dict):
        uri = field(file, "fileUri")
        if not isinstance(uri, str) or not uri.startswith(("https://", "http://", "data:")):
            refuse(f"{where}.fileData", "must name a URL that the engines can read: no files are kept here")
        name = _media_name(str(field(file, "mimeType") or "image/"), f"{where}.fileData")
        return {"type": name, name: {"url": uri}}
    known = ", ".join(sorted(part)) or "nothing"
    refuse(
        where, f"holds {known[:100]}: text, inlineData, fileData, functionCall and functionResponse are known"
    )


def _media_name(kind: str, where: str) -> str:
    name = _MEDIA.get(kind.partition("/")[0])
    if name is None:
        refuse(
            where,
            f"of type {kind[:60]!r} cannot be given to an engine: send its text, or images, audio or video",
        )
    return name


def _plain_base64(data: Any, where: str) -> str:
    """Google's clients write base64 for URLs, engines read the usual one."""
    if not isinstance(data, str):
        refuse(f"{where}.inlineData.data", "must be base64")
    plain = data.replace("-", "+").replace("_", "/")
    return plain + "=" * (-len(plain) % 4)


def instruction_text(instruction: Any) -> str:
    """The text of a system instruction, in whichever form it was given.

    Raises:
        ClientError: It is no text.
    """
    if isinstance(instruction, str):
        return instruction
    if isinstance(instruction, list):
        instruction = {"parts": instruction}
    if not isinstance(instruction, dict):
        refuse("systemInstruction", "must be a content with text parts")
    texts = []
    for index, part in enumerate(_parts(instruction, "systemInstruction")):
        if not isinstance(part.get("text"), str):
            refuse(f"systemInstruction.parts[{index}]", "must be text")
        texts.append(part["text"])
    return "\n".join(texts)
