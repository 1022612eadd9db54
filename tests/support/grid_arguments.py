"""Arguments of a grid on traces of a few lines, with its knees known."""

from __future__ import annotations

import json
from pathlib import Path

from warmroute_loadtest.simulate.cells import wanted_knees
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import Source

WORKLOADS = ("conversation", "ragpulse", "multi-turn", "agent-loops", "hot-keys", "no-reuse")


def grid_arguments(tmp_path: Path) -> list[str]:
    """`--cells` with a Mooncake trace, a RAGPulse folder and all knees for seeds 7 and 8."""
    mooncake = [
        {"timestamp": at * 500, "input_length": 2000, "output_length": 20, "hash_ids": [0, at % 7, 100 + at]}
        for at in range(200)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, mooncake)))
    folder = tmp_path / "rag"
    folder.mkdir()
    for stem, identity in (
        ("1_sys_prompt", 1),
        ("2_passages", 2),
        ("3_history", 3),
        ("4_user_input", 4),
        ("5_web_search", 5),
    ):
        (folder / f"{stem}.jsonl").write_text(json.dumps({"x_id": identity, "token_length": 500}))
    ids = {"sys_prompt": [1], "passages_ids": [2], "history": [3], "web_search": [], "user_input": [4]}
    row = {"input_length": 2000, "output_length": 9, "hash_ids": ids}
    (folder / "0_trace.jsonl").write_text(
        "\n".join(json.dumps({"timestamp": str(at), **row}) for at in range(200))
    )
    knees = {
        key: 2.0
        for seed in (7, 8)
        for key in wanted_knees(dict.fromkeys(WORKLOADS, Source("no-reuse", 1)), FleetConfig(), [seed])
    }
    (tmp_path / "knees.json").write_text(json.dumps(knees))
    return [
        "--cells", "--mooncake-file", str(tmp_path / "m.jsonl"), "--ragpulse-dir", str(folder),
        "--knees", str(tmp_path / "knees.json"),
    ]  # fmt: skip
