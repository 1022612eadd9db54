"""What a replica keeps (stored responses) is found on the replica that keeps it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, read_answer, running
from tests.support.scripted_upstream import SSE_HEAD, Connection, Received, ScriptedUpstream, chunk, plain
from warmroute.config.schema import Address, Config, HealthConfig, PolicyConfig, ReplicaConfig

ANY = Address("127.0.0.1:0")


class Keeper(ScriptedUpstream):
    """Makes responses with ids of its own and answers for them."""

    def _answer(self, connection: Connection, received: Received) -> bool:
        method, path, _ = received.line.split(b" ")
        if not path.startswith(b"/v1/responses"):
            return super()._answer(connection, received)
        self.received.append(received)
        mine = b"resp_%d_%d" % (self.port, len(self.received))
        if received.body and b"request_id" in received.body:
            mine = b"job-%d-7" % self.port
        if path != b"/v1/responses" and b"%d_" % self.port not in path and b"-%d-" % self.port not in path:
            connection.send(plain(b'{"error":{"message":"no such response"}}', b"404 Not Found"))
        elif method == b"HEAD":
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n")
        elif path != b"/v1/responses":
            connection.send(plain(json.dumps({"kept_by": self.id, "path": path.decode()}).encode()))
        elif json.loads(received.body).get("stream"):
            connection.send(SSE_HEAD)
            event = b'event: response.created\ndata: {"type":"response.created","response":{"id":"%b"}}\n\n'
            connection.send(chunk(event % mine) + b"0\r\n\r\n")
        else:
            connection.send(plain(b'{"id":"%b","object":"response","output":[]}' % mine))
        return True


@pytest.fixture(scope="module")
def keepers() -> Iterator[list[Keeper]]:
    with Keeper() as first, Keeper() as second, Keeper() as third:
        yield [first, second, third]


@pytest.fixture(scope="module")
def router(keepers: list[Keeper]) -> Iterator[RouterThread]:
    config = Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=keeper.url, id=keeper.id) for keeper in keepers),
        policy=PolicyConfig(name="round-robin"),
        health=HealthConfig(probe_interval_s=0.2),
    )
    with running(config, 3) as started:
        yield started


def create(router: RouterThread, **fields: Any) -> tuple[str, str, str]:
    """Id of a new response, the replica that made it, and why it did."""
    status, headers, body = router.post("/v1/responses", {"model": "m", "input": "hello", **fields})
    assert status == 200
    if fields.get("stream"):
        answer = json.loads(body.split(b"data: ")[1])["response"]
    else:
        answer = json.loads(body)
    return answer["id"], headers["x-warmroute-replica"], headers["x-warmroute-decision"]


def fetch(router: RouterThread, path: str, method: str = "GET") -> Any:
    request = urllib.request.Request(router.url + path, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_fetched_cancelled_and_deleted_where_it_was_made(
    router: RouterThread, stream: bool
) -> None:
    for _ in range(4):
        response_id, replica, _ = create(router, stream=stream)
        assert fetch(router, f"/v1/responses/{response_id}?x=1") == {
            "kept_by": replica,
            "path": f"/v1/responses/{response_id}?x=1",
        }
        assert fetch(router, f"/v1/responses/{response_id}/cancel", "POST")["kept_by"] == replica
        assert fetch(router, f"/v1/responses/{response_id}", "DELETE")["kept_by"] == replica
    router.assert_at_rest()


def test_an_id_of_the_clients_own_choice_is_kept_too(router: RouterThread) -> None:
    response_id, replica, _ = create(router, request_id="job")
    assert response_id.startswith("job-")
    assert fetch(router, f"/v1/responses/{response_id}")["kept_by"] == replica


def test_what_no_record_tells_is_asked_of_the_replicas(router: RouterThread, keepers: list[Keeper]) -> None:
    """As after a restart with the registry in memory: nothing of what engines keep is known."""
    for keeper in keepers:
        lost = f"resp_{keeper.port}_before"
        assert fetch(router, f"/v1/responses/{lost}")["kept_by"] == keeper.id
        assert fetch(router, f"/v1/responses/{lost}/cancel", "POST")["kept_by"] == keeper.id
        searches = sum(received.line.startswith(b"GET") for received in keepers[0].received)
        fetch(router, f"/v1/responses/{lost}")
        asked = sum(received.line.startswith(b"GET") for received in keepers[0].received)
        assert asked - searches <= 1, "what was found is remembered"
        _, where, why = create(router, previous_response_id=f"resp_{keeper.port}_earlier")
        assert (where, why) == (keeper.id, "pinned")
    router.assert_at_rest()


def test_head_is_answered_without_waiting_for_a_body(router: RouterThread) -> None:
    response_id, _, _ = create(router)
    with router.connect() as sock:
        line = f"HEAD /v1/responses/{response_id} HTTP/1.1\r\nHost: r\r\n"
        sock.sendall(f"{line}\r\n{line}Connection: close\r\n\r\n".encode())
        answer = read_answer(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"content-length: 30") == 2
    assert answer.endswith(b"\r\n\r\n")


def test_a_conversation_goes_on_where_it_was_begun(router: RouterThread) -> None:
    response_id, replica, _ = create(router)
    for _ in range(5):
        following, where, why = create(router, previous_response_id=response_id)
        assert (where, why) == (replica, "pinned")
        response_id = following


def test_an_unknown_response_is_404_and_an_unknown_previous_one_goes_anywhere(router: RouterThread) -> None:
    with router.connect() as sock:
        sock.sendall(b"GET /v1/responses/resp_nobody HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
        head, _, body = read_answer(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert json.loads(body)["error"]["code"] == "response_not_found"
    assert create(router, previous_response_id="resp_nobody")[2] == "load"


def test_responses_of_a_dead_replica_are_missed_and_conversations_go_elsewhere(
    router: RouterThread, keepers: list[Keeper]
) -> None:
    response_id, replica, _ = create(router)
    keeper = next(keeper for keeper in keepers if keeper.id == replica)
    keeper.stop()
    try:
        with router.connect() as sock:
            sock.sendall(f"GET /v1/responses/{response_id} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
            assert read_answer(sock).startswith(b"HTTP/1.1 502 ")
        following, where, _ = create(router, previous_response_id=response_id)
        assert where != replica
        assert following != response_id
    finally:
        keeper.listen()
    router.wait_ready(3)
    router.assert_at_rest()
