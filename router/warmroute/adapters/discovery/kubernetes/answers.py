"""The answers of a Kubernetes API server are lists, events of a watch, and errors, each read here as what it means.

This module does no I/O. An error becomes an `ApiFailure`, whose text says what happened and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from warmroute.adapters.discovery.kubernetes.slices import Metadata, Slice
from warmroute.ports import DiscoveryFailure

MAX_EVENT_BYTES: Final = 4 << 20
"""An object in etcd takes 1.5 MB at most."""
_SHOWN: Final = 300
"""Most of what a server says that is repeated in a log line."""
_GONE: Final = 410
_EXPIRED: Final = frozenset({"Expired", "Gone"})


class ApiFailure(Exception):
    """A call that failed."""

    def __init__(
        self,
        failure: DiscoveryFailure,
        detail: str,
        *,
        retry_after_s: float = 0.0,
        gone: bool = False,
        broken: bool = False,
    ) -> None:
        """Args:
        retry_after_s: The server asks not to be called before.
        gone: The version or the page asked for is too old: list anew.
        broken: A watch that was open was cut, or fell silent: nothing to worry about, once.
        """
        super().__init__(detail)
        self.failure = failure
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.gone = gone
        self.broken = broken


class Page(msgspec.Struct):
    """A part of a list."""

    items: list[msgspec.Raw]
    version: str
    """Of the whole list: what a watch goes on from."""
    token: str
    """Asks for the next page; empty: this was the last."""


class Change(msgspec.Struct):
    """One event of a watch."""

    version: str
    """What a watch that begins after it goes on from."""
    name: str = ""
    """Of the slice; empty for a bookmark, which tells only how far the watch is."""
    slice_: Slice | None = None
    """As it is now; None: it is gone, or unreadable."""
    unreadable: str = ""
    """Why it cannot be read."""


class Status(msgspec.Struct):
    """What Kubernetes says of an error."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Named(msgspec.Struct):
    metadata: Metadata


_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_slice = msgspec.json.Decoder(Slice).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_status = msgspec.json.Decoder(Status).decode
_WRONG = (msgspec.DecodeError, ValueError)


class WatchReader:
    """The bytes of a watch as changes: a JSON object a line, in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[Change]:
        """The changes that this piece completes, each read when it is asked for; read all before the next piece.

        Raises:
            ApiFailure: One says that the watch cannot go on, or is none.
        """
        rest = self._rest
        rest += piece
        end = rest.rfind(b"\n") + 1
        lines = bytes(rest[:end]).split(b"\n")
        del rest[:end]
        if len(rest) > MAX_EVENT_BYTES:
            raise unreadable(f"an event of its watch is longer than {MAX_EVENT_BYTES:,} bytes")
        for line in lines:
            if line.strip():
                yield _change(line)


def _change(line: bytes) -> Change:
    try:
        event = _decode_event(line)
        if event.type == "ERROR":
            status = _decode_status(event.object)
            raise refused(status.code, status)
        if event.type not in ("BOOKMARK", "DELETED"):
            slice_, why = read_slice(event.object)
            if slice_ is not None:
                return Change(slice_.metadata.resourceVersion, slice_.metadata.name, slice_)
        meta = _decode_named(event.object).metadata
    except _WRONG as error:
        raise unreadable(f"an event of its watch is not one: {error}") from error
    if event.type == "BOOKMARK":
        return Change(meta.resourceVersion)
    if event.type == "DELETED":
        return Change(meta.resourceVersion, meta.name)
    return Change(meta.resourceVersion, meta.name, None, why)


def read_page(body: bytes) -> Page:
    """A page of a list.

    Raises:
        ApiFailure: It is none.
    """
    try:
        listed = _decode_list(body)
    except _WRONG as error:
        raise unreadable(f"its list of EndpointSlices is not one: {error}") from error
    return Page(listed.items or [], listed.metadata.resourceVersion, listed.metadata.continue_)


def read_slice(raw: msgspec.Raw) -> tuple[Slice | None, str]:
    """A slice, or why it is none."""
    try:
        return _decode_slice(raw), ""
    except _WRONG as error:
        return None, str(error)


def name_of(raw: msgspec.Raw) -> str:
    """Name of an object; empty if it has none."""
    try:
        return _decode_named(raw).metadata.name
    except _WRONG:
        return ""


def read_status(body: bytes) -> Status:
    """What a body says of an error; nothing if it is not Kubernetes that speaks."""
    try:
        return _decode_status(body)
    except _WRONG:
        return Status()


def unreadable(what: str) -> ApiFailure:
    """An answer that cannot be understood."""
    return ApiFailure(DiscoveryFailure.UNREADABLE, f"the Kubernetes API cannot be understood: {what}")


def refused(
    code: int, status: Status, *, retry_after: str = "", identity: str = "", namespace: str = ""
) -> ApiFailure:
    """What an answer that is an error, or an error in a watch, means.

    Args:
        retry_after: The header of that name.
        identity: What credentials were shown.
    """
    said = f" ({status.message[:_SHOWN]})" if status.message else ""
    after_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    if code == _GONE or status.reason in _EXPIRED:
        return ApiFailure(DiscoveryFailure.SERVER, f"what was asked for is too old{said}", gone=True)
    if code == 401:
        return ApiFailure(
            DiscoveryFailure.UNAUTHORIZED,
            f"the Kubernetes API does not take our credentials, {identity or 'none'}{said}: expired, or of another"
            " cluster? Renew them; they are read again at every try",
        )
    if code == 403:
        return ApiFailure(
            DiscoveryFailure.FORBIDDEN,
            f"the Kubernetes API forbids it{said}: needed are a Role in namespace {namespace!r} with apiGroups"
            ' ["discovery.k8s.io"], resources ["endpointslices"], verbs ["list", "watch"], and a RoleBinding of it to'
            " the router's service account",
        )
    if code == 404:
        return ApiFailure(
            DiscoveryFailure.NOT_FOUND,
            f"the Kubernetes API has no discovery.k8s.io/v1{said}: Kubernetes has it from 1.21 on; is the server's URL"
            " right?",
        )
    if code == 429:
        return ApiFailure(
            DiscoveryFailure.OVERLOADED,
            f"the Kubernetes API asks to be called less (429){said}",
            retry_after_s=after_s,
        )
    if code >= 500:
        return ApiFailure(
            DiscoveryFailure.SERVER, f"the Kubernetes API failed: {code}{said}", retry_after_s=after_s
        )
    return unreadable(f"it answered {code}{said}")
