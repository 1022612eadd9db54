"""`warmroute replicas`: the fleet as running routers see it, one line a replica."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from warmroute.cli.admin import add_admin_flag, ask, routers_of
from warmroute.cli.options import Commands

COLUMNS = ("ID", "STATE", "IN FLIGHT", "WAITING", "MODELS", "SOURCE", "URL", "LAST FAILURE")


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replicas",
        help="show a running router's replicas",
        description="Show each replica's state and load as a running router sees it.",
    )
    add_admin_flag(parser)
    parser.add_argument("--json", action="store_true", help="all that GET /replicas tells")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0; a router that does not answer raises."""
    for router in routers_of(arguments):
        told = ask(router, "GET", "/replicas")
        if arguments.json:
            print(json.dumps(told, indent=2))
        else:
            print(table([_cells(row) for row in told["replicas"]]))
    return 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows below their headings, each column as wide as its widest cell."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: dict[str, Any]) -> list[str]:
    state = str(row["state"]) + (" (by hand)" if row.get("drained") else "")
    return [
        str(row["id"]),
        state,
        str(row["in_flight"]),
        str(row["waiting"]),
        ",".join(row["models"]) or "-",
        str(row.get("source") or "-"),
        str(row["url"]),
        str(row["last_failure"] or "-"),
    ]
