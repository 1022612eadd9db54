"""Requests that make and change cached contents, and how contents are shown: in Google's manner and in OpenAI's.

Decides what a client may ask of a content's lifetime. It keeps nothing and has no clock. Also joins a content with a
chat request that names it in `cached_content`.

Source: ai.google.dev/api/caching as of 2026-11; google-genai 1.x `caches.py`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from warmroute.caching.content import CachedContent, Prefix
from warmroute.core.errors import ClientError
from warmroute.dialects import gemini
from warmroute.dialects.gemini_fields import field

Json = dict[str, Any]

FIELD: Final = b'"cached_content"'
"""How a chat request that names a content must contain it, whatever blanks are around."""
MOST_NAME: Final = 128
MOST_S: Final = 1e12
"""What is more is no time that anybody means."""
_TTL: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s")
_OPENAI: Final = ("messages", "tools", "tool_choice")

_encode: Final = msgspec.json.Encoder().encode


class Wanted(NamedTuple):
    """A content that is to be made."""

    model: str
    prefix: Prefix
    display_name: str
    expires_s: float


def lifetime(request: Json, now_s: float, default_s: float | None, most_s: float) -> float:
    """When a content shall expire: Unix time.

    Args:
        default_s: How long it lives where nothing is said; None: something must be.

    Raises:
        ClientError: It says nothing that can be done.
    """
    ttl, until = request.get("ttl"), field(request, "expireTime")
    at = request.get("expires_at")
    if (ttl is not None) + (until is not None) + (at is not None) > 1:
        raise ClientError("give one of ttl and the time of expiry, not both", param="ttl")
    if ttl is not None:
        lives_s = _seconds(ttl)
    elif until is not None:
        lives_s = _time(until) - now_s
    elif at is not None:
        at_s = _number(at)
        if at_s is None:
            raise ClientError("expires_at must be a Unix time in seconds", param="expires_at")
        lives_s = at_s - now_s
    elif default_s is not None:
        lives_s = default_s
    else:
        raise ClientError("give ttl or the time of expiry: nothing else can be changed", param="ttl")
    if lives_s <= 0.0:
        raise ClientError("the time of expiry is past", param="ttl")
    if lives_s > most_s:
        raise ClientError(
            f"contents live for {most_s:g} s at most here (cached_contents.ttl_max_s), not {lives_s:.0f} s",
            param="ttl",
        )
    return now_s + lives_s


def _number(value: Any) -> float | None:
    """A JSON number that has a meaning as seconds; an integer may be too long to be a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_S:
        return None
    return float(value)


def _seconds(ttl: Any) -> float:
    seconds = _number(ttl)
    if seconds is not None:
        return seconds
    found = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
    if found is None:
        raise ClientError('ttl must be seconds followed by s, such as "300s"', param="ttl")
    return float(found[1])


def _time(text: Any) -> float:
    try:
        when = datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", str(text).replace("Z", "+00:00")))
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ClientError(
            "expireTime must be a time such as 2026-11-21T12:00:00Z", param="expireTime"
        ) from error


def wanted(request: Json, now_s: float, *, google: bool, default_s: float, most_s: float) -> Wanted:
    """Read a request to make one.

    Raises:
        ClientError: It cannot be made.
    """
    model = request.get("model")
    if not isinstance(model, str) or not model.removeprefix("models/"):
        raise ClientError("model: name the model that will use it", code="model_required", param="model")
    name = field(request, "displayName")
    name = name if name is not None else request.get("name") if not google else None
    if name is not None and (not isinstance(name, str) or len(name) > MOST_NAME):
        raise ClientError(f"displayName must be text of {MOST_NAME} characters at most", param="displayName")
    prefix = gemini.prefix_of(request) if google else _openai_prefix(request)
    if not prefix.messages:
        what = "contents or systemInstruction" if google else "messages"
        raise ClientError(f"{what}: there is nothing to be cached", code="prompt_required", param=what)
    expires_s = lifetime(request, now_s, default_s, most_s)
    return Wanted(model.removeprefix("models/"), prefix, name or "", expires_s)


def _openai_prefix(request: Json) -> Prefix:
    messages = _messages(request)
    tools = request.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise ClientError("tools must be a list", param="tools")
    return Prefix(messages, tools or None, request.get("tool_choice"))


def _messages(request: Json) -> list[Json]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages
    ):
        raise ClientError("messages must be a list of messages, each with a role", param="messages")
    return messages


def named(request: Json) -> str | None:
    """The content that a request names; None: none.

    Raises:
        ClientError: It is no name.
    """
    for name in ("cachedContent", "cached_content"):
        found = request.get(name)
        if found is not None:
            if not isinstance(found, str):
                raise ClientError(f"{name} must be the name of a cached content", param=name)
            return found or None
    return None


def same_model(content: CachedContent, model: str) -> None:
    """Refuse a content that was made for another model.

    Raises:
        ClientError: It was.
    """
    if model != content.model:
        raise ClientError(
            f"the cached content {content.name} was made for the model {content.model!r}, not {model!r}",
            param="model",
        )


def joined(request: Json, content: CachedContent, prefix: Prefix) -> Json:
    """The chat request that a request with `cached_content` means.

    Raises:
        ClientError: What it says besides would change what comes before the content.
    """
    request = {name: value for name, value in request.items() if name != "cached_content"}
    if request.get("model") is None:
        request["model"] = content.model
    same_model(content, str(request["model"]))
    for name in ("tools", "tool_choice"):
        if request.get(name):
            raise ClientError(
                f"{name} cannot be given together with cached_content: put it into the cached content instead",
                param=name,
            )
    messages = _messages(request)
    if any(message["role"] in ("system", "developer") for message in messages):
        raise ClientError(
            "a system message cannot be given together with cached_content: put it into the cached content instead",
            param="messages",
        )
    request["messages"] = _in_turns(prefix.messages, messages)
    if prefix.tools:
        request["tools"] = prefix.tools
        if prefix.tool_choice is not None:
            request["tool_choice"] = prefix.tool_choice
    return request


def _in_turns(before: list[Json], after: list[Json]) -> list[Json]:
    """Both, in turns: where the content ends with a user's message and one follows they become one, which templates
    want; what the content says stays at its beginning."""
    if not before or not after or before[-1]["role"] != "user" or after[0]["role"] != "user":
        return [*before, *after]
    parts = [*_parts(before[-1].get("content")), *_parts(after[0].get("content"))]
    return [*before[:-1], {**before[-1], "content": parts}, *after[1:]]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content) if isinstance(content, list) else []


def warming_request(model: str, prefix: Prefix) -> bytes:
    """The chat request that has an engine compute what a content holds, and nothing else.

    It ends with a user's message where the content does not, since templates refuse a prompt that has none.
    """
    messages = prefix.messages
    if not any(message["role"] == "user" for message in messages):
        messages = [*messages, {"role": "user", "content": "."}]
    body: Json = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
    if prefix.tools:
        body["tools"] = prefix.tools
    return _encode(body)


# -- shown -----------------------------------------------------------------------------------------------------------


def shown(content: CachedContent, *, google: bool) -> Json:
    """A content as its maker's API shows it; what it holds is never shown."""
    if not google:
        return {
            "id": content.id,
            "object": "cache",
            "model": content.model,
            "name": content.display_name,
            "created_at": int(content.created_s),
            "updated_at": int(content.updated_s),
            "expires_at": int(content.expires_s),
            "usage": {"total_tokens": content.tokens},
        }
    told: Json = {
        "name": content.name,
        "model": f"models/{content.model}",
        "createTime": _shown_time(content.created_s),
        "updateTime": _shown_time(content.updated_s),
        "expireTime": _shown_time(content.expires_s),
        "usageMetadata": {"totalTokenCount": content.tokens},
    }
    if content.display_name:
        told["displayName"] = content.display_name
    return told


def shown_page(contents: list[CachedContent], more: bool, *, google: bool) -> Json:
    """A page of a list."""
    rows = [shown(content, google=google) for content in contents]
    if google:
        page: Json = {"cachedContents": rows} if rows else {}
        if more and contents:
            page["nextPageToken"] = contents[-1].id
        return page
    ids = {"first_id": contents[0].id, "last_id": contents[-1].id} if contents else {}
    return {"object": "list", "data": rows, "has_more": more, **ids}


def shown_deletion(content_id: str, *, google: bool) -> Json:
    """The answer to a deletion."""
    return {} if google else {"id": content_id, "object": "cache", "deleted": True}


def _shown_time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
