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

_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
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
