"""`warmroute metrics`: print the catalogue of every metric, as markdown."""

from __future__ import annotations

import argparse

from warmroute.cli.options import Commands
from warmroute.telemetry.metrics_page import markdown


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "metrics", help="list every metric", description="List every metric, as markdown."
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0."""
    print(markdown(), end="")
    return 0
