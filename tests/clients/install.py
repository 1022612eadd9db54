"""Installs the real clients that `make test-clients` runs, each kind in a place of its own below the cache directory.

    python -m tests.clients.install [NAME…]

From PyPI and npm by their ordinary clients, the newest versions, since these are what people use. What does not install
is reported and left out; its tests are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = {
    "sdks": ["openai", "anthropic"],
    "google": ["google-genai"],
    "langchain": ["langchain-openai", "langchain-anthropic"],
    "litellm": ["litellm[proxy]"],
    "aider": ["aider-chat"],
    "llama-index": ["llama-index-llms-openai-like"],
    "pydantic-ai": ["pydantic-ai-slim[openai]"],
    "dspy": ["dspy"],
}
"""Virtual environments and what is in each: their requirements contradict each other."""

NODE = {
    "node-sdks": ["openai", "@anthropic-ai/sdk"],
    "claude-code": ["@anthropic-ai/claude-code"],
    "codex": ["@openai/codex"],
    "opencode": ["opencode-ai"],
    "qwen-code": ["@qwen-code/qwen-code"],
}
"""Folders of npm packages."""


def place(name: str) -> Path:
    """Where a kind of clients is."""
    cache = os.environ.get("WARMROUTE_CACHE") or ".cache/warmroute"
    return Path(cache).absolute() / "clients" / name


def missing(name: str) -> str | None:
    """Why a kind of clients cannot be used; None if it can."""
    if not (place(name) / "installed").exists():
        return f"{name} is not installed: python -m tests.clients.install {name}"
    return None


def clean_environment() -> dict[str, str]:
    """This process's variables without those that would show another interpreter our packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def install(name: str) -> str | None:
    """Install one kind of clients, unless it is there. Returns what went wrong."""
    folder = place(name)
    if missing(name) is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if name in PYTHON:
        steps = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *PYTHON[name]],
        ]
    elif shutil.which("npm") is None:
        return "there is no npm"
    else:
        steps = [
            ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *NODE[name]]
        ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env=clean_environment(), check=False)
        if done.returncode:
            return (done.stderr or done.stdout)[-500:]
    (folder / "installed").touch()
    return None


def main(names: list[str]) -> int:
    """Install those named, or all. Fails only where nothing could be installed."""
    failed = 0
    names = names or [*PYTHON, *NODE]
    for name in names:
        problem = install(name)
        print(f"{name}: {'installed' if problem is None else problem}", flush=True)
        failed += problem is not None
    return 1 if failed == len(names) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
