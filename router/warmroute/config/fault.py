"""What a rule finds wrong with settings. Decides nothing."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the settings."""

    key: str
    """The key at fault; of two that contradict each other, the one to change."""
    message: str
    other: str = ""
    """The other one."""
