"""Batches and writes over pretended servers, under a clock and a loop of the test's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hiredis

from warmroute.adapters.registry.redis.batch import Lookups
from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.registry.redis.queue import Write
from warmroute.adapters.registry.redis.writes import Writes
from warmroute.adapters.resp.breaker import Breaker
from warmroute.core.types import FingerprintHash, Incarnation, Record, Records

COMMANDS = Commands("w", b"")


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Runs callbacks when the test says that time has passed."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.due: list[tuple[float, Callable[..., None], tuple[Any, ...], Timer]] = []
        self.failures: list[dict[str, Any]] = []

    def call_soon(self, callback: Callable[..., None], *words: Any) -> Timer:
        return self.call_later(0.0, callback, *words)

    def call_later(self, delay_s: float, callback: Callable[..., None], *words: Any) -> Timer:
        timer = Timer()
        self.due.append((self.now_s + delay_s, callback, words, timer))
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def run(self, until_s: float = 0.0) -> None:
        """Run what falls due within so many seconds."""
        end_s = self.now_s + until_s
        while ready := [entry for entry in self.due if entry[0] <= end_s + 1e-9]:
            first = min(ready, key=lambda entry: entry[0])
            self.due.remove(first)
            self.now_s = max(self.now_s, first[0])
            if not first[3].cancelled:
                first[1](*first[2])
        self.now_s = end_s

    def stall(self, seconds: float) -> None:
        """Time passes, nothing runs: this process was busy."""
        self.now_s += seconds


class Server:
    """A pipe whose replies the test gives."""

    def __init__(self) -> None:
        self.open = True
        self.breaker = Breaker()
        self.asked: list[tuple[Any, int, Callable[[Any], None]]] = []

    def send(self, data: bytes, count: int, on_replies: Callable[[Any], None]) -> None:
        reader = hiredis.Reader()
        reader.feed(data)
        commands = []
        while (command := reader.gets()) is not False:
            commands.append(command)
        self.asked.append((commands, count, on_replies))

    def reply(self, *replies: Any) -> None:
        _, count, on_replies = self.asked.pop(0)
        assert count == len(replies)
        on_replies(list(replies))

    def close(self) -> None:
        self.open = False
        while self.asked:
            self.asked.pop(0)[2](None)


class Servers:
    """Stands for `Nodes`: one server, or two that keep even and odd rungs."""

    def __init__(self, *pipes: Server) -> None:
        self.pipes = list(pipes)

    @property
    def single(self) -> Server | None:
        return self.pipes[0] if len(self.pipes) == 1 else None

    def keeper(self, key: bytes) -> Server | None:
        pipe = self.pipes[key[-1] % len(self.pipes)]
        return pipe if pipe.open else None


def fingerprints(*numbers: int) -> list[FingerprintHash]:
    return [FingerprintHash(number) for number in numbers]


LOCAL: Record = ((Incarnation(1), 1.0),)
SHARED: Record = ((Incarnation(2), 2.0),)


class Reading:
    """Lookups with pretended servers; answers are `shared`, `local` or `nobody` per rung."""

    def __init__(self, *servers: Server) -> None:
        self.loop = Loop()
        self.servers = servers
        self.moved = 0
        self.slow: list[bool] = []
        self.answers: list[list[str]] = []
        self.lookups = Lookups(
            COMMANDS,
            0.005,
            lambda rungs, raws: [LOCAL if raw == b"" else SHARED if raw else None for raw in raws],
            lambda rungs: [LOCAL] * len(rungs),
            self._on_moved,
            self.slow.append,
            clock=lambda: self.loop.now_s,
        )
        nodes: Any = Servers(*servers) if servers else None
        loop: Any = self.loop
        self.lookups.nodes = nodes
        self.lookups.start(loop)

    def _on_moved(self) -> None:
        self.moved += 1

    def ask(self, *numbers: int) -> None:
        names = {id(LOCAL): "local", id(SHARED): "shared"}

        def done(records: Records) -> None:
            self.answers.append([names.get(id(record), "nobody") for record in records])

        self.lookups.ask(fingerprints(*numbers), done)


def test_lookups_of_one_tick_are_one_command() -> None:
    server = Server()
    reading = Reading(server)
    reading.ask(1, 2)
    reading.ask(3)
    reading.loop.run()
    assert len(server.asked) == 1
    assert len(server.asked[0][0][0]) == 1 + 3
    server.reply([b"x", None, b"x"])
    assert reading.answers == [["shared", "nobody"], ["shared"]]


def test_the_next_ticks_lookups_do_not_wait_for_the_first_ones_replies() -> None:
    server = Server()
    reading = Reading(server)
    for number in (1, 2):
        reading.ask(number)
        reading.loop.run()
    assert len(server.asked) == 2
    server.reply([b"x"])
    server.reply([None])
    assert reading.answers == [["shared"], ["nobody"]]


def test_past_the_deadline_the_answer_is_local_and_the_late_reply_is_nobodys() -> None:
    server = Server()
    reading = Reading(server)
    reading.ask(1)
    reading.loop.run(0.0049)
    assert reading.answers == []
    reading.loop.run(0.0012)
    assert reading.answers == [["local"]]
    reading.ask(2)
    reading.loop.run()
    server.reply([b"x"])
    assert reading.answers == [["local"]]
    server.reply([b"x"])
    assert reading.answers == [["local"], ["shared"]]
    assert reading.lookups.timeouts == 1


def test_a_busy_process_reads_what_has_come_before_it_gives_up() -> None:
    server = Server()
    reading = Reading(server)
    reading.ask(1)
    reading.loop.run()
    reading.loop.stall(0.05)
    reading.loop.run()
    assert reading.answers == []
    server.reply([b"x"])
    reading.loop.run(0.01)
    assert reading.answers == [["shared"]]
    assert reading.lookups.timeouts == 0


def test_a_slow_server_is_not_waited_for_until_it_is_seen_to_answer_in_time() -> None:
    server = Server()
    reading = Reading(server)
    for _ in range(20):
        reading.ask(1)
        reading.loop.run(0.001)
    reading.loop.run(0.01)
    assert reading.slow == [], "twenty deadlines missed in 30 ms are one slow command"
    for _ in range(10):
        reading.ask(1, 2, 3)
        reading.loop.run(0.01)
    assert reading.slow == [True]
    assert reading.answers == [["local"]] * 20 + [["local"] * 3] * 10
    while server.asked:
        server.reply([b"x"] * (len(server.asked[0][0][0]) - 1))
    assert server.breaker.open, "late answers open nothing"
    assert reading.lookups.pointless()
    reading.ask(1)
    reading.loop.run()
    assert not server.asked
    assert reading.answers[-1] == ["local"]
    for late in (True, False, False, True, False, False, False):
        assert server.breaker.open
        reading.loop.run(0.1)
        assert len(server.asked) == 1
        reading.loop.run(0.006 if late else 0.004)
        server.reply([b"x"] * (len(server.asked[0][0][0]) - 1))
    assert reading.slow == [True, False]
    assert not reading.lookups.pointless()
    reading.ask(1)
    reading.loop.run()
    server.reply([b"x"])
    assert reading.answers[-1] == ["shared"]
    reading.loop.run(0.5)
    assert not server.asked
    assert server.open


def test_answers_late_now_and_then_open_no_breaker() -> None:
    server = Server()
    reading = Reading(server)
    for number in range(60):
        reading.ask(1)
        reading.loop.run(0.01 if number % 2 else 0.001)
        server.reply([b"x"])
    assert reading.lookups.timeouts == 30
    assert reading.slow == []


def test_in_a_cluster_a_slow_server_and_one_that_is_down_cost_only_their_own_rungs() -> None:
    even, odd = Server(), Server()
    reading = Reading(even, odd)
    for _ in range(10):
        reading.ask(1, 2)
        reading.loop.run()
        even.reply(b"x")
        if odd.asked:
            odd.reply(hiredis.ReplyError("CLUSTERDOWN The cluster is down"))
        reading.loop.run(0.01)
    assert reading.slow == [True]
    assert odd.breaker.open
    assert not even.breaker.open
    assert reading.moved > 4
    reading.ask(1, 2, 3)
    reading.loop.run()
    even.reply(b"x")
    assert reading.answers == [["local", "shared"]] * 10 + [["local", "shared", "local"]]
    for trial in range(5):
        reading.loop.run(0.1)
        assert len(odd.asked) == 1
        odd.reply(hiredis.ReplyError("CLUSTERDOWN The cluster is down") if trial < 2 else None)
    assert reading.slow == [True, False]


def test_in_a_cluster_a_value_of_another_type_is_nobody() -> None:
    even, odd = Server(), Server()
    reading = Reading(even, odd)
    reading.ask(1, 2)
    reading.loop.run()
    odd.reply(hiredis.ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value"))
    even.reply(b"x")
    assert reading.answers == [["nobody", "shared"]]
    assert odd.open
    assert reading.lookups.errors == 1


def test_a_refusal_is_answered_locally_and_ends_the_connection() -> None:
    server = Server()
    reading = Reading(server)
    reading.ask(1)
    reading.loop.run()
    server.reply(hiredis.ReplyError("LOADING Redis is loading the dataset in memory"))
    assert reading.answers == [["local"]]
    assert not server.open
    assert reading.lookups.errors == 1


def test_a_lost_connection_answers_everybody_at_once() -> None:
    server = Server()
    reading = Reading(server)
    for number in range(3):
        reading.ask(number)
        reading.loop.run()
    server.close()
    assert reading.answers == [["local"]] * 3


def test_without_servers_and_after_a_stop_the_answer_is_local() -> None:
    reading = Reading()
    reading.ask(1)
    reading.loop.run()
    assert reading.answers == [["local"]]
    server = Server()
    reading = Reading(server)
    reading.ask(1)
    reading.loop.run()
    reading.ask(2)
    reading.lookups.stop()
    reading.loop.run(0.1)
    server.reply([b"x"])
    assert reading.answers == [["local"], ["local"]]


def test_in_a_cluster_each_server_answers_for_its_own_rungs_in_any_order() -> None:
    even, odd = Server(), Server()
    reading = Reading(even, odd)
    reading.ask(1, 2, 3)
    reading.ask(4)
    reading.loop.run()
    odd.reply(b"x", None)
    assert reading.answers == []
    even.reply(b"x", b"x")
    assert reading.answers == [["shared", "shared", "nobody"], ["shared"]]


def test_in_a_cluster_a_silent_server_costs_only_its_own_rungs() -> None:
    even, odd = Server(), Server()
    reading = Reading(even, odd)
    reading.ask(1, 2)
    reading.loop.run()
    even.reply(b"x")
    reading.loop.run(0.01)
    assert reading.answers == [["local", "shared"]]
    odd.close()
    reading.ask(1, 2)
    reading.loop.run()
    even.reply(b"x")
    assert reading.answers[1:] == [["local", "shared"]]


def test_in_a_cluster_a_moved_rung_is_answered_locally_and_reported() -> None:
    even, odd = Server(), Server()
    reading = Reading(even, odd)
    reading.ask(1, 2)
    reading.loop.run()
    odd.reply(hiredis.ReplyError("MOVED 1 127.0.0.1:2"))
    even.reply(b"x")
    assert reading.answers == [["local", "shared"]]
    assert reading.moved == 1
    assert odd.open


class Writing:
    """Writes to pretended servers."""

    def __init__(self, *servers: Server) -> None:
        self.loop = Loop()
        self.lost: list[float] = []
        self.withdrawn: list[tuple[list[int], int]] = []
        self.moved = 0
        self.writes = Writes(
            COMMANDS,
            1800.0,
            on_lost=self.lost.append,
            on_withdrawn=lambda rungs, life: self.withdrawn.append((list(rungs), life)),
            on_moved=self._on_moved,
        )
        loop: Any = self.loop
        self.writes.start(loop)
        self.use(*servers)

    def _on_moved(self) -> None:
        self.moved += 1

    def use(self, *servers: Server) -> None:
        nodes: Any = Servers(*servers) if servers else None
        self.writes.use(nodes)

    def note(self, life: int, at_s: float, *numbers: int) -> None:
        self.writes.add(Write(fingerprints(*numbers), Incarnation(life), at_s))

    def withdraw(self, life: int, *numbers: int) -> None:
        self.writes.add(Write(fingerprints(*numbers), Incarnation(life), None))


def told(server: Server) -> list[tuple[list[int], int]]:
    """Rungs and incarnation of each command of the oldest exchange."""
    found = []
    for command in server.asked[0][0]:
        count = int(command[2])
        rungs = [int.from_bytes(key[-8:], "big") for key in command[3 : 3 + count]]
        found.append((rungs, int.from_bytes(command[3 + count][:6], "big")))
    return found


def test_notes_of_a_few_milliseconds_are_one_exchange_one_command_an_incarnation() -> None:
    server = Server()
    writing = Writing(server)
    writing.note(7, 1e9, 1, 2)
    writing.note(8, 1e9, 2)
    writing.note(7, 1e9 + 0.01, 2, 3)
    assert writing.writes.unwritten_s() == 1e9
    writing.loop.run(0.0045)
    assert told(server) == [([2], 8), ([1, 2, 3], 7)]
    assert writing.writes.unwritten_s() == 1e9
    server.reply(1, 3)
    assert writing.writes.unwritten_s() == math.inf


def test_notes_of_different_times_keep_their_times() -> None:
    server = Server()
    writing = Writing(server)
    writing.note(7, 1e9, 1)
    writing.note(7, 1e9 + 60, 2)
    writing.loop.run(0.01)
    assert told(server) == [([1], 7), ([2], 7)]


def test_a_withdrawal_keeps_its_place_between_notes() -> None:
    server = Server()
    writing = Writing(server)
    writing.note(7, 1e9, 1)
    writing.withdraw(7, 1)
    writing.note(7, 1e9, 1)
    writing.loop.run(0.01)
    assert [(rungs, life) for rungs, life in told(server)] == [([1], 7)] * 3
    assert [len(command[4]) for command in server.asked[0][0]] == [10, 6, 10]
    server.reply(1, 1, 1)
    assert writing.withdrawn == [([1], 7)]


def test_what_waits_is_bounded_the_oldest_goes_first_and_is_reported() -> None:
    writing = Writing(Server())
    for number in range(1_000):
        writing.note(7, 1e9 + number, *range(number * 100, number * 100 + 100))
    assert writing.writes.pending_rungs <= 65_536
    assert writing.writes.dropped >= 100_000 - 65_536
    assert writing.lost[0] == 1e9


def test_a_flood_is_written_in_portions() -> None:
    server = Server()
    writing = Writing(server)
    for number in range(50):
        writing.note(7, 1e9, *range(number * 100, number * 100 + 100))
    writing.loop.run(0.004)
    assert sum(len(rungs) for rungs, _ in told(server)) <= 600
    assert max(len(rungs) for rungs, _ in told(server)) <= 128
    for _ in range(100):
        while server.asked:
            server.reply(*[1] * server.asked[0][1])
        writing.loop.run(0.004)
    assert writing.writes.pending_rungs == 0
    assert writing.lost == []


def test_a_server_that_does_not_answer_gets_no_more_than_a_few_exchanges() -> None:
    server = Server()
    writing = Writing(server)
    for number in range(200):
        writing.note(7, 1e9, number)
        writing.loop.run(0.005)
    assert len(server.asked) == 8
    assert writing.writes.pending_rungs == 192


def test_a_forgotten_script_is_taught_again_and_the_write_repeated_once() -> None:
    server = Server()
    writing = Writing(server)
    writing.note(7, 1e9, 1)
    writing.loop.run(0.01)
    server.reply(hiredis.ReplyError("NOSCRIPT No matching script"))
    assert server.asked[0][0] == [[b"SCRIPT", b"LOAD", b""]]
    server.reply(b"sha")
    assert told(server) == [([1], 7)]
    server.reply(hiredis.ReplyError("NOSCRIPT No matching script"))
    assert server.asked == []
    assert writing.lost == [1e9]


def test_a_moved_note_waits_for_the_new_servers() -> None:
    even, odd = Server(), Server()
    writing = Writing(even, odd)
    writing.note(7, 1e9, 1, 2)
    writing.loop.run(0.01)
    even.reply(1)
    odd.reply(hiredis.ReplyError("MOVED 1 127.0.0.1:2"))
    assert writing.moved == 1
    writing.loop.run(0.1)
    assert odd.asked == []
    assert writing.writes.unwritten_s() == 1e9
    writing.use(even)
    writing.loop.run(0.01)
    assert told(even) == [([1], 7)]
    assert writing.lost == []


def test_what_a_cluster_that_is_down_refuses_is_bounded_and_written_when_it_is_up() -> None:
    even, odd = Server(), Server()
    writing = Writing(even, odd)
    for number in range(700):
        writing.note(7, 1e9 + number, *range(number * 100, number * 100 + 100))
        writing.loop.run(0.005)
        for server in (even, odd):
            while server.asked:
                server.reply(*[hiredis.ReplyError("CLUSTERDOWN The cluster is down")] * server.asked[0][1])
    assert writing.writes.pending_rungs == 65_536
    assert writing.writes.dropped == 70_000 - 65_536
    assert writing.lost == [1e9 + lost // 100 for lost in range(70_000 - 65_536)], "the oldest go first"
    assert writing.writes.unwritten_s() == 1e9 + 44
    writing.note(8, 2e9, 1)
    writing.use(even)
    written: list[tuple[list[int], int]] = []
    for _ in range(200):
        writing.loop.run(0.005)
        while even.asked:
            written += told(even)
            even.reply(*[1] * even.asked[0][1])
    assert len(written) == 65_536
    assert written[-1] == ([1], 8), "in the order in which they were made"
    assert writing.writes.pending_rungs == 0
    assert writing.writes.unwritten_s() == math.inf


def test_a_lost_connection_reports_what_was_not_confirmed_and_what_waited() -> None:
    server = Server()
    writing = Writing(server)
    writing.note(7, 1e9, 1)
    writing.loop.run(0.01)
    writing.note(7, 2e9, 2)
    writing.withdraw(7, 3)
    server.close()
    writing.use()
    assert writing.lost == [1e9, 2e9]
    assert writing.withdrawn == [([3], 7)]
    assert writing.writes.unwritten_s() == math.inf


def test_a_demoted_primary_is_left() -> None:
    server = Server()
    writing = Writing(server)
    writing.note(7, 1e9, 1)
    writing.loop.run(0.01)
    server.reply(hiredis.ReplyError("READONLY You can't write against a read only replica."))
    assert not server.open
    assert writing.lost == [1e9]


def test_a_changed_idle_time_is_the_lifetime_of_what_is_noted_from_then_on() -> None:
    server = Server()
    writing = Writing(server)
    lifetimes = []
    for idle_s in (None, 3600.0, 30.0, 400.0):
        if idle_s is not None:
            writing.writes.expire_after(idle_s)
        writing.note(7, 1e9, 1)
        writing.loop.run(0.01)
        lifetimes.append(int(server.asked[0][0][0][-1]))
        server.reply(1)
    assert lifetimes == [1_800_000, 3_600_000, 30_000, 400_000]
