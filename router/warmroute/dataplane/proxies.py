"""Trusted proxies are those whose `X-Forwarded-For` is believed to name the client; without one, their `Forwarded`.

This module decides what the access log says, and whose connections are not counted by address. The field is read from
the right, where each proxy adds the address that it saw: the first address that is no trusted proxy's is the client.
What is left of it anybody may have made up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')
_FOR = re.compile(r'(?:^|;)[ \t]*for[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^";,\s]+))', re.IGNORECASE)

KNOWN = 1024
"""Pairs of peer and field whose client is remembered."""


class TrustedProxies:
    """Addresses and networks of proxies in front of the router."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Args:
        networks: Each an address or a network, such as `10.0.0.0/8`.

        Raises:
            ValueError: One is neither.
        """
        self._networks = [ip_network(network, strict=False) for network in networks]
        self._known: dict[tuple[bytes, bytes], str] = {}

    def client(self, peer: bytes, forwarded_for: bytes, forwarded: bytes = b"") -> str:
        """The client of a request that came from this address with these fields (empty if it had none).

        Args:
            forwarded: `Forwarded` (RFC 7239); read only where there is no `X-Forwarded-For`.
        """
        if not forwarded_for:
            if not forwarded:
                return peer.decode()
            forwarded_for = b"\n" + forwarded  # a line end is in no field: the two are told apart
        key = (peer, forwarded_for)
        client = self._known.get(key)
        if client is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            text = forwarded_for.decode("latin-1")
            hops = _hops(text[1:]) if text[:1] == "\n" else text.split(",")
            client = self._known[key] = self._find(peer.decode(), hops)
        return client

    def _find(self, client: str, hops: list[str]) -> str:
        hops = [hop.strip() for hop in hops]
        while self._trusted(client):
            hop = ""
            while hops and not hop:
                hop = hops.pop()
            address = _address(hop)
            if address is None:
                break
            client = str(address)
        return client

    def trusts(self, peer: bytes) -> bool:
        """Whether this address is such a proxy's."""
        return self._trusted(peer.decode("latin-1"))

    def _trusted(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _hops(forwarded: str) -> list[str]:
    """What each element of `Forwarded` says it was sent for; nothing where it does not say."""
    hops = []
    for element in _ELEMENT.findall(forwarded):
        found = _FOR.search(element)
        if found is not None:
            hops.append(found[1] or found[2] or "unknown")
        elif element.strip():
            hops.append("unknown")
    return hops


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in an element of the field, whose port some proxies add."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address
