"""What a dialect reads from a request: the few fields that routing needs.

Holds no request body. Field values are the client's claims; an engine checks them again.
"""

from __future__ import annotations

import msgspec

from router.core.errors import ClientError

ABSENT = msgspec.Raw()
"""Default of fields kept as sent."""


class Parsed(msgspec.Struct, gc=False):
    """One request as the router sees it."""

    model: str
    """Model or adapter; empty only for `Api.OTHER`."""
    scope_salt: str = ""
    """The client's `cache_salt`: requests of different salts share no cache."""
    canonical: bytes = b""
    """Canonical prompt; the first one's of a batch; empty for `Api.OTHER`."""
    prompt_bytes: int = 0
    """Length of all canonical prompts of a batch together; `len(canonical)` otherwise."""
    stream: bool = False
    cache_key: str | None = None
    """`prompt_cache_key` or `session_id`: requests that belong together."""
    previous_response_id: str | None = None
    stores_response: bool = False
    """The engine may keep the answer under an id (`/v1/responses` with `store`, its default)."""
    wants_usage: bool = False
    """A streamed answer ends with usage: asked for by `stream_options`, or always in this API."""
    max_tokens: int | None = None
    tokens_known: int | None = None
    """Exact prompt tokens, all prompts of a batch together; `None` unless the prompt is token ids."""
    may_ask_usage: bool = False
    """A stream of one answer whose client says nothing of usage, neither yes nor no."""


class StreamOptions(msgspec.Struct, gc=False):
    """`stream_options` of chat and completions."""

    include_usage: bool | None = None


Options = StreamOptions | None | msgspec.UnsetType
ONE = (b"", b"1", b"null")
"""Values of `n`, as sent, that ask for one answer."""


def whole(value: float | None) -> int | None:
    """A token count that a client may have written as `16.0`."""
    return None if value is None else int(value)


def model_required() -> ClientError:
    """What a request without a model is answered, in every API."""
    return ClientError("model: name the model to use", code="model_required", param="model")


def messages_required() -> ClientError:
    """What a conversation without a message is answered."""
    return ClientError("messages: at least one message is required", code="prompt_required", param="messages")
