"""Replica agents as processes of their own: beside a simulated replica, or as its launcher."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from typing import Any, Self

from tests.support.processes import Program, python_command
from tests.support.redis_server import free_port


class AgentProcess(Program):
    """`warmroute-replica agent`, or `serve` with a command; on a free port."""

    def __init__(self, redis_url: str, *arguments: str, command: list[str] | None = None) -> None:
        self.port = free_port()
        words = ["--redis", redis_url, "--listen", f"127.0.0.1:{self.port}", *arguments]
        if command is not None:
            words += ["--", *command]
        super().__init__("warmroute_replica.cli", "agent" if command is None else "serve", *words)

    def ask(self, path: str, *, post: bool = False) -> tuple[int, str]:
        """One request to the agent's own port; status 0 if nobody answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method="POST" if post else "GET"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ready(self) -> bool:
        """Whether its replica is ready."""
        return self.ask("/readyz")[0] == 200

    def wait_ready(self) -> Self:
        """Wait for that."""
        self.wait_until(self.ready)
        return self


class LaunchedSim(AgentProcess):
    """A simulated replica with its launcher."""

    def __init__(
        self, redis_url: str, *sim: str, agent: tuple[str, ...] = (), port: int | None = None
    ) -> None:
        self.engine_port = free_port() if port is None else port
        command = python_command("warmroute_replica.cli", "sim", "--port", str(self.engine_port), *sim)
        super().__init__(redis_url, "--as-is", *agent, command=command)

    @property
    def replica_id(self) -> str:
        """The id that it takes by itself."""
        return f"127.0.0.1:{self.engine_port}"


def rows(router: Any) -> dict[str, dict[str, Any]]:
    """A router's replicas by id."""
    found = json.loads(router.admin("/replicas")[1])["replicas"]
    return {row["id"]: row for row in found}
