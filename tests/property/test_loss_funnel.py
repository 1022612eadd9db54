"""Where the tokens of prompts are lost, over a wire without sockets."""

from __future__ import annotations

import json

from tests.support.wire import Wire

TEXT = "so it goes " * 400


def ask(wire: Wire, text: str, cached_tokens: int | None) -> None:
    """One prompt of 1000 tokens whose engine says what it found of it."""
    wire.drop_upstreams()
    connection, _ = wire.add_upstream()
    client = wire.connect()
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}]}).encode()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    details = None if cached_tokens is None else {"cached_tokens": cached_tokens}
    usage = {"prompt_tokens": 1000, "completion_tokens": 1, "prompt_tokens_details": details}
    answer = json.dumps({"choices": [], "usage": usage}).encode()
    connection.data_received(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(answer), answer)
    )
    assert wire.at_rest()
    client.lose()


def funnel(wire: Wire, kind: str = "reported") -> dict[str, int]:
    return wire.gateway.metrics.funnel_rows()["tiny"][kind]


def test_what_nobody_sent_before_cannot_be_reused() -> None:
    wire = Wire()
    ask(wire, TEXT, 0)
    assert funnel(wire) == {"prompt": 1000, "reusable": 0, "known": 0, "chosen": 0, "delivered": 0}


def test_what_is_found_again_comes_all_the_way() -> None:
    wire = Wire()
    ask(wire, TEXT, 0)
    ask(wire, TEXT, 990)
    stages = list(funnel(wire).values())
    assert stages[0] == 2000
    assert 800 < stages[1] <= 1000
    assert stages[1] >= stages[2] == stages[3] > 800
    assert stages[4] == 990


def test_what_a_restart_took_is_reusable_and_not_known() -> None:
    wire = Wire()
    ask(wire, TEXT, 0)
    wire.restart()
    ask(wire, TEXT, 0)
    stages = funnel(wire)
    assert stages["reusable"] > 800
    assert stages["known"] == stages["chosen"] == 0


def test_what_the_registry_lost_is_reusable_and_not_known() -> None:
    wire = Wire()
    ask(wire, TEXT, 0)
    wire.gateway.registry = type(wire.gateway.registry)()
    ask(wire, TEXT, 990)
    stages = funnel(wire)
    assert stages["reusable"] > 800
    assert stages["known"] == 0


def test_what_the_engine_lost_is_chosen_and_not_delivered() -> None:
    wire = Wire()
    ask(wire, TEXT, 0)
    ask(wire, TEXT, 0)
    stages = funnel(wire)
    assert stages["chosen"] > 800
    assert stages["delivered"] == 0


def test_prompts_whose_engines_report_nothing_are_counted_apart() -> None:
    wire = Wire()
    ask(wire, TEXT, None)
    ask(wire, TEXT, None)
    stages = funnel(wire, "unreported")
    assert stages["prompt"] == 2000
    assert stages["chosen"] > 800
    assert "delivered" not in stages
