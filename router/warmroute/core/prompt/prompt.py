"""The canonical prompt is one byte string of everything in a request that changes the KV cache, and of nothing else.

This module decides how roles, texts, media, tool calls and template arguments are laid out. It does not read any API's
JSON (dialects do) and does not hash (fingerprint does). The rules it keeps:

1. A canonical prompt is a row of fields. A field is the byte 0xFF, a tag byte, and a value in UTF-8. UTF-8 never holds
   0xFF, so no text needs escaping or scanning, and no two rows of fields give the same bytes. The same is true of any
   prefix, which lengths in front of the texts would not give. Token ids are the one binary value; they come last.
2. Fields stand in the order of a chat template: tools, template arguments, messages. A message has no end mark, so the
   prompt of one turn is a byte prefix of the next turn's, and two texts share their bytes up to where they differ.
3. An empty content and an absent one are the same: engines render both as nothing.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Final

from xxhash import xxh3_128, xxh3_128_hexdigest

TOOLS: Final = b"\xffT"
CHAT_TEMPLATE: Final = b"\xffC"
TEMPLATE_ARGUMENTS: Final = b"\xffK"
DOCUMENTS: Final = b"\xffD"
MEDIA_PROCESSOR: Final = b"\xffP"
MEDIA_READER: Final = b"\xffI"
REASONING_EFFORT: Final = b"\xffE"
THINKING: Final = b"\xffH"
SPECIAL_TOKENS: Final = b"\xffS"
TRUNCATION: Final = b"\xffV"
HISTORY: Final = b"\xffY"
"""Earlier turns that the request names (`previous_response_id`) or carries in a form that is not read."""
MESSAGE: Final = b"\xffm"
"""Starts a message; the value is its role."""
NAME: Final = b"\xffn"
CALL_ANSWERED: Final = b"\xffi"
"""Id of the tool call that a tool message answers."""
REASONING: Final = b"\xffr"
TEXT: Final = b"\xfft"
MEDIA: Final = b"\xffg"
MEDIA_ID: Final = b"\xffu"
"""The client's own id of a medium, which engines take instead of the content's hash."""
CALL: Final = b"\xffc"
CALL_ID: Final = b"\xffd"
CALL_ARGUMENTS: Final = b"\xffa"
RAW: Final = b"\xffx"
"""JSON as sent, of a content or item that is not understood."""
MESSAGE_TOOLS: Final = b"\xffw"
ENDING: Final = b"\xffz"
"""Unusual end of the prompt; last, because it leaves the prompt before it as it is."""
PROMPT_TEXT: Final = b"\xffp"
PROMPT_TOKENS: Final = b"\xffk"
PROMPT_EMBEDS: Final = b"\xffe"

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
TEXT_MESSAGES: Final = {role: MESSAGE + role.encode() + TEXT for role in _ROLES}
"""Start of a message that is nothing but one text: most messages, hence ready made."""
MESSAGES: Final = {role: MESSAGE + role.encode() for role in _ROLES}


def start_message(
    out: list[bytes],
    role: str,
    name: str | None = None,
    call_answered: str | None = None,
    reasoning: str | None = None,
) -> None:
    """Begin a message; its texts, media and calls follow."""
    start = MESSAGES.get(role)
    out.append(start if start is not None else MESSAGE + role.encode())
    if name:
        out.append(NAME + name.encode())
    if call_answered:
        out.append(CALL_ANSWERED + call_answered.encode())
    if reasoning:
        out.append(REASONING)
        out.append(reasoning.encode())


def add_text(out: list[bytes], text: str) -> None:
    """Add one text part; parts stay apart, because engines join them in more than one way."""
    out.append(TEXT)
    out.append(text.encode())


def add_media(out: list[bytes], kind: str, url: str, media_id: str | None = None) -> None:
    """Add an image, audio or video: by digest where the URL is the content itself (`data:`), else by URL."""
    if url[:5].lower() == "data:":
        url = "data:" + xxh3_128_hexdigest(url.encode())
    out.append(MEDIA + f"{kind} {url}".encode())
    if media_id:
        out.append(MEDIA_ID + media_id.encode())


def add_media_data(
    out: list[bytes], kind: str, media_type: str, base64: str, media_id: str | None = None
) -> None:
    """Add base64 content: the same bytes as `add_media` gives for the `data:` URL made of it."""
    digest = xxh3_128(f"data:{media_type};base64,".encode())
    digest.update(base64.encode())
    out.append(MEDIA + f"{kind} data:{digest.hexdigest()}".encode())
    if media_id:
        out.append(MEDIA_ID + media_id.encode())


def add_call(out: list[bytes], name: str | None, call_id: str | None, arguments: bytes) -> None:
    """Add a tool call of the current message; `arguments` is JSON text."""
    out.append(CALL + (name or "").encode())
    if call_id:
        out.append(CALL_ID + call_id.encode())
    out.append(CALL_ARGUMENTS)
    out.append(arguments)


def add_json(out: list[bytes], tag: bytes, json: bytes) -> None:
    """Add a value as the client sent it, unless it is empty.

    Raises:
        UnicodeDecodeError: It is not UTF-8, and so not JSON.
    """
    if not json.isascii():
        json.decode()
    if json not in (b"", b"null", b"[]", b"{}"):
        out.append(tag)
        out.append(json)


def beginning(canonical: bytes, most_bytes: int) -> bytes:
    """What stands before the first answer, `most_bytes` at most: the same in every turn of a conversation."""
    at = canonical.find(MESSAGES["assistant"], 0, most_bytes)
    return canonical[: at if at > 0 else most_bytes]


def pack_tokens(token_ids: Iterable[int]) -> bytes:
    """Token ids as 4 bytes each, little-endian.

    Raises:
        OverflowError: An id is negative or above 32 bits.
        TypeError: An id is no integer.
    """
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
