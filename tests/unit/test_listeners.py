"""Listening sockets: whose they are, and who accepts from which. Bound on the loopback interface, never used."""

from __future__ import annotations

import os
import socket

import pytest

from warmroute.config.exposure import exposures
from warmroute.config.schema import Address, Config, KeysConfig
from warmroute.service import listeners
from warmroute.service.listeners import HandOver, Left


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("workers", range(1, 8))
def test_every_socket_has_a_worker_and_every_worker_a_socket(count: int, workers: int) -> None:
    shares = [listeners.share(count, workers, number) for number in range(workers)]
    assert all(shares)
    assert {index for share in shares for index in share} == set(range(count))


def test_a_hand_over_is_read_once_as_it_was_left() -> None:
    with socket.socket() as one, socket.socket() as other:
        left = HandOver((one.fileno(),), (other.fileno(),), "/run/x", (Left(1, 2, one.fileno(), "/run/x/1"),))
        environ: dict[str, str] = {"OTHER": "stays"}
        left.leave(environ)
        assert os.get_inheritable(one.fileno())
        assert os.get_inheritable(other.fileno())
        assert listeners.taken_over(environ) == left
        assert not os.get_inheritable(one.fileno())
        assert listeners.taken_over(environ) is None
        assert environ == {"OTHER": "stays"}
        left.leave(environ)
        left.take_back(environ)
        assert listeners.taken_over(environ) is None
        assert not os.get_inheritable(other.fileno())


def test_sockets_of_systemd_are_taken_once_and_only_by_whom_they_are_for() -> None:
    with socket.socket() as one:
        environ = {"LISTEN_FDS": "1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "data"}
        assert listeners.passed(dict(environ), 8) == []
        descriptor = os.dup(one.fileno())
        (taken,) = listeners.passed(environ, 7, first=descriptor)
        with taken:
            assert taken.fileno() == descriptor
            assert not taken.getblocking()
        assert environ == {}
        assert listeners.passed(environ, 7, first=descriptor) == []


def test_a_port_is_shared_among_ourselves_and_with_nobody_else() -> None:
    ours = listeners.bind_shared("127.0.0.1", 0, 3)
    try:
        host, port = listeners.address_of(ours[0])
        assert host == "127.0.0.1"
        assert {listeners.address_of(one) for one in ours} == {(host, port)}
        ours[0].listen()
        with pytest.raises(OSError, match=f"cannot listen on {host}:{port}: Address already in use"):
            listeners.bind_shared(host, port, 1)
        with pytest.raises(OSError, match="cannot listen on 192.0.2.1:8000: "):
            listeners.bind_shared("192.0.2.1", 8000, 1)
    finally:
        listeners.close(ours)


def test_what_is_open_to_everybody_goes_by_the_sockets_that_systemd_opened() -> None:
    local = Config(listen=Address("127.0.0.1:8000"))
    assert exposures(local) == []
    with socket.socket() as inside, socket.socket() as outside:
        inside.bind(("127.0.0.1", 0))
        outside.bind(("0.0.0.0", 0))
        assert exposures(local, listeners.addresses_of([inside])) == []
        (said,) = exposures(local, listeners.addresses_of([inside, outside]))
        assert f"whoever reaches 0.0.0.0:{outside.getsockname()[1]} may use every model" in said
        everywhere = Config(listen=Address("0.0.0.0:8000"))
        assert len(exposures(everywhere)) == 1
        assert exposures(everywhere, listeners.addresses_of([inside])) == []
        asking = Config(keys=KeysConfig(url="/keys"))
        assert exposures(asking, listeners.addresses_of([outside])) == []
    (said,) = exposures(Config(admin=Address("[::]:8001")))
    assert "admin_auth.operator_tokens" in said
