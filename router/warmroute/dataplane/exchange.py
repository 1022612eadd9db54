"""An exchange is one request's life: it reads, chooses, holds, answers, and settles exactly once.

This module decides which way a request takes, and when it is over. `attempt`, `retries` and `resuming` make its tries.
It does not choose replicas (`core.fleet`) and does not parse prompts (`dialects`).

The rules it keeps:
1. A decision is settled exactly once, whatever ends it: `_settle` is the only place.
2. Choosing and counting is one synchronous step: no callback runs between `records` and `choose_and_reserve`.
3. A first choice by prefix may be held (`hold`). The choice is then made later, and the ticket is given back if the
   client leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from warmroute.core.errors import NotFoundError, RouterError
from warmroute.core.fleet.fleet import Decision
from warmroute.core.health.health import ReplicaState
from warmroute.core.holding.line import Claim
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Api, Records, ReplicaId, RequestShape
from warmroute.dataplane import local, own_answers
from warmroute.dataplane.caching import GIVEN_UP, CacheUse, Caching
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.counted import Counted
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.queueing import Queueing
from warmroute.dataplane.request import Request
from warmroute.dataplane.shapes import load_shape, prefix_shape, readable
from warmroute.dataplane.translating import AddingClient
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.reading import invoked_api, parse
from warmroute.dialects.routes import Route, RouteKind, stored_response_id
from warmroute.dialects.usage_request import asking_at
from warmroute.telemetry.logs import fields
from warmroute.tenants.caller import Caller
from warmroute.tenants.limits import Grant

log = logging.getLogger(__name__)

_PREFIX: Final = RouteKind.PREFIX
_LOAD: Final = RouteKind.LOAD
_PASSED: Final = RouteKind.PASSED
_INVOCATION: Final = RouteKind.INVOCATION
_STORED: Final = RouteKind.STORED


class Exchange(Counted):
    """One request and what becomes of it."""

    __slots__ = (
        "_looking",
        "_previous",
        "_searched",
        "_ticket",
    )

    def __init__(self, gateway: Gateway, client: ClientSide, request: Request) -> None:
        super().__init__(gateway, client, request)
        self._looking = False
        """The registry was asked."""
        self._previous: str | None = None
        """Id of the response that the request continues."""
        self._searched = False
        """The replicas were asked already whether one of them has the model."""
        self._ticket: Ticket | None = None
        """Only while the request is held."""

    # -- reading ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Decide what kind of request this is and take its way."""
        request = self._request
        head = request.head
        found = head.route
        if found is None:
            self.fail(own_answers.no_endpoint(head))
            return
        self._api = found.api
        kind = found.kind
        try:
            if self._gateway.admission is not None and self.caller is None and not self._let_in(kind):
                return
            if kind is _PREFIX:
                self._start_by_prefix()
            elif kind is _LOAD or kind is _PASSED:
                self._choose_by_load()
            elif kind is _STORED:
                stored_id = stored_response_id(head.path)
                if stored_id is None:
                    self.fail(NotFoundError("this is no response id", code="response_not_found"))
                else:
                    self._gateway.registry.find_response(stored_id, self._stored_found)
            elif kind is _INVOCATION:
                self._api = invoked_api(readable(self._gateway, request))
                if self._api is Api.OTHER:
                    self._choose_by_load()
                else:
                    self._start_by_prefix()
            elif kind is RouteKind.MODELS and not self._may_see_models():
                pass
            else:
                self._answer_here(found)
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - ends this exchange, and no other on its connection
            self.crashed(error)

    def _let_in(self, kind: RouteKind) -> bool:
        """Whether it is known whose request this is, or need not be; if not, `start` is called again.

        Raises:
            RouterError: It may not come in.
        """
        admission = self._gateway.admission
        assert admission is not None
        if kind is not _PREFIX and admission.open(kind):
            return True
        self.caller = admission.identify(self._request.head, self._identified)
        return self.caller is not None

    def _identified(self, answer: Caller | RouterError) -> None:
        if self._done:
            return
        if isinstance(answer, RouterError):
            self.fail(answer)
        else:
            self.caller = answer
            self.start()

    def _admit(self, shape: RequestShape) -> bool:
        """Ask whether it may go on. False: that is not decided yet, and `_limits_known` is called.

        Raises:
            RouterError: It may not.
        """
        admission, caller = self._gateway.admission, self.caller
        if admission is None or caller is None:
            return True
        standing = self.standing = admission.standing(caller, shape.model, self.interface())
        grant = self.grant = admission.admit(standing, shape.prompt_tokens)
        if grant is None:
            return True
        if grant.pending:
            if not admission.ask(grant, self._limits_known):
                return False
        elif grant.granted:
            return True
        refusal = admission.refusal_of(grant, self._request.head.anthropic)
        if refusal is not None:
            raise refusal
        return True

    def _limits_known(self, grant: Grant) -> None:
        """Whether its tenant's limits let it through is decided: go on where it waits for that."""
        grant.pending = False
        admission = self._gateway.admission
        assert admission is not None
        if self._done:
            if grant.granted:
                admission.give_back(grant)
            return
        try:
            refusal = admission.refusal_of(grant, self._request.head.anthropic)
            if refusal is not None:
                self.fail(refusal)
            elif self._previous is not None:
                self._gateway.registry.find_response(self._previous, self._previous_found)
            elif self._records is not None:
                self._choose_by_prefix()
            elif not self._looking:
                self._choose()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - must not end the limiter's other answers
            self.crashed(error)

    def _start_by_prefix(self) -> None:
        request = self._request
        gateway = self._gateway
        coded = request.head.coding
        body = request.body if not coded else readable(gateway, request)
        parsed = parse(self._api, body)
        caller = self.caller
        caching = gateway.caching
        if caching is not None:
            self._use = self._read_use(caching, parsed, body)
        if caller is not None:
            assert gateway.admission is not None
            gateway.admission.set_apart(caller, request, parsed)
        shape = self.shape = prefix_shape(gateway, parsed, request.head)
        if caching is not None and self._use is not None:
            plain = body if coded else request.body
            caching.bind(self._api, self._use, parsed, shape, gateway.fingerprinter, plain)
            if self._use.given_up:
                self.client = AddingClient(self.client, GIVEN_UP)
        if gateway.deaths.remembers:
            gateway.refuse_deadly(shape, request, self.request_id)
        if parsed.may_ask_usage and gateway.ask_usage and not coded:
            self._asking_at = asking_at(request.body)
        admitted = caller is None or self._admit(shape)
        if parsed.previous_response_id is not None:
            self._previous = parsed.previous_response_id
            if admitted:
                gateway.registry.find_response(parsed.previous_response_id, self._previous_found)
        else:
            self._look_up()

    def _read_use(self, caching: Caching, parsed: Parsed, body: bytes | bytearray) -> CacheUse | None:
        """What it asks of engines' caches."""
        return caching.read(self._api, parsed, body, self._request, self.caller)

    def _look_up(self) -> None:
        assert self.shape is not None
        gateway = self._gateway
        if not gateway.needs_records:
            if self.grant is None or not self.grant.pending:
                self._choose_by_prefix()
            return
        keys = self.shape.keys
        self._looking = True
        records = gateway.registry.lookup(keys, self._looked_up) if keys else []
        if records is not None:
            self._looked_up(records)

    def _looked_up(self, records: Records) -> None:
        if self._done:
            return
        self._records = records
        grant = self.grant
        if grant is not None and grant.pending:
            return  # both were asked in one tick; whichever comes last goes on
        try:
            self._choose_by_prefix()
        except Exception as error:  # noqa: BLE001 - must not end the registry's other answers
            self.crashed(error)

    def _choose_by_load(self) -> None:
        gateway = self._gateway
        shape = self.shape = load_shape(gateway, self._request)
        if gateway.deaths.remembers:
            gateway.refuse_deadly(shape, self._request, self.request_id)
        if self.caller is None or self._admit(shape):
            self._choose()

    # -- responses that an engine stores ----------------------------------------------------------------------------

    def _previous_found(self, replica: ReplicaId | None) -> None:
        """A conversation that an engine stores continues there unless that engine is ejected; else anywhere."""
        if self._done:
            return
        previous, self._previous = self._previous, None
        if replica is None and previous is not None:
            self._find_stored(previous, self._previous_found)
            return
        try:
            keeper = self._gateway.fleet.replicas.get(replica) if replica is not None else None
            if keeper is not None and keeper.state is not ReplicaState.EJECTED:
                try:
                    self._reserve_on(keeper.id)
                except RouterError:
                    pass
                else:
                    return
            self._look_up()
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _stored_found(self, replica: ReplicaId | None) -> None:
        if self._done:
            return
        self.shape = RequestShape(model="", needs_engine=False)
        try:
            if replica is not None:
                self._reserve_on(replica)
            elif not self._searched:
                self._searched = True
                stored_id = stored_response_id(self._request.head.path)
                assert stored_id is not None
                self._find_stored(stored_id, self._stored_found)
            else:
                self.fail(
                    NotFoundError("no replica is known to keep this response", code="response_not_found")
                )
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _find_stored(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """No record says who stores this response: ask the replicas, once, and remember."""
        gateway = self._gateway

        def found(replica: ReplicaId | None) -> None:
            if replica is not None:
                gateway.registry.remember_response(response_id, replica)
            done(replica)

        gateway.questions.find_response(
            "/v1/responses/" + quote(response_id, safe=""), self._request.head.authorization, found
        )

    def _reserve_on(self, replica: ReplicaId) -> None:
        assert self.shape is not None
        gateway = self._gateway
        now_s = gateway.clock()
        decision = gateway.fleet.reserve_on(replica, self.shape, now_s)
        self._pinned = replica
        self._decided(decision, now_s)

    # -- models, and who may see them -------------------------------------------------------------------------------

    def _may_see_models(self) -> bool:
        """Whether the list is answered now; otherwise it is refused, now or when replicas were asked."""
        allowed = self._key_allowed()
        if allowed is False:
            self.fail(local.UnauthorizedError())
        return allowed is True

    def _key_allowed(self) -> bool | None:
        """Whether the client may know of models; None: replicas are asked whether they take its key."""
        admission = self._gateway.admission
        if admission is not None and admission.asks:
            return True  # it was let in by the router's own key
        return self._gateway.questions.allowed(self._request.head.authorization, self._key_tried)

    def _key_tried(self, allowed: bool) -> None:
        if self._done:
            return
        try:
            if not allowed:
                self.fail(local.UnauthorizedError())
                return
            if self._searched:
                self._gateway.questions.find_model(self._models_read)
            else:
                self._answer_models()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _search_model(self) -> None:
        """No replica lists the model: before that is said, ask them once more, on behalf of those who may know."""
        self._searched = True
        gateway = self._gateway
        allowed = self._key_allowed()
        if allowed is True:
            gateway.questions.find_model(self._models_read)
        elif allowed is False:
            self.fail(local.UnauthorizedError())

    def _models_read(self) -> None:
        """What the replicas serve was read anew."""
        if self._done:
            return
        shape = self.shape
        try:
            if shape is None:
                self._answer_models()
                return
            gateway = self._gateway
            if gateway.unlisted_models and shape.model not in gateway.fleet.models():
                self.unlisted_model = shape.model
                shape.model = ""
            if self._records is not None:
                self._choose_by_prefix()
            else:
                self._choose()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _answer_models(self) -> None:
        found = self._request.head.route
        assert found is not None
        self._answer_here(found)

    def _answer_here(self, found: Route) -> None:
        status, keep_alive = own_answers.answer(
            self._gateway, self.client, self._request.head, found, self.request_id, self.caller
        )
        self.answered_locally(status, keep_alive=keep_alive)

    # -- choosing, or waiting for that ------------------------------------------------------------------------------

    def _choose_by_prefix(self) -> None:
        """Choose, or wait until it can be chosen well."""
        gateway = self._gateway
        hold = gateway.hold
        if hold is None or gateway.queueing is not None:
            self._choose()
            return
        shape = self.shape
        assert shape is not None
        now_s = gateway.clock()
        try:
            answer = hold.offer(shape, self._records, now_s, self._granted)
        except RouterError as error:
            self.fail(error)
            return
        if isinstance(answer, Ticket):
            self._ticket = answer
            hold.release(now_s)
        else:
            self._decided(answer, now_s)

    def _granted(self, answer: Decision | RouterError) -> None:
        """The request is held no longer."""
        try:
            now_s = self._hold_over()
            if isinstance(answer, RouterError):
                if not self._done:
                    self.fail(answer)
            elif self._done:  # the client left while others were let go
                self.decision = answer
                self._settle()
            else:
                self._decided(answer, now_s)
        except Exception as error:  # noqa: BLE001 - must not end the others' turn
            self.crashed(error)

    def _hold_over(self) -> float:
        gateway = self._gateway
        now_s = gateway.clock()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._records = ticket.records  # with what was noted while it waited
            self.held_s = max(0.0, now_s - ticket.arrival_s)
            if isinstance(ticket, Claim):
                self.charged_tokens = ticket.charged_tokens
            gateway.metrics.held(self.held_s)
        return now_s

    def _choose(self) -> None:
        gateway = self._gateway
        shape = self.shape
        assert shape is not None
        now_s = gateway.clock()
        if gateway.queueing is not None:
            self._queue_up(gateway.queueing, shape, now_s)
            return
        try:
            decision = gateway.fleet.choose_and_reserve(shape, self._records, now_s)
        except RouterError as error:
            self.fail(error)
            return
        self._decided(decision, now_s)

    def _queue_up(self, queueing: Queueing, shape: RequestShape, now_s: float) -> None:
        """Choose, or wait in line, or be refused."""
        hold = self._gateway.hold
        assert hold is not None
        try:
            decision = queueing.queue.begin(shape, self._records, now_s)
            if decision is None:
                self._ticket = queueing.wait(
                    shape, self._records, now_s, self._granted, self.caller, self._request
                )
        except RouterError as error:
            hold.changed()
            self.fail(error)
            if hold.waiting:
                hold.release(now_s)  # others may have given way before this one was refused
            return
        if decision is not None:
            self._decided(decision, now_s)
            return
        hold.changed()
        hold.release(now_s)

    # -- the end ----------------------------------------------------------------------------------------------------

    def fail(self, error: RouterError) -> None:
        """Answer with an error of the router's own."""
        relay = self._relay
        if relay is not None:  # the client has a stream's head already
            self._status = 200
            self._break_off(relay, error)
            return
        if error.code == "model_not_found" and not self._searched:
            self._search_model()
            return
        self._status = error.status
        keep_alive, self.body_bytes = local.write_error(
            self.client, self._request.head, self._api, error, self.request_id
        )
        self._finish(keep_alive=keep_alive, code=error.code)

    def crashed(self, error: Exception) -> None:
        """A step of this exchange raised what nobody expected: log it, answer 500 if possible, settle, and close."""
        log.error(
            "exchange_crashed",
            exc_info=error,
            extra=fields(
                request_id=self.request_id.decode("latin-1"), path=self._request.head.path.decode("latin-1")
            ),
        )
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        over, self._done = self._done, True
        self._drop_others()
        if self._relay is not None:
            self.body_bytes = self._relay.body_bytes
        self._gateway.drop_body(self._request)
        self._settle()
        self._gateway.accounts.crashed(self, self._gateway.clock())
        client = self.client
        if not client.serves(self):
            client.abort()
            return
        if over or client.closing:
            client.exchange_done(keep_alive=False)
            return
        internal = RouterError("the router failed on this request; its log says why")
        self._status = internal.status
        if self.first_byte_s is None and self._relay is None:
            _, self.body_bytes = local.write_error(
                client, self._request.head, self._api, internal, self.request_id, close=True
            )
        else:
            client.abort()
        client.exchange_done(keep_alive=False)
        gateway = self._gateway
        gateway.accounts.finished(
            self, self._request, self._api, internal.status, internal.code, None, None, gateway.clock()
        )

    def answered_locally(self, status: int, *, keep_alive: bool) -> None:
        """The router itself has answered."""
        self._done = True
        self._gateway.drop_body(self._request)
        self._status = status
        self.client.exchange_done(keep_alive=keep_alive)

    def client_gone(self) -> None:
        """The client closed: stop the replica's work at once."""
        if self._done:
            return
        connection, self.connection = self.connection, None
        relay = self._relay
        if relay is not None and relay.finished:
            if connection is not None:
                connection.abandon()
            relay.seen_out()
            self._computed()
            self._finish(keep_alive=False, seen=relay.usage_bytes())
            return
        if connection is not None:
            phase = self._left(connection)
        elif self._ticket is not None:
            phase = "held"
        else:
            phase = "connect" if self._connecting else "lookup"
        self._gateway.metrics.client_gone(phase)
        self._status = 499
        self._finish(keep_alive=False, code="client_gone")

    def _settle(self) -> None:
        gateway = self._gateway
        ticket = self._ticket
        hold = gateway.hold
        if ticket is not None and hold is not None:
            self._hold_over()
            hold.withdraw(ticket)
        decision, self.decision = self.decision, None
        if decision is not None:
            if self._noted and not decision.is_computed:
                assert self.shape is not None
                self._withdraw(decision, self.shape)
            gateway.settle(decision)

    def _finish(self, *, keep_alive: bool, code: str | None = None, seen: bytes = b"") -> None:
        """End, once. `seen` is where the answer's usage is looked for."""
        self._done = True
        if self.second is not None or self._continuation is not None:
            self._drop_others()
        if self._relay is not None:
            self.body_bytes = self._relay.body_bytes
        self._gateway.drop_body(self._request)
        decision = self.decision
        self._settle()
        usage = self.usage(seen)
        gateway = self._gateway
        gateway.accounts.finished(
            self, self._request, self._api, self._status, code, decision, usage, gateway.clock()
        )
        self.client.exchange_done(keep_alive=keep_alive)
