"""Records real vLLM answers, byte for byte as they come on the wire.

    python -m tests.golden.vllm.record [--new]

Starts one replica of the tiny model (installing vLLM at first use), sends every request of `CASES`, and writes
`NAME.http` (status line, headers, and body with its chunk framing) and `index.json` (what was asked, in order).
With `--new` only those that are not there yet, and the others' files stay. Standard library only; reads no more of
HTTP than it takes to find an answer's end.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from warmroute_replica.vllm.launch import Fleet, Options
from warmroute_replica.vllm.model import default_model

HERE = Path(__file__).parent
MODEL = "tiny"
PRESET = "nano"
LONG_TEXT = "word " * 5000
MULTI_BYTE = "Zürich – 漢字 🙂 é"
TOOL = {
    "name": "get_weather",
    "strict": True,
    "description": "Weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["Zürich", "東京"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
}


def chat(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Say something about Zürich."},
    ]
    body = {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, **fields}
    return "POST", "/v1/chat/completions", body


def completion(prompt: Any, **fields: Any) -> tuple[str, str, dict[str, Any]]:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
    return "POST", "/v1/completions", body


def response(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    body = {"model": MODEL, "input": "Say something.", "max_output_tokens": 8, "temperature": 0, **fields}
    return "POST", "/v1/responses", body


def message(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    messages = [{"role": "user", "content": "Say something."}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, **fields}
    return "POST", "/v1/messages", body


STREAM_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CHAT_TOOL = {"tools": [{"type": "function", "function": TOOL}], "max_tokens": 60}
NAMED_TOOL = {**CHAT_TOOL, "tool_choice": {"type": "function", "function": {"name": TOOL["name"]}}}
MESSAGE_TOOL: dict[str, Any] = {
    "tools": [{"name": TOOL["name"], "input_schema": TOOL["parameters"], "strict": True}],
    "tool_choice": {"type": "any"},
    "max_tokens": 120,
    "temperature": 1.5,
    "top_p": 1.0,
}
MULTI_BYTE_TEXT = {"structured_outputs": {"choice": [MULTI_BYTE]}, "max_tokens": 60}

CASES: dict[str, tuple[str, str, dict[str, Any] | bytes | None]] = {
    "models": ("GET", "/v1/models", None),
    "health": ("GET", "/health", None),
    "version": ("GET", "/version", None),
    "chat": chat(),
    "chat_n2_logprobs": chat(n=2, temperature=0.9, seed=1, logprobs=True, top_logprobs=2, max_tokens=3),
    "chat_tool_call": chat(**NAMED_TOOL),
    "chat_multi_byte": chat(**MULTI_BYTE_TEXT),
    "chat_stream": chat(stream=True),
    "chat_stream_usage": chat(**STREAM_USAGE),
    "chat_stream_continuous_usage": chat(
        stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ),
    "chat_stream_logprobs": chat(stream=True, logprobs=True, top_logprobs=2, max_tokens=4),
    "chat_stream_n2": chat(stream=True, n=2, temperature=0.9, seed=1, max_tokens=4),
    "chat_stream_tool_call": chat(**NAMED_TOOL, **STREAM_USAGE),
    "chat_stream_tool_required": chat(**CHAT_TOOL, tool_choice="required", stream=True),
    "chat_stream_multi_byte": chat(**MULTI_BYTE_TEXT, stream=True),
    "chat_stream_multi_byte_cut": chat(**{**MULTI_BYTE_TEXT, "max_tokens": 14}, stream=True),
    "chat_lora": chat(model="alpha"),
    "completion": completion("Once upon a time"),
    "completion_stream": completion("Once upon a time", **STREAM_USAGE),
    "completion_stream_plain": completion("Once upon a time", stream=True),
    "completion_token_ids": completion([84, 104, 101, 300, 301, 302]),
    "completion_batch": completion(["Once upon", "a time"], max_tokens=4),
    "completion_stream_batch": completion(["Once upon", "a time"], max_tokens=4, stream=True),
    "completion_logprobs_echo": completion("Once upon", logprobs=2, echo=True, max_tokens=3),
    "response": response(request_id="resp_golden"),
    "response_stored": ("GET", "/v1/responses/resp_golden", None),
    "response_stream": response(stream=True),
    "message": message(),
    "message_stream": message(stream=True),
    "message_tool_use": message(**MESSAGE_TOOL),
    "message_stream_tool_use": message(**MESSAGE_TOOL, stream=True),
    "message_count_tokens": (
        "POST",
        "/v1/messages/count_tokens",
        {"model": MODEL, "messages": [{"role": "user", "content": "Say something."}]},
    ),
    "tokenize": ("POST", "/tokenize", {"model": MODEL, "prompt": "Zürich 漢字"}),
    "detokenize": ("POST", "/detokenize", {"model": MODEL, "tokens": [84, 104, 101, 300]}),
    "error_unknown_model": chat(model="nobody"),
    "error_unknown_model_stream": chat(model="nobody", stream=True),
    "error_too_long": chat(messages=[{"role": "user", "content": LONG_TEXT}]),
    "error_bad_json": ("POST", "/v1/chat/completions", b'{"model": "tiny", "messages": ['),
    "error_wrong_type": chat(messages="hello"),
    "error_no_prompt": ("POST", "/v1/completions", {"model": MODEL}),
    "error_empty_cache_salt": chat(cache_salt=""),
    "error_message_unknown_model": message(model="nobody"),
    "error_message_wrong_type": message(messages="hello"),
    "error_response_unknown_model": response(model="nobody"),
    "error_response_not_stored": ("GET", "/v1/responses/resp_nobody", None),
    "error_embeddings": ("POST", "/v1/embeddings", {"model": MODEL, "input": "hello"}),
    "error_path": ("GET", "/v1/nothing", None),
    "error_method": ("GET", "/v1/chat/completions", None),
}
"""Name to method, path and body, in the order in which they are sent. `dict` bodies go out as JSON."""

ASKED = "_asked"
TWINS = (
    "chat_stream",
    "chat_stream_logprobs",
    "chat_stream_multi_byte",
    "chat_stream_multi_byte_cut",
    "chat_stream_tool_required",
    "completion_stream_plain",
)
"""Streams recorded a second time as `NAME_asked`: with `include_usage`, under the same request id."""
for _name in TWINS:
    _method, _path, _body = CASES[_name]
    assert isinstance(_body, dict)
    CASES[_name + ASKED] = (_method, _path, {**_body, **STREAM_USAGE})

WANTED = {
    "chat_tool_call": b'"tool_calls":[{',
    "chat_stream_tool_call": b'"tool_calls":[{',
    "chat_stream_tool_required": b'"tool_calls":[{',
    "message_tool_use": b'"stop_reason":"tool_use"',
    "message_stream_tool_use": b'"stop_reason":"tool_use"',
}
"""What an answer must contain. Random weights make a tool call only now and then, so these are asked again."""

LAST = "chat_stream_engine_died"
"""Recorded last, because the engine's worker is killed while this one streams."""


class Wire:
    """One connection that returns an answer's bytes unchanged."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120.0)
        self._read = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, method: str, path: str, request_id: str, body: bytes | None) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: golden", f"X-Request-Id: {request_id}"]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def receive(self) -> bytes:
        """One whole answer."""
        end = self.find(b"\r\n\r\n", 0) + 4
        head = self._read[:end].lower()
        if b"transfer-encoding: chunked" in head:
            while True:
                line_end = self.find(b"\r\n", end)
                size = int(self._read[end:line_end], 16)
                end = line_end + 2 + size + 2
                self.fill(end)
                if size == 0:
                    break
        elif b"content-length:" in head:
            end += int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            self.fill(end)
        answer, self._read = self._read[:end], self._read[end:]
        return answer

    def find(self, what: bytes, start: int) -> int:
        while (at := self._read.find(what, start)) < 0:
            self.fill(len(self._read) + 1)
        return at

    def fill(self, length: int) -> None:
        while len(self._read) < length:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError(f"closed after {len(self._read)} bytes: {self._read[-200:]!r}")
            self._read += data


def encode(body: dict[str, Any] | bytes | None) -> bytes | None:
    return json.dumps(body, ensure_ascii=False).encode() if isinstance(body, dict) else body


def record(fleet: Fleet, kept: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    entries = []
    for name, (method, path, body) in CASES.items():
        if name in kept:
            entries.append(kept[name])
            continue
        if isinstance(body, dict) and path == "/v1/chat/completions" and "tools" in body:
            body = {**body, "logit_bias": dict.fromkeys(blank_tokens(), -100)}
        for _ in range(100):
            wire = Wire(fleet.replicas[0].port)
            wire.send(method, path, f"golden-{name.removesuffix(ASKED)}", encode(body))
            answer = wire.receive()
            wire.close()
            twin = HERE / f"{name.removesuffix(ASKED)}.http"
            if WANTED.get(name, b"") in answer and (
                not name.endswith(ASKED) or choices(twin.read_bytes()) == choices(answer)
            ):
                break
        else:
            raise RuntimeError(f"{name}: no such answer as is wanted")
        entries.append(keep(name, method, path, encode(body), answer))
    if LAST in kept:
        return [*entries, kept[LAST]]
    method, path, fields = chat(stream=True, max_tokens=2000, ignore_eos=True)
    wire = Wire(fleet.replicas[0].port)
    wire.send(method, path, f"golden-{LAST}", encode(fields))
    wire.find(b"chat.completion.chunk", 0)
    kill_worker(fleet)
    entries.append(keep(LAST, method, path, encode(fields), wire.receive()))
    wire.close()
    return entries


def choices(answer: bytes) -> list[Any]:
    """What a stream says: not always the same, since a cached prompt changes a random model's numbers a little."""
    answer = re.sub(rb"chatcmpl-tool-[0-9a-f]+", b"", answer)
    lines = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
    return [line["choices"] for line in lines if line["choices"]]


def blank_tokens() -> list[str]:
    """Ids of the tokens of nothing but white space, which random weights would write for ever in a JSON object."""
    tokenizer = json.loads((default_model(PRESET) / "tokenizer.json").read_text())
    return [str(id) for token, id in tokenizer["model"]["vocab"].items() if set(token) <= set("ĠĊĉč")]


def kill_worker(fleet: Fleet) -> None:
    for member in fleet.replicas[0].processes():
        if b"Worker" in Path(f"/proc/{member.pid}/cmdline").read_bytes():
            member.signal(signal.SIGKILL)
            return
    raise RuntimeError("the replica has no Worker process")


def keep(name: str, method: str, path: str, body: bytes | None, answer: bytes) -> dict[str, Any]:
    (HERE / f"{name}.http").write_bytes(answer)
    status = int(answer.split(b" ", 2)[1])
    sys.stdout.write(f"{status} {len(answer):6d} bytes  {name}\n")
    return {
        "name": name,
        "method": method,
        "path": path,
        "body": None if body is None else body.decode(),
        "status": status,
        "chunked": b"transfer-encoding: chunked" in answer.partition(b"\r\n\r\n")[0].lower(),
    }


def main() -> None:
    index = HERE / "index.json"
    kept = {entry["name"]: entry for entry in json.loads(index.read_text())} if "--new" in sys.argv else {}
    options = Options(max_model_len=4096, kv_bytes="16M")
    with Fleet(1, print, preset=PRESET, lora=["alpha"], options=options) as fleet:
        started_s = time.monotonic()
        entries = record(fleet, kept)
    index.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(f"{len(entries)} answers in {time.monotonic() - started_s:.0f} s\n")


if __name__ == "__main__":
    main()
