"""The command `warmroute-replica` parses arguments and hands over to a subcommand's module.

This module decides nothing. Each subcommand module provides `add_parser(subparsers)` and `run(args) -> int`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMAND_MODULES = (
    "warmroute_replica.agent.command",
    "warmroute_replica.sim.command",
    "warmroute_replica.vllm.command",
)
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


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the subcommands by name."""
    return {
        name: command
        for action in parser._actions  # noqa: SLF001 - argparse has no public way to them
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for name, command in action.choices.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words or (words[0] not in commands_of(parser) and not words[0].startswith("-")):
        parser.print_help(sys.stderr)
        unknown = f"no command {words[0]!r}" if words else "a command is missing"
        sys.stderr.write(f"warmroute-replica: error: {unknown}\n")
        return 2
    args, strange = parser.parse_known_args(words)
    if strange:
        # By the command's own parser, whose usage has its flags.
        commands_of(parser).get(words[0], parser).error(f"unrecognized arguments: {' '.join(strange)}")
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
