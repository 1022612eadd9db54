"""Heartbeats say who is in the fleet by agents' own records, until when each record holds, and who said goodbye.

This module holds no connection and reads no clock. Its rules:

- A record counts as long as Redis lists it with a time, its own, that is not over. One that is over, or is missing,
  goes only once the time up to which it was known to hold has passed here too: a Redis that was emptied, or restarted,
  lists nobody for the second that agents take to come again.
- A goodbye counts at once.
- The last replicas to fall silent stay, if nobody else speaks. That agents do not reach Redis any more is more probable
  than that all engines died at once, and routers notice dead engines by themselves.
- What was published while a list was read is newer than that list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from warmroute.core.types import ReplicaId
from warmroute.ports import Member

FORMAT = 1
LIVES_HEARTBEATS = 4
"""Heartbeats that a record outlives; agents write it so."""

MAX_MODELS = 256
MAX_LABELS = 64
MAX_ID = 256
MAX_RANKS = 1024
_PLAIN = re.compile(r"[\x21-\x7e]+")
_RANKED = re.compile(r"#[0-9]+$")


class UnusableError(ValueError):
    """A record that cannot be used; the message says why, for people."""


class _Record(msgspec.Struct):
    id: str
    url: str
    state: Literal["starting", "ready", "draining", "gone"]
    interval_s: float = 1.0
    models: list[str] = []
    adapters: list[str] = []
    zone: str | None = None
    labels: dict[str, str] = {}
    ranks: int | None = None
    running: int | None = None
    waiting: int | None = None


class _Format(msgspec.Struct):
    format: int


_decode = msgspec.json.Decoder(_Record).decode
_decode_format = msgspec.json.Decoder(_Format).decode


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one agent said last."""

    member: Member
    state: str
    lives_s: float
    """How long it holds from the moment it is said."""
    running: int | None
    waiting: int | None


@dataclass(slots=True)
class _Heard:
    heartbeat: Heartbeat
    until_s: float
    """Up to when it is known to hold, by the router's monotonic clock."""
    published_s: float
    """When it was published last; 0 if it was only read."""


def read_heartbeat(text: bytes) -> Heartbeat:
    """Read a record.

    Raises:
        UnusableError: It is none, is of a newer format, or names something that cannot be a replica.
    """
    try:
        told = _decode_format(text).format
        if told != FORMAT:
            raise UnusableError(
                f"format {told}: this router reads {FORMAT}; update the older of router and agents"
            )
        record = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableError(f"no record of an agent: {error}") from error
    if not 0 < len(record.id) <= MAX_ID or not _PLAIN.fullmatch(record.id):
        raise UnusableError(f"id {record.id[:40]!r} is empty, too long, or not plain text")
    if _RANKED.search(record.id):
        raise UnusableError(
            f"id {record.id!r} ends like a data-parallel rank's (#NUMBER): give the agent another"
        )
    if record.ranks is not None and not 1 <= record.ranks <= MAX_RANKS:
        raise UnusableError(f"ranks {record.ranks} is not from 1 to {MAX_RANKS}")
    if not 0.05 <= record.interval_s <= 60.0:
        raise UnusableError(f"interval_s {record.interval_s:g} is not between 0.05 and 60")
    return Heartbeat(
        member=Member(
            ReplicaId(record.id),
            _base_url(record.url),
            models=frozenset((*record.models, *record.adapters)[:MAX_MODELS]),
            zone=record.zone or "",
            draining=record.state == "draining",
            labels=dict(list(record.labels.items())[:MAX_LABELS]),
            ranks=record.ranks,
        ),
        state=record.state,
        lives_s=record.interval_s * LIVES_HEARTBEATS,
        running=record.running,
        waiting=record.waiting,
    )


class Heartbeats:
    """All agents' last words."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}
        self._goodbyes_s: dict[str, float] = {}
        """Who said goodbye since the last list was asked for, and when."""
        self._silent = 0

    @property
    def silent(self) -> int:
        """How many are kept though they fell silent, because nobody else is left."""
        return self._silent

    def members(self) -> tuple[Member, ...]:
        """Who is to be routed to, or finishes what it has; by id, so that order says nothing."""
        used = [h.heartbeat.member for h in self._heard.values() if h.heartbeat.state != "starting"]
        return tuple(sorted(used, key=lambda member: member.replica_id))

    def publish(self, heartbeat: Heartbeat, now_s: float) -> bool:
        """An agent said this just now. Returns whether `members` may be others: mostly only the load is another."""
        replica_id = heartbeat.member.replica_id
        if heartbeat.state == "gone":
            self._goodbyes_s[replica_id] = now_s
            return self._heard.pop(replica_id, None) is not None
        self._goodbyes_s.pop(replica_id, None)
        known = self._heard.get(replica_id)
        before = known.heartbeat if known is not None else None
        self._hear(heartbeat, now_s + heartbeat.lives_s, now_s)
        return before is None or before.state != heartbeat.state or before.member != heartbeat.member

    def connected(self, now_s: float) -> None:
        """Redis is there again: whoever was known has the time of a few heartbeats to speak."""
        for heard in self._heard.values():
            heard.until_s = max(heard.until_s, now_s + heard.heartbeat.lives_s)

    def listed(self, listed: Iterable[tuple[Heartbeat, float]], began_s: float, now_s: float) -> None:
        """Redis lists these, each with the seconds that its record still holds. The list was asked for at `began_s`."""
        alive: set[str] = set()
        for heartbeat, rest_s in listed:
            replica_id = heartbeat.member.replica_id
            heard = self._heard.get(replica_id)
            if rest_s <= 0 or heartbeat.state == "gone" or self._goodbyes_s.get(replica_id, -1.0) >= began_s:
                continue
            alive.add(replica_id)
            if heard is None or heard.published_s < began_s:  # else what was published says more
                self._hear(heartbeat, now_s + rest_s, heard.published_s if heard is not None else 0.0)
        self._goodbyes_s = {key: at_s for key, at_s in self._goodbyes_s.items() if at_s >= began_s}
        over = [
            replica_id
            for replica_id, heard in self._heard.items()
            if replica_id not in alive and heard.until_s <= now_s
        ]
        self._silent = len(over) if over and len(over) == len(self._heard) else 0
        if not self._silent:
            for silent in over:
                del self._heard[silent]

    def next_end_s(self) -> float | None:
        """When the first of them would be over, if it is not heard of before."""
        return min((heard.until_s for heard in self._heard.values()), default=None)

    def _hear(self, heartbeat: Heartbeat, until_s: float, published_s: float) -> None:
        known = self._heard.get(heartbeat.member.replica_id)
        if known is None:
            self._heard[heartbeat.member.replica_id] = _Heard(heartbeat, until_s, published_s)
            return
        known.heartbeat, known.until_s, known.published_s = heartbeat, until_s, published_s


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url.rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = None
    rest = not usable or parts.path or parts.query or parts.fragment or parts.username
    if rest or not _PLAIN.fullmatch(url):
        raise UnusableError(f"url {url[:80]!r} is not http://HOST:PORT or https://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc.lower()}"
