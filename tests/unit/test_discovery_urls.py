"""What the URLs of the setting `discovery` say, and what is said of those that are none."""

from __future__ import annotations

import pytest

from warmroute.config.discovery_urls import (
    DiscoverySource,
    DnsSource,
    KubernetesSource,
    Pool,
    RedisSource,
    parse_source,
)
from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.config.sources import Setting


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("kubernetes://prod/vllm?port=http", KubernetesSource("prod", "vllm", port="http")),
        ("kubernetes:///vllm?port=8000", KubernetesSource("", "vllm", port="8000")),
        ("kubernetes://prod?selector=app%3Dvllm", KubernetesSource("prod", selector="app=vllm")),
        (
            "kubernetes://prod/?selector=app+in+(a,b)&id_prefix=eu-&context=eu&resync=60",
            KubernetesSource("prod", selector="app in (a,b)", id_prefix="eu-", context="eu", resync_s=60.0),
        ),
        (
            "kubernetes://p/s?model=Qwen%2FQwen3-8B&model=lora&zone=z&scheme=https",
            KubernetesSource("p", "s", pool=Pool(frozenset({"Qwen/Qwen3-8B", "lora"}), "z", "https")),
        ),
        ("dns://vllm.prod.svc.cluster.local:8000", DnsSource("vllm.prod.svc.cluster.local", 8000)),
        (
            "dns+srv://_http._tcp.vllm.prod.svc.?interval=2.5&nameserver=10.0.0.10",
            DnsSource("_http._tcp.vllm.prod.svc.", srv=True, interval_s=2.5, nameserver=("10.0.0.10", 53)),
        ),
        ("dns://a:1?nameserver=[::1]:5353", DnsSource("a", 1, nameserver=("::1", 5353))),
        ("dns://a:1?nameserver=::1", DnsSource("a", 1, nameserver=("::1", 53))),
        ("redis", RedisSource()),
        ("redis://:geheim@r:6379/2", RedisSource("redis://:geheim@r:6379/2")),
        (
            "rediss+cluster://r:1,s:2?namespace=eu&ssl_ca_certs=/ca",
            RedisSource("rediss+cluster://r:1,s:2?ssl_ca_certs=%2Fca", "eu"),
        ),
    ],
)
def test_a_url_says_where_replicas_are_found(url: str, source: DiscoverySource) -> None:
    assert parse_source(url) == source


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "begin with one of"),
        ("consul://a", "begin with one of"),
        ("http://10.0.0.1:8000", "begin with one of"),
        ("kubernetes://prod", "must name a Service"),
        ("kubernetes://prod/vllm?selector=a%3Db", "one of them"),
        ("kubernetes://Prod/vllm", "no name of a namespace"),
        ("kubernetes://prod/vllm/extra", "no name of a Service"),
        ("kubernetes://prod/vllm?prot=http", "unknown option 'prot'; did you mean 'port'?"),
        ("kubernetes://prod/vllm?port=", "is empty"),
        ("kubernetes://prod/vllm?port=0", "port must be"),
        ("kubernetes://prod/vllm?port=http&port=grpc", "set twice"),
        ("kubernetes://prod/vllm?resync=1", "resync must be 10 to 3600"),
        ("kubernetes://prod/vllm?resync=nan", "resync must be"),
        ("kubernetes://prod/vllm?id_prefix=a/b", "id_prefix"),
        ("kubernetes://user@prod/vllm", "no place for a user"),
        ("kubernetes://prod/vllm?model=a b", "must not hold spaces"),
        ("dns://vllm", "must name the replicas' port"),
        ("dns://:8000", "no name that DNS knows"),
        ("dns://vllm:99999", "port must be"),
        ("dns://vllm:80/path", "no place for a path"),
        ("dns+srv://_http._tcp.vllm:80", "must not name a port"),
        ("dns://vllm:80?scheme=ftp", "scheme must be http or https"),
        ("dns://vllm:80?interval=never", "interval must be"),
        ("dns://vllm:80?nameserver=dns.example.com", "nameserver must be an address"),
        ("redis://", "names no server"),
        ("redis://r?namespace=a%20b", "namespace must be"),
    ],
)
def test_what_is_no_source_is_told_with_what_it_should_be(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=".") as error:
        parse_source(url)
    assert said in str(error.value)


REDIS: Setting = ("--registry", "registry.url", "redis://r:6379")


def test_sources_need_no_replica_and_may_be_beside_some() -> None:
    discover: Setting = ("--discover", "discovery", ["dns://vllm:8000", "redis"])
    assert load([discover, REDIS], environ={}).discovery == ("dns://vllm:8000", "redis")
    replica: Setting = ("--replica", "replicas", ["http://a:1"])
    assert len(load([discover, replica, REDIS], environ={}).replicas) == 1
    environ = {"WARMROUTE_DISCOVER": "dns://a:1,dns://b:1"}
    assert load(environ=environ).discovery == ("dns://a:1", "dns://b:1")


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ([], "replicas: there is none: name at least one"),
        (["redis"], "--discover: discovery[0]: is redis, the registry's own, but the registry is memory"),
        (["dns://a:1", "dns://a:1"], "discovery[1]: dns://a:1 is named twice"),
        (["dns://a:1", "dns://a"], "--discover: discovery[1]: 'dns://a': must name the replicas' port"),
        (["radis://:geheim@a:1"], "discovery[0]: 'radis://:***@a:1': must be redis, or begin with"),
    ],
)
def test_wrong_sources_are_named_with_their_place(urls: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load([("--discover", "discovery", urls)], environ={})
    assert said in str(error.value)
    assert "geheim" not in str(error.value)


def test_ranks_are_a_number() -> None:
    source = parse_source("dns://vllm:8000?ranks=4")
    assert isinstance(source, DnsSource)
    assert source.pool.ranks == 4
    for wrong in ("0", "-1", "four", "2000"):
        with pytest.raises(ValueError, match="ranks must be 1 to 1024"):
            parse_source(f"dns://vllm:8000?ranks={wrong}")
