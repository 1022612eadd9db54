"""Every seed of the fuzzed parsers, and a few mutations of each: the small part of `make fuzz` that always runs."""

from __future__ import annotations

import pytest

from tests.fuzz.mutator import mutated, seeds
from tests.fuzz.targets import TARGETS

MUTATIONS = {"requests": 100}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_mutations_hold(name: str) -> None:
    corpus = seeds(name)
    assert corpus
    for data in corpus:
        TARGETS[name](data)
    for number in range(MUTATIONS.get(name, 500)):
        data = mutated(corpus, number)
        try:
            TARGETS[name](data)
        except Exception as error:
            error.add_note(f"{name} {number}: {data!r}")
            raise


def test_a_number_gives_the_same_input_again() -> None:
    corpus = seeds("dialects")
    assert [mutated(corpus, number) for number in range(50)] == [
        mutated(corpus, number) for number in range(50)
    ]
