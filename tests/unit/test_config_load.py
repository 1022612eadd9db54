"""Loading of settings: precedence, strictness, and messages that say where."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import yaml

from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.config.reference import effective
from warmroute.config.rules import redacted
from warmroute.config.schema import Config, HealthConfig, PolicyConfig, PolicyName, split_address
from warmroute.config.schema_walk import environment_names, leaves
from warmroute.config.sources import Setting
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.health.health import HealthParameters

REPLICA: Setting = ("--replica", "replicas", ["http://127.0.0.1:9000"])


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "w"
    path.write_text(text)
    return str(path)


def fault(tmp_path: Path, text: str, *flags: Setting) -> str:
    """The message of the error this file makes, the file's directory taken off."""
    with pytest.raises(ConfigError) as caught:
        load([REPLICA, *flags] if "replicas" not in text else flags, path=write(tmp_path, text), environ={})
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_defaults_need_only_a_replica() -> None:
    config = load([REPLICA], environ={})
    assert config.listen == "127.0.0.1:8000"
    assert (config.registry.idle_min_s, config.registry.idle_max_s) == (300.0, 3600.0)
    assert config.replicas[0].id == "127.0.0.1:9000"
    assert config.upstream.keepalive_s < 5.0, "vLLM closes idle connections after 5 s"


def test_no_replica_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"^replicas: there is none: .*--replica http"):
        load(environ={})


def test_flag_wins_over_variable_over_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, "max_attempts: 4\npolicy: random\nregistry: {idle_min_s: 5, max_entries: 6}\n")
    environ = {"WARMROUTE_POLICY": "round-robin", "WARMROUTE_REGISTRY__IDLE_MIN_S": "7"}
    config = load([REPLICA, ("--policy", "policy.name", "least-loaded")], path=path, environ=environ)
    assert config.policy.name == "least-loaded"
    assert config.registry.idle_min_s == 7.0
    assert (config.max_attempts, config.registry.max_entries) == (4, 6)
    assert config.registry.url == "memory"


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "replicas: [http://a:1]\n")
    assert load(environ={"WARMROUTE_CONFIG": path}).replicas[0].url == "http://a:1"


def test_every_key_can_be_set_by_a_variable() -> None:
    names = environment_names(Config)
    assert {key for key, _, _ in leaves(Config)} == set(names.values())
    assert names["WARMROUTE_REGISTRY"] == "registry.url"
    assert names["WARMROUTE_REGISTRY__LOOKUP_DEADLINE_S"] == "registry.lookup_deadline_s"
    assert names["WARMROUTE_REPLICA"] == "replicas"


def test_variables_hold_lists_booleans_numbers_and_text_that_looks_like_a_number() -> None:
    config = load(
        environ={
            "WARMROUTE_REPLICA": "http://a:1, http://b:2",
            "WARMROUTE_HEADERS__EXPLAIN": "false",
            "WARMROUTE_REGISTRY__NAMESPACE": "7",
            "WARMROUTE_DRAIN_GRACE_S": "1e1",
            "WARMROUTE_ACCESS_LOG": "true",
            "WARMROUTE_POLICY": "",
        }
    )
    assert [replica.url for replica in config.replicas] == ["http://a:1", "http://b:2"]
    assert config.headers.explain is False
    assert config.registry.namespace == "7"
    assert config.drain_grace_s == 10.0
    assert config.access_log.enabled is True
    assert config.policy.name == "prefix-cost", "an empty variable counts as unset"


def test_unknown_variable_is_an_error_but_kubernetes_service_links_are_not() -> None:
    links = {
        "WARMROUTE_SERVICE_HOST": "10.0.0.1",
        "WARMROUTE_SERVICE_PORT": "80",
        "WARMROUTE_SERVICE_PORT_HTTP": "80",
        "WARMROUTE_PORT": "tcp://10.0.0.1:80",
        "WARMROUTE_PORT_80_TCP_ADDR": "10.0.0.1",
        "WARMROUTE_ADMIN_SERVICE_HOST": "10.0.0.2",
        "WARMROUTE_ADMIN_PORT_81_TCP": "tcp://10.0.0.2:81",
        "WARMROUTE_CACHE": "/somewhere",
    }
    load([REPLICA], environ=links)
    with pytest.raises(
        ConfigError, match="WARMROUTE_LISTN: sets nothing that exists; did you mean 'WARMROUTE_LISTEN'"
    ):
        load([REPLICA], environ={"WARMROUTE_LISTN": "x"})


def test_two_variables_for_one_key_must_agree() -> None:
    same = {"WARMROUTE_REGISTRY": "memory", "WARMROUTE_REGISTRY__URL": "memory"}
    assert load([REPLICA], environ=same).registry.url == "memory"
    with pytest.raises(ConfigError, match="registry.url: contradicts WARMROUTE_REGISTRY"):
        load([REPLICA], environ=same | {"WARMROUTE_REGISTRY__URL": "redis://h"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nregistri: memory\n", "w:2: registri: unknown key; did you mean 'registry'?"),
        ("limits:\n  body_byte: 5\n", "w:2: limits.body_byte: unknown key; did you mean 'body_bytes'?"),
        ("listen: a:1\nadmin: b:2\nlisten: c:3\n", "w:3: listen: is set twice in one place"),
        ("max_attempts: two\n", "w:1: max_attempts: must be a whole number, not 'two'"),
        ("max_attempts: 1.5\n", "w:1: max_attempts: must be a whole number, not '1.5'"),
        ("max_attempts: true\n", "w:1: max_attempts: must be a whole number, not 'true'"),
        ("max_attempts: '3'\n", "w:1: max_attempts: must be a whole number, not '3'"),
        ("max_attempts: 0\n", "w:1: max_attempts: must be from 1 to 100, not 0"),
        ("max_attempts:\n", "w:1: max_attempts: must be a whole number, not ''"),
        ("drain_grace_s: .inf\n", "w:1: drain_grace_s: must be a number, not '.inf'"),
        ("drain_grace_s: .nan\n", "w:1: drain_grace_s: must be a number, not '.nan'"),
        ("drain_grace_s: '3'\n", "w:1: drain_grace_s: must be a number, not '3'"),
        ("headers: {explain: 1}\n", "w:1: headers.explain: must be true or false, not '1'"),
        ("headers: yes\n", "w:1: headers: must be a section with keys of its own"),
        ("listen: [a]\n", "w:1: listen: must be HOST:PORT, not a list or a section"),
        ("listen: 8000\n", "w:1: listen: must be HOST:PORT, not '8000'; put it in quotes"),
        ("listen: localhost\n", "w:1: listen: expected HOST:PORT, not 'localhost'"),
        ("listen: '::1:80'\n", "w:1: listen: an IPv6 host needs brackets: [HOST]:PORT, not '::1:80'"),
        ("listen: a:65536\n", "w:1: listen: expected HOST:PORT, not 'a:65536'"),
        ("registry: [a]\n", "w:1: registry: must be a section with keys of its own"),
        ("- a\n", "w:1: must be settings, `key: value` each"),
        ("a: b: c\n", "w:1: is not YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "w:2: is not YAML: but found another document"),
        ("policy: prefix-cots\n", "w:1: policy.name: 'prefix-cots' is not known; did you mean 'prefix-cost'?"),
        ("log_level: loud\n", "w:1: log_level: 'loud' is not known; known: debug, error, info, warning"),
        ("replicas: http://a:1\n", "w:1: replicas: must be a list"),
        ("replicas:\n- http://a:1\n- {id: b}\n", "w:3: replicas[1].url: is missing"),
        ("replicas:\n- {url: 'http://a:1', ulr: b}\n", "w:2: replicas[0].ulr: unknown key; did you mean 'url'?"),
        ("replicas:\n- http://a:1\n- http://A:1/\n", "w:3: replicas[1]: http://a:1 is named twice"),
        (
            "replicas:\n- {url: 'http://a:1', id: x}\n- {url: 'http://b:1', id: x}\n",
            "w:3: replicas[1]: id 'x' is given to two replicas",
        ),
        ("replicas: [{url: 'http://a:1', id: 'x y'}]\n", "w:1: replicas[0]: id 'x y' must be 1 to 128"),
        ("registry: mysql://h\n", "w:1: registry.url: must be memory or begin with one of redis://, redis+cluster://"),
        ("registry: redis://\n", "w:1: registry.url: names no server after ://"),
        ("registry: {namespace: 'a b'}\n", "w:1: registry.namespace: must be 1 to 64"),
        ("registry: {idle_max_s: 0}\n", "w:1: registry.idle_max_s: must be from 0.001 to 86,400, not 0.0"),
        ("fingerprint: {secret: short}\n", "w:1: fingerprint.secret: must have at least 16 characters"),
        ("fingerprint: {secret: 1234}\n", "w:1: fingerprint.secret: must be text, not what is there"),
        ("tls:\n  cert_file: /nowhere\n", "w:2: tls.cert_file: there is no file '/nowhere'"),
        ("tls:\n  cert_file: /dev/null\n", "w:2: tls.cert_file: there is no file '/dev/null'"),
        ("admin: 127.0.0.1:8000\n", "w:1: admin: 127.0.0.1:8000 is taken by listen"),
        ("listen: 127.0.0.1:8001\n", "w:1: admin: 127.0.0.1:8001 is taken by listen"),
        ("listen: 0.0.0.0:8001\n", "w:1: admin: 127.0.0.1:8001 is taken by listen"),
        (
            "keys: /k\ntenants:\n  - id: a\n    limits: {cost_per_day: 5}\n",
            "w:3: tenants[0]: a limit on money needs usage: true and usage.prices",
        ),
        ("limits:\n  body_bytes: 2000000000\n", "w:2: limits.buffered_body_bytes: is less than limits.body_bytes"),
        ("health: {backoff_max_s: 0.5}\n", "w:1: health.backoff_max_s: is less than health.backoff_min_s"),
        ("health: {probe_interval_s: 60}\n", "w:1: health.scrape_interval_s: is less than"),
        ("registry: {idle_max_s: 200}\n", "w:1: registry.idle_max_s: is less than registry.idle_min_s"),
        ("registry: {idle_min_s: 4000}\n", "w:1: registry.idle_max_s: is less than registry.idle_min_s"),
        ("registry: {idle_min_s: 0.002}\n", "w:1: registry.idle_min_s: is not more than registry.lookup_deadline_s"),
    ],
)  # fmt: skip
def test_a_fault_in_the_file_names_key_and_line(tmp_path: Path, text: str, message: str) -> None:
    assert fault(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    "url",
    [
        "a:1",
        "ftp://a:1",
        "http://",
        "http://a:1/v1",
        "http://a:x",
        "http://u:p@a:1",
        "http://a:1?x",
        "http://a b:1",
        "http://a:70000",
        "http://[::1",
        "http://a:0",
        "http://@a:1",
    ],
)
def test_a_replica_is_a_bare_url(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--replica: replicas\[0\]: must be http://HOST:PORT"):
        load([("--replica", "replicas", [url])], environ={})


def test_replica_urls_are_made_canonical() -> None:
    urls = ["http://A.example:80/", "https://b.example", "http://[::1]:8000"]
    replicas = load([("--replica", "replicas", urls)], environ={}).replicas
    assert [replica.id for replica in replicas] == ["a.example:80", "b.example:443", "[::1]:8000"]
    assert [replica.url for replica in replicas] == [
        "http://a.example:80",
        "https://b.example",
        "http://[::1]:8000",
    ]


def test_a_certificate_needs_its_key_and_a_key_its_certificate(tmp_path: Path) -> None:
    pem = write(tmp_path, "")
    for given, missing in (("cert_file", "key_file"), ("key_file", "cert_file")):
        with pytest.raises(ConfigError, match=rf"^--set: tls.{given}: needs tls.{missing}"):
            load([REPLICA, ("--set", f"tls.{given}", pem)], environ={})
    with pytest.raises(ConfigError, match="is of no use"):
        load(
            [REPLICA, ("--set", "tls.upstream_ca_file", pem), ("--set", "tls.upstream_verify", "false")],
            environ={},
        )
    both = load([REPLICA, ("--set", "tls.cert_file", pem), ("--set", "tls.key_file", pem)], environ={})
    assert both.tls.key_file == pem


def test_unknown_flag_key_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match="--set: registry.idle_mx_s: unknown key; did you mean 'registry.idle_max_s'"
    ):
        load([("--set", "registry.idle_mx_s", "1")], environ={})


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(path=str(tmp_path), environ={})
    (tmp_path / "latin").write_bytes(b"listen: \xff\n")
    with pytest.raises(ConfigError, match="is not UTF-8: byte 8"):
        load(path=str(tmp_path / "latin"), environ={})
    (tmp_path / "deep").write_bytes(b"[" * 20_000)
    with pytest.raises(ConfigError, match="is nested too deeply|is not YAML"):
        load(path=str(tmp_path / "deep"), environ={})
    (tmp_path / "long").write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="is longer than"):
        load(path=str(tmp_path / "long"), environ={})


def test_an_alias_that_contains_itself_ends_in_an_error(tmp_path: Path) -> None:
    assert "must be a section" in fault(tmp_path, "limits: &a\n  - *a\n")
    assert "must be HOST:PORT" in fault(tmp_path, "listen: &a [*a]\n")


def test_an_empty_file_and_empty_sections_change_nothing(tmp_path: Path) -> None:
    plain = load([REPLICA], environ={})
    for text in ("", "# nothing\n", "limits:\nregistry: {}\n", "tls: null\n"):
        assert load([REPLICA], path=write(tmp_path, text), environ={}) == plain


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "hold=7",
            "--set hold: hold.enabled: must be true or false, not '7'; 'hold' itself stands for this key, and the"
            " section has hold.enabled, hold.ahead_tokens, hold.max_requests, hold.max_s",
        ),
        (
            "headers=yes",
            "--set headers: headers: is a section and takes no value itself; set one of headers.explain,",
        ),
        ("hold.max_s=x", "--set hold.max_s: hold.max_s: must be a number, not 'x'"),
    ],
)
def test_a_value_for_a_whole_section_is_refused_with_the_keys_that_it_has(setting: str, message: str) -> None:
    key, _, text = setting.partition("=")
    with pytest.raises(ConfigError) as refused:
        load([REPLICA, (f"--set {key}", key, text)], environ={})
    assert str(refused.value).startswith(message)
    variable = f"WARMROUTE_{key.upper().replace('.', '__')}"
    with pytest.raises(ConfigError) as refused:
        load([REPLICA], environ={variable: text})
    assert str(refused.value).startswith(message.replace(f"--set {key}", variable))


def test_a_flag_sets_what_its_section_stands_for() -> None:
    config = load(
        [REPLICA, ("--set policy", "policy", "round-robin"), ("--set hold", "hold", "off")], environ={}
    )
    assert (config.policy.name, config.hold.enabled) == ("round-robin", False)


def test_effective_settings_load_to_the_same(tmp_path: Path) -> None:
    config = load(
        [REPLICA, ("--set", "limits.body_bytes", "1000"), ("--listen", "listen", "[::]:1")], environ={}
    )
    assert load(path=write(tmp_path, effective(config)), environ={}) == config


def test_secrets_are_neither_printed_nor_shown_by_repr() -> None:
    config = load(
        [
            REPLICA,
            ("--set", "fingerprint.secret", "correct-horse-battery"),
            ("--set", "health.api_key", "hunter-two"),
            ("--registry", "registry.url", "rediss://user:pass-word@h:1/0"),
        ],
        environ={},
    )
    text = effective(config)
    assert "correct-horse" not in text + repr(config)
    assert "hunter-two" not in text + repr(config)
    assert yaml.safe_load(text)["registry"]["url"] == "rediss://user:***@h:1/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@h:1", "redis://:***@h:1"),
        ("redis://u:ge/heim@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:ge?he#im@h", "redis://:***@h"),
        ("redis://:g@heim@h", "redis://:***@h"),
        ("redis://h?password=geheim&db=2", "redis://h?password=***&db=2"),
        ("redis://h?password=ge@heim", "redis://h?password=***"),
        (
            "redis+sentinel://:geheim@a,b/s?sentinel_password=geheim&ssl_ca_certs=/x",
            "redis+sentinel://:***@a,b/s?sentinel_password=***&ssl_ca_certs=/x",
        ),
        ("dns://h:8000?model=a@b", "dns://h:8000?model=a@b"),
        ("dns://u:geheim@h:8000", "dns://u:***@h:8000"),
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_policies_and_their_parameters_are_those_of_the_core() -> None:
    assert set(get_args(PolicyName)) == set(POLICIES)
    config, core = PolicyConfig(), CostParameters()
    shared = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(core)}
    assert {"prefill_tokens_per_s", "crowd_weight", "bounded_load_factor"} <= shared
    for name in shared:
        assert getattr(config, name) == getattr(core, name), name
    health, core_health = HealthConfig(), HealthParameters()
    assert health.failures == core_health.failures_to_eject
    assert health.backoff_min_s == core_health.backoff_s
    assert health.backoff_max_s == core_health.max_backoff_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("host:65535", ("host", 65535))],
)
def test_addresses_are_split(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", ":80", "a:", "a:-1", "a:1.0", "a", "::1:80", "a:\u0661"])
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        split_address(text)


def test_all_faults_are_reported_at_once_each_with_its_place(tmp_path: Path) -> None:
    text = """\
registri: memory
max_attempts: two
limits:
  body_byte: 5
  body_bytes: 0
health: {backoff_max_s: 0.5}
replicas:
- {url: 'http://a:1', ulr: b}
- {id: c}
- {url: 5}
"""
    with pytest.raises(ConfigError) as caught:
        load(
            [("--admin", "admin", "here")],
            path=write(tmp_path, text),
            environ={"WARMROUTE_LISTN": "x", "WARMROUTE_POLICY": "nearest"},
        )
    messages = [message.replace(f"{tmp_path}/", "") for message in caught.value.messages]
    assert [message.rpartition(": ")[0] or message for message in messages[:3]] == [
        "WARMROUTE_LISTN",
        "w:1: registri",
        "w:4: limits.body_byte",
    ]
    assert {
        "w:2: max_attempts: must be a whole number, not 'two'",
        "w:5: limits.body_bytes: must be from 1 to 1,099,511,627,776, not 0",
        "w:8: replicas[0].ulr: unknown key; did you mean 'url'?",
        "w:9: replicas[1].url: is missing",
        "w:10: replicas[2].url: must be text, not '5'; put it in quotes",
        "--admin: admin: expected HOST:PORT, not 'here'",
        "w:6: health.backoff_max_s: is less than health.backoff_min_s",
    } < set(messages)
    assert any("'nearest' is not known" in message for message in messages)
    assert len(messages) == 11
    assert str(caught.value).count("\n") == 10


@pytest.mark.parametrize(
    "text",
    [
        "workers: 2\nregistry: {url: 5}\n",  # whether a shared registry is meant cannot be known
        "workers: 2\nregistry: [redis://h]\n",
        "access_log: {fingerprints: true, enabled: 3}\n",
        "replicas: [5]\n",
    ],
)
def test_no_fault_is_invented_from_a_default_that_stands_in_for_what_is_wrong(
    tmp_path: Path, text: str
) -> None:
    assert fault(tmp_path, text).count("\n") == 0


def test_an_unreadable_file_does_not_hide_what_is_wrong_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            [("--listen", "listen", "127.0.0.1:8001")],
            path=str(tmp_path / "none"),
            environ={"WARMROUTE_MAX_ATTEMPTS": "0"},
        )
    first, second = caught.value.messages
    assert first.endswith("none: cannot be read: No such file or directory")
    assert second == "WARMROUTE_MAX_ATTEMPTS: max_attempts: must be from 1 to 100, not 0"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("[{model: m}, {model: m, ttl_s: 5}]", "rules[1]"),
        ("[{}, {model: m}]", "is never reached"),
        ("[{tenant: support}]", "nobody is known"),
        ("[{tenant: 'a b'}]", "tenant 'a b' must be"),
        ("[{model: ''}]", "the model's name is empty"),
    ],
)
def test_a_rule_of_the_response_cache_that_can_do_nothing_is_a_fault(
    tmp_path: Path, rules: str, says: str
) -> None:
    assert says in fault(tmp_path, f"replicas: [http://a:1]\nresponse_cache: {{rules: {rules}}}\n")
