"""The composition root builds one worker from its settings, starts it, and takes it down in order.

It is the only module that names adapters. It decides no behaviour: it chooses which pieces are plugged together.
`running` gives the worker a process.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random, SystemRandom
from typing import assert_never

from warmroute import backends, parts
from warmroute.adapters.discovery.kubernetes.access import AccessError, Credentials
from warmroute.adapters.discovery.kubernetes.api import Api, Patience
from warmroute.adapters.discovery.kubernetes.discovery import KubernetesDiscovery
from warmroute.adapters.discovery.kubernetes.slices import selector_of
from warmroute.adapters.discovery.redis import OnLoad, RedisDiscovery
from warmroute.adapters.discovery.static import StaticDiscovery
from warmroute.adapters.engine.calls import HttpCalls
from warmroute.adapters.engine.probe import HttpEngine
from warmroute.answers import Answers
from warmroute.config.discovery_urls import (
    DiscoverySource,
    DnsSource,
    KubernetesSource,
    RedisSource,
    parse_source,
)
from warmroute.config.errors import ConfigError
from warmroute.config.exposure import exposures
from warmroute.config.reload import reloaded
from warmroute.config.rules import redacted
from warmroute.config.schema import Config, split_address
from warmroute.control.app import ControlDeps, build_control
from warmroute.control.changes import FleetChanges
from warmroute.control.fan_out import FanOut
from warmroute.control.readiness import Readiness
from warmroute.control.server import ControlServer
from warmroute.core.beliefs.seen import MAX_RUNGS
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.prompt.fingerprint import Fingerprinter
from warmroute.core.ranks import server_id_of
from warmroute.core.types import ReplicaId
from warmroute.dataplane.explain import explain
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.recall import log_members
from warmroute.dataplane.server import DataPlane
from warmroute.ports import (
    Discovery,
    DiscoveryReport,
    Member,
    ProbeResult,
    RankFigures,
)
from warmroute.service.discovery_sources import DiscoverySources, MakeSource
from warmroute.service.engine_effects import EngineEffects
from warmroute.service.expiry import Expiry
from warmroute.service.listeners import addresses_of
from warmroute.service.lives import Lives
from warmroute.service.load_reports import LoadReports
from warmroute.service.membership import Membership
from warmroute.service.operated import Operated
from warmroute.service.questions import Questions
from warmroute.service.tls import listening_tls, show_from_now_on, upstream_tls
from warmroute.tasks import Tasks
from warmroute.telemetry.access_log import AccessLog
from warmroute.telemetry.build import compiled, version
from warmroute.telemetry.exposition import Exposition, Sources
from warmroute.telemetry.log_fingerprints import LogFingerprints
from warmroute.telemetry.logs import fields, set_up
from warmroute.telemetry.metrics import Metrics
from warmroute.tenancy import Tenancy
from warmroute.warmth import Warmth

log = logging.getLogger(__name__)

STATIC = "static"
"""Name of the source that `replicas` is, in metrics and logs."""

ADDED = "admin"
"""Name of the source of replicas that were added on the admin port."""

FIRST_ROUND_S = 1.0
"""Longest wait for the first look at the replicas, before connections are taken."""


class Worker:
    """One router process: data plane, control plane and everything behind them, on one event loop."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.time,
        control_socket: str | None = None,
        keep_operated: Callable[[bytes], None] | None = None,
        operated_before: Callable[[], bytes | None] = lambda: None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        """Build everything and open nothing.

        Args:
            clock: Unix seconds.
            control_socket: One of several workers: control listens on this socket file.
            keep_operated: Keeps what operators changed, for later workers; they read it as `operated_before`.
            listeners: Sockets of the data port where others hold them too; empty: one is opened.
        """
        self._operated_before = operated_before
        self.config = config
        self.settings_current = True
        """False after a reload that failed."""
        self._listeners = listeners
        self._one_of_several = control_socket is not None
        self.tasks = Tasks()
        self.registry = backends.registry(config, clock)
        parameters = parts.cost_parameters(config.policy)
        rng = Random()
        self.fleet = Fleet(
            POLICIES[config.policy.name](parameters),
            rng,
            parameters,
            parts.health_parameters(config),
            learner=parts.learner(config),
            seen_rungs=min(MAX_RUNGS, config.registry.max_entries or MAX_RUNGS),
            tiers=parts.tiers(config),
        )
        self.metrics = Metrics(self.fleet.models)
        self.tenancy = Tenancy(
            config,
            fleet=self.fleet,
            tasks=self.tasks,
            clock=clock,
            routers=lambda: self.load_reports.routers + 1,
        )
        self._admin_auth = parts.admin_auth(config)
        self.access_log = AccessLog(config.access_log.path) if config.access_log.enabled else None
        trusting = upstream_tls(config)
        self._listening_tls = listening_tls(config)
        self._engine = HttpEngine(
            timeout_s=config.health.probe_timeout_s,
            scrape_interval_s=config.health.scrape_interval_s,
            clock=clock,
            api_key=config.health.api_key,
            tls=trusting,
        )
        self._calls = HttpCalls(trusting)
        self._questions = Questions(
            self.fleet,
            self._engine,
            self._calls,
            self.tasks,
            latest=lambda: self._membership.latest(),
            clock=clock,
            api_key=lambda: self.config.health.api_key,
        )
        readiness = Readiness(
            routable=self.fleet.routable,
            replicas=lambda: len(self.fleet.replicas),
            registry_healthy=lambda: self.registry.healthy,
            draining=lambda: self.gateway.draining,
            ever_reachable=self.fleet.ever_reachable,
            discovery_failing=lambda: self._discovery.failing(),
            listening=lambda: self._accepts,
        )
        queueing = parts.queueing(config, self.fleet)
        self.advisor = parts.advisor(config, clock)
        self.gateway = Gateway(
            config,
            fleet=self.fleet,
            registry=self.registry,
            metrics=self.metrics,
            access_log=self.access_log,
            tasks=self.tasks,
            fingerprinter=Fingerprinter(b""),
            clock=clock,
            upstream_tls=trusting,
            readiness=readiness.answer,
            hold=parts.hold(config, self.fleet, self.registry, clock, queueing),
            queueing=queueing,
            probe_soon=self._probe_soon,
            questions=self._questions,
            metrics_text=(lambda accept: self._exposition.render(accept)) if config.data_metrics else None,
            admission=self.tenancy.admission,
            caching=parts.caching(config, self.registry, self.advisor),
        )
        self.warmth = Warmth(config, self.gateway, self.tasks, clock)
        self.answers = Answers(config, self.gateway, clock)
        self._secret: bytes | None = None
        if config.fingerprint.secret is not None:
            self._use_secret(config.fingerprint.secret.encode())
        self._show_fingerprints()
        self._agent_loads: dict[ReplicaId, tuple[int | None, int | None]] = {}
        self._static = StaticDiscovery(parts.members(config))
        self._added = StaticDiscovery(())
        self._discovery = DiscoverySources(self.tasks, clock)
        self._discovery.use(self._discovery.prepared(self._sources(config)))
        self._lives = Lives(
            self.fleet, self.registry, self.tasks, clock, shared=config.registry.url != "memory"
        )
        self._membership = Membership(
            self.fleet,
            self._engine,
            self._discovery,
            self.tasks,
            interval_s=config.health.probe_interval_s,
            clock=clock,
            rng=rng,
            on_removed=self._replica_removed,
            incarnation_of=self._lives.now,
        )
        self.operated = Operated(
            lambda: self._membership,
            parts.members(config),
            member_of=parts.member_of,
            source_of=self._discovery.source_of,
            use=self._use_members,
            keep=keep_operated or (lambda _: None),
        )
        self._expiry = Expiry(
            self.fleet,
            self.registry,
            self.tasks,
            least_s=config.registry.idle_min_s,
            most_s=config.registry.idle_max_s,
            clock=time.monotonic,
        )
        self._board = backends.load_board(config)
        self.load_reports = LoadReports(
            self.fleet,
            self._board,
            self.tasks,
            router=SystemRandom().getrandbits(64),
            publish_interval_s=config.leases.publish_interval_s,
            expire_s=config.leases.expire_s,
            clock=time.monotonic,
            fleet_clock=clock,
            on_heard=self._load_heard,
            shares=None if queueing is None else queueing.shares,
        )
        self._data = DataPlane(self.gateway)
        self._exposition = Exposition(
            self.metrics,
            Sources(
                replicas=self._rows,
                registry_statistics=self.registry.statistics,
                registry_healthy=lambda: self.registry.healthy,
                access_log_dropped=lambda: self.access_log.dropped if self.access_log is not None else 0,
                build=build_info(config),
                peers=lambda: self.load_reports.routers,
                held=lambda: self.gateway.hold.waiting if self.gateway.hold is not None else 0,
                queue_refused=lambda: (
                    self.gateway.queueing.refused() if self.gateway.queueing is not None else {}
                ),
                ready=readiness.ready,
                settings_current=lambda: self.settings_current,
                client_connections=lambda: len(self.gateway.connections),
                budget_used_ratio=lambda: self.gateway.budget_used_ratio(),
                budget_refused=lambda: self.gateway.retry_budget.refused,
                buffered_body_bytes=lambda: self.gateway.buffered_bytes,
                discovery=self._discovery_rows,
                models=self.fleet.model_rows,
                tenants=self.tenancy.totals,
                interfaces=self.tenancy.interfaces,
                refused=self.tenancy.refused,
                keys=self.tenancy.keys_known,
                limits=self.tenancy.limiter_figures,
                caches=lambda: {**self.warmth.figures(), **self.answers.figures()},
                advisor=self.advisor,
            ),
        )
        self._control = ControlServer(
            build_control(
                ControlDeps(
                    readiness=readiness,
                    metrics=self._exposition.render,
                    replicas=self._rows,
                    registry=self._registry_figures,
                    discovery=self._discovery_rows,
                    models=self.fleet.model_rows,
                    funnel=self.metrics.funnel_rows,
                    explain=lambda path, headers, body: explain(self.gateway, path, headers, body),
                    fan_out=FanOut(
                        self._calls,
                        replicas=lambda: [(s.id, s.url) for s in self.fleet.servers.values()],
                        api_key=lambda: self.config.health.api_key,
                        changed=self._administered,
                        after=EngineEffects(self.fleet, self._calls, self._lives.emptied).after,
                        keeps_authorization=lambda: self._admin_auth.asked,
                    ),
                    changes=FleetChanges(self.operated),
                    auth=self._admin_auth,
                    keys=self.tenancy.keys,
                    accounting=self.tenancy.accounting,
                    advisor=self.advisor,
                    clock=clock,
                    max_body_bytes=config.limits.body_bytes,
                )
            ),
            *split_address(config.admin),
            socket_path=control_socket,
        )
        self.data_port = 0
        self._accepts = False
        """Whether clients can connect."""
        self.admin_port = 0

    async def start(self) -> None:
        """Open both ports. Returns when requests are accepted, whether or not a replica is well yet."""
        config = self.config
        await self.registry.start(self._secret_known)
        await self._engine.start()
        await self._calls.start()
        if self.access_log is not None:
            self.access_log.start()
        self._membership.start()
        self._lives.start()
        self._expiry.start()
        await self._board.start()
        self.load_reports.start()
        await self.tenancy.start()
        await self.warmth.start()
        await self.answers.start()
        opened = addresses_of(self._listeners)
        if not self._one_of_several:  # else the supervisor says so, once
            for exposure in exposures(config, opened):
                log.warning("open_to_everybody", extra=fields(what=exposure))
        self.admin_port = await self._control.start()
        operated = self._operated_before()  # what changes from here on is told on the control socket
        if operated is not None:
            self.operated.read(operated)
        # Others serve meanwhile, or connections wait; what came before a replica is known would be answered 503.
        await self._membership.wait_first_round(FIRST_ROUND_S)
        self.data_port = await self._data.start(
            *split_address(config.listen), self._listening_tls, listeners=self._listeners
        )
        self._accepts = True
        log.info(
            "listening",
            extra=fields(
                data=",".join(dict.fromkeys(opened)) or f"{split_address(config.listen)[0]}:{self.data_port}",
                admin=f"{split_address(config.admin)[0]}:{self.admin_port}" if self.admin_port else "shared",
                replicas=len(config.replicas),
                discovery=len(config.discovery),
                policy=config.policy.name,
            ),
        )

    def _sources(self, config: Config) -> dict[str, MakeSource]:
        """The sources of replicas by name; `replicas` first."""
        sources: dict[str, MakeSource] = {}
        if config.replicas:
            sources[STATIC] = lambda _: self._static
        sources[ADDED] = lambda _: self._added
        for index, url in enumerate(config.discovery):
            sources[redacted(url)] = partial(
                _discovery_source, config, index, parse_source(url), self._agent_load
            )
        return sources

    def reload(self, new: Config) -> None:
        """Take over what of these settings can change in a running router, and say so; all of it or nothing.

        Certificates are read again in any case. Call in the router's own event loop.

        Raises:
            ConfigError: A file that they name cannot be used; everything stays as it was.
        """
        config, changed, waiting = reloaded(self.config, new)
        trusting, shown = upstream_tls(config), listening_tls(config)
        sources = self._discovery.prepared(self._sources(config))
        access_log = self._access_log_for(config)
        if self._listening_tls is not None and shown is not None:
            # The socket keeps the context that it was opened with; each new connection is given the latest.
            show_from_now_on(shown, self._listening_tls)
        self.config = config
        if "log_level" in changed:
            set_up(config.log_level)
        if access_log is not self.access_log:
            if self.access_log is not None:
                self.tasks.spawn(self.access_log.stop(), name="old access log")
            self.access_log = self.gateway.accounts.access_log = access_log
        self._show_fingerprints()
        self.gateway.configure(config, trusting)
        self.tenancy.reload(config)
        if self.tenancy.admission is not None:
            self.gateway.use_upstream(self.tenancy.admission.upstream)
        self._make_queue(config)
        auth = config.admin_auth
        self._admin_auth.use(auth.operator_tokens, auth.read_tokens, open_metrics=auth.open_metrics)
        self.fleet.use_health(parts.health_parameters(config))
        health = config.health
        self._engine.configure(
            timeout_s=health.probe_timeout_s,
            scrape_interval_s=health.scrape_interval_s,
            api_key=health.api_key,
            tls=trusting,
        )
        self._calls.configure(trusting)
        self._membership.interval_s = health.probe_interval_s
        came, went = self.operated.configure(parts.members(config))
        self._discovery.use(sources)
        log.info(
            "reloaded",
            extra=fields(
                changed=",".join(changed) or "none",
                needs_restart=",".join(waiting) or "none",
                replicas_added=",".join(came) or "none",
                replicas_removed=",".join(went) or "none",
            ),
        )

    def _make_queue(self, config: Config) -> None:
        """The first tenants that can be known make the fleet's queue, if no setting says otherwise. It stays."""
        admission = self.tenancy.admission
        if self.gateway.queueing is not None or admission is None or not admission.asks:
            return
        queueing = parts.queueing(config, self.fleet)
        if queueing is None:
            return
        clock = self.gateway.clock
        hold = parts.hold(config, self.fleet, self.registry, clock, queueing)
        assert hold is not None
        self.load_reports.use_shares(queueing.shares)
        self.gateway.use_queueing(queueing, hold)

    def _access_log_for(self, config: Config) -> AccessLog | None:
        settings = config.access_log
        if not settings.enabled:
            return None
        if self.access_log is not None and settings.path == self.config.access_log.path:
            return self.access_log
        access_log = AccessLog(settings.path)
        try:
            access_log.start()
        except OSError as error:
            raise ConfigError("", "access_log.path", f"{settings.path!r}: {error.strerror}") from error
        return access_log

    def reopen_logs(self) -> None:
        """Go on in a new access log if the old one was moved."""
        if self.access_log is not None:
            self.access_log.reopen()

    async def stop(self) -> None:
        """Drain, then close everything; what is under way has `drain_grace_s` to finish."""
        cut_off = await self._data.drain(self.config.drain_grace_s)
        if cut_off:
            log.warning("drain_incomplete", extra=fields(cut_off=cut_off))
        await self.close()
        log.info("stopped")

    async def close(self) -> None:
        """Let go of everything but the data port, started or not."""
        await self._control.stop()
        await self.tenancy.stop()
        await self.tasks.stop()
        await self.warmth.stop()
        await self.answers.stop()
        await self.load_reports.stop()
        await self._board.stop()
        await self._engine.stop()
        await self._calls.stop()
        await self.registry.stop()
        if self.access_log is not None:
            await self.access_log.stop()

    def _rows(self) -> list[dict[str, object]]:
        rows = self.fleet.snapshot(self.gateway.clock())
        latest = self._membership.latest()
        for row in rows:
            server_id, rank = ReplicaId(str(row["server"])), row["rank"]
            seen: ProbeResult | RankFigures | None = latest.get(server_id)
            if isinstance(seen, ProbeResult) and isinstance(rank, int):
                seen = seen.engines[rank] if rank < len(seen.engines) else None
            row["engine_running"] = seen.running if seen is not None else None
            row["engine_waiting"] = seen.waiting if seen is not None else None
            row |= self._discovered(server_id)
        return rows

    def _discovery_rows(self) -> list[dict[str, object]]:
        """Sources that can fail, which lists of our own cannot."""
        return [row for row in self._discovery.rows() if row["source"] not in (STATIC, ADDED)]

    def _discovered(self, replica_id: ReplicaId) -> dict[str, object]:
        """What discovery says of a replica."""
        member = self._membership.member(replica_id)
        running, waiting = self._agent_loads.get(replica_id, (None, None))
        return {
            "source": self._discovery.source_of(replica_id),
            "zone": member.zone if member is not None else "",
            "draining": member is not None and (member.draining or replica_id in self._membership.drained),
            "drained": replica_id in self._membership.drained,
            "labels": dict(member.labels) if member is not None else {},
            "agent_running": running,
            "agent_waiting": waiting,
        }

    def _agent_load(self, replica_id: ReplicaId, running: int | None, waiting: int | None) -> None:
        if replica_id in self.fleet.servers:
            self._agent_loads[replica_id] = running, waiting

    def _registry_figures(self) -> dict[str, object]:
        return {"healthy": self.registry.healthy, **self.registry.statistics()}

    def _secret_known(self, secret: bytes) -> None:
        if self.config.fingerprint.secret is None:
            self._use_secret(secret)

    def _use_secret(self, secret: bytes) -> None:
        self._secret = secret
        self.gateway.fingerprinter = Fingerprinter(secret)
        self.tenancy.use_secret(secret)
        self._show_fingerprints()

    def _show_fingerprints(self) -> None:
        self.gateway.accounts.log_members = log_members(
            LogFingerprints(self._secret)
            if self._secret is not None and self.config.access_log.fingerprints
            else None,
            self.answers.responses is not None,
        )

    async def _administered(self) -> None:
        """Requests to the engines may have changed what they serve, or have put them to sleep."""
        for server_id in self.fleet.servers:
            self._probe_soon(server_id, thoroughly=True)
        await self._questions.read_models()

    def _probe_soon(self, server_id: ReplicaId, thoroughly: bool) -> None:
        """Have a server looked at now; `thoroughly`: whatever it can tell."""
        if thoroughly:
            self._engine.read_again(server_id)
        self._membership.probe_soon(server_id)

    def _use_members(self, configured: Sequence[Member], added: Sequence[Member]) -> None:
        self._static.change(configured)
        self._added.change(added)

    def _replica_removed(self, replica_id: ReplicaId) -> None:
        self.metrics.forget_replica(replica_id)
        server_id = server_id_of(replica_id)
        if server_id not in self.fleet.servers:
            self._agent_loads.pop(server_id, None)
        self.gateway.drop_pools()

    def _load_heard(self) -> None:
        hold = self.gateway.hold
        if hold is not None and hold.waiting:
            hold.release(self.gateway.clock())


def build_info(config: Config) -> dict[str, str]:
    """Labels of `warmroute_build_info`."""
    registry = config.registry.url.partition(":")[0]
    is_compiled = "true" if compiled() else "false"
    return {"version": version(), "compiled": is_compiled, "policy": config.policy.name, "registry": registry}


def _discovery_source(
    config: Config, index: int, source: DiscoverySource, on_load: OnLoad, report: DiscoveryReport
) -> Discovery:
    key = f"discovery[{index}]"
    match source:
        case KubernetesSource():
            try:
                credentials = Credentials(source.context)
            except AccessError as error:
                raise ConfigError("", key, str(error)) from error
            patience = Patience()
            connect = partial(Api, credentials.access, source.namespace, selector_of(source), patience)
            return KubernetesDiscovery(source, connect, report, Random(), patience)
        case DnsSource():
            # Not needed by most, and 40 ms of every start.
            from warmroute.adapters.discovery.dns import DnsDiscovery, DnsPatience

            return DnsDiscovery(source, report, Random(), DnsPatience())
        case RedisSource():
            registry = config.registry
            try:
                return RedisDiscovery(
                    source.url or registry.url,
                    namespace=source.namespace or registry.namespace,
                    report=report,
                    on_load=on_load,
                )
            except ValueError as error:
                raise ConfigError("", key, str(error)) from error
        case _:
            assert_never(source)
