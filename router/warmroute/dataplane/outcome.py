"""An outcome has what of an exchange is read when it is over: by the accounts, and by whoever let it in.

This module decides nothing. It is the lowest of the classes that make up an exchange, so that one object has all of a
request's state.
"""

from __future__ import annotations

from warmroute.core.types import RequestShape
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.upstream import Asker
from warmroute.tenants.limits import Grant
from warmroute.tenants.tenant import Caller


class Outcome(Asker):
    """What of an exchange is counted when it is over."""

    __slots__ = (
        "admitted",
        "attempts",
        "begun",
        "body_bytes",
        "caller",
        "client",
        "first_byte_s",
        "grant",
        "held_s",
        "request_id",
        "retried_after",
        "shape",
        "unlisted_model",
    )

    def __init__(self, client: ClientSide, request_id: bytes) -> None:
        self.client = client
        self.request_id = request_id
        self.caller: Caller | None = None
        """Whose request it is; None where nobody is asked, or before that is known."""
        self.admitted = False
        """Whether `admission` was asked to let it in; it hears of the end then."""
        self.grant: Grant | None = None
        """What it takes of its tenant's limits."""
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
