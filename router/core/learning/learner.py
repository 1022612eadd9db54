"""What is believed of replicas and models: estimates, weighed against each other.

Decides how far a replica is taken to differ from the others that serve the same models: not at all until
`LEAST_STRETCHES` are known, hardly while the difference is within what chance makes, fully where it is far beyond. So
equals stay equal (their order is the ring's business, not noise's), a new replica is believed to be like its fellows,
and one of twice or half their speed is found by its first few stretches.

The rule it keeps: `answered` is on the request path and does next to nothing; `believe` does the arithmetic, once a
second. At most `MAX_MODELS` models are remembered, and only such as the fleet serves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import exp, log
from typing import Final

from router.core.learning.answers import ModelAnswers
from router.core.replica import Decision, Replica
from router.core.types import RequestShape

LEAST_STRETCHES: Final = 2.9
"""Three whole ones, or more that count less. A single one may be a stall; of three, the one that is not like the others
counts little."""

CHANCE_RATIO: Final = 0.08
"""Difference between replicas' speeds that is taken for chance however sure the estimates are."""

BASE_CHANCE_RATIO: Final = 0.5
"""The same for base latency and interference, which are made of few milliseconds each."""

LEAST_CHANGE_RATIO: Final = 0.01
"""Smaller changes are not passed on."""

MAX_FITS: Final = 32
"""Estimates renewed at one call: a third of a millisecond."""

MAX_MODELS: Final = 256


@dataclass(frozen=True, slots=True)
class LearningParameters:
    """Priors of models, and bounds."""

    bytes_per_token: float = 4.0
    answer_tokens: float = 250.0
    most_ratio: float = 16.0
    """How many times larger or smaller than its prior a figure may become."""

    def __post_init__(self) -> None:
        if not self.bytes_per_token > 0 or not self.answer_tokens > 0:
            raise ValueError("bytes_per_token and answer_tokens must be positive")
        if not self.most_ratio >= 1:
            raise ValueError(f"most_ratio must be at least 1, got {self.most_ratio}")


class Learner:
    """Of one fleet. Not thread-safe."""

    def __init__(self, parameters: LearningParameters) -> None:
        self._parameters = parameters
        self.most_ratio = parameters.most_ratio
        self._due: dict[Replica, None] = {}
        """Estimates to renew, longest due first."""
        self.models: dict[str, ModelAnswers] = {}
        """Of models with at least one reported answer."""

    def bytes_per_token(self, model: str) -> float:
        """Prompt bytes that make a token, as far as known."""
        answers = self.models.get(model)
        return self._parameters.bytes_per_token if answers is None else answers.bytes_per_token.value

    def answered(
        self,
        decision: Decision,
        shape: RequestShape,
        served: Collection[str],
        prompt_tokens: int,
        cached_tokens: int | None,
        output_tokens: int | None,
    ) -> None:
        """An answer is over.

        Args:
            served: The models that may be remembered.
            prompt_tokens: As reported; 0 where not.
        """
        if prompt_tokens > 0 and output_tokens is not None:
            self._reported(shape, served, prompt_tokens, output_tokens)
        stretch = decision.stretch
        if stretch is None or prompt_tokens <= 0 or cached_tokens is None:
            return
        decision.stretch = None
        replica = decision.replica
        predicted_tokens = decision.predicted_tokens
        uncached_tokens = decision.uncached_tokens
        if cached_tokens >= prompt_tokens:
            cached_tokens = prompt_tokens - 1
        was_obscure = stretch.obscure > 0
        stretch.report(
            predicted_tokens,
            uncached_tokens,
            replica.work_tokens(prompt_tokens, cached_tokens)
            - replica.work_tokens(predicted_tokens + uncached_tokens, predicted_tokens),
        )
        if not stretch.closed:
            return
        if not was_obscure:
            replica.speed.fresh = True
        elif stretch.obscure == 0:
            replica.speed.observe(stretch)

    def rows(self) -> list[dict[str, object]]:
        """One row a model, for `/replicas`."""
        return [{"model": name, **answers.as_row()} for name, answers in self.models.items()]

    def _reported(
        self, shape: RequestShape, served: Collection[str], prompt_tokens: int, output_tokens: int
    ) -> None:
        model = self.models.get(shape.model)
        if model is None:
            if shape.model not in served:
                return
            if len(self.models) >= MAX_MODELS:
                self.models = {name: known for name, known in self.models.items() if name in served}
                if len(self.models) >= MAX_MODELS:
                    return
            parameters = self._parameters
            model = self.models[shape.model] = ModelAnswers(
                parameters.bytes_per_token, parameters.answer_tokens
            )
        model.answered(0 if shape.tokens_known else shape.prompt_bytes, prompt_tokens, output_tokens)

    def believe(self, replicas: Collection[Replica]) -> None:
        """Renew estimates from what came in, and pass on what follows from them to all replicas."""
        due = self._due
        for replica in replicas:
            if replica.speed.fresh:
                due[replica] = None
        if not due:
            return
        for replica in list(due)[:MAX_FITS]:
            del due[replica]
            replica.speed.fit()
        fellows: dict[frozenset[str], list[Replica]] = {}
        for replica in replicas:
            fellows.setdefault(replica.models, []).append(replica)
        for group in fellows.values():
            _weigh(group)


def _weigh(group: list[Replica]) -> None:
    """Set what is believed of replicas that serve the same models."""
    known = [replica.speed for replica in group if replica.speed.counted >= LEAST_STRETCHES]
    if not known:
        return
    token_s = _median([speed.token_s for speed in known])
    base_s = _median([speed.base_s for speed in known])
    interference_s = _median([speed.interference_s for speed in known])
    for replica in group:
        speed = replica.speed
        if speed.counted < LEAST_STRETCHES:
            if 2 * len(known) < len(group):
                continue  # the first to be known are not yet what is common
            replica.change_rates(token_s, base_s, interference_s, LEAST_CHANGE_RATIO)
        else:
            error = 2.0 * speed.error_ratio
            replica.change_rates(
                _between(token_s, speed.token_s, CHANCE_RATIO * CHANCE_RATIO + error * error),
                _between(base_s, speed.base_s, BASE_CHANCE_RATIO * BASE_CHANCE_RATIO),
                _between(interference_s, speed.interference_s, BASE_CHANCE_RATIO * BASE_CHANCE_RATIO),
                LEAST_CHANGE_RATIO,
            )


def _between(common: float, own: float, chance: float) -> float:
    """The common figure, moved to the own one as far as their difference (of logarithms) is more than chance.

    Args:
        chance: Square of the difference that moves half way.
    """
    if common <= 0.0 or own <= 0.0:
        return common
    difference = log(own / common)
    squared = difference * difference
    return common * exp(difference * squared / (squared + chance))


def _median(values: list[float]) -> float:
    values.sort()
    half = len(values) // 2
    return values[half] if len(values) % 2 else 0.5 * (values[half - 1] + values[half])
