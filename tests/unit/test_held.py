"""What the held requests share, and what it makes of the price of a miss: one prefix that all want is copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush

import pytest

from tests.support.fleet_simulation import GRID, prompt, ready_fleet
from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.view import Prices
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.fleet.held import Held
from warmroute.core.fleet.replica import Replica
from warmroute.core.fleet.report import cost_terms
from warmroute.core.holding.admission_queue import AdmissionQueue
from warmroute.core.holding.line import DEFAULT
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.shares import Shares
from warmroute.core.types import FingerprintHash, Incarnation, Record, Records, ReplicaId, RequestShape

Granted = Callable[[Decision | RouterError], None]
Offer = Callable[[RequestShape, Records, Granted], None]

DOCUMENT = ("document", 32_768)
"""8,192 tokens."""


def question(name: str, *more: tuple[str, int]) -> RequestShape:
    return prompt(DOCUMENT, (name, 1_200), *more)


def r0(fleet: Fleet) -> Replica:
    return fleet.replicas[ReplicaId("r0")]


def known(shape: RequestShape, fleet: Fleet, known_bytes: int = DOCUMENT[1]) -> Belief:
    """So many leading bytes are on the first replica."""
    home = r0(fleet)
    assert home.incarnation is not None
    records: Records = [((home.incarnation, 0.0),) if depth <= known_bytes else None for depth in GRID]
    return Belief(shape, records[: len(shape.rungs)], {home.incarnation: home}, GRID, 0.0)


def prices_of(held: Held, belief: Belief, fleet: Fleet) -> Prices:
    prices = Prices(queued=1.0)
    held.spare(prices, belief, fleet.view("m"))
    return prices


def test_the_share_of_the_held_that_part_right_behind_the_known_prefix_is_spared() -> None:
    held, fleet = Held(), ready_fleet(2)
    for name in "abc":
        held.begin(question(name))
    held.begin(prompt(("other", 40_000)))
    prices = prices_of(held, known(question("a"), fleet), fleet)
    assert (prices.spared, prices.alike_tokens) == (2 / 4, 8192)
    prices = prices_of(held, known(question("new"), fleet), fleet)
    assert prices.spared == 3 / 4


@pytest.mark.parametrize(("replicas", "copies"), [(2, 1), (8, 4)])
def test_what_takes_longer_than_copies_on_half_of_the_replicas_is_copied_whoever_else_is_held(
    replicas: int, copies: int
) -> None:
    held, fleet = Held(), ready_fleet(replicas)
    shape = question("new")
    own, document = (r0(fleet).work_tokens(*of) for of in ((shape.prompt_tokens, 8192), (8192, 0)))
    enough = int(copies * document / own) + 1
    for number in range(enough):
        held.begin(question(str(number)))
        held.begin(prompt(("other", 40_000), (str(number), 1_200)))
    assert prices_of(held, known(shape, fleet), fleet).spared == 1.0
    held.end(question("0"))
    assert prices_of(held, known(shape, fleet), fleet).spared == (enough - 1) / (2 * enough - 1)


def test_turns_of_a_few_agents_that_the_rungs_do_not_tell_apart_are_no_batch() -> None:
    held, fleet = Held(), ready_fleet(2)
    for name, spared in (("a", 1 / 2), ("b", 2 / 3), ("c", 1.0)):
        held.begin(prompt(DOCUMENT, (name, 60_000)))
        if name == "a":
            held.begin(prompt(("other", 40_000)))
        assert prices_of(held, known(prompt(DOCUMENT, ("new", 60_000)), fleet), fleet).spared == spared


def test_a_copy_is_in_nobodys_way_as_far_as_their_own_work_is_as_much_as_the_copies_there_are() -> None:
    held, fleet = Held(), ready_fleet(8)
    shape = question("new")
    own, document = (r0(fleet).work_tokens(*of) for of in ((shape.prompt_tokens, 8192), (8192, 0)))
    for number in range(3):
        held.begin(question(str(number)))
    prices = prices_of(held, known(shape, fleet), fleet)
    assert prices.spared == 1.0
    assert prices.paid == pytest.approx(3 * own / document)
    for number in range(3, int(document / own) + 1):
        held.begin(question(str(number)))
    assert prices_of(held, known(shape, fleet), fleet).paid == 1.0


def test_turns_that_go_on_with_it_are_not_alike() -> None:
    """The first of them computes what is new, and the others find it where that was."""
    held, fleet = Held(), ready_fleet(2)
    for turn in range(1, 4):
        held.begin(question("a", ("turn", 2_000 * turn)))
    assert prices_of(held, known(question("a", ("turn", 2_000)), fleet), fleet).spared == 0.0


def test_what_nobody_has_any_more_of_a_question_that_was_asked_before_makes_it_no_less_alike() -> None:
    """An evaluation is run again after its replicas were restarted, or after other prompts have filled their caches."""
    held, fleet = Held(), ready_fleet(2)
    for name in "abc":
        held.begin(question(name))
    held.begin(prompt(("other", 40_000)))
    home, gone = r0(fleet), Incarnation(999)
    assert home.incarnation is not None
    shape = question("a")
    records: Records = [
        ((gone, -9.0), (home.incarnation, 0.0)) if depth <= DOCUMENT[1] else ((gone, -9.0),) for depth in GRID
    ]
    belief = Belief(shape, records[: len(shape.rungs)], {home.incarnation: home}, GRID, 0.0)
    prices = prices_of(held, belief, fleet)
    assert (prices.spared, prices.alike_tokens) == (2 / 4, 8192)


def test_nothing_is_spared_of_what_nobody_has_nor_where_nobody_reads_a_cache() -> None:
    held, fleet = Held(), ready_fleet(2)
    unread = question("b")
    unread.reads_cache = False
    held.begin(unread)
    shape = question("a")
    assert prices_of(held, known(shape, fleet), fleet).spared == 0.0
    held.begin(question("c"))
    assert prices_of(held, known(shape, fleet, known_bytes=0), fleet).spared == 0.0
    assert prices_of(held, known(shape, fleet), fleet).spared == 1 / 2


def test_what_one_of_the_held_has_too_is_computed_by_that_one() -> None:
    held, fleet = Held(), ready_fleet(2)
    belief = known(question("a"), fleet, known_bytes=0)
    assert held.shared_tokens(belief) == 0
    held.begin(question("b"))
    assert held.shared_tokens(belief) == 8192
    unread = question("c")
    unread.reads_cache = False
    assert held.shared_tokens(known(unread, fleet)) == 0


def test_who_is_held_no_longer_is_forgotten() -> None:
    held = Held()
    shapes = [question(name) for name in "abc"]
    for shape in shapes:
        held.begin(shape)
    for shape in shapes:
        held.end(shape)
    assert not held.by_model
    assert not held.by_rung


def test_the_held_of_a_model_count_twice_and_those_elsewhere_once() -> None:
    held = Held()
    assert held.price("m", 0, 4) == 0.0
    assert held.price("m", 2, 4) == 0.5
    for name in "abc":
        held.begin(question(name))
    assert held.price("m", 0, 4) == 1.5
    assert held.price("m", 2, 4) == 2.0
    assert held.price("other", 0, 4) == 0.0


def test_only_what_is_shared_is_in_nobodys_way() -> None:
    fleet = ready_fleet(2)
    home, other = fleet.replicas.values()
    prices = Prices(queued=3.0)
    prices.spared, prices.alike_tokens = 0.75, 8192
    at_home, elsewhere = (cost_terms(r, 8500, o, 0.0, prices, 8192) for r, o in ((home, 8192), (other, 0)))
    assert at_home.miss_s == at_home.prefill_s
    document_s = elsewhere.prefill_s - at_home.prefill_s
    assert elsewhere.miss_s == pytest.approx(at_home.prefill_s + 0.25 * document_s)
    assert at_home.queued_s == 0.0
    assert elsewhere.queued_s == pytest.approx(3.0 * 0.25 * document_s)
    prices.paid = 0.5
    assert cost_terms(other, 8500, 0, 0.0, prices, 8192).queued_s == elsewhere.queued_s
    half_paid_s = cost_terms(other, 8500, 0, 0.0, prices).miss_s
    assert half_paid_s == pytest.approx(at_home.prefill_s + (1.0 - 0.5 * 0.75) * document_s)


def plain(fleet: Fleet) -> tuple[HoldQueue, Offer]:
    queue = HoldQueue(fleet, HoldParameters())

    def offer(shape: RequestShape, records: Records, granted: Granted) -> None:
        answer = queue.offer(shape, records, 0.0, granted)
        if isinstance(answer, Decision):
            granted(answer)

    return queue, offer


def shared(fleet: Fleet) -> tuple[HoldQueue, Offer]:
    shares = Shares()
    queue = AdmissionQueue(fleet, HoldParameters(), QueueParameters(), shares)

    def offer(shape: RequestShape, records: Records, granted: Granted) -> None:
        decision = queue.begin(shape, records, 0.0)
        if decision is not None:
            granted(decision)
        else:
            queue.wait(shape, records, 0.0, granted, DEFAULT, shares.flow(1, 1.0), 1000.0, 100)

    return queue, offer


def played(
    queue_of: Callable[[Fleet], tuple[HoldQueue, Offer]], shapes: list[RequestShape]
) -> tuple[float, Counter[ReplicaId]]:
    """When the last of these, asked at one moment, has its first byte, and how many each of 8 replicas was given."""
    fleet = ready_fleet(8)
    queue, offer = queue_of(fleet)
    registry: dict[FingerprintHash, Record] = {}
    ends: list[tuple[float, int, Decision]] = []
    free_s: dict[ReplicaId, float] = {}
    counts: Counter[ReplicaId] = Counter()
    now_s = 0.0

    def begin(shape: RequestShape, answer: Decision | RouterError) -> None:
        assert isinstance(answer, Decision)
        replica = answer.replica
        assert replica.incarnation is not None
        known = sum(any(h[0] == replica.incarnation for h in registry.get(r, ())) for r in shape.rungs)
        took_s = replica.prefill_s(shape.prompt_tokens, GRID[known - 1] // 4 if known else 0)
        for rung in shape.rungs:
            others = [h for h in registry.get(rung, ()) if h[0] != replica.incarnation]
            registry[rung] = (*others, (replica.incarnation, now_s))
        free_s[replica.id] = max(now_s, free_s.get(replica.id, 0.0)) + took_s
        counts[replica.id] += 1
        heappush(ends, (free_s[replica.id], counts.total(), answer))

    for shape in shapes:
        records: Records = [registry.get(rung) for rung in shape.rungs]
        offer(shape, records, lambda answer, shape=shape: begin(shape, answer))  # type: ignore[misc]
    queue.release(0.0)
    while ends:
        now_s, _, decision = heappop(ends)
        fleet.started(decision, now_s)
        queue.release(now_s, decision.replica)
        fleet.settle(decision, now_s)
        queue.release(now_s)
    assert counts.total() == len(shapes)
    assert len(queue) == 0
    fleet.validate()
    return now_s, counts


@pytest.mark.parametrize("queue_of", [plain, shared])
def test_many_questions_about_one_document_are_answered_by_all_replicas(
    queue_of: Callable[[Fleet], tuple[HoldQueue, Offer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [question(str(number)) for number in range(200)]
    last_s, counts = played(queue_of, shapes)
    assert len(counts) == 8
    assert max(counts.values()) < 2 * 200 / 8
    monkeypatch.setattr(Held, "spare", lambda *_: None)
    alone_s, alone = played(queue_of, shapes)
    assert len(alone) < 4, "where the price counts whole, they wait for one beside idle ones"
    assert last_s < 0.5 * alone_s


@pytest.mark.parametrize("queue_of", [plain, shared])
def test_many_samples_of_one_prompt_are_computed_once(
    queue_of: Callable[[Fleet], tuple[HoldQueue, Offer]],
) -> None:
    """A copy would be ready no sooner than the first is, and keep its replica from whoever comes next."""
    once_s, _ = played(queue_of, [question("one")])
    last_s, counts = played(queue_of, [question("one") for _ in range(16)])
    assert len(counts) == 1
    assert last_s < 1.2 * once_s
