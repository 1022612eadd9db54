"""The metrics of several workers are merged as those of one router.

Counters and histograms are added up. A gauge is added up, or its largest or smallest value taken, as the catalogue says
(`Metric.across`); one that the catalogue does not know, and all of `process_*` and `python_*`, gets a label `worker`.
What a worker counted before it died stays counted, as of the last scrape, so that no counter ever goes back; but for
replicas that have left the fleet.

This module reads Prometheus text as our own exposition writes it, and fetches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from warmroute.telemetry.catalogue import CATALOGUE
from warmroute.telemetry.metric import Across
from warmroute.telemetry.metrics import OTHER

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ACROSS = {metric.name: metric.across for metric in CATALOGUE}
_OF_PROCESS = ("process_", "python_")
_REPLICA = re.compile(r'[{,]replica="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class _Family:
    about: list[str]
    """Its `# HELP` and `# TYPE` lines."""
    kind: str
    samples: dict[str, float] = field(default_factory=dict)
    """Name with labels, as written -> value."""


_Families = dict[str, _Family]


class Merger:
    """Remembers what each worker said last."""

    def __init__(self) -> None:
        self._latest: dict[str, _Families] = {}
        self._ended: _Families = {}
        """Sums of the counters of workers that have died."""

    def merge(self, texts: Mapping[str, str], draining: Collection[str] = ()) -> str:
        """One exposition out of the workers' own, by worker.

        A worker that lives and could not be read is left out of `texts`: its counters count as last read. Of `draining`
        ones, which others have replaced, only counters count.
        """
        for worker, text in texts.items():
            self._latest[worker] = _parse(text)
        merged: _Families = {}
        for worker, families in self._latest.items():
            _add(merged, families, worker, gauges=worker in texts and worker not in draining)
        _add(merged, self._ended, "", gauges=False)
        lines: list[str] = []
        for family in merged.values():
            lines += family.about
            lines += [f"{sample} {_number(value)}" for sample, value in family.samples.items()]
        return "".join([f"{line}\n" for line in lines])

    def renamed(self, worker: str, name: str) -> None:
        """The worker goes on under another name."""
        if worker in self._latest:
            self._latest[name] = self._latest.pop(worker)

    def ended(self, worker: str) -> None:
        """The worker has died: what it counted stays counted, the rest goes."""
        families = self._latest.pop(worker, {})
        counted = {name: families[name] for name in families if not name.startswith(_OF_PROCESS)}
        _add(self._ended, counted, worker, gauges=False)
        known = set().union(*[_replicas(families) for families in self._latest.values()])
        if known:
            _drop_gone(self._ended, known)


def _replicas(families: _Families) -> set[str]:
    """All that are named by any sample."""
    found = [_REPLICA.search(sample) for family in families.values() for sample in family.samples]
    return {match[1] for match in found if match is not None}


def _drop_gone(families: _Families, known: set[str]) -> None:
    """Drop what is counted of replicas that no worker knows any more: new ones come without end."""
    for family in families.values():
        for sample in list(family.samples):
            match = _REPLICA.search(sample)
            if match is not None and match[1] not in known and match[1] != OTHER:
                del family.samples[sample]


def _add(merged: _Families, families: _Families, worker: str, *, gauges: bool) -> None:
    for name, family in families.items():
        into = merged.setdefault(name, _Family(family.about, family.kind))
        if family.kind != "gauge":
            across = Across.SUM
        elif gauges:
            across = _ACROSS.get(name, Across.EACH)
        else:
            continue
        if name.startswith(_OF_PROCESS):
            across = Across.EACH
        samples = into.samples
        for sample, value in family.samples.items():
            match across:
                case Across.EACH:
                    samples[_labelled(sample, worker)] = value
                case Across.SUM:
                    samples[sample] = samples.get(sample, 0.0) + value
                case Across.MOST:
                    samples[sample] = max(samples.get(sample, value), value)
                case Across.LEAST:
                    samples[sample] = min(samples.get(sample, value), value)


def _parse(text: str) -> _Families:
    families: _Families = {}
    about: list[str] = []
    family = _Family([], "untyped")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            about = [line]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            family = families[name] = _Family([*about, line], kind)
            about = []
        elif line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            family.samples[sample] = float(value)
    return families


def _labelled(sample: str, worker: str) -> str:
    label = f'worker="{worker}"'
    if sample.endswith("}"):
        return f"{sample[:-1].rstrip(',')},{label}}}"
    return f"{sample}{{{label}}}"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(value)
