"""The admin port over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import pytest

from warmroute.control.app import ControlDeps, build_control
from warmroute.control.readiness import Readiness
from warmroute.control.server import ControlServer
from warmroute.core.errors import ClientError, NotFoundError


class Router:
    """What the endpoints read, settable."""

    def __init__(self) -> None:
        self.routable, self.replicas = 2, 3
        self.registry_healthy = True
        self.draining = False
        self.ever_reachable = True
        self.discovery_failing = False
        self.listening = True
        self.explained: list[tuple[str, str | None, bytes]] = []
        self.failure: Exception | None = None

    def deps(self) -> ControlDeps:
        readiness = Readiness(
            lambda: self.routable,
            lambda: self.replicas,
            lambda: self.registry_healthy,
            lambda: self.draining,
            lambda: self.ever_reachable,
            lambda: self.discovery_failing,
            lambda: self.listening,
        )
        return ControlDeps(
            readiness=readiness,
            metrics=lambda accept: (
                f"# accept {accept}\n".encode(),
                "text/plain; version=0.0.4; charset=utf-8",
            ),
            replicas=lambda: [{"id": "a:1", "state": "ready", "models": ["m"]}],
            registry=lambda: {"backend": "memory", "entries": 5},
            explain=self.explain,
            max_body_bytes=1000,
        )

    async def explain(self, path: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, object]:
        if self.failure is not None:
            raise self.failure
        self.explained.append((path, headers.get("x-session-id"), body))
        return {"choice": "a:1", "candidates": [{"replica": "a:1", "wait_s": 0.5}]}


Call = Callable[..., Awaitable[tuple[int, Any, Mapping[str, str]]]]


def play(scenario: Callable[[Router, Call], Awaitable[None]]) -> None:
    async def run() -> None:
        router = Router()
        server = ControlServer(build_control(router.deps()), "127.0.0.1", 0)
        port = await server.start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def call(method: str, path: str, **options: Any) -> tuple[int, Any, Mapping[str, str]]:
                async with session.request(method, path, **options) as response:
                    is_json = response.content_type == "application/json"
                    body = await response.json() if is_json and method != "HEAD" else await response.text()
                    return response.status, body, response.headers

            await scenario(router, call)
        await server.stop()

    asyncio.run(run())


def test_health_and_the_index_answer() -> None:
    async def scenario(_: Router, call: Call) -> None:
        assert (await call("GET", "/health"))[:2] == (200, {"status": "ok"})
        assert (await call("HEAD", "/health"))[0] == 200
        status, body, _headers = await call("GET", "/")
        assert status == 200
        assert "POST /explain" in body["endpoints"]

    play(scenario)


def test_ready_needs_a_routable_replica_and_no_drain_but_no_registry() -> None:
    async def scenario(router: Router, call: Call) -> None:
        ready = {
            "status": "ready",
            "reason": None,
            "routable_replicas": 2,
            "replicas": 3,
            "discovery": "up",
            "registry": "up",
            "draining": False,
        }
        assert (await call("GET", "/ready"))[:2] == (200, ready)
        router.listening = False
        assert (await call("GET", "/ready"))[1] == ready | {"status": "not_ready", "reason": "starting"}
        router.listening = True
        router.registry_healthy = False
        assert (await call("GET", "/ready"))[:2] == (200, ready | {"registry": "down"})
        router.draining = True
        status, body, _ = await call("GET", "/ready")
        assert (status, body["status"], body["reason"]) == (503, "not_ready", "draining")
        router.draining, router.routable = False, 0
        status, body, _ = await call("GET", "/ready")
        assert (status, body["reason"]) == (503, "no_routable_replica")
        router.ever_reachable = False
        status, body, _ = await call("GET", "/ready")
        assert (status, body["reason"]) == (503, "no_replica_reachable_yet")
        router.discovery_failing = True
        _, body, _ = await call("GET", "/ready")
        assert (body["reason"], body["discovery"]) == ("no_replica_reachable_yet", "failing")
        router.replicas = 0
        assert (await call("GET", "/ready"))[1]["reason"] == "discovery_failing"
        router.discovery_failing = False
        assert (await call("GET", "/ready"))[1]["reason"] == "no_replica_known"
        router.discovery_failing = True
        router.routable = router.replicas = 3  # those it named last go on serving
        assert (await call("GET", "/ready"))[0] == 200

    play(scenario)


def test_metrics_are_served_in_the_format_asked_for() -> None:
    async def scenario(_: Router, call: Call) -> None:
        status, body, headers = await call("GET", "/metrics", headers={"Accept": "text/plain"})
        assert (status, body) == (200, "# accept text/plain\n")
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"

    play(scenario)


def test_replicas_are_shown_with_the_registry() -> None:
    async def scenario(_: Router, call: Call) -> None:
        status, body, _headers = await call("GET", "/replicas")
        assert status == 200
        assert body["replicas"][0]["id"] == "a:1"
        assert body["registry"] == {"backend": "memory", "entries": 5}

    play(scenario)


def test_explain_passes_path_headers_and_body_and_shows_the_ranking() -> None:
    async def scenario(router: Router, call: Call) -> None:
        status, body, _ = await call(
            "POST", "/explain", data=b'{"model":"m"}', headers={"X-Session-Id": "s1"}
        )
        assert (status, body["choice"]) == (200, "a:1")
        await call("POST", "/explain?path=/v1/messages", data=b"{}")
        assert router.explained == [
            ("/v1/chat/completions", "s1", b'{"model":"m"}'),
            ("/v1/messages", None, b"{}"),
        ]

    play(scenario)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"model":"m","prompt":"x"}', "?path=/v1/completions"),
        (b'{"model":"m","input":"x"}', "?path=/v1/responses or ?path=/v1/embeddings"),
        (b'{"model":"m","input":"x","instructions":"y"}', "?path=/v1/responses"),
        (b'{"model":"m","input":[{"role":"user","content":"x"}]}', "?path=/v1/responses"),
        (b'{"model":"m","query":"x","documents":["y"]}', "?path=/v1/rerank"),
        (b'{"model":"m","system":"s","messages":[{"role":"user","content":"x"}]}', "?path=/v1/messages"),
        (
            b'{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}]}',
            "?path=/v1/messages",
        ),
        (b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}', ""),
        (b'{"model":"m"}', ""),
        (b'{"model":', ""),
        (b"[1]", ""),
        (b"\xff", ""),
    ],
)
def test_explain_names_the_path_of_a_body_that_looks_like_another_apis(body: bytes, named: str) -> None:
    async def scenario(router: Router, call: Call) -> None:
        status, answer, _ = await call("POST", "/explain", data=body)
        assert (status, answer["path"]) == (200, "/v1/chat/completions")
        hint = answer.get("hint", "")
        assert hint.endswith(f": name it by {named}." if named else "")
        router.failure = ClientError("messages: at least one message is required", code="prompt_required")
        status, answer, _ = await call("POST", "/explain", data=body)
        assert (status, answer["error"]["code"]) == (400, "prompt_required")
        wanted = "messages: at least one message is required" + (f". {hint}" if named else "")
        assert answer["error"]["message"] == wanted
        router.failure = ClientError("messages: at least one message is required", code="prompt_required")
        status, answer, _ = await call("POST", "/explain?path=/v1/chat/completions", data=body)
        assert answer["error"]["message"] == "messages: at least one message is required", "it was named"

    play(scenario)


def test_every_error_has_openai_shape(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(router: Router, call: Call) -> None:
        async def error(expected: int, method: str, path: str, **options: Any) -> Any:
            status, body, _ = await call(method, path, **options)
            assert status == expected
            assert set(body["error"]) == {"message", "type", "param", "code"}
            return body["error"]

        assert (await error(404, "GET", "/nothing"))["code"] == "not_found"
        refused = await error(405, "GET", "/explain")
        assert (refused["code"], refused["message"]) == ("method_not_allowed", "/explain takes POST")
        assert (await call("GET", "/explain"))[2]["Allow"] == "POST"
        assert (await error(413, "POST", "/explain", data=b"x" * 1001))["code"] == "body_too_large"
        assert (await error(400, "POST", "/explain?path=v1", data=b"{}"))["param"] == "path"
        router.failure = NotFoundError("no model x", code="model_not_found")
        assert (await error(404, "POST", "/explain", data=b"{}"))["code"] == "model_not_found"
        assert not caplog.records
        router.failure = KeyError("bug")
        assert (await error(500, "POST", "/explain", data=b"{}"))["code"] == "internal_error"
        assert "bug" in caplog.text

    play(scenario)


def test_an_address_that_is_taken_is_told() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            server = ControlServer(build_control(Router().deps()), "127.0.0.1", taken.getsockname()[1])
            with pytest.raises(OSError, match="address already in use"):
                await server.start()

    asyncio.run(run())
