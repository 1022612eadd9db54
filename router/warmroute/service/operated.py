"""What operators change of the fleet while the router runs: replicas added, removed, and drained by hand.

Decides what such a change means beside the settings and beside discovery:

- A replica that is added stands beside those that sources name. It may be removed again.
- One that the setting `replicas` names may be removed: it stays away until the settings have left it out once, or until
  it is added again. One that discovery names is removed where that reads it.
- A drain stands until it is taken back, whether the replica goes, comes again or moves meanwhile.

Each change is kept as text by whoever gives `keep` (several workers of one router: a file), and `read` takes it over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from warmroute.core.errors import ClientError, NotFoundError
from warmroute.core.ranks import server_id_of
from warmroute.core.types import ReplicaId
from warmroute.ports import Member
from warmroute.service.membership import Membership
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

MOST_ADDED = 10_000


class Addition(msgspec.Struct, forbid_unknown_fields=True):
    """A replica to be added, as `POST /replicas` takes it: what an entry of the setting `replicas` is."""

    url: str
    id: str = ""
    ranks: int | None = None


class Changes(msgspec.Struct):
    """All that is in effect."""

    added: list[Addition] = []
    removed: list[str] = []
    drained: list[str] = []


class ConflictError(ClientError):
    """What is asked for is not possible beside what there is: 409."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, status=409, code="conflict", param=param)


class Operated:
    """Of one worker."""

    def __init__(
        self,
        membership: Callable[[], Membership],
        configured: Sequence[Member],
        *,
        member_of: Callable[[Addition], Member],
        source_of: Callable[[ReplicaId], str],
        use: Callable[[Sequence[Member], Sequence[Member]], None],
        keep: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """Args:
        configured: Those that the setting `replicas` names.
        member_of: Judges an addition; raises `ClientError` for what is none.
        source_of: The discovery that names a replica.
        use: Called with what is left of those configured, and with those added.
        """
        self._membership = membership
        self._configured = tuple(configured)
        self._member_of = member_of
        self._source_of = source_of
        self._use = use
        self._keep = keep
        self._changes = Changes()

    def configure(self, configured: Sequence[Member]) -> tuple[list[str], list[str]]:
        """The settings name these from now on. Returns ids that came and ids that went, for the log."""
        before, after = {m.replica_id for m in self._configured}, {m.replica_id for m in configured}
        self._configured = tuple(configured)
        kept = [name for name in self._changes.removed if name in after]
        if kept != self._changes.removed:
            self._changes.removed = kept
            self._keep(msgspec.json.encode(self._changes))
        self._apply()
        return sorted(after - before), sorted(before - after)

    def read(self, text: bytes) -> None:
        """Take over what another worker kept. Text that is none changes nothing."""
        try:
            changes = msgspec.json.decode(text, type=Changes)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("operated_unreadable", extra=fields(error=error))
            return
        self._changes = changes
        self._apply()

    def add(self, addition: Addition) -> ReplicaId:
        """Add a replica, or bring back a configured one that was removed.

        Raises:
            ClientError: 400, it is none; 409, its id or URL is taken, or there are too many.
        """
        member = self._member_of(addition)
        replica_id, removed = member.replica_id, self._changes.removed
        if replica_id in removed:
            configured = next(m for m in self._configured if m.replica_id == replica_id)
            if configured.url != member.url or (member.ranks or configured.ranks) != configured.ranks:
                raise ConflictError(
                    f"{replica_id} is the setting `replicas`' name of {configured.url}: give another id", "id"
                )
            removed.remove(replica_id)
        else:
            for known in (*self._membership().members(), *self._left(), *self._added()):
                if known.replica_id == replica_id:
                    raise ConflictError(f"there is a replica {replica_id!r} already: give another id", "id")
                if known.url == member.url:
                    raise ConflictError(f"{member.url} is replica {known.replica_id!r} already", "url")
            if len(self._changes.added) >= MOST_ADDED:
                raise ConflictError(f"{MOST_ADDED} replicas were added already")
            self._changes.added.append(Addition(member.url, replica_id, member.ranks))
        log.info("operator_added", extra=fields(replica=replica_id, url=member.url))
        self._changed()
        return replica_id

    def remove(self, replica_id: str) -> None:
        """Take a replica out of the fleet; it finishes what it has.

        Raises:
            ClientError: 404, it is not known; 409, discovery names it.
        """
        changes = self._changes
        if any(addition.id == replica_id for addition in changes.added):
            changes.added = [addition for addition in changes.added if addition.id != replica_id]
        elif any(member.replica_id == replica_id for member in self._configured):
            if replica_id in changes.removed:
                raise self._unknown(replica_id)
            changes.removed.append(replica_id)
        else:
            self._known(replica_id)
            source = self._source_of(ReplicaId(replica_id))
            if not source:  # nobody names it any more: it was taken out a moment ago
                raise self._unknown(replica_id)
            raise ConflictError(
                f"{replica_id} is named by {source}: take it away there, or drain it here", "replica"
            )
        if replica_id in changes.drained:
            changes.drained.remove(replica_id)
        log.info("operator_removed", extra=fields(replica=replica_id))
        self._changed()

    def drain(self, replica_id: str) -> None:
        """Give a replica nothing new, until `undrain`.

        Raises:
            NotFoundError: It is not known.
        """
        self._known(replica_id)
        if replica_id not in self._changes.drained:
            self._changes.drained.append(replica_id)
            log.info("operator_drained", extra=fields(replica=replica_id))
            self._changed()

    def undrain(self, replica_id: str) -> None:
        """Take a drain back. One that discovery asks for stands.

        Raises:
            NotFoundError: It is not known, and not drained.
            ClientError: 409, it drains, and no operator asked for it.
        """
        if replica_id in self._changes.drained:
            self._changes.drained.remove(replica_id)
            log.info("operator_undrained", extra=fields(replica=replica_id))
            self._changed()
            return
        if self._known(replica_id).draining:
            source = self._source_of(ReplicaId(replica_id))
            raise ConflictError(f"{replica_id} drains since {source} says so: it ends there", "replica")

    def _known(self, replica_id: str) -> Member:
        member = self._membership().member(ReplicaId(replica_id))
        if member is not None:
            return member
        for member in (*self._left(), *self._added()):  # named, and not followed yet
            if member.replica_id == replica_id:
                return member
        raise self._unknown(replica_id)

    def _unknown(self, replica_id: str) -> NotFoundError:
        server = server_id_of(ReplicaId(replica_id))
        if server != replica_id and self._membership().member(server) is not None:
            return NotFoundError(
                f"{replica_id} is one rank of {server}, and comes, goes and drains with all of them: name {server}",
                code="replica_not_found",
                param="replica",
            )
        names = sorted(
            member.replica_id
            for member in self._membership().members()
            if member.replica_id != replica_id  # one that is just leaving
        )
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        return NotFoundError(
            f"there is no replica {replica_id!r}; there are: {shown or 'none'}",
            code="replica_not_found",
            param="replica",
        )

    def _changed(self) -> None:
        self._keep(msgspec.json.encode(self._changes))
        self._apply()

    def _apply(self) -> None:
        self._use(self._left(), self._added())
        self._membership().drain(frozenset(ReplicaId(name) for name in self._changes.drained))

    def _left(self) -> list[Member]:
        removed = self._changes.removed
        return [member for member in self._configured if member.replica_id not in removed]

    def _added(self) -> list[Member]:
        return [Member(ReplicaId(a.id), a.url, ranks=a.ranks) for a in self._changes.added]
