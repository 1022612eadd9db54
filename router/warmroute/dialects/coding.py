"""Content codings (RFC 9110, section 8.4) are undone for bodies that the router reads: requests and short answers.

This module decides which codings can be read. Bodies are forwarded as they came; what is decoded here is only read. It
is bounded: what would come out longer than its limit is not decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import zstandard

from warmroute.core.errors import ClientError

Body = bytes | bytearray | memoryview


class UnsupportedCodingError(ClientError):
    """The body is coded in a way that is not read here."""

    status = 415
    code = "unsupported_content_coding"

    def __init__(self, coding: bytes) -> None:
        self.accepted = ACCEPTED
        super().__init__(
            f"content-encoding: {coding.decode('latin-1')[:60]!r} is not understood; send the body as it is, or in one"
            f" of: {ACCEPTED.decode()}"
        )


def _inflated(window_bits: int) -> Callable[[Body, int], bytes | None]:
    def read(data: Body, limit_bytes: int) -> bytes | None:
        out = b""
        rest: Body = data
        while rest:
            inflater = zlib.decompressobj(window_bits)
            out += inflater.decompress(rest, limit_bytes - len(out) + 1)
            if len(out) > limit_bytes:
                return None
            if not inflater.eof:
                raise zlib.error("the body ends too early")
            rest = inflater.unused_data  # gzip files may be joined
        return out

    return read


def _deflated(data: Body, limit_bytes: int) -> bytes | None:
    """`deflate` is zlib's format; some clients send what is inside it."""
    try:
        return _inflated(zlib.MAX_WBITS)(data, limit_bytes)
    except zlib.error:
        return _inflated(-zlib.MAX_WBITS)(data, limit_bytes)


def _unzstd(data: Body, limit_bytes: int) -> bytes | None:
    pieces: list[bytes] = []
    length = 0
    with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(
        bytes(data), read_across_frames=True
    ) as reader:
        while piece := reader.read(min(1 << 20, limit_bytes - length + 1)):
            pieces.append(piece)
            length += len(piece)
            if length > limit_bytes:
                return None
    return b"".join(pieces)


_READERS: Final = {
    b"gzip": _inflated(16 + zlib.MAX_WBITS),
    b"x-gzip": _inflated(16 + zlib.MAX_WBITS),
    b"deflate": _deflated,
    b"zstd": _unzstd,
}
ACCEPTED: Final = b"gzip, deflate, zstd"


def named(value: bytes) -> bytes:
    """The coding that a Content-Encoding field names, in lower case; empty for none."""
    coding = value.strip().lower()
    return b"" if coding == b"identity" else coding


def decoded(coding: bytes, body: Body, limit_bytes: int) -> bytes:
    """What a request's body says.

    Raises:
        ClientError: 415 another coding, 413 longer than the limit, 400 not what it says it is.
    """
    read = _READERS.get(coding)
    if read is None:
        raise UnsupportedCodingError(coding)
    try:
        plain = read(body, limit_bytes)
    except (zlib.error, zstandard.ZstdError):
        raise ClientError(
            f"the body is not valid {coding.decode('latin-1')}", code="invalid_content_coding"
        ) from None
    if plain is None:
        raise ClientError(
            f"request body exceeds {limit_bytes} bytes (limits.body_bytes) when it is decoded",
            status=413,
            code="body_too_large",
        )
    return plain


def readable(coding: bytes, body: bytes, limit_bytes: int) -> bytes:
    """What an answer's body says, or nothing where it cannot be read."""
    if not coding:
        return body
    try:
        return decoded(coding, body, limit_bytes)
    except ClientError:
        return b""
