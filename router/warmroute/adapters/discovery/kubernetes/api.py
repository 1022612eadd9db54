"""Discovery makes two calls to a Kubernetes API server: it lists EndpointSlices in pages, and it watches them.

This module decides how long each call may take, and turns whatever goes wrong on the way into an `ApiFailure`. It does
not decide when to call. Calls are GETs of `/apis/discovery.k8s.io/v1/namespaces/NAMESPACE/endpointslices`, so that the
verbs `list` and `watch` on that resource are all that is needed.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ (pages, watches, bookmarks, 410 Gone).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self

import aiohttp

from warmroute.adapters.discovery.kubernetes.access import Access, AccessError
from warmroute.adapters.discovery.kubernetes.answers import (
    ApiFailure,
    Change,
    Page,
    Status,
    WatchReader,
    read_page,
    read_status,
    refused,
    unreadable,
)
from warmroute.adapters.discovery.kubernetes.pace import Pace
from warmroute.ports import DiscoveryFailure

PAGE_SLICES: Final = 100
"""Slices a page. A slice of 100 endpoints, which is as many as Kubernetes puts in one, takes 25 to 40 KB: a page is
some MB at most, and taken apart slice by slice."""
MAX_PAGE_BYTES: Final = 64 << 20
MAX_ERROR_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may take."""

    connect_s: float = 5.0
    answer_s: float = 10.0
    """Until the head of an answer, which for a watch comes at once too."""
    page_s: float = 30.0
    """Until the end of a page."""
    silence_s: float = 90.0
    """Longest silence of a watch: the API server sends a bookmark about every minute."""
    backoff_min_s: float = 0.5
    """First pause after a failure; it doubles with each further one."""
    backoff_max_s: float = 30.0


class Api:
    """Calls an API server; a context manager, which closes every connection at its end."""

    def __init__(
        self, access: Callable[[], Access], namespace: str, selector: str, patience: Patience
    ) -> None:
        """Args:
        access: Where and as whom, asked anew for each request; may raise `AccessError` or `OSError`.
        namespace: Empty: that of `access`.
        """
        self._access = access
        self._namespace = namespace
        self._selector = selector
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "warmroute", "Accept": "application/json"},
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def pages(self, page_slices: int = PAGE_SLICES) -> AsyncGenerator[Page, None]:
        """The whole list; 0 slices a page: in one piece.

        Raises:
            ApiFailure: It could not be read to its end.
        """
        times = aiohttp.ClientTimeout(total=self._patience.page_s, sock_connect=self._patience.connect_s)
        token = ""
        while True:
            parameters = {"limit": str(page_slices)} if page_slices else {}
            if token:
                parameters["continue"] = token
            async with self._get(parameters, times) as response:
                body = await _limited(response, MAX_PAGE_BYTES)
            page = read_page(body)
            yield page
            token = page.token
            if not token:
                return

    async def changes(self, version: str, timeout_s: float) -> AsyncGenerator[list[Change], None]:
        """What has changed since this version, as it comes; the first list, empty, says that the watch is open.

        Ends when the server ends it, about `timeout_s` later.

        Raises:
            ApiFailure: It was refused, broke off or fell silent; or the version is too old.
        """
        parameters = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(timeout_s))),
        }
        patience, reader, pace = self._patience, WatchReader(), Pace()
        times = aiohttp.ClientTimeout(
            total=None, sock_connect=patience.connect_s, sock_read=patience.silence_s
        )
        async with self._get(parameters, times) as response:
            yield []
            pieces = response.content.iter_any()
            while True:
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    silent = f"the watch was silent for {patience.silence_s:g} s, without a bookmark"
                    raise ApiFailure(DiscoveryFailure.TIMEOUT, silent, broken=True) from error
                except (aiohttp.ClientError, OSError) as error:
                    cut = f"the watch broke off: {error or type(error).__name__}"
                    raise ApiFailure(DiscoveryFailure.UNREACHABLE, cut, broken=True) from error
                changes = []
                for change in reader.feed(piece):
                    changes.append(change)
                    await pace.read(change.slice_)
                if changes:
                    yield changes

    @asynccontextmanager
    async def _get(
        self, parameters: dict[str, str], times: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("called outside of the context")
        try:
            access = self._access()
        except (AccessError, OSError) as error:
            raise ApiFailure(
                DiscoveryFailure.UNAUTHORIZED, f"the Kubernetes API cannot be called: {error}"
            ) from error
        namespace = self._namespace or access.namespace
        request = self._session.get(
            f"{access.server}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
            params={"labelSelector": self._selector, **parameters},
            headers={"Authorization": f"Bearer {access.token}"} if access.token else {},
            timeout=times,
            allow_redirects=False,
            ssl=access.tls or True,
            server_hostname=access.server_name,
        )
        try:
            async with asyncio.timeout(self._patience.answer_s):
                response = await request
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._no_answer(error, access) from error
        try:
            if response.status != 200:
                raise refused(
                    response.status,
                    await self._status(response),
                    retry_after=response.headers.get("Retry-After", ""),
                    identity=access.identity,
                    namespace=namespace,
                )
            yield response
        finally:
            response.close()

    def _no_answer(self, error: Exception, access: Access) -> ApiFailure:
        where = f"the Kubernetes API at {access.server}"
        match error:
            case aiohttp.ClientSSLError() | ssl.SSLError():
                return ApiFailure(
                    DiscoveryFailure.UNREACHABLE,
                    f"{where}: TLS failed ({error}); check the CA, and the name that the certificate is for",
                )
            case TimeoutError():
                return ApiFailure(
                    DiscoveryFailure.TIMEOUT,
                    f"{where} did not answer within {self._patience.answer_s:g} s: is it overloaded, or does a network"
                    " policy drop packets to it?",
                )
            case _:
                return ApiFailure(
                    DiscoveryFailure.UNREACHABLE,
                    f"{where} cannot be reached: {error or type(error).__name__}",
                )

    async def _status(self, response: aiohttp.ClientResponse) -> Status:
        try:
            async with asyncio.timeout(self._patience.answer_s):
                return read_status(await _limited(response, MAX_ERROR_BYTES))
        except (TimeoutError, ApiFailure):
            return Status()


async def _limited(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    body = bytearray()
    try:
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > most_bytes:
                raise unreadable(f"an answer exceeds {most_bytes:,} bytes")
    except TimeoutError as error:
        raise ApiFailure(
            DiscoveryFailure.TIMEOUT, "the Kubernetes API did not finish its answer in time"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        cut = f"the Kubernetes API broke its answer off: {error or type(error).__name__}"
        raise ApiFailure(DiscoveryFailure.UNREACHABLE, cut) from error
    return bytes(body)
