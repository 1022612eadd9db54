"""`warmroute serve`: load the configuration and run the router until a signal ends it; SIGHUP loads it again."""

from __future__ import annotations

import argparse
import os
import signal
from functools import partial

from warmroute.cli.options import Commands, add_flags, load_from
from warmroute.service.listeners import HANDED_OVER, passed


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        help="route traffic",
        description="Route traffic until SIGTERM, then drain. SIGHUP reads the settings again; with several workers,"
        " SIGUSR2 starts the router anew in place.",
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 after a drain, anything else says why on standard error."""
    # Until its handler is there, one that comes early must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    config = load_from(arguments)
    reload = partial(load_from, arguments)
    # Here, so that a wrong setting is reported before the server's libraries are loaded.
    listeners = passed(os.environ, os.getpid())
    if config.workers > 1 or HANDED_OVER in os.environ:
        from warmroute.supervisor import run as supervise

        return supervise(config, reload, listeners)
    from warmroute.running import run as serve

    return serve(config, reload=reload, listeners=listeners)
