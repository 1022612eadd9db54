"""Registry URLs: what each form means, and which mistakes are named."""

from __future__ import annotations

import ssl

import pytest

from warmroute.adapters.resp.url import RedisTarget, Topology, parse_redis_url
from warmroute_replica.agent.redis_url import parse_redis_url as as_agents_read_it


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", RedisTarget(Topology.SINGLE, (("localhost", 6379),))),
        ("redis://", RedisTarget(Topology.SINGLE, (("localhost", 6379),))),
        ("redis://h:1/2", RedisTarget(Topology.SINGLE, (("h", 1),), db=2)),
        ("redis://h?db=2", RedisTarget(Topology.SINGLE, (("h", 6379),), db=2)),
        ("redis://[::1]:7", RedisTarget(Topology.SINGLE, (("::1", 7),))),
        ("redis://:p%40ss@h", RedisTarget(Topology.SINGLE, (("h", 6379),), password="p@ss")),
        ("redis://u:p@h", RedisTarget(Topology.SINGLE, (("h", 6379),), username="u", password="p")),
        (
            "redis://h?username=u&password=p",
            RedisTarget(Topology.SINGLE, (("h", 6379),), username="u", password="p"),
        ),
        ("unix:///run/r.sock?db=3", RedisTarget(Topology.SINGLE, ("/run/r.sock",), db=3)),
        ("unix://:p@/run/r.sock", RedisTarget(Topology.SINGLE, ("/run/r.sock",), password="p")),
        (
            "redis+sentinel://:p@a:1,b/fleet/4?sentinel_password=s",
            RedisTarget(
                Topology.SENTINEL,
                (("a", 1), ("b", 26379)),
                service="fleet",
                db=4,
                password="p",
                sentinel_password="s",
            ),
        ),
        ("redis+cluster://a:1,b:2", RedisTarget(Topology.CLUSTER, (("a", 1), ("b", 2)))),
    ],
)
def test_a_url_means(url: str, expected: RedisTarget) -> None:
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("memory", "scheme"),
        ("http://h", "'http'"),
        ("unix+cluster:///x", "'unix\\+cluster'"),
        ("redis+ring://h", "'redis\\+ring'"),
        ("unix://", "socket file"),
        ("redis://h/x", "'x'"),
        ("redis://h/-1", "'-1'"),
        ("redis://h/1/2", "too many"),
        ("redis://a,b", "several hosts"),
        ("redis://h:port", "'h:port'"),
        ("redis://h?sockettimeout=3", "'sockettimeout'"),
        ("redis+sentinel://a:1", "service"),
        ("redis+cluster://a/2", "database 0"),
        ("redis://h?ssl_ca_certs=/x", "rediss"),
        ("rediss://h?ssl_ca_certs=/does/not/exist", "TLS files"),
        ("rediss://h?ssl_cert_reqs=maybe", "'maybe'"),
        ("rediss://h?ssl_check_hostname=maybe", "'maybe'"),
    ],
)
def test_a_mistake_is_named(url: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_redis_url(url)


def test_tls_checks_the_server_unless_told_otherwise() -> None:
    checked, by_address, unchecked = [
        parse_redis_url(url).tls
        for url in ("rediss://h", "rediss+cluster://h?ssl_check_hostname=no", "rediss://h?ssl_cert_reqs=none")
    ]
    assert checked is not None
    assert by_address is not None
    assert unchecked is not None
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (by_address.verify_mode, by_address.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)


def test_a_password_shows_neither_in_logs_nor_in_errors() -> None:
    target = parse_redis_url("redis://u:geheim@h:1?sentinel_password=geheim")
    assert "geheim" not in repr(target)
    assert target.label == "h:1"
    for url in (
        "redis://u:geheim@h:port",
        "http://u:geheim@h",
        "redis://u:geheim@h/1/2",
        "redis://u:geheim@a,b",
    ):
        with pytest.raises(ValueError, match=".") as raised:
            parse_redis_url(url)
        assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("character", ["/", "?", "#", "/3/", "[", "]", "[x]", "\u2100", "12/"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://:ge{0}heim@h:6379",
        "rediss://user:ge{0}heim@h:6379/2",
        "redis+sentinel://:ge{0}heim@a:1,b:2/fleet",
        "redis+cluster://:ge{0}heim@a:1,b:2",
        "redis+cluster://:ge@{0}heim@a:1",
        "unix://:ge{0}heim@/run/r.sock",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_without_a_piece_of_it(url: str, character: str) -> None:
    for parse in (parse_redis_url, as_agents_read_it):
        try:
            target = parse(url.format(character))
        except ValueError as error:
            said = str(error)
        else:  # some of these characters do no harm
            assert target.password in (f"ge{character}heim", f"ge@{character}heim")
            said = target.label
        assert "heim" not in said, said
        assert "ge" not in said.replace("registry URL", "").replace("range", ""), said
        assert "%2F" in said or "password" not in said


def test_what_stands_in_a_path_or_an_option_may_hold_an_at() -> None:
    for parse in (parse_redis_url, as_agents_read_it):
        assert parse("redis://h?password=p@ss").password == "p@ss"
        assert parse("unix:///run/r@0.sock").label == "/run/r@0.sock"
