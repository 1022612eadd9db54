"""The grid plays the `cells` or the `axes`: it finds missing knees, runs all policies, and keeps what is done.

This module decides the order of work and what is not computed again. A run is kept in the JSON file with the identity
of its inputs and of the code that made it, so that an interrupted grid goes on, and a changed policy is computed anew
beside its unchanged rivals.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from warmroute_loadtest.simulate import axes, fresh_cells
from warmroute_loadtest.simulate.cells import KNEE_POLICY, Cell, Outcome, cells, draws, wanted_knees
from warmroute_loadtest.simulate.contenders import of_routers
from warmroute_loadtest.simulate.jobs import Bounds, FindKnee, Play, Played, run_all
from warmroute_loadtest.simulate.metrics import Figures
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import Source

SAVE_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Design:
    """A set of cells: the grid's, the axes', or the fresh ones."""

    cells: Callable[[Mapping[str, Source], Mapping[str, float], FleetConfig, int], Iterator[Cell]]
    """Yields the cells under one seed, given the workloads and their knees."""
    wanted_knees: Callable[
        [Mapping[str, Source], FleetConfig, Sequence[int]], dict[str, tuple[Source, FleetConfig]]
    ]


GRID = Design(cells, wanted_knees)
AXES = Design(axes.axis_cells, axes.wanted_knees)
WHOLE = Design(axes.whole_cells, axes.wanted_knees)
FRESH = Design(fresh_cells.fresh_cells, fresh_cells.no_knees)


def play_grid(
    sources: Mapping[str, Source],
    fleet: FleetConfig,
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    repeats: int = 1,
    only: Sequence[str] = (),
    processes: int = 1,
    knees_path: Path | None = None,
    json_path: Path | None = None,
    design: Design = GRID,
) -> list[Outcome]:
    """Play every policy under test, and each cell's rivals, in every cell whose name holds one of `only` (in all cells,
    where `only` is empty).

    Each cell is played `repeats` times; see `draws`.

    Raises:
        ValueError: No cell is left, or the file of an earlier run cannot be read as one.
    """
    knees = _known_knees(knees_path)
    wanted = design.wanted_knees(sources, fleet, seeds)
    any_rate = dict.fromkeys(wanted, 1.0)
    chosen = [
        cell
        for seed in seeds
        for cell in design.cells(sources, any_rate, fleet, seed)
        if not only or any(part in cell.name for part in only)
    ]
    if not chosen:
        raise ValueError(f"no cell has any of {', '.join(only)} in its name")
    names = {cell.name for cell in chosen}
    used = {cell.knee for cell in chosen}
    _find_knees({key: wanted[key] for key in wanted if key in used}, knees, processes, knees_path)
    chosen = [
        draw
        for seed in seeds
        for cell in design.cells(sources, any_rate | knees, fleet, seed)
        if cell.name in names
        for draw in draws(cell, repeats)
    ]
    return _play(chosen, list(dict.fromkeys(policies)), processes, json_path)


def _players(cell: Cell, policies: Sequence[str]) -> list[str]:
    """Return the policies under test and the cell's rivals."""
    return list(dict.fromkeys([*policies, *cell.rivals]))


def _play_of(cell: Cell, policy: str) -> Play:
    name = policy if policy in RIVALS else of_routers(policy, cell.routers)
    return Play(cell.source, cell.rate, cell.fleet, name)


def _play(
    chosen: Sequence[Cell], policies: Sequence[str], processes: int, json_path: Path | None
) -> list[Outcome]:
    earlier = _rows(json_path)
    kept = _kept(earlier)
    here = {(cell.name, cell.fleet.seed, cell.draw) for cell in chosen}
    elsewhere = [row for row in earlier if (row["cell"], row["seed"], row.get("draw", 0)) not in here]
    plays = [_play_of(cell, policy) for cell in chosen for policy in _players(cell, policies)]
    run_of = {play: play.identity for play in plays}
    missing = [play for play in plays if run_of[play] not in kept]
    _say(f"{len(plays)} runs, {len(plays) - len(missing)} of them done before")
    jobs = list(dict.fromkeys(Bounds(cell.source, _bound_fleet(cell.fleet)) for cell in chosen))
    bounds = dict(zip(jobs, run_all(jobs, processes), strict=True))
    started_s = saved_s = time.monotonic()

    def outcomes() -> list[Outcome]:
        made = []
        for cell in chosen:
            runs = {policy: run_of[_play_of(cell, policy)] for policy in _players(cell, policies)}
            found = {policy: kept[run] for policy, run in runs.items() if run in kept}
            made.append(Outcome(cell, found, bounds[Bounds(cell.source, _bound_fleet(cell.fleet))]))
        return made

    def save() -> None:
        if json_path is not None and json_path != Path("-"):
            rows = [*elsewhere, *(_as_row(outcome, run_of) for outcome in outcomes())]
            _replace(json_path, json.dumps({"cells": rows}, indent=1))

    def done(index: int, played: Played) -> None:
        nonlocal saved_s
        play = missing[index]
        kept[run_of[play]] = played.figures
        now_s = time.monotonic()
        _say(f"{now_s - started_s:6.0f} s  {play.source.kind} at {play.rate:.2f}/s  {play.policy}")
        if now_s - saved_s > SAVE_INTERVAL_S:
            saved_s = now_s
            save()

    try:
        run_all(missing, processes, done)
    finally:
        save()
    return outcomes()


def _bound_fleet(fleet: FleetConfig) -> FleetConfig:
    """Return the fleet with only what affects the bounds."""
    return FleetConfig(fleet.replicas, fleet.cache_tokens)


def _known_knees(path: Path | None) -> dict[str, float]:
    if path is None or not path.exists():
        return {}
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: no file of knees: {error}") from error


def _find_knees(
    asked: Mapping[str, tuple[Source, FleetConfig]],
    knees: dict[str, float],
    processes: int,
    path: Path | None,
) -> None:
    wanted = {key: of for key, of in asked.items() if key not in knees}
    keys = list(wanted)

    def found(index: int, knee: float) -> None:
        if not 0 < knee < inf:
            raise ValueError(f"no knee of {keys[index]} was found; ask for more --requests")
        _say(f"knee of {keys[index]}: {knee:.3f} requests/s")
        knees[keys[index]] = round(knee, 4)
        if path is not None:
            _replace(path, json.dumps(knees, indent=1))

    run_all([FindKnee(source, None, own, KNEE_POLICY) for source, own in wanted.values()], processes, found)


def _rows(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows of an earlier grid, one a cell."""
    if path is None or path == Path("-") or not path.exists():
        return []
    try:
        rows = json.loads(path.read_text("utf-8"))["cells"]
        _kept(rows)
        return list(rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no grid's figures ({error!r}); name another file") from error


def _kept(rows: Sequence[dict[str, Any]]) -> dict[str, Figures]:
    """Return the figures of an earlier grid by the identity of their run."""
    return {
        row["run"]: Figures(**{name: value for name, value in row.items() if name != "run"})
        for cell in rows
        for row in cell["policies"]
    }


def _as_row(outcome: Outcome, run_of: Mapping[Play, str]) -> dict[str, Any]:
    cell = outcome.cell
    return {
        "cell": cell.name,
        "seed": cell.fleet.seed,
        "draw": cell.draw,
        "rate": cell.rate,
        "requests": cell.source.requests,
        **outcome.bounds,
        "policies": [
            {**asdict(figures), "run": run_of[_play_of(cell, policy)]}
            for policy, figures in outcome.figures.items()
        ],
    }


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
