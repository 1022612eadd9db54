"""`warmroute config`: check the configuration and print what is in effect, or the manual of every setting.

What files and URLs hold shows only when they are loaded, so a router is built of the settings, as `serve` does; it
opens nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses

from warmroute.cli.options import Commands, add_flags, load_from
from warmroute.config.reference import effective, markdown
from warmroute.config.schema import Config


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
    config = load_from(arguments)
    asyncio.run(_build(config))
    if not arguments.check:
        print(effective(config), end="")
    return 0


async def _build(config: Config) -> None:
    """Raises:
    ConfigError: A certificate, a Redis URL or a package that they name is none.
    """
    # Here, so that wrong settings are reported before the server's libraries are loaded.
    from warmroute.app import Worker

    # Whose credentials are the cluster's, which need not be known where settings are checked.
    elsewhere = tuple(url for url in config.discovery if not url.startswith("kubernetes:"))
    Worker(dataclasses.replace(config, discovery=elsewhere))
