"""The web interface shows a tab besides locust's own: a row a scenario, the report so far, and the samples.

This module decides which columns there are. The tab is read every 2 s and costs nothing that grows with the run; the
report is made from all samples when somebody opens it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Response, request

from warmroute_loadtest.locust.figures import figures
from warmroute_loadtest.locust.recorder import Live
from warmroute_loadtest.locust.report import Report, Side, page
from warmroute_loadtest.locust.samples import NAMES, to_row

if TYPE_CHECKING:
    from warmroute_loadtest.locust.locustfile import Run

TAB = "llm"
COLUMNS = (
    ("name", "Scenario"),
    ("requests", "# Requests"),
    ("failed", "# Fails"),
    ("ttft_p50", "TTFT 50%ile (ms)"),
    ("ttft_p90", "TTFT 90%ile (ms)"),
    ("ttft_p99", "TTFT 99%ile (ms)"),
    ("itl_p50", "Inter-token 50%ile (ms)"),
    ("e2e_p90", "End to end 90%ile (ms)"),
    ("cached", "Cached tokens (%)"),
    ("goodput", "In time (%)"),
)


def extend(environment: Any, current: Callable[[], Run | None]) -> None:
    """Add the tab and the downloads to locust's web interface."""
    web = environment.web_ui
    structure = [{"key": key, "title": title} for key, title in COLUMNS]
    web.template_args |= {
        "extended_tabs": [{"title": "LLM", "key": TAB}],
        "extended_tables": [{"key": TAB, "structure": structure}],
        "extended_csv_files": [
            {"href": "loadtest/report", "title": "Report: TTFT, inter-token latency, cached tokens (HTML)"},
            {"href": "loadtest/samples.csv", "title": "Every request (CSV)"},
        ],
    }

    @web.app.after_request
    def add_rows(response: Response) -> Response:
        run = current()
        if request.path.endswith("/stats/requests") and response.json is not None and run is not None:
            extended = [{"key": TAB, "data": rows(run.recorder.rows)}]
            response.set_data(json.dumps({**response.json, "extended_stats": extended}))
        return response

    @web.app.route("/loadtest/report")
    @web.auth_required_if_enabled
    def report() -> Response:
        run = current()
        if run is None or not run.recorder.samples:
            return Response("Nothing has been answered so far.", status=404)
        options = run.options
        done = figures(
            run.recorder.samples,
            run.recorder.generators,
            ttft_target_s=options.goodput_ttft_s,
            itl_target_s=options.goodput_itl_s or None,
        )
        facts = {
            "router": str(environment.host),
            "in time": f"first token within {options.goodput_ttft_s:g} s",
        }
        side = Side("router", str(environment.host), done, run.recorder.samples)
        return Response(page(Report("Load test", facts, [side])), content_type="text/html; charset=utf-8")

    @web.app.route("/loadtest/samples.csv")
    @web.auth_required_if_enabled
    def samples_csv() -> Response:
        run = current()
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(NAMES)
        table.writerows(to_row(sample) for sample in (run.recorder.samples if run is not None else ()))
        return Response(text.getvalue(), content_type="text/csv; charset=utf-8")


def rows(live: dict[str, Live]) -> list[dict[str, Any]]:
    """Return the tab's rows, the total first."""
    return [_row(name, each) for name, each in live.items()]


def _row(name: str, live: Live) -> dict[str, Any]:
    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 1)

    return {
        "name": name,
        "requests": live.requests,
        "failed": live.failed,
        "ttft_p50": ms(live.ttft.percentile(0.5)),
        "ttft_p90": ms(live.ttft.percentile(0.9)),
        "ttft_p99": ms(live.ttft.percentile(0.99)),
        "itl_p50": ms(live.itl.percentile(0.5)),
        "e2e_p90": ms(live.e2e.percentile(0.9)),
        "cached": None if live.cached_ratio is None else round(live.cached_ratio * 100, 1),
        "goodput": round(live.in_time / live.requests * 100, 1) if live.requests else None,
    }
