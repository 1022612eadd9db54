"""One exposition out of several workers' own."""

from __future__ import annotations

import math

from warmroute.telemetry.merging import Merger

GAUGES = """# HELP warmroute_in_flight Requests.
# TYPE warmroute_in_flight gauge
warmroute_in_flight {in_flight}
# HELP warmroute_registry_up Up.
# TYPE warmroute_registry_up gauge
warmroute_registry_up {up}
# HELP warmroute_registry_entries Entries.
# TYPE warmroute_registry_entries gauge
warmroute_registry_entries {entries}
# HELP process_start_time_seconds Start.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.5e+09
# HELP python_info Python.
# TYPE python_info gauge
python_info{{version="3.11"}} 1.0
# HELP process_cpu_seconds_total CPU.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 3.0
"""

COUNTERS = """# HELP warmroute_requests_total Requests.
# TYPE warmroute_requests_total counter
warmroute_requests_total{{model="a b}} c",status="200"}} {count}
# HELP warmroute_ttft_seconds Time.
# TYPE warmroute_ttft_seconds histogram
warmroute_ttft_seconds_bucket{{le="0.1",model="m"}} {count}
warmroute_ttft_seconds_bucket{{le="+Inf",model="m"}} {count}
warmroute_ttft_seconds_count{{model="m"}} {count}
warmroute_ttft_seconds_sum{{model="m"}} {seconds}
"""


def gauges(in_flight: float = 0, up: float = 1, entries: float = 0) -> str:
    return GAUGES.format(in_flight=in_flight, up=up, entries=entries)


def counters(count: float, seconds: float = 0.0) -> str:
    return COUNTERS.format(count=count, seconds=seconds)


def samples(text: str) -> dict[str, float]:
    rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    assert len({name for name, _, _ in rows}) == len(rows)
    return {name: float(value) for name, _, value in rows}


REQUESTS = 'warmroute_requests_total{model="a b} c",status="200"}'


def test_counters_and_histograms_are_summed() -> None:
    merged = samples(Merger().merge({"0": counters(3, 0.5), "1": counters(4, 0.25)}))
    assert merged[REQUESTS] == 7
    assert merged['warmroute_ttft_seconds_bucket{le="+Inf",model="m"}'] == 7
    assert merged['warmroute_ttft_seconds_sum{model="m"}'] == 0.75


def test_gauges_are_merged_as_the_catalogue_says() -> None:
    merged = samples(Merger().merge({"0": gauges(2, 1, 100), "1": gauges(3, 0, 90)}))
    assert merged["warmroute_in_flight"] == 5
    assert merged["warmroute_registry_up"] == 0
    assert merged["warmroute_registry_entries"] == 100


def test_what_is_said_of_a_process_keeps_its_worker() -> None:
    merged = samples(Merger().merge({"0": gauges(), "1": gauges()}))
    assert merged['process_start_time_seconds{worker="0"}'] == 1.5e9
    assert merged['python_info{version="3.11",worker="1"}'] == 1
    assert merged['process_cpu_seconds_total{worker="1"}'] == 3
    assert "process_cpu_seconds_total" not in merged


def test_an_unknown_gauge_is_shown_by_worker() -> None:
    text = "# HELP x X.\n# TYPE x gauge\nx 1.0\n"
    assert samples(Merger().merge({"0": text, "1": text})) == {'x{worker="0"}': 1, 'x{worker="1"}': 1}


def test_no_counter_goes_back_when_a_worker_dies_or_is_silent() -> None:
    merger = Merger()
    merger.merge({"0": counters(10, 1.0), "1": counters(5, 1.0)})
    assert samples(merger.merge({"1": counters(6, 1.0)}))[REQUESTS] == 16
    merger.ended("0")
    assert samples(merger.merge({"1": counters(6, 1.0)}))[REQUESTS] == 16
    merged = samples(merger.merge({"0": counters(1, 0.5), "1": counters(6, 1.0)}))
    assert merged[REQUESTS] == 17
    assert merged['warmroute_ttft_seconds_sum{model="m"}'] == 2.5
    merger.ended("0")
    merger.ended("0")
    assert samples(merger.merge({"1": counters(6, 1.0)}))[REQUESTS] == 17


def test_a_dead_workers_gauges_and_process_go_with_it() -> None:
    merger = Merger()
    merger.merge({"0": gauges(2), "1": gauges(3)})
    silent = samples(merger.merge({"1": gauges(3)}))
    assert silent["warmroute_in_flight"] == 3
    merger.ended("0")
    merged = samples(merger.merge({"1": gauges(3)}))
    assert merged["warmroute_in_flight"] == 3
    assert 'process_cpu_seconds_total{worker="0"}' not in merged


def test_every_family_is_announced_once_before_its_samples() -> None:
    text = Merger().merge({"0": gauges() + counters(1), "1": gauges() + counters(1)})
    types = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(types) == len(set(types)) == 8
    current = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            current = line.split(" ")[2]
        elif not line.startswith("#"):
            assert line.startswith(current)


def test_odd_values_survive() -> None:
    text = "# HELP x X.\n# TYPE x gauge\nx NaN\n# HELP y_total Y.\n# TYPE y_total counter\ny_total +Inf\n"
    merged = samples(Merger().merge({"0": text}))
    assert math.isnan(merged['x{worker="0"}'])
    assert merged["y_total"] == math.inf


def of_replicas(*names: str) -> str:
    lines = [f'warmroute_replica_requests_total{{decision="warm",replica="{name}"}} 2.0' for name in names]
    return "\n".join(
        [
            "# HELP warmroute_replica_requests_total x",
            "# TYPE warmroute_replica_requests_total counter",
            *lines,
        ]
    )


def test_what_dead_workers_counted_of_replicas_that_left_goes_with_them() -> None:
    merger = Merger()
    for number in range(50):
        merger.merge({"0": of_replicas("stays", "other", f"pod-{number}"), "1": of_replicas("stays")})
        merger.ended("0")
    merged = samples(merger.merge({"1": of_replicas("stays")}))
    name = 'warmroute_replica_requests_total{decision="warm",replica="%s"}'
    assert merged[name % "stays"] == 102
    assert merged[name % "other"] == 100
    assert len(merged) == 2
