"""A parsed request is what a dialect reads of it: the few things that routing needs.

It holds no request body. Values are the client's claims; an engine checks them again. This module stands apart from the
fields that msgspec decodes (`fields`), because this is compiled and those cannot be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmroute.core.errors import ClientError

if TYPE_CHECKING:
    from warmroute.dialects.fields import SessionFields


class Parsed:
    """One request as the router sees it."""

    __slots__ = (
        "canonical",
        "may_ask_usage",
        "model",
        "previous_response_id",
        "prompt_bytes",
        "reads_cache",
        "request",
        "scope_salt",
        "stream",
        "told",
        "tokens_known",
    )

    def __init__(
        self,
        model: str,
        scope_salt: str = "",
        canonical: bytes = b"",
        prompt_bytes: int = 0,
        stream: bool = False,
        told: SessionFields | None = None,
        previous_response_id: str | None = None,
        tokens_known: int | None = None,
        may_ask_usage: bool = False,
        reads_cache: bool = True,
        request: object = None,
    ) -> None:
        self.model = model
        """Model or adapter; empty where the body names none."""
        self.scope_salt = scope_salt
        """The client's `cache_salt`: requests of different salts share no cache."""
        self.canonical = canonical
        """Canonical prompt; the first one's of a batch; empty for `Api.OTHER` and where no prompt could be read."""
        self.prompt_bytes = prompt_bytes
        """Length of all canonical prompts of a batch together; `len(canonical)` otherwise."""
        self.stream = stream
        self.told: SessionFields | None = told
        """What it says of the session that it belongs to, for `sessions` to read; None: nothing."""
        self.previous_response_id = previous_response_id
        self.tokens_known = tokens_known
        """Exact prompt tokens, all prompts of a batch together; `None` unless the prompt is token ids."""
        self.may_ask_usage = may_ask_usage
        """A stream of one answer whose client says nothing of usage, neither yes nor no."""
        self.reads_cache = reads_cache
        """False if it asks for the prompt's log probabilities: engines then compute all of it, whatever they hold."""
        self.request = request
        """The fields as decoded, for what reads more of them than routing does; None where they could not be."""


def model_required() -> ClientError:
    """What a request without a model is answered, in every API, where the fleet has several."""
    return ClientError(
        "model: name the model to use; this fleet serves several", code="model_required", param="model"
    )


def messages_required() -> ClientError:
    """What a conversation without a message is answered."""
    return ClientError("messages: at least one message is required", code="prompt_required", param="messages")
