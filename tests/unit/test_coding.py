"""Content codings: what is read, how far, and how the rest is refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard

from warmroute.core.errors import ClientError
from warmroute.dialects.coding import UnsupportedCodingError, decoded, named, readable

TEXT = b'{"model": "m"}' * 1000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "gzip in two members": (b"gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
    "deflate": (b"deflate", zlib.compress),
    "deflate without zlib's frame": (b"deflate", raw_deflate),
    "zstd": (b"zstd", zstandard.compress),
    "zstd in two frames": (b"zstd", lambda data: zstandard.compress(data[:100]) + zstandard.compress(data[100:])),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CODERS))
def test_each_coding_is_read_up_to_the_limit(name: str) -> None:
    coding, encode = CODERS[name]
    data = encode(TEXT)
    assert decoded(coding, data, len(TEXT)) == TEXT
    assert decoded(coding, bytearray(data), len(TEXT)) == TEXT
    with pytest.raises(ClientError) as caught:
        decoded(coding, data, len(TEXT) - 1)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"zstd"])
def test_a_bomb_costs_no_more_than_the_limit(coding: bytes) -> None:
    packed = {b"gzip": gzip.compress, b"deflate": zlib.compress, b"zstd": zstandard.compress}[coding](
        bytes(1 << 26)
    )
    assert len(packed) < 1 << 17
    with pytest.raises(ClientError) as caught:
        decoded(coding, packed, 1 << 20)
    assert caught.value.status == 413


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"zstd"])
def test_a_body_that_is_not_what_it_says_is_refused(coding: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decoded(coding, b"this is no such thing", 1000)
    assert (caught.value.status, caught.value.code) == (400, "invalid_content_coding")


@pytest.mark.parametrize("coding", [b"br", b"gzip, gzip", b"compress"])
def test_another_coding_is_refused_with_the_list(coding: bytes) -> None:
    with pytest.raises(UnsupportedCodingError) as caught:
        decoded(coding, b"x", 1000)
    assert caught.value.status == 415
    assert caught.value.accepted == b"gzip, deflate, zstd"


def test_of_an_answer_what_cannot_be_read_is_nothing() -> None:
    assert readable(b"", b"as it is", 4) == b"as it is"
    assert readable(b"gzip", gzip.compress(b"abc"), 100) == b"abc"
    assert readable(b"gzip", gzip.compress(TEXT), 100) == b""
    assert readable(b"br", b"abc", 100) == b""
    assert readable(b"gzip", b"abc", 100) == b""


@pytest.mark.parametrize(
    ("value", "coding"), [(b"identity", b""), (b" GZip ", b"gzip"), (b"", b""), (b"br", b"br")]
)
def test_identity_is_no_coding(value: bytes, coding: bytes) -> None:
    assert named(value) == coding
