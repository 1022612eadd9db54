from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from warmroute_loadtest.locust import baseline, samples, thresholds
from warmroute_loadtest.locust.figures import Figures, figures, most_in_flight, percentile
from warmroute_loadtest.locust.launch import printed
from warmroute_loadtest.locust.recorder import Generator, Histogram, Recorder
from warmroute_loadtest.locust.report import Report, Side, markdown, page, pictures, table, write
from warmroute_loadtest.locust.samples import Sample
from warmroute_loadtest.locust.thresholds import SettingError, Threshold

ONE = Sample(
    name="rag",
    api="chat",
    talk=0,
    turn=0,
    at_s=0.0,
    late_s=0.001,
    waited_s=0.0,
    ttft_s=0.1,
    itl_s=0.01,
    gap_s=0.02,
    e2e_s=1.0,
    asked_tokens=100,
    prompt_tokens=100,
    cached_tokens=50,
    completion_tokens=10,
    bytes_out=400,
    replica="a",
    decision="warm",
    error="",
)


def many(count: int = 100, **changes: object) -> list[Sample]:
    """Requests 0.1 s apart whose first tokens take 10 ms, 20 ms and so on."""
    return [
        replace(ONE, talk=n, at_s=n / 10, ttft_s=(n + 1) / 100, **changes)  # type: ignore[arg-type]
        for n in range(count)
    ]


def summed(sampled: list[Sample], lags: list[float] | None = None, target_s: float = 0.5) -> Figures:
    """Their figures."""
    return figures(sampled, {"w": Generator(0.3, lags or [0.001])}, ttft_target_s=target_s)


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    assert [percentile(list(range(1, 101)), ratio) for ratio in (0, 0.5, 0.9, 0.99, 1)] == [
        1,
        50,
        90,
        99,
        100,
    ]


def test_figures_of_a_run() -> None:
    done = summed(many())
    assert done.total.requests == 100
    assert done.total.ttft_s.p90 == pytest.approx(0.9)
    assert done.total.cached_ratio == 0.5
    assert done.total.goodput_ratio == 0.5
    assert done.span_s == pytest.approx(10.9)
    assert done.requests_per_s == pytest.approx(100 / 10.9)
    assert done.output_tokens_per_s == pytest.approx(1000 / 10.9)
    assert done.replicas == {"a": 100}
    assert done.most_in_flight == 10
    assert not done.is_late


def test_failures_count_against_goodput_and_not_in_times() -> None:
    done = summed([*many(50), *[replace(ONE, error="cut", ttft_s=9.0)] * 50])
    assert done.total.failed == 50
    assert done.total.ttft_s.p99 == pytest.approx(0.5)
    assert done.total.goodput_ratio == 0.5
    assert done.errors == {"cut": 50}


def test_hostile_clients_are_listed_and_in_no_total() -> None:
    done = summed([*many(10), replace(ONE, name="hostile: not-http", e2e_s=99.0, error="status 500")])
    assert [row.name for row in done.rows] == ["hostile: not-http", "rag"]
    assert (done.total.requests, done.total.failed) == (10, 0)
    assert done.errors == {"status 500": 1}


def test_the_cached_share_is_of_answers_whose_engine_says() -> None:
    done = summed([ONE, replace(ONE, cached_tokens=None, prompt_tokens=1000)])
    assert done.total.cached_ratio == 0.5
    assert done.total.reported == 1
    assert done.total.prompt_tokens == 1100
    assert "do not say how many prompt tokens were cached" in markdown(reported(done, [ONE]))


@pytest.mark.parametrize(
    ("late_s", "lag_s", "is_late"), [(0.04, 0.01, False), (0.2, 0.01, True), (0.0, 0.03, True)]
)
def test_a_generator_that_was_late_says_so(late_s: float, lag_s: float, is_late: bool) -> None:
    done = summed(many(late_s=late_s), [lag_s])
    assert done.is_late is is_late
    assert ("THE GENERATOR WAS LATE" in markdown(reported(done, many()))) is is_late


def test_nothing_answered_has_no_figures_and_breaks_nothing() -> None:
    for sampled in ([], [replace(ONE, error="refused", ttft_s=None)]):
        done = summed(sampled)
        assert done.total.ttft_s.p90 is None
        assert done.total.cached_ratio is None
        report = reported(done, sampled)
        assert "| requests |" in markdown(report)
        assert page(report).startswith("<!doctype html>")


def test_overlapping_requests_are_counted() -> None:
    assert most_in_flight([ONE, replace(ONE, at_s=0.5), replace(ONE, at_s=1.0), replace(ONE, at_s=5.0)]) == 2


def test_histograms_are_within_two_percent() -> None:
    histogram = Histogram()
    for n in range(1, 1001):
        histogram.add(n / 1000)
    for ratio in (0.01, 0.5, 0.9, 0.99):
        assert histogram.percentile(ratio) == pytest.approx(ratio, rel=0.02)
    assert Histogram().percentile(0.5) is None


def test_what_a_worker_hands_on_is_what_it_measured() -> None:
    worker, master = Recorder(0.5), Recorder(0.5)
    for sample in many(30):
        worker.add(sample)
    master.take(worker.news())
    worker.add(ONE)
    master.take(worker.news())
    assert worker.news() == []
    assert master.samples == worker.samples
    assert "31 answered" in master.progress(3.0, 2)
    assert "cached 50%" in master.progress(3.0, 2)


def test_samples_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    samples.write(path, many(3))
    assert samples.read(path) == many(3)
    path.write_text(path.read_text() + '{"name": 1}\n')
    with pytest.raises(ValueError, match=r"samples\.jsonl:4: no sample"):
        samples.read(path)


@pytest.mark.parametrize(
    ("name", "bound", "is_met"),
    [
        ("TTFT_P90_S", 0.9, True),
        ("TTFT_P90_S", 0.89, False),
        ("ITL_P50_S", 0.01, True),
        ("E2E_MEAN_S", 0.99, False),
        ("CACHED_RATIO", 0.5, True),
        ("CACHED_RATIO", 0.51, False),
        ("GOODPUT_RATIO", 0.6, False),
        ("FAILED_RATIO", 0.0, True),
        ("REQUESTS_PER_S", 9.0, True),
        ("LATE_P99_S", 0.0005, False),
    ],
)
def test_a_threshold_is_met_on_its_own_side(name: str, bound: float, is_met: bool) -> None:
    (verdict,) = thresholds.judge([Threshold(name, bound)], summed(many()))
    assert verdict.is_met is is_met
    assert ("MISSED" in verdict.text()) is not is_met


@pytest.mark.parametrize("name", thresholds.NAMES)
def test_a_figure_that_is_not_there_misses_its_threshold(name: str) -> None:
    (verdict,) = thresholds.judge([Threshold(name, 1.0)], summed([]))
    assert not verdict.is_met or name.endswith("PER_S") is False
    if verdict.value is None:
        assert verdict.text().endswith("MISSED")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("TTFT_P90_S", "fast", "TTFT_P90_S=fast: not a number of seconds; write for example TTFT_P90_S=0.5"),
        ("TTFT_P90_S", "-1", "not a number of seconds"),
        ("TTFT_P90_S", "nan", "not a number of seconds"),
        ("CACHED_RATIO", "70", "not a share from 0 to 1"),
        ("CACHED_RATIO", "70%", "not a share from 0 to 1"),
        ("REQUESTS_PER_S", "many", "not a rate a second"),
    ],
)
def test_a_threshold_that_does_not_parse_says_what_to_write(name: str, text: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        thresholds.parse({name: text})
    assert said in str(caught.value)


def reported(done: Figures, sampled: list[Sample], **more: object) -> Report:
    """A report of one side."""
    sides = [Side("warmroute", "http://a", done, sampled)]
    return Report("Load test: <rag>", {"load": "5 & more"}, sides, **more)  # type: ignore[arg-type]


def test_a_baseline_survives_its_file_and_is_compared(tmp_path: Path) -> None:
    before = summed(many())
    path = tmp_path / "deep" / "base.json"
    baseline.save(path, {"rate": 4, "seed": 1}, before)
    loaded = baseline.load(path)
    assert loaded.figures == before
    now = summed([replace(sample, ttft_s=(sample.ttft_s or 0) * 2) for sample in many()])
    head, rows = table(reported(now, many(), baseline=loaded))
    assert head == ["", "warmroute", "baseline base", "warmroute ÷ baseline base"]
    (p90,) = [row for row in rows if row[0] == "time to first token, p90"]
    assert p90[1:] == ["1,800 ms", "900 ms", "2.00"]
    assert baseline.differences(loaded.settings, {"rate": 5, "seed": 1}) == ["rate was 4, is 5"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 9}', '{"format": 1}', '{"format": 1, "settings": {}, "figures": {}}']
)
def test_what_is_no_baseline_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(SettingError, match="BASELINE="):
        baseline.load(path)
    with pytest.raises(SettingError, match="SAVE="):
        baseline.load(tmp_path / "none.json")


def test_reports_show_every_side_and_plots_are_well_formed(tmp_path: Path) -> None:
    sides = [Side(name, "http://x", summed(many()), many()) for name in ("one & two", "other")]
    (verdict,) = thresholds.judge([Threshold("TTFT_P90_S", 0.1)], summed(many()))
    report = Report("Load test", {"load": "<5>"}, sides, None, [("other", verdict)], ["A note."])
    write(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    html = (tmp_path / "report.html").read_text()
    for said in ("A note.", "other: TTFT_P90_S: 900.0 ms, at most 100.0 ms: MISSED", "one & two ÷ other"):
        assert said in text
    assert "one &amp; two ÷ other" in html
    assert "&lt;5&gt;" in html
    assert "<script" not in html
    names = set(pictures(report))
    assert names == {"ttft", "ttft-course", "itl", "cached-course", "under-way", "replicas"}
    for name in names:
        assert f"({name}.svg)" in text
        ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())
    head, rows = table(report)
    assert len(printed(head, rows)) == len(rows) + 2
