"""Counters of the request path: what they count, what bounds them, what a request pays."""

from __future__ import annotations

from time import thread_time_ns

from warmroute.core.types import Api, DecisionKind, ReplicaId
from warmroute.telemetry import metrics as module
from warmroute.telemetry.metrics import DURATION_BUCKETS_S, OTHER, TTFT_BUCKETS_S, Metrics

ONE = ReplicaId("a:1")


def observe(
    metrics: Metrics,
    model: str = "m",
    *,
    api: Api = Api.CHAT,
    status: int = 200,
    code: str | None = None,
    kind: DecisionKind | None = DecisionKind.WARM,
    replica: ReplicaId | None = ONE,
    ttft_s: float | None = 0.2,
    cached: int | None = 80,
    completion: int | None = 7,
) -> None:
    metrics.observe(api, model, status, code, kind, replica, ttft_s, 1.5, 100, 90, cached, completion)


def counts(metrics: Metrics) -> dict[tuple[str, str], int]:
    return {key: place.requests for key, place in metrics.places.items()}


def test_a_request_is_counted_once_everywhere() -> None:
    metrics = Metrics(lambda: {"m"})
    observe(metrics)
    observe(metrics, cached=None, completion=None)
    assert metrics.requests() == {("chat", "m", 200, "warm"): 2}
    assert counts(metrics) == {("warm", "a:1"): 2}
    place = metrics.places[("warm", "a:1")]
    assert (place.prompt, place.confirmed, place.predicted, place.cached) == (200, 100, 90, 80)
    assert (place.answered, place.ttft_s) == (2, 0.4)
    tokens = metrics.tokens["m"]
    assert (tokens.prompt, tokens.predicted, tokens.completion) == (200, 180, 7)
    assert (tokens.cached, tokens.confirmed) == (80, 100), "silent engines do not dilute the cached share"
    assert sum(metrics.ttft[("m", "warm")].counts) == 2
    assert metrics.duration[("chat", "m")].sum == 3.0
    assert metrics.errors == {}


def test_a_request_without_a_first_byte_has_no_ttft_and_no_tokens() -> None:
    metrics = Metrics(lambda: {"m"})
    observe(metrics, status=503, code="no_replica", kind=None, replica=None, ttft_s=None)
    assert metrics.requests() == {("chat", "m", 503, None): 1}
    assert metrics.errors == {"no_replica": 1}
    assert counts(metrics) == {}
    assert metrics.tokens["m"].prompt == 0
    assert sum(metrics.ttft[("m", None)].counts) == 0
    assert sum(metrics.duration[("chat", "m")].counts) == 1


def test_a_value_on_a_bound_counts_below_it() -> None:
    metrics = Metrics(lambda: {"m"})
    observe(metrics, ttft_s=TTFT_BUCKETS_S[3])
    observe(metrics, ttft_s=TTFT_BUCKETS_S[-1] + 1)
    observe(metrics, ttft_s=0.0)
    counts = metrics.ttft[("m", "warm")].counts
    assert (counts[0], counts[3], counts[-1]) == (1, 1, 1)
    assert len(counts) == len(TTFT_BUCKETS_S) + 1
    assert list(TTFT_BUCKETS_S) == sorted(TTFT_BUCKETS_S)
    assert list(DURATION_BUCKETS_S) == sorted(DURATION_BUCKETS_S)


def test_models_nobody_serves_share_one_label() -> None:
    served = {"m"}
    metrics = Metrics(lambda: served)
    for index in range(10_000):
        observe(metrics, f"made-up-{index}", status=404, kind=None, replica=None, ttft_s=None)
    assert metrics.requests() == {("chat", OTHER, 404, None): 10_000}
    served.add("late")
    observe(metrics, "late")
    assert metrics.requests()[("chat", "late", 200, "warm")] == 1
    served.clear()
    observe(metrics, "late")
    assert metrics.requests()[("chat", "late", 200, "warm")] == 2, (
        "a known series goes on when its model leaves"
    )


def test_tables_stay_bounded_whatever_comes() -> None:
    class Everything:
        def __contains__(self, _: object) -> bool:
            return True

    metrics = Metrics(Everything)
    for index in range(20_000):
        observe(
            metrics,
            f"m{index % 700}",
            status=index % 1000 - 50,
            replica=ReplicaId(f"r{index}"),
            code=f"c{index}",
        )
        metrics.retried(f"r{index}")
        metrics.client_gone(f"p{index}")
    assert len(metrics.series) <= module._MAX_SERIES + 1
    assert len(metrics.tokens) <= module._MAX_MODELS + 1
    assert len(metrics.places) <= module._MAX_PLACES + len(DecisionKind)
    for table in (metrics.errors, metrics.retries, metrics.client_disconnects):
        assert len(table) <= module._MAX_CODES + 1
        assert sum(table.values()) == 20_000
    assert sum(metrics.requests().values()) == 20_000
    assert sum(counts(metrics).values()) == 20_000
    assert all(100 <= key[2] <= 599 for key in metrics.series)


def test_lateness_is_counted_by_how_late() -> None:
    metrics = Metrics(lambda: {"m"})
    for late_s in (0.0, 0.03, 99.0):
        metrics.late(late_s)
    assert sum(metrics.lateness.counts) == 3
    assert (metrics.lateness.counts[0], metrics.lateness.counts[-1]) == (1, 1)
    assert metrics.lateness.sum == 99.03


def test_a_replica_that_left_is_forgotten() -> None:
    metrics = Metrics(lambda: {"m"})
    observe(metrics)
    observe(metrics, replica=ReplicaId("b:1"))
    metrics.forget_replica(ONE)
    assert counts(metrics) == {("warm", "b:1"): 1}
    observe(metrics)
    assert counts(metrics)[("warm", "a:1")] == 1


def test_a_request_costs_about_a_microsecond() -> None:
    metrics = Metrics(lambda: {"m"})
    best = min(_cost_ns(metrics) for _ in range(7))
    # The bound is loose (it is under 1 us on an idle core): it is there to catch a change of kind, not of percent.
    assert best < 6_000, f"{best} ns a request"


def _cost_ns(metrics: Metrics) -> float:
    count = 2_000
    call = metrics.observe
    start = thread_time_ns()
    for _ in range(count):
        call(Api.CHAT, "m", 200, None, DecisionKind.WARM, ONE, 0.2, 1.5, 100, 90, 80, 7)
    return (thread_time_ns() - start) / count
