"""The Grafana dashboard as JSON: `python -m deploy.grafana.dashboard > helm/warmroute/files/dashboard.json`.

Decides how panels become Grafana's dashboard format, schema version 39 (Grafana 10.4 and later); what they show is in
`rows_*`. Equal rows give equal text. Checked against Grafana's own types by tests/monitoring.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from deploy.grafana.panels import COUNT, RATIO, Panel, Query, Row
from deploy.grafana.queries import STATES
from deploy.grafana.rows_caching import CACHING, RESPONSES
from deploy.grafana.rows_fleet import HELD, LEARNED, LOAD, REPLICAS
from deploy.grafana.rows_routers import REGISTRY, ROUTERS
from deploy.grafana.rows_savings import SAVINGS
from deploy.grafana.rows_tenants import TENANTS
from deploy.grafana.rows_traffic import CLIENTS, PAYS, WORKING

ROWS = (
    WORKING,
    CLIENTS,
    PAYS,
    LOAD,
    REPLICAS,
    HELD,
    TENANTS,
    SAVINGS,
    CACHING,
    RESPONSES,
    REGISTRY,
    ROUTERS,
    LEARNED,
)
"""In the order in which an operator asks."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
"""Of Grafana's grid."""
ALL = {"selected": True, "text": "All", "value": "$__all"}
DESCRIPTION = (
    "Warmroute: which replica each LLM request goes to, why, and what it brings. Rows are in the order in which an"
    " operator asks; docs/monitoring.md says what each panel and each alert means and what to do."
)


def dashboard() -> dict[str, Any]:
    """The whole."""
    return {
        "annotations": {"list": [_firing()]},
        "description": DESCRIPTION,
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": _laid_out(),
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["warmroute", "llm", "vllm"],
        "templating": {"list": _variables()},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": "Warmroute",
        "uid": "warmroute",
        "version": 1,
    }


def _firing() -> dict[str, Any]:
    """Vertical lines where alerts began."""
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": 'ALERTS{alertname=~"Warmroute.+",alertstate="firing"}',
        "iconColor": "red",
        "name": "Alerts",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}} {{instance}} {{replica}} {{model}}",
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {
            "label": "Prometheus",
            "name": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "type": "datasource",
        },
        _variable("job", "Job", "label_values(warmroute_build_info, job)"),
        _variable("namespace", "Namespace", 'label_values(warmroute_build_info{job=~"$job"}, namespace)'),
        _variable(
            "instance",
            "Router",
            'label_values(warmroute_build_info{job=~"$job",namespace=~"$namespace"}, instance)',
        ),
        _variable(
            "model",
            "Model",
            'label_values(warmroute_model_replicas{job=~"$job",namespace=~"$namespace"}, model)',
        ),
        _variable(
            "replica",
            "Replica",
            'label_values(warmroute_replica_state{job=~"$job",namespace=~"$namespace"}, replica)',
        ),
        {
            "current": {"selected": True, "text": "1", "value": "1"},
            "description": "Multiplies the seconds that a replica is spared: its tensor parallel size.",
            "label": "GPUs of a replica",
            "name": "gpus",
            "query": "1",
            "type": "textbox",
        },
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    """One to choose several values of; all of them is any value, and none: outside Kubernetes there is no namespace."""
    return {
        "allValue": ".*",
        "current": ALL,
        "datasource": DATASOURCE,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 7,
        "type": "query",
    }


def _laid_out() -> list[dict[str, Any]]:
    """Rows below each other; panels from left to right, in lines of the grid."""
    shown: list[dict[str, Any]] = []
    top, number = 0, 0
    for row in ROWS:
        number += 1
        head = _row(row, number, top)
        shown.append(head)
        top += 1
        into = head["panels"] if row.collapsed else shown
        left = tallest = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            into.append({"id": number, "gridPos": place, **_panel(panel)})
            left += panel.width
            tallest = max(tallest, panel.height)
        top += 0 if row.collapsed else tallest
    return shown


def _row(row: Row, number: int, top: int) -> dict[str, Any]:
    return {
        "collapsed": row.collapsed,
        "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
        "id": number,
        "panels": [],
        "title": row.question,
        "type": "row",
    }


def _panel(panel: Panel) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "datasource": DATASOURCE,
        "description": panel.says,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
        "title": panel.title,
        "type": panel.kind,
    }
    if panel.columns:
        drawn["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": _organize(panel)},
        ]
    return drawn


def _target(query: Query, reference: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": "table" if query.instant else "time_series",
        "instant": query.instant,
        "legendFormat": query.legend or "__auto",
        "range": not query.instant,
        "refId": reference,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    colour = "palette-classic" if panel.kind == "timeseries" else "thresholds"
    defaults: dict[str, Any] = {
        "color": {"mode": colour},
        "custom": _custom(panel),
        "mappings": [],
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in panel.steps],
        },
        "unit": panel.unit,
    }
    if panel.kind == "stat":
        del defaults["custom"]
        defaults["noValue"] = "no data"
    if panel.kind == "state-timeline":
        states = {str(code): (name, colour) for code, (name, colour) in enumerate(STATES, 1)}
        named = {
            code: {"color": colour, "index": int(code), "text": name}
            for code, (name, colour) in states.items()
        }
        defaults["mappings"] = [{"type": "value", "options": named}]
    if panel.kind == "timeseries":
        defaults["min"] = 0
        if panel.most is not None:
            defaults["max"] = panel.most
    if panel.unit == COUNT and panel.kind != "timeseries":
        defaults["decimals"] = 0
    if panel.unit == RATIO:
        defaults["decimals"] = 1
    return defaults


def _custom(panel: Panel) -> dict[str, Any]:
    if panel.kind == "table":
        return {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "inspect": False}
    if panel.kind == "state-timeline":
        return {"fillOpacity": 80, "lineWidth": 0}
    return {
        "drawStyle": "line",
        "fillOpacity": 40 if panel.stacked else 8,
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if len(panel.steps) > 1 else "off"},
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Units of a table's columns, by their heading."""
    return [
        {"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "unit", "value": unit}]}
        for _, heading, unit in panel.columns
        if unit
    ]


def _organize(panel: Panel) -> dict[str, Any]:
    shown = [name for name, _, _ in panel.columns]
    values = [f"Value #{chr(ord('A') + index)}" for index in range(len(panel.queries))]
    return {
        "excludeByName": {name: True for name in ["Time", *values] if name not in shown},
        "indexByName": {name: index for index, name in enumerate(shown)},
        "renameByName": {name: heading for name, heading, _ in panel.columns if name != heading},
    }


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value",
        "wideLayout": True,
    },
    "state-timeline": {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {"cellHeight": "sm", "frameIndex": 0, "showHeader": True},
    "timeseries": {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
