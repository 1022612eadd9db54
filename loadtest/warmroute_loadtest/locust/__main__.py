"""`python -m warmroute_loadtest.locust NAME=VALUE …` is `make loadtest`: it reads settings, runs, ends with a status.

Exit status: 0; 1 where a threshold was missed, nothing was answered or a run broke; 2 where a setting is wrong or a
router cannot be tested; 130 when interrupted before there was anything to report.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from warmroute_loadtest.demo.children import DemoError
from warmroute_loadtest.locust.launch import RunError, run
from warmroute_loadtest.locust.settings import Settings, manual, parse
from warmroute_loadtest.locust.thresholds import SettingError
from warmroute_loadtest.locust.wire import WireError
from warmroute_loadtest.simulate.traces import TraceError


def _say(line: str) -> None:
    print(line, flush=True)


async def _run(settings: Settings) -> int:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await run(settings, _say)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a load test, and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "HELP=1" in words or "--help" in words:
        _say(manual())
        return 0
    try:
        return asyncio.run(_run(parse(words)))
    except (SettingError, WireError, TraceError) as error:
        sys.stderr.write(f"loadtest: {error}\n")
        return 2
    except (DemoError, RunError, OSError) as error:
        sys.stderr.write(f"loadtest: {error}\n")
        return 1
    except asyncio.CancelledError:
        sys.stderr.write("loadtest: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
