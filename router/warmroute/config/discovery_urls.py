"""What a URL of the setting `discovery` says: which source names replicas, and what is known of those it names.

    kubernetes://NAMESPACE/SERVICE?port=http        EndpointSlices of a Service; NAMESPACE may be empty: the pod's own
    kubernetes://NAMESPACE?selector=app%3Dvllm      EndpointSlices by label, so of several Services at once
    dns://HOST:PORT                                 every A and AAAA address of a name, a headless Service's for one
    dns+srv://_http._tcp.NAME                       the targets and ports of SRV records
    redis://…                                       agents' heartbeats, in a Redis named as `registry.url` names it
    redis                                           the same, in the registry's own Redis

Options follow as a query; an unknown one is an error. Parses and judges text only: opens nothing, resolves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from warmroute.config.errors import suggestion
from warmroute.core.ranks import MOST_RANKS

REDIS_SCHEMES = frozenset(
    {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
)
SCHEMES = frozenset({"kubernetes", "dns", "dns+srv"}) | REDIS_SCHEMES

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A name of a namespace or Service. Source: RFC 1123."""
_HOST = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?"
)
_ID_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,63}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_COMMON = ("model", "ranks", "scheme", "zone")


@dataclass(frozen=True, slots=True)
class Pool:
    """What is said in the URL of all replicas that the source names; it stands back behind what the source says."""

    models: frozenset[str] = frozenset()
    """`model=NAME`, repeatable: what they serve, until they tell themselves. Empty: they have to be asked."""
    zone: str = ""
    """`zone=NAME`: where they are."""
    scheme: str = ""
    """`scheme=http` or `https`: how they are called. Empty: as the source says, else `http`."""
    ranks: int | None = None
    """`ranks=N`: data-parallel ranks of each; absent: they have to be asked."""


@dataclass(frozen=True, slots=True)
class KubernetesSource:
    """EndpointSlices of one namespace."""

    namespace: str = ""
    """Empty: the one that the router runs in, or that the kubeconfig's context names."""
    service: str = ""
    """Name of the Service; empty where `selector` is set."""
    selector: str = ""
    """Label selector of the slices. Kubernetes gives them the labels of their Service."""
    port: str = ""
    """Name of a port of the slices, or a number, which is used as it is. Empty: the only port that they have."""
    id_prefix: str = ""
    """Put before every id, for pods of one name in several namespaces or clusters."""
    context: str = ""
    """Context of the kubeconfig; empty: its current one."""
    resync_s: float = 300.0
    """Everything is listed anew this often, whatever the watch said."""
    pool: Pool = field(default_factory=Pool)


@dataclass(frozen=True, slots=True)
class DnsSource:
    """A name that is resolved again and again."""

    name: str
    port: int = 0
    """0: SRV records tell it."""
    srv: bool = False
    interval_s: float = 10.0
    """Longest time between two questions; a shorter TTL shortens it."""
    nameserver: tuple[str, int] | None = None
    """Address and port of the server to ask; absent: those of the system."""
    pool: Pool = field(default_factory=Pool)


@dataclass(frozen=True, slots=True)
class RedisSource:
    """Heartbeats of replica agents."""

    url: str = field(default="", repr=False)
    """The Redis, as `registry.url` names one. Empty: the registry's own."""
    namespace: str = ""
    """`namespace=NAME`: prefix of the keys. Empty: `registry.namespace`."""


DiscoverySource = KubernetesSource | DnsSource | RedisSource


def parse_source(text: str) -> DiscoverySource:
    """The source that a URL names.

    Raises:
        ValueError: It names none; the message says what it should be, and shows no password.
    """
    if text == "redis":
        return RedisSource()
    scheme, found, rest = text.partition("://")
    if not found or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in sorted(SCHEMES))
        raise ValueError(f"must be redis, or begin with one of {known}")
    if scheme in REDIS_SCHEMES:
        return _redis(text, rest)
    if text != text.strip() or re.search(r"[\s\\\x00-\x1f\x7f]", text):
        raise ValueError("must not hold spaces; write %20")
    parts = urlsplit(text)
    if parts.fragment or "@" in parts.netloc:
        raise ValueError("has no place for a user or for what follows #")
    return _kubernetes(parts) if scheme == "kubernetes" else _dns(parts)


def _kubernetes(parts: SplitResult) -> KubernetesSource:
    names = ("selector", "port", "id_prefix", "context", "resync", *_COMMON)
    options, pool = _options(parts.query, names)
    namespace, service = unquote(parts.netloc), unquote(parts.path.strip("/"))
    if namespace and not _LABEL.fullmatch(namespace):
        raise ValueError(f"{namespace!r} is no name of a namespace (a-z, 0-9 and -)")
    selector = options.get("selector", "")
    if service and not _LABEL.fullmatch(service):
        raise ValueError(f"{service!r} is no name of a Service (a-z, 0-9 and -)")
    if bool(service) is bool(selector):
        raise ValueError(
            "must name a Service (kubernetes://NAMESPACE/SERVICE) or a selector (?selector=app%3Dvllm), one of them"
        )
    port = options.get("port", "")
    if port.isascii() and port.isdigit():
        _port(port)
    prefix = options.get("id_prefix", "")
    if not _ID_PREFIX.fullmatch(prefix):
        raise ValueError("id_prefix must be at most 63 letters, digits, or . _ -")
    return KubernetesSource(
        namespace=namespace,
        service=service,
        selector=selector,
        port=port,
        id_prefix=prefix,
        context=options.get("context", ""),
        resync_s=_seconds(options, "resync", 300.0, 10.0, 3600.0),
        pool=pool,
    )


def _dns(parts: SplitResult) -> DnsSource:
    options, pool = _options(parts.query, ("interval", "nameserver", *_COMMON))
    if parts.path.strip("/"):
        raise ValueError("has no place for a path")
    srv = parts.scheme == "dns+srv"
    name, colon, port = parts.netloc.partition(":")
    if not _HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no name that DNS knows")
    if srv and colon:
        raise ValueError("must not name a port: SRV records tell it")
    if not srv and not colon:
        raise ValueError("must name the replicas' port: dns://HOST:PORT")
    nameserver = options.get("nameserver")
    return DnsSource(
        name=name,
        port=0 if srv else _port(port),
        srv=srv,
        interval_s=_seconds(options, "interval", 10.0, 0.1, 3600.0),
        nameserver=None if nameserver is None else _nameserver(nameserver),
        pool=pool,
    )


def _redis(text: str, rest: str) -> RedisSource:
    if not rest:
        raise ValueError("names no server after ://")
    try:
        parts = urlsplit(text)
    except ValueError:  # its message quotes what is before the path, so the password
        raise ValueError("has a host that is none; of a password [ and ] are written %5B and %5D") from None
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    namespaces = [value for key, value in pairs if key == "namespace"]
    if any(not _NAMESPACE.fullmatch(value) for value in namespaces) or len(namespaces) > 1:
        raise ValueError("namespace must be 1 to 64 letters, digits, or . _ : -, and set once")
    if not namespaces:
        return RedisSource(text)
    # What is left is the registry's way to name a Redis.
    query = urlencode([(key, value) for key, value in pairs if key != "namespace"])
    return RedisSource(urlunsplit(parts._replace(query=query)), namespaces[0])


def _options(query: str, known: tuple[str, ...]) -> tuple[dict[str, str], Pool]:
    options: dict[str, str] = {}
    models = set()
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise ValueError(f"unknown option {key!r}{suggestion(key, known)}")
        if not value:
            raise ValueError(f"option {key!r} is empty")
        if key == "model":
            models.add(value)
        elif key in options:
            raise ValueError(f"option {key!r} is set twice")
        else:
            options[key] = value
    scheme = options.get("scheme", "")
    if scheme not in ("", "http", "https"):
        raise ValueError(f"scheme must be http or https, not {scheme!r}")
    return options, Pool(frozenset(models), options.get("zone", ""), scheme, _ranks(options.get("ranks")))


def _ranks(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_RANKS:
        raise ValueError(f"ranks must be 1 to {MOST_RANKS}, not {text!r}")
    return int(text)


def _seconds(options: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least:g} to {most:g} seconds, not {options[name]!r}")
    return value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= 65_535:
        raise ValueError(f"port must be 1 to 65535, not {text!r}")
    return int(text)


def _nameserver(text: str) -> tuple[str, int]:
    host, port = text, 53
    if text.count(":") == 1 or text.startswith("["):
        before, _, after = text.rpartition(":")
        host, port = before.strip("[]"), _port(after)
    try:
        ip_address(host)
    except ValueError as error:
        raise ValueError(f"nameserver must be an address, not {host!r}") from error
    return host, port
