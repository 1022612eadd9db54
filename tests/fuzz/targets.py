"""What is fuzzed: parsers and readers of bytes from outside, each with what must hold whatever the bytes are.

A target is a function of bytes that returns, or raises where something does not hold. Where there is a second reading
of the same bytes, both must agree: llhttp's for HTTP, the standard library's for JSON. `corpus/NAME` has the seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import hiredis
import httptools

from tests.support.wire import ParsedAnswers, Wire
from warmroute.adapters.engine import vllm_metrics
from warmroute.adapters.resp.pipe import Pipe
from warmroute.adapters.resp.url import parse_redis_url
from warmroute.caching.schemas.model import SchemaError
from warmroute.caching.schemas.prefixes import prefixes
from warmroute.caching.schemas.selection import Index
from warmroute.config.discovery_urls import parse_source
from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dataplane.answer import AnswerCache, from_fields, read_whole
from warmroute.dialects import multipart_model, parse, prompt_schemas
from warmroute.dialects.coding import readable
from warmroute.dialects.guess import likely_paths
from warmroute.dialects.other import form_model
from warmroute.dialects.routes import model_id, route, slash_dropped, stored_response_id
from warmroute.dialects.sse import EventGate
from warmroute.dialects.terminal import ends_answer, opening_end
from warmroute.dialects.usage import find_usage, response_id
from warmroute.wire.load_notice import unpack_notice
from warmroute.wire.registry_record import MAX_HOLDERS, unpack_record

APIS = list(Api)


def dialects(data: bytes) -> None:
    """A body is a request or a 400; what it names is what the standard library reads there."""
    known = _loaded(data)
    for api in APIS:
        refusal: ClientError | None = None
        parsed: Any = None
        try:
            parsed = parse(api, data)
        except ClientError as error:
            refusal = error
        if refusal is not None:
            assert refusal.status == 400, refusal
            assert refusal.code in ("invalid_json", "prompt_required"), refusal.code
            assert refusal.code != "invalid_json" or not isinstance(known, dict), f"{api}: refused as no JSON"
            continue
        assert parsed.prompt_bytes >= len(parsed.canonical)
        if known is _UNKNOWN or (api is Api.OTHER and not data):
            continue
        assert known is not _REFUSED, f"{api}: no JSON, and not refused"
        if not isinstance(known, dict):
            assert (parsed.model, parsed.canonical) == ("", b""), (
                f"{api}: {type(known).__name__} taken for an object"
            )
            continue
        model = known.get("model")
        if isinstance(model, str) and not any("\ud800" <= letter <= "\udfff" for letter in model):
            assert parsed.model == model, f"{api}: {parsed.model!r} for {model!r}"
        if isinstance(known.get("stream"), bool) and api in (
            Api.CHAT,
            Api.COMPLETIONS,
            Api.MESSAGES,
            Api.RESPONSES,
        ):
            assert parsed.stream is known["stream"], api


_UNKNOWN = object()
_REFUSED = object()


def _loaded(data: bytes) -> Any:
    """What the standard library reads; unknown where that depends on Python's limits, and of what is no text.

    Bytes that are no text in a field that the router does not read are left to the engine.
    """
    try:
        return json.loads(data)
    except (RecursionError, MemoryError, UnicodeError):
        return _UNKNOWN
    except ValueError as error:
        return _UNKNOWN if "integer string conversion" in str(error) else _REFUSED


class _Heard:
    """llhttp's reading of requests on one connection."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self._url = b""
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        self.requests.append((self._parser.get_method() + b" " + self._url, self._body))


class _Plane:
    """One data plane for all inputs, each on connections of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.wire = self.loop.run_until_complete(self._built())

    async def _built(self) -> Wire:
        return Wire()

    def ask(self, data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
        """Statuses and bodies that a client gets which sends this and leaves."""
        return self.loop.run_until_complete(self._ask(data, cuts))

    async def _ask(self, data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
        wire = self.wire
        for _ in range(2):
            wire.add_upstream()
        client = wire.connect()
        begun = 0
        for cut in [*cuts, len(data)]:
            client.feed(data[begun:cut])
            begun = max(begun, cut)
            _answer(wire)
            await asyncio.sleep(0)
        output = client.output
        client.transport.abort()
        client.transport.protocol.connection_lost(None)
        await wire.gateway.tasks.stop()
        wire.drop_upstreams()
        if b"HEAD " in data:
            return []  # an answer to HEAD has a length and no body, which a parser of answers alone cannot know
        found = ParsedAnswers(output).answers
        return [(status, body) for status, _, body in found if status != 100]


_planes: list[_Plane] = []


def _answer(wire: Wire) -> None:
    for connection, transport in wire.upstreams:
        while connection.exchange is not None and not transport.closed:
            exchange = connection.exchange
            connection.data_received(OK)
            if connection.exchange is exchange:
                break


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def requests(data: bytes) -> None:
    """Whatever a client sends, whole or in pieces: answers in HTTP, none of them a 500, and nothing is left over."""
    if not _planes:
        _planes.append(_Plane())
    plane = _planes[0]
    at_once = plane.ask(data, [])
    for status, body in at_once:
        assert status not in (500, 502), body
    assert plane.wire.at_rest()
    assert not plane.wire.gateway.connections
    # What is answered is what llhttp reads, request by request, and one refusal at most.
    heard = _Heard()
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        heard.feed(data)
    assert len(at_once) <= len(heard.requests) + 1, "more answers than requests and one refusal"
    assert sum(status == 200 for status, _ in at_once) <= len(heard.requests)
    in_pieces = plane.ask(data, [len(data) * part // 7 for part in range(1, 7)])
    assert plane.wire.at_rest()
    statuses, others = [status for status, _ in at_once], [status for status, _ in in_pieces]
    assert statuses == others, (statuses, others)


def answers(data: bytes) -> None:
    """An answer that is read without a parser is what llhttp reads."""
    whole = read_whole(data)
    found = AnswerCache().read(data)
    assert (whole is None) == (found is None)
    if whole is None:
        return
    head, body = whole
    parsed = ParsedAnswers(data)
    assert parsed.complete == 1
    ((status, fields, read),) = parsed.answers
    judged = from_fields(status, fields)
    assert (head.status, head.length_bytes, head.event_stream) == (
        judged.status, judged.length_bytes, judged.event_stream,
    )  # fmt: skip
    assert body == read


def events(data: bytes) -> None:
    """A stream comes out of the gate as it went in; readers of events read whatever it is."""
    gate = EventGate()
    step = max(1, len(data) // 5)
    out = b"".join(gate.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert data.startswith(out)
    assert out + gate.flush() == data
    for api in APIS:
        usage = find_usage(api, data)
        if usage is not None:
            assert usage.prompt_tokens >= 0
            assert usage.completion_tokens >= 0
            assert usage.cached_tokens is None or usage.cached_tokens >= 0
        ends_answer(api, data)
    opening_end(data, 0)
    response_id(data)


def usage(data: bytes) -> None:
    """A report read in place is what the standard library reads."""
    events(data)
    known = _loaded(data)
    if not isinstance(known, dict) or data.count(b'"usage"') != 1:
        return
    report = known.get("usage")
    found = find_usage(Api.CHAT, data)
    if isinstance(report, dict) and found is not None:
        count = report.get("prompt_tokens")
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 10**15:
            assert found.prompt_tokens == count


def urls(data: bytes) -> None:
    """Paths and settings' URLs: found or refused, and never anything else."""
    path = data.split(b"\n")[0]
    for method in (b"GET", b"POST", b"DELETE"):
        route(method, path)
    slash_dropped(path)
    stored_response_id(path)
    model_id(path)
    likely_paths(data)
    text = data.decode("utf-8", "replace")
    for read in (parse_redis_url, parse_source):
        with contextlib.suppress(ValueError, OSError):
            read(text)


def records(data: bytes) -> None:
    """What stands in Redis under our keys is a record or nobody."""
    record = unpack_record(data, 0.0)
    assert record is None or 1 <= len(record) <= MAX_HOLDERS
    unpack_notice(data)


class _Transport:
    def abort(self) -> None:
        return

    def write(self, data: bytes) -> None:
        return


_HUGE = re.compile(rb"[*%~>|]\d{7,}")
"""hiredis makes room for as many elements as are announced, at once: gigabytes, which take it many seconds. A Redis is
trusted not to do that (SECURITY.md)."""


def replies(data: bytes) -> None:
    """Whatever a Redis says, each asker hears once, and the replies are hiredis's own reading of them."""
    if _HUGE.search(data):
        return
    heard: list[Any] = []
    lost: list[Any] = []
    transport: Any = _Transport()
    loop: Any = None
    pipe = Pipe(("h", 1), loop, lost.append)
    pipe.connection_made(transport)
    for count in (1, 2, 1):
        pipe.send(b"", count, heard.append)
    step = max(1, len(data) // 3)
    for at in range(0, len(data), step):
        if pipe.open:
            pipe.data_received(data[at : at + step])
    pipe.close()
    assert len(heard) == 3
    assert len(lost) == 1
    reader = hiredis.Reader()
    reader.feed(data)
    with contextlib.suppress(
        hiredis.ProtocolError, TypeError
    ):  # the latter for maps whose keys are no values
        first = reader.gets()
        if first is not False and heard[0] is not None:
            assert str(heard[0][0]) == str(first)


def engines(data: bytes) -> None:
    """An engine's metrics, a multipart body, a coded body: read or not, and never anything else."""
    figures = vllm_metrics.parse(data)
    assert figures is not None
    multipart_model(data[:60], data)
    form_model(data[:60], data)
    for coding in (b"gzip", b"deflate", b"zstd", data[:8]):
        assert isinstance(readable(coding, data, 65_536), bytes)


def schemas(data: bytes) -> None:
    """A schema or a prompt, in markup or JSON: read, or refused with 400; what is read can be shown and computed."""
    known = _loaded(data)
    document = known if isinstance(known, dict) else {"pml": data.decode("utf-8", "surrogateescape")}
    try:
        index = Index(prompt_schemas.registration(document).schema)
    except SchemaError:
        pass
    else:
        assert all(messages for messages in prefixes(index, 2))
        index.labels()
    for asked in (document.get("pml"), document):
        with contextlib.suppress(SchemaError):
            assert prompt_schemas.asked(asked).name


TARGETS: dict[str, Callable[[bytes], None]] = {
    "dialects": dialects,
    "requests": requests,
    "answers": answers,
    "events": events,
    "usage": usage,
    "urls": urls,
    "records": records,
    "replies": replies,
    "engines": engines,
    "schemas": schemas,
}

SHARES = {"requests": 0.01}
"""Of a run's inputs, where it is not an equal share: these go through the whole data plane, twice."""
