"""Real vLLM replicas and a router process in front of them, for tests marked `vllm`.

The router runs as its users run it: a process of its own, started by its command line, stopped by SIGTERM.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.support.processes import python_command

WORDS = (
    "import return class self value index string error module object function default result table python "
    "file name type list number"
).split()


_TOOL_ID = re.compile(rb"chatcmpl-tool-[0-9a-f]+")
_SPOKEN = frozenset(("content", "text", "reasoning", "reasoning_content", "arguments"))
"""Texts that come in pieces."""


@dataclass(slots=True)
class Answer:
    """One whole HTTP answer, its header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    read_s: list[float] = field(default_factory=list)
    """When the head came, and each further piece."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Parsed `data:` lines of a stream, `[DONE]` left out."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line) for line in lines]

    @property
    def replica(self) -> str:
        return self.headers["x-warmroute-replica"]


def call(
    url: str,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 400.0,
) -> Answer:
    """One request on a fresh connection. Raises what `http.client` raises if it is not answered whole."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        payload = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method or ("GET" if payload is None else "POST"), path, payload, sent)
        response = connection.getresponse()
        read_s = [time.monotonic()]
        content = b""
        while piece := response.read1(65536):
            content += piece
            read_s.append(time.monotonic())
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, content, read_s)
    finally:
        connection.close()


def wait_until(
    condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0, every_s: float = 0.25
) -> None:
    """Poll until `condition` holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(every_s)


def text(words: int, seed: str) -> str:
    """Words that no other seed gives: about 1.1 tokens each, and no prefix shared."""
    rng = random.Random(seed)
    return f"{seed} " + " ".join(rng.choice(WORDS) for _ in range(words))


def told(body: bytes) -> tuple[object, ...]:
    """A stream as what it says in all: a busy engine puts several tokens into one event, now here and now there."""
    *events, rest = _TOOL_ID.sub(b"", body).split(b"\n\n")
    choices: dict[int, Any] = {}
    # What stands beside choices stands there as often as there are events.
    beside: dict[str, list[Any]] = {}
    about: list[Any] = []
    for event in events:
        if not event.startswith(b"data: {"):
            about.append(event)
            continue
        data = json.loads(event[6:])
        data.pop("created", None)
        parts = data.pop("choices", None)
        if not parts:
            about.append(data)
            continue
        for part in parts:
            choices[part["index"]] = _joined(choices.get(part["index"]), part)
        for name, value in data.items():
            if value not in beside.setdefault(name, []):
                beside[name].append(value)
    return choices, beside, about, rest


def _joined(before: Any, after: Any, key: str = "") -> Any:
    """Two pieces of an answer as one."""
    if before is None or after is None:
        return after if before is None else before
    if isinstance(before, dict):
        return {name: _joined(before.get(name), after.get(name), name) for name in {**before, **after}}
    if key == "tool_calls":
        calls = {call["index"]: call for call in before}
        for call in after:
            calls[call["index"]] = _joined(calls.get(call["index"]), call)
        return list(calls.values())
    if isinstance(before, list) or key in _SPOKEN:
        return before + after
    return after


class RouterProcess:
    """`warmroute serve` on free ports; a context manager that insists on a clean end."""

    def __init__(self, urls: Iterable[str], *arguments: str, replicas: int | None = None) -> None:
        """`replicas`: how many there are, where a configuration file among the arguments names them."""
        urls = list(urls)
        command = python_command("warmroute.cli.main", "serve")
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        for url in urls:
            command += ["--replica", url]
        self._command = [*command, *arguments]
        self._replicas = len(urls) if replicas is None else replicas
        self._log = tempfile.TemporaryFile()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self.admin_url = ""
        """Base URLs of the data port and of the admin port, once entered."""

    def __enter__(self) -> RouterProcess:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(self._is_ready, "the router is ready", timeout_s=60.0)
        except BaseException:
            sys.stderr.write(self.log())
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            status = self._process.wait(60.0)
        finally:
            log = self.log()
            self.kill()
        sys.stderr.write(log)  # shown where the test failed
        if error is None:
            assert status == 0, f"the router ended with status {status}:\n{log}"
            assert "Traceback" not in log, log

    def kill(self) -> None:
        """SIGKILL, as when a machine dies."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._log.close()

    def log(self) -> str:
        """What the router wrote so far."""
        if self._log.closed:
            return ""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the router died"
        listening = re.search(r" listening data=(\S+) admin=(\S+)", self.log())
        if listening is None:
            return False
        self.url, self.admin_url = (f"http://{address}" for address in listening.groups())
        found = call(self.admin_url, "/ready").json
        return bool(found["routable_replicas"] == self._replicas)


@contextmanager
def raw_request(url: str, path: str, body: Any) -> Iterator[socket.socket]:
    """Send a request and hand out its connection, nothing read yet."""
    address = urlsplit(url)
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=400.0) as connection:
        connection.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        yield connection


def server_load(url: str) -> int:
    """Requests that an engine has in hand at this moment."""
    load: int = call(url, "/load").json["server_load"]
    return load


def used_tokens(url: str) -> float:
    """What an engine says that is in use of its KV cache: as of its last step."""
    metrics = call(url, "/metrics").body.decode()
    (ratio,) = re.findall(r"^vllm:kv_cache_usage_perc\{[^}]*\} (\S+)", metrics, re.M)
    (config,) = re.findall(r"^vllm:cache_config_info\{([^}]*)\}", metrics, re.M)
    told = dict(re.findall(r'(\w+)="([^"]*)"', config))
    return float(ratio) * int(told["num_gpu_blocks"]) * int(told["block_size"])
