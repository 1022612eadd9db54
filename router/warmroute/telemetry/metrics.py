"""The request path's counters and histograms take one call a finished request, and nothing else.

They are plain numbers and no Prometheus objects: `exposition` renders them at scrape time. Label sets stay bounded
whatever clients and replicas send: a model is a label only while the fleet knows it, and each table has a cap; beyond
either, the label is `other`. One event loop uses them, without locks.

Every series that shares a label combination is resolved once and kept in one `_Series`, so that a request costs one
lookup and some additions (about 1 us, see tests/unit/test_metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Final

from warmroute.core.types import Api, DecisionKind, ReplicaId

OTHER: Final = "other"
TTFT_BUCKETS_S: Final[tuple[float, ...]] = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.35,
    0.5,
    0.75,
    1.0,
    1.5,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
LATENESS_BUCKETS_S: Final[tuple[float, ...]] = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
HOLD_BUCKETS_S: Final[tuple[float, ...]] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
)
DURATION_BUCKETS_S: Final[tuple[float, ...]] = (
    0.01,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    320.0,
    640.0,
)

_MAX_SERIES: Final = 4096
_MAX_MODELS: Final = 256
_MAX_PLACES: Final = 8192
_MAX_CODES: Final = 128
NO_DECISION: Final = "none"
"""Label of requests answered without a choice (a bad request, no replica)."""


STAGES: Final = ("prompt", "reusable", "known", "chosen", "delivered")
"""Of the loss funnel: each is what is left of the one before."""


class Histogram:
    """Observations by bucket; the last count is of those beyond every bound."""

    __slots__ = ("counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0


class Tokens:
    """Token sums of one model, over requests whose engine answered."""

    __slots__ = ("cached", "completion", "confirmed", "predicted", "prompt", "reported", "unreported")

    def __init__(self) -> None:
        self.prompt = 0
        self.predicted = 0
        self.cached = 0
        self.confirmed = 0
        """Prompt tokens of those requests whose engine reported cached tokens: the denominator of `cached`."""
        self.completion = 0
        self.reported = [0] * len(STAGES)
        """The loss funnel, by stage, of requests whose engine reported cached tokens; and of the others."""
        self.unreported = [0] * (len(STAGES) - 1)


class Place:
    """What one replica answered that was chosen for one reason."""

    __slots__ = ("answered", "cached", "confirmed", "predicted", "prompt", "requests", "ttft_s")

    def __init__(self) -> None:
        self.requests = 0
        self.answered = 0
        """Those that had a first byte, and the sums of the times to it."""
        self.ttft_s = 0.0
        self.prompt = 0
        """Prompt tokens of those answered."""
        self.confirmed = 0
        """Of those whose engine reported cached tokens, which the two below are of."""
        self.predicted = 0
        self.cached = 0


class _Series:
    __slots__ = ("duration", "requests", "tokens", "ttft")

    def __init__(self, tokens: Tokens, ttft: Histogram, duration: Histogram) -> None:
        self.requests = 0
        self.tokens = tokens
        self.ttft = ttft
        self.duration = duration


RequestKey = tuple[str, str, int, str | None]
"""Api, model, status, decision."""


class Metrics:
    """What happened on the request path since the process began."""

    __slots__ = ("_known_models", "client_disconnects", "duration", "errors", "failovers", "hold", "lateness",
                 "places", "retries", "second_tries", "second_wasted_tokens", "second_wins", "series",
                 "tokens", "ttft")  # fmt: skip

    def __init__(self, known_models: Callable[[], Container[str]]) -> None:
        """`known_models` is asked only when a combination of labels is seen for the first time."""
        self._known_models = known_models
        self.series: dict[RequestKey, _Series] = {}
        self.tokens: dict[str, Tokens] = {}
        self.ttft: dict[tuple[str, str | None], Histogram] = {}
        """By model and decision."""
        self.duration: dict[tuple[str, str], Histogram] = {}
        """By api and model."""
        self.places: dict[tuple[str, str], Place] = {}
        """By decision and replica."""
        self.hold = Histogram(HOLD_BUCKETS_S)
        """Only of requests that were held."""
        self.lateness = Histogram(LATENESS_BUCKETS_S)
        self.errors: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.client_disconnects: dict[str, int] = {}
        self.second_tries: dict[str, int] = {}
        """By cause, as the two below."""
        self.second_wins: dict[str, int] = {}
        self.second_wasted_tokens: dict[str, int] = {}
        self.failovers: dict[str, int] = {}

    def observe(
        self,
        api: Api,
        model: str,
        status: int,
        code: str | None,
        kind: DecisionKind | None,
        replica: ReplicaId | None,
        ttft_s: float | None,
        duration_s: float,
        prompt_tokens: int,
        predicted_tokens: int,
        cached_tokens: int | None,
        completion_tokens: int | None,
    ) -> None:
        """Count one finished request. `code` is the router's own error, if it made one."""
        try:
            series = self.series[(api, model, status, kind)]
        except KeyError:
            series = self._admit(api, model, status, kind)
        series.requests += 1
        histogram = series.duration
        histogram.counts[_bucket(DURATION_BUCKETS_S, duration_s)] += 1
        histogram.sum += duration_s
        if ttft_s is not None:
            histogram = series.ttft
            histogram.counts[_bucket(TTFT_BUCKETS_S, ttft_s)] += 1
            histogram.sum += ttft_s
            tokens = series.tokens
            tokens.prompt += prompt_tokens
            tokens.predicted += predicted_tokens
            if cached_tokens is not None:
                tokens.cached += cached_tokens
                tokens.confirmed += prompt_tokens
            if completion_tokens is not None:
                tokens.completion += completion_tokens
        if code is not None:
            _add(self.errors, code, _MAX_CODES)
        if kind is not None and replica is not None:
            try:
                place = self.places[(kind, replica)]
            except KeyError:
                place = self._admit_place(kind, replica)
            place.requests += 1
            if ttft_s is not None:
                place.answered += 1
                place.ttft_s += ttft_s
                place.prompt += prompt_tokens
                if cached_tokens is not None:
                    place.confirmed += prompt_tokens
                    place.predicted += predicted_tokens
                    place.cached += cached_tokens

    def held(self, held_s: float) -> None:
        """Count one request that is held no longer, whatever became of it."""
        histogram = self.hold
        histogram.counts[_bucket(HOLD_BUCKETS_S, held_s)] += 1
        histogram.sum += held_s

    def late(self, late_s: float) -> None:
        """Count how much later than due a timer of the event loop was called."""
        histogram = self.lateness
        histogram.counts[_bucket(LATENESS_BUCKETS_S, late_s)] += 1
        histogram.sum += late_s

    def funnel(
        self,
        model: str,
        prompt_tokens: int,
        reusable_tokens: int,
        known_tokens: int,
        chosen_tokens: int,
        delivered_tokens: int | None,
    ) -> None:
        """Count where the tokens of one answered prompt were lost. After `observe`, which admits the model."""
        tokens = self.tokens.get(model)
        if tokens is None:
            tokens = self.tokens.get(OTHER)
            if tokens is None:
                return
        if delivered_tokens is None:
            stages = tokens.unreported
        else:
            stages = tokens.reported
            stages[4] += delivered_tokens
        stages[0] += prompt_tokens
        stages[1] += reusable_tokens
        stages[2] += known_tokens
        stages[3] += chosen_tokens

    def funnel_rows(self) -> dict[str, dict[str, dict[str, int]]]:
        """The loss funnel for people: model, whether engines reported, stage."""
        return {
            model: {
                kind: dict(zip(STAGES, counts, strict=False))
                for kind, counts in (("reported", tokens.reported), ("unreported", tokens.unreported))
                if counts[0]
            }
            for model, tokens in self.tokens.items()
            if tokens.reported[0] or tokens.unreported[0]
        }

    def retried(self, reason: str) -> None:
        """Count one attempt that failed before its first byte and was made again elsewhere."""
        _add(self.retries, reason, _MAX_CODES)

    def second_sent(self, cause: str) -> None:
        """Count one request that was late and asked of a second replica as well."""
        _add(self.second_tries, cause, _MAX_CODES)

    def second_won(self, cause: str, wasted_tokens: int) -> None:
        """Count one of them that the second replica answered first; `wasted_tokens`: what the first had to compute."""
        _add(self.second_wins, cause, _MAX_CODES)
        self.wasted(cause, wasted_tokens)

    def wasted(self, cause: str, tokens: int) -> None:
        """Count prompt tokens that a replica was given for nothing."""
        wasted = self.second_wasted_tokens
        wasted[cause] = wasted.get(cause, 0) + tokens

    def failed_over(self, outcome: str) -> None:
        """Count what became of a stream that broke where it might be gone on with."""
        _add(self.failovers, outcome, _MAX_CODES)

    def client_gone(self, phase: str) -> None:
        """Count one client that left before its answer was complete."""
        _add(self.client_disconnects, phase, _MAX_CODES)

    def forget_replica(self, replica: ReplicaId) -> None:
        """Drop the series of a replica that left the fleet, so that churn does not pile them up."""
        self.places = {key: place for key, place in self.places.items() if key[1] != replica}

    def requests(self) -> Mapping[RequestKey, int]:
        """Finished requests by api, model, status and decision."""
        return {key: series.requests for key, series in self.series.items()}

    def _admit_place(self, kind: DecisionKind, replica: ReplicaId) -> Place:
        """The place of a pair not seen before, under `other` where there are too many."""
        places = self.places
        return places.setdefault((kind.value, replica if len(places) < _MAX_PLACES else OTHER), Place())

    def _admit(self, api: Api, model: str, status: int, kind: DecisionKind | None) -> _Series:
        """The series of a combination not seen before, under `other` where its model may not be a label.

        A request of a model that nobody serves comes here each time: it must stay cheap, and remember nothing.
        """
        known = model in self.tokens or (model in self._known_models() and len(self.tokens) < _MAX_MODELS)
        if not known:
            model = OTHER
        if not 100 <= status <= 599:
            status = 599
        decision = None if kind is None else kind.value
        key: RequestKey = (api.value, model, status, decision)
        series = self.series.get(key)
        if series is None and len(self.series) >= _MAX_SERIES:
            key = (Api.OTHER.value, OTHER, 599, None)
            series = self.series.get(key)
        if series is None:
            tokens = self.tokens.setdefault(key[1], Tokens())
            ttft = self.ttft.setdefault((key[1], key[3]), Histogram(TTFT_BUCKETS_S))
            duration = self.duration.setdefault((key[0], key[1]), Histogram(DURATION_BUCKETS_S))
            series = self.series[key] = _Series(tokens, ttft, duration)
        return series


def _bucket(bounds: tuple[float, ...], value: float) -> int:
    """`bisect_left`, compiled: less than half of the cost of the one that compares objects."""
    low, high = 0, len(bounds)
    while low < high:
        middle = (low + high) >> 1
        if bounds[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


def _add(table: dict[str, int], key: str, cap: int) -> None:
    if key not in table and len(table) >= cap:
        key = OTHER
    table[key] = table.get(key, 0) + 1
