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
    """The sample of one request. Times are in seconds; `at_s` counts from the start of the run."""

    name: str
    """The name of the request's scenario."""
    api: str
    talk: int
    turn: int
    at_s: float
    """When the request was sent."""
    late_s: float
    """How much later than its time the request was sent by the generator's own fault. Its time is the planned one, or
    the end of the answer before if that came later."""
    waited_s: float
    """How much after this request's planned time the answer before was complete; 0 where clients wait for answers
    anyway."""
    ttft_s: float | None
    """Time to the first token; None where none came."""
    itl_s: float | None
    """Mean time between tokens after the first; None for fewer than two tokens."""
    gap_s: float | None
    """The longest time between two events with tokens."""
    e2e_s: float
    """Time to the end of the answer."""
    asked_tokens: int
    """Number of prompt tokens that the request was meant to have."""
    prompt_tokens: int | None
    cached_tokens: int | None
    """Prompt tokens that the engine reports as cached; None where it does not say."""
    completion_tokens: int | None
    bytes_out: int
    replica: str
    decision: str
    error: str
    """What went wrong; empty where the answer was complete."""

    @property
    def is_measured(self) -> bool:
        """Whether the sample counts in figures; that of a hostile client does not."""
        return not self.name.startswith(PREFIX)

    @property
    def end_s(self) -> float:
        """When the answer was complete."""
        return self.at_s + self.e2e_s


NAMES = tuple(field.name for field in fields(Sample))


def to_row(sample: Sample) -> list[Any]:
    """Return a sample as a row, to send it to the master."""
    return list(astuple(sample))


def of_row(row: Iterable[Any]) -> Sample:
    """Return the sample that a row stands for."""
    return Sample(*row)


def write(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples to a file, one JSON object a line."""
    with path.open("w") as file:
        for sample in samples:
            file.write(json.dumps(dict(zip(NAMES, to_row(sample), strict=True))) + "\n")


def read(path: Path) -> list[Sample]:
    """Read a file that `write` wrote.

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
