"""Recorded vLLM answers, and requests that could have brought them: for tests that no byte of them changes."""

from __future__ import annotations

from pathlib import Path

RECORDED = {
    path.stem: path.read_bytes()
    for path in sorted((Path(__file__).parent.parent / "golden" / "vllm").glob("*.http"))
}
"""Raw bytes of each answer, by name."""
BODY = b'{"model":"tiny","messages":[{"role":"user","content":"hello"}]}'
CLIENTS = {
    "1.1": (b"1.1", b""),
    "1.1 close": (b"1.1", b"Connection: close\r\n"),
    "1.0": (b"1.0", b""),
    "1.0 keep-alive": (b"1.0", b"Connection: keep-alive\r\n"),
}
"""HTTP version and header lines of four kinds of client."""


def path_for(name: str) -> bytes:
    """An endpoint that answers so."""
    if name.startswith("response"):
        return b"/v1/responses"
    return b"/v1/messages" if name.startswith("message") else b"/v1/chat/completions"


def request(name: str, client: str) -> bytes:
    """A whole request of this kind of client to which this answer is one."""
    version, extra = CLIENTS[client]
    body = BODY.replace(b'"messages"', b'"input"') if name.startswith("response") else BODY
    return b"POST %b HTTP/%b\r\nHost: r\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path_for(name),
        version,
        extra,
        len(body),
        body,
    )
