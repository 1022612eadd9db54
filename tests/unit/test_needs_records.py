"""A policy that makes no use of records costs the registry neither a lookup nor a write."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.wire import Wire
from warmroute.config.schema import PolicyConfig
from warmroute.core.choice.policies import POLICIES
from warmroute.core.types import RequestShape
from warmroute.dataplane.explain import explain

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * 3000}]}).encode()


def registry_calls(policy: str, requests: int = 3) -> tuple[float, float]:
    """Lookups and writes of so many requests that are answered."""
    wire = Wire(policy=PolicyConfig(name=policy))
    for _ in range(requests):
        client = wire.connect()
        connection, _ = wire.add_upstream()
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(BODY), BODY)
        )
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        assert client.output.startswith(b"HTTP/1.1 200")
        wire.drop_upstreams()
    assert wire.at_rest()
    figures = wire.gateway.registry.statistics()
    return figures["lookups_total"], figures["writes_total"]


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "prefix-cost"])
def test_baselines_pay_for_no_lookup_and_no_write(policy: str) -> None:
    assert registry_calls(policy) == (0, 0)


def test_a_policy_that_goes_by_records_pays_for_both() -> None:
    lookups, writes = registry_calls("prefix-cost")
    assert lookups == 3
    assert writes >= 1


def test_an_explanation_asks_no_more_than_the_request_would() -> None:
    wire = Wire(policy=PolicyConfig(name="round-robin"))
    answer = asyncio.run(explain(wire.gateway, "/v1/chat/completions", {}, BODY))
    assert answer["rungs_known"] == 0
    assert answer["tie"] is None, "no costs are compared"
    assert wire.gateway.registry.statistics()["lookups_total"] == 0


def test_an_explanation_says_between_which_replicas_what_has_decided() -> None:
    wire = Wire(replicas=2)
    answer = asyncio.run(explain(wire.gateway, "/v1/chat/completions", {}, BODY))
    tie = answer["tie"]
    assert isinstance(tie, dict)
    assert tie["decided_by"] == "ring"
    assert sorted(tie["replicas"]) == ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert tie["limit_s"] > tie["least_s"] > 0
    assert answer["candidates"][0]["under_way"] == 0
    busy = answer["candidates"][0]["replica"]
    for _ in range(9):
        wire.worker.fleet.reserve_on(busy, RequestShape("tiny", prompt_tokens=10_000), 1.0)
    tie = asyncio.run(explain(wire.gateway, "/v1/chat/completions", {}, BODY))["tie"]
    assert (tie["decided_by"], tie["replicas"]) == ("cost", [r.id for r in wire.replicas if r.id != busy])
