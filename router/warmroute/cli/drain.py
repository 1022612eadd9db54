"""`warmroute drain REPLICA`: give a replica nothing new, and wait, if wanted, until it has nothing left."""

from __future__ import annotations

import argparse
import sys
import time
from urllib.parse import quote

from warmroute.cli.admin import add_admin_flag, ask, routers_of
from warmroute.cli.options import Commands

POLL_S = 0.25


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "drain",
        help="give a replica nothing new",
        description="Have running routers give a replica nothing new; it finishes what it has. `warmroute undrain` ends"
        " that.",
    )
    parser.add_argument("replica", metavar="REPLICA", help="its id, as `warmroute replicas` shows it")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        help="return once it has nothing in flight; status 1 if that takes longer",
    )
    add_admin_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0; 1 if it is not idle in time. An unknown replica raises."""
    routers = routers_of(arguments)
    for router in routers:
        ask(router, "POST", f"/replicas/{quote(arguments.replica, safe='')}/drain")
        print(f"{arguments.replica} drains at {router}")
    if arguments.wait is None:
        return 0
    until_s = time.monotonic() + arguments.wait
    while (left := sum(in_flight(router, arguments.replica) for router in routers)) > 0:
        if time.monotonic() >= until_s:
            print(
                f"{arguments.replica} has {left} requests in flight after {arguments.wait:g} s",
                file=sys.stderr,
            )
            return 1
        time.sleep(POLL_S)
    print(f"{arguments.replica} has nothing in flight")
    return 0


def in_flight(router: str, replica: str) -> int:
    """Requests that this router, and others of which it hears, have on all ranks of a replica."""
    rows = ask(router, "GET", "/replicas")["replicas"]
    return sum(row["in_flight"] + row["foreign_in_flight"] for row in rows if row["server"] == replica)
