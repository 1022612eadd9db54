"""The lax reader takes bodies that the strict readers refuse: other encodings, other types, JSON as Python writes it.

It decides nothing about validity beyond "is it JSON at all", by the parser that vLLM's server uses: what the router
reads only to route by must not refuse what an engine would take. What can be read is read. A field of another type is
read as pydantic would convert it. A message or item that cannot be read counts as it was sent. What is left over enters
the canonical prompt as sent, so that two prompts are never taken for one. Where not even that can be done, the request
has no prefix, and the engine judges it.

It is off the usual path: only what `parse` cannot read comes here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

import msgspec

from warmroute.core.errors import ClientError
from warmroute.core.prompt.prompt import RAW
from warmroute.core.types import Api
from warmroute.dialects import chat, completions, messages, responses
from warmroute.dialects.chat_request import ChatRequest, Message
from warmroute.dialects.completions import CompletionsRequest
from warmroute.dialects.fields import SessionFields
from warmroute.dialects.messages import MessagesRequest
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.responses import Item, ResponsesRequest

LAX_BYTES: Final = 8 << 20
"""A longer body is read for its model only: what is done here takes ten times as long as the strict readers."""

Body = bytes | bytearray | memoryview

_ADVISORY: Final = frozenset(
    field.name for field in msgspec.structs.fields(SessionFields)
) | frozenset({"model", "stream", "stream_options", "n"})  # fmt: skip
"""Fields that are no part of the prompt."""
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)

_Fields = dict[str, msgspec.Raw]
_decode_fields: Final = msgspec.json.Decoder(_Fields).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Model(msgspec.Struct, gc=False):
    model: Any = None


_decode_model: Final = msgspec.json.Decoder(_Model).decode


def _message_as_sent(raw: bytes) -> bytes:
    """A message with one content part of no known type, which both APIs put into the prompt as it is."""
    role = b'""'
    try:
        found = _decode_fields(raw).get("role")
        if found is not None and isinstance(msgspec.json.decode(found), str):
            role = bytes(found)
    except _UNREADABLE:
        pass
    return b'{"role":%b,"content":[{"type":"","as_sent":%b}]}' % (role, raw)


def _item_as_sent(raw: bytes) -> bytes:
    return b'{"type":"as_sent","as_sent":%b}' % raw


class _Reader:
    """How the bodies of one API are made readable."""

    __slots__ = ("_as_sent", "_decoders", "_element", "_listed", "_loose", "_read")

    def __init__(
        self,
        struct: type[msgspec.Struct],
        read: Callable[[Body], Parsed],
        listed: str = "",
        element: type[msgspec.Struct] | None = None,
        as_sent: Callable[[bytes], bytes] = _message_as_sent,
    ) -> None:
        fields = msgspec.structs.fields(struct)
        self._read = read
        self._decoders = {field.name: msgspec.json.Decoder(field.type).decode for field in fields}
        self._loose = {field.name: msgspec.json.Decoder(field.type, strict=False).decode for field in fields}
        self._listed = listed
        self._element = msgspec.json.Decoder(element).decode if element is not None else None
        self._as_sent = as_sent

    def parse(self, fields: _Fields) -> Parsed:
        """The request, from its fields as sent."""
        readable: dict[str, bytes] = {}
        left: list[bytes] = []
        for name in self._decoders:
            raw = fields.get(name)
            if raw is not None:
                value = self._readable(name, bytes(raw))
                if value is not None:
                    readable[name] = value
                elif name not in _ADVISORY:
                    left.append(b'"%b":%b' % (name.encode(), bytes(raw)))
        body = b"{%b}" % b",".join([b'"%b":%b' % (name.encode(), raw) for name, raw in readable.items()])
        try:
            parsed = self._read(body)
        except (ClientError, *_UNREADABLE):
            return Parsed(_text(fields.get("model")), stream=_true(fields.get("stream")))
        if left:
            parsed.canonical = RAW + b",".join(left) + parsed.canonical
            parsed.prompt_bytes += len(RAW) + len(b",".join(left))
        parsed.may_ask_usage = False
        return parsed

    def _readable(self, name: str, raw: bytes) -> bytes | None:
        try:
            self._decoders[name](raw)
        except _UNREADABLE:
            if name == self._listed:
                return self._readable_list(raw)
            try:
                return msgspec.json.encode(self._loose[name](raw))
            except _UNREADABLE:
                return None
        return raw

    def _readable_list(self, raw: bytes) -> bytes | None:
        assert self._element is not None
        try:
            elements = [bytes(element) for element in _decode_list(raw)]
        except _UNREADABLE:
            return None
        for index, element in enumerate(elements):
            try:
                self._element(element)
            except _UNREADABLE:
                elements[index] = self._as_sent(element)
        return b"[%b]" % b",".join(elements)


_READERS: Final = {
    Api.CHAT: _Reader(ChatRequest, chat.parse, "messages", Message),
    Api.COMPLETIONS: _Reader(CompletionsRequest, completions.parse),
    Api.MESSAGES: _Reader(MessagesRequest, messages.parse, "messages", messages.Message),
    Api.RESPONSES: _Reader(ResponsesRequest, responses.parse, "input", Item, _item_as_sent),
}


def parse(api: Api, body: Body) -> Parsed:
    """Read a body that is not as the strict reader expects it.

    Raises:
        ClientError: `invalid_json`: vLLM's server could not read it either.
    """
    if len(body) > LAX_BYTES:
        try:
            model = _decode_model(body).model
        except _UNREADABLE:
            return Parsed("")
        return Parsed(model if isinstance(model, str) else "")
    fields = _fields(bytes(body))
    reader = _READERS.get(api)
    if reader is None:
        return Parsed(_text(fields.get("model")), stream=_true(fields.get("stream")))
    return reader.parse(fields)


def names_model(body: Body) -> bool:
    """Whether a body too long to be read in every way can be read as far as it names its model."""
    try:
        _decode_model(body)
    except _UNREADABLE:
        return False
    return True


def fields_of(body: Body) -> _Fields:
    """The object's fields as sent; none if it is another value than an object, or very long and unusual.

    Raises:
        ClientError: `invalid_json`.
    """
    try:
        return _decode_fields(body)
    except _UNREADABLE:
        return _fields(bytes(body)) if len(body) <= LAX_BYTES else {}


def _fields(body: bytes) -> _Fields:
    """The object's fields as sent; none if it is another value than an object."""
    try:
        # Once: what is decoded may itself look like another encoding's bytes.
        text = body.decode(json.detect_encoding(body), "surrogatepass")
    except UnicodeError:
        raise ClientError("The body is not valid JSON: not UTF-8", code="invalid_json") from None
    try:
        return _decode_fields(text.encode("utf-8", "surrogatepass"))
    except _UNREADABLE:
        pass
    try:
        value = json.loads(text)
    except RecursionError:
        raise ClientError("The body is not valid JSON: nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ClientError(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        return {}
    try:
        return _decode_fields(msgspec.json.encode(value))
    except _UNREADABLE:
        # Text that is no Unicode somewhere (half a surrogate): then what says where the request goes, and how, alone.
        readable: _Fields = {}
        for name in ("model", "stream"):
            with contextlib.suppress(*_UNREADABLE):
                readable[name] = msgspec.Raw(msgspec.json.encode(value.get(name)))
        return readable


def _true(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw) == b"true"


def _text(raw: msgspec.Raw | None) -> str:
    """A JSON string's value; empty for anything else."""
    if raw is None:
        return ""
    try:
        value = msgspec.json.decode(raw)
    except _UNREADABLE:
        return ""
    return value if isinstance(value, str) else ""
