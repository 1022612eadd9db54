"""A shape is what a policy may know of a request, read from its body, with what the fleet has learned of its model.

This module decides which model a request is for where it names none, and whether its first byte tells when its prefill
was over. `dialects` reads bodies, `prompt.fingerprint` says how prompts are compared, and `prompt.chunks` which of
their parts.
"""

from __future__ import annotations

from xxhash import xxh3_64_hexdigest

from warmroute.core.errors import ClientError
from warmroute.core.prompt.chunks import add_chunks
from warmroute.core.prompt.fingerprint import HEAD_BYTES
from warmroute.core.prompt.prompt import beginning
from warmroute.core.types import Api, RequestShape
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dialects import coding, multipart_model
from warmroute.dialects.lax import LAX_BYTES, names_model
from warmroute.dialects.model_list import default_model as only_model
from warmroute.dialects.other import form_model
from warmroute.dialects.parsed import Parsed, model_required
from warmroute.dialects.reading import parse
from warmroute.dialects.routes import computed


def prefix_shape(gateway: Gateway, parsed: Parsed, head: RequestHead) -> RequestShape:
    """What the policy may know of a request routed by prefix."""
    model = parsed.model or default_model(gateway)
    bytes_per_token = gateway.fleet.bytes_per_token(model) or gateway.bytes_per_token
    session = gateway.sessions.find(head.said, parsed.told)
    if gateway.caching is not None:
        session = gateway.caching.session(session, parsed)
    if not session and gateway.fleet.apart:
        # No other router can say where this conversation's turns went: the ring has to find it, and goes by what is the
        # same in all of them.
        session = xxh3_64_hexdigest(beginning(parsed.canonical, HEAD_BYTES))
    shape = gateway.fingerprinter.shape(
        model,
        parsed.scope_salt,
        parsed.canonical,
        session,
        bytes_per_token,
        parsed.prompt_bytes,
        parsed.tokens_known,
    )
    shape.tokens_known = parsed.tokens_known is not None
    blend = gateway.blend
    if blend is not None and not shape.tokens_known:
        space = gateway.fingerprinter.space(model, parsed.scope_salt)
        add_chunks(shape, blend.chunks(parsed.canonical, space, bytes_per_token))
    shape.single = single = parsed.prompt_bytes == len(parsed.canonical)
    # The first event of a batch comes when one of its prompts is computed; how much is computed of a response that
    # goes on from another is not known here.
    shape.streams = parsed.stream and single and parsed.previous_response_id is None
    if not parsed.reads_cache:
        shape.reads_cache = shape.streams = False  # what it takes says nothing of others, either
    return shape


def default_model(gateway: Gateway) -> str:
    """What an engine takes a request for that names no model; empty where no replica says what it serves.

    Raises:
        ClientError: There are several.
    """
    model = only_model(gateway.fleet.model_cards())
    if model is None:
        raise model_required()
    return model


def readable(gateway: Gateway, request: Request) -> bytes | bytearray:
    """The body without its content coding, for reading only.

    Raises:
        ClientError: It is coded in a way that is not read here, or longer than bodies may be.
    """
    name = request.head.coding
    if not name or not request.body:
        return request.body
    return coding.decoded(name, request.body, gateway.limits.body_bytes)


def _named_model(kind: bytes, body: bytes | bytearray, decides: bool) -> str:
    """The model that a body names; empty if it names none, or none that can be read.

    Args:
        kind: Its content type; empty where none is told, which servers take for JSON.
        decides: It is asked whether the client may use it, and what that costs: then what cannot be read for sure is
            refused, since an engine might read another model.

    Raises:
        ClientError: It cannot be read.
    """
    if kind[:10].lower() == b"multipart/":
        if not decides:
            return multipart_model(kind, body) or ""
        model = form_model(kind, body)
        if model is None:
            raise ClientError(
                "the form cannot be read for sure: send one boundary, and parts with a plain name",
                code="invalid_form",
            )
        return model
    if not body or not (not kind or b"json" in kind.lower() or body[:1] == b"{"):
        return ""
    try:
        model = parse(Api.OTHER, body).model
    except ClientError:
        if kind or body[:1] == b"{":
            raise
        return ""  # it need not be JSON
    if decides and not model and len(body) > LAX_BYTES and not names_model(body):
        raise ClientError(
            f"a body of more than {LAX_BYTES} bytes must be plain JSON, so that its model can be read",
            code="invalid_json",
        )
    return model


def load_shape(gateway: Gateway, request: Request) -> RequestShape:
    """What the policy may know of a request routed by load: its model, and a ring key of its first bytes."""
    body = readable(gateway, request)
    admission = gateway.admission
    kind = request.head.content_type
    model = _named_model(kind, body, admission is not None and admission.asks)
    if not model and body:
        model = only_model(gateway.fleet.model_cards()) or ""  # as engines take it; of several it may be any
    shape = gateway.fingerprinter.shape(model, "", bytes(body[:HEAD_BYTES]), None, gateway.bytes_per_token)
    shape.rungs = shape.keys = []
    shape.prompt_bytes = 0
    shape.streams = False
    shape.needs_engine = computed(request.head.method, request.head.target.partition(b"?")[0])
    shape.prompt_tokens = max(1, int(len(body) / gateway.bytes_per_token))
    return shape
