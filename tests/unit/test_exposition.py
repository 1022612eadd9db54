"""The text of `/metrics`: every metric of the catalogue, right names, right types, right numbers."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from warmroute.advice.advisor import Advisor
from warmroute.core.types import Api, DecisionKind, ReplicaId
from warmroute.telemetry.caching_catalogue import CACHING
from warmroute.telemetry.catalogue import CATALOGUE
from warmroute.telemetry.exposition import Exposition, Sources
from warmroute.telemetry.metric import Kind
from warmroute.telemetry.metrics import Metrics
from warmroute.telemetry.registry_statistics import REGISTRY_STATISTICS
from warmroute.tenants.usage import COUNTERS

ROWS: list[Mapping[str, object]] = [
    {
        "id": "a:1",
        "state": "ready",
        "in_flight": 3,
        "waiting_tokens": 500,
        "engine_running": 2,
        "engine_waiting": 1,
        "prefill_tokens_per_s": 7900.0,
        "base_latency_s": 0.02,
        "interference_s": 0.0005,
        "speed_confidence": 0.8,
        "cache_lifetime_s": 64.0,
        "models": ["m", "n"],
        "ejections_total": {"probe": 2, "lost": 1},
        "restarts_total": 3,
    },
    {
        "id": "b:1",
        "state": "ejected",
        "in_flight": 0,
        "waiting_tokens": 0,
        "engine_running": None,
        "models": ["n"],
    },
    {
        "id": "c:1",
        "state": "starting",
        "in_flight": 0,
        "waiting_tokens": 0,
        "engine_running": None,
        "models": [],
    },
]


MODELS: list[Mapping[str, object]] = [
    {
        "model": "m",
        "bytes_per_token": 3.5,
        "bytes_per_token_confidence": 0.9,
        "answer_tokens": 120.0,
        "answer_tokens_confidence": 0.7,
        "answers": 40,
    }
]


DISCOVERY: list[Mapping[str, object]] = [
    {
        "source": "dns://a:1",
        "up": False,
        "ready": 2,
        "draining": 1,
        "age_s": 7.5,
        "errors_total": {"timeout": 3, "server": 0},
    },
    {"source": "redis", "up": True, "ready": 0, "draining": 0, "age_s": None, "errors_total": {}},
]


ADVISOR = Advisor(
    sample=1.0,
    budget_ratio=1.0,
    memory_bytes=1000,
    minimum_tokens=1,
    show_shared=False,
    dice=float,
    stopwatch=float,
    clock=float,
)


def exposition(metrics: Metrics) -> Exposition:
    statistics = {key: float(index) for index, key in enumerate(REGISTRY_STATISTICS)}
    build = {"version": "1", "compiled": "true", "policy": "prefix-cost", "registry": "memory"}
    return Exposition(
        metrics,
        Sources(
            lambda: ROWS,
            lambda: statistics,
            lambda: True,
            lambda: 4,
            build,
            discovery=lambda: DISCOVERY,
            models=lambda: MODELS,
            tenants=lambda: {"a": [9, 8, 1, 0, 100, 40, 20, 2_500_000, 0, 3_000_000_000]},
            refused=lambda: {"invalid_api_key": 2},
            queue_refused=lambda: {"batch": 3},
            keys=lambda: 5,
            limits=lambda: {"up": 1.0, "local_total": 0},
            advisor=ADVISOR,
            interfaces=lambda: (
                {"openai": [*range(len(COUNTERS), 0, -1)]},
                {("openai", "1024"): [1, 2_000_000, 3, 4_000_000]},
            ),
            caches=lambda: {
                metric.name + (":copy" if metric.labels else ""): float(number)
                for number, metric in enumerate(CACHING)
            },
        ),
    )


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def busy() -> Metrics:
    metrics = Metrics(lambda: {"m"})
    metrics.observe(Api.CHAT, "m", 200, None, DecisionKind.WARM, ReplicaId("a:1"), 0.2, 1.5, 100, 90, 80, 7)
    metrics.observe(Api.MESSAGES, "x", 404, "model_not_found", None, None, None, 0.001, 0, 0, None, None)
    metrics.funnel("m", 100, 95, 92, 90, 80)
    metrics.funnel("m", 50, 20, 20, 10, None)
    metrics.funnel("x", 10, 0, 0, 0, 0)
    metrics.retried("refused")
    metrics.client_gone("prefill")
    metrics.second_sent("silence")
    metrics.second_won("silence", 40)
    metrics.failed_over("completed")
    return metrics


def test_the_loss_funnel_is_exposed_by_model_and_stage() -> None:
    found = samples(exposition(busy()).render("")[0].decode())

    def stage(name: str, reported: str, model: str = "m") -> float | None:
        labels = frozenset({"model": model, "stage": name, "reported": reported}.items())
        return found.get(("warmroute_funnel_tokens_total", labels))

    stages = ("prompt", "reusable", "known", "chosen", "delivered")
    assert [stage(name, "yes") for name in stages] == [100, 95, 92, 90, 80]
    assert [stage(name, "no") for name in stages] == [50, 20, 20, 10, None]
    assert stage("prompt", "yes", "x") is None, "a model that the fleet does not know is no label"
    assert stage("prompt", "yes", "other") == 10


def test_what_tenants_used_is_exposed_in_seconds_and_currency() -> None:
    found = samples(exposition(busy()).render("")[0].decode())

    def value(name: str, **labels: str) -> float:
        return found[f"warmroute_tenant_{name}_total", frozenset({"tenant": "a", **labels}.items())]

    assert (value("requests", outcome="answered"), value("requests", outcome="failed")) == (7, 1)
    assert [value("tokens", kind=kind) for kind in ("prompt", "cached", "output")] == [100, 40, 20]
    assert (value("prefill_saved_seconds"), value("cost")) == (2.5, 3.0)


def test_every_metric_of_the_catalogue_is_exposed_under_its_name_and_type() -> None:
    body, content_type = exposition(busy()).render("")
    assert content_type.startswith("text/plain")
    families = {family.name: family for family in parse_text(body.decode())}
    for metric in CATALOGUE:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind, metric.name
        assert family.documentation == metric.help
        assert family.samples, metric.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name
    ours = {name for name in families if name.startswith("warmroute_")}
    assert ours == {metric.name.removesuffix("_total") for metric in CATALOGUE}


def test_the_numbers_are_those_counted() -> None:
    found = samples(exposition(busy()).render("")[0].decode())

    def value(name: str, **labels: str) -> float:
        return found[(name, frozenset(labels.items()))]

    assert value("warmroute_requests_total", api="chat", model="m", status="200", decision="warm") == 1
    assert (
        value("warmroute_requests_total", api="messages", model="other", status="404", decision="none") == 1
    )
    assert value("warmroute_errors_total", code="model_not_found") == 1
    assert value("warmroute_ttft_seconds_bucket", model="m", decision="warm", le="0.1") == 0
    assert value("warmroute_ttft_seconds_bucket", model="m", decision="warm", le="0.2") == 1
    assert value("warmroute_ttft_seconds_bucket", model="m", decision="warm", le="+Inf") == 1
    assert value("warmroute_ttft_seconds_count", model="m", decision="warm") == 1
    assert value("warmroute_duration_seconds_sum", api="chat", model="m") == 1.5
    assert value("warmroute_cached_tokens_total", model="m") == 80
    assert value("warmroute_confirmed_prompt_tokens_total", model="m") == 100
    assert value("warmroute_in_flight") == 3
    assert value("warmroute_replica_state", replica="b:1", state="ejected") == 1
    assert ("warmroute_replica_state", frozenset({("replica", "b:1"), ("state", "ready")})) not in found
    assert value("warmroute_replica_engine_running", replica="a:1") == 2
    assert ("warmroute_replica_engine_running", frozenset({("replica", "b:1")})) not in found
    assert value("warmroute_registry_up") == 1
    assert value("warmroute_registry_evictions_total") == list(REGISTRY_STATISTICS).index("evictions_total")
    assert value("warmroute_access_log_dropped_total") == 4
    assert (
        value("warmroute_build_info", version="1", compiled="true", policy="prefix-cost", registry="memory")
        == 1
    )
    assert value("process_start_time_seconds") > 0


def test_what_each_replica_answered_is_summed_over_decisions() -> None:
    metrics = busy()
    metrics.observe(Api.CHAT, "m", 200, None, DecisionKind.RING, ReplicaId("a:1"), 0.2, 1.5, 50, 0, None, 7)
    metrics.observe(
        Api.CHAT, "m", 503, None, DecisionKind.RING, ReplicaId("a:1"), None, 1.5, 999, 9, None, None
    )
    found = samples(exposition(metrics).render("")[0].decode())

    def tokens(which: str) -> float:
        return found[(f"warmroute_replica_{which}_tokens_total", frozenset({("replica", "a:1")}))]

    assert [tokens(which) for which in ("prompt", "confirmed_prompt", "predicted_cached", "cached")] == [
        150,
        100,
        90,
        80,
    ]


def test_ejections_restarts_and_the_replicas_of_each_model_are_shown() -> None:
    found = samples(exposition(busy()).render("")[0].decode())

    def value(name: str, **labels: str) -> float | None:
        return found.get((f"warmroute_{name}", frozenset(labels.items())))

    assert value("replica_ejections_total", replica="a:1", reason="lost") == 1
    assert value("replica_ejections_total", replica="a:1", reason="probe") == 2
    assert value("replica_ejections_total", replica="b:1", reason="probe") == 0, (
        "the first one will be an increase"
    )
    assert value("replica_restarts_total", replica="a:1") == 3
    assert value("model_replicas", model="m", state="ready") == 1
    assert value("model_replicas", model="m", state="ejected") == 0
    assert value("model_replicas", model="n", state="ejected") == 1
    assert value("model_replicas", model="other", state="starting") == 1, "it has not told what it serves"
    assert value("errors_total", code="deadly_request") == 0, "an alert waits for its first one"


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    body, content_type = exposition(busy()).render(accept)
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert "warmroute_requests" in names


def test_label_values_cannot_break_the_text() -> None:
    metrics = Metrics(lambda: {'m"\n\\'})
    metrics.observe(Api.CHAT, 'm"\n\\', 200, None, None, None, 0.1, 0.1, 1, 0, None, None)
    found = samples(exposition(metrics).render("")[0].decode())
    assert found[("warmroute_prompt_tokens_total", frozenset({("model", 'm"\n\\')}))] == 1


def test_names_follow_the_convention() -> None:
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.help.endswith("."), metric.name
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_sources_of_replicas_are_exposed_with_their_members_age_and_errors() -> None:
    found = samples(exposition(Metrics(lambda: set())).render("")[0].decode())

    def value(name: str, **labels: str) -> float | None:
        return found.get((f"warmroute_discovery_{name}", frozenset(labels.items())))

    assert (value("up", source="dns://a:1"), value("up", source="redis")) == (0, 1)
    assert value("members", source="dns://a:1", state="ready") == 2
    assert value("members", source="dns://a:1", state="draining") == 1
    assert (value("age_seconds", source="dns://a:1"), value("age_seconds", source="redis")) == (7.5, None)
    assert value("errors_total", source="dns://a:1", reason="timeout") == 3
    assert value("errors_total", source="dns://a:1", reason="server") == 0
