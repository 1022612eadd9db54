"""The command line: `warmroute simulate` (an entry point of `warmroute.commands`) or `python -m loadtest.simulate`.

Decides what is read and what is shown. Three things to do: compare policies at one rate, find knees, play the grid.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.simulate.bounds import (
    arrival_order,
    clairvoyant_ratio,
    infinite_ratio,
    pooled_lru_ratio,
    working_set_tokens,
)
from loadtest.simulate.cells import cells, play
from loadtest.simulate.chooser import Chooser, Site
from loadtest.simulate.explain import explain
from loadtest.simulate.generators import GENERATORS
from loadtest.simulate.knee import knee_rate
from loadtest.simulate.metrics import TARGET_BASE_S, TARGET_TOKEN_S, figures
from loadtest.simulate.report import grid_table, page, table, write_png
from loadtest.simulate.rivals import RIVALS
from loadtest.simulate.simulation import FleetConfig, simulate
from loadtest.simulate.traces import TraceError, access_log, mooncake, ragpulse
from loadtest.simulate.warm import warm
from loadtest.simulate.workload import Workload
from replica.sim.step_time import StepTime
from router.core.policies import POLICIES

OURS = "prefix-cost"
_GRID = (("multi-turn", 6000), ("agent-loops", 3000), ("hot-keys", 4000), ("no-reuse", 3000))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options."""
    parser.description = "Serves a workload by many routing policies on a fleet in virtual time."
    what = parser.add_argument_group("workload (one of)")
    source = what.add_mutually_exclusive_group()
    source.add_argument("--mooncake", type=Path, metavar="FILE", help="trace in Mooncake's format")
    source.add_argument("--ragpulse", type=Path, metavar="DIR", help="folder of the RAGPulse trace")
    source.add_argument(
        "--access-log", type=Path, metavar="FILE", help="the router's log, written with fingerprints"
    )
    source.add_argument(
        "--generate", choices=sorted(GENERATORS), help="a generated workload (default: multi-turn)"
    )
    what.add_argument("--requests", type=int, default=3000, help="how many requests at least (default 3000)")
    what.add_argument("--skip", type=int, default=0, help="requests of the trace to leave out first")
    what.add_argument(
        "--rate", type=float, help="requests a second by session starts (default: the trace's own)"
    )
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--replicas", type=int, default=8)
    fleet.add_argument("--cache-tokens", type=int, default=1_000_000, help="KV cache of each replica")
    fleet.add_argument("--prefill-tokens-per-s", type=float, default=StepTime().prefill_tokens_per_s)
    fleet.add_argument("--decode-step-s", type=float, default=StepTime().decode_step_s)
    fleet.add_argument("--speeds", default="", help="speed factor of each replica, comma-separated")
    fleet.add_argument("--seed", type=int, default=7)
    do = parser.add_argument_group("what to do")
    do.add_argument(
        "--policy", action="append", metavar="NAME", help="repeatable; default: ours and all rivals"
    )
    do.add_argument(
        "--knee", action="store_true", help="find each policy's knee instead of serving at one rate"
    )
    do.add_argument(
        "--explain", type=int, metavar="N", help="show every candidate's terms for the N-th request"
    )
    do.add_argument(
        "--cells", action="store_true", help="play the whole grid (needs --mooncake-file, --ragpulse-dir)"
    )
    do.add_argument("--mooncake-file", type=Path, help="for --cells: the Mooncake conversation trace")
    do.add_argument("--ragpulse-dir", type=Path, help="for --cells: the RAGPulse folder")
    do.add_argument("--knees", type=Path, help="for --cells: JSON of known knees, read and completed")
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="figures as JSON (`-`: standard output)")
    out.add_argument("--html", type=Path, metavar="FILE", help="a self-contained page")
    out.add_argument("--png", type=Path, metavar="FILE", help="a plot; needs matplotlib")


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked; 2 where it makes no sense."""
    try:
        makers = _makers(arguments.policy)
        if arguments.cells:
            return _play_grid(arguments)
        workload = _workload(arguments)
        fleet = _fleet(arguments)
        if arguments.explain is not None:
            print(json.dumps(explain(workload, fleet, arguments.explain), indent=1))
            return 0
        if arguments.knee:
            return _find_knees(arguments, workload, fleet, makers)
        return _compare(arguments, workload, fleet, makers)
    except (TraceError, ValueError, OSError, RuntimeError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(prog="simulate")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_parser(commands: Any) -> None:
    """Register as a sub-command of `warmroute` (entry-point group `warmroute.commands`)."""
    parser = commands.add_parser("simulate", help="try policies on a trace, in virtual time")
    add_arguments(parser)
    parser.set_defaults(run=run)


def _makers(names: Sequence[str] | None) -> dict[str, Callable[[Site], Chooser]]:
    if not names:
        return {OURS: warm(OURS), **RIVALS}
    makers: dict[str, Callable[[Site], Chooser]] = {}
    for name in names:
        if name in RIVALS:
            makers[name] = RIVALS[name]
        elif name in POLICIES:
            makers[name] = warm(name)
        else:
            raise ValueError(f"no policy {name!r}; known: {', '.join(sorted({*POLICIES, *RIVALS}))}")
    return makers


def _workload(arguments: argparse.Namespace) -> Workload:
    if arguments.mooncake is not None:
        workload = mooncake(arguments.mooncake)
    elif arguments.ragpulse is not None:
        workload = ragpulse(arguments.ragpulse)
    elif arguments.access_log is not None:
        workload = access_log(arguments.access_log)
    else:
        workload = GENERATORS[arguments.generate or "multi-turn"](arguments.requests + arguments.skip)
    workload = workload.slice(arguments.requests, arguments.skip)
    if not workload.sessions:
        raise ValueError("the workload is empty; is --skip larger than the trace?")
    return workload


def _fleet(arguments: argparse.Namespace) -> FleetConfig:
    speeds = tuple(float(part) for part in arguments.speeds.split(",") if part)
    if speeds and len(speeds) != arguments.replicas:
        raise ValueError(f"--speeds names {len(speeds)} replicas, --replicas {arguments.replicas}")
    step = StepTime(
        prefill_tokens_per_s=arguments.prefill_tokens_per_s, decode_step_s=arguments.decode_step_s
    )
    return FleetConfig(arguments.replicas, arguments.cache_tokens, step, speeds, seed=arguments.seed)


def _facts(workload: Workload, fleet: FleetConfig) -> dict[str, Any]:
    turns = arrival_order(workload)
    total = fleet.cache_tokens * fleet.replicas
    return {
        "workload": workload.name,
        "source": workload.source,
        "requests": workload.requests,
        "mean_prompt_tokens": round(workload.prompt_tokens / workload.requests),
        "rate": round(workload.rate, 4),
        "replicas": fleet.replicas,
        "cache_tokens": fleet.cache_tokens,
        "working_set_ratio": round(working_set_tokens(workload) / total, 3),
        "pooled_lru_ratio": round(pooled_lru_ratio(workload, total, turns), 4),
        "clairvoyant_ratio": round(clairvoyant_ratio(workload, total, turns), 4),
        "infinite_ratio": round(infinite_ratio(workload, turns), 4),
        "target": f"{TARGET_BASE_S} s + {TARGET_TOKEN_S * 1000} ms a prompt token",
        "engine": str(fleet.step_time),
    }


def _compare(
    arguments: argparse.Namespace,
    workload: Workload,
    fleet: FleetConfig,
    makers: dict[str, Callable[[Site], Chooser]],
) -> int:
    if arguments.rate:
        workload = workload.at_rate(arguments.rate)
    facts = _facts(workload, fleet)
    runs = []
    for name, make in makers.items():
        started = time.monotonic()
        runs.append(simulate(workload, fleet, make))
        if sys.stderr.isatty():
            print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    rows = [figures(one) for one in runs]
    if arguments.json != Path("-"):
        for key, value in facts.items():
            print(f"{key:20s} {value}")
        print()
        print(table(rows))
    _write_json(arguments.json, {**facts, "policies": [row.as_dict() for row in rows]})
    title = f"{workload.name} on {fleet.replicas} replicas"
    if arguments.html is not None:
        arguments.html.write_text(page(title, facts, rows, runs), encoding="utf-8")
    if arguments.png is not None:
        write_png(arguments.png, title, runs)
    return 0


def _find_knees(
    arguments: argparse.Namespace,
    workload: Workload,
    fleet: FleetConfig,
    makers: dict[str, Callable[[Site], Chooser]],
) -> int:
    knees: dict[str, float] = {}
    for name, make in makers.items():
        knees[name] = knee_rate(workload, fleet, make, arguments.rate)
        print(f"{name:16s} {knees[name]:8.3f} requests/s", flush=True)
    _write_json(arguments.json, {"workload": workload.name, "knees": knees})
    return 0


def _play_grid(arguments: argparse.Namespace) -> int:
    if arguments.mooncake_file is None or arguments.ragpulse_dir is None:
        raise ValueError("--cells needs --mooncake-file and --ragpulse-dir")
    workloads = {
        "conversation": mooncake(arguments.mooncake_file).slice(arguments.requests),
        "ragpulse": ragpulse(arguments.ragpulse_dir).slice(arguments.requests),
    }
    workloads |= {name: GENERATORS[name](max(count, arguments.requests)) for name, count in _GRID}
    knees: dict[str, float] = {}
    if arguments.knees is not None and arguments.knees.exists():
        knees = json.loads(arguments.knees.read_text(encoding="utf-8"))
    outcomes = []
    for cell in cells(workloads, knees, _fleet(arguments)):
        outcomes.append(play(cell, {OURS: warm(OURS)}))
        print(
            f"{cell.name}: {', '.join(f'{ratio:.2f}' for ratio in outcomes[-1].ratios(OURS))}",
            file=sys.stderr,
        )
    if arguments.knees is not None:
        arguments.knees.write_text(json.dumps(knees, indent=1) + "\n", encoding="utf-8")
    print(grid_table(outcomes, OURS))
    rows = [
        {"cell": o.cell.name, "rate": o.cell.rate, "policies": [f.as_dict() for f in o.figures.values()]}
        for o in outcomes
    ]
    _write_json(arguments.json, {"cells": rows})
    return 0


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    text = json.dumps(content, indent=1)
    if path == Path("-"):
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
