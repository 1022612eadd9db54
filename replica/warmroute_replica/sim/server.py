"""This module is the HTTP server of one simulated replica. It has vLLM's endpoints, and endpoints under `/sim` that
make the replica fail and show its inside.

This module decides routes, request ids, where faults strike before an answer begins, and the listening socket's life.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from warmroute_replica.sim import api_pooling, api_responses
from warmroute_replica.sim.api_chat import plan_chat
from warmroute_replica.sim.api_completions import plan_completion
from warmroute_replica.sim.api_messages import messages_turn, plan_message
from warmroute_replica.sim.errors import DRAINING, ENGINE_DEAD, QUEUE_FULL, SCALING, ApiError, invalid
from warmroute_replica.sim.faults import Fault, FaultKind, parse_fault
from warmroute_replica.sim.generation import Format, Generation, Plan
from warmroute_replica.sim.lifecycle import add_lifecycle
from warmroute_replica.sim.simulated_replica import ReplicaConfig, SimulatedReplica
from warmroute_replica.sim.streaming import respond_plain, respond_stream
from warmroute_replica.sim.template import render
from warmroute_replica.sim.tokens import count_tokens

VERSION = "0.32.0"
MAX_BODY_BYTES = 256 * 1024 * 1024
RELISTEN_S = 0.05
"""Time between two attempts to listen on the port again, in seconds."""
REQUEST_ID_CHARS = 256
"""The longest `X-Request-Id` that the server takes over, in characters."""

UNSCALED = ("/health", "/is_scaling_elastic_ep")
"""The paths that are answered while the number of engines changes. Source: vLLM 0.33."""

FAULT = web.RequestKey("fault", Fault)
"""The fault that strikes a request while it is answered."""

Planner = Callable[[SimulatedReplica, dict[str, Any], str], tuple[Plan, Format]]

_PLANNERS: dict[str, Planner] = {
    "/v1/chat/completions": plan_chat,
    "/v1/completions": plan_completion,
    "/v1/messages": plan_message,
    "/v1/embeddings": api_pooling.plan_embeddings,
    "/v1/rerank": api_pooling.plan_rerank,
    "/v2/rerank": api_pooling.plan_rerank,
    "/rerank": api_pooling.plan_rerank,
    "/v1/score": api_pooling.plan_score,
    "/score": api_pooling.plan_score,
}


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Make a JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json", headers=headers
    )


class ReplicaServer:
    """A simulated replica's server on one port. Its owner calls `open` to begin and `close` at the end."""

    def __init__(self, config: ReplicaConfig, host: str, port: int) -> None:
        self.host = host
        self.port = port
        """The port; 0 until `open` has found a free one."""
        self.siblings: dict[int, ReplicaServer] = {}
        """The servers of this process by port, this one included."""
        self.replica = SimulatedReplica(config, asyncio.get_running_loop())
        self._listener: asyncio.Server | None = None
        self._outages: asyncio.Task[None] | None = None
        self._outage = asyncio.Event()
        self._outage_over = asyncio.Event()
        self._down_s = 0.0
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._middleware])
        self._add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, keepalive_timeout=75.0)

    @property
    def url(self) -> str:
        """Base URL at which the server listens."""
        return f"http://{self.host}:{self.port}"

    async def open(self) -> None:
        """Start listening.

        Raises:
            OSError: The port is taken.
        """
        await self._runner.setup()
        try:
            await self._listen()
        except OSError:
            await self._runner.cleanup()
            raise
        self._outages = asyncio.get_running_loop().create_task(self._serve_outages())

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._outages is not None:
            self._outages.cancel()
        self._stop_listening()
        self.replica.stop()
        self.drop_connections(None)
        await self._runner.cleanup()

    async def _serve_outages(self) -> None:
        """Listen again after each refusal, until the task is cancelled."""
        while True:
            await self._outage.wait()
            self._outage.clear()
            try:
                async with asyncio.timeout(self._down_s if self._down_s >= 0 else None):
                    await self._outage_over.wait()
            except TimeoutError:
                pass
            while self._listener is None:
                try:
                    await self._listen()
                except OSError:
                    # Another socket has the port for the moment: a client's outgoing connection was given its number.
                    await asyncio.sleep(RELISTEN_S)

    async def _listen(self) -> None:
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            server, self.host, self.port, backlog=1024, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def open_connections(self) -> list[asyncio.Transport]:
        """Return the transports of all connected clients."""
        server = self._runner.server
        connections = server.connections if server is not None else []
        return [connection.transport for connection in connections if connection.transport is not None]

    def drop_connections(self, spared: asyncio.BaseTransport | None) -> None:
        """Cut all connections but the spared one."""
        for transport in self.open_connections():
            if transport is not spared:
                transport.abort()

    def go_down(self, down_s: float) -> None:
        """Refuse connections for `down_s` seconds; with a negative time, until the faults are cleared."""
        if self._listener is None:
            return
        self._stop_listening()
        self._down_s = down_s
        self._outage_over.clear()
        self._outage.set()

    def die(self, down_s: float, spared: asyncio.BaseTransport | None) -> None:
        """Act as if a new process had taken this one's place: cache and memory are empty, the start time is new, all
        connections but the spared one are cut, and new ones are refused for `down_s` seconds."""
        self.replica.restart()
        self.drop_connections(spared)
        if down_s:
            self.go_down(down_s)

    def clear_faults(self) -> None:
        """Disarm all faults, let hung requests go on, and listen again."""
        self.replica.faults.clear()
        self._outage_over.set()

    def _add_routes(self, app: web.Application) -> None:
        router = app.router
        for path in _PLANNERS:
            router.add_post(path, self._generate)
        router.add_post("/v1/responses", self._responses)
        router.add_get("/v1/responses/{id}", self._get_response)
        router.add_post("/v1/responses/{id}/cancel", self._cancel_response)
        router.add_post("/v1/messages/count_tokens", self._count_tokens)
        router.add_post("/tokenize", self._tokenize)
        router.add_post("/detokenize", self._detokenize)
        router.add_get("/v1/models", self._models)
        router.add_get("/health", self._health)
        router.add_route("*", "/ping", self._health)
        router.add_get("/version", self._version)
        router.add_get("/load", self._load)
        router.add_get("/metrics", self._metrics)
        router.add_post("/reset_prefix_cache", self._reset_prefix_cache)
        add_lifecycle(router, self.replica)
        router.add_post("/sim/fault", self._arm_fault)
        router.add_delete("/sim/fault", self._clear_faults)
        router.add_get("/sim/stats", self._stats)
        router.add_post("/sim/reset", self._reset)
        self._paths = {resource.canonical for resource in router.resources()}

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        path = request.path
        control = path.startswith("/sim/")
        if self._listener is None and not control:
            # While the port refuses connections, a request on a connection from before is cut off, too.
            return self._cut(request)
        if self.replica.scaling and not control and path not in UNSCALED:
            return json_response({"error": SCALING}, status=503)
        refusal = None if control else self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            self._check_draining(request, control=control)
            fault = None if control else await self._fault(request)
            if request.method == "POST" and not control:
                self.replica.note_request(request.headers)
            if fault is not None:
                request[FAULT] = fault
                early = await self._strike_early(request, fault)
                if early is not None:
                    return early
            response: web.StreamResponse = await handler(request)
            return response
        except ApiError as error:
            anthropic = path.startswith("/v1/messages")
            return json_response(
                error.body(anthropic=anthropic), status=error.status, headers=_id_header(request)
            )
        except web.HTTPException as error:
            reason = error.reason if error.status in (404, 405) else str(error.text)
            return json_response({"detail": reason}, status=error.status)
        except ConnectionResetError:
            return self._cut(request)  # the client left before its answer began

    def _check_draining(self, request: web.Request, *, control: bool) -> None:
        if self.replica.draining and request.method == "POST" and not control:
            raise ApiError(500, DRAINING)

    async def _strike_early(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        """Carry out a fault that strikes before the answer begins; return None where the request goes on."""
        match fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(fault.delay_s)
                del request[FAULT]
                return None
            case FaultKind.DRAINING:
                raise ApiError(500, DRAINING)
            case FaultKind.ERROR_503:
                raise ApiError(503, QUEUE_FULL)
            case FaultKind.STATUS:
                return scripted(request, fault)
            case FaultKind.EMPTY:
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
                await response.prepare(request)
                await response.write_eof()
                return response
            case FaultKind.DIE:
                self.die(fault.down_s, None)
                return self._cut(request)
        if fault.in_answer:
            return None
        if fault.kind is FaultKind.ERROR_500:
            raise ApiError(500, ENGINE_DEAD)
        if fault.kind is FaultKind.CUT:
            return self._cut(request)
        replica = self.replica
        await replica.faults.wait_cleared(lambda: fault.while_busy and not replica.in_flight)
        del request[FAULT]
        return None

    async def _fault(self, request: web.Request) -> Fault | None:
        """Return the fault that strikes this request; None where none does."""
        faults = self.replica.faults
        body = await request.read() if faults.reads_body(request.path) else b""
        return faults.take(request.method, request.path, body, busy=self.replica.in_flight > 0)

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that is refused before anything else, because it lacks the key or its path
        ends with a slash that FastAPI does not know; None where it goes on."""
        key = self.replica.config.api_key
        path = request.path
        authorized = request.headers.get("Authorization") == f"Bearer {key}"
        if key is not None and path.startswith("/v1") and not authorized and request.method != "OPTIONS":
            return json_response({"error": "Unauthorized"}, status=401)
        if len(path) > 1 and path.endswith("/") and path.rstrip("/") in self._paths:
            target = f"http://{request.host}{path.rstrip('/')}"
            query = f"?{request.query_string}" if request.query_string else ""
            return web.Response(status=307, headers={"Location": target + query})
        return None

    def _cut(self, request: web.Request) -> web.Response:
        """Close the connection without an answer."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        plan, fmt = _PLANNERS[request.path](self.replica, body, request_id_of(request, body))
        return await self._answer(request, body, plan, fmt)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        plan, fmt = api_responses.plan_response(self.replica, body, request_id_of(request, body))
        if fmt.background:
            return json_response(api_responses.run_in_background(Generation(self.replica, plan), fmt))
        return await self._answer(request, body, plan, fmt)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], plan: Plan, fmt: Format
    ) -> web.StreamResponse:
        stream = body.get("stream") is True and plan.cacheable
        await self.replica.wait_admission()
        generation = Generation(self.replica, plan)
        generation.wanted_rank = rank_of(request)
        fault = request.get(FAULT)
        try:
            if stream:
                return await respond_stream(request, generation, fmt, fault, _id_header(request))
            if fault is not None and fault.kind is FaultKind.ERROR_500:
                raise ApiError(500, ENGINE_DEAD)
            return await respond_plain(request, generation, fmt, fault, _id_header(request))
        finally:
            generation.close()

    async def _get_response(self, request: web.Request) -> web.StreamResponse:
        return json_response(api_responses.stored(self.replica, request.match_info["id"]).body)

    async def _cancel_response(self, request: web.Request) -> web.StreamResponse:
        return json_response(api_responses.cancel(self.replica, request.match_info["id"]))

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        self.replica.resolve_model(body.get("model"))
        return json_response({"input_tokens": count_tokens(render(messages_turn(body)))})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        return json_response(api_pooling.tokenize(self.replica, await read_body(request)))

    async def _detokenize(self, request: web.Request) -> web.StreamResponse:
        return json_response(api_pooling.detokenize(self.replica, await read_body(request)))

    async def _models(self, _request: web.Request) -> web.StreamResponse:
        models = self.replica.config.models
        entries = [self._model(name, name, None) for name in models]
        entries += [self._model(name, root, models[0]) for name, root in self.replica.loras.items()]
        return json_response({"object": "list", "data": entries})

    def _model(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{name}",
            "object": "model_permission",
            "created": self.replica.created_s,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": self.replica.created_s,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": self.replica.config.model_len if parent is None else None,
            "permission": [permission],
        }

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"")

    async def _version(self, _request: web.Request) -> web.StreamResponse:
        return json_response({"version": VERSION})

    async def _load(self, _request: web.Request) -> web.StreamResponse:
        return json_response({"server_load": self.replica.in_flight})

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        text = self.replica.metrics_text()
        return web.Response(
            body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _reset_prefix_cache(self, request: web.Request) -> web.StreamResponse:
        replica = self.replica
        running = replica.in_flight > 0 and request.query.get("reset_running_requests") != "true"
        if not running:
            replica.clear_cache()
        return json_response({"success": not running})

    async def _arm_fault(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        fault = parse_fault(body)
        target = self._sibling(body.get("port"))
        if fault.kind is FaultKind.RESTART:
            target.die(fault.down_s, request.transport)
        elif fault.kind is FaultKind.REFUSE:
            target.go_down(fault.down_s)
        else:
            target.replica.faults.arm(fault)
        return json_response({"armed": fault.kind.value})

    async def _clear_faults(self, request: web.Request) -> web.StreamResponse:
        port = request.query.get("port")
        target = self._sibling(int(port) if port and port.isdecimal() else None)
        target.clear_faults()
        return json_response({"cleared": True})

    def _sibling(self, port: Any) -> ReplicaServer:
        if port is None:
            return self
        if port not in self.siblings:
            raise invalid(f"no port {port} in this process", param="port")
        return self.siblings[port]

    async def _stats(self, _request: web.Request) -> web.StreamResponse:
        return json_response(self.replica.stats())

    async def _reset(self, _request: web.Request) -> web.StreamResponse:
        self.replica.reset()
        return json_response({"reset": True})


async def read_body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        ApiError: 400, the body is no JSON object.
    """
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"JSON decode error: {error}", kind="Bad Request") from error
    if not isinstance(body, dict):
        raise ApiError(400, "Input should be a valid dictionary", kind="Bad Request")
    return body


def scripted(request: web.Request, fault: Fault) -> web.Response:
    """Return the answer that a fault of kind `status` describes."""
    if fault.body is not None:
        text = fault.body
    else:
        error = ApiError(fault.status, "the simulated replica was told to answer so")
        text = msgspec.json.encode(error.body(anthropic=request.path.startswith("/v1/messages"))).decode()
    headers = {"Content-Type": "application/json", **fault.headers}
    return web.Response(status=fault.status, body=text.encode(), headers=headers)


def rank_of(request: web.Request) -> int | None:
    """Return the data-parallel rank that a request names, or None. A value that is no number is ignored, as vLLM
    does."""
    try:
        return int(request.headers["X-data-parallel-rank"])
    except (KeyError, ValueError):
        return None


def request_id_of(request: web.Request, body: dict[str, Any]) -> str:
    """Return the id that the answer carries: the header's, the body's, or a new one."""
    given = request.headers.get("X-Request-Id") or body.get("request_id")
    return str(given)[:REQUEST_ID_CHARS] if given else uuid.uuid4().hex[:16]


def _id_header(request: web.Request) -> dict[str, str]:
    given = request.headers.get("X-Request-Id")
    return {"X-Request-Id": given[:REQUEST_ID_CHARS] if given else uuid.uuid4().hex, "Server": "uvicorn"}
