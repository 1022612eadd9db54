"""This is the command line: `warmroute simulate`, or `python -m warmroute_loadtest.simulate` where that is missing.

It decides what is read and what is shown. It can compare policies at one rate, find knees, and play the grid.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from warmroute_loadtest.simulate import fresh_cells
from warmroute_loadtest.simulate.cells import Outcome, mean_outcomes
from warmroute_loadtest.simulate.contenders import OURS, UNTOLD, maker, of_routers
from warmroute_loadtest.simulate.explain import explain
from warmroute_loadtest.simulate.generators import GENERATORS
from warmroute_loadtest.simulate.grid import AXES, FRESH, GRID, WHOLE, Design, play_grid
from warmroute_loadtest.simulate.jobs import Bounds, FindKnee, Play, run_all
from warmroute_loadtest.simulate.metrics import TARGET_BASE_S, TARGET_TOKEN_S, Figures
from warmroute_loadtest.simulate.page import page
from warmroute_loadtest.simulate.picture import write_png
from warmroute_loadtest.simulate.report import Row, axes_table, grid_table, table
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import FleetConfig, Join, SpeedChange
from warmroute_loadtest.simulate.sources import FIRST_SEED, Source, of_seed
from warmroute_loadtest.simulate.unread import PlayUnread, unread_table
from warmroute_replica.sim.engine_config import SchedulingPolicy
from warmroute_replica.sim.step_time import StepTime

REQUESTS = 3000
_GRID = (("multi-turn", 6000), ("agent-loops", 3000), ("hot-keys", 4000), ("no-reuse", 3000))
"""The grid's generated workloads, and how many requests each has where `--requests` does not say."""
_AXES = (("multi-turn", 4000), ("agent-loops", 1500), ("hot-keys", 3000), ("no-reuse", 3000), ("mixed", 3000))
"""The same for the axes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare all options."""
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
    what.add_argument(
        "--requests",
        type=_positive,
        help=f"how many requests at least, in whole sessions (default {REQUESTS}; --cells has its own)",
    )
    what.add_argument("--skip", type=int, default=0, help="requests of the trace to leave out first")
    what.add_argument(
        "--join-tokens",
        type=_positive,
        metavar="N",
        help="join the blocks of a Mooncake-format trace to such of N tokens: faster, and coarser",
    )
    what.add_argument(
        "--open-loop",
        action="store_true",
        help="ignore the sessions of a Mooncake-format trace: every request comes by the clock",
    )
    what.add_argument(
        "--spread",
        action="store_true",
        help="move requests that start at one moment apart, evenly until the next moment",
    )
    what.add_argument(
        "--rate", type=float, help="requests a second by session starts (default: the trace's own)"
    )
    what.add_argument(
        "--chunk-tokens",
        type=_positive,
        default=64,
        metavar="N",
        help="with --blend: pieces of RAGPulse of so many tokens are chunks (default %(default)s)",
    )
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--replicas", type=int, default=8)
    fleet.add_argument("--cache-tokens", type=int, default=1_000_000, help="KV cache of each replica")
    fleet.add_argument(
        "--tier-tokens",
        type=int,
        default=0,
        metavar="N",
        help="a tier below each GPU that keeps what it evicts",
    )
    fleet.add_argument(
        "--tier-token-us", type=float, default=5.0, metavar="U", help="time to load a token from there, in us"
    )
    fleet.add_argument(
        "--tier-told",
        type=float,
        default=1.0,
        metavar="F",
        help="what our router takes that time for, over the truth; 0: it is not told of the tier",
    )
    fleet.add_argument(
        "--believed-cache-tokens",
        type=_told,
        metavar="N",
        help="what routers take the cache's size for; `none`: they are not told",
    )
    fleet.add_argument(
        "--prior-ratio",
        type=float,
        default=1.0,
        metavar="F",
        help="what routers take engines' prefill rate for before they learn, over the truth",
    )
    fleet.add_argument(
        "--no-feedback", action="store_true", help="our router hears nothing of what answers report as cached"
    )
    fleet.add_argument("--prefill-tokens-per-s", type=float, default=StepTime().prefill_tokens_per_s)
    fleet.add_argument("--decode-step-s", type=float, default=StepTime().decode_step_s)
    fleet.add_argument(
        "--max-num-batched-tokens",
        type=_positive,
        default=FleetConfig().max_num_batched_tokens,
        metavar="N",
        help="tokens that an engine's step computes at most (default %(default)s)",
    )
    fleet.add_argument(
        "--long-prefill-token-threshold",
        type=int,
        default=0,
        metavar="N",
        help="tokens of one prompt that an engine's step computes at most while others are there; 0: no cap",
    )
    fleet.add_argument(
        "--long-prefill-token-threshold-adaptive",
        action="store_true",
        help="never cap below a prompt's fair share of a step",
    )
    fleet.add_argument(
        "--scheduling-policy",
        choices=[policy.value for policy in SchedulingPolicy],
        default=SchedulingPolicy.FCFS.value,
        help="engines admit by arrival, or by the priority that routers send",
    )
    fleet.add_argument(
        "--blend",
        action="store_true",
        help="engines reuse RAGPulse's passages wherever they stand (LMCache's CacheBlend), and our router knows it",
    )
    fleet.add_argument(
        "--chunk-store-tokens",
        type=_positive,
        metavar="N",
        help="with --blend: tokens of passages that each engine keeps (default: as many as its KV cache holds)",
    )
    fleet.add_argument(
        "--recompute-ratio",
        type=_share,
        default=FleetConfig().recompute_ratio,
        metavar="R",
        help="with --blend: share of a known passage that engines compute all the same (default %(default)s)",
    )
    fleet.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="F",
        help="all that is of engines and of people F times as fast: steps, arrivals, pauses; rates are of speed 1",
    )
    fleet.add_argument(
        "--speeds",
        default="",
        metavar="F[,F...]",
        help="speed factor of each replica; fewer than replicas are said again: 1,0.5 slows every other one",
    )
    fleet.add_argument(
        "--speed-change",
        action="append",
        default=[],
        type=_speed_change,
        metavar="REPLICA:F@WHEN",
        help="a replica's speed changes to F times its own as the WHEN-th request comes, or after WHEN (`300s`) "
        "seconds; repeatable",
    )
    fleet.add_argument(
        "--joins",
        action="append",
        default=[],
        type=_join,
        metavar="N@S",
        help="N replicas join with empty caches S seconds after the beginning, and the minute after is told apart; "
        "0@S tells that minute without them; repeatable; for policies of ours",
    )
    fleet.add_argument(
        "--seed", type=int, default=FIRST_SEED, help="of generated workloads and of policies that roll dice"
    )
    fleet.add_argument(
        "--routers",
        default="1",
        metavar="N[,N...]",
        help="how many routers a policy of ours runs in; each number is a row",
    )
    do = parser.add_argument_group("what to do")
    do.add_argument(
        "--policy", action="append", metavar="NAME", help="repeatable; default: ours and all rivals"
    )
    do.add_argument("--knee", action="store_true", help="find each policy's knee too: about 15 runs for each")
    do.add_argument(
        "--explain", type=int, metavar="N", help="show every candidate's terms for the N-th request"
    )
    do.add_argument(
        "--cells",
        nargs="?",
        const="grid",
        choices=["grid", "axes", "whole", "fresh"],
        help="play the whole grid (needs --mooncake-file, --ragpulse-dir), or the set in which one thing at a time "
        "differs from the plain case (without those files, and --lmcache-file, less of it), or its workloads with "
        "answers that do not stream, or traffic that nothing was tuned on",
    )
    do.add_argument(
        "--prompt-logprobs",
        type=_share,
        metavar="SHARE",
        help="let this share of the requests (0.01: one in a hundred) ask for prompt_logprobs, for which engines do "
        "not read their caches, and show what the others lose",
    )
    do.add_argument("--mooncake-file", type=Path, help="for --cells: the Mooncake conversation trace")
    do.add_argument("--ragpulse-dir", type=Path, help="for --cells: the RAGPulse folder")
    do.add_argument("--lmcache-file", type=Path, help="for --cells axes and whole: the LMCache agents' trace")
    do.add_argument("--knees", type=Path, help="for --cells: JSON of known knees, read and completed")
    do.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="for --cells: only cells with this in their name",
    )
    do.add_argument(
        "--seeds",
        metavar="N,N",
        help=f"for --cells: every cell under each seed, figures averaged (default {FIRST_SEED}); "
        "another seed is another draw of a generator and the next slice of a trace",
    )
    do.add_argument(
        "--draws",
        type=_positive,
        default=1,
        metavar="N",
        help="for --cells: every cell N times at rates that differ by parts in 10,000, figures averaged; a single run "
        "depends on accidents (default 1); for --prompt-logprobs: N seeds",
    )
    do.add_argument("--jobs", type=_positive, default=1, metavar="N", help="worker processes (default 1)")
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="figures as JSON (`-`: standard output)")
    out.add_argument("--html", type=Path, metavar="FILE", help="a self-contained page")
    out.add_argument("--png", type=Path, metavar="FILE", help="a plot; needs matplotlib")


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask; return the exit status, which is 2 where they make no sense."""
    try:
        for name in arguments.policy or ():
            maker(name)
        if arguments.cells is not None:
            return _CELLS[arguments.cells](arguments)
        source = _source(arguments)
        fleet = _fleet(arguments)
        if arguments.explain is not None:
            print(json.dumps(explain(source.load(), fleet, arguments.explain), indent=1))
            return 0
        if arguments.prompt_logprobs is not None:
            return _play_unread(arguments, source, fleet)
        return _compare(arguments, source, fleet)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return share


def _told(text: str) -> int:
    return 0 if text == "none" else _positive(text)


def _speed_change(text: str) -> SpeedChange:
    match = re.fullmatch(r"(\d+):([\d.]+)@([\d.]+)(s?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"is not like 0:0.5@1500 or 0:0.5@300s: {text}")
    replica, ratio, when, seconds = match.groups()
    try:
        if seconds:
            return SpeedChange(int(replica), float(ratio), at_s=float(when))
        return SpeedChange(int(replica), float(ratio), request=int(when))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def _join(text: str) -> Join:
    match = re.fullmatch(r"(\d+)@(\d+(?:\.\d+)?)s?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"is not like 4@120: {text}")
    return Join(int(match[1]), float(match[2]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the module by its own command line, and return the exit status."""
    parser = argparse.ArgumentParser(prog="simulate")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_parser(commands: Any) -> None:
    """Register the command as a sub-command of `warmroute` (entry-point group `warmroute.commands`)."""
    parser = commands.add_parser("simulate", help="try policies on a trace, in virtual time")
    add_arguments(parser)
    parser.set_defaults(run=run)


def _source(arguments: argparse.Namespace) -> Source:
    requests = arguments.requests or REQUESTS
    for kind in ("mooncake", "ragpulse", "access-log"):
        path = getattr(arguments, kind.replace("-", "_"))
        if path is not None:
            return Source(
                kind,
                requests,
                path,
                arguments.skip,
                spread=arguments.spread,
                join_tokens=arguments.join_tokens,
                open_loop=arguments.open_loop,
                chunk_tokens=arguments.chunk_tokens if arguments.blend else None,
            )
    return Source(
        arguments.generate or "multi-turn",
        requests,
        skip=arguments.skip,
        seed=arguments.seed,
        spread=arguments.spread,
        join_tokens=arguments.join_tokens,
        open_loop=arguments.open_loop,
        chunk_tokens=arguments.chunk_tokens if arguments.blend else None,
    )


def _fleet(arguments: argparse.Namespace) -> FleetConfig:
    speeds = tuple(float(part) for part in arguments.speeds.split(",") if part)
    if speeds and (len(speeds) > arguments.replicas or arguments.replicas % len(speeds)):
        raise ValueError(f"--speeds names {len(speeds)} replicas, --replicas {arguments.replicas}")
    step = StepTime(
        prefill_tokens_per_s=arguments.prefill_tokens_per_s, decode_step_s=arguments.decode_step_s
    )
    return FleetConfig(
        arguments.replicas,
        arguments.cache_tokens,
        step,
        speeds,
        seed=arguments.seed,
        believed_cache_tokens=arguments.believed_cache_tokens,
        tier_tokens=arguments.tier_tokens,
        tier_token_s=arguments.tier_token_us / 1e6,
        tier_told=arguments.tier_told,
        feedback=not arguments.no_feedback,
        prior_ratio=arguments.prior_ratio,
        speed=arguments.speed,
        changes=tuple(arguments.speed_change),
        joins=tuple(arguments.joins),
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        long_prefill_token_threshold=arguments.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=arguments.long_prefill_token_threshold_adaptive,
        scheduling_policy=arguments.scheduling_policy,
        chunk_store_tokens=(arguments.chunk_store_tokens or arguments.cache_tokens) if arguments.blend else 0,
        recompute_ratio=arguments.recompute_ratio,
    )


def _facts(source: Source, fleet: FleetConfig, rate: float | None) -> dict[str, Any]:
    workload = source.load()
    return {
        "workload": workload.name,
        "source": workload.source,
        "requests": workload.requests,
        "mean_prompt_tokens": round(workload.prompt_tokens / workload.requests),
        "rate": round(rate or workload.rate, 4),
        "speed": fleet.speed,
        "replicas": fleet.replicas,
        "cache_tokens": fleet.cache_tokens,
        "told_cache_tokens": fleet.told_cache_tokens,
        "prior_tokens_per_s": fleet.prefill_prior,
        **Bounds(source, fleet).run(),
        "target": f"{TARGET_BASE_S} s + {TARGET_TOKEN_S * 1000} ms a prompt token",
        "engine": str(fleet.step_time),
        "order_in_engine": f"{fleet.scheduling_policy}, {_cap(fleet)}",
    }


def _after_join(found: Figures) -> str:
    return (
        f"{found.policy}: the minute after: TTFT p50 {found.joined_ttft_p50_s:.3f} s, "
        f"p90 {found.joined_ttft_p90_s:.3f} s, cached {found.joined_cached_ratio:.3f}, "
        f"sent to those that joined {found.joined_share_ratio:.3f}"
    )


def _cap(fleet: FleetConfig) -> str:
    if not fleet.long_prefill_token_threshold:
        return "long prompts not capped"
    adaptive = " or a fair share" if fleet.long_prefill_token_threshold_adaptive else ""
    return f"long prompts capped to {fleet.long_prefill_token_threshold} tokens{adaptive} a step"


def _compare(arguments: argparse.Namespace, source: Source, fleet: FleetConfig) -> int:
    routers = [int(part) for part in arguments.routers.split(",")]
    untold = [UNTOLD] if arguments.blend else []
    names = arguments.policy or ([OURS, *untold] if fleet.joins else [OURS, *untold, *RIVALS])
    policies = [
        of_routers(name, count) for name in names for count in (routers if name not in RIVALS else [1])
    ]
    rate = arguments.rate
    facts = _facts(source, fleet, rate)
    plays = run_all([Play(source, rate, fleet, name) for name in policies], arguments.jobs)
    knees: list[float | None] = [None] * len(policies)
    if arguments.knee:
        knees = [*run_all([FindKnee(source, rate, fleet, name) for name in policies], arguments.jobs)]
    rows = [
        Row(played.figures, played.curve_s, facts["pooled_lru_ratio"], knee)
        for played, knee in zip(plays, knees, strict=True)
    ]
    if arguments.json != Path("-"):
        for key, value in facts.items():
            print(f"{key:20s} {value}")
        print()
        print(table(rows))
        for row in rows:
            if row.figures.joined_ttft_p90_s is not None:
                print(_after_join(row.figures))
    _write_json(arguments.json, {**facts, "policies": [row.as_dict() for row in rows]})
    title = f"{facts['workload']} on {fleet.replicas} replicas"
    if arguments.html is not None:
        arguments.html.write_text(page(title, facts, rows), encoding="utf-8")
    if arguments.png is not None:
        write_png(arguments.png, title, facts, rows)
    return 0


def _play_unread(arguments: argparse.Namespace, source: Source, fleet: FleetConfig) -> int:
    jobs = [
        PlayUnread(
            of_seed(source, source.seed + draw), arguments.rate, fleet, policy, arguments.prompt_logprobs
        )
        for policy in arguments.policy or [OURS]
        for draw in range(arguments.draws)
    ]
    rows = run_all(jobs, arguments.jobs)
    if arguments.json != Path("-"):
        print(unread_table(rows))
    _write_json(arguments.json, {"draws": [row.as_dict() for row in rows]})
    return 0


def _play_grid(arguments: argparse.Namespace) -> int:
    if arguments.mooncake_file is None or arguments.ragpulse_dir is None:
        raise ValueError("--cells needs --mooncake-file and --ragpulse-dir")
    asked = arguments.requests
    sources = {
        "conversation": Source("mooncake", asked or REQUESTS, arguments.mooncake_file),
        "ragpulse": Source("ragpulse", asked or REQUESTS, arguments.ragpulse_dir),
    }
    sources |= {name: Source(name, asked or count) for name, count in _GRID}
    return _played(arguments, sources, GRID, grid_table)


def axes_sources(
    mooncake_file: Path | None, ragpulse_dir: Path | None, lmcache_file: Path | None, requests: int | None
) -> dict[str, Source]:
    """Return the workloads of the axes by name, without those whose traces are not given. `requests`: of each, instead
    of as many as each has."""
    sources: dict[str, Source] = {}
    if mooncake_file is not None:
        sources["conversation"] = Source("mooncake", requests or REQUESTS, mooncake_file)
    if ragpulse_dir is not None:
        sources["ragpulse"] = Source("ragpulse", requests or REQUESTS, ragpulse_dir)
    if lmcache_file is not None:
        # 1,370 requests make three slices of the trace, for three seeds. They come by the clock, since a fleet is never
        # full if each session waits for its answers.
        sources["lmcache"] = Source(
            "mooncake", requests or 1370, lmcache_file, join_tokens=512, open_loop=True
        )
    return sources | {name: Source(name, requests or count) for name, count in _AXES}


def _play_axes(arguments: argparse.Namespace) -> int:
    sources = axes_sources(
        arguments.mooncake_file, arguments.ragpulse_dir, arguments.lmcache_file, arguments.requests
    )
    return _played(arguments, sources, WHOLE if arguments.cells == "whole" else AXES, axes_table)


def _play_fresh(arguments: argparse.Namespace) -> int:
    sources = {
        name: Source(name, arguments.requests or load.requests) for name, load in fresh_cells.LOADS.items()
    }
    return _played(arguments, sources, FRESH, grid_table)


_CELLS: dict[str, Callable[[argparse.Namespace], int]] = {
    "grid": _play_grid,
    "axes": _play_axes,
    "whole": _play_axes,
    "fresh": _play_fresh,
}


def _played(
    arguments: argparse.Namespace,
    sources: dict[str, Source],
    design: Design,
    table_of: Callable[[Sequence[Outcome], str], str],
) -> int:
    policies = arguments.policy or [OURS]
    outcomes = play_grid(
        sources,
        _fleet(arguments),
        policies,
        [int(part) for part in (arguments.seeds or str(arguments.seed)).split(",")],
        repeats=arguments.draws,
        only=arguments.only,
        processes=arguments.jobs,
        knees_path=arguments.knees,
        json_path=arguments.json,
        design=design,
    )
    means = mean_outcomes(outcomes)
    for policy in policies:
        print(f"{policy}\n\n{table_of(means, policy)}\n")
    return 0


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    text = json.dumps(content, indent=1)
    if path == Path("-"):
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
