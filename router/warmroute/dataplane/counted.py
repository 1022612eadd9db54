"""What an exchange says of itself where it is counted by tenant: whose interface it speaks, and what was written.

This module decides nothing else; `admission` asks it, where usage is counted.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.types import Api
from warmroute.dataplane.failover.resuming import Resuming
from warmroute.dialects.usage_told import written_tokens
from warmroute.tenants.prices import ANTHROPIC, DEEPSEEK, OPENAI, OTHER

_MESSAGES: Final = Api.MESSAGES
_OTHER: Final = Api.OTHER
_CREATED: Final = b"created_cache_tokens"
_CREATION: Final = b"cache_creation_input_tokens"
"""What engines call the tokens that they put into their caches (`usage_told`)."""


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

    def said_tokens(self) -> int:
        """By the events that were passed on of a stream, and by the bytes of any other answer."""
        relay = self._relay
        if relay is None or self._api is _OTHER:
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
