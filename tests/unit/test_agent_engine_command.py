"""What is read in an engine's command line, and which flags are added to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from warmroute_replica.agent.engine_command import EngineCommand, routing_flags


def command(text: str) -> EngineCommand:
    return EngineCommand(text.split())


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("vllm serve M", "http://127.0.0.1:8000"),
        ("vllm serve M --host 0.0.0.0 --port 9", "http://127.0.0.1:9"),
        ("vllm serve M --host=10.0.0.1 --port=9 --port 10", "http://10.0.0.1:10"),
        ("vllm serve M --host ::1 --ssl-certfile c", "https://[::1]:8000"),
        ("vllm serve M --uds /run/x", None),
        ("vllm serve M --port 0", None),
        ("vllm serve M --port", "http://127.0.0.1:8000"),
    ],
)
def test_where_an_engine_will_listen(words: str, url: str | None) -> None:
    assert command(words).url() == url


@pytest.mark.parametrize(
    "words",
    [
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
        "--enable_prefix_caching",
        "--enable-prefix-caching=true",
        "--enable-prefix-caching.x 1",
    ],
)
def test_a_flag_may_be_set_in_several_ways(words: str) -> None:
    assert command(f"vllm serve M {words}").sets("--enable-prefix-caching")
    assert not command(f"vllm serve M {words}").sets("--kv-events-config")


def test_a_configuration_file_counts_and_a_broken_one_is_the_engines_matter(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("port: 77\nshutdown_timeout: 5\n")
    found = command(f"vllm serve M --config {file}")
    assert found.url() == "http://127.0.0.1:77"
    assert found.sets("--shutdown-timeout")
    file.write_text("a: [")
    assert not command(f"vllm serve M --config {file}").sets("--shutdown-timeout")
    assert not command(f"vllm serve M --config {tmp_path / 'none'}").sets("--shutdown-timeout")


def package(directory: Path, names: str) -> EngineCommand:
    """A `vllm` that is a Python script, beside a package that declares these flags."""
    entry = directory / "vllm" / "entrypoints" / "openai"
    entry.mkdir(parents=True)
    (directory / "vllm" / "__init__.py").write_text("raise SystemExit('nobody imports it')")
    (directory / "vllm" / "engine").mkdir()
    (directory / "vllm" / "engine" / "arg_utils.py").write_text(
        "enable_prefix_caching = shutdown_timeout = 0"
    )
    (entry / "cli_args.py").write_text(names)
    script = directory / "bin"
    script.write_text(f"#!{sys.executable}\nraise SystemExit('nobody runs it')\n")
    script.chmod(0o755)
    return EngineCommand([str(script), "serve", "M"])


def test_what_an_engine_knows_is_read_in_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = package(tmp_path, "enable_request_id_headers: bool = False")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    flags = routing_flags(found, 30.0, kv_events=True)
    assert flags.added == [
        "--enable-prefix-caching",
        "--enable-request-id-headers",
        "--shutdown-timeout",
        "30",
    ]
    assert flags.own == []
    assert flags.unknown == [
        "--enable-prompt-tokens-details",
        "--enable-server-load-tracking",
        "--kv-events-config",
        "--disable-access-log-for-endpoints",
    ]


def test_nothing_is_added_to_what_cannot_be_asked(tmp_path: Path) -> None:
    flags = routing_flags(EngineCommand([str(tmp_path / "absent"), "serve", "M"]), 30.0)
    assert flags.added == []
    assert len(flags.unknown) == 6
    assert "--kv-events-config" not in flags.unknown, "whoever wants its ports open says so"


def test_an_engine_with_everything_set_is_asked_nothing(tmp_path: Path) -> None:
    words = "--no-enable-prefix-caching --enable-prompt-tokens-details --no-enable-request-id-headers"
    words += " --enable-server-load-tracking --kv-events-config {} --shutdown-timeout 1"
    words += " --disable-access-log-for-endpoints /health"
    flags = routing_flags(EngineCommand([str(tmp_path / "absent"), *words.split()]), 30.0, kv_events=True)
    assert (flags.added, flags.unknown, len(flags.own)) == ([], [], 7)
