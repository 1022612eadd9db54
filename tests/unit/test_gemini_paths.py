"""Which of Google's calls a request line names."""

from __future__ import annotations

import pytest

from warmroute.core.errors import ClientError
from warmroute.dialects.gemini_paths import Asked, Verb, asked, concerns, key_of


@pytest.mark.parametrize("root", ["/v1beta", "/v1"])
def test_googles_calls(root: str) -> None:
    found = [
        asked(method, root + target)
        for method, target in (
            ("POST", "/models/a/b:c:generateContent"),
            ("POST", "/models/m:streamGenerateContent?alt=sse&key=k"),
            ("POST", "/models/m%3AcountTokens"),
            ("POST", "/cachedContents"),
            ("GET", "/cachedContents?pageSize=5&pageToken=abc"),
            ("GET", "/cachedContents/abc"),
            ("PATCH", "/cachedContents/abc?updateMask=ttl"),
            ("DELETE", "/cachedContents/abc/"),
        )
    ]
    assert found == [
        Asked(Verb.GENERATE, True, "a/b:c"),
        Asked(Verb.STREAM, True, "m", "sse"),
        Asked(Verb.COUNT, True, "m"),
        Asked(Verb.CREATE, True),
        Asked(Verb.LIST, True, page=5, after="abc"),
        Asked(Verb.GET, True, "abc"),
        Asked(Verb.PATCH, True, "abc"),
        Asked(Verb.DELETE, True, "abc"),
    ]


def test_the_same_resource_in_openais_manner() -> None:
    assert asked("GET", "/v1/caches?limit=2&after=x") == Asked(Verb.LIST, False, page=2, after="x")
    assert asked("POST", "/v1/caches/abc") == Asked(Verb.PATCH, False, "abc")


@pytest.mark.parametrize("target", ["/v1/models", "/v1/models/a:b/c", "/v1/chat/completions", "/health"])
def test_what_is_another_apis(target: str) -> None:
    assert asked("GET", target) is None


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/v1beta/models/m:embedContent", 501),
        ("GET", "/v1beta/models/m:generateContent", 405),
        ("PUT", "/v1/models/m:generateContent", 405),
        ("PUT", "/v1beta/cachedContents", 405),
        ("POST", "/v1beta/cachedContents/abc", 405),
        ("GET", "/v1beta/files", 404),
        ("GET", "/v1beta/cachedContents?pageSize=-1", 400),
    ],
)
def test_what_cannot_be_done_there(method: str, target: str, status: int) -> None:
    with pytest.raises(ClientError) as raised:
        asked(method, target)
    assert raised.value.status == status


def test_only_such_paths_are_looked_at() -> None:
    for path in (b"/v1beta/x", b"/v1/models/m:generateContent", b"/v1/models/m%3AcountTokens", b"/v1/caches"):
        assert concerns(path)
    for path in (b"/v1/chat/completions", b"/v1/models", b"/health", b"/"):
        assert not concerns(path)


def test_the_key_in_the_query() -> None:
    assert key_of("alt=sse&key=a%2Bb") == "a+b"
    assert key_of("monkey=1") == ""
