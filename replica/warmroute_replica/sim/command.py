"""`warmroute-replica sim` runs one or more simulated replicas in one process.

This module decides nothing but the command line's defaults, which are those of the configuration classes.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import uvloop

from warmroute_replica.sim.engine_config import EngineConfig, SchedulingPolicy
from warmroute_replica.sim.errors import ApiError
from warmroute_replica.sim.faults import parse_fault
from warmroute_replica.sim.lifecycle import MAX_RANKS
from warmroute_replica.sim.server import ReplicaServer
from warmroute_replica.sim.simulated_replica import ReplicaConfig
from warmroute_replica.sim.step_time import StepTime


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults where there are any and the text does not say them itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.help or ""
        told = "(default:" in said or any(action.default is one for one in (None, "", False))
        return action.help if told else super()._get_help_string(action)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "sim",
        help="simulated vLLM replicas",
        description="Simulated vLLM replicas: vLLM's cache, scheduling, APIs, metrics and failures, without a model.",
        formatter_class=_Help,
    )
    add = parser.add_argument
    replica, engine, times = ReplicaConfig(), EngineConfig(), StepTime()
    add(
        "--port",
        type=int,
        action="append",
        required=True,
        metavar="P",
        help="repeatable: a replica each; 0 is any",
    )
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--model", action="append", metavar="NAME", help="repeatable: model names served (default: sim)")
    add("--lora", action="append", metavar="NAME", help="repeatable: adapters of the first model")
    add("--cache-tokens", type=int, default=engine.cache_tokens, metavar="N", help="size of the KV cache")
    add("--block-tokens", type=int, default=engine.block_tokens, metavar="N", help="tokens a block")
    add(
        "--max-model-len",
        type=int,
        default=replica.max_model_len,
        metavar="N",
        help="tokens a sequence at most",
    )
    add(
        "--max-num-batched-tokens",
        type=int,
        default=engine.max_num_batched_tokens,
        metavar="N",
        help="tokens a step",
    )
    add(
        "--max-num-seqs", type=int, default=engine.max_num_seqs, metavar="N", help="sequences running at once"
    )
    add(
        "--long-prefill-token-threshold",
        type=int,
        default=engine.long_prefill_token_threshold,
        metavar="N",
        help="tokens of one sequence that a step computes at most while others are there; 0 for no cap",
    )
    add(
        "--long-prefill-token-threshold-adaptive",
        action="store_true",
        help="never cap below the sequence's fair share of a step",
    )
    add(
        "--scheduling-policy",
        choices=[policy.value for policy in SchedulingPolicy],
        default=engine.scheduling_policy.value,
        help="admit by arrival, or by the requests' `priority`, smaller first",
    )
    add(
        "--tier-tokens",
        type=int,
        default=engine.tier_tokens,
        metavar="N",
        help="size of a tier below the GPU, to which evicted blocks fall; 0 for none",
    )
    add(
        "--tier-tokens-per-s",
        type=float,
        default=200_000.0,
        metavar="R",
        help="tokens a second that are loaded from there, before --speed (default %(default)s)",
    )
    add("--max-waiting", type=int, metavar="N", help="sequences queued at most, then 503 (default: no limit)")
    add(
        "--prefill-tokens-per-s",
        type=float,
        default=times.prefill_tokens_per_s,
        metavar="R",
        help="prefill rate",
    )
    add(
        "--decode-step-ms", type=float, default=times.decode_step_s * 1000, metavar="MS", help="shortest step"
    )
    add(
        "--base-ms",
        type=float,
        default=times.base_s * 1000,
        metavar="MS",
        help="part of a step that nothing hides",
    )
    add(
        "--attention-context-tokens",
        type=float,
        default=times.attention_context_tokens,
        metavar="N",
        help="context at which attention doubles a prefilled token's cost; 0 for none",
    )
    add(
        "--speed", type=float, default=times.speed, metavar="F", help="times faster than the modelled machine"
    )
    add(
        "--blend-separator",
        default=replica.blend_separator,
        metavar="TEXT",
        help="reuse prompts' chunks, which this text sets apart, wherever they stand, as CacheBlend does (default: no)",
    )
    add(
        "--blend-chunk-tokens",
        type=int,
        default=replica.blend_chunk_tokens,
        metavar="N",
        help="tokens that a chunk has at least",
    )
    add(
        "--blend-recompute-ratio",
        type=float,
        default=engine.recompute_ratio,
        metavar="R",
        help="share of a known chunk that is computed all the same",
    )
    add(
        "--blend-store-tokens",
        type=int,
        metavar="N",
        help="tokens of chunks that are kept, in memory of their own (default: as many as the KV cache holds)",
    )
    add("--api-key", metavar="KEY", help="key that calls below /v1 must carry (default: none)")
    add(
        "--sse-keep-alive-interval",
        type=float,
        default=replica.keep_alive_s,
        metavar="S",
        help="seconds of silence after which a stream gets a comment; 0 for none",
    )
    add("--compress", choices=("gzip", "deflate"), help="coding of all answers (default: none)")
    add(
        "--lora-resolver",
        metavar="PREFIX",
        help="adapters whose names begin so are found when first asked for (default: none)",
    )
    add(
        "--ranks",
        type=int,
        default=replica.ranks,
        metavar="N",
        help="data-parallel engines behind each port, each with a cache of its own",
    )
    add(
        "--shutdown-timeout",
        type=float,
        default=replica.shutdown_s,
        metavar="S",
        help="after SIGTERM, seconds for what is under way, while new requests get vLLM's 500",
    )
    add("--pause-refuses", action="store_true", help="503 while paused, as vLLM 0.33, instead of waiting")
    add(
        "--fault",
        action="append",
        metavar="JSON",
        help="repeatable: a failure from the start, as POST /sim/fault takes it (default: none)",
    )
    add("--seed", type=int, default=replica.seed, metavar="N", help="another seed, other answers")


def _check_fault(text: str) -> None:
    """Check that the text is a fault as `POST /sim/fault` takes it.

    Raises:
        ValueError: The text is no fault.
    """
    try:
        parse_fault(msgspec.json.decode(text))
    except (msgspec.DecodeError, ApiError) as error:
        message = error.message if isinstance(error, ApiError) else error
        raise ValueError(f"--fault {text}: {message}") from error


def _store_tokens(args: argparse.Namespace) -> int:
    """Return how many tokens of chunks are kept; 0 where prefixes alone are reused."""
    if not args.blend_separator:
        return 0
    return args.cache_tokens if args.blend_store_tokens is None else int(args.blend_store_tokens)


def config_of(args: argparse.Namespace) -> ReplicaConfig:
    """Return the configuration that parsed arguments describe.

    Raises:
        ValueError: The arguments contradict each other.
    """
    step_time = StepTime(
        prefill_tokens_per_s=args.prefill_tokens_per_s,
        decode_step_s=args.decode_step_ms / 1000,
        base_s=args.base_ms / 1000,
        attention_context_tokens=args.attention_context_tokens,
        speed=args.speed,
    )
    if not 1 <= args.ranks <= MAX_RANKS:
        raise ValueError(f"--ranks must be from 1 to {MAX_RANKS}, not {args.ranks}")
    for text in args.fault or ():
        _check_fault(text)
    engine = EngineConfig(
        cache_tokens=args.cache_tokens,
        block_tokens=args.block_tokens,
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_num_seqs=args.max_num_seqs,
        long_prefill_token_threshold=args.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=args.long_prefill_token_threshold_adaptive,
        scheduling_policy=SchedulingPolicy(args.scheduling_policy),
        step_time=step_time,
        tier_tokens=args.tier_tokens,
        tier_token_s=1.0 / args.tier_tokens_per_s,
        chunk_store_tokens=_store_tokens(args),
        recompute_ratio=args.blend_recompute_ratio,
    )
    return ReplicaConfig(
        models=tuple(args.model or ReplicaConfig().models),
        loras=tuple(args.lora or ()),
        engine=engine,
        max_waiting=args.max_waiting,
        max_model_len=args.max_model_len,
        seed=args.seed,
        api_key=args.api_key,
        keep_alive_s=args.sse_keep_alive_interval,
        compress=args.compress,
        lora_resolver=args.lora_resolver,
        pause_refuses=args.pause_refuses,
        ranks=args.ranks,
        blend_separator=args.blend_separator,
        blend_chunk_tokens=args.blend_chunk_tokens,
        shutdown_s=args.shutdown_timeout,
        faults=tuple(args.fault or ()),
    )


@asynccontextmanager
async def serving(
    config: ReplicaConfig, ports: Sequence[int], host: str = "127.0.0.1"
) -> AsyncIterator[list[ReplicaServer]]:
    """Yield replicas that listen while the context is open, one on each port, all with the same configuration."""
    servers = [ReplicaServer(config, host, port) for port in ports]
    opened: list[ReplicaServer] = []
    try:
        for server in servers:
            await server.open()
            opened.append(server)
        siblings = {server.port: server for server in servers}
        for server in servers:
            server.siblings = siblings
        yield servers
    finally:
        for server in opened:
            await server.close()


async def _serve(config: ReplicaConfig, ports: Sequence[int], host: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(config, ports, host) as servers:
        sys.stdout.write("".join(f"replica ready on {server.url}\n" for server in servers))
        sys.stdout.flush()
        await stop.wait()
        if config.shutdown_s > 0.0:
            await _drain(servers, config.shutdown_s)


async def _drain(servers: Sequence[ReplicaServer], shutdown_s: float) -> None:
    for server in servers:
        server.replica.draining = True
    try:
        async with asyncio.timeout(shutdown_s):
            await asyncio.gather(*[server.replica.wait_idle() for server in servers])
    except TimeoutError:
        pass


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status: 2 for a wrong argument, 1 for a port that is taken."""
    try:
        config = config_of(args)
    except ValueError as error:
        sys.stderr.write(f"warmroute-replica sim: {error}\n")
        return 2
    try:
        uvloop.run(_serve(config, args.port, args.host))
    except OSError as error:
        sys.stderr.write(f"warmroute-replica sim: {error}\n")
        return 1
    return 0
