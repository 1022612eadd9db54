"""locust itself, headless, against simulated replicas: `make test-loadtest`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import free_port
from tests.support.sim_fleet import SimProcess
from warmroute_loadtest.locust import samples
from warmroute_loadtest.locust.samples import Sample

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("LOADTEST_PYTHON", "")
FAST = ("--speed", "20", "--cache-tokens", "200000")

pytestmark = [
    pytest.mark.loadtest,
    pytest.mark.skipif(not PYTHON, reason="LOADTEST_PYTHON names no Python with locust: make test-loadtest"),
]


@pytest.fixture(scope="module")
def replica() -> Iterator[SimProcess]:
    with SimProcess(*FAST) as running:
        yield running


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]])
    return {**os.environ, "PATH": path}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """`make loadtest` with these settings."""
    command = [PYTHON, "-m", "warmroute_loadtest.locust", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def results(out: Path) -> tuple[Path, list[Sample]]:
    """The folder of the latest run, and its samples."""
    (folder,) = out.iterdir()
    return folder, samples.read(folder / "samples.jsonl")


SHORT = ("RATE=30", "DURATION_S=4", "SPEED=20", "LENGTHS=0.05", "GRACE_S=30", "GOODPUT_TTFT_S=5")


def test_workers_ask_what_one_process_asks_and_a_baseline_is_compared(
    replica: SimProcess, tmp_path: Path
) -> None:
    url, base = f"URL={replica.urls[0]}", tmp_path / "base.json"
    common = (url, "SCENARIO=multi-turn", "API=both", "SALT=one", *SHORT)
    alone = run(*common, f"OUT={tmp_path / 'alone'}", f"SAVE={base}", "FAILED_RATIO=0", "CACHED_RATIO=0.2")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert re.search(r"^failed +0$", alone.stdout, re.MULTILINE)
    assert "CACHED_RATIO: " in alone.stdout
    folder, one = results(tmp_path / "alone")
    assert len(one) > 50
    assert not [sample.error for sample in one if sample.error]
    assert {sample.api for sample in one} == {"chat", "messages"}
    assert all(
        sample.ttft_s and sample.itl_s is not None for sample in one if (sample.completion_tokens or 0) > 1
    )
    # The simulated tokenizer takes every four bytes for a token; the rest is the chat template.
    assert all(
        0 <= (sample.prompt_tokens or 0) - sample.asked_tokens < 60 + 20 * sample.turn for sample in one
    )
    assert (folder / "report.html").read_text().count("<svg") >= 5

    two = run(*common, f"OUT={tmp_path / 'two'}", f"BASELINE={base}", "WORKERS=2", "TTFT_P90_S=0.000001")
    assert two.returncode == 1, two.stdout + two.stderr
    assert "TTFT_P90_S" in two.stdout
    assert "MISSED" in two.stdout
    folder, other = results(tmp_path / "two")
    asked = [sorted((s.talk, s.turn, s.asked_tokens, s.api) for s in each) for each in (one, other)]
    assert asked[0] == asked[1]
    assert "÷ baseline base" in (folder / "report.md").read_text()
    assert len(json.loads((folder / "generators.json").read_text())) == 2


def test_users_that_wait_and_embeddings(replica: SimProcess, tmp_path: Path) -> None:
    words = (f"URL={replica.urls[0]}", "SCENARIO=embeddings", "USERS=5", "DURATION_S=3", f"OUT={tmp_path}")
    ended = run(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    _, sampled = results(tmp_path)
    assert len(sampled) > 20
    assert all(sample.prompt_tokens and not sample.error for sample in sampled)


def test_without_a_url_policies_are_compared_on_the_same_requests_with_hostile_clients_among_them(
    tmp_path: Path,
) -> None:
    words = (
        "SCENARIO=hostile",
        "COMPARE=prefix-cost round-robin",
        "RATE=12",
        "DURATION_S=5",
        f"OUT={tmp_path}",
    )
    ended = run(*words, "LENGTHS=0.2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder,) = tmp_path.iterdir()
    sides = [samples.read(folder / name / "samples.jsonl") for name in ("prefix-cost", "round-robin")]
    assert not [sample for side in sides for sample in side if sample.error]
    asked = [sorted((s.talk, s.turn, s.name, s.bytes_out) for s in side) for side in sides]
    assert asked[0] == asked[1]
    assert len({sample.name for sample in sides[0]}) > 5
    assert len({sample.replica for sample in sides[1] if sample.replica}) == 4
    assert "prefix-cost ÷ round-robin" in (folder / "report.md").read_text()


def test_a_trace_is_replayed_at_its_times(replica: SimProcess, tmp_path: Path) -> None:
    rows = [
        {"timestamp": 200 * n, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1 + n % 3, 100 + n]}
        for n in range(20)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{broken"]) + "\n")
    ended = run(f"URL={replica.urls[0]}", "SCENARIO=trace", f"TRACE={path}", f"OUT={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "left out: trace.jsonl:21: not JSON" in ended.stdout
    _, sampled = results(tmp_path / "out")
    assert len(sampled) == 20
    for sample in sampled:
        assert sample.at_s == pytest.approx(0.2 * sample.talk + sample.late_s, abs=0.01)
    # All but the first of each prefix of two blocks find them; who comes at the same moment may not.
    assert sum((sample.cached_tokens or 0) >= 1000 for sample in sampled) >= 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["URL=http://127.0.0.1:9"], "no connection to 127.0.0.1:9: Connection refused"),
        (["URL={url}", "MODEL=other"], "MODEL=other: the router does not serve it; it serves sim"),
    ],
)
def test_what_cannot_be_tested_ends_with_status_2(
    replica: SimProcess, tmp_path: Path, words: list[str], said: str
) -> None:
    ended = run(*(word.format(url=replica.urls[0]) for word in words), f"OUT={tmp_path}")
    assert ended.returncode == 2
    assert said in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_falls_silent_or_breaks_off_is_a_failure_in_time(tmp_path: Path) -> None:
    for kind, said in (("hang", "timed out"), ("cut", "closed in the middle of the answer")):
        fault = json.dumps({"kind": kind, "after_chunks": 2, "count": 1000, "path": "/v1/chat/completions"})
        with SimProcess(*FAST, "--fault", fault) as replica:
            out = tmp_path / kind
            ended = run(
                f"URL={replica.urls[0]}",
                "SCENARIO=rag",
                "RATE=10",
                "DURATION_S=2",
                "TIMEOUT_S=1",
                f"OUT={out}",
            )
            assert ended.returncode == 1, ended.stdout + ended.stderr
            _, sampled = results(out)
            assert len(sampled) > 5
            assert all(said in sample.error for sample in sampled), {sample.error for sample in sampled}
            if kind == "hang":
                assert all(sample.e2e_s < 30 and sample.ttft_s for sample in sampled)


def get(url: str, form: dict[str, str] | None = None) -> bytes:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(url, data, timeout=30) as response:
        body: bytes = response.read()
        return body


def wait(condition: Callable[[], Any]) -> Any:
    """What it gives, once it is true."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            if found := condition():
                return found
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.1)
    raise AssertionError("did not come about within a minute")


def test_the_web_interface_has_the_tab_the_report_and_the_samples(replica: SimProcess) -> None:
    port = free_port()
    web = f"http://127.0.0.1:{port}"
    command = [
        PYTHON,
        "-m",
        "locust",
        "-f",
        str(ROOT / "loadtest/warmroute_loadtest/locust/locustfile.py"),
        "Rag",
    ]
    command += [
        "--host",
        replica.urls[0],
        "--web-host",
        "127.0.0.1",
        "--web-port",
        str(port),
        "--lengths",
        "0.1",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as locust:
        try:
            assert b'"extended_tabs"' in wait(lambda: get(web))
            get(f"{web}/swarm", {"user_count": "3", "spawn_rate": "3", "host": replica.urls[0]})

            def rows() -> list[dict[str, Any]]:
                extended = json.loads(get(f"{web}/stats/requests")).get("extended_stats", [])
                return [row for each in extended for row in each["data"] if row["requests"] > 5]

            total, rag = wait(lambda: found if len(found := rows()) == 2 else None)
            assert rag["name"] == "rag"
            assert total["failed"] == 0
            assert total["ttft_p50"] > 0
            assert total["goodput"] == 100.0
            assert 0 <= total["cached"] <= 100

            def kinds() -> set[str]:
                return {row["method"] for row in json.loads(get(f"{web}/stats/requests"))["stats"]}

            # locust keeps this answer for some seconds.
            assert wait(lambda: kinds() >= {"chat", "TTFT", "ITL"})
            assert b"<svg" in get(f"{web}/loadtest/report")
            assert get(f"{web}/loadtest/samples.csv").startswith(b"name,api,talk,turn,at_s")
        finally:
            locust.terminate()
