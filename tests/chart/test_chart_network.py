"""NetworkPolicies allow the flows that exist, and no others: computed as the network would, for every two pods."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.support.chart import (
    NAMESPACE,
    SCENARIOS,
    Manifest,
    containers,
    manifests,
    matches,
    of_kind,
    pod_of,
    workloads,
)

ROUTER, REDIS, TEST, LOAD = "router", "redis", "test", "loadtest"
METRICS = {8000, 8011}


@dataclass(frozen=True)
class Place:
    """A pod, or an address outside of the cluster."""

    component: str
    labels: tuple[tuple[str, str], ...] = ()
    namespace: str = NAMESPACE
    address: str | None = None
    ports: frozenset[int] = frozenset()


def _places(scenario: str) -> list[Place]:
    found = []
    for workload in workloads(manifests(scenario)):
        pod = pod_of(workload)
        labels = pod["metadata"]["labels"]
        ports = {port["containerPort"] for each in containers(pod) for port in each.get("ports", ())}
        component = labels["app.kubernetes.io/component"]
        found.append(Place(component, tuple(labels.items()), ports=frozenset(ports)))
    # Somebody else's pod of the same namespace: all of our ports, none of our labels.
    every = frozenset({8000, 8001, 8011, 6379, 5557})
    return [*found, Place("stranger", (("app", "other"),), ports=every)]


def _peer(peer: Manifest, place: Place) -> bool:
    if "ipBlock" in peer:
        return place.address is not None and ip_address(place.address) in ip_network(peer["ipBlock"]["cidr"])
    if place.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": place.namespace}):
            return False
    elif place.namespace != NAMESPACE:
        return False
    return matches(peer.get("podSelector"), dict(place.labels))


def _allows(rules: list[dict[str, Any]], side: str, other: Place, port: int, protocol: str = "TCP") -> bool:
    for rule in rules:
        ports, peers = rule.get("ports"), rule.get(side)
        right_port = ports is None or any(p["port"] == port and p["protocol"] == protocol for p in ports)
        if right_port and (peers is None or any(_peer(peer, other) for peer in peers)):
            return True
    return False


def _may(scenario: str, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection goes through: by every side's policies, or because it has none."""
    for here, there, kind, side in ((source, target, "Egress", "to"), (target, source, "Ingress", "from")):
        chosen = [
            policy["spec"]
            for policy in of_kind(manifests(scenario), "NetworkPolicy")
            if here.address is None
            and here.namespace == NAMESPACE
            and matches(policy["spec"]["podSelector"], dict(here.labels))
            and kind in policy["spec"]["policyTypes"]
        ]
        if chosen and not any(
            _allows(spec.get(kind.lower(), []), side, there, port, protocol) for spec in chosen
        ):
            return False
    return True


def _exists(scenario: str, source: Place, target: Place, port: int) -> bool:
    """Whether the program makes such a connection."""
    monitored = any(m["kind"] == "ServiceMonitor" for m in manifests(scenario))
    closed = scenario == "production"  # it says who its clients are
    if target.component == ROUTER:
        if port == 8000:
            return source.component in (TEST, LOAD) or (source.component == "stranger" and not closed)
        return port == 8001 and source.component == "stranger"
    if target.component.startswith("pool-"):
        scraped = monitored and source.component == "stranger" and port in METRICS
        return (source.component == ROUTER and port == 8000) or scraped
    if target.component == REDIS:
        return port == 6379 and (source.component == ROUTER or _has_agent(source))
    return target.component == LOAD and source.component == LOAD and port == 5557


def _has_agent(place: Place) -> bool:
    return place.component.startswith("pool-") and 8011 in place.ports


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_exactly_the_flows_that_exist_are_allowed(scenario: str) -> None:
    places = _places(scenario)
    allowed = 0
    for source in places:
        for target in places:
            if target.component == "stranger":
                continue
            for port in target.ports:
                expected = _exists(scenario, source, target, port)
                assert _may(scenario, source, target, port) is expected, (
                    source.component,
                    target.component,
                    port,
                )
                allowed += expected
    assert allowed >= 2


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_call_nobody_else(scenario: str) -> None:
    api, world = Place("api", address="192.0.2.10"), Place("world", address="203.0.113.7")
    dns = Place("dns", (("k8s-app", "kube-dns"),), namespace="kube-system")
    stranger = Place("stranger", (("app", "other"),))
    watches = bool(of_kind(manifests(scenario), "Role"))
    for source in _places(scenario):
        if source.component == "stranger":
            continue
        assert _may(scenario, source, dns, 53, "UDP") is (source.component != REDIS)
        assert not _may(scenario, source, stranger, 8000)
        assert not _may(scenario, source, world, 22)
        if source.component == ROUTER:
            assert _may(scenario, source, api, 6443) is watches
        elif source.component in (REDIS, TEST, LOAD):
            assert not _may(scenario, source, world, 443)


def test_replicas_that_exist_already_can_be_called_where_they_are() -> None:
    (router,) = [place for place in _places("adopt-vllm") if place.component == ROUTER]
    chat = Place("chat", (("app", "vllm"),))
    code = Place("code", (("anything", "at-all"),), namespace="code-models")
    assert _may("adopt-vllm", router, chat, 8000)
    assert not _may("adopt-vllm", router, chat, 22)
    assert _may("adopt-vllm", router, code, 8080)
    assert not _may("adopt-vllm", router, Place("x", namespace="elsewhere"), 8080)


def test_an_external_registry_can_be_called_where_it_is() -> None:
    places = {place.component: place for place in _places("external-redis")}
    inside, outside = Place("redis", address="10.20.1.1"), Place("redis", address="10.21.1.1")
    for component in (ROUTER, "pool-vllm"):
        assert _may("external-redis", places[component], inside, 26379)
        assert not _may("external-redis", places[component], outside, 6379)


def test_everything_is_open_where_policies_are_switched_off() -> None:
    assert of_kind(manifests("minimal", settings=("networkPolicy.enabled=false",)), "NetworkPolicy") == []


def test_what_is_open_to_all_networks_is_so_for_both_address_families() -> None:
    rendered = manifests("minimal", settings=("ipFamily=IPv6",))
    for policy in of_kind(rendered, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            blocks = [peer["ipBlock"]["cidr"] for peer in rule.get("to", ()) if "ipBlock" in peer]
            assert ("0.0.0.0/0" in blocks) is ("::/0" in blocks), (policy["metadata"]["name"], blocks)
