"""What a model's answers tell: bytes per token and tokens per answer."""

from __future__ import annotations

import random

import pytest

from warmroute.core.learning.answers import ModelAnswers


def test_bytes_per_token_follow_reports_within_a_few_answers() -> None:
    model = ModelAnswers(4.0, 250.0)
    assert model.bytes_per_token.confidence == 0.0
    model.answered(20_000, 10_000, 100)
    # The prior is worth two endless prompts, this one is worth ten elevenths of one.
    assert model.bytes_per_token.value == pytest.approx((2 * 4.0 + 10 / 11 * 2.0) / (2 + 10 / 11), rel=0.01)
    for _ in range(20):
        model.answered(20_000, 10_000, 100)
    assert model.bytes_per_token.value == pytest.approx(2.0, rel=0.1)
    assert model.bytes_per_token.confidence > 0.7


def test_one_prompt_of_images_moves_the_ratio_a_little_only() -> None:
    model = ModelAnswers(4.0, 250.0)
    for _ in range(50):
        model.answered(4000, 1000, 100)
    model.answered(1000, 100_000, 100)
    assert model.bytes_per_token.value == pytest.approx(4.0, rel=0.25)
    for _ in range(10):
        model.answered(4000, 1000, 100)
    assert model.bytes_per_token.value == pytest.approx(4.0, rel=0.2)


def test_prompts_of_token_ids_tell_nothing_of_bytes() -> None:
    model = ModelAnswers(4.0, 250.0)
    model.answered(0, 1000, 100)
    assert model.bytes_per_token.value == 4.0
    assert model.bytes_per_token.answers == 0
    assert model.answer_tokens.answers == 1


def test_answer_lengths_are_a_mean_that_forgets() -> None:
    rng = random.Random(1)
    model = ModelAnswers(4.0, 250.0)
    for _ in range(400):
        model.answered(4000, 1000, rng.randrange(50, 150))
    assert model.answer_tokens.value == pytest.approx(100, rel=0.1)
    assert model.answer_tokens.confidence > 0.8
    for _ in range(1000):
        model.answered(4000, 1000, 800)
    assert model.answer_tokens.value == pytest.approx(800, rel=0.05)


def test_confidence_is_lower_where_answers_differ_more() -> None:
    rng = random.Random(1)
    even, uneven = ModelAnswers(4.0, 250.0), ModelAnswers(4.0, 250.0)
    for _ in range(20):
        even.answered(4000, 1000, 100)
        uneven.answered(4000, 1000, int(rng.lognormvariate(4.0, 1.5)))
    assert even.answer_tokens.confidence > uneven.answer_tokens.confidence
