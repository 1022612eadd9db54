"""The line of writes against a plain list."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from warmroute.adapters.registry.redis.queue import Queue, Write
from warmroute.core.types import FingerprintHash, Incarnation

writes = st.builds(
    Write,
    st.lists(st.integers(0, 9).map(FingerprintHash), max_size=3),
    st.integers(0, 3).map(Incarnation),
    st.none() | st.integers(0, 9).map(float),
)


@given(st.lists(writes | st.just("pop")))
def test_order_rungs_and_oldest_are_a_lists_whatever_is_added_and_taken(steps: list[Write | str]) -> None:
    queue = Queue()
    line: list[Write] = []
    for step in steps:
        if isinstance(step, Write):
            queue.push(step)
            line.append(step)
        elif line:
            assert queue.pop() is line.pop(0)
        assert bool(queue) == bool(line)
        assert queue.rungs == sum(len(write.rungs) for write in line)
        assert queue.oldest_s == min(
            [at_s for write in line if (at_s := write.at_s) is not None], default=math.inf
        )
