"""A probe looks at one replica over HTTP: `/health` each time, `/v1/models` and `/metrics` when they may have changed.

Its rules:

- They may have changed at first contact, after an outage, when the connection had to be made anew, and every
  `scrape_interval_s`. The third is what notices a restart between two probes: a process that ended took its
  connections with it. So a well replica costs one small request a probe on a connection that stays open.
- An incarnation is a hash of the replica's id and its process start time: every router computes the same one.
- An engine without a start time in `/metrics` (not vLLM, or vLLM with several API servers) has the incarnation of its
  id alone until an outage, and a new one after each. The minute is part of it, so that routers that saw the same outage
  nearly always agree.
- An engine that sleeps (`vllm:engine_sleep_state`) answers `/health` with 200 and takes requests, which wait until it
  is woken. It is not alive, and read at every probe until it is awake. So is one that says that it is paused
  (`/is_paused`), where it lets itself be asked, or that it is scaling (a 503 that says so).
- Where the sleep cost it its cache, it wakes as another incarnation; the minute makes routers agree. Another version of
  its weights (`/weight_info`) is another incarnation too. `ProbeResult.process` is the same in all of these.
- What only some servers offer (`/is_paused` and `/weight_info`: vLLM in development mode) is asked for whenever the
  rest is read anew, and no more once it is not offered, until the engine is another one.
- Nothing that a replica answers raises: what cannot be read is not known. Answers are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import msgspec
import xxhash

from warmroute.adapters.engine import vllm_metrics
from warmroute.adapters.engine.vllm_metrics import EngineFigures
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.ports import ProbeResult
from warmroute.telemetry.logs import fields
from warmroute.telemetry.reasons import is_refused, why_no_connection

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_HEALTH_BYTES = 64 << 10
MAX_MODELS_BYTES = 8 << 20
MAX_METRICS_BYTES = 8 << 20
MAX_MODELS = 4096
MAX_MODEL_NAME = 512
OUTAGE_TIMEOUTS = 3
"""Probes timed out in a row that count as an outage; fewer are a busy engine."""

_NOT_OFFERED = frozenset({404, 405, 501})

SCALING_MARK = b"model is currently scaling"
FIRST_WEIGHTS = "default"
"""Version of weights that were never exchanged. Source: vLLM 0.32."""


class _Paused(msgspec.Struct):
    is_paused: bool


class _Weights(msgspec.Struct):
    weight_version: str


_paused = msgspec.json.Decoder(_Paused)
_weights = msgspec.json.Decoder(_Weights)


class _Models(msgspec.Struct):
    data: list[dict[str, Any]]


_models = msgspec.json.Decoder(_Models)


class _Known:
    """What is kept of one replica between probes."""

    __slots__ = ("connected", "connecting", "down", "emptied", "figures", "incarnation", "life", "models",
                 "must_scrape", "not_offered", "paused", "process", "scaling", "scraped_s", "slept_until_min",
                 "timeouts", "unreadable", "url", "weights")  # fmt: skip

    def __init__(self, url: str) -> None:
        self.url = url
        self.connected = False
        """A connection was made since this was last cleared."""
        self.connecting = False
        """A connection is being made."""
        self.must_scrape = True
        self.scraped_s = 0.0
        self.down = False
        self.timeouts = 0
        self.life = 0
        """Which life an engine without a start time is in; 0 until its first outage."""
        self.slept_until_min = 0
        """When a sleep that emptied its cache was seen to end, in minutes since 1970, so that all routers that see it
        say the same; 0 without one."""
        self.emptied = False
        """It sleeps, and has lost its cache."""
        self.paused = self.scaling = False
        """As far as it says so itself."""
        self.weights = FIRST_WEIGHTS
        self.not_offered: set[str] = set()
        """Paths that this life does not have."""
        self.process: Incarnation | None = None
        self.incarnation: Incarnation | None = None
        self.models: dict[str, object] | None = None
        self.figures = EngineFigures()
        self.unreadable: int | None = None
        """Last status of `/v1/models` that was reported as a problem."""


class HttpEngine:
    """Probes vLLM, and any server that answers `/health` or `/v1/models`."""

    def __init__(
        self,
        *,
        timeout_s: float,
        scrape_interval_s: float,
        clock: Callable[[], float],
        api_key: str | None = None,
        tls: ssl.SSLContext | bool = True,
    ) -> None:
        """`clock` is Unix time; `tls` is for `https://` replicas, False checks no certificate."""
        self._clock = clock
        self._known: dict[ReplicaId, _Known] = {}
        self.configure(timeout_s=timeout_s, scrape_interval_s=scrape_interval_s, api_key=api_key, tls=tls)
        self._session: aiohttp.ClientSession | None = None

    def configure(
        self, *, timeout_s: float, scrape_interval_s: float, api_key: str | None, tls: ssl.SSLContext | bool
    ) -> None:
        """Probe in this way from now on; everything is read again, since another key may show more."""
        self._timeout_s = timeout_s
        self._scrape_interval_s = scrape_interval_s
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "warmroute-probe"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._tls = tls
        for known in self._known.values():
            known.must_scrape = True

    async def start(self) -> None:
        """Make the client; connects to nobody."""
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(_note_connecting)
        trace.on_connection_create_end.append(_note_connection)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[trace],
        )

    async def stop(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def read_again(self, replica_id: ReplicaId) -> None:
        """See `warmroute.ports.Engine.read_again`."""
        known = self._known.get(replica_id)
        if known is not None:
            known.must_scrape = True

    def forget(self, replica_id: ReplicaId) -> None:
        """Drop what is kept of a replica."""
        self._known.pop(replica_id, None)

    async def probe(self, replica_id: ReplicaId, url: str) -> ProbeResult:
        """See `warmroute.ports.Engine.probe`. Takes at most three timeouts."""
        known = self._known.get(replica_id)
        if known is None or known.url != url:
            known = self._known[replica_id] = _Known(url)
        known.connected = known.connecting = False
        unwell = await self._health(known)
        if unwell is not None:
            failure, detail = unwell
            known.timeouts += 1
            if failure is not FailureReason.TIMEOUT or known.timeouts >= OUTAGE_TIMEOUTS:
                known.down = True
            known.must_scrape = True
            return ProbeResult(alive=False, failure=failure, detail=detail)
        now_s = self._clock()
        due = now_s - known.scraped_s >= self._scrape_interval_s or now_s < known.scraped_s
        if known.must_scrape or known.connected or due:
            await self._scrape(replica_id, known, now_s)
        known.timeouts = 0
        figures = known.figures
        resting = _resting(known)
        if resting is not None:
            known.must_scrape = True  # the probe that finds it awake must be the next one
            return ProbeResult(alive=False, failure=resting[0], detail=resting[1])
        return ProbeResult(
            alive=True,
            incarnation=known.incarnation,
            process=known.process,
            life_told=figures.start_time_s is not None,
            models=known.models,
            block_tokens=figures.block_tokens,
            cache_tokens=figures.cache_tokens,
            running=figures.running,
            waiting=figures.waiting,
            engines=figures.engines,
        )

    async def models(self, replica_id: ReplicaId, url: str) -> Mapping[str, object] | None:
        """See `warmroute.ports.Engine.models`."""
        known = self._known.get(replica_id)
        if known is None or known.url != url:
            return None
        try:
            status, text = await self._read(known, "/v1/models", MAX_MODELS_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError, _UnreadableError):
            return None
        if known.connected:
            known.must_scrape = True  # the probe that would have noticed finds this connection open
        if self._known.get(replica_id) is known:
            self._take_models(replica_id, known, status, text)
        return known.models

    async def _health(self, known: _Known) -> tuple[FailureReason, str] | None:
        """Why it is not alive, and what happened; None if it is."""
        asked = f"{known.url}/health"
        try:
            status, body = await self._get(known, "/health", MAX_HEALTH_BYTES)
            if status == 503 and SCALING_MARK in body:
                return FailureReason.SCALING, f"{asked}: {_SCALING}"
            if status in _NOT_OFFERED:
                asked = f"{known.url}/v1/models"
                status, _ = await self._get(known, "/v1/models", MAX_MODELS_BYTES)
                if status in (401, 403):  # keeps its models to itself, and is alive to say so
                    status = 200
        except TimeoutError:
            what = "no connection" if known.connecting else "no answer"
            return FailureReason.TIMEOUT, f"{asked}: {what} within {self._timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            cause = cause_of(error)
            reason = FailureReason.REFUSED if is_refused(cause) else FailureReason.CONNECT
            return reason, f"{asked}: {why_no_connection(cause, error.host)}"
        except aiohttp.ClientResponseError:
            return FailureReason.PROBE, f"{asked}: what came is no HTTP answer"
        except aiohttp.InvalidURL:
            return FailureReason.PROBE, f"{asked}: not a URL"
        except aiohttp.ClientPayloadError as error:
            return FailureReason.LOST, f"{asked}: {error}"
        except (aiohttp.ClientError, OSError):
            return FailureReason.LOST, f"{asked}: the connection broke before the answer was complete"
        return None if status == 200 else (FailureReason.STATUS, f"{asked} answered {status}")

    async def _scrape(self, replica_id: ReplicaId, known: _Known, now_s: float) -> None:
        known.must_scrape = True  # until all of it has been read
        try:
            status, text = await self._read(known, "/metrics", MAX_METRICS_BYTES)
            before, known.figures = known.figures, vllm_metrics.parse(text if status == 200 else b"")
            if before.start_time_s != known.figures.start_time_s or known.down:
                known.emptied, known.slept_until_min = False, 0
                known.not_offered.clear()
            paused = await self._offered(known, "/is_paused", _paused)
            weights = await self._offered(known, "/weight_info", _weights)
            known.paused = paused is not None and paused.is_paused
            known.weights = FIRST_WEIGHTS if weights is None else weights.weight_version
            if known.figures.asleep:
                known.emptied = known.emptied or known.figures.emptied
            elif known.emptied:
                known.emptied, known.slept_until_min = False, int(now_s // 60)
            self._recognise(replica_id, known, now_s)
            status, text = await self._read(known, "/v1/models", MAX_MODELS_BYTES)
            self._take_models(replica_id, known, status, text)
            known.must_scrape = known.scaling = False
            known.scraped_s = now_s
        except _ScalingError:
            known.scaling = True
        except (TimeoutError, aiohttp.ClientError, OSError, _UnreadableError):
            if known.incarnation is None:
                self._recognise(replica_id, known, now_s)

    def _recognise(self, replica_id: ReplicaId, known: _Known, now_s: float) -> None:
        start_s = known.figures.start_time_s
        if start_s is None and known.down and known.incarnation is not None:
            known.life = max(known.life + 1, int(now_s // 60))
        known.down = False
        life = start_s if start_s is not None else float(known.life)
        known.process = incarnation_of(replica_id, life)
        known.incarnation = incarnation_of(replica_id, life, known.slept_until_min, known.weights)

    def _take_models(self, replica_id: ReplicaId, known: _Known, status: int, text: bytes) -> None:
        try:
            if status == 200:
                known.models = _named(_models.decode(text).data)
                known.unreadable = None
                return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        known.models = None
        if known.unreadable != status:
            known.unreadable = status
            hint = "set health.api_key" if status in (401, 403) else "not an OpenAI-compatible list of models"
            log.warning("replica_models_unknown", extra=fields(replica=replica_id, status=status, hint=hint))

    async def _offered(self, known: _Known, path: str, decoder: msgspec.json.Decoder[_T]) -> _T | None:
        """What a path tells that only some servers have; None where it does not."""
        if path in known.not_offered:
            return None
        try:
            status, body = await self._read(known, path, MAX_HEALTH_BYTES)
        except TimeoutError:
            status, body = 404, b""  # the rest of what is read must not wait for it each time
        if status == 200:
            try:
                return decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        known.not_offered.add(path)
        return None

    async def _read(self, known: _Known, path: str, limit_bytes: int) -> tuple[int, bytes]:
        status, body = await self._get(known, path, limit_bytes)
        if status == 503 and SCALING_MARK in body:
            raise _ScalingError
        if status >= 500 and status not in _NOT_OFFERED:
            raise _UnreadableError
        return status, body

    async def _get(self, known: _Known, path: str, limit_bytes: int) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("probe before start or after stop")
        body = bytearray()
        async with (
            asyncio.timeout(self._timeout_s),
            self._session.get(
                known.url + path,
                allow_redirects=False,
                headers=self._headers,
                ssl=self._tls,
                trace_request_ctx=known,
            ) as response,
        ):
            async for chunk in response.content.iter_chunked(64 << 10):
                body += chunk
                if len(body) > limit_bytes:
                    raise aiohttp.ClientPayloadError(f"{path} is longer than {limit_bytes} bytes")
            return response.status, bytes(body)


class _UnreadableError(Exception):
    """The replica has trouble of its own; what it last told stays."""


class _ScalingError(_UnreadableError):
    """It changes how many engines it has."""


_SCALING = (
    "the server changes how many engines it has (POST /scale_elastic_ep), and answers nothing meanwhile"
)


def _resting(known: _Known) -> tuple[FailureReason, str] | None:
    """Why it computes nothing though it is well, and what ends that; None if it computes."""
    url = known.url
    if known.scaling:
        return FailureReason.SCALING, f"{url}/metrics: {_SCALING}"
    if known.figures.asleep:
        return (
            FailureReason.ASLEEP,
            f"{url}/metrics says that the engine sleeps (vllm:engine_sleep_state): POST /wake_up wakes it",
        )
    if known.paused:
        return FailureReason.PAUSED, f"{url}/is_paused says that the engine is paused: POST /resume ends that"
    return None


def _named(cards: list[dict[str, Any]]) -> dict[str, object]:
    named: dict[str, object] = {}
    for card in cards[:MAX_MODELS]:
        name = card.get("id")
        if isinstance(name, str) and 0 < len(name) <= MAX_MODEL_NAME:
            named.setdefault(name, card)
    return named


def cause_of(error: aiohttp.ClientConnectorError) -> OSError:
    """What the operating system or TLS said; aiohttp keeps that of certificates apart."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return cause if isinstance(cause, OSError) else error
    return error.os_error


async def _note_connecting(session: aiohttp.ClientSession, context: SimpleNamespace, parameters: Any) -> None:
    known: _Known = context.trace_request_ctx
    known.connecting = True


async def _note_connection(session: aiohttp.ClientSession, context: SimpleNamespace, parameters: Any) -> None:
    known: _Known = context.trace_request_ctx
    known.connected = True
    known.connecting = False


def incarnation_of(
    replica_id: ReplicaId, life: float, slept_until_min: int = 0, weights: str = FIRST_WEIGHTS
) -> Incarnation:
    """48 bits, never 0, that differ between lives of one replica and between replicas.

    Args:
        life: Process start time in Unix seconds, or the number of the life where that is unknown.
        slept_until_min: When it woke last from a sleep that emptied its cache, in minutes since 1970; 0 without one.
        weights: Version of its weights.
    """
    text = f"{replica_id}\0{float(life):.3f}".encode()
    if slept_until_min:
        text += b"\0%d" % slept_until_min  # what was cached before is gone, as after a restart
    if weights != FIRST_WEIGHTS:
        text += b"\0w" + weights.encode("utf-8", "surrogatepass")
    return Incarnation((xxhash.xxh3_64_intdigest(text) & ((1 << 48) - 1)) or 1)
