"""The PROXY header with which a proxy in front begins a connection, versions 1 and 2: who the client is.

Decides whether the bytes so far are a header, the beginning of one, or none. A connection of a proxy that must send one
and does not is closed without an answer, as the protocol demands: whoever could do without could name any client.

Source: haproxy, doc/proxy-protocol.txt (2.2 and 2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import cast

from warmroute.dataplane.proxies import TrustedProxies

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MOST_V1_BYTES = 107
MOST_V2_BYTES = 16 + 2048
"""Addresses and what else a proxy may tell, which is skipped."""

_LENGTHS = {0x1: (12, 4), 0x2: (36, 16)}
"""Address family -> bytes of both addresses and ports, and of the first address."""


class NoHeaderError(ValueError):
    """What came is no PROXY header."""


def read_header(data: bytes) -> tuple[int, str] | None:
    """Length of the header that the data begins with, and the client's address (empty: the proxy's own); None while
    more is needed.

    Raises:
        NoHeaderError: There is none, or it is malformed.
    """
    if data[:12] == SIGNATURE[: len(data)]:
        return _read_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _read_v1(data)
    raise NoHeaderError


def _read_v1(data: bytes) -> tuple[int, str] | None:
    end = data.find(b"\r\n", 0, MOST_V1_BYTES)
    if end < 0:
        if len(data) >= MOST_V1_BYTES:
            raise NoHeaderError
        return None
    words = data[:end].split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return end + 2, ""
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise NoHeaderError
    if not all(word.isdigit() and int(word) < 65_536 for word in words[4:]):
        raise NoHeaderError
    try:
        source, target = (ip_address(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise NoHeaderError from None
    if {source.version, target.version} != {4 if words[1] == b"TCP4" else 6}:
        raise NoHeaderError
    return end + 2, str(source)


def _read_v2(data: bytes) -> tuple[int, str] | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family, transport = data[13] >> 4, data[13] & 15
    length = int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or 16 + length > MOST_V2_BYTES:
        raise NoHeaderError
    if len(data) < 16 + length:
        return None
    if command == 0 or family not in _LENGTHS:  # the proxy's own check, or a family that names no address
        return 16 + length, ""
    needed, address_bytes = _LENGTHS[family]
    if length < needed or transport != 1:
        raise NoHeaderError
    return 16 + length, str(ip_address(data[16 : 16 + address_bytes]))


class ProxyFront(asyncio.Protocol):
    """Stands before a client connection until it is known whose it is.

    Args:
        trusted: Who must send a header.
        make: Makes the connection's protocol for a client's address; empty: that of the connection itself.
        patience_s: Longest wait for the header.
    """

    def __init__(
        self, trusted: TrustedProxies, make: Callable[[str], asyncio.Protocol], patience_s: float
    ) -> None:
        self._trusted = trusted
        self._make = make
        self._patience_s = patience_s
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the header, or hand over at once what may have none."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not isinstance(peer, tuple) or not self._trusted.trusts(str(peer[0]).encode()):
            self._hand_over("", b"")
            return
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes of the header, and what follows it."""
        self._data += data
        try:
            found = read_header(self._data)
        except NoHeaderError:
            assert self._transport is not None
            self._transport.abort()
            return
        if found is not None:
            self._hand_over(found[1], self._data[found[0] :])

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing came of it."""
        if self._timer is not None:
            self._timer.cancel()

    def _hand_over(self, client: str, rest: bytes) -> None:
        transport = self._transport
        assert transport is not None
        if self._timer is not None:
            self._timer.cancel()
        protocol = self._make(client)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)
