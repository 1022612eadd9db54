"""Keys and usage on the admin port: list, make and revoke keys; sums of what tenants used, as JSON or CSV.

A key's text is in one answer only, that which made it, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from os import urandom
from typing import TypeVar

import msgspec
from aiohttp import web

from warmroute.config.tenant_rules import TENANT_ID
from warmroute.control.times import DAY_S, moment
from warmroute.core.errors import ClientError, NotFoundError, RouterError
from warmroute.ports import KeyStore, KeyStoreError
from warmroute.service.accounting import GROUPS, Accounting, as_csv
from warmroute.tenants.keys import ID_BYTES, SECRET_BYTES, KeyRecord, digest_of, new_key
from warmroute.tenants.tenant import Priority

_T = TypeVar("_T")
_BUCKETS = {"total": 0, "hour": 3600, "day": DAY_S}
MOST_BUCKETS = 20_000
"""Of the store's, in one report."""


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /keys` takes."""

    tenant: str
    name: str = ""
    models: tuple[str, ...] = ()
    expires_in_s: float | None = None
    priority: Priority | None = None


_decode = msgspec.json.Decoder(NewKey).decode


def made(wanted: NewKey, now_s: float) -> tuple[KeyRecord, str]:
    """A record and the text of its key.

    Raises:
        ClientError: Something of what is wanted cannot be.
    """
    if not TENANT_ID.fullmatch(wanted.tenant):
        raise ClientError("tenant must be 1 to 128 letters, digits, or . _ : @ -", param="tenant")
    if len(wanted.name) > 200 or not wanted.name.isprintable():
        raise ClientError("name must be at most 200 printable characters", param="name")
    if len(wanted.models) > 1000 or not all(0 < len(model) <= 512 for model in wanted.models):
        raise ClientError("models must be at most 1000 names", param="models")
    if wanted.expires_in_s is not None and not 0 < wanted.expires_in_s < 1e10:
        raise ClientError("expires_in_s must be a positive number of seconds", param="expires_in_s")
    key_id, text = new_key(urandom(ID_BYTES), urandom(SECRET_BYTES))
    record = KeyRecord(
        id=key_id,
        tenant=wanted.tenant,
        sha256=digest_of(text.encode()).hex(),
        name=wanted.name,
        models=wanted.models,
        created_s=float(int(now_s)),
        expires_s=None if wanted.expires_in_s is None else now_s + wanted.expires_in_s,
        priority=wanted.priority,
    )
    return record, text


def add_routes(
    router: web.UrlDispatcher,
    keys: KeyStore | None,
    accounting: Accounting | None,
    clock: Callable[[], float],
) -> None:
    """Add the endpoints; those of what is off say so."""

    def store() -> KeyStore:
        if keys is None:
            raise NotFoundError("no keys are asked for: set keys.url", code="keys_off")
        return keys

    async def list_keys(request: web.Request) -> web.Response:
        tenant = request.query.get("tenant")
        records = await _kept(store().records())
        shown = [record.shown() for record in records if tenant is None or record.tenant == tenant]
        return _json({"keys": shown})

    async def add(request: web.Request) -> web.Response:
        place = store()
        try:
            wanted = _decode(await request.read())
        except msgspec.MsgspecError as error:
            raise ClientError(
                f"the body must say tenant, and may say name, models, expires_in_s, priority: {error}"
            ) from None
        record, text = made(wanted, clock())
        await _kept(place.add(record))
        return _json({**record.shown(), "key": text}, 201)

    async def revoke(request: web.Request) -> web.Response:
        key_id = request.match_info["id"]
        if not await _kept(store().revoke(key_id)):
            raise NotFoundError(f"there is no key {key_id[:64]!r}", code="key_not_found")
        return _json({"id": key_id, "revoked": True})

    async def usage(request: web.Request) -> web.Response:
        if accounting is None:
            raise NotFoundError("usage is not counted: set usage.enabled", code="usage_off")
        query = request.query
        from_s, to_s = _span(request, accounting, int(clock()))
        by = tuple(dict.fromkeys(query.get("by", "tenant").split(",")))
        if not set(by) <= set(GROUPS):
            raise ClientError(f"by must be some of {', '.join(GROUPS)}", param="by")
        bucket = query.get("bucket", "total")
        if bucket not in _BUCKETS:
            raise ClientError(f"bucket must be one of {', '.join(_BUCKETS)}", param="bucket")
        length_s = _BUCKETS[bucket] and max(_BUCKETS[bucket], accounting.bucket_s)
        try:
            rows = await accounting.report(
                from_s=from_s, to_s=to_s, by=by, bucket_s=length_s, tenant=query.get("tenant", "")
            )
        except OSError as error:
            raise _away(f"the sums cannot be read: {error or type(error).__name__}") from error
        if query.get("format", "json") == "csv":
            return web.Response(text=as_csv(rows), content_type="text/csv")
        return _json({"from_s": from_s, "to_s": to_s, "usage": rows})

    async def savings(request: web.Request) -> web.Response:
        if accounting is None:
            raise NotFoundError("usage is not counted: set usage.enabled", code="usage_off")
        from_s, to_s = _span(request, accounting, int(clock()))
        try:
            rows = await accounting.savings(from_s=from_s, to_s=to_s, tenant=request.query.get("tenant", ""))
        except OSError as error:
            raise _away(f"the sums cannot be read: {error or type(error).__name__}") from error
        return _json({"from_s": from_s, "to_s": to_s, "savings": rows})

    router.add_get("/savings", savings)
    router.add_get("/keys", list_keys)
    router.add_post("/keys", add)
    router.add_delete("/keys/{id}", revoke)
    router.add_get("/usage", usage)


def _span(request: web.Request, accounting: Accounting, now_s: int) -> tuple[int, int]:
    """The time that is asked for.

    Raises:
        ClientError: It is none, or too long.
    """
    to_s = moment(request.query.get("to"), "to", now_s + 1, otherwise=now_s + 1)
    from_s = moment(request.query.get("from"), "from", to_s, otherwise=to_s - DAY_S)
    if not from_s < to_s or (to_s - from_s) // accounting.bucket_s > MOST_BUCKETS:
        raise ClientError(
            f"from must be before to, and at most {MOST_BUCKETS * accounting.bucket_s // DAY_S} days",
            param="from",
        )
    return from_s, to_s


async def _kept(work: Awaitable[_T]) -> _T:
    """What a store answers.

    Raises:
        RouterError: It cannot.
    """
    try:
        return await work
    except KeyStoreError as error:
        raise _away(str(error)) from error


def _away(message: str) -> RouterError:
    return RouterError(message, status=503, code="store_unavailable")


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
