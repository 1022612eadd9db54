"""This module reads which Redis an agent speaks to: the URL has the same forms as the router's `registry.url`.

    redis://[user:password@]host[:port][/db]          one server; rediss:// with TLS
    unix://[user:password@]/path[?db=N]               one server, by socket file
    redis+sentinel://[…@]host:port,…/service[/db]     the primary that Sentinels name; rediss+sentinel:// with TLS
    redis+cluster://[…@]host:port,…                   a Redis Cluster; rediss+cluster:// with TLS

Options follow as a query: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` (`required` or `none`),
`ssl_check_hostname`; `db`, `username`, `password`; `sentinel_username`, `sentinel_password`. Messages never hold the
password.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_ENCODED = "of a user name or password / ? # % @ [ ] are written %2F %3F %23 %25 %40 %5B %5D"
_OPTIONS = (*_TLS, "db", "username", "password", "sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class RedisServers:
    """The servers that a Redis URL names."""

    form: str
    """`single`, `sentinel` or `cluster`."""
    addresses: tuple[tuple[str, int], ...]
    """Addresses of the server, of the Sentinels, or of some of the Cluster's nodes; empty where a socket file is
    used."""
    socket_path: str | None = None
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = None
    """redis-py's options for TLS; None without TLS."""

    @property
    def label(self) -> str:
        """The servers' addresses as logs show them, without credentials."""
        return self.socket_path or ",".join(f"{host}:{port}" for host, port in self.addresses)


def parse_redis_url(url: str) -> RedisServers:
    """Read a Redis URL.

    Raises:
        ValueError: The URL cannot be understood; the message names the part, and never holds the password.
    """
    parts = _parts(url)
    scheme, _, form = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or form not in ("", "sentinel", "cluster"):
        raise ValueError(
            f"scheme {parts.scheme!r} is not one of redis, rediss, unix, redis+sentinel, redis+cluster"
        )
    if scheme == "unix" and (form or not parts.path):
        raise ValueError("a socket file is named as unix:///path")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"unknown option {name!r}; known are {', '.join(_OPTIONS)}")
    if scheme != "rediss" and any(name in options for name in _TLS):
        raise ValueError(f"has TLS options, but scheme {parts.scheme!r} speaks no TLS: use rediss")
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    steps = [] if scheme == "unix" else [unquote(step) for step in parts.path.split("/") if step]
    if form == "sentinel" and not steps:
        raise ValueError("names no Sentinel service: redis+sentinel://host:port,…/service")
    service = steps.pop(0) if form == "sentinel" else ""
    db = steps.pop(0) if steps else options.get("db", "0")
    if steps or not db.isascii() or not db.isdigit():
        raise ValueError(f"path {parts.path!r} or option db is no number of a database")
    if form == "cluster" and int(db):
        raise ValueError("a Redis Cluster has only database 0")
    return RedisServers(
        form=form or "single",
        addresses=() if scheme == "unix" else _addresses(hosts, form),
        socket_path=unquote(parts.path) if scheme == "unix" else None,
        service=service,
        db=int(db),
        username=options.get("username") or unquote(username) or None,
        password=options.get("password") or unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_tls(options) if scheme == "rediss" else None,
    )


def _parts(url: str) -> SplitResult:
    """Split the URL, and refuse it before a piece of a password that is not encoded is taken for something else."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its message quotes what is before the path, so the password
        raise ValueError(f"the host is none; {_ENCODED}") from None
    # What follows the host may hold an @ as the value of an option alone, and the name of a socket file too.
    behind = parts.fragment + "".join(name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    if not parts.scheme.startswith("unix") or (parts.netloc and "@" not in parts.netloc):
        behind += parts.path
    if "@" in behind:
        raise ValueError(f"its @ is behind a /, ? or #; {_ENCODED}")
    return parts


def local_address(servers: RedisServers) -> str:
    """Return the address from which this machine reaches Redis; routers can very likely reach that address, too."""
    for host, port in servers.addresses:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, proto) as probe:
                probe.connect(address)  # sends nothing; the system only chooses the local address
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def _addresses(hosts: str, form: str) -> tuple[tuple[str, int], ...]:
    addresses = []
    for host in hosts.split(","):
        try:
            one = urlsplit(f"//{host}")
            port = one.port or (26379 if form == "sentinel" else 6379)
        except ValueError:
            raise ValueError(f"host {host!r} is not host:port") from None
        addresses.append((unquote(one.hostname or "localhost"), port))
    if not form and len(addresses) > 1:
        raise ValueError("names several hosts: say redis+sentinel or redis+cluster")
    return tuple(addresses)


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    required = options.get("ssl_cert_reqs", "required")
    if required not in ("required", "none"):
        raise ValueError(f"option ssl_cert_reqs={required!r} is neither required nor none")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(f"option ssl_check_hostname={check!r} is neither true nor false")
    tls: dict[str, Any] = {
        "ssl": True,
        "ssl_cert_reqs": required,
        "ssl_check_hostname": required == "required" and check in ("true", "1", "yes"),
    }
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options:
            try:
                open(options[name], "rb").close()
            except OSError as error:
                raise ValueError(f"option {name}: {options[name]!r}: {error.strerror}") from None
            tls[name] = options[name]
    return tls
