"""What all connections of one worker share: the fleet, the registry, limits, counters, and the pools of connections.

Decides nothing by itself; `app` builds it, `server` opens its sockets. Everything here belongs to one event loop.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from router.config.schema import Config
from router.core.deaths import MOST_LIVES, Deaths
from router.core.errors import ClientError, NotFoundError, RouterError
from router.core.fingerprint import Fingerprinter
from router.core.fleet import Decision, Fleet, Replica
from router.core.health import FailureReason, ReplicaState
from router.core.retry_budget import RetryBudget
from router.core.types import Api, FingerprintHash, Holder, Incarnation, ReplicaId, RequestShape
from router.dataplane import local
from router.dataplane.cors import Cors
from router.dataplane.head_cache import HeadCache
from router.dataplane.hold import Hold
from router.dataplane.pool import Pool
from router.dataplane.proxies import TrustedProxies
from router.dataplane.request import Request, RequestHead
from router.dialects import coding, multipart_model
from router.dialects.model_list import anthropic_list, anthropic_model, default_model
from router.dialects.parsed import Parsed, model_required
from router.dialects.reading import parse
from router.dialects.routes import model_id
from router.dialects.sessions import Sessions
from router.dialects.usage_request import StreamManner
from router.ports import Registry
from router.service.questions import Questions
from router.tasks import Tasks
from router.telemetry.access_log import AccessEntry, AccessLog
from router.telemetry.log_fingerprints import LogFingerprints
from router.telemetry.logs import fields
from router.telemetry.metrics import Metrics
from router.wire.registry_record import kept_time

if TYPE_CHECKING:
    from router.dataplane.downstream import ClientConnection
    from router.dataplane.exchange import Exchange
    from router.dataplane.upstream import ReplicaConnection
    from router.dialects.usage import Usage

log = logging.getLogger(__name__)

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""

MAX_WITHDRAWN: Final = 1024

_TWO_DIGITS: Final = [b"%02x" % number for number in range(256)]

HEAD_BYTES: Final = 4096
"""How much of a body that is not routed by prefix enters its ring key."""


class Gateway:
    """Shared state of the data plane."""

    def __init__(
        self,
        config: Config,
        *,
        fleet: Fleet,
        registry: Registry,
        metrics: Metrics,
        access_log: AccessLog | None,
        tasks: Tasks,
        fingerprinter: Fingerprinter,
        clock: Callable[[], float],
        upstream_tls: ssl.SSLContext | None,
        readiness: Callable[[], tuple[int, bytes]],
        hold: Hold | None = None,
        probe_soon: Callable[[ReplicaId], None],
        questions: Questions,
        metrics_text: Callable[[str], tuple[bytes, str]] | None = None,
    ) -> None:
        self.fleet = fleet
        self.hold = hold
        """Where first choices by prefix may have to wait; None: they are made at once."""
        self.registry = registry
        self.metrics = metrics
        self.access_log = access_log
        self.tasks = tasks
        self.fingerprinter = fingerprinter
        """Replaced as a whole when the registry makes the deployment's secret known."""
        self.log_fingerprints: LogFingerprints | None = None
        """Set where the access log is to have them, once the secret is known."""
        self.clock = clock
        self.limits = config.limits
        self.upstream = config.upstream
        self.max_attempts = config.max_attempts
        self.explain_headers = config.headers.explain
        self.early_heads = config.headers.early
        self.ask_usage = config.feedback.ask_usage
        self.sessions = Sessions(config.sessions)
        self.cors = Cors(config.cors) if config.cors.allowed_origins else None
        """None: browsers' pages are told nothing."""
        self.unlisted_models = config.health.unlisted_models
        self.questions = questions
        self.metrics_text = metrics_text
        """`Accept` header -> body and content type of `/metrics`; None where the data port does not show them."""
        self.bytes_per_token = config.policy.bytes_per_token
        trusted = config.access_log.trusted_proxies
        self._proxies = TrustedProxies(trusted) if trusted else None
        self.heads = HeadCache()
        self.draining = False
        self.answered = 0
        """Requests that have ended, however."""
        self.deaths = Deaths(config.health.deadly_request_s)
        self.withdrawals = 0
        """How often something noted in the registry was taken back."""
        self._withdrawn: dict[Holder, None] = {}
        """What was, lately: at the time at which it was noted, and at the one that a shared registry keeps."""
        self._budget = RetryBudget()
        self.buffered_bytes = 0
        """Bytes of long request bodies, from their heads until no retry can need them, over all connections."""
        self.connections: set[ClientConnection] = set()
        self.pools: dict[Replica, Pool] = {}
        self._manners: dict[Replica, tuple[Incarnation | None, StreamManner, StreamManner]] = {}
        self._upstream_tls = upstream_tls
        self._probe_soon = probe_soon
        self.readiness = readiness
        """Status and body of `/ready`."""
        self._id_prefix = os.urandom(8).hex().encode()
        self._id_count = 0
        self._id_block = self._id_prefix + b"000000"
        """All of the next id but its last two digits."""

    def configure(self, config: Config, upstream_tls: ssl.SSLContext | None) -> None:
        """Serve by these settings from now on, as far as they can change in a running router (`config.reload`)."""
        self.limits = config.limits
        self.upstream = upstream = config.upstream
        self.max_attempts = config.max_attempts
        self.explain_headers = config.headers.explain
        self.early_heads = config.headers.early
        self.deaths.memory_s = config.health.deadly_request_s
        self.ask_usage = config.feedback.ask_usage
        self.cors = Cors(config.cors) if config.cors.allowed_origins else None
        self.unlisted_models = config.health.unlisted_models
        self._upstream_tls = upstream_tls
        trusted = config.access_log.trusted_proxies
        self._proxies = TrustedProxies(trusted) if trusted else None
        for pool in self.pools.values():
            pool.configure(
                tls=upstream_tls,
                size=upstream.pool_size,
                keepalive_s=upstream.keepalive_s,
                connect_timeout_s=upstream.connect_timeout_s,
            )

    def new_request_id(self) -> bytes:
        """Unique over all routers: a random prefix a process, then a count."""
        self._id_count += 1
        last = self._id_count & 255
        if not last:
            self._id_block = b"%b%06x" % (self._id_prefix, self._id_count >> 8)
        return self._id_block + _TWO_DIGITS[last]

    def pool(self, replica: Replica) -> Pool:
        """Connections to this replica."""
        pool = self.pools.get(replica)
        if pool is None:
            upstream = self.upstream
            pool = self.pools[replica] = Pool(
                replica.url,
                tasks=self.tasks,
                tls=self._upstream_tls,
                size=upstream.pool_size,
                keepalive_s=upstream.keepalive_s,
                connect_timeout_s=upstream.connect_timeout_s,
            )
        return pool

    def manner(self, replica: Replica, api: Api) -> StreamManner:
        """How this life of the replica ends streams of chat or completions, as far as was seen."""
        known = self._manners.get(replica)
        if known is None or known[0] != replica.incarnation:
            known = self._manners[replica] = (replica.incarnation, StreamManner(), StreamManner())
        return known[1] if api is Api.CHAT else known[2]

    def replica_failed(self, replica: Replica, reason: FailureReason, detail: str = "") -> None:
        """A request failed for a reason that may lie with the replica: note it, and have it looked at.

        `detail` says what happened, for people.
        """
        self.fleet.report_failure(replica, reason, self.clock(), f"a request: {detail}" if detail else "")
        if reason is not FailureReason.BUSY:
            self._probe_soon(replica.id)

    # -- requests that came to nothing --------------------------------------------------------------------------

    def was_withdrawn(self, holder: Holder) -> bool:
        """Whether what was noted of this replica at this time was taken back since."""
        return holder in self._withdrawn

    def withdraw(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, noted_s: float) -> None:
        """Take back that this replica was sent a prompt with these rungs: it has not computed it."""
        self.withdrawals += 1
        withdrawn = self._withdrawn
        withdrawn[incarnation, noted_s] = None
        withdrawn[incarnation, kept_time(noted_s)] = None
        while len(withdrawn) > MAX_WITHDRAWN:
            del withdrawn[next(iter(withdrawn))]
        self.registry.forget(rungs, incarnation, noted_s)

    def may_compare(self, now_s: float) -> bool:
        """Whether one more request may be tried on another replica only to see whose fault its error is."""
        return self._budget.take(self.answered, now_s)

    def note_death(
        self, decision: Decision, shape: RequestShape | None, request: Request, engine: bool = False
    ) -> bool:
        """The connection broke with this request on it, or the server says that its engine is dead (`engine`). False if
        that was dead before."""
        life = decision.replica, decision.incarnation
        if engine and self.deaths.was_dead(life, decision.reserved_s):
            return False
        self.deaths.note(_deadly_key(shape, request), life, self.clock(), engine)
        return True

    def may_outlive(self, decision: Decision, shape: RequestShape | None, request: Request) -> bool:
        """Whether a request that a replica just failed with may be given to another one."""
        deaths = self.deaths
        now_s = self.clock()
        life = decision.replica, decision.incarnation
        others = [other for other in deaths.died_with(_deadly_key(shape, request), now_s) if other != life]
        return not others and deaths.may_try_again(life, now_s, len(self.fleet.replicas))

    def outlived(self, shape: RequestShape | None, request: Request) -> None:
        """It was answered: it kills nobody."""
        self.deaths.clear(_deadly_key(shape, request))

    def refuse_deadly(self, shape: RequestShape, request: Request, request_id: bytes) -> None:
        """Refuse a request that replicas died with.

        Raises:
            ClientError: 422, `deadly_request`.
        """
        lives = self.deaths.died_with(_deadly_key(shape, request), self.clock())
        if len(lives) < MOST_LIVES:
            return
        names = ", ".join([replica.id for replica, _ in lives])
        log.warning(
            "deadly_request", extra=fields(request_id=request_id.decode("latin-1"), died_with_it=names)
        )
        raise ClientError(
            f"{len(lives)} replicas died with this very request under way ({names}): it is not given to another."
            f" It is refused for {self.deaths.memory_s:g} s after the last of them (health.deadly_request_s).",
            status=422,
            code="deadly_request",
        )

    def drop_pools(self) -> None:
        """Close what is idle to replicas that have left; requests under way keep their connections."""
        for replica in [replica for replica in self.pools if replica.state is ReplicaState.GONE]:
            self.pools.pop(replica).expire(0.0)
            self._manners.pop(replica, None)

    # -- shapes -------------------------------------------------------------------------------------------------

    def shape(self, parsed: Parsed, request: Request) -> RequestShape:
        """What the policy may know of a request routed by prefix."""
        model = parsed.model or self.default_model()
        bytes_per_token = self.fleet.bytes_per_token(model) or self.bytes_per_token
        session = self.sessions.find(request.head.said, parsed.told)
        shape = self.fingerprinter.shape(
            model,
            parsed.scope_salt,
            parsed.canonical,
            session,
            bytes_per_token,
            parsed.prompt_bytes,
            parsed.tokens_known,
        )
        shape.tokens_known = parsed.tokens_known is not None
        shape.single = single = parsed.prompt_bytes == len(parsed.canonical)
        # The first event of a batch comes when one of its prompts is computed; how much is computed of a response that
        # goes on from another is not known here.
        shape.streams = parsed.stream and single and parsed.previous_response_id is None
        if not parsed.reads_cache:
            shape.reads_cache = shape.streams = False  # what it takes says nothing of others, either
        return shape

    def default_model(self) -> str:
        """What an engine takes a request for that names no model; empty where no replica says what it serves.

        Raises:
            ClientError: There are several.
        """
        model = default_model(self.fleet.model_cards())
        if model is None:
            raise model_required()
        return model

    def readable(self, request: Request) -> bytes | bytearray:
        """The body without its content coding, for reading only.

        Raises:
            ClientError: It is coded in a way that is not read here, or longer than bodies may be.
        """
        name = request.head.coding
        if not name or not request.body:
            return request.body
        return coding.decoded(name, request.body, self.limits.body_bytes)

    def load_shape(self, api: Api, request: Request) -> RequestShape:
        """What the policy may know of a request routed by load: its model, and a ring key of its first bytes."""
        body = self.readable(request)
        kind = request.head.content_type
        model = ""
        if kind[:10].lower() == b"multipart/":
            model = multipart_model(kind, body) or ""
        elif body and (b"json" in kind.lower() or body[:1] == b"{"):
            model = parse(Api.OTHER, body).model
        shape = self.fingerprinter.shape(model, "", bytes(body[:HEAD_BYTES]), None, self.bytes_per_token)
        shape.rungs = []
        shape.prompt_bytes = 0
        shape.streams = False
        shape.prompt_tokens = max(1, int(len(body) / self.bytes_per_token))
        return shape

    # -- local answers ------------------------------------------------------------------------------------------

    def models_answer(self, head: RequestHead) -> bytes:
        """Body of `/v1/models` and `/v1/models/{id}`: the union over replicas, in the asking client's own form.

        Raises:
            NotFoundError: No replica serves this model.
        """
        cards = self.fleet.model_cards()
        name = model_id(head.path)
        if not name:
            if head.anthropic:
                return msgspec.json.encode(anthropic_list(cards, head.target[len(head.path) + 1 :]))
            return msgspec.json.encode({"object": "list", "data": list(cards.values())})
        card = cards.get(name)
        if card is None:
            raise NotFoundError(
                f"no replica serves the model {name!r}", code="model_not_found", param="model"
            )
        return msgspec.json.encode(anthropic_model(name, card) if head.anthropic else card)

    def client_of(self, peer: bytes, head: RequestHead) -> str:
        """Who sent a request, as the access log has it."""
        if self._proxies is not None:
            return self._proxies.client(peer, head.forwarded_for)
        return peer.decode()

    def server_load(self) -> int:
        """Requests under way in the fleet, other routers' included as far as they tell."""
        return sum(replica.in_flight + replica.foreign_in_flight for replica in self.fleet.replicas.values())

    def refuse(self, client: ClientConnection, error: RouterError) -> None:
        """Answer a request that could not be read; the connection closes after it."""
        head = RequestHead(b"", b"", [], keep_alive=False, minor_version=1)
        head.anthropic = client.refused_anthropic
        local.write_error(client, head, Api.OTHER, error, self.new_request_id())
        self.metrics.observe(Api.OTHER, "", error.status, error.code, None, None, None, 0.0, 0, 0, None, None)

    def drop_body(self, request: Request) -> None:
        """Let go of a body that nobody needs any more."""
        request.body = b""
        self.buffered_bytes -= request.reserved_bytes
        request.reserved_bytes = 0

    # -- the end of an exchange ---------------------------------------------------------------------------------

    def keep(self, connection: ReplicaConnection) -> None:
        """Pool a connection that was made for a request which no longer needs it."""
        connection.idle_since_s = monotonic()
        connection.release()

    def _confirm(self, decision: Decision, shape: RequestShape, usage: Usage) -> None:
        """Tell the fleet what the engine had: in the units in which the prompt was weighed, which are estimates."""
        cached_tokens = usage.cached_tokens
        if cached_tokens is not None and usage.prompt_tokens > 0:
            cached_tokens = cached_tokens * shape.prompt_tokens // usage.prompt_tokens
        if not shape.single or not shape.reads_cache:
            cached_tokens = None  # engines tell what they had of one of the prompts, or had to leave unread
        self.fleet.confirm(decision, cached_tokens, usage.completion_tokens, self.clock())

    def _funnel(
        self, decision: Decision, shape: RequestShape, prompt_tokens: int, cached_tokens: int | None
    ) -> None:
        """Count where the prompt's tokens were lost: estimates, in the engine's units."""
        scale = prompt_tokens / shape.prompt_tokens if shape.prompt_tokens > 0 else 1.0
        known_tokens = max(decision.known_tokens, decision.expected_tokens)
        self.metrics.funnel(
            shape.model,
            prompt_tokens,
            int(max(shape.reusable_tokens, known_tokens) * scale),
            int(known_tokens * scale),
            int(decision.expected_tokens * scale),
            cached_tokens if shape.single else None,
        )

    def finished(
        self,
        exchange: Exchange,
        request: Request,
        api: Api,
        status: int,
        code: str | None,
        decision: Decision | None,
        usage: Usage | None,
    ) -> None:
        """Count a request that has ended, however it did; the one place."""
        self.answered += 1
        now_s = monotonic()
        first_byte_s = exchange.first_byte_s
        duration_s = now_s - request.received_s
        ttft_s = first_byte_s - request.received_s if first_byte_s is not None and status == 200 else None
        shape = exchange.shape
        answered = status == 200 and exchange.begun and (decision is None or decision.computed)
        model = exchange.unlisted_model or (shape.model if shape is not None else "")
        replica = decision.replica.id if decision is not None else None
        predicted_tokens = decision.expected_tokens if decision is not None else 0
        prompt_tokens = shape.prompt_tokens if shape is not None else 0
        cached_tokens = completion_tokens = None
        if usage is not None:
            prompt_tokens = usage.prompt_tokens
            cached_tokens = usage.cached_tokens
            completion_tokens = usage.completion_tokens
            if answered and decision is not None and shape is not None:
                self._confirm(decision, shape, usage)
        self.metrics.observe(
            api,
            model,
            status,
            code,
            decision.kind if decision is not None else None,
            replica,
            ttft_s,
            duration_s,
            prompt_tokens,
            predicted_tokens,
            cached_tokens,
            completion_tokens,
        )
        if answered and decision is not None and shape is not None and shape.reusable_tokens >= 0:
            self._funnel(decision, shape, prompt_tokens, cached_tokens)
        if decision is not None and shape is not None and answered:
            self.fleet.learn(
                decision,
                shape,
                usage.prompt_tokens if usage is not None else 0,
                cached_tokens if shape.single and shape.reads_cache else None,
                completion_tokens,
            )
        if self.access_log is not None:
            client = self.client_of(exchange.client.peer, request.head)
            members = b""
            if self.log_fingerprints is not None and shape is not None:
                members = self.log_fingerprints.members(shape)
            self.access_log.write(
                AccessEntry(
                    time=self.clock() - duration_s,
                    request_id=exchange.request_id.decode("latin-1"),
                    client=client,
                    method=request.head.method.decode("latin-1"),
                    path=request.head.path.decode("latin-1"),
                    api=api,
                    model=model,
                    status=status,
                    code=code,
                    replica=replica,
                    decision=decision.kind if decision is not None else None,
                    predicted_cached_tokens=predicted_tokens,
                    cached_tokens=cached_tokens,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    ttft_s=ttft_s,
                    duration_s=duration_s,
                    bytes_in=request.body_bytes,
                    bytes_out=exchange.body_bytes,
                    held_s=exchange.held_s,
                    attempts=exchange.attempts,
                ),
                members,
            )


def _deadly_key(shape: RequestShape | None, request: Request) -> int:
    """Tells requests apart without their bodies: the prompt, and by the length whatever else they ask for."""
    if shape is None or not shape.key:
        return 0
    return shape.key ^ request.body_bytes
