"""Runs the inputs of one target, in a process of its own."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from tests.fuzz.mutator import mutated, seeds
from tests.fuzz.targets import TARGETS

FAILED = Path(".cache/fuzz")

MOST_SHOWN = 5
"""Failures of one target that are told in full."""


def run(name: str, first: int, count: int) -> int:
    """Inputs of one target; how many failed."""
    logging.disable(logging.CRITICAL)
    corpus = seeds(name)
    target = TARGETS[name]
    failed = 0
    for number in range(first, first + count):
        data = mutated(corpus, number)
        try:
            target(data)
        except Exception:
            failed += 1
            if failed <= MOST_SHOWN:
                FAILED.mkdir(parents=True, exist_ok=True)
                (FAILED / f"{name}-{number}").write_bytes(data)
                print(f"{name} {number}: {data[:300]!r}\n{traceback.format_exc(limit=-3)}", flush=True)
    return failed
