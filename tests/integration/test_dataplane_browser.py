"""Pages in browsers: preflights and headers as vLLM's own server gives them, where the router is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.router_thread import RouterThread, read_answer, running
from tests.support.scripted_upstream import ScriptedUpstream
from warmroute.config.schema import Address, Config, CorsConfig, ReplicaConfig

ANY = Address("127.0.0.1:0")
PAGE = "https://chat.example:3000"
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as started:
        yield started


@pytest.fixture(scope="module", params=["*", PAGE])
def router(upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> Iterator[RouterThread]:
    cors = CorsConfig(allowed_origins=(request.param,))
    config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url),), cors=cors)
    with running(config, 1) as started:
        yield started


def ask(
    router: RouterThread, method: str, path: str, body: bytes = b"", origin: str = PAGE, **more: str
) -> tuple[int, dict[str, str]]:
    fields = {"Host": "r", "Origin": origin, "Connection": "close", "Content-Length": str(len(body)), **more}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    with router.connect() as sock:
        sock.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        head = read_answer(sock).partition(b"\r\n\r\n")[0].decode()
    status, *rest = head.split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in rest)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/something/new", "/health"])
def test_a_preflight_is_answered_for_every_path(router: RouterThread, path: str) -> None:
    status, headers = ask(
        router,
        "OPTIONS",
        path,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,content-type",
    )
    assert status == 200
    assert headers["access-control-allow-origin"] in ("*", PAGE)
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert "post" in headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/models", b"", 200),
        ("POST", "/v1/chat/completions", CHAT, 200),
        ("POST", "/v1/chat/completions", CHAT.replace(b'"m"', b'"nobody"'), 404),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("GET", "/nowhere", b"", 404),
        ("DELETE", "/v1/models", b"", 405),
    ],
)
def test_every_answer_to_a_page_says_that_it_may_read_it(
    router: RouterThread, method: str, path: str, body: bytes, status: int
) -> None:
    found, headers = ask(router, method, path, body)
    assert found == status
    assert headers["access-control-allow-origin"] in ("*", PAGE)
    assert "x-request-id" in headers["access-control-expose-headers"]


def test_another_page_is_told_nothing(router: RouterThread) -> None:
    if not router.worker.gateway.cors._any:  # type: ignore[union-attr]
        evil = "https://evil.example"
        status, headers = ask(
            router, "OPTIONS", "/v1/models", origin=evil, Access_Control_Request_Method="GET"
        )
        assert (status, "access-control-allow-origin" in headers) == (403, False)
        status, headers = ask(router, "GET", "/v1/models", origin=evil)
        assert (status, "access-control-allow-origin" in headers) == (200, False)


def test_off_unless_it_is_asked_for(upstream: ScriptedUpstream) -> None:
    config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url),))
    with running(config, 1) as router:
        assert ask(router, "OPTIONS", "/v1/models", Access_Control_Request_Method="GET")[0] == 405
        status, headers = ask(router, "GET", "/v1/models")
        assert (status, "access-control-allow-origin" in headers) == (200, False)
