"""`warmroute serve`: load the configuration and run the router until a signal ends it."""

from __future__ import annotations

import argparse

from router.cli.options import Commands, add_flags, load_from


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve", help="route traffic", description="Route traffic until SIGTERM, then drain."
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 after a drain, anything else says why on standard error."""
    config = load_from(arguments)
    # Here, so that a wrong setting is reported before the server's libraries are loaded.
    if config.workers > 1:
        from router.supervisor import run as supervise

        return supervise(config)
    from router.app import run as serve

    return serve(config)
