"""Prints every route of the vLLM that is installed, with all that can be switched on: run by that environment's Python.

JSON rows of methods and path; a WebSocket's method is `WEBSOCKET`. Starts no engine.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.update(VLLM_SERVER_DEV_MODE="1", VLLM_ALLOW_RUNTIME_LORA_UPDATING="1", VLLM_LOGGING_LEVEL="ERROR")

from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.tasks import GENERATION_TASKS, POOLING_TASKS
from vllm.utils.argparse_utils import FlexibleArgumentParser


class AnyModel:
    """A model that can do everything, as far as routes depend on it."""

    def __getattr__(self, name: str) -> Any:
        return None

    def get_pooling_task(self, tasks: Any) -> str:
        return "embed"


def main() -> None:
    """Print."""
    flags = ["--enable-tokenizer-info-endpoint", "--enable-scale-out"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    args.enable_fault_tolerance = True
    app = build_app(args, (*GENERATION_TASKS, *POOLING_TASKS), AnyModel())
    rows = [
        [sorted(route.methods) if getattr(route, "methods", None) else ["WEBSOCKET"], route.path]
        for route in app.routes
        if getattr(route, "methods", None) or "WebSocket" in type(route).__name__
    ]
    print(json.dumps(rows))


main()
