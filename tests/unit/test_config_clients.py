"""Settings about clients: sessions, browsers' pages."""

from __future__ import annotations

import pytest

from warmroute.config.errors import ConfigError
from warmroute.config.load import load

REPLICA = ("--replica", "replicas", ["http://a:1"])


def test_lists_are_separated_by_commas_in_flags_and_variables() -> None:
    config = load(
        [REPLICA, ("--set", "cors.allowed_origins", "https://a.example, https://b.example:3000")],
        environ={"WARMROUTE_SESSIONS": "prompt_cache_key,header:X-Tenant"},
    )
    assert config.cors.allowed_origins == ("https://a.example", "https://b.example:3000")
    assert config.sessions == ("prompt_cache_key", "header:X-Tenant")


@pytest.mark.parametrize(
    "place", ["X-Session-Id", "header:", "header:a b", "model", "metadata..x", "metadata.", ""]
)
def test_a_place_that_cannot_name_a_session_is_an_error(place: str) -> None:
    with pytest.raises(ConfigError, match=r"sessions\[1\]"):
        load([REPLICA, ("--set", "sessions", ["prompt_cache_key", place])], environ={})


@pytest.mark.parametrize("origin", ["chat.example", "https://chat.example/", "https://a b", "a,b", "**"])
def test_an_origin_with_a_path_or_without_a_scheme_is_an_error(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"cors.allowed_origins\[0\]"):
        load([REPLICA, ("--set", "cors.allowed_origins", [origin])], environ={})


def test_names_of_headers_and_methods_are_names() -> None:
    with pytest.raises(ConfigError, match=r"cors.allowed_headers\[0\]"):
        load([REPLICA, ("--set", "cors.allowed_headers", ["a: b\r\nc"])], environ={})
    with pytest.raises(ConfigError, match="cors.credentials"):
        load([REPLICA, ("--set", "cors.credentials", "true")], environ={})
