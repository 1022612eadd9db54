"""The rules over all pairs of tests/bench/response_cache.py: nearly no near miss passes, and enough paraphrases do."""

from __future__ import annotations

from collections import Counter

from tests.bench.response_cache_pairs import EACH, by_template, made, pairs
from warmroute.caching.agreement import differ, facts_of

TRAPS = ("numbers", "negations", "names", "units", "dates")


def test_the_file_is_what_the_templates_make() -> None:
    assert by_template() == made()
    assert Counter(pair.kind for pair in by_template()) == dict.fromkeys(("paraphrase", *TRAPS), EACH)


def test_of_near_misses_at_most_one_in_five_hundred_passes_and_of_paraphrases_a_third() -> None:
    passed: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for pair in pairs():
        kind = f"{pair.kind} {pair.source}" if pair.same else "trap"
        there[kind] += 1
        passed[kind] += not differ(facts_of(pair.one), facts_of(pair.other))
    assert there["trap"] > 1000
    assert passed["trap"] <= there["trap"] / 500
    assert passed["paraphrase hand"] >= there["paraphrase hand"] / 3
    assert passed["paraphrase template"] >= there["paraphrase template"] / 3
