"""Ports for servers that must be told theirs before they start.

A server that can choose its own port (port 0) needs none of this. Whoever starts one that cannot learns here of ports
that stay free until it listens, as far as anybody can promise that: an engine takes a minute to.
"""

from __future__ import annotations

import random
import socket

LOCALHOST = "127.0.0.1"
_LOWEST, _HIGHEST = 20_000, 32_000
"""Ports are drawn from here. Unless it is told otherwise, Linux gives clients, and servers that ask for port 0, ports
from 32768 on: one of those that is free now may be anybody's a moment later."""


def is_free(port: int) -> bool:
    """Return whether nobody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return different TCP ports on 127.0.0.1 that no process has at this moment."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(_LOWEST, _HIGHEST)
        if port not in ports and is_free(port):
            ports.append(port)
    return ports
