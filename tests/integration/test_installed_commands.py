"""The commands as a user types them, from where the package is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / words[0]), *words[1:]], capture_output=True, text=True, timeout=110)


def test_help_names_every_command() -> None:
    shown = run("warmroute", "--help")
    assert shown.returncode == 0
    for command in ("serve", "config", "metrics", "simulate"):
        assert command in shown.stdout
    shown = run("warmroute-replica", "--help")
    assert shown.returncode == 0
    for command in ("agent", "serve", "sim", "vllm-install", "vllm-start"):
        assert command in shown.stdout


@pytest.mark.parametrize("words", [("warmroute", "simulate", "--help"), ("warmroute", "serve", "--help")])
def test_a_command_explains_itself(words: tuple[str, ...]) -> None:
    shown = run(*words)
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: warmroute")


def test_simulate_compares_policies_on_a_generated_workload() -> None:
    shown = run(
        "warmroute", "simulate", "--generate", "multi-turn", "--requests", "200", "--policy", "prefix-cost"
    )
    assert shown.returncode == 0, shown.stderr
    assert "prefix-cost" in shown.stdout
