"""Which build this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed distribution's version; `unknown` when run from a checkout that is not installed."""
    try:
        return metadata.version("warmroute")
    except metadata.PackageNotFoundError:
        return "unknown"
