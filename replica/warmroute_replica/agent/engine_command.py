"""This module reads an engine's command line: its port, its key, and which flags routing needs added to it.

A flag is added unless the command (or the file that its `--config` names) sets it to either value, or the installed
engine does not know it. The flags that an engine knows are read from the text of its package, in a tenth of a second;
where that text is not found, the command is asked for its help, which takes vLLM as long as importing it does. This
module runs no engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

KV_EVENTS_PORT = 5557
"""vLLM's own default port for KV events; the port after it serves replays. Where either is taken, the next free pair of
ports is used."""

ASKED = ("/health", "/metrics", "/load", "/v1/models")
"""Agent and routers ask for these paths several times a second, so the engine's log leaves them out."""

HELP_S = 180.0
_DEFAULT_PORT = "8000"

_FIND = r"""
import importlib.util, pathlib, re, sys
spec = importlib.util.find_spec("vllm")
if spec is None: sys.exit(3)
root = pathlib.Path(spec.submodule_search_locations[0])
files = [root / "engine" / "arg_utils.py", *root.glob("entrypoints/**/cli_args.py")]
names = set()
for file in files:
    if file.is_file(): names.update(re.findall(r"[a-z0-9]+(?:[_-][a-z0-9]+)+", file.read_text(errors="replace")))
print("\n".join(sorted(names)))
"""
"""The engine's interpreter runs this script. It prints every word of the files that declare vLLM's flags, without
importing anything of vLLM."""


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """A command line, as a list of words."""

    words: Sequence[str]

    def value(self, flag: str) -> str | None:
        """Return the value that the command gives to a flag, the last one if there are several; None if the flag is
        absent."""
        found = None
        for position, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if _plain(name) == _plain(flag):
                after = self.words[position + 1] if position + 1 < len(self.words) else None
                found = value if equals else after
        return found

    def sets(self, flag: str) -> bool:
        """Return whether the command or its configuration file sets a flag in any form, `--no-…` and `--flag.key`
        included."""
        name = _plain(flag)
        said = {
            _plain(word.partition("=")[0].partition(".")[0]) for word in self.words if word.startswith("--")
        }
        said |= {_plain(f"--{key}") for key in self._configured()}
        return name in said or f"no-{name}" in said

    def url(self) -> str | None:
        """URL at which this machine reaches the engine; None if the command leaves the address open."""
        configured = self._configured()
        port = self.value("--port") or str(configured.get("port", "")) or _DEFAULT_PORT
        if self.sets("--uds") or not port.isascii() or not port.isdigit() or port == "0":
            return None
        host = self.value("--host") or str(configured.get("host", ""))
        if host in ("", "0.0.0.0", "::"):
            host = "127.0.0.1"
        scheme = "https" if self.sets("--ssl-certfile") else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def known_flags(self) -> frozenset[str] | None:
        """Return the flags, without dashes, that the installed engine knows; None if that cannot be found out."""
        return self._read_in_package() or self._read_in_help()

    def _configured(self) -> dict[str, object]:
        path = self.value("--config")
        try:
            content = yaml.safe_load(Path(path).read_text()) if path else None
        except (OSError, yaml.YAMLError):
            return {}  # the engine reads the file, too, and reports what is wrong with it
        return {str(k).replace("_", "-"): v for k, v in content.items()} if isinstance(content, dict) else {}

    def _read_in_package(self) -> frozenset[str] | None:
        python = _interpreter(self.words[0])
        if python is None:
            return None
        try:
            found = subprocess.run(
                [python, "-c", _FIND], env=os.environ, capture_output=True, text=True, timeout=30.0
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        names = frozenset(_plain(word) for word in found.stdout.split())
        return names if found.returncode == 0 and "enable-prefix-caching" in names else None

    def _read_in_help(self) -> frozenset[str] | None:
        if "serve" not in self.words:
            return None
        asking = [*self.words[: self.words.index("serve") + 1], "--help=all"]
        try:
            shown = subprocess.run(asking, env=os.environ, capture_output=True, text=True, timeout=HELP_S)
        except (OSError, subprocess.TimeoutExpired):
            return None
        names = frozenset(word[2:] for word in re.findall(r"--[a-z0-9][a-z0-9-]+", shown.stdout))
        return names if shown.returncode == 0 and names else None


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that routing needs, sorted by whether they are added to the command."""

    added: list[str] = field(default_factory=list)
    """Words to append to the command."""
    own: list[str] = field(default_factory=list)
    """Flags that the command sets itself, and that stay as they are."""
    unknown: list[str] = field(default_factory=list)
    """Flags that are left out, because the engine does not know them or it could not be found out whether it does."""


def routing_flags(command: EngineCommand, shutdown_s: float, *, kv_events: bool = False) -> Flags:
    """Return which of the flags that routing needs are to be added to the command.

    Args:
        shutdown_s: How long an engine that is told to end finishes the requests under way, in seconds.
        kv_events: Whether the engine publishes which blocks it caches. Anybody who can reach its ports can read these
            events, and they hold the prompts' tokens.
    """
    wanted: list[tuple[str, list[str]]] = [
        ("--enable-prefix-caching", []),
        ("--enable-prompt-tokens-details", []),  # answers say how many prompt tokens were cached
        ("--enable-request-id-headers", []),
        ("--enable-server-load-tracking", []),  # gives the load at this moment; metrics lag behind by a step
        *([("--kv-events-config", [_kv_events()])] if kv_events else []),
        ("--disable-access-log-for-endpoints", [",".join(ASKED)]),
        ("--shutdown-timeout", [f"{shutdown_s:.0f}"]),
    ]
    flags = Flags()
    missing = [name for name, _ in wanted if not command.sets(name)]
    known = command.known_flags() if missing else frozenset()
    for name, values in wanted:
        if name not in missing:
            flags.own.append(name)
        elif known is None or _plain(name) not in known:
            flags.unknown.append(name)
        else:
            flags.added.extend([name, *values])
    return flags


def _kv_events() -> str:
    port, replay = _free_ports()
    # vLLM listens at an endpoint only if it has a star in it, and connects to any other.
    return json.dumps(
        {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://*:{port}",
            "replay_endpoint": f"tcp://*:{replay}",
        },
        separators=(",", ":"),
    )


def _free_ports() -> tuple[int, int]:
    for first in range(KV_EVENTS_PORT, KV_EVENTS_PORT + 200, 2):
        if _is_free(first) and _is_free(first + 1):
            return first, first + 1
    return KV_EVENTS_PORT, KV_EVENTS_PORT + 1  # the engine reports that these ports are taken


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _interpreter(program: str) -> str | None:
    """Return the Python interpreter that runs a program, or the program if it is one; None if it is no Python
    script."""
    path = shutil.which(program)
    if path is None:
        return None
    if re.fullmatch(r"python[\d.]*", Path(path).name):
        return path
    try:
        with open(path, "rb") as file:
            head = file.read(1024).decode("utf-8", "replace")
    except OSError:
        return None
    # Where a path is too long for the system, installers write `#!/bin/sh` and call the interpreter in the next line.
    found = re.match(
        r"#!\s*(?:/usr/bin/env\s+)?(\S*python[\d.]*)|#!/bin/sh\n'''exec' \"?([^\"\n]*python[\d.]*)", head
    )
    return (found[1] or found[2]) if found is not None else None


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("_", "-")
