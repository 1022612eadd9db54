"""Three Redis servers as one Cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.redis_server import RedisServer, ensure_redis

_SETTINGS = (
    "--cluster-enabled",
    "yes",
    # Without full coverage, the rest of a Cluster serves on when one node is gone.
    "--cluster-require-full-coverage",
    "no",
    "--cluster-node-timeout",
    "1000",
)
_READY_S = 60.0


@contextmanager
def redis_cluster() -> Iterator[list[RedisServer]]:
    """The servers, each of which keeps a third of the slots."""
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(*_SETTINGS)) for _ in range(3)]
        nodes = [f"127.0.0.1:{server.port}" for server in servers]
        command = [ensure_redis("redis-cli"), "--cluster", "create", *nodes, "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=_READY_S)
        deadline_s = time.monotonic() + _READY_S
        while not all(b"cluster_state:ok" in server.command("CLUSTER", "INFO") for server in servers):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield servers
