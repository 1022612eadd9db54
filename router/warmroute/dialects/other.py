"""The dialect of everything that is not routed by prefix finds the model, and reads nothing else."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from warmroute.dialects.parsed import Parsed

WINDOW_BYTES = 64 * 1024
"""How much of each end of a form is searched: clients put fields before or after a file, never between two."""
MAX_MODEL_BYTES = 256
_MAX_HEADER_BYTES = 1024
_MAX_FIELDS = 64
_MAX_PARTS = 1024
_MOST_EMPTY_BYTES = 16

_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_FIELD_NAME = re.compile(rb"[A-Za-z0-9-]+")
_DISPOSITION = re.compile(
    rb'[ \t]*form-data[ \t]*;[ \t]*name=(?:"([^"\\\r\n]*)"|([^\s;,"\\]+))'
    rb'((?:[ \t]*;[ \t]*filename\*?=(?:"(?:[^"\\\r\n]|\\.)*"|[^\s;,"\\]+))*)[ \t]*',
    re.IGNORECASE,
)
"""Name of a part, quoted or not, and what of its head says that it is a file."""
_MODEL_FIELD = re.compile(
    rb'content-disposition:\s*form-data\s*;\s*name="?model"?\s*(?:\r\n|$)', re.IGNORECASE
)


class _Request(msgspec.Struct, gc=False):
    model: Any = None
    stream: Any = None


_decode = msgspec.json.Decoder(_Request).decode


def parse(body: bytes | bytearray | memoryview) -> Parsed:
    """Read a JSON body of any other endpoint; model is empty where the body names none.

    Raises:
        msgspec.MsgspecError, UnicodeError, RecursionError: The caller translates them.
    """
    if not body:
        return Parsed("")
    request = _decode(body)
    model = request.model
    return Parsed(model if isinstance(model, str) else "", stream=request.stream is True)


def multipart_model(content_type: bytes, body: bytes | bytearray | memoryview) -> str | None:
    """The form field `model` of a multipart body, such as a transcription's; `None` if there is none near its ends."""
    boundary = _BOUNDARY.search(content_type[:1024])
    if boundary is None:
        return None
    delimiter = b"--" + (boundary[1] or boundary[2])
    model = _model_in(bytes(body[:WINDOW_BYTES]), delimiter)
    if model is None and len(body) > WINDOW_BYTES:
        model = _model_in(bytes(body[-WINDOW_BYTES:]), delimiter)
    return model


def form_model(content_type: bytes, body: bytes | bytearray) -> str | None:
    """The form field `model` as an engine reads it, where it decides what may be used: the last one of the whole body.
    Empty if there is none; None if the form is not written as clients write forms, so that an engine may read another
    one than is read here.

    Source: python-multipart 0.0.20 and Starlette, which vLLM's server reads forms with: a delimiter begins a line and
    ends one, and of several fields of one name the last one counts.
    """
    boundary = _BOUNDARY.search(content_type[:1024])
    if boundary is None or content_type.lower().count(b"boundary") != 1 or b"\\" in content_type:
        return None
    delimiter = b"\r\n--" + (boundary[1] or boundary[2])
    at = 0
    while body[at : at + 2] == b"\r\n" and at < _MOST_EMPTY_BYTES:
        at += 2  # some clients write one before the first part, too
    if not body.startswith(delimiter[2:], at):
        return None
    model = ""
    at += len(delimiter) - 2
    for _ in range(_MAX_PARTS):
        if body[at : at + 2] == b"--":
            return model
        head_end = body.find(b"\r\n\r\n", at, at + _MAX_HEADER_BYTES)
        start = head_end + 4
        end = body.find(delimiter, start) if head_end >= 0 and body[at : at + 2] == b"\r\n" else -1
        if end < 0:
            return None
        name = _part_name(bytes(body[at + 2 : head_end]))
        if name is None:
            return None
        if name == b"model":
            if end - start > MAX_MODEL_BYTES:
                return None
            try:
                model = body[start:end].decode()
            except UnicodeDecodeError:
                return None
        at = end + len(delimiter)
    return None


def _part_name(head: bytes) -> bytes | None:
    """The name of a form's part, empty if it is a file's; None if its head is not written as clients write them."""
    name = None
    for line in head.split(b"\r\n"):
        field, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(field):
            return None
        if field.lower() == b"content-disposition":
            plain = _DISPOSITION.fullmatch(value)
            if plain is None or name is not None:
                return None
            name = b"" if plain[3] else plain[1] or plain[2] or b""
    return name


def _model_in(window: bytes, delimiter: bytes) -> str | None:
    at = 0
    for _ in range(_MAX_FIELDS):
        at = window.find(delimiter, at)
        if at < 0:
            return None
        at += len(delimiter)
        header_end = window.find(b"\r\n\r\n", at, at + _MAX_HEADER_BYTES)
        if header_end < 0:
            continue
        if _MODEL_FIELD.search(window, at, header_end + 2) is None:
            continue
        start = header_end + 4
        end = window.find(b"\r\n" + delimiter, start, start + MAX_MODEL_BYTES + len(delimiter) + 2)
        if end < 0:
            return None
        try:
            return window[start:end].decode() or None
        except UnicodeDecodeError:
            return None
    return None
