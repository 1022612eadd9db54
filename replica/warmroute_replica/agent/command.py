"""This module reads the arguments of `warmroute-replica agent` and `warmroute-replica serve`, and runs the agent.

It decides nothing but messages: `settings` decides an agent's settings, and `engine_command` an engine's flags.
"""

from __future__ import annotations

import argparse
import logging
import sys

from warmroute_replica.agent.engine_command import EngineCommand, routing_flags
from warmroute_replica.agent.logs import fields, set_up
from warmroute_replica.agent.settings import SettingsError, add_arguments, read

log = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommands `agent` and `serve`."""
    agent = subparsers.add_parser(
        "agent",
        help="tell routers of an engine that runs beside it",
        description="Tells routers, through Redis, of an engine that runs beside it: that it is there, how it is, and "
        "when it leaves. Every flag can be an environment variable: --drain-grace is WARMROUTE_AGENT_DRAIN_GRACE.",
    )
    add_arguments(agent)
    serve = subparsers.add_parser(
        "serve",
        help="start an engine, and tell routers of it",
        description="Starts an engine with the flags that routing wants, and is its agent: "
        "warmroute-replica serve --redis redis://HOST -- vllm serve MODEL. Every flag can be an environment variable: "
        "--drain-grace is WARMROUTE_AGENT_DRAIN_GRACE.",
        usage="warmroute-replica serve [flags] -- vllm serve MODEL [vLLM's flags]",
    )
    add_arguments(serve)
    serve.add_argument("--as-is", action="store_true", help="add no flags to the engine's command")
    serve.add_argument(
        "--kv-events",
        action="store_true",
        help="have the engine publish what it caches, in token ids, to anybody",
    )
    serve.add_argument("engine_command", nargs=argparse.REMAINDER, help="the engine's command")


def run(args: argparse.Namespace) -> int:
    """Run the agent until it ends, and return the exit status."""
    set_up()
    try:
        return _agent(args) if args.command == "agent" else _serve(args)
    except SettingsError as error:
        sys.stderr.write(f"warmroute-replica {args.command}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _agent(args: argparse.Namespace) -> int:
    from warmroute_replica.agent import (
        running,  # imported late, since other commands of warmroute-replica need no Redis client
    )

    return running.run(read(args))


def _serve(args: argparse.Namespace) -> int:
    words = args.engine_command[1:] if args.engine_command[:1] == ["--"] else args.engine_command
    if not words:
        raise SettingsError("no engine: say its command after --, as in: … -- vllm serve MODEL")
    command = EngineCommand(words)
    settings = read(args, engine=command.url(), engine_api_key=command.value("--api-key"))
    if not args.as_is:
        flags = routing_flags(command, settings.drain_grace_s, kv_events=args.kv_events)
        log.info(
            "engine_flags",
            extra=fields(added=" ".join(flags.added) or "none", **_left_out(flags.own, flags.unknown)),
        )
        words = [*words, *flags.added]
    from warmroute_replica.agent import running

    return running.run(settings, words)


def _left_out(own: list[str], unknown: list[str]) -> dict[str, str]:
    left: dict[str, str] = {}
    if own:
        left["set_by_you"] = " ".join(own)
    if unknown:
        left["unknown_to_the_engine"] = " ".join(unknown)
    return left
