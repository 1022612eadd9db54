"""Ways to reach one Redis server: password, ACL user, database, socket file, TLS with and without a certificate."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
import uvloop

from tests.support.discovery_worlds import Report
from tests.support.redis_server import RedisServer, free_port
from tests.support.registry_calls import PATIENT_S, holders, is_up, life, rungs_of, settled
from warmroute.adapters.discovery.redis import RedisDiscovery
from warmroute.adapters.registry.redis.registry import RedisRegistry
from warmroute.ports import DiscoveryFailure
from warmroute.telemetry.logs import EventFormatter


async def round_trip(url: str) -> None:
    """Writes through one registry and reads through another."""
    one, other = (RedisRegistry(url, lookup_deadline_s=PATIENT_S) for _ in range(2))
    await asyncio.gather(one.start(lambda _: None), other.start(lambda _: None))
    try:
        await asyncio.gather(is_up(one), is_up(other))
        one.touch(rungs_of(1), life(7), time.time())
        await settled(one)
        assert await holders(other, rungs_of(1)) == [[7]]
    finally:
        await asyncio.gather(one.stop(), other.stop())


async def refused(url: str) -> bool:
    """Whether the server, or the registry, declines."""
    registry = RedisRegistry(url)
    await registry.start(lambda _: None)
    async with asyncio.timeout(60):
        while not (registry.healthy or registry.statistics()["errors_total"]):
            await asyncio.sleep(0.01)
    was_healthy = registry.healthy
    await registry.stop()
    return not was_healthy


def test_a_password_is_needed_and_enough() -> None:
    with RedisServer("--requirepass", "p@ss:word/", client={"password": "p@ss:word/"}) as server:
        uvloop.run(round_trip(f"redis://:p%40ss%3Aword%2F@127.0.0.1:{server.port}"))
        assert uvloop.run(refused(server.url))
        assert uvloop.run(refused(f"redis://:wrong@127.0.0.1:{server.port}"))


def test_an_acl_user_with_just_the_documented_rights_is_enough() -> None:
    rights = "+auth +select +script|load +evalsha +get +mget +set +del +role +dbsize +info".split()
    with RedisServer("--user", "router", "on", ">secret", "~w:*", *rights) as server:
        uvloop.run(round_trip(f"redis://router:secret@127.0.0.1:{server.port}/0"))


def test_an_acl_user_without_statistics_serves_without_them() -> None:
    rights = "+auth +script|load +evalsha +get +mget +set +del".split()
    with RedisServer("--user", "router", "on", ">secret", "~w:*", *rights) as server:
        uvloop.run(round_trip(f"redis://router:secret@127.0.0.1:{server.port}/0"))


def test_an_acl_user_who_may_not_read_is_down_not_flapping(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(
        "--user", "router", "on", ">secret", "~w:*", "+auth", "+script|load", "+evalsha", "+set"
    ) as server:
        assert uvloop.run(refused(f"redis://router:secret@127.0.0.1:{server.port}"))
    lines = [EventFormatter().format(record) for record in caplog.records]
    assert all("secret@" not in line for line in lines)
    assert any("no permissions" in line for line in lines)


def test_databases_are_apart() -> None:
    async def main(server: RedisServer) -> None:
        urls = f"{server.url}/3", f"{server.url}?db=4"
        one, other = (RedisRegistry(url, lookup_deadline_s=PATIENT_S) for url in urls)
        await asyncio.gather(one.start(lambda _: None), other.start(lambda _: None))
        await asyncio.gather(is_up(one), is_up(other))
        one.touch(rungs_of(1), life(7), time.time())
        await settled(one)
        assert await holders(one, rungs_of(1)) == [[7]]
        assert await holders(other, rungs_of(1)) == [None]
        await asyncio.gather(one.stop(), other.stop())

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_socket_file_works(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer("--unixsocket", str(path), "--requirepass", "word", client={"password": "word"}):
        uvloop.run(round_trip(f"unix://:word@{path}?db=2"))


def make_certificates(directory: Path) -> None:
    """A certificate authority, and a certificate of it for 127.0.0.1 that serves both ends."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, cwd=directory, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    openssl("req", *key, "-keyout", "end.key", "-out", "end.csr", "-subj", "/CN=127.0.0.1")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "end.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "1", "-out", "end.crt", "-extfile", "names"),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory


def tls_server(certificates: Path, *, clients_sign_in: bool) -> RedisServer:
    port = free_port()
    return RedisServer(
        *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes" if clients_sign_in else "no"),
        *("--tls-cert-file", str(certificates / "end.crt"), "--tls-key-file", str(certificates / "end.key")),
        *("--tls-ca-cert-file", str(certificates / "ca.crt")),
        port=port,
        client={
            "ssl": True,
            "ssl_ca_certs": str(certificates / "ca.crt"),
            "ssl_certfile": str(certificates / "end.crt"),
            "ssl_keyfile": str(certificates / "end.key"),
        },
    )


def test_tls_needs_an_authority_that_is_known_or_the_word_to_do_without(certificates: Path) -> None:
    with tls_server(certificates, clients_sign_in=False) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        uvloop.run(round_trip(f"{url}?ssl_ca_certs={certificates / 'ca.crt'}"))
        uvloop.run(round_trip(f"{url}?ssl_cert_reqs=none"))
        assert uvloop.run(refused(url))
        by_name = f"rediss://localhost:{server.port}?ssl_ca_certs={certificates / 'ca.crt'}"
        assert uvloop.run(refused(by_name)), "the certificate is for 127.0.0.1 alone"
        uvloop.run(round_trip(f"{by_name}&ssl_check_hostname=false"))


def test_tls_with_a_client_certificate_works(certificates: Path) -> None:
    with tls_server(certificates, clients_sign_in=True) as server:
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={certificates / 'ca.crt'}"
        signed = f"{url}&ssl_certfile={certificates / 'end.crt'}&ssl_keyfile={certificates / 'end.key'}"
        uvloop.run(round_trip(signed))
        assert uvloop.run(refused(url))


PROTECTED = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the "
    b"default user. In this mode connections are only accepted from the loopback interface.\r\n"
)


@asynccontextmanager
async def protected_server() -> AsyncIterator[str]:
    """What a Redis in protected mode does to whoever comes from elsewhere: says why, and hangs up."""

    async def deny(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PROTECTED)
        writer.close()

    server = await asyncio.start_server(deny, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def logged(caplog: pytest.LogCaptureFixture, *events: str) -> list[str]:
    return [
        EventFormatter().format(record) for record in caplog.records if record.message.split()[0] in events
    ]


def test_the_log_has_a_protected_server_s_own_words_and_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with protected_server() as url:
            registry = RedisRegistry(url)
            await registry.start(lambda _: None)
            async with asyncio.timeout(60):
                while not any(
                    "DENIED" in line for line in logged(caplog, "registry_down", "registry_refused")
                ):
                    await asyncio.sleep(0.01)
            await registry.stop()
            report = Report()
            following = asyncio.create_task(
                anext(aiter(RedisDiscovery(url, namespace="w", report=report).watch()))
            )
            async with asyncio.timeout(60):
                while not any(kind is DiscoveryFailure.UNAUTHORIZED for kind, _ in report.failures):
                    await asyncio.sleep(0.01)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            detail = next(text for kind, text in report.failures if kind is DiscoveryFailure.UNAUTHORIZED)
            for text in (detail, logged(caplog, "registry_down", "registry_refused")[-1]):
                assert "DENIED Redis is running in protected mode" in text
                assert "requirepass" in text

    uvloop.run(main())


def test_a_server_that_comes_back_with_a_password_is_said_to_want_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        with RedisServer() as server:
            registry = RedisRegistry(server.url)
            await registry.start(lambda _: None)
            await is_up(registry)
            with redis.Redis(port=server.port, single_connection_client=True) as client:
                client.config_set("requirepass", "word")
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            async with asyncio.timeout(60):
                while not any(
                    "NOAUTH" in line for line in logged(caplog, "registry_down", "registry_refused")
                ):
                    await asyncio.sleep(0.01)
            await registry.stop()
        (line,) = [each for each in logged(caplog, "registry_down", "registry_refused") if "NOAUTH" in each]
        assert "redis://:PASSWORD@HOST:PORT" in line

    uvloop.run(main())
