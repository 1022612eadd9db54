"""What an administrative call to engines means for what the router believes of them, once they have agreed to it.

Decides which calls empty a cache, and so make void what was noted: `/reset_prefix_cache`, and `/pause` unless it keeps
the requests. An adapter that is loaded in place from the path that it has already leaves what was computed with its old
weights in the engine's cache, under hashes that the new weights have too: then the engine is asked to reset its cache,
and what was noted is void whether or not it does. From another path, hashes are others; answers teach the rest.

Source: vLLM 0.32, `entrypoints/serve/dev/cache`, `entrypoints/rl/online`, `entrypoints/serve/lora`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from warmroute.core.fleet.fleet import Fleet
from warmroute.core.types import ReplicaId
from warmroute.ports import CallError, ReplicaCalls
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

RESET: Final = "/reset_prefix_cache"
RESET_TRIES: Final = 5
"""An engine refuses while requests hold blocks of the cache."""
RESET_PAUSE_S: Final = 0.2
PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One call, and what each replica answered."""

    path: str
    query: Mapping[str, str]
    body: bytes
    rows: Mapping[str, dict[str, object]]
    """By id of the server: `status`, and `answer` as far as there is one."""
    headers: Mapping[str, str]
    """As they were sent."""

    def agreed(self) -> list[ReplicaId]:
        """Who did it."""
        done = []
        for replica_id, row in self.rows.items():
            status, answer = row.get("status"), row.get("answer")
            refused = isinstance(answer, dict) and answer.get("success") is False
            if isinstance(status, int) and 200 <= status < 300 and not refused:
                done.append(ReplicaId(replica_id))
        return done


class EngineEffects:
    """Follows calls that `control.fan_out` has made."""

    def __init__(
        self, fleet: Fleet, calls: ReplicaCalls, emptied: Callable[[Sequence[ReplicaId]], None]
    ) -> None:
        """`emptied`: what was noted of these servers is void."""
        self._fleet = fleet
        self._calls = calls
        self._emptied = emptied

    async def after(self, call: AdminCall) -> dict[str, dict[str, object]]:
        """Draw the consequences of a call. Returns what more is to be told of each replica."""
        agreed = call.agreed()
        if call.path == RESET or (call.path == "/pause" and call.query.get("mode") != "keep"):
            self._emptied(agreed)
        elif call.path == "/v1/load_lora_adapter":
            return await self._adapter_loaded(call, agreed)
        return {}

    async def _adapter_loaded(
        self, call: AdminCall, agreed: Sequence[ReplicaId]
    ) -> dict[str, dict[str, object]]:
        try:
            body = json.loads(call.body)
            name, path = body["lora_name"], body["lora_path"]
            in_place = body.get("load_inplace") is True
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
        stale = [server_id for server_id in agreed if in_place and self._same_path(server_id, name, path)]
        if not stale:
            return {}
        reset = await asyncio.gather(*[self._reset(server_id, call.headers) for server_id in stale])
        self._emptied(stale)
        told: dict[str, dict[str, object]] = {}
        for server_id, done in zip(stale, reset, strict=True):
            told[server_id] = {"cache_reset": done}
            if not done:
                log.warning(
                    "stale_adapter_cache",
                    extra=fields(
                        replica=server_id,
                        adapter=name,
                        remedy="the engine keeps what it computed with the old weights: POST /reset_prefix_cache there"
                        " (VLLM_SERVER_DEV_MODE=1), or load new weights from a path of their own",
                    ),
                )
        return told

    def _same_path(self, server_id: ReplicaId, name: object, path: object) -> bool:
        """Whether the adapter was loaded from there before, as far as is known."""
        server = self._fleet.servers.get(server_id)
        card = server.replicas[0].cards.get(str(name)) if server is not None else None
        root = card.get("root") if isinstance(card, dict) else None
        return root is None or root == path

    async def _reset(self, server_id: ReplicaId, headers: Mapping[str, str]) -> bool:
        server = self._fleet.servers.get(server_id)
        if server is None:
            return False
        kept = {name: value for name, value in headers.items() if name != "Content-Type"}
        for left in reversed(range(RESET_TRIES)):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await self._calls.call(server.url, "POST", RESET, kept, b"", limit_bytes=4096)
            except (CallError, TimeoutError):
                return False
            if answer.status != 200:
                return False
            # Before vLLM 0.32 there was no body.
            if b'"success":false' not in answer.body.replace(b" ", b""):
                return True
            if left:
                await asyncio.sleep(RESET_PAUSE_S)
        return False
