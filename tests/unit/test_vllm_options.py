"""What the launcher of real vLLM replicas tells them of the order inside the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmroute_replica.cli import build_parser
from warmroute_replica.vllm import command
from warmroute_replica.vllm.launch import Fleet, Options
from warmroute_replica.vllm.model import Model
from warmroute_replica.vllm.server import Replica


def served_with(options: Options) -> list[str]:
    return Replica(Path("venv"), Model(Path("tiny"), ()), options, port=1)._command()


def test_vllm_is_left_as_it_is_unless_asked() -> None:
    assert not [part for part in served_with(Options()) if "long-prefill" in part]
    assert "fcfs" in served_with(Options())


def test_flags_reach_vllm_under_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Options] = []

    def start(self: Fleet) -> None:
        given.append(self._options)

    monkeypatch.setattr(Fleet, "start", start)
    flags = ["--long-prefill-token-threshold", "512", "--long-prefill-token-threshold-adaptive"]
    flags += ["--scheduling-policy", "priority"]
    assert command.run(build_parser().parse_args(["vllm-start", *flags])) == 0
    arguments = served_with(given[0])
    assert arguments[arguments.index("--long-prefill-token-threshold") + 1] == "512"
    assert "--long-prefill-token-threshold-adaptive" in arguments
    assert arguments[arguments.index("--scheduling-policy") + 1] == "priority"
