"""Load boards for tests: routers of one process that share a list, with outages and losses on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class SharedList:
    """What the boards of one deployment share."""

    def __init__(self) -> None:
        self.notices: list[bytes] = []
        self.bells: dict[ListBoard, Callable[[], None]] = {}
        self.up = True


class ListBoard:
    """Implements `LoadBoard` over a `SharedList`."""

    shared = True

    def __init__(self, common: SharedList) -> None:
        self._common = common
        self._read_to: int | None = None
        self.posted = 0
        self.lose_next = False
        """The next notice reaches nobody, as if it had been dropped from the board before anybody read it."""

    async def start(self) -> None:
        """Nothing to connect to."""

    def listen(self, ring: Callable[[], None]) -> None:
        """Rings at every notice of another."""
        self._common.bells[self] = ring

    async def exchange(self, notice: bytes | None) -> Sequence[bytes] | None:
        """Reading begins with the first own notice after every outage."""
        common = self._common
        if not common.up:
            self._read_to = None
            return None
        if notice is not None:
            self.posted += 1
            lost, self.lose_next = self.lose_next, False
            if not lost:
                common.notices.append(notice)
                for board, ring in common.bells.items():
                    if board is not self:
                        ring()
        if self._read_to is None:
            if notice is not None:
                self._read_to = len(common.notices)
            return ()
        read, self._read_to = common.notices[self._read_to :], len(common.notices)
        return read

    async def stop(self) -> None:
        """Nothing to disconnect from."""
