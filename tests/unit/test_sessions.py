"""Which session a request says it belongs to: agents' own ways, in the order configured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.config.schema import Config
from warmroute.core.types import Api
from warmroute.dialects import parse
from warmroute.dialects.sessions import Sessions

PLACES = Config().sessions
CLAUDE = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "claude-body"})
BODY: dict[str, Any] = {
    "prompt_cache_key": "key",
    "metadata": {"user_id": CLAUDE},
    "client_metadata": {"session_id": "codex-body", "thread_id": "codex-thread"},
    "session_id": "vllm",
    "vllm_xargs": {"session_id": "xargs"},
}
HEADERS = {
    "x-session-id": "plain",
    "x-claude-code-session-id": "claude",
    "session-id": "codex",
    "thread-id": "thread",
    "x-session-affinity": "opencode",
}
ORDER = [
    ("prompt_cache_key", "key"),
    ("x-session-id", "plain"),
    ("x-claude-code-session-id", "claude"),
    ("metadata", "claude-body"),
    ("session-id", "codex"),
    ("thread-id", "thread"),
    ("client_metadata", "codex-body"),
    ("x-session-affinity", "opencode"),
    ("session_id", "vllm"),
    ("vllm_xargs", "xargs"),
]


def found(headers: dict[str, str], body: dict[str, Any], places: tuple[str, ...] = PLACES) -> str | None:
    sessions = Sessions(places)
    said = sessions.said([(name.encode(), value.encode()) for name, value in headers.items()])
    told = parse(Api.CHAT, json.dumps({"model": "m", "messages": [], **body}).encode()).told
    return sessions.find(said, told)


def test_each_agents_way_is_understood_and_the_first_of_the_list_counts() -> None:
    headers, body = dict(HEADERS), dict(BODY)
    for name, session in ORDER:
        assert found(headers, body) == session
        headers.pop(name, None)
        body.pop(name, None)
    assert found(headers, body) is None


@pytest.mark.parametrize(("name", "session"), ORDER)
def test_each_way_counts_alone(name: str, session: str) -> None:
    headers = {key: value for key, value in HEADERS.items() if key == name}
    body = {key: value for key, value in BODY.items() if key == name}
    assert found(headers, body) == session


@pytest.mark.parametrize(
    ("body", "session"),
    [
        ({"metadata": {"user_id": "user_1_account__session_0b7f"}}, "0b7f"),
        ({"metadata": {"user_id": "somebody"}}, None),
        ({"metadata": {"user_id": '{"session_id": broken'}}, None),
        ({"metadata": {"user_id": None}}, None),
        ({"metadata": {"other": "x"}}, None),
        ({"metadata": "text"}, None),
        ({"metadata": [1]}, None),
        ({"client_metadata": {"thread_id": "t"}}, "t"),
        ({"client_metadata": {"session_id": "", "thread_id": "t"}}, "t"),
        ({"session_id": 4711}, "4711"),
        ({"prompt_cache_key": ""}, None),
        ({"vllm_xargs": {"session_id": True}}, None),
    ],
)
def test_what_is_no_session_is_passed_over(body: dict[str, Any], session: str | None) -> None:
    assert found({}, body) == session


def test_a_session_may_be_anywhere_in_the_list() -> None:
    places = ("header:X-Tenant", "vllm_xargs.conversation.id", "header:x-session-id")
    assert found({"x-session-id": "a"}, {}, places) == "a"
    assert found({"x-session-id": "a"}, {"vllm_xargs": {"conversation": {"id": "b"}}}, places) == "b"
    assert found({"x-tenant": "c"}, {"vllm_xargs": {"conversation": {"id": "b"}}}, places) == "c"
    assert found({}, {"prompt_cache_key": "k"}, places) is None
    assert found(HEADERS, BODY, ()) is None


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS, Api.MESSAGES, Api.RESPONSES])
def test_every_api_tells(api: Api) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "prompt": "a", "input": "a"}
    if api is Api.RESPONSES:
        del body["prompt"]
    parsed = parse(api, json.dumps({**body, "metadata": {"user_id": CLAUDE}}).encode())
    assert Sessions(PLACES).find((99, ""), parsed.told) == "claude-body"


def test_a_body_of_unusual_types_still_tells() -> None:
    body = {"model": "m", "messages": [], "stream": "yes", "metadata": {"user_id": CLAUDE}}
    parsed = parse(Api.MESSAGES, json.dumps(body).encode())
    assert Sessions(PLACES).find((99, ""), parsed.told) == "claude-body"
