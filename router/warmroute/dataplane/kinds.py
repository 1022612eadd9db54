"""Which kind of exchange a request takes: its own, one that is rewritten by a schema or translated, or one that a
recorded response may answer.

Decides their order alone. Where none of it is switched on, `Gateway.special` is false and nobody asks here.
"""

from __future__ import annotations

from warmroute.dataplane import recall
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.derived import derived_for
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.recall import RecallingExchange
from warmroute.dataplane.request import Request
from warmroute.dataplane.translated import translated_for


def exchange_for(gateway: Gateway, client: ClientSide, request: Request) -> Exchange:
    """The exchange that a request takes. One that is rewritten is not looked for among recorded responses."""
    schemas, caches = gateway.schemas, gateway.caches
    if schemas is not None:
        derived = derived_for(gateway, schemas, client, request)
        if derived is not None:
            return derived
    if caches is not None:
        translated = translated_for(gateway, caches, client, request)
        if translated is not None:
            return translated
    responses = gateway.responses
    if responses is not None and recall.concerns(request.head):
        return RecallingExchange(gateway, responses, client, request)
    return Exchange(gateway, client, request)
