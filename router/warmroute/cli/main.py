"""Entry point of `warmroute`: picks the command, and turns wrong settings into a line each and exit status 2.

Commands that stand above the router (`simulate` drives its core and the simulated engine) join by the entry point
group `warmroute.commands`: a module with `add_parser(commands)`. They are loaded only when named, so that `serve`
stays small.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points

from warmroute.cli import config, drain, keys, metrics, replicas, serve, undrain
from warmroute.config.errors import ConfigError, suggestion
from warmroute.telemetry.build import described

COMMANDS = (serve, config, keys, metrics, replicas, drain, undrain)
COMMANDS_GROUP = "warmroute.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    further = entry_points(group=COMMANDS_GROUP)
    names = [*(command.__name__.rpartition(".")[2] for command in COMMANDS), *further.names]
    if not words or (words[0] not in names and not words[0].startswith("-")):
        _parser(list(further))[0].print_help(sys.stderr)
        unknown = f"no command {words[0]!r}{suggestion(words[0], names)}" if words else "a command is missing"
        print(f"warmroute: error: {unknown}", file=sys.stderr)
        return 2
    wanted = words[0]
    parser, commands = _parser(
        [entry for entry in further if entry.name == wanted or wanted in ("-h", "--help")]
    )
    arguments, strange = parser.parse_known_args(words)
    if strange:
        # By the command's own parser, whose usage has its flags.
        command = commands.get(wanted, parser)
        flags = re.findall(r"--[a-z][a-z-]*", command.format_help())
        command.error(f"unrecognized arguments: {' '.join(strange)}{_meant(strange[0], flags)}")
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except ConfigError as error:
        for line in error.messages:
            print(f"warmroute: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        sys.stderr.close()
        return 1


def _meant(word: str, flags: Iterable[str]) -> str:
    """Which flag an unknown word may have been meant for."""
    if "://" in word:
        return f"; did you mean '--replica {word}'?" if "--replica" in flags else ""
    near = suggestion(word.partition("=")[0], flags) if word.startswith("--") else ""
    return near if "did you mean" in near else ""


def _parser(
    further: Iterable[EntryPoint],
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the router's own commands and of these, and that of each command by its name."""
    parser = argparse.ArgumentParser(
        prog="warmroute",
        description="Sends each LLM request to the vLLM replica that already holds its prompt's prefix.",
    )
    parser.add_argument("--version", action="version", version=f"warmroute {described()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    for entry in further:
        entry.load().add_parser(commands)
    return parser, dict(commands.choices)


if __name__ == "__main__":
    sys.exit(main())
