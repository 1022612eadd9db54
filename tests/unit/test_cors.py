"""Which pages a browser may let call the router."""

from __future__ import annotations

import pytest

from warmroute.config.schema import CorsConfig
from warmroute.dataplane.cors import Cors, OriginError
from warmroute.dataplane.request import RequestHead

PAGE = b"https://chat.example"


def head(origin: bytes = PAGE, asked: bytes = b"") -> RequestHead:
    fields = [(b"origin", origin), (b"access-control-request-method", b"POST")]
    if asked:
        fields.append((b"access-control-request-headers", asked))
    return RequestHead(b"OPTIONS", b"/v1/models", fields, keep_alive=True, minor_version=1)


def lines(added: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b": ", 1) for line in added.split(b"\r\n")[:-1])


def test_any_page_may_where_any_is_allowed() -> None:
    cors = Cors(CorsConfig(allowed_origins=("*",)))
    found = lines(cors.added(head(), b""))
    assert found[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in found
    assert b"x-request-id" in found[b"access-control-expose-headers"]


def test_a_named_page_may_and_caches_are_told_that_it_depends() -> None:
    cors = Cors(CorsConfig(allowed_origins=(PAGE.decode(),)))
    found = lines(cors.added(head(), b""))
    assert (found[b"access-control-allow-origin"], found[b"vary"]) == (PAGE, b"Origin")
    assert cors.added(head(b"https://evil.example"), b"") == b""
    assert cors.added(head(b""), b"") == b""
    with pytest.raises(OriginError):
        cors.preflight(head(b"https://evil.example"))


def test_with_credentials_the_page_is_named_even_where_any_may() -> None:
    cors = Cors(CorsConfig(allowed_origins=("*",), credentials=True))
    found = lines(cors.added(head(), b""))
    assert found[b"access-control-allow-origin"] == PAGE
    assert found[b"access-control-allow-credentials"] == b"true"


def test_a_replica_that_answers_for_itself_is_left_alone() -> None:
    cors = Cors(CorsConfig(allowed_origins=("*",)))
    assert cors.added(head(), b"Access-Control-Allow-Origin: https://a\r\n") == b""


def test_a_preflight_is_told_what_it_may() -> None:
    config = CorsConfig(allowed_origins=("*",), allowed_methods=("GET", "POST"), max_age_s=60)
    found = lines(Cors(config).preflight(head(asked=b"authorization,x-custom")))
    assert found[b"access-control-allow-methods"] == b"GET, POST"
    assert found[b"access-control-allow-headers"] == b"authorization,x-custom"
    assert found[b"access-control-max-age"] == b"60"
    config = CorsConfig(allowed_origins=("*",), allowed_headers=("authorization",))
    found = lines(Cors(config).preflight(head(asked=b"x-custom")))
    assert found[b"access-control-allow-headers"] == b"authorization"
