"""An error in the router's own code is a logged 500, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.replica_pair import (
    BODIES,
    BODY,
    LONG,
    LaterRegistry,
    Pair,
    paired,
    raw_request,
    registry_of,
    sends,
)
from tests.support.router_thread import read_answer
from tests.support.scripted_upstream import (
    plain,
)
from warmroute.config.schema import (
    AccessLogConfig,
)


class Broken:
    """Raises where it is told to; everything else as what it stands before."""

    def __init__(self, behind: Any, *names: str) -> None:
        self._behind = behind
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            return getattr(self._behind, name)

        def raises(*_arguments: Any) -> Any:
            raise ZeroDivisionError(f"made to fail in {name}")

        return raises


class Garbling(LaterRegistry):
    """Answers lookups a moment later, with what no registry may answer."""

    def lookup(self, _rungs: Any, done: Callable[[Any], None]) -> None:
        asyncio.get_running_loop().call_soon(done, [1, 2, 3])


def assert_internal_error(pair: Pair, caplog: pytest.LogCaptureFixture, path: str, body: Any) -> None:
    with pair.router.connect() as sock:
        sock.sendall(raw_request(path, body=body))
        head, _, answer = read_answer(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 "), head
    assert b"connection: close" in head
    error = json.loads(answer)
    assert error["error"]["code"] == "internal_error"
    assert ("type" in error) == (path == "/v1/messages")
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.message for record in crashes] == ["exchange_crashed"]
    assert crashes[0].exc_info is not None
    pair.router.assert_at_rest()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_crash_while_a_request_is_read_is_a_logged_500(
    pair: Pair, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with registry_of(pair, lambda behind: Broken(behind, "lookup")):
        assert_internal_error(pair, caplog, path, LONG)
    assert pair.router.post(path, BODY)[0] == 200


def test_a_crash_when_the_lookup_is_answered_is_a_logged_500(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with registry_of(pair, Garbling):
        assert_internal_error(pair, caplog, "/v1/chat/completions", LONG)


def test_a_crash_after_the_choice_is_a_logged_500_and_gives_the_reservation_back(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with registry_of(pair, lambda behind: Broken(behind, "touch")):
        assert_internal_error(pair, caplog, "/v1/chat/completions", LONG)


def test_a_crash_when_the_answer_begins_is_a_logged_500(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.first.script = pair.second.script = sends(plain(b'{"id":"resp_12345678"}'), then="go on")
    with registry_of(pair, lambda behind: Broken(behind, "remember_response")):
        assert_internal_error(pair, caplog, "/v1/responses", BODIES["/v1/responses"])
    assert pair.router.post("/v1/responses", BODIES["/v1/responses"])[0] == 200


def test_a_crash_after_the_answer_costs_nothing_but_the_connection(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with paired(access_log=AccessLogConfig(enabled=True, path=str(tmp_path / "log"))) as pair:
        gateway = pair.router.worker.gateway
        log = gateway.access_log
        pair.router.call(lambda: setattr(gateway.accounts, "access_log", Broken(log, "write")))
        with pair.router.connect() as sock:
            sock.sendall(raw_request("/v1/chat/completions"))
            answer = read_answer(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1
        assert "exchange_crashed" in [record.message for record in caplog.records]
        pair.router.assert_at_rest()
        pair.router.call(lambda: setattr(gateway.accounts, "access_log", log))


def test_a_crash_in_a_parser_s_callback_is_not_the_client_s_fault(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = pair.router.worker.gateway
    limits = gateway.limits

    class NoLimits:
        def __getattr__(self, name: str) -> Any:
            if name in ("header_bytes", "body_bytes"):
                raise ZeroDivisionError(name)
            return getattr(limits, name)

    pair.router.call(lambda: setattr(gateway, "limits", NoLimits()))
    try:
        with pair.router.connect() as sock:
            sock.sendall(raw_request("/v1/chat/completions", "X-Not-Known-Yet: 1\r\n"))
            answer = read_answer(sock)
    finally:
        pair.router.call(lambda: setattr(gateway, "limits", limits))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b'"internal_error"' in answer
    assert "request_crashed" in [record.message for record in caplog.records]
