"""A sample is one answered or failed request, as it is measured, sent to a master and written to a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from warmroute_loadtest.locust.hostile import PREFIX


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds; `at_s` counts from the start of the run."""

    name: str
    """Its scenario."""
    api: str
    talk: int
    turn: int
    at_s: float
    """When it was sent."""
    late_s: float
    """How much after its time it was sent, by the generator's own fault: time is its planned one, or the end of
    the answer that it had to wait for."""
    waited_s: float
    """How much after its planned time that answer was complete; 0 where clients wait for answers anyway."""
    ttft_s: float | None
    """To the first token."""
    itl_s: float | None
    """Mean time between tokens after the first."""
    gap_s: float | None
    """The longest time between two events with tokens."""
    e2e_s: float
    """To the end."""
    asked_tokens: int
    """Prompt tokens that it was meant to have."""
    prompt_tokens: int | None
    cached_tokens: int | None
    """None where the engine does not say."""
    completion_tokens: int | None
    bytes_out: int
    replica: str
    decision: str
    error: str
    """What went wrong; empty of an answer that was complete."""

    @property
    def is_measured(self) -> bool:
        """Whether it counts in figures: a hostile client's own does not."""
        return not self.name.startswith(PREFIX)

    @property
    def end_s(self) -> float:
        """When its answer was complete."""
        return self.at_s + self.e2e_s


NAMES = tuple(field.name for field in fields(Sample))


def to_row(sample: Sample) -> list[Any]:
    """For the wire."""
    return list(astuple(sample))


def of_row(row: Iterable[Any]) -> Sample:
    """Back from the wire."""
    return Sample(*row)


def write(path: Path, samples: Iterable[Sample]) -> None:
    """One JSON object a line."""
    with path.open("w") as file:
        for sample in samples:
            file.write(json.dumps(dict(zip(NAMES, to_row(sample), strict=True))) + "\n")


def read(path: Path) -> list[Sample]:
    """What `write` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is no sample.
    """
    made: list[Sample] = []
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                made.append(Sample(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: no sample: {error}") from error
    return made
