"""What is remembered of recent prompts, by tenant and model, within a bound on memory.

Decides which prompts are forgotten: the oldest of a tenant and model beyond `MOST_EACH`, an earlier turn of the same
conversation, and, where memory runs out, those of whoever was not heard of for longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from warmroute.advice.sketch import Sketch, common_words

MOST_EACH: Final = 24
MOST_OWNERS: Final = 256
"""Tenants and models together."""

Owner = tuple[str, str]
"""Tenant and model."""


class Recent:
    """Sketches of recent prompts.

    Args:
        most_bytes: Memory that all of them may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._of: OrderedDict[Owner, list[Sketch]] = OrderedDict()
        """Longest not heard of first; each's oldest first."""
        self.bytes = 0

    def of(self, owner: Owner) -> Sequence[Sketch]:
        """What is remembered, oldest first."""
        return self._of.get(owner, ())

    def add(self, owner: Owner, sketch: Sketch) -> None:
        """Remember one more."""
        sketches = self._of.setdefault(owner, [])
        self._of.move_to_end(owner)
        for index, known in enumerate(sketches):
            if common_words(known.hashes, 0, sketch.hashes, 0) == len(known):
                self.bytes -= sketches.pop(index).bytes  # it goes on from there
                break
        sketches.append(sketch)
        self.bytes += sketch.bytes
        if len(sketches) > MOST_EACH:
            self.bytes -= sketches.pop(0).bytes
        while self.bytes > self._most_bytes or len(self._of) > MOST_OWNERS:
            self._forget_one()

    def _forget_one(self) -> None:
        owner, sketches = next(iter(self._of.items()))
        self.bytes -= sketches.pop(0).bytes
        if not sketches or len(self._of) > MOST_OWNERS:
            self.bytes -= sum(sketch.bytes for sketch in sketches)
            del self._of[owner]
