"""Inputs made of seeds: the same ones for the same number, so that whatever fails can be made again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

MAX_BYTES = 4096

TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\x00", b"\xff", b"\x80", b"\xc3", b"\xf0\x9f\x99\x82", b"\\ud800",
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"1e999", b"-0", b"99999999999999999999",
    b'"model"', b'"messages"', b'"prompt"', b'"stream"', b'"usage"', b'"id"', b'"role"', b'"content"', b'"type"',
    b"data: ", b"data: [DONE]\n\n", b"event: ", b": ", b"retry: 1\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET / ",
    b"$-1\r\n", b"*2\r\n", b"+OK\r\n", b"-ERR x\r\n", b":1\r\n", b"$3\r\nabc\r\n", b"%", b"/", b"//", b"..", b"?", b"#",
)  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """A target's seeds, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutated(corpus: Sequence[bytes], number: int) -> bytes:
    """The input of this number."""
    rng = random.Random(number)
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at : at + rng.choice((1, 1, 4, 40))] = b""
            case 4:
                piece = data[at : at + rng.choice((1, 8, 60))]
                data[at:at] = piece * rng.choice((1, 2, 20))
            case 5:
                other = rng.choice(corpus)
                begin = rng.randrange(len(other) + 1)
                data[at : at + rng.choice((0, 10))] = other[begin : begin + rng.randrange(1, 60)]
            case 6:
                piece = rng.choice(TOKENS)
                data[at : at + len(piece)] = piece
            case _:
                data[at:] = b""
    return bytes(data[:MAX_BYTES])
