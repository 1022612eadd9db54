"""What a Redis URL says: how to find the servers, who to be there, and which TLS to speak.

    redis://[user:password@]host[:port][/db]          one server; rediss:// with TLS
    unix://[user:password@]/path[?db=N]               one server, by socket file
    redis+sentinel://[…@]host:port,…/service[/db]     the primary that Sentinels name; rediss+sentinel:// with TLS
    redis+cluster://[…@]host:port,…                   a Redis Cluster; rediss+cluster:// with TLS

Options follow as a query, named as in redis-py: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`
(`required` or `none`), `ssl_check_hostname`; `db`, `username`, `password`; `sentinel_username`, `sentinel_password`.
An unknown option is an error. Error messages never hold the password. Opens nothing but the named certificate files.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

Address = tuple[str, int] | str
"""Host and port, or the path of a socket file."""

_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_ENCODED = "of a user name or password / ? # % @ [ ] are written %2F %3F %23 %25 %40 %5B %5D"
_OPTIONS = (*_TLS_OPTIONS, "db", "username", "password", "sentinel_username", "sentinel_password")


class Topology(StrEnum):
    """How many servers there are, and who knows which is which."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A parsed URL."""

    topology: Topology
    addresses: tuple[Address, ...]
    """The server; or the Sentinels; or some of the Cluster's nodes."""
    service: str = ""
    """Name of the primary as the Sentinels know it."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    """Absent without TLS. Used with Sentinels too."""

    @property
    def label(self) -> str:
        """The servers, for logs: no credentials."""
        return ",".join([f"{a[0]}:{a[1]}" if isinstance(a, tuple) else a for a in self.addresses])


def parse_redis_url(url: str) -> RedisTarget:
    """Read a registry URL.

    Raises:
        ValueError: With the part that cannot be understood; never with the password.
    """
    parts = _parts(url)
    scheme, _, form = parts.scheme.partition("+")
    if (
        scheme not in ("redis", "rediss", "unix")
        or form not in ("", "sentinel", "cluster")
        or url.startswith("unix+")
    ):
        raise ValueError(
            f"registry URL scheme {parts.scheme!r} is not one of redis, rediss, unix, redis+sentinel, redis+cluster"
        )
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"unknown registry URL option {name!r}; known are {', '.join(_OPTIONS)}")
        options[name] = value
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    if scheme != "rediss" and any(name in options for name in _TLS_OPTIONS):
        raise ValueError(
            f"registry URL has TLS options, but scheme {parts.scheme!r} speaks no TLS: use rediss"
        )
    topology = Topology(form) if form else Topology.SINGLE
    service, db = _path(parts, topology, options)
    return RedisTarget(
        topology=topology,
        addresses=(unquote(parts.path),) if scheme == "unix" else _addresses(hosts, topology),
        service=service,
        db=db,
        username=options.get("username") or unquote(username) or None,
        password=options.get("password") or unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_tls(options) if scheme == "rediss" else None,
    )


def _parts(url: str) -> SplitResult:
    """The URL's parts, none of which is a piece of a password that is not encoded as it must be."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its message quotes what is before the path, so the password
        raise ValueError(f"registry URL has a host that is none; {_ENCODED}") from None
    # What follows the host may hold an @ as the value of an option alone, and the name of a socket file too.
    behind = parts.fragment + "".join(name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    if not parts.scheme.startswith("unix") or (parts.netloc and "@" not in parts.netloc):
        behind += parts.path
    if "@" in behind:
        raise ValueError(f"registry URL has its @ behind a /, ? or #; {_ENCODED}")
    return parts


def _path(parts: SplitResult, topology: Topology, options: dict[str, str]) -> tuple[str, int]:
    service, db = "", options.get("db", "")
    steps = [] if parts.scheme == "unix" else [unquote(step) for step in parts.path.split("/") if step]
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("registry URL unix:// names no socket file")
    if topology is Topology.SENTINEL:
        if not steps:
            raise ValueError("registry URL names no Sentinel service: redis+sentinel://host:port,…/service")
        service = steps.pop(0)
    if steps:
        db = steps.pop(0)
    if steps:
        raise ValueError(f"registry URL path {parts.path!r} has too many parts")
    if db and not db.isascii() or db and not db.isdigit():
        raise ValueError(f"registry URL database {db!r} is not a number")
    if db and int(db) and topology is Topology.CLUSTER:
        raise ValueError("a Redis Cluster has only database 0")
    return service, int(db or 0)


def _addresses(hosts: str, topology: Topology) -> tuple[Address, ...]:
    default_port = _SENTINEL_PORT if topology is Topology.SENTINEL else _REDIS_PORT
    addresses: list[Address] = []
    for host in hosts.split(","):
        try:
            one = urlsplit(f"//{host}")
            address = (unquote(one.hostname or "localhost"), one.port or default_port)
        except ValueError:
            raise ValueError(f"registry URL host {host!r} is not host:port") from None
        addresses.append(address)
    if topology is Topology.SINGLE and len(addresses) > 1:
        raise ValueError("registry URL names several hosts: say redis+sentinel or redis+cluster")
    return tuple(addresses)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    required = options.get("ssl_cert_reqs", "required")
    if required not in ("required", "none"):
        raise ValueError(f"registry URL option ssl_cert_reqs={required!r} is neither required nor none")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(f"registry URL option ssl_check_hostname={check!r} is neither true nor false")
    context.check_hostname = required == "required" and check in ("true", "1", "yes")
    context.verify_mode = ssl.CERT_REQUIRED if required == "required" else ssl.CERT_NONE
    try:
        if "ssl_ca_certs" in options:
            context.load_verify_locations(cafile=options["ssl_ca_certs"])
        if "ssl_certfile" in options:
            # No passphrase: OpenSSL would ask the terminal for one.
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password="")
    except OSError as error:
        raise ValueError(f"registry URL names TLS files that cannot be loaded: {error}") from error
    return context
