"""Stands between pods and an API server that is older than discovery.k8s.io/v1, and speaks it.

    discovery_v1.py https://API CERTIFICATE KEY ADDRESS PORT

Passes everything on as it came, tokens too, so that the API server decides who may do what. Only EndpointSlices are
read: of v1 they are asked as v1beta1, which differs in its name and in `topology`, that v1 calls `zone` and `nodeName`.
"""

from __future__ import annotations

import json
import ssl
import sys
from typing import Any

import aiohttp
from aiohttp import web

OLD, NEW = "discovery.k8s.io/v1beta1", "discovery.k8s.io/v1"
HOP = {"host", "accept-encoding", "content-length", "connection"}
SESSION = web.AppKey("session", aiohttp.ClientSession)
API = web.AppKey("api", str)


def as_v1(found: Any) -> Any:
    """An object, a list or a watch event of v1beta1, changed in place."""
    if not isinstance(found, dict):
        return found
    if found.get("apiVersion") == OLD:
        found["apiVersion"] = NEW
    for endpoint in found.get("endpoints") or ():
        topology = endpoint.pop("topology", None) or {}
        for label, name in (("topology.kubernetes.io/zone", "zone"), ("kubernetes.io/hostname", "nodeName")):
            if label in topology:
                endpoint.setdefault(name, topology[label])
    for each in found.get("items") or ():
        as_v1(each)
    as_v1(found.get("object"))
    return found


async def handle(request: web.Request) -> web.StreamResponse:
    """One call."""
    slices = request.path.startswith(f"/apis/{NEW}/")
    path = request.path_qs.replace(f"/apis/{NEW}/", f"/apis/{OLD}/", 1)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
    session, url = request.app[SESSION], request.app[API] + path
    async with session.request(
        request.method, url, headers=headers, data=await request.read(), ssl=False
    ) as got:
        if not slices or got.status != 200:
            kind = got.headers.get("Content-Type", "application/json")
            return web.Response(status=got.status, body=await got.read(), headers={"Content-Type": kind})
        if request.query.get("watch") not in ("1", "true"):
            return web.json_response(as_v1(await got.json(content_type=None)))
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        async for line in got.content:
            await stream.write(json.dumps(as_v1(json.loads(line))).encode() + b"\n")
        await stream.write_eof()
        return stream


def main(api: str, certificate: str, key: str, address: str, port: str) -> None:
    """Serve until killed."""
    app = web.Application(client_max_size=16 << 20)
    app[API] = api
    app.router.add_route("*", "/{path:.*}", handle)

    async def session(app: web.Application) -> Any:
        timeout = aiohttp.ClientTimeout(total=None)
        app[SESSION] = aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 22)
        yield
        await app[SESSION].close()

    app.cleanup_ctx.append(session)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    web.run_app(app, host=address, port=int(port), ssl_context=tls, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
