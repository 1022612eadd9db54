"""What of a prompt is not understood is kept as it was sent."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from warmroute.core.types import Api
from warmroute.dialects import chat, messages, parse, responses


@pytest.mark.parametrize(
    ("module", "decoder", "api", "field"),
    [
        (chat, "decode_raw", Api.CHAT, "messages"),
        (messages, "_decode_raw", Api.MESSAGES, "messages"),
        (responses, "_decode_raw", Api.RESPONSES, "input"),
    ],
)
def test_a_body_is_read_once_for_all_that_is_not_understood(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, decoder: str, api: Api, field: str
) -> None:
    """Reading it once for each would take the router seconds for a body of 200 KB."""
    decode = getattr(module, decoder)
    reads = []

    def counted(body: bytes) -> object:
        reads.append(body)
        return decode(body)

    monkeypatch.setattr(module, decoder, counted)
    entries = [{"role": "user", "content": [{"type": f"t{number}"}]} for number in range(5)]
    parsed = parse(api, json.dumps({"model": "m", "max_tokens": 1, field: entries}).encode())
    assert all(f'"t{number}"'.encode() in parsed.canonical for number in range(5))
    assert len(reads) == 1
