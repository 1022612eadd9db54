"""Header lines that the router adds to a replica's answer: who answered and why, limits, what browsers have to be told.

This module decides nothing about the answer itself. A Location of the replica itself becomes the router's.
"""

from __future__ import annotations

from warmroute.core.fleet.fleet import Decision
from warmroute.dataplane.answer import AnswerHead, at_the_router
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import RequestHead
from warmroute.tenants.limits import Grant


def added_lines(
    gateway: Gateway,
    asked: RequestHead,
    head: AnswerHead,
    decision: Decision,
    request_id: bytes,
    grant: Grant | None,
) -> bytes:
    """All of them, each with its line end."""
    if head.status != 200:
        at_the_router(head, gateway.pool(decision.replica).host_header)
    lines = _own_lines(gateway, asked, head, decision, request_id)
    if grant is not None and gateway.admission is not None:
        lines += gateway.admission.limit_lines(grant, asked.anthropic)
    return lines if gateway.cors is None else gateway.cors.added(asked, head.lines) + lines


def _own_lines(
    gateway: Gateway, asked: RequestHead, head: AnswerHead, decision: Decision, request_id: bytes
) -> bytes:
    """Those that say who answered and why."""
    ids = request_id
    if asked.anthropic and not head.names_request():
        ids = b"%b\r\nrequest-id: %b" % (ids, ids)
    if not gateway.explain_headers:
        return b"x-request-id: %b\r\n" % ids
    replica = decision.replica
    return (
        b"x-request-id: %b\r\nx-warmroute-replica: %b\r\nx-warmroute-decision: %b\r\n"
        b"x-warmroute-predicted-cached-tokens: %d\r\n"
        % (ids, replica.id.encode(), decision.kind.encode(), decision.expected_tokens)
    )
