"""A Kubernetes API server as far as discovery sees it: EndpointSlices to list and watch, and its ways to fail.

Keeps a monotonic resourceVersion and a log of events. Lists in pages of a snapshot; watches from a version, with
bookmarks and `timeoutSeconds`; answers 410 as a status or as an event in the stream; knows tokens and rules; hangs,
cuts, and divides what it sends into pieces of any size, if told to. Remembers which calls were made. The same contract
suite runs against a real API server where there is one (`tests/contract/test_discovery.py`).
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

Object = dict[str, Any]

GROUP = "discovery.k8s.io"
RESOURCE = "endpointslices"


class Call(NamedTuple):
    """What RBAC is asked about a request."""

    verb: str
    group: str
    resource: str
    namespace: str


class Event(NamedTuple):
    """A change: what a slice was before it, and is after it; None: not there."""

    version: int
    before: Object | None
    after: Object | None


@dataclass
class Refusal:
    """Answer every call with an error."""

    status: int
    reason: str = ""
    message: str = "told to"
    headers: Mapping[str, str] = field(default_factory=dict)


def endpoint(
    pod: str | None,
    address: str,
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    **other: object,
) -> Object:
    """An endpoint of a slice; without a pod, nobody is said to be behind it."""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    made: Object = {
        "addresses": [address],
        "conditions": {key: value for key, value in conditions.items() if value is not None},
        **other,
    }
    if pod is not None:
        made["targetRef"] = {"kind": "Pod", "name": pod, "namespace": "prod"}
    return made


def endpoint_slice(
    name: str,
    endpoints: Iterable[Object] = (),
    *,
    service: str = "vllm",
    namespace: str = "prod",
    ports: Iterable[Object] | None = ({"name": "http", "port": 8000, "protocol": "TCP"},),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    family: str = "IPv4",
) -> Object:
    """A slice as the controller of the Service would make it."""
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service, **(labels or {})},
            **({"annotations": dict(annotations)} if annotations else {}),
        },
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": None if ports is None else list(ports),
    }


class FakeCluster:
    """EndpointSlices with their versions and the log of what became of them; no I/O."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], Object] = {}
        self.version = 1000
        self.oldest = 1000
        """The log begins after it."""
        self._log: list[Event] = []
        self._snapshots: dict[tuple[int, str], list[Object]] = {}
        self.on_change: Callable[[], None] = lambda: None

    def put(self, *slices: Object) -> None:
        """Create slices, or replace those of the same name; each is an event."""
        for slice_ in slices:
            meta = slice_["metadata"]
            self._change((meta["namespace"], meta["name"]), copy.deepcopy(slice_))

    def delete(self, *names: str, namespace: str = "prod") -> None:
        """Take slices away."""
        for name in names:
            self._change((namespace, name), None)

    def forget(self) -> None:
        """As a compaction does: older versions are gone, for watches to come and for the pages of lists begun."""
        self.oldest = self.version
        self._log.clear()
        self._snapshots.clear()

    def lose(self, name: str, namespace: str = "prod") -> None:
        """Take a slice away without an event, as a server with a bug would."""
        self.version += 1
        self._objects.pop((namespace, name), None)

    def _change(self, key: tuple[str, str], after: Object | None) -> None:
        before = self._objects.pop(key, None)
        if before is None and after is None:
            return
        self.version += 1
        if after is not None:
            after["metadata"]["resourceVersion"] = str(self.version)
            self._objects[key] = after
        self._log.append(Event(self.version, before, after))
        self.on_change()

    def page(self, namespace: str, selector: str, limit: int = 0, token: str = "") -> Object | None:
        """A list, or a page of one; None: the token is too old."""
        start, version = 0, self.version
        if token:
            version, start = json.loads(base64.b64decode(token))
        else:
            matches = matcher(selector, namespace)
            everything = [self._objects[key] for key in sorted(self._objects)]
            self._snapshots[version, selector] = [each for each in everything if matches(each)]
        snapshot = self._snapshots.get((version, selector))
        if snapshot is None:
            return None
        end = start + limit if limit else len(snapshot)
        meta: Object = {"resourceVersion": str(version)}
        if end < len(snapshot):
            meta["continue"] = base64.b64encode(json.dumps([version, end]).encode()).decode()
            meta["remainingItemCount"] = len(snapshot) - end
        return {
            "kind": "EndpointSliceList",
            "apiVersion": f"{GROUP}/v1",
            "metadata": meta,
            "items": snapshot[start:end],
        }

    def events(self, namespace: str, selector: str, after: int) -> list[Object]:
        """Events of a watch since a version."""
        matches, found = matcher(selector, namespace), []
        for event in self._log:
            if event.version <= after:
                continue
            was, is_ = matches(event.before), matches(event.after)
            if is_:
                found.append({"type": "MODIFIED" if was else "ADDED", "object": event.after})
            elif was and event.before is not None:
                meta = event.before["metadata"] | {"resourceVersion": str(event.version)}
                found.append({"type": "DELETED", "object": event.before | {"metadata": meta}})
        return found

    def bookmark(self) -> Object:
        """Says how far the log goes."""
        meta = {"resourceVersion": str(self.version)}
        return {"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": meta}}


EXPIRED = Refusal(410, "Expired", "too old resource version")


class FakeKubernetes(FakeCluster):
    """One server, in the event loop that starts it. Change it from there only; see `KubernetesThread` for others."""

    def __init__(self, *, bookmark_s: float = 0.2, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.calls: set[Call] = set()
        self.requests: list[Mapping[str, str]] = []
        """The parameters of each, in order; `authorization` among them."""
        self.tokens: dict[str, str] = {"token": "system:serviceaccount:prod:router"}
        self.rules: set[Call] | None = None
        """What may be called; None: everything."""
        self.refusal: Refusal | None = None
        self.refusals: list[Refusal] = []
        """For the next calls, one each."""
        self.hangs = False
        """Answer no call at all."""
        self.gone_in_stream = False
        """Tell a watch that its version is gone by an event; else by the status."""
        self.timeouts = True
        """Whether a watch ends when it was asked to."""
        self.piece_bytes = 0
        """Send watches in pieces of this many bytes; 0: an event at a time."""
        self.bookmark_s = bookmark_s
        self.before_page: Callable[[int], None] = lambda _: None
        """Called before a page of a list is made, with its number from 0."""
        self.on_change = self._ring
        self._tls = tls
        self._changed: set[asyncio.Event] = set()
        self._open: set[asyncio.Transport] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return len(self._open)

    async def start(self) -> None:
        """Listen; on the same port again after `stop`."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.001, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections, and break off all there are."""
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def cut(self) -> None:
        """Break all watches off, in the middle of whatever they are sending."""
        for transport in list(self._open):
            transport.abort()

    def _ring(self) -> None:
        for changed in self._changed:
            changed.set()

    # -- answers ------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        self.requests.append({**request.query, "authorization": authorization})
        if self.hangs:
            await asyncio.sleep(3600)
        refusal = self.refusals.pop(0) if self.refusals else self.refusal
        if refusal is not None:
            return _status(refusal)
        user = self.tokens.get(authorization.removeprefix("Bearer "))
        if user is None:
            return _status(Refusal(401, "Unauthorized", "Unauthorized"))
        path = re.fullmatch(r"/apis/([^/]+)/v1/namespaces/([^/]+)/(\w+)", request.path)
        if path is None or request.method != "GET":
            return _status(Refusal(404, "NotFound", "the server could not find the requested resource"))
        watches = request.query.get("watch") in ("1", "true")
        call = Call("watch" if watches else "list", path[1], path[3], path[2])
        self.calls.add(call)
        if self.rules is not None and call not in self.rules:
            message = (
                f'{call.resource}.{call.group} is forbidden: User "{user}" cannot {call.verb} resource'
                f' "{call.resource}" in API group "{call.group}" in the namespace "{call.namespace}"'
            )
            return _status(Refusal(403, "Forbidden", message))
        if (call.group, call.resource) != (GROUP, RESOURCE):
            return _status(Refusal(404, "NotFound", "the server could not find the requested resource"))
        selector = request.query.get("labelSelector", "")
        if watches:
            return await self._watch(request, call.namespace, selector)
        limit, token = int(request.query.get("limit", "0")), request.query.get("continue", "")
        self.before_page(json.loads(base64.b64decode(token))[1] // limit if token else 0)
        page = self.page(call.namespace, selector, limit, token)
        return _status(EXPIRED) if page is None else web.json_response(page)

    async def _watch(self, request: web.Request, namespace: str, selector: str) -> web.StreamResponse:
        version = int(request.query.get("resourceVersion") or 0)
        if version < self.oldest and not self.gone_in_stream:
            return _status(EXPIRED)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if version < self.oldest:
            await self._send(response, {"type": "ERROR", "object": _status_object(EXPIRED)})
            return response
        transport, changed = request.transport, asyncio.Event()
        assert isinstance(transport, asyncio.Transport)
        self._changed.add(changed)
        self._open.add(transport)
        timeout_s = float(request.query.get("timeoutSeconds", "1800")) if self.timeouts else 1800.0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    changed.clear()
                    for event in self.events(namespace, selector, version):
                        version = int(event["object"]["metadata"]["resourceVersion"])
                        await self._send(response, event)
                    try:
                        async with asyncio.timeout(self.bookmark_s):
                            await changed.wait()
                    except TimeoutError:
                        marks = request.query.get("allowWatchBookmarks") in ("1", "true")
                        if marks and not changed.is_set():
                            version = self.version
                            await self._send(response, self.bookmark())
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._changed.discard(changed)
            self._open.discard(transport)
        return response

    async def _send(self, response: web.StreamResponse, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        step = self.piece_bytes or len(line)
        for start in range(0, len(line), step):
            await response.write(line[start : start + step])
            if self.piece_bytes:
                await asyncio.sleep(0)


def _status_object(refusal: Refusal) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": refusal.status,
        "reason": refusal.reason,
        "message": refusal.message,
    }


def _status(refusal: Refusal) -> web.Response:
    return web.json_response(_status_object(refusal), status=refusal.status, headers=dict(refusal.headers))


def matcher(selector: str, namespace: str) -> Callable[[Object | None], bool]:
    """Whether a slice is in the namespace and has the labels."""
    requirements = [
        _requirement(part.strip()) for part in re.split(r",(?![^()]*\))", selector) if part.strip()
    ]

    def matches(object_: Object | None) -> bool:
        if object_ is None or object_["metadata"]["namespace"] != namespace:
            return False
        labels = object_["metadata"].get("labels", {})
        return all(requirement(labels) for requirement in requirements)

    return matches


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)", text):
        key, values, wanted = found[1], {part.strip() for part in found[3].split(",")}, found[2] == "in"
        return lambda labels: (labels.get(key) in values) is wanted
    if found := re.fullmatch(r"([\w./-]+)\s*(!=|==?)\s*([\w.-]*)", text):
        key, value, equal = found[1], found[3], found[2] != "!="
        return lambda labels: (labels.get(key) == value) is equal
    absent = text.startswith("!")
    return lambda labels: (text.lstrip("!") in labels) is not absent


def kubeconfig(server: str, folder: Path, *, token: str = "token", namespace: str = "prod") -> Path:
    """A kubeconfig file for a server that speaks plain HTTP."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [
            {"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}
        ],
        "clusters": [{"name": "fake", "cluster": {"server": server}}],
        "users": [{"name": "fake", "user": {"token": token}}],
    }
    path.write_text(json.dumps(content))
    return path


class KubernetesThread:
    """A `FakeKubernetes` with an event loop of its own, for tests that run programs; a context manager."""

    def __init__(self, fake: FakeKubernetes | None = None) -> None:
        self.fake = fake or FakeKubernetes()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> KubernetesThread:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.fake.start(), self._loop).result(60)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self.fake.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def do(self, change: Callable[[FakeKubernetes], Any]) -> Any:
        """Change or ask it, in its own loop; returns what `change` does."""

        async def run() -> Any:
            return change(self.fake)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)
