"""The least that an agent takes for an engine: a server in a thread, whose every answer the test sets."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class FakeEngine:
    """Answers GET and POST by path; a context manager."""

    def __init__(self) -> None:
        self.start_s = 1000.0
        self.running = 0
        self.waiting = 0
        self.awake = True
        self.models: list[dict[str, object]] = [{"id": "m"}, {"id": "m-lora", "parent": "m"}]
        self.statuses: dict[str, int] = {}
        """Answers by path where they are not 200."""
        self.keys: list[str | None] = []
        """The Authorization header of each question about models."""
        self.posts = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/v1/models":
                    fake.keys.append(self.headers["Authorization"])
                self._answer(fake.body(self.path))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                fake.posts += 1
                self._answer("{}")

            def _answer(self, body: str) -> None:
                self.send_response(fake.statuses.get(self.path, 200))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def body(self, path: str) -> str:
        """What a path answers."""
        match path:
            case "/v1/models":
                return json.dumps({"data": self.models})
            case "/load":
                return json.dumps({"server_load": 0})
            case "/metrics":
                return (
                    "# TYPE process_start_time_seconds gauge\n"
                    f"process_start_time_seconds {self.start_s}\n"
                    f'vllm:num_requests_running{{engine="0",model_name="m"}} {float(self.running)}\n'
                    f'vllm:num_requests_waiting{{engine="0",model_name="m"}} {float(self.waiting)}\n'
                    'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0\n'
                    f'vllm:engine_sleep_state{{engine="0",sleep_state="awake"}} {float(self.awake)}\n'
                    'vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="256"} 1.0\n'
                )
        return "{}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
