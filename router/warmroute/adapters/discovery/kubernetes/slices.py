"""What EndpointSlices say is put together as members, by pure bookkeeping, one slice at a time.

This module decides who is a member, under which id and URL, and which of several words about one pod counts. Its rules:

- An endpoint that is ready is a member. One that is terminating and still serves is a member that drains; others are
  none. What is absent means what the API says it does: ready if not said, serving as ready, not terminating.
- A member's id is the name of its pod, the same in every router; an endpoint that is no pod's is named ADDRESS:PORT.
- While slices are rearranged, an endpoint may be in two of them, and a dual-stack pod always is: ready counts before
  draining, IPv4 before IPv6 before a name, then the first in order, so that all routers agree.

Source: EndpointSlice of discovery.k8s.io/v1, https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from warmroute.config.discovery_urls import KubernetesSource
from warmroute.core.ranks import MOST_RANKS
from warmroute.core.types import ReplicaId
from warmroute.ports import Member

SERVICE_LABEL: Final = "kubernetes.io/service-name"
MODEL_KEY: Final = "warmroute.io/model"
RANKS_KEY: Final = "warmroute.io/ranks"
"""Label or annotation of a slice: models that its replicas serve, divided by commas."""
ZONE_KEY: Final = "topology.kubernetes.io/zone"
"""Label or annotation of a slice, and where Kubernetes before 1.22 put an endpoint's zone."""

_FAMILIES: Final = {"IPv4": 0, "IPv6": 1, "FQDN": 2}
_EXAMPLES: Final = 8
"""Ports that a message names."""


class _Conditions(msgspec.Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _Endpoint(msgspec.Struct):
    addresses: list[str] = []
    conditions: _Conditions | None = None
    targetRef: _Target | None = None
    nodeName: str | None = None
    zone: str | None = None
    deprecatedTopology: dict[str, str] | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    appProtocol: str | None = None


class Metadata(msgspec.Struct):
    """Of a slice, of a list, or of a bookmark."""

    name: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Slice(msgspec.Struct):
    """The part of an EndpointSlice that matters here."""

    metadata: Metadata
    addressType: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


_Entry = tuple[tuple[bool, int, str], Member]
"""A member, after what orders it among those of its id: draining, address family, URL."""


class SliceTable:
    """The slices of one source, by name."""

    def __init__(self, source: KubernetesSource) -> None:
        self._source = source
        self._known: dict[str, list[_Entry]] = {}
        self._problems: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._known)

    def put(self, slice_: Slice) -> None:
        """A slice is there, or is another than it was."""
        name = slice_.metadata.name
        self._problems.pop(name, None)
        self._known[name] = self._read(slice_)

    def unreadable(self, name: str, why: str) -> None:
        """A slice is there that cannot be read; what it said before counts."""
        self._known.setdefault(name, [])
        self._problems[name] = f"EndpointSlice {name!r} cannot be read ({why}); what it said before counts"

    def drop(self, name: str) -> None:
        """A slice is gone."""
        self._known.pop(name, None)
        self._problems.pop(name, None)

    def members(self) -> tuple[Member, ...]:
        """All members, in order of their ids; ids and URLs are unique."""
        best: dict[ReplicaId, _Entry] = {}
        for known in self._known.values():
            for entry in known:
                replica_id = entry[1].replica_id
                other = best.get(replica_id)
                if other is None or entry[0] < other[0]:
                    best[replica_id] = entry
        # An address may have passed from a pod that ends to another, whose slice came first.
        urls: dict[str, ReplicaId] = {}
        for replica_id in sorted(best, key=lambda key: (best[key][0][0], key)):
            urls.setdefault(best[replica_id][1].url, replica_id)
        return tuple(best[replica_id][1] for replica_id in sorted(urls.values()))

    def problem(self) -> str:
        """What an operator should know of what the slices say; empty if there is nothing."""
        if not self._known:
            source = self._source
            if source.service:
                return (
                    f"there is no EndpointSlice of a Service {source.service!r}: it does not exist in this namespace,"
                    f" or has no selector; see: kubectl get service {source.service}"
                )
            return (
                f"no EndpointSlice has the labels {source.selector!r}; Kubernetes gives slices the labels of their"
                f" Service; see: kubectl get endpointslices -l '{source.selector}'"
            )
        return self._problems[min(self._problems)] if self._problems else ""

    def _read(self, slice_: Slice) -> list[_Entry]:
        if not slice_.endpoints:
            return []  # a slice without endpoints has no ports either
        port = self._port(slice_)
        if isinstance(port, str):
            self._problems[slice_.metadata.name] = port
            return []
        number, secure = port
        pool, meta = self._source.pool, slice_.metadata
        scheme = pool.scheme or ("https" if secure else "http")
        models = _models(meta) or pool.models
        slice_zone = _said(meta, ZONE_KEY) or pool.zone
        ranks = self._ranks(meta)
        service = (meta.labels or {}).get(SERVICE_LABEL, "")
        family = _FAMILIES.get(slice_.addressType, len(_FAMILIES))
        found: list[_Entry] = []
        for endpoint in slice_.endpoints:
            draining = _draining(endpoint.conditions)
            if draining is None or not endpoint.addresses:
                continue
            # Further addresses are the same endpoint's, in no order that means anything.
            address = endpoint.addresses[0]
            authority = f"[{address}]:{number}" if ":" in address else f"{address}:{number}"
            url = f"{scheme}://{authority}"
            labels = {"service": service} if service else {}
            if endpoint.nodeName:
                labels["node"] = endpoint.nodeName
            target = endpoint.targetRef
            name = target.name if target is not None and target.kind == "Pod" else ""
            member = Member(
                ReplicaId(self._source.id_prefix + (name or authority)),
                url,
                models,
                endpoint.zone or (endpoint.deprecatedTopology or {}).get(ZONE_KEY) or slice_zone,
                draining,
                labels,
                ranks,
            )
            found.append(((draining, family, url), member))
        return found

    def _ranks(self, meta: Metadata) -> int | None:
        said = _said(meta, RANKS_KEY).strip()
        if not said:
            return self._source.pool.ranks
        if said.isascii() and said.isdigit() and 1 <= int(said) <= MOST_RANKS:
            return int(said)
        self._problems[meta.name] = (
            f"EndpointSlice {meta.name!r} has {RANKS_KEY}={said[:40]!r}, which is no number from 1 to {MOST_RANKS}:"
            " its replicas are asked how many ranks they have"
        )
        return self._source.pool.ranks

    def _port(self, slice_: Slice) -> tuple[int, bool] | str:
        """Number, and whether TLS is spoken there; or what is wrong."""
        wanted = self._source.port
        ports = [port for port in slice_.ports or () if port.port and port.protocol in (None, "", "TCP")]
        if wanted.isdigit():
            number = int(wanted)
            return number, any(port.port == number and _secure(port) for port in ports)
        if wanted:
            for port in ports:
                if port.name == wanted and port.port:
                    return port.port, _secure(port)
        elif len(ports) == 1 and ports[0].port:
            return ports[0].port, _secure(ports[0])
        service = (slice_.metadata.labels or {}).get(SERVICE_LABEL, "")
        of = f"Service {service!r}" if service else f"EndpointSlice {slice_.metadata.name!r}"
        there = _shown(ports)
        if wanted:
            return (
                f"{of} has no port named {wanted!r}, so none of its replicas is used; {there}: correct ?port="
            )
        return (
            f"{of} does not say which port replicas listen on; {there}: choose by ?port=NAME or ?port=NUMBER"
        )


def _draining(conditions: _Conditions | None) -> bool | None:
    """Whether an endpoint drains; None for one that is no member."""
    if conditions is None:
        return False
    ready = conditions.ready is not False
    if conditions.terminating:
        serving = ready if conditions.serving is None else conditions.serving
        return True if serving else None
    return False if ready else None


def _said(meta: Metadata, key: str) -> str:
    return (meta.annotations or {}).get(key) or (meta.labels or {}).get(key) or ""


def _models(meta: Metadata) -> frozenset[str]:
    names: Iterable[str] = _said(meta, MODEL_KEY).split(",")
    return frozenset(name.strip() for name in names if name.strip())


def _secure(port: _Port) -> bool:
    return port.appProtocol == "https"


def _shown(ports: list[_Port]) -> str:
    if not ports:
        return "it has no TCP port"
    names = [f"{port.name or '(no name)'} {port.port}" for port in ports[:_EXAMPLES]]
    return f"it has {', '.join(names)}"


def selector_of(source: KubernetesSource) -> str:
    """The label selector that finds the source's slices."""
    return f"{SERVICE_LABEL}={source.service}" if source.service else source.selector
