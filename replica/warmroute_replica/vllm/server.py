"""This module runs one vLLM server on this machine: it starts it, asks whether it is healthy, and ends all of it.

What runs is written down in the cache's `run`, one file a replica, so that another command can list and stop it, and
a later fleet can end what a killed program left behind. This module decides nothing about routing.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from warmroute_replica.ports import free_ports
from warmroute_replica.vllm.environment import clean_environment
from warmroute_replica.vllm.install import cache_dir
from warmroute_replica.vllm.model import Model
from warmroute_replica.vllm.processes import Process, end_session, kill_session

HOST = "127.0.0.1"


class LaunchError(Exception):
    """A replica did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options by which each replica of a fleet serves."""

    served_name: str = "tiny"
    """Model name that clients use."""
    kv_bytes: str = "256M"
    """Size of the KV cache, as vLLM writes it. With `16M` and `max_model_len` 4096 the pool is 256 blocks."""
    max_model_len: int = 16384
    """Longest prompt and answer together, in tokens."""
    block_size: int = 32
    """Tokens a block; vLLM's CPU attention takes multiples of 32 only."""
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 2048
    long_prefill_token_threshold: int = 0
    """Number of tokens of one prompt that a step computes at most while other requests are there; 0, vLLM's default,
    sets no cap."""
    long_prefill_token_threshold_adaptive: bool = False
    """Whether that cap is never below a fair share of the step."""
    scheduling_policy: str = "fcfs"
    """With `priority`, waiting requests are admitted by their `priority`, the smaller first; `fcfs` admits by
    arrival."""
    threads: int = 1
    """Number of OpenMP threads of each replica."""
    shutdown_timeout_s: int = 0
    """Seconds that a replica takes to finish requests after SIGTERM; 0 aborts them."""
    kv_events: bool = False
    """Whether replicas publish KV events; vLLM tells at `/kv_event_sources` where."""
    dev_mode: bool = False
    """Whether replicas serve vLLM's development endpoints, such as `/reset_prefix_cache`."""
    extra: tuple[str, ...] = ()
    """Further arguments for `vllm serve`."""


def run_dir() -> Path:
    """Return the directory of the replicas' state files and logs."""
    return cache_dir() / "run"


class Replica:
    """One vLLM server on 127.0.0.1, to be started, stopped, killed and started again on the same port."""

    def __init__(
        self, venv: Path, model: Model, options: Options, *, port: int | None = None, detached: bool = False
    ) -> None:
        self.port = free_ports(1)[0] if port is None else port
        self.url = f"http://{HOST}:{self.port}"
        self._venv = venv
        self._model = model
        self._options = options
        self._detached = detached
        self._popen: subprocess.Popen[bytes] | None = None
        self._leader: Process | None = None
        self._state_file = run_dir() / f"replica-{self.port}.json"
        self.log_file = run_dir() / f"replica-{self.port}.log"

    def start(self) -> None:
        """Start the server's processes, and return before the server is healthy."""
        if self.is_running():
            return
        if _port_answers(self.port):
            raise LaunchError(f"port {self.port} is in use")
        run_dir().mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            self._popen = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                # The command names models by their place in this directory, and /v1/models shows that name to clients.
                cwd=self._model.path.parent,
                start_new_session=True,
            )
        self._leader = Process.of(self._popen.pid)
        if self._leader is None:
            raise LaunchError(f"vLLM died at once:\n{self.log_tail()}")
        owner = None if self._detached else Process.of(os.getpid())
        state = {
            "port": self.port,
            "leader": [self._leader.pid, self._leader.start_ticks],
            "owner": None if owner is None else [owner.pid, owner.start_ticks],
        }
        self._state_file.write_text(json.dumps(state))

    def is_running(self) -> bool:
        """Return whether the API server's process is alive, healthy or not."""
        return self._leader is not None and self._leader.is_alive()

    def warm_up(self) -> None:
        """Send the first request, which also proves that the engine answers; this takes two minutes at most."""
        fields = {
            "model": self._options.served_name,
            "prompt": "warm up",
            "max_tokens": 2,
            "temperature": 1.0,
        }
        connection = http.client.HTTPConnection(HOST, self.port, timeout=120.0)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(fields), headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise LaunchError(f"vLLM on port {self.port}: no answer to the first request: {error}") from error
        finally:
            connection.close()
        if status != 200:
            raise LaunchError(
                f"vLLM on port {self.port} answers {status} to the first request:\n{self.log_tail()}"
            )

    def processes(self) -> list[Process]:
        """Return every process of the replica: API server, EngineCore, Worker."""
        return [] if self._leader is None else self._leader.session()

    def is_healthy(self) -> bool:
        """Return whether `/health` answers 200 at this moment."""
        return is_healthy(self.port)

    def wait_healthy(self, timeout_s: float = 300.0) -> None:
        """Wait until `/health` answers 200.

        Raises:
            LaunchError: The process died, or time is up.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self.is_healthy():
            if not self.is_running():
                raise LaunchError(f"vLLM on port {self.port} died:\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                message = f"vLLM on port {self.port} is not healthy after {timeout_s:.0f} s"
                raise LaunchError(f"{message}:\n{self.log_tail()}")
            time.sleep(0.3)

    def begin_stop(self) -> None:
        """Send SIGTERM without waiting for the end; `stop` waits. Several replicas end sooner if all are told first."""
        if self._leader is not None:
            self._leader.signal(signal.SIGTERM)

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL to processes that are left, and return when every process is gone; may be called
        again."""
        if self._leader is not None:
            end_session(self._leader, grace_s=self._options.shutdown_timeout_s + 10.0)
        self._forget()
        if not self._detached:
            self.log_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Send SIGKILL to the API server and the processes that it leaves behind, as when a machine dies. The replica
        may be started again."""
        if self._leader is not None:
            kill_session(self._leader)
        self._forget()

    def log_tail(self) -> str:
        """Return the last lines that the server logged."""
        try:
            return self.log_file.read_text(errors="replace")[-3000:]
        except OSError:
            return ""

    def _forget(self) -> None:
        self._state_file.unlink(missing_ok=True)
        if self._popen is not None:
            self._popen.wait()
        self._popen = self._leader = None

    def _command(self) -> list[str]:
        options = self._options
        command = [str(self._venv / "bin" / "vllm"), "serve", self._model.path.name]
        command += ["--served-model-name", options.served_name, "--host", HOST, "--port", str(self.port)]
        command += [
            "--max-model-len",
            str(options.max_model_len),
            "--max-num-seqs",
            str(options.max_num_seqs),
        ]
        command += ["--max-num-batched-tokens", str(options.max_num_batched_tokens)]
        command += ["--scheduling-policy", options.scheduling_policy]
        if options.long_prefill_token_threshold:
            command += ["--long-prefill-token-threshold", str(options.long_prefill_token_threshold)]
        if options.long_prefill_token_threshold_adaptive:
            command.append("--long-prefill-token-threshold-adaptive")
        command += ["--block-size", str(options.block_size), "--kv-cache-memory-bytes", options.kv_bytes]
        command += ["--shutdown-timeout", str(options.shutdown_timeout_s), "--enforce-eager"]
        command += ["--enable-prefix-caching", "--prefix-caching-hash-algo", "sha256_cbor"]
        command += ["--enable-prompt-tokens-details", "--enable-request-id-headers"]
        command += ["--enable-server-load-tracking", "--enable-auto-tool-choice"]
        command += ["--tool-call-parser", "hermes"]
        if self._model.lora:
            command += ["--enable-lora", "--max-lora-rank", "8", "--max-loras", str(len(self._model.lora))]
            command += [
                "--lora-modules",
                *(f"{name}={self._relative(path)}" for name, path in self._model.lora),
            ]
        if options.kv_events:
            published, replayed = free_ports(2)
            events = {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                # vLLM binds an endpoint only if it has '*' or '::' in it, and connects to any other. The
                # IPv4-mapped form is bound, and to 127.0.0.1 alone.
                "endpoint": f"tcp://[::ffff:{HOST}]:{published}",
                "replay_endpoint": f"tcp://{HOST}:{replayed}",
                "topic": f"kv@{HOST}:{self.port}@{options.served_name}",
            }
            command += ["--kv-events-config", json.dumps(events)]
        return [*command, *options.extra]

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._model.path.parent)

    def _environment(self) -> dict[str, str]:
        environment = clean_environment()
        environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
        environment.update(
            PATH=f"{self._venv / 'bin'}:{environment.get('PATH', os.defpath)}",
            HF_HUB_OFFLINE="1",
            TRANSFORMERS_OFFLINE="1",
            VLLM_NO_USAGE_STATS="1",
            DO_NOT_TRACK="1",
            OMP_NUM_THREADS=str(self._options.threads),
            # "auto" puts the worker of every replica on the same core.
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_ENABLE_RESPONSES_API_STORE="1",
            VLLM_ALLOW_RUNTIME_LORA_UPDATING="1" if self._model.lora else "0",
            VLLM_SERVER_DEV_MODE="1" if self._options.dev_mode else "0",
            # The first request for logprobs compiles for 13 to 27 s; kept for the next start.
            TORCHINDUCTOR_CACHE_DIR=str(cache_dir() / "inductor-cache"),
            VLLM_CACHE_ROOT=str(cache_dir() / "vllm-cache"),
            VLLM_CONFIG_ROOT=str(cache_dir() / "vllm-config"),
        )
        return environment


@dataclass(frozen=True, slots=True)
class Recorded:
    """A replica as its state file describes it."""

    file: Path
    port: int
    leader: Process
    owner: Process | None
    """The program that has to end the replica; None if the replica was started to stay."""

    def is_orphan(self) -> bool:
        """Return whether the program that should have ended the replica is gone."""
        return self.owner is not None and not self.owner.is_alive()

    def stop(self) -> None:
        """End every process of the replica, and delete its state file and log."""
        end_session(self.leader, grace_s=10.0)
        self.file.unlink(missing_ok=True)
        self.file.with_suffix(".log").unlink(missing_ok=True)


def recorded_replicas() -> list[Recorded]:
    """Return every replica that some program on this machine started with this cache and did not stop."""
    found = []
    for file in sorted(run_dir().glob("replica-*.json")):
        try:
            state = json.loads(file.read_text())
            owner = None if state["owner"] is None else Process(*state["owner"])
            found.append(Recorded(file, state["port"], Process(*state["leader"]), owner))
        except (OSError, ValueError, KeyError, TypeError):
            # Another program is writing or removing the file at this moment.
            continue
    return found


def is_healthy(port: int) -> bool:
    """Return whether `/health` on this port answers 200 within two seconds."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _port_answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
