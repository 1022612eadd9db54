"""This module asks one engine how it is: health, models, figures, and a request of one token where that is wanted.

It speaks HTTP as vLLM does, and judges only whether the engine is there. Every question has a deadline. On the loopback
device no certificate is checked, since nobody else listens there and no certificate is issued for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from warmroute_replica.agent.engine_metrics import EngineFigures, parse

TIMEOUT_S = 2.0
"""Deadline of every question but the first request. A busy engine's event loop may take its time to answer, but a
silent engine is no reason to wait longer."""

REQUEST_TIMEOUT_S = 120.0
"""Deadline of the first request in an engine's life, during which the engine may compile kernels."""

MAX_ANSWER_BYTES = 8 << 20
_NOT_OFFERED = (404, 405, 501)


class EngineDownError(Exception):
    """The engine does not answer as a working one does; the message says what came instead."""

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain
        """True where nothing listens on the engine's port or the engine itself says that it is not well; False where it
        may only be busy."""


@dataclass(frozen=True, slots=True)
class Served:
    """The models and adapters that an engine serves, by name."""

    models: tuple[str, ...]
    adapters: tuple[str, ...]


class Engine:
    """A client of one engine, known by its base URL; one event loop uses it, and calls `close` at the end."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self._headers = {"User-Agent": "warmroute-agent", "Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._tls = not _is_loopback(urlsplit(url).hostname or "")
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection to the engine."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def check_health(self) -> None:
        """Ask the engine whether it is healthy; an engine without `/health` is when it answers `/v1/models`.

        Raises:
            EngineDownError: The engine is not healthy, or did not answer.
        """
        status, _ = await self._ask("GET", "/health")
        if status in _NOT_OFFERED:
            status, _ = await self._ask("GET", "/v1/models")
        if status != 200:
            raise EngineDownError(f"{self.url}/health answered {status}", certain=True)

    async def served(self) -> Served:
        """Ask the engine for its models and adapters.

        Raises:
            EngineDownError: The engine did not name any; where it refused for want of a key, the message says so.
        """
        status, body = await self._ask("GET", "/v1/models")
        if status in (401, 403):
            hint = "name the engine's key: --engine-api-key or VLLM_API_KEY"
            raise EngineDownError(f"{self.url}/v1/models answered {status}; {hint}", certain=False)
        try:
            cards = json.loads(body)["data"] if status == 200 else None
            named = [(card["id"], card.get("parent")) for card in cards or () if isinstance(card["id"], str)]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            named = []
        if not named:
            raise EngineDownError(f"{self.url}/v1/models answered {status} and names no model", certain=False)
        return Served(
            tuple(name for name, parent in named if not parent),
            tuple(name for name, parent in named if parent),
        )

    async def figures(self) -> EngineFigures:
        """Read the engine's figures from its metrics; an engine that has no metrics yields figures without values.

        Raises:
            EngineDownError: The engine did not answer.
        """
        status, body = await self._ask("GET", "/metrics")
        return parse(body.decode("utf-8", "replace")) if status == 200 else EngineFigures()

    async def in_hand(self) -> int | None:
        """Ask `/load` for the number of requests that the engine has in hand at this moment; None where it does not
        count them. Metrics lag behind by one step, this number does not.

        Raises:
            EngineDownError: The engine did not answer.
        """
        status, body = await self._ask("GET", "/load")
        try:
            load = json.loads(body)["server_load"] if status == 200 else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return load if isinstance(load, int) else None

    async def answer_one_token(self, model: str) -> None:
        """Have the engine answer the smallest possible request. An engine without completions (one for embeddings, say)
        passes.

        Raises:
            EngineDownError: The engine did not answer it.
        """
        fields = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0.0}
        status, body = await self._ask("POST", "/v1/completions", fields, timeout_s=REQUEST_TIMEOUT_S)
        if status != 200 and status not in (400, *_NOT_OFFERED):
            said = body[:300].decode("utf-8", "replace")
            raise EngineDownError(
                f"{self.url}: a request of one token was answered {status}: {said}", certain=False
            )

    async def _ask(
        self,
        method: str,
        path: str,
        fields: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=4.0, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method, self.url + path, json=fields, headers=self._headers, allow_redirects=False
                ) as response,
            ):
                body = await response.content.read(MAX_ANSWER_BYTES)
                while piece := await response.content.read(MAX_ANSWER_BYTES):
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise EngineDownError(
                            f"{self.url}{path} answers more than {MAX_ANSWER_BYTES} bytes", certain=False
                        )
                return response.status, body
        except TimeoutError:
            raise EngineDownError(
                f"{self.url}{path}: no answer within {timeout_s:g} s", certain=False
            ) from None
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, ConnectionRefusedError)
            raise EngineDownError(
                f"{self.url}: {error.os_error.strerror or error}", certain=refused
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineDownError(
                f"{self.url}{path}: {error or type(error).__name__}", certain=False
            ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
