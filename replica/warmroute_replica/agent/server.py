"""The agent's own port tells whether the agent lives and whether its replica is ready, has metrics, and starts a drain.

`/prestop` starts the drain, too, for Kubernetes' `httpGet` hooks, which cannot post. This module decides nothing.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from warmroute_replica.agent.agent import Agent
from warmroute_replica.agent.announcer import Announcer
from warmroute_replica.agent.record import State

_HELP = (
    ("state", "gauge", "1 for the replica's state, 0 for the others"),
    ("redis_up", "gauge", "whether the last announcement reached Redis"),
    ("displaced", "gauge", "1 while another agent speaks for this replica's id"),
    ("heartbeats_total", "counter", "heartbeats that Redis took"),
    ("heartbeat_age_seconds", "gauge", "time since Redis took the last one"),
    ("redis_errors_total", "counter", "announcements that failed"),
    ("engine_lives_total", "counter", "lives of the engine seen: starts and restarts"),
    ("engine_running", "gauge", "requests that the engine runs"),
    ("engine_waiting", "gauge", "requests that wait in the engine"),
)


def build_server(agent: Agent, announcer: Announcer) -> web.Application:
    """Build the application that serves the agent's endpoints."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(_: web.Request) -> web.Response:
        ready = agent.state is State.READY and announcer.displaced_by is None
        body = {
            "ready": ready,
            "state": agent.state.value,
            "redis": bool(announcer.healthy),
            "displaced_by": announcer.displaced_by,
        }
        return web.json_response(body, status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=render(agent, announcer), content_type="text/plain")

    async def drain(_: web.Request) -> web.Response:
        # The drain goes on where the client that asked for it closes the connection.
        idle = await asyncio.shield(agent.drain())
        running, waiting = agent.load
        return web.json_response({"drained": idle, "running": running, "waiting": waiting})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/drain", drain)
    app.router.add_get("/prestop", drain, allow_head=False)
    return app


def render(agent: Agent, announcer: Announcer) -> str:
    """Return the agent's metrics in Prometheus' text format; a metric whose value is unknown is left out."""
    running, waiting = agent.load
    age_s = None if announcer.told_s is None else time.monotonic() - announcer.told_s
    values: dict[str, object] = {
        "redis_up": int(bool(announcer.healthy)),
        "displaced": int(announcer.displaced_by is not None),
        "heartbeats_total": announcer.heartbeats,
        "heartbeat_age_seconds": None if age_s is None else round(age_s, 3),
        "redis_errors_total": announcer.errors,
        "engine_lives_total": agent.lives,
        "engine_running": running,
        "engine_waiting": waiting,
    }
    lines: list[str] = []
    for name, kind, meaning in _HELP:
        full = f"warmroute_agent_{name}"
        if name == "state":
            samples = [f'{full}{{state="{state}"}} {int(agent.state is state)}' for state in State]
        else:
            samples = [] if values[name] is None else [f"{full} {values[name]}"]
        if samples:
            lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", *samples]
    return "\n".join(lines) + "\n"
