"""Whatever a settings file or variable holds, loading ends in settings or in a `ConfigError`."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmroute.config.convert import convert
from warmroute.config.errors import ConfigError, Faults
from warmroute.config.load import load
from warmroute.config.schema import Config
from warmroute.config.schema_walk import ENV_PREFIX, environment_names, leaves
from warmroute.config.sources import Nodes, from_yaml, text_node

KEYS = [key for key, _, _ in leaves(Config)]
ANNOTATIONS = {key: annotation for key, annotation, _ in leaves(Config)}
TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "1",
            "-1",
            "1e400",
            "0x10",
            "1:30",
            "~",
            "null",
            "true",
            "on",
            ".nan",
            "2020-01-01",
            "[]",
            "a:1",
            "=",
        ]
    ),
)


def load_yaml(data: bytes) -> Nodes:
    faults = Faults()
    nodes = from_yaml(data, "file", faults)
    faults.raise_any()
    return nodes


FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAST
@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        load_yaml(data)


@FAST
@given(
    st.dictionaries(st.sampled_from(KEYS), TEXT, max_size=6), st.sampled_from(["", "- ", "{x: ", "[", "&a "])
)
def test_any_text_under_a_known_key_is_settings_or_an_error(values: dict[str, str], mark: str) -> None:
    lines = []
    for key, text in values.items():
        *section, name = key.split(".")
        lines.append(
            "".join(f"{part}: {{" for part in section) + f"{name}: {mark}{text}" + "}" * len(section)
        )
    with contextlib.suppress(ConfigError):
        for key, node in load_yaml("\n".join(lines).encode(errors="replace")).items():
            convert(node, ANNOTATIONS[key], key)


def messages_of(environ: dict[str, str]) -> tuple[str, ...]:
    """What is wrong with this environment; nothing where it can be served with."""
    try:
        load([("--replica", "replicas", ["http://a:1"])], environ=environ)
    except ConfigError as error:
        return error.messages
    return ()


@FAST
@given(st.dictionaries(st.sampled_from(sorted(environment_names(Config))), TEXT, max_size=4))
def test_any_environment_is_settings_or_an_error(environ: dict[str, str]) -> None:
    messages = messages_of(environ)
    assert "\n" not in "".join(messages)
    assert len(set(messages)) == len(messages)


@FAST
@given(st.dictionaries(st.sampled_from(KEYS), TEXT, max_size=4))
def test_what_is_wrong_alone_is_reported_beside_whatever_else_is_wrong(values: dict[str, str]) -> None:
    environ = {ENV_PREFIX + key.upper().replace(".", "__"): text for key, text in values.items()}
    together = messages_of(environ)
    for variable, text in environ.items():
        if variable != "WARMROUTE_REPLICAS":  # the flag wins
            # Two variables may together be right where one alone contradicts a default, and the reverse.
            alone = [m for m in messages_of({variable: text}) if "must be" in m or "not known" in m]
            assert set(alone) <= set(together)


@FAST
@given(st.sampled_from(KEYS), TEXT)
def test_a_variable_and_a_flag_mean_the_same(key: str, text: str) -> None:
    values = []
    for origin in ("--set", "WARMROUTE_X"):
        try:
            values.append((True, convert(text_node(text, origin), ANNOTATIONS[key], key)))
        except ConfigError as error:
            values.append((False, str(error).removeprefix(origin)))
    assert values[0] == values[1]
