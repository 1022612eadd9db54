"""Every endpoint that an engine may have, and those that no client should reach: one fleet of two scripted replicas."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, read_answer, running, wait_until
from tests.support.scripted_upstream import Connection, Received, ScriptedUpstream, plain
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig, UpstreamConfig

ANY = Address("127.0.0.1:0")
NO_ROUTE = b'{"error":{"message":"Not Found","type":"NotFoundError","param":null,"code":404}}'
KEY = "s3cret"


class Engine(ScriptedUpstream):
    """Answers what it was asked, loads adapters, speaks a WebSocket that repeats what it hears."""

    key: str | None = None
    other_key = "s4cret"
    resolves = False
    slash_redirects = False
    closes = False
    silent = False
    """What it does with WebSockets."""
    loaded: tuple[str, ...] = ()

    def _answer(self, connection: Connection, received: Received) -> bool:
        method, target, _ = received.line.split(b" ")
        path = target.partition(b"?")[0]
        names = ["m", "org/big:7b", *self.loaded]
        if path in (b"/health", b"/metrics", b"/is_paused", b"/weight_info"):
            return super()._answer(connection, received)
        told = (received.header(b"authorization") or b"").decode()
        if (
            self.key is not None
            and path.startswith(b"/v1")
            and told not in (f"Bearer {self.key}", f"Bearer {self.other_key}")
        ):
            connection.send(plain(b'{"error":"Unauthorized"}', b"401 Unauthorized"))
            return True
        if path == b"/v1/models":
            cards = [
                {"id": name, "root": "/m", "parent": "m" if name in self.loaded else None, "created": 5}
                for name in names
            ]
            connection.send(plain(json.dumps({"object": "list", "data": cards}).encode()))
            return True
        self.received.append(received)
        if received.header(b"upgrade") == b"websocket":
            return self._websocket(connection, received)
        if path == b"/v1/files":
            connection.send(plain(NO_ROUTE, b"404 Not Found"))
        elif path == b"/v1/batches/b_1":
            connection.send(plain(b'{"error":{"message":"No such batch"}}', b"404 Not Found"))
        elif path == b"/v1/load_lora_adapter":
            self.loaded = (*self.loaded, json.loads(received.body)["lora_name"])
            connection.send(plain(b"Success", content_type=b"text/plain"))
        elif path == b"/v1/far/":
            here = received.header(b"host") or b""
            head = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://%b/v1/near?a=1\r\ncontent-length: 0\r\n\r\n"
            connection.send(head % here)
        elif path == b"/v1/away":
            connection.send(
                b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/x\r\ncontent-length: 0\r\n\r\n"
            )
        else:
            named = json.loads(received.body).get("model", "m") if received.body[:1] == b"{" else "m"
            if named in names or self.resolves:
                connection.send(plain(json.dumps({"path": target.decode(), "by": self.id}).encode()))
            else:
                connection.send(plain(b'{"error":{"message":"no such model"}}', b"404 Not Found"))
        return True

    def _websocket(self, connection: Connection, received: Received) -> bool:
        if b"ignored" in received.line:
            connection.send(plain(b'{"path":"as if nothing had been asked"}'))
            return True
        if self.closes:
            return False
        if self.silent:
            connection.receive()  # until the router closes
            return False
        if b"refused" in received.line:
            connection.send(plain(b"", b"403 Forbidden"))
            return False
        key = received.header(b"sec-websocket-key") or b""
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: %b\r\n\r\n" % accept
        )
        connection.send(connection._buffer)
        while data := connection.sock.recv(65536):
            connection.send(data)
        return False


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    with Engine() as one, Engine() as two:
        yield [one, two]


def config(engines: list[Engine], **more: Any) -> Config:
    replicas = tuple(ReplicaConfig(url=engine.url, id=engine.id) for engine in engines)
    return Config(listen=ANY, admin=ANY, replicas=replicas, **more)


@pytest.fixture
def router(engines: list[Engine]) -> Iterator[RouterThread]:
    with running(config(engines), 2) as started:
        yield started
        started.assert_at_rest()


def ask(
    url: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            kind = answer.headers.get("content-type", "")
            return answer.status, json.loads(text) if text and "json" in kind else text, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
            return error.code, json.loads(text) if text[:1] == b"{" else text, dict(error.headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses/compact"),
        ("POST", "/v1/responses/input_tokens"),
        ("POST", "/v1/responses/render"),
        ("POST", "/v2/embed"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/invocations"),
        ("POST", "/v1/chat/completions/render"),
        ("POST", "/v1/moderations"),
        ("POST", "/v1/something/new"),
        ("GET", "/version"),
        ("GET", "/tokenizer_info"),
        ("GET", "/v1/conversations/c_1?x=1"),
        ("DELETE", "/v1/conversations/c_1"),
        ("GET", "/v1/something/new"),
    ],
)
def test_what_engines_may_have_reaches_one(router: RouterThread, method: str, path: str) -> None:
    body = {"model": "m", "input": "x", "prompt": "x", "token_ids": [1, 2]} if method == "POST" else None
    status, answer, _ = ask(router.url + path, method, body)
    assert (status, answer["path"]) == (200, path)


def test_an_endpoint_that_no_engine_has_is_a_501_and_a_missing_object_is_the_engines_404(
    router: RouterThread,
) -> None:
    status, answer, _ = ask(router.url + "/v1/files", "POST", {"purpose": "batch"})
    assert (status, answer["error"]["code"]) == (501, "endpoint_not_implemented")
    assert "/v1/files" in answer["error"]["message"]
    status, answer, _ = ask(router.url + "/v1/batches/b_1")
    assert (status, answer["error"]["message"]) == (404, "No such batch")


def test_a_trailing_slash_is_none(router: RouterThread, engines: list[Engine]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a" * 600}]}
    first = ask(router.url + "/v1/chat/completions", "POST", body)
    status, answer, headers = ask(router.url + "/v1/chat/completions/?x=1", "POST", body)
    assert (status, answer["path"]) == (200, "/v1/chat/completions?x=1")
    assert headers["x-warmroute-decision"] == "warm"
    assert headers["x-warmroute-replica"] == first[2]["x-warmroute-replica"]
    assert ask(router.url + "/v1/models/")[0] == 200


def test_a_redirect_to_the_engine_itself_leads_to_the_router(router: RouterThread) -> None:
    with router.connect() as sock:
        sock.sendall(b"GET /v1/far/ HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
        assert b"\r\nlocation: /v1/near?a=1\r\n" in read_answer(sock)
    with router.connect() as sock:
        sock.sendall(b"GET /v1/away HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
        assert b"\r\nlocation: http://elsewhere.example/x\r\n" in read_answer(sock)


@pytest.mark.parametrize("name", ["m", "org/big:7b", "org%2Fbig:7b", "org%2Fbig%3A7b", "m/"])
def test_a_model_of_the_list_can_be_fetched_however_its_name_is_written(
    router: RouterThread, name: str
) -> None:
    status, card, _ = ask(f"{router.url}/v1/models/{name}")
    assert (status, card["root"]) == (200, "/m")


def test_anthropics_clients_see_models_in_their_own_form(router: RouterThread) -> None:
    version = {"anthropic-version": "2023-06-01"}
    _, page, _ = ask(router.url + "/v1/models?limit=1", headers=version)
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, "m", "m")
    assert page["data"][0]["type"] == "model"
    _, model, _ = ask(router.url + "/v1/models/org%2Fbig%3A7b", headers=version)
    assert (model["id"], model["display_name"], model["created_at"]) == (
        "org/big:7b",
        "org/big:7b",
        "1970-01-01T00:00:05Z",
    )


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/ping", "/load", "/api/hello", "/v1/models"])
def test_what_the_router_answers_itself_has_a_head(router: RouterThread, path: str) -> None:
    with router.connect() as sock:
        sock.sendall(f"HEAD {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
        head, _, body = read_answer(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b""


def test_the_fleets_load_is_what_is_under_way(router: RouterThread) -> None:
    assert ask(router.url + "/load")[1] == {"server_load": 0}


def test_metrics_are_on_the_data_port_where_they_are_asked_for(
    router: RouterThread, engines: list[Engine]
) -> None:
    assert ask(router.url + "/metrics")[0] == 404
    with running(config(engines, data_metrics=True), 2) as open_router:
        status, text, headers = ask(open_router.url + "/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        assert b"warmroute_build_info" in text


# -- administrative endpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"), ("POST", "/sleep"), ("GET", "/server_info"),
        ("POST", "/v1%2Funload_lora_adapter"),
    ],
)  # fmt: skip
def test_clients_reach_no_administrative_endpoint(
    router: RouterThread, engines: list[Engine], method: str, path: str
) -> None:
    status, answer, _ = ask(router.url + path, method, {"lora_name": "sql"} if method == "POST" else None)
    assert (status, answer["error"]["code"]) == (403, "administrative_endpoint")
    assert "admin port" in answer["error"]["message"]
    assert all(not engine.received for engine in engines)


def test_the_admin_port_sends_them_to_every_replica_and_what_they_loaded_is_served_at_once(
    router: RouterThread, engines: list[Engine]
) -> None:
    status, answer, _ = ask(
        router.admin_url + "/v1/load_lora_adapter?x=1", "POST", {"lora_name": "sql", "lora_path": "/x"}
    )
    assert status == 200
    assert answer["replicas"] == [{"id": e.id, "status": 200, "answer": "Success"} for e in engines]
    for engine in engines:
        assert engine.received[0].line == b"POST /v1/load_lora_adapter?x=1 HTTP/1.1"
        assert json.loads(engine.received[0].body) == {"lora_name": "sql", "lora_path": "/x"}
    assert ask(router.url + "/v1/completions", "POST", {"model": "sql", "prompt": "a"})[0] == 200
    assert "sql" in [row["id"] for row in ask(router.url + "/v1/models")[1]["data"]]


def test_the_admin_port_can_be_told_which_replicas_and_says_who_disagreed(
    router: RouterThread, engines: list[Engine]
) -> None:
    load = "/v1/load_lora_adapter?replica="
    status, answer, _ = ask(router.admin_url + load + engines[1].id, "POST", {"lora_name": "one"})
    assert (status, [row["id"] for row in answer["replicas"]]) == (200, [engines[1].id])
    assert engines[0].received == []
    for _ in range(4):
        _, _, headers = ask(router.url + "/v1/completions", "POST", {"model": "one", "prompt": "a"})
        assert headers["x-warmroute-replica"] == engines[1].id
    assert ask(router.admin_url + load + "nobody", "POST", {"lora_name": "x"})[0] == 404
    engines[0].stop()
    status, answer, _ = ask(router.admin_url + "/v1/load_lora_adapter", "POST", {"lora_name": "two"})
    assert status == 502
    assert [row["status"] for row in answer["replicas"]] == [None, 200]
    engines[0].listen()
    router.wait_ready(2)


# -- models that are not listed yet, or never -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_an_adapter_loaded_behind_the_routers_back_is_found_at_once(engines: list[Engine], path: str) -> None:
    health = HealthConfig(scrape_interval_s=3600.0)
    with running(config(engines, health=health), 2) as router:
        body = {"model": "fin", "messages": [{"role": "user", "content": "a"}], "input": "a"}
        assert ask(router.url + path, "POST", body)[0] == 404
        engines[1].loaded = ("fin",)
        for _ in range(3):
            status, answer, _ = ask(router.url + path, "POST", body)
            assert (status, answer["by"]) == (200, engines[1].id)
        router.assert_at_rest()


def test_an_adapter_that_is_never_listed_is_let_through_where_that_is_set(engines: list[Engine]) -> None:
    for engine in engines:
        engine.resolves = True
    body = {"model": "tenant-7/sql", "messages": [{"role": "user", "content": "a" * 600}]}
    with running(config(engines), 2) as router:
        assert ask(router.url + "/v1/chat/completions", "POST", body)[0] == 404
    with running(config(engines, health=HealthConfig(unlisted_models=True)), 2) as router:
        homes = {
            ask(router.url + "/v1/chat/completions", "POST", body)[2]["x-warmroute-replica"] for _ in range(4)
        }
        assert len(homes) == 1, "its prompts have a home like any other's"
        router.assert_at_rest()


# -- who may see models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "nope", KEY, Engine.other_key])
def test_with_a_key_of_its_own_the_router_shows_models_to_those_whose_key_a_replica_takes(
    engines: list[Engine], key: str | None
) -> None:
    for engine in engines:
        engine.key = KEY
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    status = 200 if key in (KEY, Engine.other_key) else 401
    with running(config(engines, health=HealthConfig(api_key=KEY)), 2) as router:
        for _ in range(2):
            assert ask(router.url + "/v1/models", headers=headers)[0] == status
            assert ask(router.url + "/v1/models/m", headers=headers)[0] == status
        found, answer, told = ask(
            router.url + "/v1/chat/completions", "POST", {"model": "nobody", "messages": []}, headers
        )
        assert found == (404 if status == 200 else 401), "who may not see models is not told which there are"
        if status == 401:
            assert (answer["error"]["code"], told["www-authenticate"]) == ("invalid_api_key", "Bearer")
        assert ask(router.url + "/health")[0] == 200


# -- WebSockets -------------------------------------------------------------------------------------------------


def frame(text: bytes) -> bytes:
    mask = b"\1\2\3\4"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
    return b"\x81" + struct.pack("!BH", 0x80 | 126, len(text)) + mask + masked


def upgraded(router: RouterThread, path: str, early: bytes = b"") -> tuple[socket.socket, bytes]:
    sock = router.connect()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        + early
    )
    head = b""
    while b"\r\n\r\n" not in head and (data := sock.recv(65536)):
        head += data
    return sock, head


@pytest.mark.parametrize("path", ["/v1/realtime?model=m", "/v1/responses"])
def test_a_websocket_is_carried_both_ways_until_either_side_ends_it(
    router: RouterThread, engines: list[Engine], path: str
) -> None:
    early = frame(b"before the answer")
    sock, head = upgraded(router, path, early)
    with sock:
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        echoed = head.partition(b"\r\n\r\n")[2]
        for size in (10, 100, 60_000):
            sock.sendall(frame(b"x" * size))
        wanted = len(early) + sum(len(frame(b"x" * size)) for size in (10, 100, 60_000))
        while len(echoed) < wanted:
            echoed += sock.recv(65536)
        assert len(echoed) == wanted
        under_way = router.call(lambda: [r.in_flight for r in router.worker.fleet.replicas.values()])
        assert sorted(under_way) == [0, 1]
    router.assert_at_rest()
    received = next(received for engine in engines for received in engine.received)
    assert received.line.split(b" ")[1] == path.encode()
    assert received.header(b"x-forwarded-for") == b"127.0.0.1"
    wait_until(lambda: not router.call(lambda: router.worker.gateway.connections))


def test_a_slow_reader_of_a_websocket_holds_the_sender_back_and_loses_nothing(router: RouterThread) -> None:
    sock, head = upgraded(router, "/v1/realtime?model=m")
    with sock:
        assert head.startswith(b"HTTP/1.1 101 ")
        data = bytes(range(256)) * 32_000
        sock.settimeout(0.2)
        sent = 0
        until = time.monotonic() + 30
        while sent < len(data) and time.monotonic() < until:
            try:
                sent += sock.send(data[sent : sent + 65536])
            except TimeoutError:
                break  # held back: nobody reads what comes out
        sock.settimeout(60)
        read = bytearray()
        while len(read) < sent:
            read += sock.recv(1 << 20)
        assert bytes(read) == data[:sent]


def test_an_engine_that_wants_no_websocket_says_so_itself(router: RouterThread) -> None:
    sock, head = upgraded(router, "/v1/refused")
    with sock:
        assert head.startswith(b"HTTP/1.1 403 ")
        assert sock.recv(10) == b""
    router.assert_at_rest()


def test_nothing_reaches_an_engine_behind_an_upgrade_that_it_ignores(
    router: RouterThread, engines: list[Engine]
) -> None:
    """Else a client could send it any request, past the table of endpoints."""
    smuggled = b"POST /sleep HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n"
    sock, head = upgraded(router, "/v1/ignored", smuggled)
    with sock:
        assert head.startswith(b"HTTP/1.1 426 ")
        with contextlib.suppress(OSError):
            sock.sendall(smuggled)
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass
    router.assert_at_rest()
    assert [received.line for engine in engines for received in engine.received] == [
        b"GET /v1/ignored HTTP/1.1"
    ]


def test_a_websocket_goes_to_another_replica_where_one_is_dead(
    router: RouterThread, engines: list[Engine]
) -> None:
    engines[0].stop()
    for _ in range(3):
        sock, head = upgraded(router, "/v1/realtime?model=m")
        with sock:
            assert head.startswith(b"HTTP/1.1 101 ")
    sock, head = upgraded(router, "/v1/realtime?model=nobody")
    with sock:
        assert head.startswith(b"HTTP/1.1 404 ")
    engines[1].stop()
    sock, head = upgraded(router, "/v1/realtime?model=m")
    with sock:
        assert head.split(b" ")[1] in (b"502", b"503")
    for engine in engines:
        engine.listen()
    router.wait_ready(2)


@pytest.mark.parametrize("fault", ["closes", "silent"])
def test_a_websocket_goes_to_another_replica_where_one_breaks_or_is_silent_before_it_agrees(
    engines: list[Engine], fault: str
) -> None:
    with running(config(engines, upstream=UpstreamConfig(late_max_s=0.5)), 2) as router:
        setattr(engines[0], fault, True)
        early = frame(b"before the answer")
        for _ in range(3):
            sock, head = upgraded(router, "/v1/realtime?model=m", early)
            with sock:
                assert head.startswith(b"HTTP/1.1 101 ")
                echoed = head.partition(b"\r\n\r\n")[2]
                while len(echoed) < len(early):
                    echoed += sock.recv(65536)
                assert echoed == early, "once"
        setattr(engines[1], fault, True)
        sock, head = upgraded(router, "/v1/realtime?model=m")
        with sock:
            assert head.split(b" ")[1] in (b"502", b"503", b"504")
        router.assert_at_rest()


@pytest.mark.parametrize("path", ["/sleep", "/v1/load_lora_adapter", "/health", "/v1/../sleep"])
def test_no_websocket_leads_around_the_table(router: RouterThread, engines: list[Engine], path: str) -> None:
    sock, head = upgraded(router, path)
    with sock:
        assert not head.startswith(b"HTTP/1.1 101 ")
    assert all(not engine.received for engine in engines)
