"""Discovery from Kubernetes over real sockets: everything an API server does to its clients."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.discovery_worlds import HURRIED, Report, kubernetes
from tests.support.fake_kubernetes import (
    Call,
    FakeKubernetes,
    Refusal,
    endpoint,
    endpoint_slice,
)
from warmroute.adapters.discovery.kubernetes.access import Access, Credentials
from warmroute.adapters.discovery.kubernetes.api import PAGE_SLICES, Patience
from warmroute.config.discovery_urls import KubernetesSource
from warmroute.ports import DiscoveryFailure

SOURCE = KubernetesSource("prod", "vllm", port="http")
PATIENCE_S = 60.0


class Watched:
    """A fake server and the adapter that reads it."""

    def __init__(
        self,
        fake: FakeKubernetes,
        source: KubernetesSource,
        patience: Patience,
        access: Callable[[], Access] | None,
    ) -> None:
        self.fake = fake
        self.report = Report()
        self.discovery = kubernetes(source, fake.url, self.report, patience=patience, access=access)
        self.members: dict[str, str] | None = None

    async def follow(self) -> None:
        async for members in self.discovery.watch():
            self.members = {member.replica_id: member.url for member in members}

    async def named(self, *ids: str) -> None:
        """Wait until exactly these are named."""
        await until(lambda: self.members is not None and set(self.members) == set(ids))


def play(
    scenario: Callable[[Watched], Awaitable[None]],
    *slices: dict[str, Any],
    fake: FakeKubernetes | None = None,
    source: KubernetesSource = SOURCE,
    patience: Patience = HURRIED,
    access: Callable[[], Access] | None = None,
) -> Watched:
    """Run a scenario with a server that has these slices."""

    async def run() -> Watched:
        server = fake or FakeKubernetes()
        server.put(*slices)
        await server.start()
        try:
            watched = Watched(server, source, patience, access)
            following = asyncio.create_task(watched.follow())
            await scenario(watched)
            assert not following.done()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            return watched
        finally:
            await server.stop()

    return asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def one(name: str, number: int = 1, **of_slice: Any) -> dict[str, Any]:
    """A slice with one pod of the same name."""
    return endpoint_slice(name, [endpoint(name, f"10.0.0.{number}")], **of_slice)


@pytest.mark.parametrize("in_stream", [False, True])
def test_a_version_that_is_gone_leads_to_a_new_list_without_a_word(in_stream: bool) -> None:
    async def scenario(watched: Watched) -> None:
        fake = watched.fake
        await watched.named("a")
        await until(lambda: fake.watches)
        fake.gone_in_stream = in_stream
        # What happens while the watch is broken off is forgotten before it comes back.
        fake.cut()
        fake.put(one("b"))
        fake.delete("a")
        fake.forget()
        await watched.named("b")

    assert play(scenario, one("a")).report.failures == []


def test_a_watch_that_is_cut_in_the_middle_of_an_event_goes_on_where_it_was() -> None:
    async def scenario(watched: Watched) -> None:
        fake = watched.fake
        await watched.named("a")
        fake.piece_bytes = 20
        for number in range(2, 6):
            await until(lambda: fake.watches)
            fake.put(one(f"p{number}", number))
            await asyncio.sleep(0)
            fake.cut()
            await watched.named("a", f"p{number}")
            fake.delete(f"p{number}")
        lists = [request for request in fake.requests if "watch" not in request]
        assert len(lists) == 1

    assert play(scenario, one("a")).report.failures == []


@pytest.mark.parametrize(
    ("refusal", "failure", "said"),
    [
        (Refusal(401, "Unauthorized", "no"), DiscoveryFailure.UNAUTHORIZED, "does not take our credentials"),
        (Refusal(404, "NotFound", "no"), DiscoveryFailure.NOT_FOUND, "no discovery.k8s.io/v1"),
        (Refusal(429, "TooManyRequests", "no"), DiscoveryFailure.OVERLOADED, "called less (429)"),
        (Refusal(500, "InternalError", "etcd"), DiscoveryFailure.SERVER, "failed: 500 (etcd)"),
        (Refusal(503, "", "no"), DiscoveryFailure.SERVER, "failed: 503"),
        (Refusal(302, "", "no"), DiscoveryFailure.UNREADABLE, "answered 302"),
    ],
)
def test_a_refusal_freezes_the_fleet_and_says_what_to_do(
    refusal: Refusal, failure: DiscoveryFailure, said: str
) -> None:
    async def scenario(watched: Watched) -> None:
        fake, report = watched.fake, watched.report
        await watched.named("a")
        await until(lambda: fake.watches)
        fake.refusal = refusal
        fake.cut()
        fake.put(one("b", 2))
        await until(lambda: len(report.failures) >= 3)
        assert watched.members is not None
        assert list(watched.members) == ["a"]
        fake.refusal = None
        await watched.named("a", "b")
        assert {kind for kind, _ in report.failures} == {failure}
        assert said in report.failures[0][1]

    play(scenario, one("a"))


def test_what_may_not_be_read_is_told_with_the_rule_that_is_missing() -> None:
    async def scenario(watched: Watched) -> None:
        fake, report = watched.fake, watched.report
        fake.rules = set()
        await until(lambda: report.failures)
        fake.rules = {Call(verb, "discovery.k8s.io", "endpointslices", "prod") for verb in ("list", "watch")}
        await watched.named("a")
        failure, detail = report.failures[0]
        assert failure is DiscoveryFailure.FORBIDDEN
        for part in (
            'User "system:serviceaccount:prod:router" cannot list resource "endpointslices"',
            "a Role in namespace 'prod'",
            'verbs ["list", "watch"]',
        ):
            assert part in detail
        await until(lambda: fake.watches)
        assert fake.calls == fake.rules, "it needs exactly this"

    play(scenario, one("a"))


def test_a_server_that_asks_for_it_is_left_alone_for_as_long() -> None:
    retries: list[float] = []

    async def scenario(watched: Watched) -> None:
        report = watched.report
        failed = report.failed

        def noted(failure: DiscoveryFailure, detail: str, retry_in_s: float) -> None:
            failed(failure, detail, retry_in_s)
            retries.append(retry_in_s)

        report.failed = noted  # type: ignore[method-assign]
        watched.fake.refusals = [
            Refusal(429, "TooManyRequests", headers={"Retry-After": "1"}),
            Refusal(503, headers={"Retry-After": "a while"}),
        ]
        await watched.named("a")

    play(scenario, one("a"))
    assert 1.0 <= retries[0] <= 1.25
    assert retries[1] <= HURRIED.backoff_max_s


def test_a_server_that_hangs_is_told_and_freezes_the_fleet() -> None:
    async def scenario(watched: Watched) -> None:
        fake, report = watched.fake, watched.report
        await watched.named("a")
        await until(lambda: fake.watches)
        fake.hangs = True
        fake.cut()
        fake.put(one("b", 2))
        fake.delete("a")
        await until(lambda: report.failures)
        assert report.failures[0][0] is DiscoveryFailure.TIMEOUT
        assert "did not answer within 0.05 s" in report.failures[0][1]
        fake.hangs = False
        await watched.named("b")

    patience = Patience(answer_s=0.05, backoff_min_s=0.01, backoff_max_s=0.02)
    play(scenario, one("a"), patience=patience)


def test_a_watch_without_a_sign_of_life_is_begun_anew_without_a_word() -> None:
    async def scenario(watched: Watched) -> None:
        fake = watched.fake
        await watched.named("a")
        await until(lambda: sum("watch" in request for request in fake.requests) > 1)
        fake.put(one("b", 2))
        await watched.named("a", "b")

    patience = Patience(silence_s=1.1, backoff_min_s=0.01)
    watched = play(scenario, one("a"), fake=FakeKubernetes(bookmark_s=3600.0), patience=patience)
    assert watched.report.failures == []


@pytest.mark.parametrize("timeouts", [True, False])
def test_a_slice_that_went_without_an_event_is_gone_with_the_next_list(timeouts: bool) -> None:
    async def scenario(watched: Watched) -> None:
        watched.fake.timeouts = timeouts
        await watched.named("a", "b")
        watched.fake.lose("a")
        await watched.named("b")

    source = KubernetesSource("prod", "vllm", port="http", resync_s=0.1)
    fake = FakeKubernetes(bookmark_s=0.05)
    watched = play(scenario, one("a"), one("b", 2), source=source, fake=fake)
    assert watched.report.failures == []


def test_a_watch_that_ends_at_once_is_not_asked_again_without_a_pause() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.named("a")
        await until(lambda: len(watched.report.failures) >= 2)
        assert "ended the watch at once" in watched.report.failures[0][1]

    class Hasty(FakeKubernetes):
        async def _watch(self, request: Any, namespace: str, selector: str) -> Any:
            from aiohttp import web

            return web.Response(text="")

    play(scenario, one("a"), fake=Hasty())


@pytest.mark.parametrize("body", ["{", "[]", '{"items": 7}', "<html>a proxy</html>"])
def test_an_answer_that_is_no_list_is_told(body: str) -> None:
    class Proxy(FakeKubernetes):
        confused = True

        async def _answer(self, request: Any) -> Any:
            from aiohttp import web

            return web.Response(text=body) if self.confused else await super()._answer(request)

    async def scenario(watched: Watched) -> None:
        await until(lambda: watched.report.failures)
        assert watched.report.failures[0][0] is DiscoveryFailure.UNREADABLE
        cast("Proxy", watched.fake).confused = False
        await watched.named("a")

    play(scenario, one("a"), fake=Proxy())


def test_a_long_list_is_read_in_pages_and_begun_again_where_they_expire() -> None:
    count = 2 * PAGE_SLICES + 50
    slices = [one(f"p{number:03}", number) for number in range(200)]
    slices += [endpoint_slice(f"q{number:03}") for number in range(count - 200)]

    async def scenario(watched: Watched) -> None:
        fake = watched.fake
        pages: list[int] = []

        def before_page(number: int) -> None:
            pages.append(number)
            if len(pages) in (2, 5):
                fake.forget()

        fake.before_page = before_page
        await watched.named(*(f"p{number:03}" for number in range(200)))
        # Expired at the second page, then at the third; then in one piece.
        assert pages == [0, 1, 0, 1, 2, 0]
        assert [request.get("limit") for request in fake.requests][:6] == [str(PAGE_SLICES)] * 5 + [None]

    assert play(scenario, *slices).report.failures == []


def test_an_event_in_pieces_of_one_byte_is_an_event() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.named("a")
        watched.fake.piece_bytes = 1
        watched.fake.put(one("bé", 2))
        await watched.named("a", "bé")

    play(scenario, one("a"))


def test_one_slice_that_cannot_be_read_does_not_hide_the_others() -> None:
    wrong = {"metadata": {"name": "w", "namespace": "prod", "labels": one("x")["metadata"]["labels"]}}
    wrong["endpoints"] = "none"  # type: ignore[assignment]

    async def scenario(watched: Watched) -> None:
        await watched.named("a")
        assert "'w' cannot be read" in watched.report.problems[-1]
        watched.fake.put(one("b", 2), wrong)
        await watched.named("a", "b")
        watched.fake.delete("w")
        watched.fake.put(one("c", 3))
        await watched.named("a", "b", "c")
        assert watched.report.problems[-1] == ""

    play(scenario, one("a"), wrong)


def test_a_selector_finds_slices_of_several_services_and_those_that_join_it() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.named("a", "b")
        watched.fake.put(one("c", 3, service="three", labels={"pool": "x"}))
        await watched.named("a", "b", "c")
        watched.fake.put(one("b", 2, service="two"))
        await watched.named("a", "c")

    source = KubernetesSource("prod", selector="pool in (x, y),!old", port="http")
    play(
        scenario,
        one("a", service="one", labels={"pool": "x"}),
        one("b", 2, service="two", labels={"pool": "y"}),
        one("c", 3, service="three", labels={"pool": "x", "old": ""}),
        one("d", 4, service="four", labels={"pool": "x"}, namespace="other"),
        source=source,
    )


def test_what_is_missing_is_told_while_it_is() -> None:
    async def scenario(watched: Watched) -> None:
        fake, report = watched.fake, watched.report
        await watched.named()
        assert "there is no EndpointSlice of a Service 'vllm'" in report.problems[-1]
        fake.put(one("a", ports=[{"name": "web", "port": 1}]))
        await until(lambda: "has no port named 'http'" in report.problems[-1])
        fake.put(one("a"))
        await watched.named("a")
        assert report.problems[-1] == ""

    play(scenario)


def test_a_token_that_was_renewed_is_used_at_the_next_try(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("token\n")
    fake = FakeKubernetes()
    credentials: list[Credentials] = []

    def access() -> Access:
        if not credentials:
            config = tmp_path / "kubeconfig"
            user = {"tokenFile": "token"}
            cluster = {"server": fake.url}
            config.write_text(
                json.dumps(
                    {
                        "current-context": "c",
                        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                        "clusters": [{"name": "c", "cluster": cluster}],
                        "users": [{"name": "u", "user": user}],
                    }
                )
            )
            credentials.append(Credentials(environ={"KUBECONFIG": str(config)}))
        return credentials[0].access()

    async def scenario(watched: Watched) -> None:
        await watched.named("a")
        await until(lambda: fake.watches)
        fake.tokens = {"new": "router"}
        fake.cut()
        fake.put(one("b", 2))
        await until(lambda: watched.report.failures)
        assert f"the token in {token}" in watched.report.failures[0][1]
        token.write_text("new")
        await watched.named("a", "b")

    play(scenario, one("a"), fake=fake, access=access)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=kubernetes".split(),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:kubernetes"),
            *("-keyout", folder / "key.pem", "-out", folder / "ca.crt"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def test_a_pod_uses_its_service_account_and_trusts_the_clusters_ca(certificate: Path, tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "ca.crt", certificate / "key.pem")
    fake = FakeKubernetes(tls=tls)
    (tmp_path / "token").write_text("token")
    (tmp_path / "namespace").write_text("prod")
    os.link(certificate / "ca.crt", tmp_path / "ca.crt")

    def access() -> Access:
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(fake.port)}
        return Credentials(environ=environ, service_account=tmp_path).access()

    async def scenario(watched: Watched) -> None:
        await watched.named("a")

    source = KubernetesSource("", "vllm", port="http")
    play(scenario, one("a"), fake=fake, access=access, source=source)
    assert {call.namespace for call in fake.calls} == {"prod"}


def test_a_certificate_that_is_not_trusted_is_told(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "ca.crt", certificate / "key.pem")
    fake = FakeKubernetes(tls=tls)

    async def scenario(watched: Watched) -> None:
        await until(lambda: watched.report.failures)
        failure, detail = watched.report.failures[0]
        assert failure is DiscoveryFailure.UNREACHABLE
        assert "TLS failed" in detail

    play(scenario, one("a"), fake=fake, access=lambda: Access(fake.url, "prod", "token"))
