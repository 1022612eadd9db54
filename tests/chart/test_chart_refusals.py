"""Wrong values are refused with what is wrong and what to do, before anything is installed."""

from __future__ import annotations

import pytest

from tests.support.chart import refusal

REFUSED = {
    "nothing to route to": ((), "there are no replicas: set model"),
    "an unknown value": (
        ("model=a", "router.replica=3"),
        "router: Additional property replica is not allowed",
    ),
    "an unknown value of a pool": (("pools.a.modle=x",), "pools.a: Additional property modle is not allowed"),
    "a value of another type": (("model=a", "router.replicas=many"), "router.replicas: Invalid type"),
    "no router": (("model=a", "router.replicas=0"), "Must be greater than or equal to 1"),
    "a name that is none": (("pools.Big_One.model=a",), "pools: Property name of"),
    "a name that is taken": (("pools.router.model=a",), "pools: Property name of"),
    "model and pools": (("model=a", "pools.b.model=c"), "model and pools are both set"),
    "a pool without a model": (("pools.a.replicas=1",), "pools.a.model is empty"),
    "two pools with one model": (
        ("pools.a.model=m", "pools.b.model=m"),
        'pools.a and pools.b both serve the model "m", and their replicas would be one fleet: merge them',
    ),
    "only one of two says that they share": (
        ("pools.a.model=m", "pools.a.sharedModel=true", "pools.b.model=m"),
        "set sharedModel in both",
    ),
    "an adapter with a model's name": (
        ("pools.a.model=m", "pools.b.model=n", "pools.b.adapters[0].name=m", "pools.b.adapters[0].path=/x"),
        "both serve the model",
    ),
    "a tag that moves": (("model=a", "image.tag=latest"), 'image.tag is "latest", which moves'),
    "an engine's tag that moves": (("model=a", "poolDefaults.image.tag=nightly"), "pools.vllm.image.tag"),
    "a setting that the chart makes": (
        ("model=a", "router.config.listen=0.0.0.0:9000"),
        "router.config.listen is made by the chart: set service.port",
    ),
    "a secret among the settings": (
        ("model=a", "router.config.fingerprint.secret=0123456789abcdef"),
        "router.config.fingerprint.secret is made by the chart, since secrets",
    ),
    "two scalers": (
        ("model=a", "router.autoscaling.enabled=true", "router.keda.enabled=true"),
        "two scalers would fight",
    ),
    "a scaler with nothing to go by": (
        ("model=a", "router.autoscaling.enabled=true", "router.autoscaling.targetCPUUtilizationPercentage=0"),
        "router.autoscaling has nothing to scale by",
    ),
    "KEDA without Prometheus": (
        ("pools.a.model=m", "pools.a.autoscaling.enabled=true", "pools.a.autoscaling.mode=keda"),
        "pools.a.autoscaling.prometheusAddress is empty",
    ),
    "scaling upside down": (
        ("pools.a.model=m", "pools.a.autoscaling.enabled=true", "pools.a.autoscaling.minReplicas=9"),
        "pools.a.autoscaling.minReplicas is more than maxReplicas",
    ),
    "several routers without a registry": (
        ("model=a", "redis.mode=none"),
        "redis.mode is none, and there are several",
    ),
    "an external registry without an address": (
        ("model=a", "redis.mode=external"),
        "redis.external.url must be",
    ),
    "credentials in values": (
        ("model=a", "redis.mode=external", "redis.external.url=redis://:hidden@host:6379"),
        "redis.external.url holds credentials",
    ),
    "TLS that is not spoken": (
        (
            "model=a",
            "redis.mode=external",
            "redis.external.url=redis://host:6379",
            "redis.external.tls.existingSecret=x",
        ),
        "does not begin with rediss",
    ),
    "an external pool that names nothing": (("pools.a.type=external",), "pools.a.external names no replicas"),
    "an external pool that names two things": (
        ("pools.a.type=external", "pools.a.external.service=x", "pools.a.external.selector.app=y"),
        "pools.a.external has both",
    ),
    "a selector asked of DNS": (
        ("pools.a.type=external", "pools.a.external.selector.app=y", "discovery.source=dns"),
        "pools.a.external.selector needs discovery.source kubernetes",
    ),
    "a port's name asked of DNS": (
        ("pools.a.type=external", "pools.a.external.service=x", "discovery.source=dns"),
        "discovery.source dns needs a number",
    ),
    "heartbeats without agents": (
        ("pools.a.model=m", "pools.a.agent.enabled=false", "discovery.source=redis"),
        "pools.a has no agent",
    ),
    "a key that routers do not have": (
        ("pools.a.model=m", "pools.a.apiKey.existingSecret=x"),
        "pools.a.apiKey is set, but router.upstreamApiKey is not",
    ),
    "keys in two places": (
        ("model=a", "router.keys.existingSecret=x", "router.config.keys.url=redis"),
        "router.config.keys and router.keys.existingSecret both say where keys are kept",
    ),
    "keys in a Redis that forgets": (
        ("model=a", "router.config.keys=redis"),
        "forgets everything when its pod is replaced",
    ),
    "keys in a Redis that forgets, by their section": (
        ("model=a", "router.config.keys.url=redis"),
        "forgets everything when its pod is replaced",
    ),
    "the engines' key in a ConfigMap": (
        ("model=a", "router.config.keys.upstream_key=hidden"),
        "set the variable WARMROUTE_KEYS__UPSTREAM_KEY instead, from a Secret",
    ),
    "a password in a ConfigMap": (
        ("model=a", "router.config.keys.url=redis://:hidden@host:6379"),
        "router.config has a URL with a password",
    ),
    "a password among a source's options": (
        ("model=a", "discovery.extra[0]=redis+sentinel://a:1/s?sentinel_password=hidden"),
        "discovery.extra has a URL with a password",
    ),
    "a scaler that cannot tell the pool's replicas": (
        (
            "pools.a.model=m",
            "discovery.source=dns",
            "pools.a.autoscaling.enabled=true",
            "pools.a.autoscaling.mode=keda",
            "pools.a.autoscaling.prometheusAddress=http://p:9090",
        ),
        "pools.a.autoscaling.query is empty: with discovery.source dns",
    ),
    "bodies that have no room": (
        ("model=a", "router.config.limits.body_bytes=1000000000"),
        "router.config.limits.body_bytes is 1000000000, but the bodies of all requests together have 536870912",
    ),
    "a quantity that cannot be read": (
        ("model=a", "router.resources.limits.memory=1e3Mi"),
        'router.resources.limits.memory is "1e3Mi", which cannot be read here',
    ),
    "a token in a ConfigMap": (
        ("model=a", "router.config.admin_auth.operator_tokens[0]=sixteen-characters"),
        "set router.adminAuth instead",
    ),
    "a volume for each pod of a Deployment": (
        ("pools.a.model=m", "pools.a.workload=Deployment", "pools.a.cache.type=persistent"),
        "pools.a.cache.type persistent",
    ),
    "a claim without a name": (("pools.a.model=m", "pools.a.cache.type=existing"), "existingClaim is empty"),
    "a route to no gateway": (("model=a", "httpRoute.enabled=true"), "httpRoute.parentRefs is empty"),
    "an ingress for nobody": (("model=a", "ingress.enabled=true"), "ingress.hosts is empty"),
    "an account without a name": (("model=a", "serviceAccount.create=false"), "serviceAccount.name is empty"),
    "a load test that does not know what to ask for": (
        ("pools.a.model=m", "pools.b.model=n", "loadtest.enabled=true"),
        "loadtest.model is empty",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_what_to_do(what: str) -> None:
    settings, message = REFUSED[what]
    said = refusal(*settings)
    assert message in said
    assert "hidden" not in said
