"""An outcome has what of an exchange is read when it is over: by the accounts, and by whoever let it in.

This module decides nothing. It is the lowest of the classes that make up an exchange, so that one object has all of a
request's state.
"""

from __future__ import annotations

from warmroute.core.types import RequestShape
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.upstream import Asker
from warmroute.tenants.caller import Caller, Standing
from warmroute.tenants.limits import Grant


class Outcome(Asker):
    """What of an exchange is counted when it is over."""

    __slots__ = (
        "attempts",
        "begun",
        "body_bytes",
        "caller",
        "charged_tokens",
        "client",
        "first_byte_s",
        "grant",
        "held_s",
        "request_id",
        "retried_after",
        "shape",
        "standing",
        "unlisted_model",
    )

    def __init__(self, client: ClientSide, request_id: bytes) -> None:
        self.client = client
        self.request_id = request_id
        self.caller: Caller | None = None
        """Whose request it is; None where nobody is asked, or before that is known."""
        self.standing: Standing | None = None
        """Where it is counted, once `admission` was asked to let it in, until it has heard of the end."""
        self.grant: Grant | None = None
        """What it takes of its tenant's limits."""
        self.charged_tokens = 0.0
        """What its tenant was charged for it when the queue let it go."""
        self.attempts = 0
        """How many times the request was dispatched."""
        self.begun = False
        """A replica's first body byte has come: no other after it."""
        self.body_bytes = 0
        """Body bytes passed on, once the answer is over."""
        self.first_byte_s: float | None = None
        """Monotonic time of the first body byte passed on."""
        self.held_s = 0.0
        """How long it was held."""
        self.retried_after: str | None = None
        """Replica and reason of the last try that another replica made good."""
        self.shape: RequestShape | None = None
        self.unlisted_model: str | None = None
        """The model's name where no replica lists it, and the request goes to any."""

    def said_tokens(self) -> int:
        """About how many tokens of an answer the client was passed on, where no usage says it."""
        return 0

    def written(self, prompt_tokens: int, cached_tokens: int) -> tuple[int, int]:
        """Prompt tokens that the engine says it put into its cache, and how many of them for an hour."""
        return 0, 0
