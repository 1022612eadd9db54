"""The build's version is found here."""

from __future__ import annotations

from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def version() -> str:
    """The installed distribution's version; `unknown` when run from a checkout that is not installed."""
    try:
        return metadata.version("warmroute")
    except metadata.PackageNotFoundError:
        return "unknown"


def compiled() -> bool:
    """Whether the request path is C that mypyc made, as far as its largest module tells; asked without loading it."""
    found = find_spec("warmroute.core.fleet.fleet")
    return found is not None and (found.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def described() -> str:
    """Version and kind of build, as `--version` shows them."""
    return f"{version()} ({'compiled' if compiled() else 'not compiled'})"
