"""What new settings change in a running router."""

from __future__ import annotations

from pathlib import Path

from warmroute.config.load import load
from warmroute.config.reload import RELOADABLE, reloaded
from warmroute.config.schema import Config, ReplicaConfig
from warmroute.config.schema_walk import leaves
from warmroute.config.sources import Setting

REPLICA: Setting = ("--replica", "replicas", ["http://a:1"])


def config(**values: str) -> Config:
    settings: list[Setting] = [("--set", key.replace("__", "."), value) for key, value in values.items()]
    return load([REPLICA, *settings], environ={})


def test_every_reloadable_key_exists() -> None:
    assert {key for key, _, _ in leaves(Config)} >= RELOADABLE


def test_what_can_change_changes_and_the_rest_stays_as_it_was() -> None:
    old = config()
    new = config(
        replicas="http://b:1,http://c:1",
        limits__body_bytes="1000",
        health__failures="7",
        policy__name="random",
        limits__connections="5",
        registry__idle_max_s="7000",
        listen="127.0.0.1:9",
    )
    result = reloaded(old, new)
    assert set(result.changed) == {"replicas", "limits.body_bytes", "limits.connections", "health.failures"}
    assert set(result.waiting) == {"policy.name", "registry.idle_max_s", "listen"}
    assert [replica.id for replica in result.config.replicas] == ["b:1", "c:1"]
    assert result.config.limits.body_bytes == 1000
    assert (result.config.policy, result.config.listen) == (old.policy, old.listen)
    assert result.config.registry == old.registry


def test_the_same_settings_change_nothing() -> None:
    assert reloaded(config(), config()) == (config(), (), ())


def test_a_certificate_may_be_another_but_a_socket_stays_what_it_is(tmp_path: Path) -> None:
    pems = [tmp_path / name for name in ("one", "two")]
    for pem in pems:
        pem.touch()
    one, two = (config(tls__cert_file=str(pem), tls__key_file=str(pem)) for pem in pems)
    result = reloaded(one, two)
    assert set(result.changed) == {"tls.cert_file", "tls.key_file"}
    assert result.config.tls == two.tls
    for old, new in ((one, config()), (config(), one)):
        result = reloaded(old, new)
        assert set(result.waiting) == {"tls.cert_file", "tls.key_file"}
        assert result.config == old


def test_one_replica_more_or_under_another_name_is_a_change() -> None:
    old = config()
    for replicas in (
        (*old.replicas, ReplicaConfig(url="http://b:1", id="b:1")),
        (ReplicaConfig(url="http://a:1", id="other"),),
    ):
        new = Config(replicas=replicas)
        assert reloaded(old, new).changed == ("replicas",)
        assert reloaded(old, new).config.replicas == replicas
