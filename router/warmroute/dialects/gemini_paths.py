"""Which of Google's calls a request line names, and which of the same resource's under `/v1/caches`. Nothing else.

Google's clients call `/v1beta` or `/v1`; what `/v1` has there of other APIs (`/v1/models` without a verb) is left to
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote

from warmroute.core.errors import ClientError, NotFoundError


class Verb(StrEnum):
    """What is asked for."""

    GENERATE = "generateContent"
    STREAM = "streamGenerateContent"
    COUNT = "countTokens"
    CREATE = "create"
    LIST = "list"
    GET = "get"
    PATCH = "patch"
    DELETE = "delete"


class Asked(NamedTuple):
    """A call."""

    verb: Verb
    google: bool
    """Whether it is Google's API: else the same resource in OpenAI's manner."""
    name: str = ""
    """The model, or the content's id."""
    alt: str = ""
    """How a stream is to be written: `sse`, else a JSON array."""
    page: int = 0
    """How many to list; 0 where nothing is said."""
    after: str = ""
    """Where the list goes on."""


class MethodNotAllowedError(ClientError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        known = ", ".join(allowed)
        super().__init__(f"method {method} is not allowed here; use {known}")
        self.lines = b"allow: %b\r\n" % known.encode()


_GENERATING: Final = {verb.value: verb for verb in (Verb.GENERATE, Verb.STREAM, Verb.COUNT)}
_ROOTS: Final = ("/v1beta/", "/v1/")
_ALL: Final = {"GET": Verb.LIST, "POST": Verb.CREATE}
_ONE: Final = {"GET": Verb.GET, "PATCH": Verb.PATCH, "DELETE": Verb.DELETE}


def concerns(path: bytes) -> bool:
    """Whether a path may be one of these; cheap, for every request."""
    return (
        path[:8] == b"/v1beta/"
        or path[:7] == b"/v1/cac"
        or (path[:4] == b"/v1/" and (b":" in path or b"%3" in path))
    )


def asked(method: str, target: str) -> Asked | None:
    """The call that a request line names; None: it is none of these.

    Args:
        target: Path and query.

    Raises:
        ClientError: The path is one of these, and nothing like that can be done there.
    """
    path, _, query = target.partition("?")
    path = unquote(path)
    if path.rstrip("/") == "/v1/caches" or path.startswith("/v1/caches/"):
        return _resource(method, path[len("/v1/caches") :].strip("/"), query, google=False)
    root = next((root for root in _ROOTS if path.startswith(root)), None)
    if root is None:
        return None
    rest = path[len(root) :].rstrip("/")
    if rest == "cachedContents" or rest.startswith("cachedContents/"):
        return _resource(method, rest[len("cachedContents") :].strip("/"), query, google=True)
    kind, _, named = rest.partition("/")
    model, colon, verb = named.rpartition(":")
    if kind in ("models", "tunedModels") and colon and model:
        found = _GENERATING.get(verb)
        if found is None and root == "/v1/" and method in ("GET", "HEAD"):
            return None  # a model's card: its id may have a colon
        if found is None:
            raise ClientError(
                f"{verb[:60]!r} is not served here: generateContent, streamGenerateContent and countTokens are",
                status=501,
                code="endpoint_not_implemented",
            )
        if method != "POST":
            raise MethodNotAllowedError(method, ("POST",))
        return Asked(found, True, model, _one(query, "alt"))
    if root == "/v1beta/":
        raise NotFoundError(f"no endpoint {path[:200]!r} here", code="unknown_endpoint")
    return None


def key_of(query: str) -> str:
    """The key that a request shows in its query, as Google's API allows."""
    return _one(query, "key")


def _resource(method: str, content_id: str, query: str, *, google: bool) -> Asked:
    methods = dict(_ONE if content_id else _ALL)
    if content_id and not google:
        methods["POST"] = Verb.PATCH  # as OpenAI's API changes what it keeps
    verb = methods.get(method)
    if verb is None:
        raise MethodNotAllowedError(method, methods)
    if verb is not Verb.LIST:
        return Asked(verb, google, content_id)
    size, after = ("pageSize", "pageToken") if google else ("limit", "after")
    words = _one(query, size)
    if words and not (words.isascii() and words.isdigit() and 0 < len(words) < 8):
        raise ClientError(f"{size} must be a whole number", param=size)
    return Asked(verb, google, page=int(words or 0), after=_one(query, after))


def _one(query: str, name: str) -> str:
    if name + "=" not in query:
        return ""
    return parse_qs(query, keep_blank_values=True).get(name, [""])[-1]
