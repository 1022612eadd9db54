"""The router's own requests to replicas, beside probes, are administrative ones, and questions who keeps something.

One HTTP client makes them all, and nothing here is on the request path.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import aiohttp

from warmroute.adapters.engine.probe import cause_of
from warmroute.ports import CallAnswer, CallError
from warmroute.telemetry.reasons import why_no_connection


class HttpCalls:
    """Implements `warmroute.ports.ReplicaCalls`."""

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    def configure(self, tls: ssl.SSLContext | bool) -> None:
        """Trust these certificates from the next call on."""
        self._tls = tls

    async def start(self) -> None:
        """Make the client; connects to nobody."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "warmroute", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def stop(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        url: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        limit_bytes: int,
    ) -> CallAnswer:
        """See `warmroute.ports.ReplicaCalls.call`."""
        if self._session is None:
            raise RuntimeError("called before start or after stop")
        try:
            async with self._session.request(
                method, url + target, headers=headers, data=body or None, allow_redirects=False, ssl=self._tls
            ) as response:
                read = bytearray()
                while len(read) < limit_bytes and (piece := await response.content.read(64 << 10)):
                    read += piece
                return CallAnswer(
                    response.status, response.headers.get("Content-Type", ""), bytes(read[:limit_bytes])
                )
        except aiohttp.ClientConnectorError as error:
            raise CallError(why_no_connection(cause_of(error), error.host)) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise CallError(str(error) or type(error).__name__) from error
