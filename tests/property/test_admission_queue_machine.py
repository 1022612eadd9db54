"""The fleet's queue under anything that may happen: everybody is answered once, and nothing is left behind."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, ProbeSucceeded
from warmroute.core.holding.admission_queue import AdmissionQueue
from warmroute.core.holding.line import Claim
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.shares import Shares
from warmroute.core.types import FingerprintHash, Incarnation, RequestShape

asks = st.tuples(
    st.just("ask"),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(0, 12_000),
    st.floats(0.05, 20.0),
    st.booleans(),
)
others = st.tuples(st.sampled_from(["start", "end", "leave", "wait"]), st.integers(0, 50))
steps = st.lists(st.one_of(asks, others), min_size=5, max_size=60)


@settings(max_examples=60)
@given(steps)
def test_everybody_is_answered_once_in_time_and_nothing_is_left_behind(
    todo: list[tuple[object, ...]],
) -> None:
    fleet = ready_fleet(2)
    first, second = fleet.replicas.values()
    fleet.apply(ProbeSucceeded(first.id, Incarnation(1), ["m", "n"], 16, None, 0.0))
    shares = Shares()
    queue = AdmissionQueue(
        fleet, HoldParameters(max_held=6), QueueParameters(max_bytes=9000, max_under_way=5), shares
    )
    now_s = 1000.0
    answers: dict[int, list[Decision | RouterError]] = {}
    claims: dict[int, Claim] = {}
    left: set[int] = set()
    running: list[Decision] = []
    started: list[Decision] = []

    def release() -> None:
        pause_s = queue.release(now_s)
        assert (pause_s is None) == (len(queue) == 0)
        queue.line.validate()
        waiting = {claim.shape.model for claim in queue.line.claims()}
        for model, replicas in (("m", (first, second)), ("n", (first,))):
            if model in waiting and not all(replica.in_flight for replica in replicas):
                assert any(replica.awaited_tokens > 0 for replica in replicas), (
                    "one is idle, and none worth waiting for"
                )
        for number, claim in claims.items():
            if claim.open:
                assert answers[number] == []
                assert claim.deadline_s > now_s

    def answered(number: int, answer: Decision | RouterError) -> None:
        answers[number].append(answer)
        if isinstance(answer, Decision):
            running.append(answer)

    for number, step in enumerate(todo):
        what = step[0]
        if what == "ask":
            _, level, tenant, tokens, timeout_s, streams = step
            assert isinstance(tokens, int)
            rungs = [FingerprintHash(depth + 1) for depth in range(min(tokens // 128, 5))]
            model = "n" if tokens % 4 == 0 else "m"
            shape = RequestShape(model, rungs, tokens * 4, tokens, 1, 1, bool(streams))
            answers[number] = []
            decision = queue.begin(shape, [None] * len(rungs), now_s)
            if decision is not None:
                running.append(decision)
                answers[number].append(decision)
                continue
            try:
                claims[number] = queue.wait(
                    shape,
                    [None] * len(rungs),
                    now_s,
                    lambda answer, number=number: answered(number, answer),  # type: ignore[misc]
                    level,  # type: ignore[arg-type]
                    shares.flow(tenant, 1.0),  # type: ignore[arg-type]
                    timeout_s,  # type: ignore[arg-type]
                    tokens,
                )
            except RouterError as error:
                answers[number].append(error)
        elif what == "start" and running:
            decision = running.pop(0)
            fleet.started(decision, now_s)
            started.append(decision)
        elif what == "end" and started:
            fleet.settle(started.pop(0), now_s)
        elif what == "leave" and claims:
            number = sorted(claims)[step[1] % len(claims)]  # type: ignore[operator]
            if claims[number].open:
                left.add(number)
                queue.withdraw(claims[number])
        elif what == "wait":
            now_s += step[1] / 10  # type: ignore[operator]
        release()
    for _ in range(400):
        now_s += 0.1
        for decision in running:
            fleet.started(decision, now_s)
            fleet.settle(decision, now_s + 0.01)
        running.clear()
        for decision in started:
            fleet.settle(decision, now_s)
        started.clear()
        release()
    assert len(queue) == 0
    assert queue.line.body_bytes == 0
    assert not fleet.held.by_model
    assert not fleet.held.by_rung
    fleet.validate()
    for number, got in answers.items():
        assert len(got) == (0 if number in left else 1)
