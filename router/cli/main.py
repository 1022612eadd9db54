"""Entry point of `warmroute`: picks the command, and turns a wrong setting into one line and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from router.cli import config, metrics, serve
from router.config.errors import ConfigError
from router.telemetry.build import version


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except ConfigError as error:
        print(f"warmroute: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warmroute",
        description="Sends each LLM request to the vLLM replica that already holds its prompt's prefix.",
    )
    parser.add_argument("--version", action="version", version=f"warmroute {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (serve, config, metrics):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
