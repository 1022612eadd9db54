"""`warmroute keys` on a file: what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import python_command
from warmroute.cli.main import main
from warmroute.tenants.keys import Keyring, decoded
from warmroute.tenants.tenant import Tenants


def test_a_key_is_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--keys", str(tmp_path / "keys")]
    words = ["--tenant", "a", "--name", "ci", "--model", "m", "--expires", "90d", "--priority", "batch"]
    assert main(["keys", "add", *place, *words]) == 0
    key = capsys.readouterr().out.strip()
    record = decoded((tmp_path / "keys").read_bytes().strip())
    assert key not in (tmp_path / "keys").read_text()
    assert (record.tenant, record.name, record.models, record.priority) == ("a", "ci", ("m",), "batch")
    assert record.expires_s is not None
    assert round(record.expires_s - record.created_s) in (90 * 86_400, 90 * 86_400 + 1)
    ring = Keyring()
    ring.use([record], Tenants({}))
    assert ring.find(key.encode()) is not None
    assert main(["keys", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert record.id in listed
    assert record.sha256 not in listed
    assert main(["keys", "list", *place, "--json", "--tenant", "b"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["keys", "revoke", *place, record.id]) == 0
    assert main(["keys", "revoke", *place, record.id]) == 1
    assert (tmp_path / "keys").read_bytes() == b""


def test_a_key_that_is_there_already_is_taken_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--keys", str(tmp_path / "keys"), "--tenant", "a", "--stdin"]
    monkeypatch.setattr("sys.stdin", io.StringIO("canary-key-of-somebody-else\n"))
    assert main(["keys", "add", *place]) == 0
    assert "canary" not in "".join(capsys.readouterr())
    monkeypatch.setattr("sys.stdin", io.StringIO("too-short\n"))
    assert main(["keys", "add", *place]) == 2
    said = capsys.readouterr().err
    assert "20 printable characters" in said
    assert "too-short" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "--keys", "f", "--tenant", "a b"], "tenant must be"),
        (["add", "--keys", "f", "--tenant", "a", "--expires", "soon"], "must be a time such as 90d"),
        (["list", "--keys", "redis"], "name it as redis://"),
        (["list", "--replica", "http://r:1"], "says nowhere where keys are kept"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert said in capsys.readouterr().err


def test_settings_say_where_keys_are_without_saying_where_replicas_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["keys", "list"]) == 2
    assert "keys.url: says nowhere where keys are kept" in capsys.readouterr().err
    monkeypatch.setenv("WARMROUTE_KEYS__URL", str(tmp_path / "keys"))
    assert main(["keys", "add", "--tenant", "a"]) == 0
    assert main(["keys", "list"]) == 0


def test_nothing_is_printed_but_what_the_command_says(tmp_path: Path) -> None:
    place = ["--keys", str(tmp_path / "keys")]

    def told(*words: str) -> list[str]:
        command = python_command("warmroute.cli.main", "keys", *words)
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()

    assert told("list", *place) == [f"warmroute: there is no key in {tmp_path}/keys"]
    (line,) = told("add", *place, "--tenant", "a")
    assert line.endswith("this is the only time that it is shown:")
    (line,) = told("list", "--keys", "redis://:geheim@127.0.0.1:1")
    assert line.startswith("warmroute: Redis: no connection")


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "add", "--keys", str(tmp_path / "absent/keys"), "--tenant", "a"]) == 1
    said = capsys.readouterr().err
    assert "No such file or directory. Is its folder there?" in said
    assert "Secret" not in said
