"""The simulated engine's tier below the GPU: what falls into it, what comes back, and what that takes."""

from __future__ import annotations

import pytest

from warmroute_replica.sim.engine import Engine, SimRequest
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.step_time import StepTime

FLAT = StepTime(attention_context_tokens=0.0)


def engine(tier_tokens: int = 640, token_s: float = 1e-5) -> Engine:
    return Engine(
        EngineConfig(
            cache_tokens=320, block_tokens=16, tier_tokens=tier_tokens, tier_token_s=token_s, step_time=FLAT
        )
    )


def serve(machine: Engine, name: str, tokens: int = 256) -> tuple[int, float]:
    """Tokens that were found of this prompt, and how long its first token took."""
    keys = [f"{name}{block}" for block in range(tokens // 16)]
    state = machine.add(SimRequest(name, tokens, 1, keys), 0.0)
    result = machine.step(0.0)
    assert result.finished == [state]
    machine.validate()
    return state.cached_tokens, result.duration_s


def test_what_the_gpu_evicts_is_loaded_and_a_load_takes_its_time() -> None:
    machine = engine()
    cold_s = serve(machine, "a")[1]
    serve(machine, "b")
    assert machine.overlap_tokens([f"a{block}" for block in range(16)], 256) == 240
    found, took_s = serve(machine, "a")
    assert found == 240
    loaded = machine.totals.loaded_tokens
    assert 0 < loaded < 240, "a part was left on the GPU"
    warm_s = serve(machine, "a")[1]
    assert machine.totals.loaded_tokens == loaded, "it is on the GPU again"
    assert took_s == pytest.approx(warm_s + loaded * 1e-5)
    assert warm_s < took_s < cold_s


def test_without_a_tier_it_is_lost() -> None:
    machine = engine(tier_tokens=0)
    serve(machine, "a")
    serve(machine, "b")
    assert machine.tier is None
    assert serve(machine, "a")[0] < 240
    assert machine.totals.loaded_tokens == 0


def test_the_tier_keeps_so_many_blocks_and_the_oldest_go() -> None:
    machine = engine(tier_tokens=320)
    for name in "abcdefgh":
        serve(machine, name)
        assert machine.tier is not None
        assert len(machine.tier) <= 20
    assert serve(machine, "g")[0] == 240
    assert serve(machine, "a")[0] == 0
    machine.cache.clear()
    assert len(machine.tier) == 0
