"""How many connections one address may have, and who a proxy in front says that the client is."""

from __future__ import annotations

import struct

import pytest

from tests.support.wire import FakeTransport, Wire
from warmroute.config.schema import AccessLogConfig, LimitsConfig
from warmroute.dataplane.proxies import TrustedProxies
from warmroute.dataplane.proxy_header import SIGNATURE, NoHeaderError, ProxyFront, read_header

V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 443\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n"


def v2(family: int, addresses: bytes, more: bytes = b"", command: int = 0x21) -> bytes:
    body = addresses + more
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body)) + body


V2 = v2(0x11, bytes([192, 0, 2, 7, 192, 0, 2, 1]) + struct.pack(">HH", 51000, 443), more=b"\x04\x00\x01x")
V2_6 = v2(0x21, bytes.fromhex("20010db8000000000000000000000007") * 2 + struct.pack(">HH", 1, 2))
HEADERS = {
    "v1": (V1, "192.0.2.7"),
    "v1, IPv6": (V1_6, "2001:db8::7"),
    "v1, unknown": (b"PROXY UNKNOWN and more\r\n", ""),
    "v2": (V2, "192.0.2.7"),
    "v2, IPv6": (V2_6, "2001:db8::7"),
    "v2, local": (v2(0x00, b"", command=0x20), ""),
    "v2, unix": (v2(0x31, bytes(216)), ""),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_is_read_however_it_is_cut(kind: str) -> None:
    header, client = HEADERS[kind]
    for end in range(len(header)):
        assert read_header(header[:end]) is None
    assert read_header(header + b"GET / HTTP/1.1\r\n") == (len(header), client)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\r\n\r\nGET", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
     b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 x 1\r\n", b"PROXY " + b"x" * 200,
     SIGNATURE + b"\x11\x11\x00\x00", SIGNATURE + b"\x21\x11\xff\xff", v2(0x11, bytes(4)), v2(0x12, bytes(12)),
     SIGNATURE + b"\x2f\x11\x00\x00"],
)  # fmt: skip
def test_what_is_no_header_is_none(data: bytes) -> None:
    with pytest.raises(NoHeaderError):
        read_header(data)


def front(wire: Wire, networks: tuple[str, ...]) -> FakeTransport:
    from warmroute.dataplane.downstream import ClientConnection

    transport = FakeTransport()

    def make(client: str) -> ClientConnection:
        connection = ClientConnection(wire.gateway)
        connection.peer = client.encode()
        return connection

    protocol = ProxyFront(TrustedProxies(networks), make, 5.0)  # type: ignore[arg-type]
    transport.protocol = protocol
    protocol._timer = None
    return transport


def test_from_others_a_header_is_not_taken() -> None:
    transport = front(Wire(), ("10.0.0.0/16",))  # the peer is 10.9.9.9
    transport.protocol.connection_made(transport)
    transport.protocol.data_received(V1 + b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400")


def test_a_proxys_header_names_the_client_of_its_connection() -> None:
    import asyncio

    async def run() -> None:
        for kind, (header, client) in HEADERS.items():
            for cut in (0, 5, len(header)):
                transport = front(Wire(), ("10.0.0.0/8",))
                transport.protocol.connection_made(transport)
                request = header + b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n"
                for part in (request[:cut], request[cut:]):
                    if part:
                        transport.protocol.data_received(part)
                assert transport.written.startswith(b"HTTP/1.1 200"), kind
                assert transport.protocol.peer.decode() == (client or "10.9.9.9")
        transport = front(Wire(), ("10.0.0.0/8",))
        transport.protocol.connection_made(transport)
        transport.protocol.data_received(b"GET /health HTTP/1.1\r\n")
        assert transport.aborted
        assert not transport.written

    asyncio.run(run())


def test_one_address_has_so_many_connections_and_no_more() -> None:
    wire = Wire(LimitsConfig(connections_per_address=2))
    first, second, third = (wire.connect() for _ in range(3))
    assert b"too_many_connections" in third.output
    assert third.output.startswith(b"HTTP/1.1 503")
    assert first.output == second.output == b""
    third.lose()
    first.lose()
    first.connection.connection_lost(None)
    assert wire.connect().output == b""
    assert wire.connect().output.startswith(b"HTTP/1.1 503")


def test_proxies_that_are_trusted_are_not_counted() -> None:
    wire = Wire(
        LimitsConfig(connections_per_address=1), access_log=AccessLogConfig(trusted_proxies=("10.9.9.0/24",))
    )
    assert [wire.connect().output for _ in range(3)] == [b"", b"", b""]


def test_what_is_refused_for_being_too_much_in_all_leaves_an_address_as_many_as_it_has() -> None:
    wire = Wire(LimitsConfig(connections=2, connections_per_address=2))
    held = [wire.connect() for _ in range(2)]
    for _ in range(3):
        refused = wire.connect()
        assert b"too_many_connections" in refused.output
        refused.lose()
    assert wire.gateway._addresses == {b"10.9.9.9": 2}
    wire.gateway.limits = LimitsConfig(connections=100, connections_per_address=2)
    assert wire.connect().output.startswith(b"HTTP/1.1 503"), "it has two already"
    for one in held:
        one.lose()
    assert wire.gateway._addresses == {b"10.9.9.9": 1}, "the last one, whose client has not left yet"
