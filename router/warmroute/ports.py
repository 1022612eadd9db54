"""The ports are the outside world on one page: what the core and the services need, and adapters provide.

A port has one contract test suite (`tests/contract`) that every adapter passes. Ports decide nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Protocol

from warmroute.caching.content import CachedContent
from warmroute.caching.schemas.record import SchemaRecord
from warmroute.core.health.health import FailureReason
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId
from warmroute.tenants.keys import KeyRecord
from warmroute.tenants.limits import Grant, LocalLimits, Scope
from warmroute.tenants.tenant import Priority
from warmroute.tenants.usage import RowKey


class Registry(Protocol):
    """Which replicas recently served which prompt prefix; shared by all routers that name the same backend.

    Only `start` and `stop` wait. Writes are batched and visible to this process at once, to every other router within
    50 ms. A backend that fails never raises into the request path: lookups answer from this process's own recent
    placements, and `healthy` turns false until it is back.
    """

    @property
    def healthy(self) -> bool:
        """False while the backend cannot be reached (always true for `memory`)."""

    @property
    def apart(self) -> bool:
        """Whether the routers that share the backend cannot tell each other at the moment what they place: it is away,
        slow, or takes nothing (never true for `memory`)."""

    async def start(self, on_secret: Callable[[bytes], None]) -> None:
        """Connect. Returns within a second whether or not the backend answers; keeps trying by itself.

        Calls `on_secret` with the deployment's 16-byte fingerprint secret as soon as it is known: made once and kept
        in the registry, so that routers agree. Until then the router works with a secret of its own.
        """

    async def stop(self) -> None:
        """Flush what is pending (at most one second) and disconnect."""

    def expire_after(self, idle_s: float) -> None:
        """Forget what nobody touches for this long, from now on; what is noted already, too. Of others that share the
        backend, each has its own; the last to note a rung decides how long the backend keeps it.

        Raises:
            ValueError: It is not positive.
        """

    def lookup(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> Records | None:
        """Holders of each rung.

        Returns the records at once when they are at hand (`memory`; or the backend is down), and then never calls
        `done`. Otherwise returns `None` and calls `done` exactly once, at the latest when the lookup deadline passes
        (then with this process's own placements only).
        """

    def touch(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, owner: str = ""
    ) -> None:
        """Note that this replica was sent a prompt with these rungs (chunks' hashes are noted and looked up just so).
        Called when a request is dispatched.

        `owner`: whoever alone has such rungs; empty: they may be anybody's. A backend that was told at its making how
        many an owner may have bounds what is kept of it, at the cost of its own records."""

    def keep(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, until_s: float
    ) -> None:
        """Note it as `touch` does, and keep what is known of these rungs until then at least, however short the idle
        time. A shared backend has to be told at its making that records may be kept so (`keeps_s`): it then shows what
        it still has, also where the idle time has become shorter since that was noted."""

    def forget(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, until_s: float = inf
    ) -> None:
        """Withdraw this replica from those of these rungs where it was last noted at `until_s` or before."""

    def remember_response(self, response_id: str, replica: ReplicaId) -> None:
        """Keep which replica made a stored response (`/v1/responses`), for the longest idle time: it is in no cache."""

    def find_response(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """Calls `done` exactly once, at the latest when the lookup deadline passes."""

    def statistics(self) -> dict[str, float]:
        """Figures for `/metrics`: at least `idle_s`, `entries`, `bytes`, `lookups_total`, `lookup_timeouts_total`,
        `lookup_seconds_total`, `writes_total`, `errors_total`, `evictions_total`."""


class LoadBoard(Protocol):
    """Where the routers of one deployment tell each other what they have under way; reads no meaning into it."""

    @property
    def shared(self) -> bool:
        """False where nobody else can ever be heard: then there is no need to speak."""

    async def start(self) -> None:
        """Begin to connect; does not wait for it."""

    def listen(self, ring: Callable[[], None]) -> None:
        """From now on call `ring` when somebody has posted what `exchange` has not read yet: soon, once until the next
        `exchange`. A board that cannot tell never does, and is read now and then all the same."""

    async def exchange(self, notice: bytes | None) -> Sequence[bytes] | None:
        """Post a notice, if there is one, and read those posted since the last call, oldest first; own ones may be
        among them. One round trip, ended by the board's own deadline; never raises for a board's failure.

        Returns `None` if the board could not be reached: then the notice may be lost, and notices in between too.
        """

    async def stop(self) -> None:
        """Disconnect."""


@dataclass(frozen=True, slots=True)
class Member:
    """A replica as discovery names it. The id outlives restarts and, unless it is made of it, a change of URL."""

    replica_id: ReplicaId
    url: str
    """`http://HOST:PORT` or `https://HOST:PORT`, nothing after it."""
    models: frozenset[str] = frozenset()
    """What it is said to serve, until it tells itself. Empty: it has to be asked."""
    zone: str = ""
    """Where it is; empty where nobody says."""
    draining: bool = False
    """It is about to leave: named still so that it can finish, and to be given nothing new."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What else the source tells of it, for people."""
    ranks: int | None = None
    """Data-parallel ranks behind the URL, each of which requests can name; 1: none is to be named. None: it has to be
    asked."""


class DiscoveryFailure(StrEnum):
    """Why a source of members could not be read. A metric label."""

    UNREACHABLE = "unreachable"
    """No connection: unresolved, refused, TLS, or broken off."""
    TIMEOUT = "timeout"
    """Connected, and silent for too long."""
    UNAUTHORIZED = "unauthorized"
    """It does not take our credentials, or there are none."""
    FORBIDDEN = "forbidden"
    """It knows us, and we may not read this."""
    NOT_FOUND = "not_found"
    """What was asked for does not exist there."""
    OVERLOADED = "overloaded"
    """It asks to be left alone for a while."""
    SERVER = "server"
    """It failed itself."""
    UNREADABLE = "unreadable"
    """It answered what nobody can read."""


class DiscoveryReport(Protocol):
    """Where a source tells how it fares; whoever listens counts, and logs what is news."""

    def succeeded(self) -> None:
        """It was read, or has shown that what it named last still holds."""

    def failed(self, failure: DiscoveryFailure, detail: str, retry_in_s: float) -> None:
        """It could not be read; `detail` says to people what happened, where, and what to do."""

    def noticed(self, problem: str) -> None:
        """It was read, and an operator should know something of what it said; empty: no longer."""


class Discovery(Protocol):
    """Which replicas belong to the fleet, whether or not they are well. One source of them, or several together."""

    def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """All members, at once and again after every change; ids are unique. Ends if there can be no more changes.

        A source that cannot be reached yields nothing: the last known members stay. Nothing is left open once the
        iteration ends or is cancelled; it may begin anew then.
        """


@dataclass(frozen=True, slots=True)
class RankFigures:
    """What one look at a server showed of one of its engines; what it does not tell is None."""

    cache_tokens: int | None = None
    running: int | None = None
    waiting: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one look at a replica showed. What it does not tell is None, which says nothing against it."""

    alive: bool
    """Whether it takes requests, as far as it says itself."""
    failure: FailureReason | None = None
    """Why it is not alive; None if it is."""
    detail: str | None = None
    """What happened then, for people: which URL, and its status or what kept it from answering."""
    incarnation: Incarnation | None = None
    """Which life of the replica, and of its cache, answered; known whenever it is alive."""
    process: Incarnation | None = None
    """Which process answered: where it is the same and the incarnation another, the cache was emptied."""
    life_told: bool = False
    """Whether the engine itself tells its lives apart; else a new one is a guess after an outage."""
    models: Mapping[str, object] | None = None
    """Models and LoRA adapters it serves, each with what it says of it (its card in `/v1/models`)."""
    block_tokens: int | None = None
    cache_tokens: int | None = None
    running: int | None = None
    """Requests the engine was running when last asked, up to one scrape interval ago."""
    waiting: int | None = None
    engines: tuple[RankFigures, ...] = ()
    """The same of each engine behind the URL, in the order of ranks; empty where it does not tell them apart."""


class Engine(Protocol):
    """Asks replicas how they are, in whatever way their engine understands."""

    async def start(self) -> None:
        """Get ready; connects to nobody."""

    async def stop(self) -> None:
        """Close every connection."""

    async def probe(self, replica_id: ReplicaId, url: str) -> ProbeResult:
        """Look at one replica; ends by its own deadline. Never two at once for the same replica.

        A replica that restarted since the last probe is told by another incarnation, however short its absence.
        """

    async def models(self, replica_id: ReplicaId, url: str) -> Mapping[str, object] | None:
        """What a replica serves now, as the probes to come will tell it too; None if it does not tell. Ends by its own
        deadline; may run beside a probe."""

    def read_again(self, replica_id: ReplicaId) -> None:
        """Somebody may have changed what it serves, or put it to sleep: the next probe reads everything."""

    def forget(self, replica_id: ReplicaId) -> None:
        """Drop what is kept of a replica that left the fleet."""


class CallError(OSError):
    """No answer came, or none that is HTTP."""


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """What a replica answered to a call."""

    status: int
    content_type: str
    body: bytes
    """Its beginning, up to the limit asked for."""


class ReplicaCalls(Protocol):
    """Requests of the router's own to replicas."""

    async def start(self) -> None:
        """Get ready; connects to nobody."""

    async def stop(self) -> None:
        """Close every connection."""

    async def call(
        self,
        url: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        limit_bytes: int,
    ) -> CallAnswer:
        """Send one request to the replica with this base URL. Has no deadline of its own.

        Raises:
            CallError: It did not answer.
        """


class KeyStoreError(OSError):
    """Keys cannot be read or changed; the message says why and what to do, and holds none."""


class KeyStore(Protocol):
    """Where the records of API keys are kept, for all routers that name the same place."""

    async def start(self, on_keys: Callable[[Sequence[KeyRecord]], None]) -> None:
        """Call `on_keys` with all records, now and soon after every change, whoever made it.

        Returns once they have been read, or after a second if the place cannot be reached: then `on_keys` is called
        when it can. While it is away the last known records stay.

        Raises:
            KeyStoreError: What is there is no record of keys.
        """

    async def stop(self) -> None:
        """Look no more."""

    async def records(self) -> Sequence[KeyRecord]:
        """All records as they are now, by id.

        Raises:
            KeyStoreError: They cannot be read.
        """

    async def add(self, record: KeyRecord) -> None:
        """Keep one more.

        Raises:
            KeyStoreError: It cannot be kept, or its id is taken.
        """

    async def revoke(self, key_id: str) -> bool:
        """Forget one; False if there is none of this id.

        Raises:
            KeyStoreError: The records cannot be changed.
        """


class Limiter(Protocol):
    """Counts what tenants use against what they may, for all routers that share the backend.

    A backend that fails never raises: this process then goes by what it has let through itself, with its share of each
    limit, and tells the backend when it is back.
    """

    @property
    def healthy(self) -> bool:
        """False while the backend cannot be reached."""

    @property
    def own(self) -> LocalLimits | None:
        """Where everything is counted if no backend is: whoever asks this finds out at once, without the limiter."""

    async def start(self) -> None:
        """Connect; returns within a second whether or not the backend answers."""

    async def stop(self) -> None:
        """Tell what is not told yet (at most one second) and disconnect."""

    def take(self, grant: Grant, done: Callable[[], None]) -> bool:
        """Decide on a grant, over all of its limits in one step. True: at once, and `done` is never called; else it is
        called exactly once, soon."""

    def settle(self, grant: Grant, requests: int, tokens: int, cost_nano: int = 0) -> None:
        """One is over: so many requests and tokens, and so much money, more than was taken, or less. Once a grant."""

    def charge(self, scopes: Sequence[Scope], cost_nano: int, at_s: float) -> None:
        """So much money was spent by no request; below 0: less was than was charged at `at_s`."""

    def statistics(self) -> dict[str, float]:
        """Figures for `/metrics`: at least `local_total` (decided without the backend) and `errors_total`."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says."""

    tenant: str
    priority: Priority | None
    expires_s: float
    """Unix time from which it is refused, other clocks' difference allowed for."""


class TokenVerifier(Protocol):
    """Judges tokens of an identity provider by its public keys, which it keeps up to date."""

    async def start(self, on_changed: Callable[[], None]) -> None:
        """Read the provider's keys; returns within a second whether or not it answers. `on_changed` is called when
        keys are not the provider's any more: what they signed must be verified anew."""

    async def stop(self) -> None:
        """Look no more."""

    def verify(self, token: bytes, done: Callable[[Claims | str], None]) -> Claims | str | None:
        """What it says, or why it is not accepted (which holds nothing of it). None: its key has to be looked for, and
        `done` is called once."""


class UsageStore(Protocol):
    """Where what tenants used is summed up, for all routers that share the backend."""

    async def start(self) -> None:
        """Connect; returns within a second whether or not the backend answers."""

    async def stop(self) -> None:
        """Disconnect."""

    async def add(self, bucket_s: int, rows: Mapping[RowKey, Sequence[int]], number: int) -> bool:
        """Add these rows to the bucket that begins at this Unix time, in one step. `number` grows from one call of this
        router to the next; rows that were added under a number are not added under it again. False: the backend could
        not be reached, and whether they were added is not known."""

    async def read(self, from_s: int, to_s: int) -> Sequence[tuple[int, RowKey, Sequence[int]]]:
        """All rows of the buckets that begin in this time, the end excluded: bucket, key, counters.

        Raises:
            OSError: The backend cannot be reached.
        """


@dataclass(frozen=True, slots=True)
class Kept:
    """A cached content as it stands."""

    content: CachedContent
    uses: int = 0
    """How often it was asked for to be used."""
    lapsed: bool = False
    """Its promise to be warm is given up for now."""


class ContentStore(Protocol):
    """Where cached contents are kept until they expire, for all routers that share the backend; and who keeps them
    warm.

    Every call but `start` and `stop` raises `caching.content.StoreAwayError` where the backend cannot be reached, and
    ends by its own deadline. What has expired is gone for every call. Times are Unix seconds.
    """

    @property
    def healthy(self) -> bool:
        """False while the backend cannot be reached."""

    async def start(self) -> None:
        """Connect; returns within a second whether or not the backend answers."""

    async def stop(self) -> None:
        """Disconnect."""

    async def add(
        self, content: CachedContent, prefix: bytes, now_s: float, *, most: int, most_bytes: int
    ) -> None:
        """Keep one more, if its scope has so many at most then, with so many bytes together.

        Raises:
            TooMuchError: It would have more.
        """

    async def find(self, scope: str, content_id: str, now_s: float, *, use: bool = False) -> Kept | None:
        """One of this scope's; `use`: count a use of it."""

    async def prefix(self, scope: str, content_id: str) -> bytes | None:
        """What it holds; None: nothing is there."""

    async def listed(
        self, scope: str, now_s: float, *, after: str = "", most: int
    ) -> Sequence[CachedContent]:
        """The scope's, by id; those behind the id `after`, and so many at most."""

    async def extend(
        self, scope: str, content_id: str, expires_s: float, now_s: float
    ) -> tuple[CachedContent, CachedContent] | None:
        """Let it expire then: as it was until this step, and as it is now. None if it is not there."""

    async def remove(self, scope: str, content_id: str) -> CachedContent | None:
        """Forget it, and say what it was, once; None if it was not there."""

    async def all(self, now_s: float, *, most: int) -> Sequence[Kept]:
        """Every scope's, those that expire first first."""

    async def lapse(self, scope: str, content_id: str, lapsed: bool) -> None:
        """Note whether its promise is given up."""

    async def lead(self, router: str, for_s: float) -> bool:
        """Whether this router is the one that keeps promises, from now for so long; asked again, it stays so."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What one look into a store of responses finds."""

    record: bytes | None = None
    near: Sequence[tuple[int, str, bytes]] = ()
    """Of the group that was asked for, where there is no record: number, record's key, and what was kept beside it, by
    number; not all of them at once where there are many."""


class ResponseStore(Protocol):
    """Where recorded responses are kept until they expire, for all routers that share the backend.

    No call raises anything: a backend that is away, or late, has nothing and takes nothing. What is kept is bounded, in
    records and in bytes; those that were found or added longest ago give way. Times are Unix seconds.
    """

    @property
    def healthy(self) -> bool:
        """False while the backend cannot be reached."""

    async def start(self) -> None:
        """Connect; returns within a second whether or not the backend answers."""

    async def stop(self) -> None:
        """Disconnect."""

    async def find(self, key: str, now_s: float, *, group: str = "", after: int = 0) -> Recalled:
        """The record of this key, or else what is new in a group: what has a higher number than `after`. Ends by the
        lookup's deadline."""

    async def add(
        self, key: str, record: bytes, now_s: float, expires_s: float, *, group: str = "", near: bytes = b""
    ) -> bool:
        """Keep a record until it expires, in place of what has its key; and `near` beside it, in a group."""

    async def remove(self, key: str) -> None:
        """Forget a record."""

    def figures(self) -> Mapping[str, float]:
        """For metrics: `records` and `bytes` as last heard of, `late` lookups."""


class Embedder(Protocol):
    """Turns texts into vectors whose angle tells how alike they are."""

    @property
    def space(self) -> str:
        """Names what vectors can be compared: those of another space cannot."""

    async def start(self) -> None:
        """Make ready; returns at once."""

    async def stop(self) -> None:
        """Let go of what it has."""

    async def embed(self, text: str) -> bytes:
        """Single precision, of length 1; empty if it cannot be had now. Raises nothing, and holds up nobody."""


@dataclass(frozen=True, slots=True)
class KeptSchema:
    """A version of a prompt schema, as its store has it."""

    record: SchemaRecord
    uses: int = 0
    """How often it was used."""
    used_s: float = 0.0
    """When last; or when it was registered."""


class SchemaStore(Protocol):
    """Where prompt schemas are kept, for all routers that share the backend, until they are removed. Version 0 is the
    latest one. All but `start` and `stop` raise `caching.content.StoreAwayError` as those of `ContentStore` do.
    """

    @property
    def healthy(self) -> bool:
        """False while the backend cannot be reached."""

    async def start(self) -> None:
        """Connect; returns within a second whether or not the backend answers."""

    async def stop(self) -> None:
        """Disconnect."""

    async def add(
        self, record: SchemaRecord, document: bytes, now_s: float, *, most: int, most_bytes: int
    ) -> KeptSchema:
        """Keep one more version, with the number after the name's last; the latest stays, and is told, where it has the
        same digest.

        Raises:
            TooManyError: Its scope would have more versions than `most`, or more bytes.
        """

    async def find(
        self, scope: str, name: str, version: int, now_s: float, *, use: bool = False
    ) -> KeptSchema | None:
        """One of this scope's; `use`: count a use of it."""

    async def document(self, scope: str, name: str, version: int) -> bytes | None:
        """What it says; the version is a number that `find` told. None: nothing is there."""

    async def listed(self, scope: str, *, after: str = "", most: int) -> Sequence[KeptSchema]:
        """The latest version of each name, by name; those behind the name `after`, and so many at most."""

    async def versions(self, scope: str, name: str, *, most: int) -> Sequence[KeptSchema]:
        """Those of one name, the latest first."""

    async def remove(self, scope: str, name: str, version: int) -> Sequence[int]:
        """Forget a version, or with 0 all; tells which there were. Numbers begin anew only after all are gone."""

    async def all(self, since_s: float, *, most: int) -> Sequence[KeptSchema]:
        """Every scope's that was used or registered since, the latest first."""

    async def lead(self, router: str, for_s: float) -> bool:
        """Whether this router is the one that keeps them warm, from now for so long; asked again, it stays so."""
