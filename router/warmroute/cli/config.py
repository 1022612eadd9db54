"""`warmroute config`: check the configuration and print what is in effect, or the manual of every setting."""

from __future__ import annotations

import argparse

from warmroute.cli.options import Commands, add_flags, load_from
from warmroute.config.reference import effective, markdown


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "config", help="check and print settings", description="Check the settings and print those in effect."
    )
    parser.add_argument(
        "--reference", action="store_true", help="print the manual of every setting, as markdown"
    )
    parser.add_argument("--check", action="store_true", help="print nothing unless something is wrong")
    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0; a configuration that cannot be served with raises."""
    if arguments.reference:
        print(markdown(), end="")
        return 0
    settings = effective(load_from(arguments))
    if not arguments.check:
        print(settings, end="")
    return 0
