"""The launcher runs several vLLM replicas on this machine: it makes what is missing, starts all at once, ends all.

`warmroute_replica.vllm.server` knows how one replica runs.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from warmroute_replica.ports import free_ports
from warmroute_replica.vllm.install import Progress, ensure_installed
from warmroute_replica.vllm.model import ensure_model
from warmroute_replica.vllm.server import LaunchError, Options, Replica, recorded_replicas

__all__ = ["Fleet", "LaunchError", "Options", "Replica"]


class Fleet:
    """Several replicas of one tiny model. Used as a context manager, a fleet runs for the time of the block.

    Entering the block installs the engine and makes the model where they are missing. Leaving it ends every process,
    also after an error, and so does the interpreter's exit.
    """

    def __init__(
        self,
        count: int,
        progress: Progress,
        *,
        preset: str = "small",
        lora: Sequence[str] = (),
        options: Options | None = None,
        base_port: int | None = None,
        venv: Path | None = None,
        model: Path | None = None,
        detached: bool = False,
        start_timeout_s: float = 300.0,
    ) -> None:
        """Describe a fleet; nothing runs yet.

        Args:
            count: Number of replicas. Each takes 1.6 GB with the defaults; two are healthy after 25 to 40 s.
            progress: Called with one line at a time.
            preset: Size of the model (`tiny_model.PRESETS`).
            lora: Names of LoRA adapters to make and serve.
            options: How each replica serves.
            base_port: First port, the others follow; free ports if absent.
            venv: The engine's environment, if not the default one.
            model: Directory of the model, if not the preset's default one.
            detached: Replicas outlive this process, until `stop_recorded` ends them.
            start_timeout_s: Time within which every replica must be healthy.
        """
        self.count = count
        self.replicas: list[Replica] = []
        self._progress = progress
        self._preset = preset
        self._lora = tuple(lora)
        self._options = options or Options()
        self._base_port = base_port
        self._venv = venv
        self._model = model
        self._detached = detached
        self._start_timeout_s = start_timeout_s

    @property
    def urls(self) -> list[str]:
        """The base URL of each replica."""
        return [replica.url for replica in self.replicas]

    @property
    def model_name(self) -> str:
        """The name under which the model is served."""
        return self._options.served_name

    def start(self) -> None:
        """Start all replicas in parallel, and return when each is healthy and warmed up.

        Raises:
            LaunchError: A replica did not come up; then none is left running.
            InstallError: The engine or the model could not be made.
        """
        venv = ensure_installed(self._progress, venv=self._venv)
        model = ensure_model(venv, self._progress, out=self._model, preset=self._preset, lora=self._lora)
        for recorded in recorded_replicas():
            if recorded.is_orphan():
                self._progress(f"ending what is left of a replica on port {recorded.port}")
                recorded.stop()
        base = self._base_port
        ports = free_ports(self.count) if base is None else list(range(base, base + self.count))
        self.replicas = [
            Replica(venv, model, self._options, port=port, detached=self._detached) for port in ports
        ]
        if not self._detached:
            atexit.register(self.stop)
        try:
            for replica in self.replicas:
                replica.start()
            self._wait_ready()
        except BaseException:
            self._stop_replicas()
            raise

    def stop(self) -> None:
        """End every process of the fleet; may be called again."""
        atexit.unregister(self.stop)
        self._stop_replicas()

    def __enter__(self) -> Fleet:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _stop_replicas(self) -> None:
        for replica in self.replicas:
            if replica.is_running():
                replica.begin_stop()
        for replica in self.replicas:
            replica.stop()

    def _wait_ready(self) -> None:
        started_s = time.monotonic()
        told_s = started_s
        waiting = list(self.replicas)
        self._progress(f"starting {self.count} vLLM replicas")
        while waiting:
            for replica in list(waiting):
                elapsed_s = time.monotonic() - started_s
                if replica.is_healthy():
                    waiting.remove(replica)
                    self._progress(f"      {replica.url} is healthy after {elapsed_s:.0f} s")
                elif not replica.is_running():
                    raise LaunchError(f"vLLM on port {replica.port} died:\n{replica.log_tail()}")
                elif elapsed_s > self._start_timeout_s:
                    message = f"vLLM on port {replica.port} is not healthy after {elapsed_s:.0f} s"
                    raise LaunchError(f"{message}:\n{replica.log_tail()}")
            if waiting and time.monotonic() - told_s > 10.0:
                told_s = time.monotonic()
                self._progress(
                    f"      {told_s - started_s:.0f} s: {len(waiting)} of {self.count} still loading"
                )
            time.sleep(0.3)
        self._progress("      warming up")
        for replica in self.replicas:
            replica.warm_up()
        self._progress(f"      ready after {time.monotonic() - started_s:.0f} s")
