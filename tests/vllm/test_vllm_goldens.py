"""The recorded answers are whole and are what their index says; no engine is needed to check that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "vllm"
INDEX: list[dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text())


def unchunk(body: bytes) -> bytes:
    content = b""
    while body:
        size_text, _, rest = body.partition(b"\r\n")
        size = int(size_text, 16)
        assert rest[size : size + 2] == b"\r\n"
        content, body = content + rest[:size], rest[size + 2 :]
        if size == 0:
            assert body == b""
            return content
    raise AssertionError("no last chunk")


def test_index_and_files_name_the_same_answers() -> None:
    assert {entry["name"] for entry in INDEX} == {path.stem for path in GOLDEN.glob("*.http")}


@pytest.mark.parametrize("entry", INDEX, ids=[entry["name"] for entry in INDEX])
def test_recorded_answer_is_one_whole_http_message(entry: dict[str, Any]) -> None:
    head, _, body = (GOLDEN / f"{entry['name']}.http").read_bytes().partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert lines[0].startswith(f"HTTP/1.1 {entry['status']} ")
    assert (headers.get("transfer-encoding") == "chunked") == entry["chunked"]
    if entry["chunked"]:
        content = unchunk(body)
        assert content.decode("utf-8").endswith(("data: [DONE]\n\n", '"}\n\n', "}\n\n"))
    else:
        assert len(body) == int(headers["content-length"])
        if body:
            json.loads(body)


def test_recordings_hold_no_path_of_the_machine_they_were_made_on() -> None:
    for path in GOLDEN.glob("*.http"):
        for word in (b"/home/", b"/root/", b"/tmp/", b".cache", b"site-packages"):
            assert word not in path.read_bytes(), path.name
