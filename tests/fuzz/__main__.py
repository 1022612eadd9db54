"""`make fuzz`: mutated inputs through every parser, and some on live sockets. Ends 1 if anything did not hold.

An input that fails is written to `.cache/fuzz/` with its number, which makes it again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time

from tests.fuzz import live
from tests.fuzz.runner import run
from tests.fuzz.targets import SHARES, TARGETS


def main() -> int:
    """Exit status."""
    arguments = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    arguments.add_argument("--inputs", type=int, default=1_000_000)
    arguments.add_argument("--live", type=int, default=10_000)
    arguments.add_argument(
        "--first", type=int, default=0, help="number of the first input: others find other things"
    )
    arguments.add_argument("--target", choices=TARGETS, action="append")
    arguments.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = arguments.parse_args()
    names = given.target or list(TARGETS)
    logging.disable(logging.CRITICAL)
    fixed = sum(SHARES.get(name, 0.0) for name in names)
    even = (1.0 - fixed) / max(1, len([name for name in names if name not in SHARES]))
    failed = 0
    total = 0
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for name in names:
            count = int(given.inputs * SHARES.get(name, even)) if len(names) > 1 else given.inputs
            began_s = time.monotonic()
            size = -(-count // given.processes)
            work = [
                (name, given.first + begin, min(size, count - begin))
                for begin in range(0, max(count, 0), size or 1)
            ]
            failures = sum(pool.starmap(run, work))
            failed += failures
            total += count
            print(
                f"{name:10} {count:9,} inputs  {failures} failed  {time.monotonic() - began_s:.0f} s",
                flush=True,
            )
    print(f"{'parsers':10} {total:9,} inputs  {failed} failed", flush=True)
    if given.live:
        problems = live.run(given.live, given.first)
        failed += len(problems)
        for problem in problems[:20]:
            print(problem)
        print(f"{'live':10} {given.live:9,} inputs  {len(problems)} problems")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
