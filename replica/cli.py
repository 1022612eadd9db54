"""The command `warmroute-replica`: parses arguments and hands over to a subcommand's module.

Decides nothing. Each subcommand module provides `add_parser(subparsers)` and `run(args) -> int`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMAND_MODULES = ("replica.sim.command", "replica.vllm.command")
"""Modules that add subcommands, in the order in which `--help` lists them. One whose extra dependencies are not
installed is left out of the command rather than breaking the others."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; every subcommand's namespace carries `run`, its module's entry point."""
    parser = argparse.ArgumentParser(
        prog="warmroute-replica", description="Replicas for Warmroute to route to."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMAND_MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                continue
            raise
        known = set(subparsers.choices)
        module.add_parser(subparsers)
        for added in set(subparsers.choices) - known:
            subparsers.choices[added].set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    args = build_parser().parse_args(argv)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
