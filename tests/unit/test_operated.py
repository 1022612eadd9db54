"""Replicas by hand, beside a membership that follows a moment later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from warmroute.core.errors import NotFoundError
from warmroute.core.types import ReplicaId
from warmroute.ports import Member
from warmroute.service.membership import Membership
from warmroute.service.operated import Addition, ConflictError, Operated


class Following:
    """Follows what is named only when it is told to."""

    def __init__(self) -> None:
        self.named: dict[str, Member] = {}
        self.followed: dict[str, Member] = {}

    def use(self, configured: Sequence[Member], added: Sequence[Member]) -> None:
        self.named = {member.replica_id: member for member in (*configured, *added)}

    def follow(self) -> None:
        self.followed = dict(self.named)

    def members(self) -> list[Member]:
        return list(self.followed.values())

    def member(self, replica_id: str) -> Member | None:
        return self.followed.get(replica_id)

    def drain(self, _: frozenset[ReplicaId]) -> None:
        return

    def source_of(self, replica_id: ReplicaId) -> str:
        return "admin" if replica_id in self.named else ""


def test_a_replica_that_was_just_taken_out_is_not_known_rather_than_named_by_nobody() -> None:
    following = Following()
    operated = Operated(
        lambda: cast(Membership, following),
        [Member(ReplicaId("first"), "http://a:1")],
        member_of=lambda addition: Member(ReplicaId(addition.id), addition.url),
        source_of=following.source_of,
        use=following.use,
    )
    operated.add(Addition("http://b:1", "second"))
    following.follow()
    operated.remove("second")
    with pytest.raises(NotFoundError, match="there is no replica 'second'; there are: first"):
        operated.remove("second")
    following.follow()
    with pytest.raises(NotFoundError, match="there is no replica 'second'; there are: first"):
        operated.remove("second")


def test_a_replica_that_discovery_names_is_taken_out_there() -> None:
    following = Following()
    operated = Operated(
        lambda: cast(Membership, following),
        [],
        member_of=lambda addition: Member(ReplicaId(addition.id), addition.url),
        source_of=lambda _: "dns://pods:8000",
        use=following.use,
    )
    following.followed = {"pod": Member(ReplicaId("pod"), "http://c:1")}
    with pytest.raises(ConflictError, match="pod is named by dns://pods:8000: take it away there"):
        operated.remove("pod")
