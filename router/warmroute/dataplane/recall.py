"""Requests that a recorded response may answer: it is looked for before a replica is chosen, and recorded if there is
none.

Decides when an exchange looks, and what it does with what it finds: a hit is answered here and needs no replica; any
other request goes its way as every request does, with a line in its answer's head and a copy of it kept. No model is
asked for a request that its tenant's limits would not let in. What may be given, and what is kept,
`service.response_cache` decides. Where that is not switched on, no exchange of this kind is made.

A lookup is a task: who asked for this cache waits for it, and nobody else has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from warmroute.caching.response import Question
from warmroute.core.errors import ClientError, RouterError
from warmroute.core.types import RequestShape
from warmroute.dataplane import local, whose
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.outcome import Outcome
from warmroute.dataplane.recording import RecordingClient, write_stream
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dataplane.shapes import default_model
from warmroute.dataplane.translating import AddingClient
from warmroute.dialects import cache_directives, repeatable
from warmroute.dialects.cache_directives import Directives
from warmroute.dialects.repeatable import Repeatable
from warmroute.dialects.routes import RouteKind
from warmroute.service.response_cache import BYPASS, EXACT, MISS, SEMANTIC, Hit, ResponseCache, Rule
from warmroute.telemetry.log_fingerprints import LogFingerprints
from warmroute.tenants.limits import Grant
from warmroute.tenants.prices import DEEPSEEK
from warmroute.tenants.tenant import ANONYMOUS

monotonic: Final = time.monotonic
_CONTROL: Final = b"cache-control"
_PATHS: Final = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/messages", b"/v1/responses"))


def concerns(head: RequestHead) -> bool:
    """Whether recorded responses are kept for this endpoint."""
    found = head.route
    return found is not None and found.kind is RouteKind.PREFIX and head.path in _PATHS


class RecallingExchange(Exchange):
    """One such request."""

    __slots__ = ("_compared", "_copy", "_looked_for", "_question", "_responses", "recalled")

    def __init__(
        self, gateway: Gateway, responses: ResponseCache, client: ClientSide, request: Request
    ) -> None:
        super().__init__(gateway, client, request)
        self._responses = responses
        self._looked_for = False
        self._question: Question | None = None
        self._compared: Grant | None = None
        """What it takes of limits while models compare it."""
        self._copy: RecordingClient | None = None
        self.recalled = ""
        """What became of it, for the access log; empty: no rule is for it."""

    def _start_by_prefix(self) -> None:
        if self._looked_for:
            super()._start_by_prefix()
            return
        self._looked_for = True
        request = self._request
        head = request.head
        responses = self._responses
        asked = repeatable.read(self._api, b"" if head.coding else request.body)
        caller = self.caller
        rule = None
        model = asked.model
        try:
            model = model or default_model(self._gateway)
            rule = responses.rule(ANONYMOUS if caller is None else caller.tenant.id, model)
        except ClientError:
            pass  # it names no model, or in a body that is not read here: whoever reads it knows
        if rule is None:
            super()._start_by_prefix()
            return
        control = cache_directives.directives(whose.fields(head, _CONTROL))
        if asked.bypass or control.no_store or (asked.sampled and not rule.sampled):
            self._go_on(BYPASS)
            return
        self._question = self._question_of(asked, model, rule)
        if control.no_cache:
            self._record(BYPASS)
        else:
            self._gateway.tasks.spawn(self._look(self._question, control), name="recorded response")

    def _question_of(self, asked: Repeatable, model: str, rule: Rule) -> Question:
        head = self._request.head
        caller = self.caller
        form = b"%b\n%b\n%b" % (
            head.target,
            head.usage_words,
            b"anthropic" if head.anthropic else b"",
        )
        sharing = "" if caller is None else caller.tenant.sharing
        scope = whose.scope(caller, head)
        return self._responses.question(self._api, asked, model, rule, scope, form, sharing)

    async def _look(self, question: Question, control: Directives) -> None:
        hit = None
        try:
            try:
                hit = await self._responses.find(question, control.max_age_s, self._may_compare)
            finally:
                self._compared_with(hit)
            if self._done:
                return
            if hit is None:
                self._record(MISS)
            else:
                self._answer(hit)
        except RouterError as error:
            if not self._done:
                self.fail(error)
        except Exception as error:  # noqa: BLE001 - ends this exchange, and no other
            self.crashed(error)

    async def _may_compare(self) -> bool:
        """Whether its tenant's limits would let it in now."""
        admission, caller, question = self._gateway.admission, self.caller, self._question
        if admission is None or caller is None or question is None:
            return True
        self._compared = await admission.may_compare(caller, question.model, self._recalled_interface())
        return self._compared is not None

    def _compared_with(self, hit: Hit | None) -> None:
        grant, self._compared = self._compared, None
        if grant is not None and self._gateway.admission is not None:
            self._gateway.admission.compared(grant, hit is not None)

    # -- without one --------------------------------------------------------------------------------------------------

    def _go_on(self, outcome: str) -> None:
        """To a replica, and nothing is kept."""
        adding = AddingClient(self.client)
        adding.added = self._counted(outcome)
        self.client = adding
        super()._start_by_prefix()

    def _record(self, outcome: str) -> None:
        recording = RecordingClient(self.client, self._responses.response_bytes)
        recording.added = self._counted(outcome)
        self.client = self._copy = recording
        super()._start_by_prefix()

    def _counted(self, outcome: str) -> bytes:
        self._responses.requests[outcome] += 1
        self.recalled = outcome
        return b"x-warmroute-response-cache: %b\r\n" % outcome.encode()

    def _finish(self, *, keep_alive: bool, code: str | None = None, seen: bytes = b"") -> None:
        recording, self._copy = self._copy, None
        whole = code is None and self._status == 200 and self._continuation is None
        super()._finish(keep_alive=keep_alive, code=code, seen=seen)
        question = self._question
        if recording is None or question is None or not whole:
            return
        if recording.too_long:
            self._responses.refused["long"] += 1
            return
        answer = recording.answer()
        if answer is not None:
            keeping = self._responses.keep(question, answer[0], answer[1])
            self._gateway.tasks.spawn(keeping, name="kept response")

    # -- with one -----------------------------------------------------------------------------------------------------

    def _recalled_interface(self) -> int:
        """Whose interface it speaks, though nobody has read what it asks of caches."""
        caching = self._gateway.caching
        if caching is not None and caching.tells_deepseek(self._api, self._request, self.caller):
            return DEEPSEEK
        return self.interface()

    def _answer(self, hit: Hit) -> None:
        """Give it: no replica has anything to do, and nothing more is taken of its tenant's limits."""
        question = self._question
        assert question is not None
        self.shape = RequestShape(model=question.model)
        admission, caller = self._gateway.admission, self.caller
        if admission is not None and caller is not None:
            self.standing = admission.recalled(caller, question.model, self._recalled_interface())
        score = hit.score
        self._responses.requests[EXACT if score is None else SEMANTIC] += 1
        self.recalled = "hit" if score is None else f"hit; score={score:.3f}"
        head = self._request.head
        added = b"%bx-warmroute-response-cache: %b\r\nage: %d\r\n" % (
            local.id_lines(head, self.request_id),
            self.recalled.encode(),
            int(hit.age_s),
        )
        response = hit.response
        kind = response.content_type.encode("latin-1", "replace")
        if response.stream:
            keep_alive = write_stream(self.client, head, kind, response.body, added)
        else:
            keep_alive = local.write(self.client, head, 200, response.body, added, content_type=kind)
        self._status = 200
        self.first_byte_s = monotonic()
        self.body_bytes = len(response.body)
        self._gateway.accounts.answered -= (
            1  # tries that replicas are given again are a share of what they are asked
        )
        self._finish(keep_alive=keep_alive)


def log_members(fingerprints: LogFingerprints | None, recalls: bool) -> Callable[[Outcome], bytes] | None:
    """What the access log has of a request besides: its prompt's fingerprints, and what became of it here; None where
    it has neither."""
    if fingerprints is None and not recalls:
        return None

    def members(outcome: Outcome) -> bytes:
        found = b""
        if fingerprints is not None and outcome.shape is not None:
            found = fingerprints.members(outcome.shape)
        if isinstance(outcome, RecallingExchange) and outcome.recalled:
            found += b',"response_cache":"%b"' % outcome.recalled.encode()
        return found

    return members
