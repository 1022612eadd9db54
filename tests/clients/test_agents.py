"""Coding agents, headless: they get their answers, and the router knows which session each request belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import MODEL, Through, needs, run

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

ASKED = "Say something short."


def sessions(lines: list[dict[str, object]]) -> set[object]:
    return {line["session"] for line in lines}


def test_claude_code(through: Through, tmp_path: Path) -> None:
    folder = needs("claude-code")
    said = run(
        [folder / "node_modules/.bin/claude", "-p", ASKED, "--output-format", "json"],
        tmp_path,
        ANTHROPIC_BASE_URL=through.url,
        ANTHROPIC_AUTH_TOKEN="none",
        ANTHROPIC_MODEL=MODEL,
        ANTHROPIC_DEFAULT_HAIKU_MODEL=MODEL,
        ANTHROPIC_SMALL_FAST_MODEL=MODEL,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    assert json.loads(said.splitlines()[-1])["result"]
    lines = through.answered("/v1/messages")
    assert None not in sessions(lines)
    assert len(sessions(lines)) == 1


def test_codex(through: Through, tmp_path: Path) -> None:
    folder = needs("codex")
    home = tmp_path / "codex"
    home.mkdir()
    (home / "config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "warmroute"\n'
        f'[model_providers.warmroute]\nname = "Warmroute"\nbase_url = "{through.url}/v1"\nwire_api = "responses"\n'
    )
    command = [folder / "node_modules/.bin/codex", "exec", "--skip-git-repo-check", "--json", ASKED]
    said = run(command, tmp_path, CODEX_HOME=str(home))
    assert '"agent_message"' in said
    lines = through.answered("/v1/responses")
    assert len(sessions(lines)) == 1
    assert None not in sessions(lines)
    assert all(line["completion_tokens"] for line in lines), "its answers are complete, and teach"


def test_opencode(through: Through, tmp_path: Path) -> None:
    folder = needs("opencode")
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Warmroute",
        "options": {"baseURL": f"{through.url}/v1", "apiKey": "none"},
        "models": {MODEL: {"name": MODEL, "limit": {"context": 32_000, "output": 500}}},
    }
    settings = {"provider": {"warmroute": provider}, "autoupdate": False, "share": "disabled"}
    (tmp_path / "opencode.json").write_text(json.dumps(settings))
    command = [folder / "node_modules/.bin/opencode", "run", "--model", f"warmroute/{MODEL}", ASKED]
    assert run(command, tmp_path).strip()
    assert None not in sessions(through.answered("/v1/chat/completions"))


def test_aider(through: Through, tmp_path: Path) -> None:
    folder = needs("aider")
    command = [
        folder / "bin/aider",
        *("--model", f"openai/{MODEL}", "--openai-api-base", f"{through.url}/v1", "--openai-api-key", "none"),
        *("--no-git", "--yes-always", "--no-show-model-warnings", "--no-check-update", "--analytics-disable"),
        *("--no-show-release-notes", "--message", ASKED),
    ]
    assert run(command, tmp_path).strip()
    through.answered("/v1/chat/completions")


def test_qwen_code(through: Through, tmp_path: Path) -> None:
    folder = needs("qwen-code")
    settings = {
        "model": {
            "skipNextSpeakerCheck": True,
            "generationConfig": {"samplingParams": {"max_tokens": 16}},
        },
        "general": {"disableAutoUpdate": True},
        "privacy": {"usageStatisticsEnabled": False},
    }
    (tmp_path / ".qwen").mkdir()
    (tmp_path / ".qwen" / "settings.json").write_text(json.dumps(settings))
    said = run(
        [folder / "node_modules/.bin/qwen", "--auth-type", "openai", "-p", ASKED],
        tmp_path,
        OPENAI_BASE_URL=f"{through.url}/v1",
        OPENAI_API_KEY="none",
        OPENAI_MODEL=MODEL,
    )
    assert said.strip()
    through.answered("/v1/chat/completions")
