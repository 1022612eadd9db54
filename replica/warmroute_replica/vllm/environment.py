"""This module makes the environment variables with which another interpreter is started: ours, less some.

It leaves out those that would make the other interpreter use our packages. A `PYTHONPATH` of ours in the environment of
the engine's pip makes pip take our packages for its own, and install none of them; a `PIP_TARGET` makes it install into
somebody else's directory. Settings of pip that say where packages come from, proxies and the like stay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_KEPT = frozenset({"PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONUTF8"})
"""Python's variables that are kept, since they say nothing of where packages are."""

_FOREIGN = frozenset(
    {
        "__PYVENV_LAUNCHER__",
        "PIP_PREFIX",
        "PIP_PYTHON",
        "PIP_ROOT",
        "PIP_TARGET",
        "PIP_USER",
        "VIRTUAL_ENV",
        "VIRTUAL_ENV_PROMPT",
    }
)


def is_foreign(name: str) -> bool:
    """Return whether a variable points an interpreter, or its pip, to packages that are not its own."""
    return name in _FOREIGN or (name.startswith("PYTHON") and name not in _KEPT)


def clean_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's variables without the foreign ones, together with those in `added`."""
    return {name: value for name, value in os.environ.items() if not is_foreign(name)} | dict(added or {})
