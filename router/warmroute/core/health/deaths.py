"""A request that was with a replica when it died is tried once more, and refused for minutes if the next one dies too.

A request that was never delivered is tried again freely. One that was delivered in full may be what killed the engine
(a prompt that trips an assertion, or takes the last of its memory), and it would then kill the next one too. Most often
it is innocent, since everything that was under way dies with an engine. So it is tried once more. A request that two
replicas died with, one after the other, is refused while this module remembers it. Any answer to the same request
clears it.

A lost connection alone is no death: a life counts where the replica is found unwell, or in another life, when the
question is asked. This module decides nothing else. Its caller makes the keys that tell requests apart.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.fleet.replica import Server
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import Incarnation

Life = tuple[Server, Incarnation | None]

MOST_LIVES: Final = 2
"""A request that so many died with is refused: with one it may have been chance."""
MAX_KEYS: Final = 4096
BUDGET_S: Final = 30.0
LEAST_BUDGET: Final = 2
"""Replicas down that died within `BUDGET_S`, up to which delivered requests are tried again; half of a larger fleet."""


class _Suspect:
    __slots__ = ("lives", "until_s")

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.until_s = 0.0


class Deaths:
    """What one router saw. Bounded: the longest remembered go first."""

    def __init__(self, memory_s: float) -> None:
        """Args:
        memory_s: How long a request is remembered; 0 to refuse none.
        """
        self.memory_s = memory_s
        self._suspects: dict[int, _Suspect] = {}
        self._lives: dict[Life, float] = {}
        """When each was lost first."""
        self._engines: dict[Life, float] = {}
        """Those whose server said that its engine is dead, and when it did first."""

    @property
    def remembers(self) -> bool:
        """Whether any request is remembered."""
        return bool(self._suspects)

    def note(self, key: int, life: Life, now_s: float, engine: bool = False) -> None:
        """A request was with this life of a replica when the connection broke, or (`engine`) its server said that the
        engine is dead."""
        if life not in self._lives:
            self._forget_lives(now_s)
            self._lives[life] = now_s
        if engine:
            self._engines.setdefault(life, now_s)
        if not key or self.memory_s <= 0.0:
            return
        suspect = self._suspects.pop(key, None)  # the latest stands last
        if suspect is None or suspect.until_s <= now_s:
            suspect = _Suspect()
        if life not in suspect.lives and len(suspect.lives) <= MOST_LIVES:
            suspect.lives.append(life)
        suspect.until_s = now_s + self.memory_s
        suspects = self._suspects
        suspects[key] = suspect
        while suspects and (len(suspects) > MAX_KEYS or next(iter(suspects.values())).until_s <= now_s):
            del suspects[next(iter(suspects))]

    def was_dead(self, life: Life, sent_s: float) -> bool:
        """Whether this life's engine was dead before then: what its server was sent afterwards reached none."""
        lost_s = self._engines.get(life)
        return lost_s is not None and lost_s < sent_s

    def may_try_again(self, life: Life, now_s: float, servers: int) -> bool:
        """Whether so few died lately that requests which were with this one may be given to another."""
        died = 1
        self._forget_lives(now_s)
        for other in self._lives:
            if other != life and _over(other) and not _back(other[0]):
                died += 1
        return died <= max(LEAST_BUDGET, servers // 2)

    def _forget_lives(self, now_s: float) -> None:
        """Those lost long ago: with each goes all that was known of a replica that may have left since."""
        for life, lost_s in list(self._lives.items()):
            if not 0.0 <= now_s - lost_s < BUDGET_S:
                del self._lives[life]
                self._engines.pop(life, None)

    def died_with(self, key: int, now_s: float) -> list[Life]:
        """The lives that ended with this request under way."""
        suspect = self._suspects.get(key)
        if suspect is None:
            return []
        if suspect.until_s <= now_s:
            del self._suspects[key]
            return []
        return [life for life in suspect.lives if _over(life)]

    def clear(self, key: int) -> None:
        """It was answered."""
        self._suspects.pop(key, None)


def _back(server: Server) -> bool:
    """Whether it serves again. One that is still in the views but does not answer its probes does not."""
    health = server.health
    return health.state is ReplicaState.READY and not health.dead and health.probe_failures == 0


def _over(life: Life) -> bool:
    server, incarnation = life
    health = server.health
    return (
        health.dead
        or health.probe_failures > 0
        or server.replicas[0].over(incarnation)
        or health.state is ReplicaState.GONE
    )
