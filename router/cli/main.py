"""Entry point of `warmroute`: picks the command, and turns a wrong setting into one line and exit status 2.

Commands that stand above the router (`simulate` drives its core and the simulated engine) join by the entry point
group `warmroute.commands`: a module with `add_parser(commands)`. They are loaded only when named, so that `serve`
stays small.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from router.cli import config, metrics, serve
from router.config.errors import ConfigError
from router.telemetry.build import version

COMMANDS_GROUP = "warmroute.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words[:1]).parse_args(words)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except ConfigError as error:
        print(f"warmroute: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        sys.stderr.close()
        return 1


def _parser(first: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warmroute",
        description="Sends each LLM request to the vLLM replica that already holds its prompt's prefix.",
    )
    parser.add_argument("--version", action="version", version=f"warmroute {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (serve, config, metrics):
        command.add_parser(commands)
    for entry in entry_points(group=COMMANDS_GROUP):
        if entry.name in first or not first or first[0] in ("-h", "--help"):
            entry.load().add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
