"""Tokens of a provider that is a real HTTP server with real keys: what is taken, what is not, and when keys change."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from warmroute.adapters.tenants.oidc import OidcTokens
from warmroute.ports import Claims
from warmroute.tenants.tenant import Priority

RSA_KEYS = [rsa.generate_private_key(65537, 2048) for _ in range(2)]
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def listed(kid: str, key: Any) -> dict[str, Any]:
    algorithm = (
        jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    )
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


class Provider:
    """What it lists, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [listed("one", RSA_KEYS[0]), listed("ec", EC_KEY)]
        self.asked = 0
        self.status = 200
        self.issuer = ""

    async def start(self) -> web.AppRunner:
        async def configuration(_: web.Request) -> web.Response:
            return web.json_response({"issuer": self.issuer, "jwks_uri": self.issuer + "/jwks"})

        async def jwks(_: web.Request) -> web.Response:
            self.asked += 1
            return web.json_response({"keys": self.keys}, status=self.status)

        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", configuration)
        application.router.add_get("/jwks", jwks)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def token(self, kid: str = "one", key: Any = None, algorithm: str = "RS256", **claims: Any) -> bytes:
        now = int(time.time())
        body = {"iss": self.issuer, "aud": "router", "exp": now + 600, "tenant": "a", **claims}
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, key or RSA_KEYS[0], algorithm, headers={"kid": kid}).encode()


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[tuple[Provider, OidcTokens, list[int]]]:
    provider = Provider()
    runner = await provider.start()
    tokens = OidcTokens(issuer=provider.issuer, audience=["router"], **settings)
    changed: list[int] = []
    await tokens.start(lambda: changed.append(1))
    try:
        yield provider, tokens, changed
    finally:
        await tokens.stop()
        await runner.cleanup()


async def judge(tokens: OidcTokens, token: bytes) -> Claims | str:
    answer: asyncio.Future[Claims | str] = asyncio.get_running_loop().create_future()
    found = tokens.verify(token, answer.set_result)
    return found if found is not None else await asyncio.wait_for(answer, 60)


def play(scenario: Callable[[Provider, OidcTokens, list[int]], Any], **settings: Any) -> None:
    async def run() -> None:
        async with world(**settings) as parts:
            await scenario(*parts)

    asyncio.run(run())


def test_a_token_says_whose_it_is_and_how_long() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, _: list[int]) -> None:
        end = int(time.time()) + 60
        assert await judge(tokens, provider.token(exp=end)) == Claims("a", None, end + 30.0)
        assert isinstance(await judge(tokens, provider.token("ec", EC_KEY, "ES256")), Claims)
        assert isinstance(await judge(tokens, provider.token(aud=["x", "router"])), Claims)

    play(scenario)


def test_claims_are_found_where_the_settings_say() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, _: list[int]) -> None:
        good = provider.token(tenant=None, access={"team": "b"}, level="batch")
        claims = await judge(tokens, good)
        assert isinstance(claims, Claims)
        assert (claims.tenant, claims.priority) == ("b", Priority.BATCH)
        for wrong in ({"access": {}}, {"access": "b"}, {"access": {"team": "a b"}}, {"access": {"team": 1}},
                      {"access": {"team": "b"}, "level": "first"}):  # fmt: skip
            assert isinstance(await judge(tokens, provider.token(tenant="a", **wrong)), str)

    play(scenario, tenant_claim="access.team", priority_claim="level")


def forged(kind: str, provider: Provider) -> bytes:
    good = provider.token()
    head, body, signature = good.split(b".")

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    match kind:
        case "none":
            return part({"alg": "none", "kid": "one"}) + b"." + body + b"."
        case "shared secret":
            public = provider.keys[0]["n"].encode()
            return jwt.encode({"iss": provider.issuer, "aud": "router", "exp": 9e9, "tenant": "a"}, public, "HS256",
                              headers={"kid": "one"}).encode()  # fmt: skip
        case "other body":
            return (
                head
                + b"."
                + part({"iss": provider.issuer, "aud": "router", "exp": 9e9, "tenant": "b"})
                + b"."
                + signature
            )
        case "other key":
            return provider.token(key=RSA_KEYS[1])
        case "other kind":
            return provider.token(algorithm="RS512")
        case "past":
            return provider.token(exp=int(time.time()) - 31)
        case "not yet":
            return provider.token(nbf=int(time.time()) + 40)
        case "audience":
            return provider.token(aud="another")
        case "no audience":
            return provider.token(aud=None)
        case "issuer":
            return provider.token(iss="https://elsewhere")
        case "no end":
            return provider.token(exp=None)
        case "no tenant":
            return provider.token(tenant=None)
        case "long":
            return provider.token(more="x" * 20_000)
        case _:
            return b"eyJ.e30.x"


@pytest.mark.parametrize(
    "kind",
    ["none", "shared secret", "other body", "other key", "other kind", "past", "not yet", "audience", "no audience",
     "issuer", "no end", "no tenant", "long", "nonsense"],
)  # fmt: skip
def test_a_forged_or_foreign_token_is_not_taken_and_not_repeated(kind: str) -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, _: list[int]) -> None:
        token = forged(kind, provider)
        why = await judge(tokens, token)
        assert isinstance(why, str)
        assert token.decode() not in why
        assert isinstance(await judge(tokens, provider.token()), Claims)

    play(scenario)


def test_clocks_may_differ_by_the_leeway() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, _: list[int]) -> None:
        now = int(time.time())
        assert isinstance(await judge(tokens, provider.token(exp=now - 20)), Claims)
        assert isinstance(await judge(tokens, provider.token(nbf=now + 20)), Claims)

    play(scenario)


def test_a_key_that_the_provider_begins_to_use_is_found_by_the_first_token() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, changed: list[int]) -> None:
        provider.keys.append(listed("two", RSA_KEYS[1]))
        several = [judge(tokens, provider.token("two", RSA_KEYS[1])) for _ in range(20)]
        assert all(isinstance(found, Claims) for found in await asyncio.gather(*several))
        assert provider.asked == 2  # one for the start, one for all of them
        assert changed == []

    play(scenario, unknown_spacing_s=0.0)


def test_unknown_keys_do_not_make_the_router_ask_again_and_again() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, _: list[int]) -> None:
        for number in range(20):
            assert isinstance(await judge(tokens, provider.token(f"junk{number}")), str)
        assert provider.asked == 1

    play(scenario)


def test_what_waits_for_a_provider_that_does_not_answer_is_bounded() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, _: list[int]) -> None:
        tokens._looking = True
        heard: list[Claims | str] = []
        answers = [tokens.verify(provider.token(f"junk{number}"), heard.append) for number in range(1010)]
        assert answers.count(None) == 1000
        assert all(isinstance(answer, str) for answer in answers[1000:])
        assert isinstance(tokens.verify(provider.token(), heard.append), Claims), "who is known need not wait"
        tokens._answer_waiting()
        assert len(heard) == 1000

    play(scenario)


def test_a_key_that_is_listed_no_longer_is_good_no_longer() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, changed: list[int]) -> None:
        provider.keys.pop(0)
        await judge(tokens, provider.token("junk"))
        assert changed == [1]
        assert isinstance(await judge(tokens, provider.token()), str)

    play(scenario, unknown_spacing_s=0.0)


def test_of_a_key_that_another_one_of_its_name_replaces_what_was_let_in_is_asked_again() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, changed: list[int]) -> None:
        assert isinstance(await judge(tokens, provider.token()), Claims)
        provider.keys.reverse()
        await tokens._look()
        assert changed == []
        provider.keys = [listed("one", RSA_KEYS[1]), listed("ec", EC_KEY)]
        await tokens._look()
        assert changed == [1]
        assert isinstance(await judge(tokens, provider.token()), str)
        assert isinstance(await judge(tokens, provider.token(key=RSA_KEYS[1])), Claims)

    play(scenario)


def test_while_the_provider_is_away_the_last_keys_stay() -> None:
    async def scenario(provider: Provider, tokens: OidcTokens, changed: list[int]) -> None:
        provider.status = 500
        await judge(tokens, provider.token("junk"))
        assert isinstance(await judge(tokens, provider.token()), Claims)
        assert changed == []

    play(scenario, unknown_spacing_s=0.0)
