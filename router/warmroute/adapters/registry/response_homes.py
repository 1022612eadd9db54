"""Which replica keeps a stored response, as this process knows it. Decides what is forgotten; asks nobody."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from warmroute.core.types import ReplicaId


class ResponseHomes:
    """Which replica keeps a stored response: bounded, oldest forgotten first, ids of any length."""

    def __init__(self, idle_s: float, max_entries: int) -> None:
        self._idle_s = idle_s
        self._max_entries = max_entries
        self._homes: OrderedDict[bytes, tuple[ReplicaId, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._homes)

    def remember(self, response_id: str, replica: ReplicaId, now_s: float) -> None:
        """Note the response's home, most recent last."""
        homes = self._homes
        key = response_key(response_id)
        homes.pop(key, None)
        homes[key] = (replica, now_s)
        # Two for one, so that the expired are gone sooner than new ones come.
        for _ in range(2):
            oldest_s = next(iter(homes.values()))[1]
            if len(homes) > self._max_entries or oldest_s < now_s - self._idle_s:
                homes.popitem(last=False)

    def find(self, response_id: str, now_s: float) -> ReplicaId | None:
        """The response's home, unless forgotten."""
        home = self._homes.get(response_key(response_id))
        return home[0] if home is not None and home[1] >= now_s - self._idle_s else None


def response_key(response_id: str) -> bytes:
    """16 bytes that stand for a response id of any length and content."""
    return blake2b(response_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
