"""Sums by interface are exact: they add up to the whole, and money is what the price structure makes of tokens."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from warmroute.adapters.tenants.usage_memory import MemoryUsage
from warmroute.config.schema import Config, PriceConfig, ReplicaConfig, UsageConfig
from warmroute.service.accounting import GROUPS, Accounting
from warmroute.tasks import Tasks
from warmroute.tenancy import _prices
from warmroute.tenants.prices import INTERFACES, STRUCTURES, Price, price_of, saved_share
from warmroute.tenants.usage import COLD, COUNTERS, GAINED, PAID, PROMPT, WARM, Ledger, Row, merged

NOW_S = 1_800_000_000 // 3600 * 3600
names = st.sampled_from("abc")
interfaces = st.sampled_from(INTERFACES)
prices = st.builds(
    lambda p, c, o, w, h: Price(p, c, o, write=w, write_hour=h), *[st.integers(0, 10**7) for _ in range(5)]
)


class Event(NamedTuple):
    """One request that is over."""

    tenant: str
    key: str
    model: str
    interface: str
    failed: bool
    prompt: int
    cached: int
    written: int
    hour: int
    output: int
    ttft_s: float


@st.composite
def events(draw: st.DrawFn) -> Event:
    prompt = draw(st.integers(0, 300_000))
    cached = draw(st.integers(0, prompt))
    written = draw(st.integers(0, prompt - cached))
    return Event(
        draw(names), draw(names), draw(names), draw(interfaces), draw(st.booleans()), prompt, cached, written,
        draw(st.integers(0, written)), draw(st.integers(0, 4096)), draw(st.floats(0, 100)),
    )  # fmt: skip


def count(ledger: Ledger, rows: dict[Any, Row], event: Event) -> None:
    key = (event.tenant, event.key, event.model, event.interface, "")
    row = rows.setdefault(key, Row(key))
    ledger.begin(row)
    ledger.end(
        row,
        event.failed,
        True,
        event.prompt,
        event.cached,
        event.output,
        0.25,
        0.5,
        event.written,
        event.hour,
    )
    ledger.time(row, event.prompt, event.cached, event.ttft_s)


@given(st.lists(events(), max_size=30), prices, st.integers(1, 4))
def test_interfaces_add_up_to_the_whole(told: list[Event], price: Price, flushes: int) -> None:
    async def run() -> None:
        ledger, tasks, rows = Ledger({("*", ""): price}), Tasks(), {}
        accounting = Accounting(ledger, MemoryUsage(86_400), tasks, bucket_s=3600, clock=lambda: float(NOW_S))
        for number, event in enumerate(told):
            count(ledger, rows, event)
            if number % flushes == 0:
                await accounting.flush()
        span: dict[str, Any] = {"from_s": NOW_S, "to_s": NOW_S + 3600, "bucket_s": 0}
        (*whole,) = await accounting.report(by=(), **span)
        assert len(whole) == bool(told)
        for by in (("interface",), ("tenant", "interface"), GROUPS):
            parts = await accounting.report(by=by, **span)
            for total in whole:
                for name in ("requests", "failed", "prompt_tokens", "cached_tokens", "missed_tokens", "written_tokens",
                             "written_hour_tokens", "output_tokens"):  # fmt: skip
                    assert sum(row[name] for row in parts) == total[name]  # type: ignore[misc]
                for name in ("cost", "prompt_cost", "saved"):  # whole billionths; shown in units
                    nano = sum(round(row[name] * 1e9) for row in parts)  # type: ignore[operator]
                    assert nano == round(total[name] * 1e9)  # type: ignore[operator]
        totals = [0] * len(COUNTERS)
        for counts in accounting.by_interface.values():
            totals = [a + b for a, b in zip(totals, counts, strict=True)]
        by_tenant = merged([(("", "", "", "", ""), counts) for counts in accounting.totals.values()])
        assert not told or by_tenant["", "", "", "", ""] == totals
        saved = await accounting.savings(from_s=NOW_S, to_s=NOW_S + 3600)
        assert sum(row["prompt_tokens"] for row in saved) == sum(event.prompt for event in told)  # type: ignore[misc]
        assert sum(row["read_tokens"] for row in saved) == sum(event.cached for event in told)  # type: ignore[misc]
        timed = sum(counts[0] + counts[2] for counts in accounting.times.values())
        assert timed == sum(
            event.prompt >= 256 and not event.prompt * 0.1 < event.cached < event.prompt * 0.5
            for event in told
        )
        await tasks.stop()

    asyncio.run(run())


@given(events(), st.sampled_from(sorted(STRUCTURES)), st.integers(1, 100_000))
def test_money_is_what_the_structure_makes_of_tokens(event: Event, name: str, milli: int) -> None:
    setting = PriceConfig(model="*", prompt=milli / 1000, output=milli / 500, structure=name)  # type: ignore[arg-type]
    config = Config(
        replicas=(ReplicaConfig(url="http://h:1"),), usage=UsageConfig(enabled=True, prices=(setting,))
    )
    ledger = Ledger(_prices(config))
    count(ledger, {}, event)
    counts = next(row for key, row in ledger.drain().items() if not key[4])
    base, structure = Fraction(milli), STRUCTURES[name]
    plain = event.prompt - event.cached - event.written
    ratios = [Fraction(str(ratio)) for ratio in (structure.read, structure.write, structure.write_hour)]
    paid = base * (
        plain + event.cached * ratios[0] + (event.written - event.hour) * ratios[1] + event.hour * ratios[2]
    )
    assert abs(counts[PAID] - paid) <= event.prompt, "prices are rounded to a billionth of a token"
    assert counts[PAID] + counts[GAINED] == event.prompt * milli
    if event.prompt:
        share = saved_share(structure, event.prompt, event.cached, event.written, event.hour)
        assert abs(share - (1 - paid / (base * event.prompt))) < 1e-9


def test_the_nearest_price_counts() -> None:
    table = {
        ("*", ""): Price(1), ("*", "google"): Price(2), ("m", ""): Price(3), ("m", "google"): Price(4)
    }  # fmt: skip
    found = [price_of(table, model, interface).prompt for model in "xm" for interface in ("openai", "google")]
    assert found == [1, 2, 3, 4]
    assert price_of({}, "m", "openai").prompt == 0


@given(st.lists(events(), max_size=20))
def test_rows_that_compare_times_are_no_usage(told: list[Event]) -> None:
    ledger, rows = Ledger({}), {}
    for event in told:
        count(ledger, rows, event)
    drained = ledger.drain()
    for key, counts in drained.items():
        assert any(counts[:COLD]) != bool(key[4])
        assert any(counts[COLD:]) == bool(key[4])
    timed = [row for key, row in drained.items() if key[4]]
    assert sum(row[COLD] + row[WARM] for row in timed) <= len(told)
    assert sum(row[PROMPT] for key, row in drained.items() if not key[4]) == sum(
        event.prompt for event in told
    )
    assert ledger.drain() == {}
