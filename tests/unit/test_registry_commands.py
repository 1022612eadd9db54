"""Commands as bytes, read back with an independent parser."""

from __future__ import annotations

import random
from importlib import resources
from typing import Any

import hiredis
import pytest
import redis.crc
from hypothesis import given
from hypothesis import strategies as st

from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.resp.commands import key_slot, pack
from warmroute.core.types import FingerprintHash, Incarnation

COMMANDS = Commands("w", b"return 1")
rungs = st.lists(st.integers(0, 2**64 - 1).map(FingerprintHash), min_size=1, max_size=600)


def words(data: bytes) -> list[Any]:
    reader = hiredis.Reader()
    reader.feed(data)
    commands = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    assert not reader.has_data()
    return commands


def key(rung: int) -> bytes:
    return b"w:" + rung.to_bytes(8, "big")


@given(rungs)
def test_reads_name_the_keys_in_order(asked: list[FingerprintHash]) -> None:
    assert words(COMMANDS.mget(asked)) == [[b"MGET", *map(key, asked)]]
    assert words(COMMANDS.gets(asked)) == [[b"GET", key(rung)] for rung in asked]


@given(rungs)
def test_writes_name_the_script_the_keys_and_the_holder(asked: list[FingerprintHash]) -> None:
    count = str(len(asked)).encode()
    (note,) = words(COMMANDS.note(asked, Incarnation(0xABC), 1_767_225_601.0, 1_800_000))
    assert note[:3] == [b"EVALSHA", COMMANDS.sha, count]
    assert note[3:-2] == list(map(key, asked))
    assert note[-2:] == [bytes.fromhex("000000000abc0000000a"), b"1800000"]
    (withdraw,) = words(COMMANDS.withdraw(asked, Incarnation(0xABC)))
    assert withdraw == [
        b"EVALSHA",
        COMMANDS.sha,
        count,
        *map(key, asked),
        bytes.fromhex("000000000abc"),
        b"\xff" * 4,
    ]
    (withdraw,) = words(COMMANDS.withdraw(asked, Incarnation(0xABC), 1_767_225_601.0))
    assert withdraw[-1] == bytes.fromhex("0000000a")


def test_the_keys_of_one_namespace_never_meet_and_the_prefix_can_have_any_length() -> None:
    commands = Commands("staging-eu:2", b"")
    assert words(commands.mget([FingerprintHash(1)])) == [
        [b"MGET", b"staging-eu:2:\x00\x00\x00\x00\x00\x00\x00\x01"]
    ]
    lengths = {
        len(commands.secret_key),
        len(commands.rung_key(FingerprintHash(1))),
        len(commands.response_key(b"x" * 16)),
    }
    assert len(lengths) == 3


@given(st.binary(max_size=24))
def test_slots_are_those_of_redis(name: bytes) -> None:
    assert key_slot(name) == redis.crc.key_slot(name)


@pytest.mark.parametrize("name", [b"w:{a}b", b"w:{}ab", b"w:}a{b", b"w:a{b", b"w:{a}{b}", b"w:{{a}}"])
def test_braces_that_a_hash_holds_by_chance_count_as_redis_counts_them(name: bytes) -> None:
    assert key_slot(name) == redis.crc.key_slot(name)


def test_any_command_can_be_packed() -> None:
    assert words(pack("SET", b"k\r\n", 5)) == [[b"SET", b"k\r\n", b"5"]]


def test_the_script_that_is_shipped_is_found() -> None:
    script = resources.files("warmroute.adapters.registry.redis").joinpath("merge.lua").read_bytes()
    assert len(Commands("w", script).sha) == 40
    assert words(Commands("w", script).load_script()) == [[b"SCRIPT", b"LOAD", script]]


def test_packing_keys_keeps_a_bounded_number_of_packers() -> None:
    commands, rng = Commands("w", b""), random.Random(1)
    for count in range(1, 1500, 7):
        commands.mget([FingerprintHash(rng.getrandbits(64)) for _ in range(count)])
    assert len(commands._packers) <= 256
