"""Which client the access log names behind proxies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.dataplane.proxies import KNOWN, TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (b"10.1.2.3", b"", "10.1.2.3"),
        (b"10.1.2.3", b"198.51.100.9, ", "198.51.100.9"),
        (b"10.1.2.3", b"6.6.6.6, 198.51.100.9, ", "198.51.100.9"),
        (b"10.1.2.3", b"198.51.100.9, 10.9.9.9, 192.0.2.7, ", "198.51.100.9"),
        (b"203.0.113.5", b"198.51.100.9, ", "203.0.113.5"),
        (b"10.1.2.3", b"10.4.4.4, 10.5.5.5, ", "10.4.4.4"),
        (b"10.1.2.3", b"198.51.100.9:4711, ", "198.51.100.9"),
        (b"fd00::1", b"[2001:db8::5]:99, ", "2001:db8::5"),
        (b"::ffff:10.1.2.3", b"2001:db8::5, ", "2001:db8::5"),
        (b"10.1.2.3", b"unknown, ", "10.1.2.3"),
        (b"10.1.2.3", b"198.51.100.9, _hidden, 10.9.9.9, ", "10.9.9.9"),
        (b"10.1.2.3", b",, 198.51.100.9,, ", "198.51.100.9"),
        (b"unix", b"198.51.100.9, ", "unix"),
    ],
)
def test_the_last_that_is_no_trusted_proxy_is_the_client(peer: bytes, forwarded: bytes, client: str) -> None:
    assert PROXIES.client(peer, forwarded) == client
    assert PROXIES.client(peer, forwarded) == client, "and is remembered as that"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"for=198.51.100.9, ", "198.51.100.9"),
        (b'For="198.51.100.9:4711";proto=https;by=203.0.113.43, ', "198.51.100.9"),
        (b'proto=http; for="[2001:db8:cafe::17]:4711", ', "2001:db8:cafe::17"),
        (b"for=6.6.6.6, for=198.51.100.9, for=10.9.9.9, ", "198.51.100.9"),
        (b'for=6.6.6.6, host="a, for=7.7.7.7";for=198.51.100.9, ', "198.51.100.9"),
        (b"for=198.51.100.9, proto=https, ", "10.1.2.3"),
        (b"for=198.51.100.9, for=_hidden, for=10.9.9.9, ", "10.9.9.9"),
        (b"for=unknown, ", "10.1.2.3"),
        (b'for="198.51.100.9, ', "10.1.2.3"),
        (b"xfor=198.51.100.9, ", "10.1.2.3"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(forwarded: bytes, client: str) -> None:
    assert PROXIES.client(b"10.1.2.3", b"", forwarded) == client
    assert PROXIES.client(b"203.0.113.5", b"", forwarded) == "203.0.113.5", "of trusted proxies only"
    assert PROXIES.client(b"10.1.2.3", b"192.0.2.1, ", forwarded) == "192.0.2.1", "where nothing else says"


@given(st.binary(max_size=80))
def test_whatever_forwarded_holds_an_address_is_named(forwarded: bytes) -> None:
    client = PROXIES.client(b"10.1.2.3", b"", forwarded)
    assert set(client) <= set("0123456789abcdef.:")


@given(st.binary(max_size=80))
def test_whatever_the_field_holds_an_address_is_named(forwarded: bytes) -> None:
    client = PROXIES.client(b"10.1.2.3", forwarded)
    assert set(client) <= set("0123456789abcdef.:")


def test_nothing_grows_with_what_clients_send() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    for index in range(3 * KNOWN):
        proxies.client(b"10.0.0.1", b"198.51.100.%d, %d" % (index % 256, index))
    assert len(proxies._known) <= KNOWN


def test_what_is_no_network_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            [("--replica", "replicas", ["http://a:1"])],
            environ={"WARMROUTE_ACCESS_LOG__TRUSTED_PROXIES": "10.0.0.0/8, proxy.example, 10.0.0.0/99"},
        )
    where = "WARMROUTE_ACCESS_LOG__TRUSTED_PROXIES: access_log.trusted_proxies"
    assert [message.partition(": must")[0] for message in caught.value.messages] == [
        f"{where}[1]",
        f"{where}[2]",
    ]
