"""Tokens of an identity provider (OpenID Connect): signed JWTs, judged by PyJWT with the provider's public keys (JWKS).

Keys are read at the start, every `refresh_s`, and when a token names one that is not known, at most every
`UNKNOWN_SPACING_S`: so a key that the provider begins to use is found by the first token that it signed. Keys that it
lists no longer are good no longer. While it cannot be reached those known last stay. Only signatures by public keys are
accepted, only of the kinds that the settings name, and only of the kind that the key is for.

PyJWT and cryptography are loaded only where an issuer is named (the extra `warmroute[oidc]`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import aiohttp

from warmroute.ports import Claims
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields
from warmroute.tenants.tenant import Priority

log = logging.getLogger(__name__)

UNKNOWN_SPACING_S = 10.0
_PATIENCE_S = 5.0
_START_S = 0.9
_MAX_BYTES = 1 << 20
_MAX_TOKEN_BYTES = 16_384
_MOST_WAITING = 1000
"""Tokens that wait for the provider's keys; anybody can send some, and those that have left wait on."""
_TENANT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-")

Done = Callable[["Claims | str"], None]


class OidcUnavailable(OSError):
    """PyJWT is not installed."""


class OidcTokens:
    """Implements the port `TokenVerifier`.

    Args:
        issuer: As tokens name it in `iss`.
        audience: Tokens must be for one of these.
        jwks_url: Where the keys are; empty: as the provider's discovery document says.
        tenant_claim: Claim that names the tenant, with dots for one inside another.
        priority_claim: Claim that names the class; empty: none does.

    Raises:
        OidcUnavailable: The extra is not installed.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: Sequence[str],
        jwks_url: str = "",
        algorithms: Sequence[str] = ("RS256", "ES256", "EdDSA"),
        tenant_claim: str = "tenant",
        priority_claim: str = "",
        leeway_s: float = 30.0,
        refresh_s: float = 300.0,
        unknown_spacing_s: float = UNKNOWN_SPACING_S,
    ) -> None:
        try:
            import cryptography  # noqa: F401 - PyJWT itself only says so at the first signature
            import jwt
        except ImportError as error:
            raise OidcUnavailable(
                f"oidc.issuer needs PyJWT with cryptography ({error}): install warmroute[oidc]"
            ) from error
        self._jwt = jwt
        self._issuer = issuer
        self._audience = list(audience)
        self._jwks_url = jwks_url
        self._algorithms = list(algorithms)
        self._tenant_claim = tenant_claim.split(".")
        self._priority_claim = priority_claim.split(".") if priority_claim else []
        self._leeway_s = leeway_s
        self._refresh_s = refresh_s
        self._spacing_s = unknown_spacing_s
        self._keys: dict[str | None, Any] = {}
        self._listed: dict[str | None, dict[str, Any]] = {}
        """The same as the provider lists them: of one name there may be another key."""
        self._read_once = False
        self._looked_s = -1e9
        self._waiting: list[tuple[bytes, Done]] = []
        self._looking = False
        self._on_changed: Callable[[], None] = lambda: None
        self._tasks = Tasks()
        self._announced: bool | None = None

    async def start(self, on_changed: Callable[[], None]) -> None:
        """Read the keys, and again from time to time."""
        self._on_changed = on_changed
        self._tasks = Tasks()
        first = self._tasks.spawn(self._look(), name="oidc keys, first")
        await asyncio.wait([first], timeout=_START_S)
        self._tasks.supervise(self._refresh, name="oidc keys")

    async def stop(self) -> None:
        """Look no more; whoever waits is refused."""
        await self._tasks.stop()
        self._answer_waiting()

    def verify(self, token: bytes, done: Done) -> Claims | str | None:
        """At once if its key is known."""
        try:
            if len(token) > _MAX_TOKEN_BYTES:
                return "it is too long"
            kid = self._jwt.get_unverified_header(token).get("kid")
        except self._jwt.PyJWTError:
            return "it is no JSON Web Token"
        if self._key(kid) is None:
            looks = self._looking or monotonic() - self._looked_s >= self._spacing_s
            if looks and len(self._waiting) < _MOST_WAITING:
                self._waiting.append((token, done))
                if not self._looking:
                    self._tasks.spawn(self._look(), name="oidc key, unknown")
                return None
            return (
                "its key is not the provider's"
                if self._read_once
                else "the provider's keys are not known yet"
            )
        return self._judge(token, kid)

    def _key(self, kid: object) -> Any:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid is None or isinstance(kid, str) else None

    def _judge(self, token: bytes, kid: object) -> Claims | str:
        jwt = self._jwt
        key = self._key(kid)
        if key is None:
            return (
                "its key is not the provider's"
                if self._read_once
                else "the provider's keys are not known yet"
            )
        try:
            header = jwt.get_unverified_header(token)
            named = key.algorithm_name
            algorithms = [
                a for a in self._algorithms if a == named or (named[:2] == a[:2] and a[:2] in ("RS", "PS"))
            ]
            if header.get("alg") not in algorithms:
                return "its signature is of a kind that is not accepted"
            claims: dict[str, Any] = jwt.decode(
                token,
                key=key,
                algorithms=algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            return "it has expired"
        except jwt.ImmatureSignatureError:
            return "it is not valid yet"
        except jwt.InvalidAudienceError:
            return "it is for somebody else (aud)"
        except jwt.InvalidIssuerError:
            return "it is of another issuer (iss)"
        except jwt.InvalidSignatureError:
            return "its signature is wrong"
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            return "it is malformed, or lacks a claim that is needed (exp, iss, aud)"
        return self._claims(claims)

    def _claims(self, claims: dict[str, Any]) -> Claims | str:
        tenant = _find(claims, self._tenant_claim)
        if not isinstance(tenant, str) or not 0 < len(tenant) <= 128 or not set(tenant) <= _TENANT_CHARACTERS:
            return f"its claim {'.'.join(self._tenant_claim)!r} names no tenant"
        priority = None
        if self._priority_claim:
            named = _find(claims, self._priority_claim)
            if named is not None:
                try:
                    priority = Priority(str(named))
                except ValueError:
                    return f"its claim {'.'.join(self._priority_claim)!r} names no class"
        return Claims(tenant, priority, float(claims["exp"]) + self._leeway_s)

    # -- the provider's keys ----------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s if self._read_once else min(self._refresh_s, 2.0))
            await self._look()

    async def _look(self) -> None:
        if self._looking:
            return
        self._looking = True
        self._looked_s = monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                keys, listed = await self._read()
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError, self._jwt.PyJWTError) as error:
            if self._announced is not False:
                log.warning(
                    "oidc_keys_unknown",
                    extra=fields(issuer=self._issuer, error=f"{type(error).__name__}: {error}"),
                )
            self._announced = False
        else:
            gone = self._read_once and any(listed.get(kid) != one for kid, one in self._listed.items())
            self._keys, self._listed, self._read_once = keys, listed, True
            if self._announced is not True:
                log.info("oidc_keys_read", extra=fields(issuer=self._issuer, keys=len(keys)))
            self._announced = True
            if gone:
                self._on_changed()
        finally:
            self._looking = False
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for token, done in waiting:
            try:
                kid = self._jwt.get_unverified_header(token).get("kid")
                done(self._judge(token, kid))
            except Exception as error:
                log.error("oidc_answer_failed", exc_info=error)

    async def _read(self) -> tuple[dict[str | None, Any], dict[str | None, dict[str, Any]]]:
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            url = self._jwks_url
            if not url:
                known = await _fetch(session, self._issuer.rstrip("/") + "/.well-known/openid-configuration")
                if known.get("issuer") != self._issuer:
                    raise ValueError("the discovery document names another issuer")
                named = known.get("jwks_uri")
                if not isinstance(named, str):
                    raise ValueError("the discovery document names no jwks_uri")
                url = named
            found = (await _fetch(session, url)).get("keys")
        if not isinstance(found, list):
            raise ValueError("no keys are listed")  # noqa: TRY004 - as in `_fetch`
        keys: dict[str | None, Any] = {}
        listed: dict[str | None, dict[str, Any]] = {}
        for one in found:
            if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") == "oct":
                continue
            try:
                key = self._jwt.PyJWK(one)
            except (self._jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue  # of a kind that is not known here
            keys[key.key_id], listed[key.key_id] = key, one
        if not keys:
            raise ValueError("no key is listed that can be used")
        return keys, listed


async def _fetch(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"{url} answers {answer.status}")
        body = await answer.content.read(_MAX_BYTES + 1)
        while not answer.content.at_eof() and len(body) <= _MAX_BYTES:
            body += await answer.content.read(_MAX_BYTES + 1 - len(body))
    if len(body) > _MAX_BYTES:
        raise ValueError(f"{url} answers more than {_MAX_BYTES} bytes")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"{url} answers no JSON object")  # noqa: TRY004 - one kind for all that it may say wrong
    return found


def _find(claims: object, path: Sequence[str]) -> object:
    for name in path:
        if not isinstance(claims, dict):
            return None
        claims = claims.get(name)
    return claims
