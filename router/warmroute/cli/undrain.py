"""`warmroute undrain REPLICA`: the end of `warmroute drain`."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from warmroute.cli.admin import add_admin_flag, ask, routers_of
from warmroute.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "undrain",
        help="end a drain",
        description="Have running routers use a replica again that `warmroute drain` took out of use.",
    )
    parser.add_argument("replica", metavar="REPLICA", help="its id, as `warmroute replicas` shows it")
    add_admin_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0; an unknown replica raises."""
    for router in routers_of(arguments):
        ask(router, "POST", f"/replicas/{quote(arguments.replica, safe='')}/undrain")
        print(f"{arguments.replica} is used again at {router}")
    return 0
