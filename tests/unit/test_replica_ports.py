"""Ports that are handed out are different, free, and none that the system gives to clients."""

from __future__ import annotations

import socket
from pathlib import Path

from warmroute_replica.ports import LOCALHOST, free_ports, is_free


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind((LOCALHOST, 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_no_client_is_given_one_meanwhile() -> None:
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not any(lowest <= port <= highest for port in free_ports(100))
