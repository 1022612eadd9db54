"""Content parts are what chat and responses share: texts, images, audio, video.

This module decides which parts are understood; whoever calls writes a content that is not as it was sent.
"""

from __future__ import annotations

import msgspec

from warmroute.core.prompt.prompt import add_media, add_media_data, add_text
from warmroute.dialects.fields import ABSENT

_TEXTS = frozenset({"text", "input_text", "output_text", "reasoning_text", "summary_text"})
_IMAGES = frozenset({"image_url", "input_image"})


class Link(msgspec.Struct, gc=False):
    """`{"url": …}` of a medium."""

    url: str | None = None


class Sound(msgspec.Struct, gc=False):
    """`input_audio`: base64 and its format."""

    data: str | None = None
    format: str | None = None


class Part(msgspec.Struct, gc=False):
    """A content part of any known type: the fields of all of them."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | Link | None = None
    audio_url: str | Link | None = None
    video_url: str | Link | None = None
    input_audio: Sound | None = None
    uuid: str | None = None
    prompt_cache_breakpoint: msgspec.Raw = ABSENT


def add_content(out: list[bytes], content: list[str | Part]) -> bool:
    """Add the parts of one message. False: a part is of a type not known here; `out` then holds a part of them."""
    for part in content:
        if type(part) is str:
            add_text(out, part)
        elif not _add_part(out, part):  # type: ignore[arg-type]
            return False
    return True


def _add_part(out: list[bytes], part: Part) -> bool:
    kind = part.type
    if kind in _TEXTS:
        add_text(out, part.text or "")
    elif kind == "refusal":
        add_text(out, part.refusal or "")
    elif kind in _IMAGES:
        return _add_link(out, "image", part.image_url, part.uuid)
    elif kind == "audio_url":
        return _add_link(out, "audio", part.audio_url, part.uuid)
    elif kind == "video_url":
        return _add_link(out, "video", part.video_url, part.uuid)
    elif kind == "input_audio" and part.input_audio is not None:
        sound = part.input_audio
        add_media_data(out, "audio", f"audio/{sound.format}", sound.data or "", part.uuid)
    else:
        return False
    return True


def _add_link(out: list[bytes], kind: str, link: str | Link | None, media_id: str | None) -> bool:
    url = link.url if isinstance(link, Link) else link
    if not url and not media_id:
        return False
    add_media(out, kind, url or "", media_id)
    return True
