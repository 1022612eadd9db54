"""What an exchange says of itself where it is counted: whose interface it speaks, what its answer took, and what was
written.

This module decides nothing else; `exchange` asks it at the end, and `admission`, where usage is counted by tenant.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.types import Api
from warmroute.dataplane.failover.resuming import Resuming
from warmroute.dialects.routes import RouteKind
from warmroute.dialects.usage import Usage, find_usage
from warmroute.dialects.usage_told import CREATED, CREATION, written_tokens
from warmroute.tenants.prices import ANTHROPIC, DEEPSEEK, OPENAI, OTHER

_MESSAGES: Final = Api.MESSAGES
_OTHER: Final = Api.OTHER
_STORED: Final = RouteKind.STORED
_CREATED: Final = CREATED
_CREATION: Final = CREATION


class Counted(Resuming):
    """A request, as far as it is counted."""

    __slots__ = ()

    def interface(self) -> int:
        """Whose API and words it speaks: one of `prices.INTERFACES`."""
        use = self._use
        if use is not None and use.told is not None and use.told.deepseek:
            return DEEPSEEK
        api = self._api
        return ANTHROPIC if api is _MESSAGES else OTHER if api is _OTHER else OPENAI

    @property
    def _computed_for(self) -> bool:
        """Whether its answer is made for it. One that an engine has stored says again what it took when it was."""
        head = self._request.head
        return head.method == b"POST" and (head.route is None or head.route.kind is not _STORED)

    def usage(self, seen: bytes) -> Usage | None:
        """What its answer took, as the end of that says."""
        if not seen or self._status != 200 or not self._computed_for:
            return None
        return find_usage(self._api, seen)

    def said_tokens(self) -> int:
        """By the events that were passed on of a stream, and by the bytes of any other answer."""
        relay = self._relay
        if relay is None or self._api is _OTHER or not self._computed_for:
            return 0
        if relay.streaming:
            return relay.passed_events
        return int(relay.body_bytes / self._gateway.bytes_per_token)

    def written(self, prompt_tokens: int, cached_tokens: int) -> tuple[int, int]:
        """As its answer says, and as its breakpoints were."""
        relay, use = self._relay, self._use
        seen = self._kept_back if relay is None else relay.usage_bytes()
        if seen.find(_CREATED) < 0 and seen.find(_CREATION) < 0:
            return 0, 0  # most answers; a pattern would stop at each of their quotes
        told = None if use is None else use.told
        return written_tokens(seen, prompt_tokens, cached_tokens, 0.0 if told is None else told.hour_ratio)
