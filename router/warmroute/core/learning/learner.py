"""The learner weighs what it has estimated of each replica and model, and says what is believed.

It decides how far a replica is taken to differ from the others that serve the same models: hardly, while the
difference is within what chance makes, and fully, where it is far beyond that. So equals stay equal, and the ring
orders them instead of noise. A replica without evidence is believed to be like its fellows from the fleet's first
`LEAST_SAMPLES` samples on, whichever replicas these came from. Where no answer streams, all are believed to be what
answers that come whole show together. One of twice or half its fellows' speed is found by its first few samples. A
replica that has shown nothing for `WINDOW` of its fellows' samples is taken to be like them
again, and so tried: what it was believed to be may be what keeps requests away from it, and the price is one request in
as many. No setting takes part once anything was measured: a belief that differs from the truth a hundredfold gives way
at once.

The rule it keeps: `answered` is on the request path and does next to nothing; `believe` does the arithmetic, once a
second. At most `MAX_MODELS` models are remembered, and only those that the fleet serves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import exp, log
from typing import Final

from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.replica import Replica
from warmroute.core.learning.answers import ModelAnswers
from warmroute.core.learning.sample import WAY_S, Sample
from warmroute.core.learning.speed import WINDOW, Common, SpeedEstimate, weighted_median
from warmroute.core.types import RequestShape

LEAST_SAMPLES: Final = 2.8
"""Three whole ones, of which older ones count a little less, or more that count less, from whichever replicas: until
then nothing is believed. A single one may be a stall."""

CHANCE_RATIO: Final = 0.08
"""Difference between replicas that is taken for chance however sure the estimates are."""

FEW: Final = 8
"""In groups of up to so many a replica is compared with the others alone. Of answers that come whole, as many replicas'
windows are fitted together."""

MAX_FITS: Final = 32
"""Estimates renewed at one call: a third of a millisecond."""

MAX_MODELS: Final = 256


@dataclass(frozen=True, slots=True)
class LearningParameters:
    """Priors of models."""

    bytes_per_token: float = 4.0
    answer_tokens: float = 250.0

    def __post_init__(self) -> None:
        if not self.bytes_per_token > 0 or not self.answer_tokens > 0:
            raise ValueError("bytes_per_token and answer_tokens must be positive")


class Learner:
    """Of one fleet. Not thread-safe."""

    def __init__(self, parameters: LearningParameters) -> None:
        self._parameters = parameters
        self.believes = False
        """Whether first bytes were timed, so that it is known when the next one is late. Whole answers tell too little
        for that."""
        self._due: dict[Replica, None] = {}
        """Estimates to renew, longest due first."""
        self._whole: dict[frozenset[str], SpeedEstimate] = {}
        """What answers that came whole show, by the models that replicas serve. Most of what one takes is decoding, so
        that a replica's own would show little; what all show together is believed of replicas until a stream tells."""
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
        sample = decision.sample
        if sample is None:
            return
        if not decision.streams:
            # Of several prompts in one request the first byte comes before the others are prefilled.
            if prompt_tokens <= 0 or output_tokens is None or decision.lasted_s > WAY_S:
                decision.reported()
                return
            sample.output_tokens = output_tokens
        if prompt_tokens <= 0 or cached_tokens is None:
            if decision.predicted_tokens:
                sample.untold += 1
            decision.reported()
            if not decision.streams:
                self._came_whole(decision.replica, sample)
            return
        decision.reported()
        replica = decision.replica
        predicted_tokens = decision.predicted_tokens
        uncached_tokens = decision.uncached_tokens
        if cached_tokens >= prompt_tokens:
            cached_tokens = prompt_tokens - 1
        was_obscure = sample.obscure > 0
        sample.report(
            predicted_tokens,
            uncached_tokens,
            replica.work_tokens(prompt_tokens, cached_tokens)
            - replica.work_tokens(predicted_tokens + uncached_tokens, predicted_tokens),
        )
        if not decision.streams:
            self._came_whole(replica, sample)
            return
        if not sample.closed:
            return
        if not was_obscure:
            replica.speed.fresh = True
        elif sample.obscure == 0:
            replica.speed.observe(sample)

    def _came_whole(self, replica: Replica, sample: Sample) -> None:
        """An answer that came whole is over."""
        if sample.close():
            whole = self._whole.get(replica.models)
            if whole is None:
                whole = self._whole[replica.models] = SpeedEstimate(WINDOW * FEW)
            whole.observe(sample)

    def rows(self) -> list[dict[str, object]]:
        """One row a model, for `/replicas`."""
        return [{"model": name, **answers.as_row()} for name, answers in self.models.items()]

    def _of_whole(self, models: frozenset[str]) -> Common | None:
        """The rate that answers that came whole show of replicas that serve these models, which is all that they tell;
        None while that is little."""
        whole = self._whole.get(models)
        if whole is None:
            return None
        if whole.fresh:
            whole.fit(None)
        if whole.counted < LEAST_SAMPLES:
            return None
        token_s = _between(whole.pace_s, whole.token_s, _chance(whole), 1.0)
        return Common(token_s, 0.0, 0.0)

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
        if not due and not any(whole.fresh for whole in self._whole.values()):
            return
        fellows: dict[frozenset[str], list[Replica]] = {}
        for replica in replicas:
            fellows.setdefault(replica.models, []).append(replica)
        known = {models: _common(group) for models, group in fellows.items() if len(group) > FEW}
        for replica in list(due)[:MAX_FITS]:
            del due[replica]
            group = fellows.get(replica.models)
            if group is not None and len(group) <= FEW:
                # What it showed before must not hold it to that; among many it counts for little.
                replica.speed.fit(_common([fellow for fellow in group if fellow is not replica]))
            else:
                replica.speed.fit(known.get(replica.models))
        self._whole = {models: whole for models, whole in self._whole.items() if models in fellows}
        for models, group in fellows.items():
            common = _common(group)
            if common is not None:
                self.believes = True
                _weigh(group, common)
            else:
                common = self._of_whole(models)
                if common is not None:
                    _weigh(group, common)


def _common(group: list[Replica]) -> Common | None:
    """What the replicas of a group show together, each as far as it has shown anything; None while that is little."""
    known = [replica.speed for replica in group if replica.speed.counted > 0.0]
    if sum([speed.counted for speed in known]) < LEAST_SAMPLES:
        return None
    return Common(
        weighted_median([(speed.token_s, speed.counted) for speed in known]),
        weighted_median([(speed.base_s, speed.counted) for speed in known]),
        weighted_median([(speed.interference_s, speed.counted) for speed in known]),
    )


def _weigh(group: list[Replica], common: Common) -> None:
    """Set what is believed of replicas that serve the same models."""
    heard = 0
    for replica in group:
        heard += replica.speed.count - replica.speed.heard_count
    each = heard / len(group)
    for replica in group:
        speed = replica.speed
        if speed.counted <= 0.0:
            speed.heard_count = speed.count
            replica.change_rates(common.token_s, common.base_s, common.interference_s)
            continue
        if speed.count > speed.heard_count:
            speed.heard_count = speed.count
            speed.silent = 0.0
        else:
            speed.silent += each
        silent = speed.silent / WINDOW
        left = 1.0 - silent * silent * silent * silent if silent < 1.0 else 0.0
        chance = _chance(speed)
        replica.change_rates(
            _between(common.token_s, speed.token_s, chance, left),
            _between(common.base_s, speed.base_s, chance, left),
            _between(common.interference_s, speed.interference_s, chance, left),
        )


def _chance(speed: SpeedEstimate) -> float:
    """Square of the difference (of logarithms) that chance makes in an estimate."""
    error = 2.0 * speed.error_ratio
    return CHANCE_RATIO * CHANCE_RATIO + error * error


def _between(common: float, own: float, chance: float, left: float) -> float:
    """The common figure, moved to the own one as far as their difference (of logarithms) is more than chance.

    Args:
        chance: Square of the difference that moves half way.
        left: Share of that difference that is still believed.
    """
    if common <= 0.0 or own <= 0.0:
        return common
    difference = log(own / common)
    squared = difference * difference
    return common * exp(difference * left * squared / (squared + chance))
