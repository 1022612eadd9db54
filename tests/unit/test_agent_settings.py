"""Flags, environment and Redis URLs of agents, and what is said of those that cannot work."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from warmroute.adapters.resp.url import parse_redis_url as routers
from warmroute_replica import cli
from warmroute_replica.agent.redis_url import parse_redis_url as agents
from warmroute_replica.agent.settings import Settings, SettingsError, add_arguments, read


def settings(*words: str, environment: dict[str, str] | None = None, **told: Any) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read(parser.parse_args(words), environment or {}, **told)


def test_what_is_not_said_follows_from_what_is() -> None:
    found = settings("--redis", "redis://127.0.0.1", "--engine", "http://localhost:9000/")
    assert found.advertise == "http://127.0.0.1:9000", "this machine as Redis sees it"
    assert found.replica_id == "127.0.0.1:9000"
    assert (found.listen, found.namespace, found.drain_grace_s) == (("0.0.0.0", 8011), "w", 60.0)


def test_an_engine_elsewhere_is_advertised_as_it_is() -> None:
    found = settings("--redis", "redis://127.0.0.1", "--engine", "http://gpu-1:8000")
    assert (found.advertise, found.replica_id) == ("http://gpu-1:8000", "gpu-1:8000")


def test_the_environment_says_the_same_and_flags_win() -> None:
    environment = {
        "WARMROUTE_AGENT_REDIS": "redis://r",
        "WARMROUTE_AGENT_ID": "pod-0",
        "WARMROUTE_AGENT_ADVERTISE": "http://10.0.0.1:8000",
        "WARMROUTE_AGENT_LABEL": "gpu=h100, rack=7",
        "WARMROUTE_AGENT_DRAIN_GRACE": "300",
        "WARMROUTE_AGENT_CHECK_REQUEST": "true",
        "VLLM_API_KEY": "word",
    }
    found = settings("--drain-grace", "5", environment=environment)
    assert (found.replica_id, found.labels) == ("pod-0", {"gpu": "h100", "rack": "7"})
    assert (found.drain_grace_s, found.check_request, found.engine_api_key) == (5.0, True, "word")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no Redis"),
        (("--redis", "http://x"), "scheme 'http'"),
        (("--redis", "redis://:secret@x?tls=1"), "unknown option 'tls'"),
        (("--redis", "redis://x", "--engine", "localhost:8000"), "--engine: must be http://HOST:PORT"),
        (("--redis", "redis://x", "--advertise", "http://h:1/v1"), "--advertise"),
        (("--redis", "redis://x", "--id", "two words"), "--id"),
        (("--redis", "redis://x", "--listen", "8011"), "--listen: must be HOST:PORT"),
        (("--redis", "redis://x", "--label", "gpu"), "--label: must be NAME=VALUE"),
        (("--redis", "redis://x", "--drain-grace", "soon"), "--drain-grace: must be seconds"),
    ],
)
def test_what_cannot_work_is_named(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(SettingsError) as failed:
        settings(*words)
    assert says in str(failed.value)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["agent"], "no Redis"),
        (["serve", "--redis", "redis://127.0.0.1"], "no engine"),
        (["serve", "--redis", "redis://127.0.0.1", "--", "vllm", "serve", "M", "--port", "0"], "--engine"),
    ],
)
def test_a_command_that_cannot_work_ends_with_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmroute_replica.agent.command.set_up", lambda: None)
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://user:p%40ss@h:1/3",
        "redis://h?db=2&username=u&password=p",
        "unix://:word@/run/redis.sock?db=2",
        "redis+sentinel://a,b:1/main/4?sentinel_password=s",
        "redis+cluster://a:1,b:2",
        "rediss://h?ssl_cert_reqs=none",
        "redis://[::1]:7",
    ],
)
def test_agents_and_routers_read_one_url_alike(url: str) -> None:
    agent, router = agents(url), routers(url)
    assert agent.form == router.topology.value
    assert (agent.addresses or (agent.socket_path,)) == router.addresses
    assert (agent.service, agent.db) == (router.service, router.db)
    assert (agent.username, agent.password) == (router.username, router.password)
    assert agent.sentinel_password == router.sentinel_password
    assert (agent.tls is None) == (router.tls is None)
    assert agent.label == router.label


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "redis://a,b", "redis+sentinel://a", "redis+cluster://a/1", "unix://", "redis://h/x",
        "redis://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=maybe", "rediss://h?ssl_ca_certs=/none",
        "redis://h:port", "redis://h/1/2",
    ],
)  # fmt: skip
def test_agents_and_routers_refuse_the_same_urls(url: str) -> None:
    for parse in (agents, routers):
        with pytest.raises(ValueError, match=r".+"):
            parse(url)
