"""Which endpoint a request line names."""

from __future__ import annotations

import json

import pytest

from tests.support.wire import ClientWire, Wire
from warmroute.core.types import Api
from warmroute.dialects.routes import RouteKind, computed, route, stored_response_id


@pytest.mark.parametrize(
    ("method", "path", "api", "kind"),
    [
        (b"POST", b"/v1/chat/completions", Api.CHAT, RouteKind.PREFIX),
        (b"POST", b"/v1/completions", Api.COMPLETIONS, RouteKind.PREFIX),
        (b"POST", b"/v1/responses", Api.RESPONSES, RouteKind.PREFIX),
        (b"POST", b"/v1/messages", Api.MESSAGES, RouteKind.PREFIX),
        (b"POST", b"/v1/messages/count_tokens", Api.MESSAGES, RouteKind.LOAD),
        (b"POST", b"/v1/messages/batches", Api.MESSAGES, RouteKind.PASSED),
        (b"GET", b"/v1/messages/batches/b_1/results", Api.MESSAGES, RouteKind.PASSED),
        (b"DELETE", b"/v1/files/file_1", Api.OTHER, RouteKind.PASSED),
        (b"POST", b"/v1/moderations", Api.OTHER, RouteKind.PASSED),
        (b"GET", b"/v1/chat/completions/c_1", Api.OTHER, RouteKind.PASSED),
        (b"POST", b"/v1/responses/compact", Api.RESPONSES, RouteKind.PREFIX),
        (b"POST", b"/v1/responses/input_tokens", Api.RESPONSES, RouteKind.LOAD),
        (b"POST", b"/v1/responses/render", Api.RESPONSES, RouteKind.LOAD),
        (b"POST", b"/v1/chat/completions/", Api.CHAT, RouteKind.PREFIX),
        (b"POST", b"/v1/chat/complet%69ons", Api.CHAT, RouteKind.PREFIX),
        (b"GET", b"/v1/models/", Api.OTHER, RouteKind.MODELS),
        (b"POST", b"/inference/v1/generate", Api.COMPLETIONS, RouteKind.PREFIX),
        (b"POST", b"/invocations", Api.OTHER, RouteKind.INVOCATION),
        (b"POST", b"/v2/embed", Api.OTHER, RouteKind.LOAD),
        (b"GET", b"/version", Api.OTHER, RouteKind.LOAD),
        (b"GET", b"/tokenizer_info", Api.OTHER, RouteKind.LOAD),
        (b"GET", b"/load", Api.OTHER, RouteKind.SERVER_LOAD),
        (b"GET", b"/metrics", Api.OTHER, RouteKind.METRICS),
        (b"POST", b"/ping", Api.OTHER, RouteKind.READY),
        (b"HEAD", b"/", Api.OTHER, RouteKind.HEALTH),
        (b"GET", b"/v1/realtime", Api.OTHER, RouteKind.UPGRADE),
        (b"POST", b"/v1/load_lora_adapter", Api.OTHER, RouteKind.ADMIN),
        (b"POST", b"/v1/load%5flora%5Fadapter", Api.OTHER, RouteKind.ADMIN),
        (b"POST", b"/v1%2Fload_lora_adapter", Api.OTHER, RouteKind.ADMIN),
        (b"POST", b"/v1/load_lora_adapter/", Api.OTHER, RouteKind.ADMIN),
        (b"POST", b"/inference/v1/abort_requests", Api.OTHER, RouteKind.ADMIN),
        (b"POST", b"/sleep", Api.OTHER, RouteKind.ADMIN),
        (b"POST", b"/reset_prefix_cache", Api.OTHER, RouteKind.ADMIN),
        (b"DELETE", b"/adapters/sql", Api.OTHER, RouteKind.ADMIN),
        (b"GET", b"/v1/unknown", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/v1/embeddings", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/v2/rerank", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/rerank", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/score", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/classify", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/pooling", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/tokenize", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/detokenize", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/v1/audio/transcriptions", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/v1/chat/completions/batch", Api.OTHER, RouteKind.LOAD),
        (b"POST", b"/v1/something/new", Api.OTHER, RouteKind.LOAD),
        (b"GET", b"/v1/models", Api.OTHER, RouteKind.MODELS),
        (b"HEAD", b"/v1/models", Api.OTHER, RouteKind.MODELS),
        (b"GET", b"/v1/models/org/name", Api.OTHER, RouteKind.MODELS),
        (b"GET", b"/v1/models/org%2Fname", Api.OTHER, RouteKind.MODELS),
        (b"GET", b"/v1/responses/resp_1", Api.RESPONSES, RouteKind.STORED),
        (b"DELETE", b"/v1/responses/resp_1", Api.RESPONSES, RouteKind.STORED),
        (b"POST", b"/v1/responses/resp_1/cancel", Api.RESPONSES, RouteKind.STORED),
        (b"GET", b"/health", Api.OTHER, RouteKind.HEALTH),
        (b"HEAD", b"/ready", Api.OTHER, RouteKind.READY),
    ],
)
def test_known_endpoints_have_their_route(method: bytes, path: bytes, api: Api, kind: RouteKind) -> None:
    found = route(method, path)
    assert found is not None
    assert (found.api, found.kind) == (api, kind)


@pytest.mark.parametrize(
    ("method", "path", "api", "allow"),
    [
        (b"GET", b"/v1/chat/completions", Api.CHAT, b"POST"),
        (b"DELETE", b"/v1/messages", Api.MESSAGES, b"POST"),
        (b"POST", b"/v1/models", Api.OTHER, b"GET, HEAD"),
        (b"POST", b"/v1/models/a", Api.OTHER, b"GET, HEAD"),
        (b"PUT", b"/v1/responses/resp_1", Api.RESPONSES, b"GET, HEAD, DELETE, POST"),
        (b"GET", b"/rerank", Api.OTHER, b"POST"),
        (b"POST", b"/health", Api.OTHER, b"GET, HEAD"),
    ],
)
def test_a_wrong_method_names_the_right_ones(method: bytes, path: bytes, api: Api, allow: bytes) -> None:
    assert route(method, path) == (api, RouteKind.METHOD, allow)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b""),
        (b"POST", b"/v1/"),
        (b"POST", b"/v1"),
        (b"POST", b"/flush_cache"),
        (b"GET", b"/v2/unknown"),
        (b"POST", b"/v1/../sleep"),
        (b"POST", b"/v1/%2e%2E/sleep"),
        (b"POST", b"/v1/a%2f..%2fsleep"),
        (b"GET", b"/v1/responses/../../metrics"),
    ],
)
def test_everything_else_has_no_route(method: bytes, path: bytes) -> None:
    assert route(method, path) is None


@pytest.mark.parametrize(
    ("path", "response_id"),
    [
        (b"/v1/responses/resp_1", "resp_1"),
        (b"/v1/responses/resp_1/cancel", "resp_1"),
        (b"/v1/responses/job-77", "job-77"),
        (b"/v1/responses/job%3A77", "job:77"),
        (b"/v1/responses/resp_1/", "resp_1"),
        (b"/v1/responses/", None),
        (b"/v1/responses", None),
        (b"/v1/responses/\xff", None),
        (b"/v1/responses/" + b"a" * 300, None),
    ],
)
def test_the_id_of_a_stored_response_is_in_its_path(path: bytes, response_id: str | None) -> None:
    assert stored_response_id(path) == response_id


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        (b"/chat/completions", "/v1/chat/completions"),
        (b"/chat/completions/", "/v1/chat/completions/"),
        (b"/messages", "/v1/messages"),
        (b"/responses/resp_1", "/v1/responses/resp_1"),
        (b"/models", "/v1/models"),
        (b"/flush_cache", ""),
        (b"/v2/unknown", ""),
        (b"/../v1/messages", ""),
    ],
)
def test_a_base_url_without_its_version_is_told_so(path: bytes, meant: str) -> None:
    wire = Wire()
    client = ClientWire(wire)
    client.feed(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}" % path)
    head, _, body = bytes(client.output).partition(b"\r\n\r\n")
    assert b" 404 " in head
    error = json.loads(body)["error"]
    assert error["code"] == "unknown_endpoint"
    assert error["message"].startswith(f"no endpoint {path.decode()!r} here")
    assert (f"there is {meant!r}: let the base URL" in error["message"]) is bool(meant)
    assert bool(meant) or "base URL" not in error["message"]


def test_google_s_api_is_told_to_be_off() -> None:
    client = ClientWire(Wire())
    client.feed(b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
    assert b"served where the router's settings have cached_contents: true" in client.output


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        (b"POST", b"/v1/embeddings", True),
        (b"POST", b"/v1/something/new", True),
        (b"POST", b"/v1/audio/speech", True),
        (b"POST", b"/tokenize", False),
        (b"POST", b"/v1/token%69ze/", False),
        (b"POST", b"/v1/messages/count_tokens", False),
        (b"POST", b"/v1/responses/input_tokens", False),
        (b"POST", b"/v1/chat/completions/render", False),
        (b"GET", b"/version", False),
        (b"DELETE", b"/v1/files/file_1", False),
    ],
)
def test_what_a_server_answers_without_its_engine(method: bytes, path: bytes, expected: bool) -> None:
    assert computed(method, path) is expected
