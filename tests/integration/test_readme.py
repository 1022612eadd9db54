"""The README's commands, played as they stand there; only addresses and the model's name are put in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import RouterProcess, SimProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def chapter() -> str:
    return README.split("## Before your own replicas")[1].split("\n## ")[0]


def indented(text: str, start: str) -> str:
    """The command that begins so, lines that a backslash continues included."""
    found = re.search(rf"^    ({re.escape(start)}(?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert found is not None, start
    return found[1].replace("\\\n", " ")


def test_serve_curl_and_the_client_do_what_the_readme_says() -> None:
    words = indented(chapter(), ".venv/bin/warmroute").split()
    assert words[1] == "serve"
    with SimProcess(2) as sims:
        assert words[2:] == [
            "--replica",
            "http://10.0.0.1:8000",
            "--replica",
            "http://10.0.0.2:8000",
        ], "the test plays these flags, with addresses of its own"
        with RouterProcess(sims.urls) as router:
            here = f"http://127.0.0.1:{router.port}"

            def mine(text: str) -> str:
                assert "http://127.0.0.1:8000" in text
                return text.replace("http://127.0.0.1:8000", here).replace('"NAME"', '"sim"')

            curl = mine(indented(chapter(), "curl"))
            done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("HTTP/1.1 200"), done.stdout
            assert "x-warmroute-replica:" in done.stdout.lower()
            assert '"object":"chat.completion"' in done.stdout

            again = mine(indented(chapter().split("send this twice")[1], "curl"))
            for decision in ("ring", "warm"):
                done = subprocess.run(["bash", "-c", again], capture_output=True, text=True, timeout=60)
                assert f"x-warmroute-decision: {decision}" in done.stdout.lower(), (done.stdout, done.stderr)

            code = mine(chapter().split("```python\n")[1].split("```")[0])
            code += "\nprint('ANSWER', len(answer.choices[0].message.content))\n"
            done = subprocess.run(
                [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=100
            )
            assert re.fullmatch(r"ANSWER [1-9]\d*\n", done.stdout), (done.stdout, done.stderr)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_in_the_documents_exists(document: str) -> None:
    named = set(re.findall(r"(?:^    |`)make ([a-z][a-z0-9-]*)", (ROOT / document).read_text(), re.MULTILINE))
    assert named >= {"setup", "test", "test-vllm"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    for target in sorted(named):
        shown = subprocess.run(
            ["make", "-n", target, "VENV=.cache/no-venv"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )
        assert shown.returncode == 0, (target, shown.stderr)


def test_make_hands_nobody_the_packages_of_whoever_calls_it() -> None:
    foreign = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "PIP_TARGET"), "/somebody/else")
    show = "show-environment: ; @env"
    shown = subprocess.run(
        ["make", "--eval", show, "show-environment"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **foreign},
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    assert "/somebody/else" not in shown.stdout
