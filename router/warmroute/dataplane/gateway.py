"""The gateway is what all connections of one worker share: fleet, registry, limits, counters, and pools of connections.

This module decides nothing by itself. `app` builds it, and `server` opens its sockets. Everything here belongs to one
event loop.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from warmroute.config.schema import Config
from warmroute.core.errors import ClientError
from warmroute.core.fleet.fleet import Decision, Fleet, Replica
from warmroute.core.health.deaths import MOST_LIVES, Deaths
from warmroute.core.health.health import FailureReason, ReplicaState
from warmroute.core.health.retry_budget import ComparisonBudget, RetryBudget, pause_s
from warmroute.core.health.silence import SilenceParameters, plain_usual_s
from warmroute.core.prompt.chunks import Blend
from warmroute.core.prompt.fingerprint import Fingerprinter
from warmroute.core.types import Api, FingerprintHash, Holder, Incarnation, ReplicaId, RequestShape
from warmroute.dataplane.admission import Admission
from warmroute.dataplane.advising import AdvisedCaching, accounts_of
from warmroute.dataplane.caching import Caching
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.cors import Cors
from warmroute.dataplane.head_cache import HeadCache
from warmroute.dataplane.hold import Hold
from warmroute.dataplane.later import Later
from warmroute.dataplane.pool import Pool
from warmroute.dataplane.proxies import TrustedProxies
from warmroute.dataplane.queueing import Queueing
from warmroute.dataplane.request import Request
from warmroute.dataplane.upstream import ReplicaConnection
from warmroute.dialects.sessions import Sessions
from warmroute.dialects.usage_request import UsageSupport
from warmroute.ports import Registry
from warmroute.service.cached_contents import CachedContents
from warmroute.service.prompt_schemas import PromptSchemas
from warmroute.service.questions import Questions
from warmroute.service.response_cache import ResponseCache
from warmroute.tasks import Tasks
from warmroute.telemetry.access_log import AccessLog
from warmroute.telemetry.logs import fields
from warmroute.telemetry.metrics import Metrics
from warmroute.wire.registry_record import stored_time

log = logging.getLogger(__name__)

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""

MAX_WITHDRAWN: Final = 1024

GIVEN_UP_S: Final = 1.0
"""A client that leaves so soon after a silence was held against its replica adds nothing to that."""

THOROUGHLY: Final = frozenset((FailureReason.PAUSED, FailureReason.SCALING))
"""Failures of which more is known where all that a server says of itself is read: its health is fine."""

_TWO_DIGITS: Final = [b"%02x" % number for number in range(256)]


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
        queueing: Queueing | None = None,
        probe_soon: Callable[[ReplicaId, bool], None],
        questions: Questions,
        metrics_text: Callable[[str], tuple[bytes, str]] | None = None,
        admission: Admission | None = None,
        caching: Caching | None = None,
    ) -> None:
        self.caching = caching
        """The providers' caching interfaces; None: none is served, and no request is looked at for one."""
        self.admission = admission
        """Who lets requests in; None: everybody is, and nothing is counted by tenant."""
        self.upstream_authorization = None if admission is None else admission.upstream
        """What replicas are sent in place of clients' keys; None: those."""
        self.caches: CachedContents | None = None
        """What is cached on purpose (`translated`); None: nothing is, and no request is looked at for it."""
        self.schemas: PromptSchemas | None = None
        """Templates that prompts are derived from (`derived`); None: as with `caches`."""
        self.responses: ResponseCache | None = None
        """Recorded responses (`recall`); None: there are none, and no request is looked at for one."""
        self.special = False
        """Whether there is any of these: then some requests take exchanges of another kind (`kinds`)."""
        self.own_authorization = _own_authorization(config)
        """What replicas are sent with requests of the router's own, where it does not ask for keys itself."""
        self.fleet = fleet
        self.queueing = queueing
        """The fleet's queue, in which all first choices may have to wait; None: there is none."""
        self.hold = hold
        """Where first choices by prefix may have to wait; None: they are made at once."""
        self.registry = registry
        self.needs_records = fleet.needs_records
        """Whether prompts are looked up in the registry, and noted there."""
        self.owned_records = config.isolation.enabled
        """Whether each group of tenants has records of its own there."""
        self.metrics = metrics
        self.accounts = accounts_of(caching, fleet, metrics, access_log, admission, queueing)
        self.tasks = tasks
        self.fingerprinter = fingerprinter
        """Replaced as a whole when the registry makes the deployment's secret known."""
        blend = config.blend
        self.blend = (
            Blend(blend.separator.encode(), blend.chunk_tokens, blend.recompute_ratio)
            if blend.separator
            else None
        )
        """How engines tell chunks; None: they reuse prefixes alone."""
        self.clock = clock
        self.limits = config.limits
        self.upstream = config.upstream
        self.max_attempts = config.max_attempts
        self.failover = config.failover
        self.retries = config.retries
        self.silence = _silence(config)
        self.retry_budget = RetryBudget(config.retries.budget_ratio, config.retries.budget_min)
        self.later = Later()
        self.plain_s = 0.0
        """The longest that an answer which did not stream took lately; fades."""
        self.plain_mean_s = 0.0
        """The mean of such answers lately."""
        self.first_s = 0.0
        """The longest that a stream's first byte took lately; fades. Stands for predictions before there are any."""
        self._dice = Random()
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
        self.accounts.proxies = TrustedProxies(trusted) if trusted else None
        self.heads = HeadCache()
        self.draining = False
        self.deaths = Deaths(config.health.deadly_request_s)
        self.withdrawals = 0
        """How often something noted in the registry was taken back."""
        self._withdrawn: dict[Holder, None] = {}
        """What was, lately: at the time at which it was noted, and at the one that a shared registry keeps."""
        self._computed: dict[Holder, int] = {}
        """Of what was noted lately, how many rungs other requests have computed since without noting them anew."""
        self._comparisons = ComparisonBudget()
        self.buffered_bytes = 0
        """Bytes of long request bodies that have come, until no retry can need them, over all connections."""
        self.connections: set[ClientSide] = set()
        self.counts_addresses = config.limits.connections_per_address > 0
        """Whether connections are counted by address; settled at the start, so that none is counted half."""
        self._addresses: dict[bytes, int] = {}
        self.pools: dict[Replica, Pool] = {}
        self._usage_support: dict[Replica, tuple[Incarnation | None, UsageSupport, UsageSupport]] = {}
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
        self.own_authorization = _own_authorization(config)
        self.upstream = upstream = config.upstream
        self.max_attempts = config.max_attempts
        self.failover = config.failover
        self.retries = config.retries
        self.silence = _silence(config)
        self.retry_budget.ratio = config.retries.budget_ratio
        self.retry_budget.least = config.retries.budget_min
        self.explain_headers = config.headers.explain
        if isinstance(self.caching, AdvisedCaching):
            self.caching.tells = config.headers.explain
        self.early_heads = config.headers.early
        self.deaths.memory_s = config.health.deadly_request_s
        self.ask_usage = config.feedback.ask_usage
        self.cors = Cors(config.cors) if config.cors.allowed_origins else None
        self.unlisted_models = config.health.unlisted_models
        self._upstream_tls = upstream_tls
        trusted = config.access_log.trusted_proxies
        self.accounts.proxies = TrustedProxies(trusted) if trusted else None
        for pool in self.pools.values():
            pool.configure(
                tls=upstream_tls,
                size=upstream.pool_size,
                keepalive_s=upstream.keepalive_s,
                connect_timeout_s=upstream.connect_timeout_s,
            )

    def use_upstream(self, authorization: bytes | None) -> None:
        """Replicas are sent this in place of clients' keys from now on."""
        if authorization != self.upstream_authorization:
            self.upstream_authorization = authorization
            self.heads = HeadCache()  # the heads that are known have what was sent before

    def use_queueing(self, queueing: Queueing, hold: Hold) -> None:
        """Requests wait in this queue from now on; those that are held already are let go."""
        before = self.hold
        self.queueing, self.hold = queueing, hold
        self.accounts.use_queueing(queueing)
        if before is not None:
            before.end(self.clock())

    @property
    def access_log(self) -> AccessLog | None:
        """None where none is written."""
        return self.accounts.access_log

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
                rank=replica.rank,
            )
        return pool

    def usage_support(self, replica: Replica, api: Api) -> UsageSupport:
        """How this life of the replica ends streams of chat or completions, as far as was seen."""
        known = self._usage_support.get(replica)
        if known is None or known[0] != replica.incarnation:
            known = self._usage_support[replica] = (replica.incarnation, UsageSupport(), UsageSupport())
        return known[1] if api is Api.CHAT else known[2]

    def replica_failed(self, replica: Replica, reason: FailureReason, detail: str = "") -> None:
        """A request failed for a reason that may lie with the replica: note it, and have it looked at.

        `detail` says what happened, for people.
        """
        self.fleet.report_failure(replica, reason, self.clock(), f"a request: {detail}" if detail else "")
        if reason is not FailureReason.BUSY:
            self._probe_soon(replica.server.id, reason in THOROUGHLY)

    def settle(self, decision: Decision) -> None:
        """A try is over."""
        now_s = self.clock()
        self.fleet.settle(decision, now_s)
        self.freed(decision, now_s)

    def freed(self, decision: Decision, now_s: float) -> None:
        """This try's replica may have come free for somebody who is held."""
        hold = self.hold
        if hold is not None and hold.waiting:
            hold.release(now_s, decision.replica)

    def suspect(self, replica: Replica) -> None:
        """Nothing is heard of a replica where something should be: have it looked at."""
        self.fleet.suspect(replica)
        self._probe_soon(replica.server.id, False)

    def outrun(self, decision: Decision) -> None:
        """A request that was late here was answered by another replica, which was asked later: that is this one's
        doing, however long such an answer may take."""
        self._may_hang(decision, "silent until another replica, asked later, had answered")

    def given_up(self, decision: Decision) -> None:
        """A client has left before the first byte. One that is less patient than the router tells of a silent replica,
        too; many that leave at once tell no more than one. Where nothing is held against it, the replica is taken to
        have computed what it had begun."""
        replica, now_s = decision.replica, self.clock()
        if 0.0 <= now_s - replica.health.silent_s < GIVEN_UP_S:
            return
        if self.silence.factor > 0.0 and now_s - decision.reserved_s > self._allowed_s(decision):
            self._may_hang(decision, "silent until the client left")
        else:
            self.fleet.left(decision, now_s)

    def _allowed_s(self, decision: Decision) -> float:
        """How long after its dispatch a request may wait for its first byte before that tells against the replica."""
        silence, replica = self.silence, decision.replica
        if not decision.streams:
            return plain_usual_s(self.plain_s, self.plain_mean_s, silence)
        expected_s = self.fleet.expected_s(decision, decision.reserved_s)
        return self.pool(replica).patience.allowed_s(expected_s, silence, True, replica.surprise_s(decision))

    def _may_hang(self, decision: Decision, why: str) -> None:
        """Hold a silence against a replica unless an answer has begun there since."""
        replica = decision.replica
        if (
            not decision.reserved_s <= replica.began_s <= self.clock()
            and replica.incarnation == decision.incarnation
            and replica.state is not ReplicaState.EJECTED
        ):
            self.pool(replica).patience.suspect(monotonic())
            self.suspect(replica)
            self.replica_failed(replica, FailureReason.TIMEOUT, why)

    def may_retry(self) -> bool:
        """Whether the budget has another try of something that an engine may have to compute for; spends it."""
        return self.retry_budget.take(self.accounts.answered, monotonic())

    def pause_s(self, again: int) -> float:
        """How long to wait before another try, after so many were made again already."""
        if again <= 0:
            return 0.0
        return pause_s(self.retries.backoff_s, again, self._dice.random())

    def budget_used_ratio(self) -> float:
        """Share of the budget for tries made again that is spent."""
        return self.retry_budget.used_ratio(self.accounts.answered, monotonic())

    # -- requests that came to nothing --------------------------------------------------------------------------

    def was_withdrawn(self, holder: Holder) -> bool:
        """Whether what was noted of this replica at this time was taken back since."""
        return holder in self._withdrawn

    def withdraw(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, noted_s: float) -> None:
        """Take back that this replica was sent a prompt with these rungs: it has not computed it."""
        self.withdrawals += 1
        withdrawn = self._withdrawn
        withdrawn[incarnation, noted_s] = None
        withdrawn[incarnation, stored_time(noted_s)] = None
        while len(withdrawn) > MAX_WITHDRAWN:
            del withdrawn[next(iter(withdrawn))]
        self.registry.forget(rungs, incarnation, noted_s)

    def note_computed(self, holder: Holder, rungs: int) -> None:
        """A request has computed so many of the rungs that another one noted as this holder's: they were so fresh that
        they were not noted again."""
        computed = self._computed
        if rungs > computed.get(holder, 0):
            computed[holder] = rungs
            if len(computed) > MAX_WITHDRAWN:
                del computed[next(iter(computed))]

    def computed_rungs(self, incarnation: Incarnation, noted_s: float) -> int:
        """How many of the rungs that were noted of this replica at this time others have computed since."""
        computed = self._computed
        return max(
            computed.get((incarnation, noted_s), 0), computed.get((incarnation, stored_time(noted_s)), 0)
        )

    def may_compare(self, now_s: float) -> bool:
        """Whether one more request may be tried on another replica only to see whose fault its error is."""
        return self._comparisons.take(self.accounts.answered, now_s)

    def note_death(
        self, decision: Decision, shape: RequestShape | None, request: Request, engine: bool = False
    ) -> bool:
        """The connection broke with this request on it, or the server says that its engine is dead (`engine`). False if
        that was dead before."""
        life = decision.replica.life(decision.incarnation)
        if engine and self.deaths.was_dead(life, decision.reserved_s):
            return False
        self.deaths.note(_deadly_key(shape, request), life, self.clock(), engine)
        return True

    def may_outlive(self, decision: Decision, shape: RequestShape | None, request: Request) -> bool:
        """Whether a request that a replica just failed with may be given to another one."""
        deaths = self.deaths
        now_s = self.clock()
        life = decision.replica.life(decision.incarnation)
        others = [other for other in deaths.died_with(_deadly_key(shape, request), now_s) if other != life]
        return not others and deaths.may_try_again(life, now_s, len(self.fleet.servers))

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
        names = ", ".join([server.id for server, _ in lives])
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
        """Close what is idle to replicas that have left; requests under way keep their connections until they end."""
        for replica in [replica for replica in self.pools if replica.state is ReplicaState.GONE]:
            self.pools.pop(replica).retire()
            self._usage_support.pop(replica, None)

    # -- bodies and connections -----------------------------------------------------------------------------------

    def drop_body(self, request: Request) -> None:
        """Let go of a body that nobody needs any more."""
        request.body = b""
        self.buffered_bytes -= request.reserved_bytes
        request.reserved_bytes = 0

    def add_address(self, peer: bytes) -> bool:
        """Count a connection from this address. False: there are too many."""
        count = self._addresses[peer] = self._addresses.get(peer, 0) + 1
        most = self.limits.connections_per_address
        if not most or count <= most:
            return True
        proxies = self.accounts.proxies
        return proxies is not None and proxies.trusts(peer)

    def drop_address(self, peer: bytes) -> None:
        """It is gone."""
        count = self._addresses.get(peer, 0) - 1
        if count > 0:
            self._addresses[peer] = count
        else:
            self._addresses.pop(peer, None)

    def pool_unused(self, connection: ReplicaConnection) -> None:
        """Pool a connection that was made for a request which no longer needs it."""
        connection.idle_since_s = monotonic()
        connection.release()


def _own_authorization(config: Config) -> bytes:
    key = config.health.api_key
    return b"" if key is None else b"Bearer " + key.encode()


def _silence(config: Config) -> SilenceParameters:
    upstream = config.upstream
    return SilenceParameters(upstream.late_factor, upstream.late_min_s, upstream.late_max_s)


def _deadly_key(shape: RequestShape | None, request: Request) -> int:
    """Tells requests apart without their bodies: the prompt, and by the length whatever else they ask for."""
    if shape is None or not shape.key:
        return 0
    return shape.key ^ request.body_bytes
