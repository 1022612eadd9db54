"""Whatever a body holds, reading it gives a request or a 400, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import Parsed, multipart_model, parse
from warmroute.dialects.other import form_model
from warmroute.dialects.routes import route, stored_response_id
from warmroute.dialects.usage import find_usage, response_id

CODES = {"invalid_json", "prompt_required"}
APIS = st.sampled_from(list(Api))
NAMES = st.sampled_from(
    "model messages prompt input system tools role content type text image_url url source data tool_calls function"
    " arguments name id stream stream_options include_usage max_tokens cache_salt prompt_cache_key reasoning effort"
    " instructions previous_response_id output call_id summary thinking prompt_embeds tool_use_id documents".split()
)
WORDS = st.sampled_from(
    "user assistant text image_url input_text tool_use tool_result function_call function_call_output reasoning"
    " image thinking message base64 url".split()
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=True),
        WORDS,
        st.text(st.characters(), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(NAMES, st.text(max_size=3)), inner, max_size=4)
    ),
    max_leaves=12,
)


def check(api: Api, body: bytes) -> None:
    error: ClientError | None = None
    try:
        parsed = parse(api, body)
    except ClientError as refusal:
        error = refusal
    if error is not None:
        assert error.status == 400
        assert error.code in CODES
        assert error.message
        return
    assert isinstance(parsed, Parsed)
    assert parsed.prompt_bytes >= len(parsed.canonical)


@given(APIS, st.binary(max_size=200))
@example(Api.CHAT, b"[" * 5000)
@example(Api.CHAT, b'{"model":"m","messages":[{"role":"\\ud800"}]}')
def test_arbitrary_bytes(api: Api, body: bytes) -> None:
    check(api, body)


@settings(max_examples=300)
@given(APIS, st.dictionaries(NAMES, VALUES, max_size=6), st.booleans())
def test_json_of_the_wrong_shape(api: Api, fields: dict[str, Any], named: bool) -> None:
    body = {**fields, "model": "m"} if named else fields
    check(api, json.dumps(body).encode())


VALID: dict[Api, dict[str, Any]] = {
    Api.CHAT: {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "é"}, {"type": "input_audio", "input_audio": {}}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "user", "content": [{"type": "new", "x": "é"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "é"}}],
        "stream_options": {"include_usage": True},
    },
    Api.COMPLETIONS: {"model": "m", "prompt": [[1, 2], [3]], "prompt_embeds": "é"},
    Api.RESPONSES: {
        "model": "m",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "é"}]},
            {"type": "reasoning", "summary": [{"text": "é"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "web_search_call", "id": "é"},
        ],
        "tools": [{"name": "é"}],
    },
    Api.MESSAGES: {
        "model": "m",
        "system": [{"type": "text", "text": "é"}],
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": "é"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text"}]}]},
            {"role": "user", "content": [{"type": "document", "source": "é"}]},
        ],
    },
    Api.OTHER: {"model": "m", "input": ["é"]},
}  # fmt: skip


def test_the_bodies_to_be_mutated_are_valid() -> None:
    for api, fields in VALID.items():
        assert parse(api, json.dumps(fields, ensure_ascii=False).encode()).model == "m"


@settings(max_examples=400)
@given(APIS, st.data())
def test_mutated_bodies(api: Api, data: st.DataObject) -> None:
    body = bytearray(json.dumps(VALID[api], ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(at, min(len(body), at + 6)))
        junk = st.sampled_from(
            [b"", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"1e999", b"null", b"{", b'"', b","]
        )
        body[at:end] = data.draw(st.one_of(junk, st.binary(max_size=4)))
    check(api, bytes(body))


@given(
    APIS,
    st.binary(max_size=100),
    st.sampled_from([b"", b'"usage":{', b'"usage":', b'"id":"resp_']),
    st.binary(max_size=60),
)
def test_answers_and_forms_never_raise(api: Api, head: bytes, middle: bytes, tail: bytes) -> None:
    data = head + middle + tail
    find_usage(api, data)
    response_id(data)
    multipart_model(b"multipart/form-data; boundary=" + head, b"--" + head + data)
    form_model(b"multipart/form-data; boundary=" + head, b"--" + head + data)
    route(b"POST", b"/v1/" + data)
    stored_response_id(b"/v1/responses/" + data)
