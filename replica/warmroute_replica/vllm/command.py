"""`warmroute-replica vllm-install | vllm-model | vllm-start | vllm-stop | vllm-status` handles a local vLLM by hand.

This module turns arguments into calls of `install`, `model` and `launch`, and their errors into exit status 1.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from warmroute_replica.vllm.install import InstallError, default_venv, ensure_installed
from warmroute_replica.vllm.launch import Fleet, LaunchError, Options
from warmroute_replica.vllm.model import default_model, ensure_model
from warmroute_replica.vllm.processes import pss_bytes
from warmroute_replica.vllm.server import is_healthy, recorded_replicas
from warmroute_replica.vllm.tiny_model import PRESETS


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the five commands."""
    defaults = Options()

    install = subparsers.add_parser(
        "vllm-install", help="install vLLM's CPU build (2.5 GB, no CUDA package, safe to repeat)"
    )
    _add_venv(install)
    install.add_argument(
        "--torch-index",
        metavar="URL",
        help="package index with CPU builds of torch, where the usual ones have none (WARMROUTE_TORCH_INDEX)",
    )

    model = subparsers.add_parser(
        "vllm-model", help="make a tiny random-weight model that vLLM loads offline"
    )
    _add_venv(model)
    _add_model(model, "--out")

    start = subparsers.add_parser("vllm-start", help="start vLLM replicas and leave them running")
    _add_venv(start)
    _add_model(start, "--model")
    start.add_argument(
        "-n", "--count", type=int, default=2, help="number of replicas (default 2; 1.6 GB each)"
    )
    start.add_argument(
        "--base-port", type=int, default=18001, help="first port, 0 for any free ones (default 18001)"
    )
    start.add_argument(
        "--foreground", action="store_true", help="stay until SIGTERM or Ctrl-C, then end the replicas"
    )
    start.add_argument("--name", default=defaults.served_name, help="served model name (default tiny)")
    start.add_argument("--kv-bytes", default=defaults.kv_bytes, help="KV cache of each (default 256M)")
    start.add_argument("--max-model-len", type=int, default=defaults.max_model_len, metavar="TOKENS")
    start.add_argument("--block-size", type=int, default=defaults.block_size, metavar="TOKENS")
    start.add_argument(
        "--long-prefill-token-threshold",
        type=int,
        default=defaults.long_prefill_token_threshold,
        metavar="N",
        help="tokens of one prompt that a step computes at most while others are there (default 0: no cap)",
    )
    start.add_argument(
        "--long-prefill-token-threshold-adaptive",
        action="store_true",
        help="never cap below the prompt's fair share of a step",
    )
    start.add_argument(
        "--scheduling-policy",
        choices=["fcfs", "priority"],
        default=defaults.scheduling_policy,
        help="admit by arrival, or by the requests' `priority`, smaller first",
    )
    start.add_argument("--threads", type=int, default=defaults.threads, help="OpenMP threads of each")
    start.add_argument(
        "--shutdown-timeout", type=int, default=0, metavar="S", help="seconds to finish requests on SIGTERM"
    )
    start.add_argument("--kv-events", action="store_true", help="publish KV events")
    start.add_argument("--dev-mode", action="store_true", help="serve /reset_prefix_cache and the like")
    start.add_argument("extra", nargs="*", metavar="ARG", help="after --: more arguments for `vllm serve`")

    stop = subparsers.add_parser(
        "vllm-stop", help="stop what vllm-start started, and what dead programs left"
    )
    stop.add_argument("--all", action="store_true", help="those of running demos and tests too")
    subparsers.add_parser("vllm-status", help="list replicas: port, pid, health, memory")


def run(args: argparse.Namespace) -> int:
    """Run the command that was chosen, and return the exit status."""
    try:
        match args.command:
            case "vllm-install":
                _say(str(ensure_installed(_say, venv=args.venv, torch_index=args.torch_index)))
            case "vllm-model":
                venv = ensure_installed(_say, venv=args.venv)
                model = ensure_model(venv, _say, out=args.model, preset=args.preset, lora=args.lora)
                for path in (model.path, *(path for _, path in model.lora)):
                    _say(str(path))
            case "vllm-start":
                _start(args)
            case "vllm-stop":
                for replica in recorded_replicas():
                    # A demo or a test run that is under way ends its own replicas.
                    if replica.owner is not None and not replica.is_orphan() and not args.all:
                        continue
                    replica.stop()
                    _say(f"stopped http://127.0.0.1:{replica.port}")
            case _:
                _status()
    except (InstallError, LaunchError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _add_venv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--venv",
        type=Path,
        help=f"vLLM's virtual environment (default {_short(default_venv())}; WARMROUTE_CACHE)",
    )


def _add_model(parser: argparse.ArgumentParser, flag: str) -> None:
    default = _short(default_model("PRESET"))
    parser.add_argument(flag, dest="model", type=Path, metavar="DIR", help=f"model (default {default})")
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="its size (default small)")
    parser.add_argument(
        "--lora",
        nargs="+",
        default=[],
        metavar="NAME",
        help="LoRA adapters, made at first use beside the model",
    )


def _start(args: argparse.Namespace) -> None:
    if args.count < 1:
        raise ValueError("-n: at least one replica")
    options = Options(
        served_name=args.name,
        kv_bytes=args.kv_bytes,
        max_model_len=args.max_model_len,
        block_size=args.block_size,
        long_prefill_token_threshold=args.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=args.long_prefill_token_threshold_adaptive,
        scheduling_policy=args.scheduling_policy,
        threads=args.threads,
        shutdown_timeout_s=args.shutdown_timeout,
        kv_events=args.kv_events,
        dev_mode=args.dev_mode,
        extra=tuple(args.extra),
    )
    fleet = Fleet(
        args.count,
        _say,
        preset=args.preset,
        lora=args.lora,
        options=options,
        base_port=args.base_port or None,
        venv=args.venv,
        model=args.model,
        detached=not args.foreground,
    )
    if not args.foreground:
        fleet.start()
        _say_urls(fleet)
        return
    signal.signal(signal.SIGTERM, _exit)
    with fleet:
        _say_urls(fleet)
        while True:
            signal.pause()


def _exit(_signal: int, _frame: FrameType | None) -> None:
    # The signal raises an exception, so that the fleet's processes are ended wherever it strikes.
    sys.exit(0)


def _say_urls(fleet: Fleet) -> None:
    _say(" ".join(f"--replica {url}" for url in fleet.urls))


def _status() -> None:
    for replica in recorded_replicas():
        if not replica.leader.is_alive():
            condition = "gone"
        else:
            condition = "healthy" if is_healthy(replica.port) else "not healthy"
        memory_mib = pss_bytes(replica.leader) / 2**20
        pid = replica.leader.pid
        _say(f"http://127.0.0.1:{replica.port}  pid {pid}  {condition}  {memory_mib:.0f} MiB")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
