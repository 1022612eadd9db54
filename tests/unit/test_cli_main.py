"""The command line: exit statuses, messages, and flags that reach the settings."""

from __future__ import annotations

import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from tests.support.processes import python_command
from warmroute.cli.main import COMMANDS_GROUP, main
from warmroute_replica.cli import main as replica_main


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARMROUTE_CONFIG", raising=False)


def test_a_wrong_setting_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--replica", "http://a:1", "--policy", "nearest"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("warmroute: --policy: policy.name: 'nearest' is not known")
    assert err.count("\n") == 1


def test_all_wrong_settings_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--policy", "nearest", "--workers", "none", "--set", "listn=a:1"]
    assert main(["serve", "--replica", "http://a:1", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("warmroute: --") for line in lines)


def test_config_prints_what_is_in_effect(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--listen",
        "0.0.0.0:1",
        "--admin",
        "127.0.0.1:2",
        "--registry",
        "redis://h",
        "--log-level",
        "debug",
    ]
    flags += [
        "--replica",
        "http://a:1",
        "--replica",
        "http://b:1",
        "--access-log",
        "--set",
        "registry.idle_min_s=60",
    ]
    assert main(["config", *flags]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["listen"] == "0.0.0.0:1"
    assert config["registry"]["url"] == "redis://h"
    assert config["registry"]["idle_min_s"] == 60.0
    assert [replica["id"] for replica in config["replicas"]] == ["a:1", "b:1"]
    assert config["access_log"] == {
        "enabled": True,
        "path": "-",
        "trusted_proxies": [],
        "fingerprints": False,
    }
    assert config["log_level"] == "debug"


def test_config_check_prints_only_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--check", "--replica", "http://a:1"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["config", "--check", "--replica", "a:1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("warmroute: --replica: replicas[0]: must be http://HOST:PORT")


@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_config_finds_what_only_loading_shows(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = tmp_path / "tls.pem"
    pem.write_text("no certificate\n")
    for words, said in (
        (
            ["--set", f"tls.cert_file={pem}", "--set", f"tls.key_file={pem}"],
            "tls.cert_file: cannot be loaded",
        ),
        (["--set", f"tls.upstream_ca_file={pem}"], "tls.upstream_ca_file"),
        (["--registry", "redis://h:port"], "registry.url: registry URL host 'h:port' is not host:port"),
        (["--discover", "redis://h?namespac=x"], "discovery[0]: unknown registry URL option 'namespac'"),
        (["--set", "keys=redis://h:port"], "keys.url: registry URL host"),
    ):
        assert main(["config", *flags, "--replica", "http://a:1", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"warmroute: {said}"), err


def test_config_needs_no_cluster_to_check_what_is_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    assert main(["config", "--check", "--discover", "kubernetes://llm/vllm?port=http"]) == 0


def test_an_access_log_file_switches_it_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--replica", "http://a:1", "--access-log", "access.json"]) == 0
    access_log = yaml.safe_load(capsys.readouterr().out)["access_log"]
    assert (access_log["enabled"], access_log["path"]) == (True, "access.json")


def test_version_help_and_a_missing_command() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            python_command("warmroute.cli.main", *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    version = run("--version")
    assert (version.returncode, version.stdout[:10]) == (0, "warmroute ")
    missing = run()
    assert missing.returncode == 2
    assert "COMMAND" in missing.stderr
    for command in ("serve", "config", "metrics"):
        assert command in run("--help").stdout


@pytest.mark.parametrize("words", [[], ["serv"], ["server", "--replica", "http://a:1"], [""]])
def test_who_names_no_command_that_exists_is_shown_all(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    installed = entry_points(group=COMMANDS_GROUP).names  # `simulate`, where the package is installed
    for command in ("serve", "config", "metrics", *installed):
        assert f"\n    {command}" in err, command
    last = err.splitlines()[-1]
    if words and words[0]:
        assert last == f"warmroute: error: no command {words[0]!r}; did you mean 'serve'?"
    else:
        assert last.startswith("warmroute: error: ")


@pytest.mark.parametrize("words", [[], ["simulate"]])
def test_who_names_no_replica_command_that_exists_is_shown_all(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert replica_main(words) == 2
    err = capsys.readouterr().err
    for command in ("sim", "vllm-install", "vllm-model", "vllm-start", "vllm-stop", "vllm-status"):
        assert f"\n    {command}" in err, command
    assert err.splitlines()[-1].startswith("warmroute-replica: error: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--replicas", "http://a:1"], "--replicas http://a:1; did you mean '--replica'?"),
        (["serve", "http://a:1"], "http://a:1; did you mean '--replica http://a:1'?"),
        (["config", "--polcy=random"], "--polcy=random; did you mean '--policy'?"),
        (["config", "--entirely-different"], "--entirely-different"),
        (["drain", "a", "--wat", "3"], "--wat 3; did you mean '--wait'?"),
        (["--policy", "serve", "--replica", "http://a:1"], "--policy"),
    ],
)
def test_a_flag_that_does_not_exist_is_answered_with_those_of_its_command(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith(f"error: unrecognized arguments: {said}")
    if not words[0].startswith("-"):
        assert err.startswith(f"usage: warmroute {words[0]} ")


def test_a_flag_that_a_replica_s_command_lacks_is_answered_with_those_it_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["sim", "--port", "1", "--prot", "1"], ["--prot", "sim", "--port", "1"]):
        with pytest.raises(SystemExit):
            replica_main(words)
        err = capsys.readouterr().err
        assert "unrecognized arguments: --prot" in err.splitlines()[-1]
        assert ("usage: warmroute-replica sim" in err) is (words[0] == "sim")


def test_the_help_of_simulated_replicas_says_each_default_once_and_no_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        replica_main(["sim", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: 131072)" in text
    assert "0 for no cap (default: 0)" in text
    assert "(default: None)" not in text
    assert ") (default:" not in text
