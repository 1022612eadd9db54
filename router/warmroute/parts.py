"""Parts of a worker that are made of settings alone: parameters of the core, members, and who waits.

`app` puts them together. This module names no adapter and opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields as fields_of
from random import Random

from warmroute.advice.advisor import Advisor
from warmroute.config.rules import normalised, replica_fault
from warmroute.config.schema import Config, PolicyConfig, ReplicaConfig
from warmroute.control.tokens import AdminAuth
from warmroute.core.beliefs.tiers import Tier
from warmroute.core.choice.cost import CostParameters
from warmroute.core.errors import ClientError
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.health.health import HealthParameters
from warmroute.core.holding.admission_queue import AdmissionQueue
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.shares import Shares
from warmroute.core.learning.learner import Learner, LearningParameters
from warmroute.core.ranks import MOST_RANKS
from warmroute.core.types import ReplicaId
from warmroute.dataplane.advising import AdvisedCaching
from warmroute.dataplane.caching import Caching
from warmroute.dataplane.hold import Hold
from warmroute.dataplane.queueing import Queueing
from warmroute.ports import Member, Registry
from warmroute.service.operated import Addition


def members(config: Config) -> list[Member]:
    """The replicas that the settings name, as members."""
    return [member(replica) for replica in config.replicas]


def member(replica: ReplicaConfig) -> Member:
    """One replica of the settings, as a member."""
    return Member(ReplicaId(replica.id), replica.url, ranks=replica.ranks)


def member_of(addition: Addition) -> Member:
    """What is added on the admin port, judged as the settings' replicas are.

    Raises:
        ClientError: It is none.
    """
    replica = normalised(ReplicaConfig(url=addition.url, id=addition.id, ranks=addition.ranks))
    fault = replica_fault(replica)
    if not fault and addition.ranks is not None and not 1 <= addition.ranks <= MOST_RANKS:
        fault = f"ranks must be from 1 to {MOST_RANKS}, not {addition.ranks}"
    if fault:
        raise ClientError(fault)
    return member(replica)


def health_parameters(config: Config) -> HealthParameters:
    """When a replica is ejected, and for how long."""
    return HealthParameters(
        failures_to_eject=config.health.failures,
        backoff_s=config.health.backoff_min_s,
        max_backoff_s=config.health.backoff_max_s,
    )


def admin_auth(config: Config) -> AdminAuth:
    """Who may do what on the admin port."""
    auth = config.admin_auth
    return AdminAuth(auth.operator_tokens, auth.read_tokens, open_metrics=auth.open_metrics)


def learner(config: Config) -> Learner | None:
    """What learns speeds and lengths from answers; None if that is switched off."""
    settings = config.learning
    if not settings.enabled:
        return None
    return Learner(LearningParameters(bytes_per_token=config.policy.bytes_per_token))


def cost_parameters(policy: PolicyConfig) -> CostParameters:
    """The weights of the cost."""
    return CostParameters(**{each.name: getattr(policy, each.name) for each in fields_of(CostParameters)})


def tiers(config: Config) -> tuple[Tier, ...]:
    """What replicas keep below their GPU's cache."""
    return tuple([Tier(tier.name, tier.tokens, 1.0 / tier.tokens_per_s) for tier in config.cache_tiers])


def advisor(config: Config, clock: Callable[[], float]) -> Advisor | None:
    """Who finds out why prompts miss; None where no prompt is looked at."""
    settings = config.advice
    if settings.sample <= 0.0:
        return None
    return Advisor(
        sample=settings.sample,
        budget_ratio=settings.budget_ratio,
        memory_bytes=settings.memory_bytes,
        minimum_tokens=settings.minimum_tokens,
        show_shared=settings.show_shared_words,
        dice=Random().random,
        stopwatch=time.perf_counter,
        clock=clock,
    )


def caching(config: Config, registry: Registry, advisor: Advisor | None = None) -> Caching | None:
    """The providers' caching interfaces, advice and rewrites; None where none of it is switched on."""
    settings = config.caching
    warm = config.keep_warm
    texts_bytes = warm.prompts_bytes if warm.budget_ratio > 0.0 else 0
    if advisor is not None or config.rewrites:
        return AdvisedCaching(
            settings, registry, advisor, config.rewrites, config.headers.explain, texts_bytes
        )
    if not (settings.openai or settings.anthropic or settings.deepseek):
        return None
    return Caching(settings, registry, texts_bytes)


def hold(
    config: Config,
    fleet: Fleet,
    registry: Registry,
    clock: Callable[[], float],
    queueing: Queueing | None = None,
) -> Hold | None:
    """Only this policy's choice says who is free.

    Args:
        queueing: Where it holds requests instead, whatever the policy; None: nowhere.
    """
    if queueing is not None:
        return Hold(queueing.queue, registry, clock)
    hold = config.hold
    if not hold.enabled or config.policy.name != "prefix-cost":
        return None
    parameters = HoldParameters(
        ahead_tokens=hold.ahead_tokens,
        max_held=hold.max_requests,
        max_hold_s=hold.max_s,
    )
    return Hold(HoldQueue(fleet, parameters), registry, clock)


def queueing(config: Config, fleet: Fleet) -> Queueing | None:
    """The fleet's queue, where there are tenants or it is asked for."""
    queue = config.queue
    if not (bool(config.tenants) if queue.enabled is None else queue.enabled):
        return None
    shares = Shares()
    return Queueing(
        AdmissionQueue(
            fleet,
            HoldParameters(ahead_tokens=config.hold.ahead_tokens, max_held=queue.max_requests),
            QueueParameters(queue.max_bytes, queue.aged_s, queue.max_under_way, queue.spare_ratio),
            shares,
        ),
        shares,
        (queue.timeout_s, queue.timeout_s, queue.batch_timeout_s),
        queue.cached_token,
        queue.output_token,
    )
