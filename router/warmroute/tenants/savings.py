"""What caching saved of one interface and model, and what the interface's provider promises: for people.

Decides how times to the first token are compared: warm prompts with cold ones of like size, and sizes weighed by how
many warm ones each has. A size counts once there are enough of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from warmroute.tenants.prices import OF_INTERFACE, PROMISES, STRUCTURES, saved_share
from warmroute.tenants.usage import (
    CACHED,
    COLD,
    COST,
    COUNTERS,
    GAINED,
    PAID,
    PROMPT,
    REQUESTS,
    SAVED,
    WRITTEN,
)

TIMES: Final = COUNTERS[COLD:]
LEAST_REQUESTS: Final = 5
"""Of warm and of cold ones of a size, for both to be compared."""


def saving(
    interface: str, model: str, counts: Sequence[int], times: Mapping[int, Sequence[int]]
) -> dict[str, object]:
    """A row.

    Args:
        counts: In the order of `COUNTERS`.
        times: Size, in prompt tokens -> counters in the order of `TIMES`.
    """
    prompt, read, written, hour = counts[PROMPT], counts[CACHED], counts[WRITTEN], counts[WRITTEN + 1]
    paid, gained = counts[PAID], counts[GAINED]
    structure = OF_INTERFACE.get(interface, STRUCTURES["openai"])
    return {
        "interface": interface,
        "model": model,
        "requests": counts[REQUESTS],
        "prompt_tokens": prompt,
        "read_tokens": read,
        "written_tokens": written,
        "missed_tokens": prompt - read,
        "prefill_saved_s": counts[SAVED] / 1e6,
        "cost": counts[COST] / 1e9,
        "saved": gained / 1e9,
        "reached": {
            "read_share": _share(read, prompt),
            "cost_saved_share": _share(gained, paid + gained),
            "cost_saved_share_at_provider": (
                round(saved_share(structure, prompt, read, written, hour), 4) if prompt else None
            ),
            **_latency(times),
        },
        "promised": _promised(interface),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _promised(interface: str) -> dict[str, float] | None:
    promise = PROMISES.get(interface)
    if promise is None:
        return None
    told = {
        "cost_saved_share_from": promise.cost_least,
        "cost_saved_share_up_to": promise.cost_most,
        "latency_saved_share_up_to": promise.latency_most,
    }
    return {name: share for name, share in told.items() if share}


def _latency(times: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    sizes: list[dict[str, object]] = []
    weight = sum_saved = 0.0
    for size, (cold, cold_us, warm, warm_us) in sorted(times.items()):
        if cold < LEAST_REQUESTS or warm < LEAST_REQUESTS:
            continue
        cold_s, warm_s = cold_us / cold / 1e6, warm_us / warm / 1e6
        saved = 1.0 - warm_s / cold_s if cold_s > 0.0 else 0.0
        weight += warm
        sum_saved += warm * saved
        sizes.append(
            {
                "prompt_tokens_from": size,
                "prompt_tokens_below": 2 * size,
                "cold_requests": cold,
                "warm_requests": warm,
                "cold_ttft_s": round(cold_s, 6),
                "warm_ttft_s": round(warm_s, 6),
                "saved_share": round(saved, 4),
            }
        )
    return {"latency_saved_share": round(sum_saved / weight, 4) if weight else None, "latency_by_size": sizes}
