"""`python -m warmroute_loadtest.demo --engine sim|vllm [--once]` runs the demo and ends with a status.

Exit status: 0 when the comparison was made and nothing failed, 1 with the reason on standard error, 130 when
interrupted before the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from warmroute_loadtest.demo.children import DemoError
from warmroute_loadtest.demo.display import Screen
from warmroute_loadtest.demo.scenario import Settings, run
from warmroute_loadtest.demo.workload import SIMULATED, TINY_VLLM

SIM_SPEED = 6.0


def settings_of(argv: Sequence[str] | None) -> Settings:
    """Return the settings that arguments give; wrong arguments end the process with a usage message."""
    parser = argparse.ArgumentParser(
        prog="warmroute_loadtest.demo", description="Warmroute beside round robin, over the same replicas."
    )
    add = parser.add_argument
    add(
        "--engine", choices=("sim", "vllm"), default="sim", help="simulated replicas, or real vLLM on the CPU"
    )
    add("--once", action="store_true", help="end after the table, with one JSON object as the last line")
    add("--conversations", type=int, metavar="N", help="number of conversations")
    add(
        "--speed",
        type=float,
        metavar="F",
        help=f"times faster than modelled (sim only; default {SIM_SPEED:g})",
    )
    args = parser.parse_args(argv)
    workload = SIMULATED if args.engine == "sim" else TINY_VLLM
    if args.engine == "sim":
        workload = replace(workload, speed=SIM_SPEED if args.speed is None else args.speed)
    elif args.speed is not None:
        parser.error("--speed: real replicas run at their own")
    if args.conversations is not None:
        workload = replace(workload, conversations=args.conversations)
    if workload.conversations < 1 or not 0.1 <= workload.speed <= 100:
        parser.error("--conversations must be at least 1, --speed from 0.1 to 100")
    return Settings(args.engine, workload, stay=not args.once)


async def _run(settings: Settings, work_dir: Path) -> int:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        summary = await run(settings, Screen(sys.stdout), work_dir)
    except DemoError as error:
        sys.stdout.flush()
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
    sides = (summary["round_robin"], summary["warmroute"])
    if not settings.stay:
        print(json.dumps(summary))
    return 1 if any(isinstance(side, dict) and side["failed"] for side in sides) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo, and return the exit status."""
    settings = settings_of(argv)
    work_dir = Path(tempfile.mkdtemp(prefix="warmroute-demo-"))
    try:
        return uvloop.run(_run(settings, work_dir))
    except asyncio.CancelledError:
        sys.stderr.write("\ndemo: interrupted\n")
        return 130
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
