"""A baseline is the figures of a run as a file, to compare a later run with.

This module decides what must be alike for a comparison to mean something, and says what is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from warmroute_loadtest.locust.figures import Figures
from warmroute_loadtest.locust.thresholds import SettingError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Baseline:
    """A saved run."""

    name: str
    settings: dict[str, Any]
    """The settings that decide what was asked, and when."""
    figures: Figures


def save(path: Path, settings: Mapping[str, Any], figures: Figures) -> None:
    """Write a run's figures to a file.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"format": FORMAT, "settings": dict(settings), "figures": figures.as_dict()}
    path.write_text(json.dumps(data, indent=1) + "\n")


def load(path: Path) -> Baseline:
    """Read a file that `save` wrote.

    Raises:
        SettingError: The file is not there, or is no baseline.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise SettingError(f"BASELINE={path}: {error.strerror}; SAVE={path} writes one") from error
    except ValueError as error:
        raise SettingError(f"BASELINE={path}: not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise SettingError(f"BASELINE={path}: not a saved run of format {FORMAT}; SAVE={path} writes one")
    try:
        figures = msgspec.convert(data["figures"], Figures)
        return Baseline(path.stem, dict(data["settings"]), figures)
    except (KeyError, TypeError, ValueError) as error:
        raise SettingError(f"BASELINE={path}: not a saved run: {error}") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words which settings differ; these make two runs hard to compare."""
    names = sorted(before.keys() | now.keys())
    return [
        f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
