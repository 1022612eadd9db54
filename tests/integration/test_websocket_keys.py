"""WebSockets ask for keys as everything else does, before a replica hears of them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.router_thread import RouterThread, read_answer, running
from warmroute.config.schema import Address, Config, HealthConfig, KeysConfig, ReplicaConfig
from warmroute.tenants.keys import KeyRecord, digest_of, encoded

KEY = b"wr-aaaaaaaaaa-for-tests-only"
UPGRADE = (
    b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Replica(http.server.BaseHTTPRequestHandler):
    """Well, serves `m`, keeps what upgrades it was sent, and declines them."""

    upgrades: list[str]

    def do_GET(self) -> None:
        body = b'{"object":"list","data":[{"id":"m"}]}' if self.path == "/v1/models" else b""
        if "realtime" in self.path:
            self.upgrades.append(str(self.headers))
            self.send_response(403)
        else:
            self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[RouterThread, list[str]]]:
    upgrades: list[str] = []
    handler = type("Handler", (Replica,), {"upgrades": upgrades})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    keys = tmp_path / "keys"
    record = KeyRecord(id="a", tenant="a", sha256=digest_of(KEY).hex(), models=("m",))
    keys.write_bytes(encoded(record))
    config = Config(
        listen=Address("127.0.0.1:0"),
        admin=Address("127.0.0.1:0"),
        replicas=(ReplicaConfig(url=f"http://127.0.0.1:{server.server_port}", id="r"),),
        keys=KeysConfig(url=str(keys), upstream_key="the-routers-own"),
        health=HealthConfig(probe_interval_s=0.2),
    )
    try:
        with running(config, 1) as router:
            yield router, upgrades
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def upgrade(router: RouterThread, fields: bytes, target: bytes = b"?model=m") -> bytes:
    with router.connect() as sock:
        sock.sendall(UPGRADE.replace(b"?model=m", target) + fields + b"\r\n")
        return read_answer(sock)


def test_without_a_key_no_replica_hears_of_it(world: tuple[RouterThread, list[str]]) -> None:
    router, upgrades = world
    assert upgrade(router, b"").startswith(b"HTTP/1.1 401")
    assert upgrade(router, b"Authorization: Bearer another\r\n").startswith(b"HTTP/1.1 401")
    refused = upgrade(router, b"x-api-key: " + KEY + b"\r\n", b"?model=other")
    assert refused.startswith(b"HTTP/1.1 403")
    assert b"model_not_allowed" in refused
    assert upgrades == []
    router.assert_at_rest()


def test_with_a_key_the_replica_sees_the_routers(world: tuple[RouterThread, list[str]]) -> None:
    router, upgrades = world
    assert upgrade(router, b"X-Api-Key: " + KEY + b"\r\nAuthorization: Bearer " + KEY + b"\r\n").startswith(
        b"HTTP/1.1 403"
    )
    (seen,) = upgrades
    assert KEY.decode() not in seen
    assert "the-routers-own" in seen
    assert "x-api-key" not in seen.lower()
    router.assert_at_rest()
