"""The fleet's own models at the router's service: one embeds what is compared, one judges whether two questions are
one.

Decides what they are sent and how their answers are read. Each is a request of the router's own, placed and counted as
any other, with nobody's key and nobody's limits. A judge's instruction comes first and never changes, so engines have
it cached; its answer is one token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from warmroute.caching.response import vector_bytes

Ask = Callable[[str, bytes, float, str], Awaitable[bytes]]
"""Endpoint, body, deadline in seconds, whose cached blocks -> the answer's body; empty if there is none."""

INSTRUCTION: Final = (
    "You compare two questions that users sent to the same assistant in the same situation. Answer yes if one and the"
    " same answer would be fully correct for both of them. Answer no if they differ in any number, name, date, place,"
    " unit, negation or direction, if one asks for more or for less than the other, or if you are in doubt. Answer with"
    " one word: yes or no."
)
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class FleetEmbedder:
    """Implements the port `Embedder` by `/v1/embeddings`."""

    def __init__(self, ask: Ask, model: str, *, deadline_s: float) -> None:
        self._ask = ask
        self._model = model
        self._deadline_s = deadline_s

    @property
    def space(self) -> str:
        """The model's."""
        return f"fleet {self._model}"

    async def start(self) -> None:
        """The fleet's engines are ready by themselves."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def embed(self, text: str) -> bytes:
        """One request."""
        body = _encode({"model": self._model, "input": text, "encoding_format": "float"})
        answer = _read(await self._ask("/v1/embeddings", body, self._deadline_s, ""))
        try:
            return vector_bytes(answer["data"][0]["embedding"])
        except (KeyError, IndexError, TypeError, OverflowError):
            return b""


class FleetJudge:
    """Implements `likeness.Judge` by one token of a chat."""

    def __init__(self, ask: Ask, model: str, *, deadline_s: float) -> None:
        self._ask = ask
        self._model = model
        self._deadline_s = deadline_s

    async def same(self, one: str, other: str, sharing: str) -> bool:
        """One request; in doubt they are not."""
        asked = _encode({"first": one, "second": other}).decode()
        body = _encode(
            {
                "model": self._model,
                "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": asked}],
                "max_tokens": 1,
                "temperature": 0,
            }
        )
        answer = _read(await self._ask("/v1/chat/completions", body, self._deadline_s, sharing))
        try:
            said = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return False
        return isinstance(said, str) and said.strip().lower() == "yes"


def _read(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
