"""Sessions are what requests say they belong to; agents say so each in its own way.

This module decides which of the places that may say so counts. A session chooses a request's place on the ring, and so
keeps what belongs together together; it never makes cold warm.

A place is `header:NAME`, or a path into the JSON body such as `metadata.user_id.session_id`; on the way a text that
holds JSON is read as JSON, since Claude Code writes `user_id` so. Its older versions put `user_…_session_ID` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from warmroute.dialects.fields import ABSENT

if TYPE_CHECKING:
    from warmroute.dialects.fields import SessionFields

FIELDS: Final = ("prompt_cache_key", "session_id", "metadata", "client_metadata", "vllm_xargs")
"""Where in a body a place may begin."""

_HEADER: Final = "header:"
_SUFFIX: Final = "_session_"

Said = tuple[int, str]
"""What a head says: the first place among those that do, and the session; the session is empty where none does."""

NOWHERE: Final[Said] = (1 << 30, "")


def problem(place: str) -> str | None:
    """What is wrong with a place as configured; None: nothing."""
    if place[: len(_HEADER)].lower() == _HEADER:
        name = place[len(_HEADER) :]
        return None if name and name.isascii() and " " not in name else "is no header's name"
    if place.partition(".")[0] not in FIELDS:
        return f"must be header:NAME or begin with one of {', '.join(FIELDS)}"
    return None


class Sessions:
    """The configured places, first to last."""

    __slots__ = ("_body", "_headers")

    def __init__(self, places: Sequence[str]) -> None:
        self._headers: dict[bytes, int] = {}
        self._body: list[tuple[int, str, list[str]]] = []
        for rank, place in enumerate(places):
            if place[: len(_HEADER)].lower() == _HEADER:
                self._headers.setdefault(place[len(_HEADER) :].lower().encode(), rank)
            else:
                field, *path = place.split(".")
                self._body.append((rank, field, path))

    def said(self, fields: Sequence[tuple[bytes, bytes]]) -> Said:
        """What a head's fields (lower-case names) say."""
        best = NOWHERE
        for name, value in fields:
            rank = self._headers.get(name)
            if rank is not None and rank < best[0] and value:
                best = (rank, value.decode("latin-1"))
        return best

    def find(self, said: Said, told: SessionFields | None) -> str | None:
        """The session of a request, by what its head said and its body tells; None: it does not say."""
        if told is not None and not (
            told.prompt_cache_key is None
            and told.metadata is ABSENT
            and told.session_id is None
            and told.client_metadata is ABSENT
            and told.vllm_xargs is ABSENT
        ):
            for rank, field, path in self._body:
                if rank > said[0]:
                    break
                value = getattr(told, field)
                if value is not None and value is not ABSENT:
                    session = _session(value, path)
                    if session:
                        return session
        return said[1] or None


def _session(value: Any, path: Sequence[str]) -> str:
    """The text or number that the path leads to; empty if it leads nowhere."""
    try:
        if isinstance(value, msgspec.Raw):
            value = msgspec.json.decode(value)
        for name in path:
            if isinstance(value, str):
                if value[:1] == "{":
                    value = msgspec.json.decode(value)
                else:
                    return value.partition(_SUFFIX)[2]
            if not isinstance(value, dict):
                return ""
            value = value.get(name)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""
