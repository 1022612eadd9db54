"""Discovery by DNS resolves a name's addresses, or the targets of its SRV records, again and again.

This module decides when to ask again and what an answer means. Its rules:

- The next question comes when the shortest TTL of the answer is over, after 1 s at least and `interval_s` at most.
- A server that fails, is silent, or says that the name does not exist leaves the last answer as it is: a typing error
  or a deleted Service is no order to stop. That a name which exists has no records is an answer. It is believed once it
  was given `EMPTY_ANSWERS` times in a row, since servers that restart give it too.
- IPv6 addresses count where there are no IPv4 ones: of a dual-stack replica both are one. Of SRV records those with the
  lowest priority count; weights do not, since load decides.
- Ids are ADDRESS:PORT, or TARGET:PORT of SRV records, where a pod of a StatefulSet keeps its name.

The system's resolver (getaddrinfo) tells neither TTLs nor SRV records, and its hosts file is not read here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from random import Random
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from warmroute.config.discovery_urls import DnsSource
from warmroute.core.types import ReplicaId
from warmroute.ports import DiscoveryFailure, DiscoveryReport, Member

EMPTY_ANSWERS: Final = 3
"""So many times in a row must be said that there is nobody, where there was somebody."""
MIN_INTERVAL_S: Final = 1.0
"""A TTL of 0 must not become a busy loop."""
JITTER_RATIO: Final = 0.1


@dataclass(frozen=True, slots=True)
class DnsPatience:
    """How long what may take."""

    answer_s: float = 5.0
    """For one question, all servers and repetitions included."""
    min_interval_s: float = MIN_INTERVAL_S
    backoff_min_s: float = 1.0
    """First pause after a failure; it doubles with each further one."""
    backoff_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer."""

    hosts: tuple[tuple[str, int], ...]
    ttl_s: float | None
    """None where nothing was found."""
    problem: str = ""


class _Failed(Exception):
    def __init__(self, failure: DiscoveryFailure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail


class DnsDiscovery:
    """Implements `warmroute.ports.Discovery`."""

    def __init__(
        self, source: DnsSource, report: DiscoveryReport, rng: Random, patience: DnsPatience
    ) -> None:
        self._source = source
        self._report = report
        self._rng = rng
        self._patience = patience

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """See `warmroute.ports.Discovery.watch`."""
        shown: tuple[Member, ...] | None = None
        failures = empty = 0
        patience = self._patience
        while True:
            try:
                found = await self._resolve()
            except _Failed as failed:
                delay_s = min(patience.backoff_max_s, patience.backoff_min_s * 2.0 ** min(failures, 16))
                if failed.failure is DiscoveryFailure.NOT_FOUND:
                    delay_s = min(delay_s, self._source.interval_s)  # it may be about to be made
                failures += 1
                self._report.noticed("")
                self._report.failed(failed.failure, failed.detail, delay_s)
            else:
                failures = 0
                self._report.succeeded()
                self._report.noticed(found.problem)
                empty = 0 if found.hosts else empty + 1
                members = self._members(found)
                if members != shown and (members or not shown or empty >= EMPTY_ANSWERS):
                    shown = members
                    yield members
                delay_s = self._interval_s(found, doubtful=not members and bool(shown))
            await asyncio.sleep(delay_s * self._rng.uniform(1.0 - JITTER_RATIO, 1.0))

    def _interval_s(self, found: _Found, doubtful: bool) -> float:
        interval_s = self._source.interval_s
        if doubtful or found.ttl_s is not None:
            least_s = self._patience.min_interval_s
            interval_s = min(interval_s, max(found.ttl_s or 0.0, least_s))
        return interval_s

    def _members(self, found: _Found) -> tuple[Member, ...]:
        pool = self._source.pool
        members = []
        for host, port in sorted(set(found.hosts)):
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            url = f"{pool.scheme or 'http'}://{authority}"
            members.append(Member(ReplicaId(authority), url, pool.models, pool.zone, ranks=pool.ranks))
        return tuple(members)

    async def _resolve(self) -> _Found:
        source = self._source
        try:
            resolver = self._resolver()
        except dns.exception.DNSException as error:
            raise _Failed(
                DiscoveryFailure.UNREACHABLE,
                f"this system names no DNS server: {error}; name one by ?nameserver=ADDRESS",
            ) from error
        if source.srv:
            return await self._ask(resolver, "SRV")
        found = await self._ask(resolver, "A")
        return found if found.hosts else await self._ask(resolver, "AAAA")

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """With the system's settings as they are now."""
        nameserver = self._source.nameserver
        resolver = dns.asyncresolver.Resolver(configure=nameserver is None)
        if nameserver is not None:
            resolver.nameservers = [nameserver[0]]
            resolver.port = nameserver[1]
        resolver.lifetime = self._patience.answer_s
        resolver.timeout = min(2.0, self._patience.answer_s / 2.0)
        return resolver

    async def _ask(self, resolver: dns.asyncresolver.Resolver, kind: str) -> _Found:
        name = self._source.name
        asked = ", ".join(str(server) for server in resolver.nameservers)
        try:
            answer = await _not_uncancelled(resolver.resolve(name, kind, search=True))
        except dns.resolver.NXDOMAIN:
            raise _Failed(
                DiscoveryFailure.NOT_FOUND,
                f"the name {name!r} does not exist, says DNS ({asked}): correct the URL, or make the Service; "
                "replicas that it named before stay",
            ) from None
        except dns.resolver.NoAnswer:
            return _Found((), None, f"the name {name!r} has no {kind} record, says DNS ({asked})")
        except dns.exception.Timeout as error:
            raise _Failed(
                DiscoveryFailure.TIMEOUT,
                f"DNS ({asked}) did not answer for {name!r} within {self._patience.answer_s:g} s",
            ) from error
        except dns.resolver.NoNameservers as error:
            raise _Failed(
                DiscoveryFailure.SERVER, f"DNS ({asked}) failed for {name!r}: {_why(error)}"
            ) from error
        except (dns.exception.DNSException, OSError) as error:
            raise _Failed(
                DiscoveryFailure.UNREACHABLE,
                f"DNS ({asked}) cannot be asked for {name!r}: {error or type(error).__name__}",
            ) from error
        rrset = answer.rrset
        if rrset is None:
            return _Found((), None)
        if kind == "SRV":
            first = min(record.priority for record in rrset)
            targets = [record for record in rrset if record.priority == first and record.port]
            # A target "." says that the service is not there.
            hosts = tuple(
                (target, record.port)
                for record in targets
                if (target := record.target.to_text(omit_final_dot=True).lower()) not in ("", ".")
            )
        else:
            hosts = tuple((record.address, self._source.port) for record in rrset)
        return _Found(hosts, float(answer.chaining_result.minimum_ttl))


async def _not_uncancelled(resolving: Awaitable[dns.resolver.Answer]) -> dns.resolver.Answer:
    """Whoever cancels must be heard: dnspython waits by `asyncio.wait_for`, which before Python 3.12 forgets a
    cancellation that comes together with the answer."""
    task = asyncio.current_task()
    try:
        return await resolving
    finally:
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


def _why(error: dns.resolver.NoNameservers) -> str:
    """What each server answered: SERVFAIL, REFUSED, or that it cannot be reached."""
    answers = {str(each[3]) for each in error.kwargs.get("errors", ()) if len(each) > 3}
    return ", ".join(sorted(answers)) or "no server answered"
