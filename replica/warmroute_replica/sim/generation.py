"""A generation is one API request's life in the engine: its sequences are queued, progress, finish or are dropped.

This module decides when a request is done and what it used. Rendering is a `Format`'s, one an API; transport is
`streaming`'s.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

import xxhash

from warmroute_replica.sim.answers import Answer, AnswerLimits, Finish, make_answer, rest_of_answer
from warmroute_replica.sim.engine import RunState, SimRequest
from warmroute_replica.sim.errors import ApiError, invalid, too_long
from warmroute_replica.sim.simulated_replica import SimulatedReplica
from warmroute_replica.sim.template import Tool
from warmroute_replica.sim.tokens import block_keys, count_tokens

MAX_SEQUENCES = 1024
"""Sequences of one request (`n` times its prompts) at most."""


class Format(Protocol):
    """Renders one answer in an API's shape. Holds what it needs of the request; each method is called in order."""

    def begin(self, generation: Generation) -> bytes:
        """Stream events that precede the first token."""

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Stream events of one token of one sequence, its end included where it is the last; may be empty."""

    def end(self, generation: Generation) -> bytes:
        """Stream events after everything."""

    def body(self, generation: Generation) -> Any:
        """The JSON body of an answer that is not streamed."""


@dataclass(slots=True)
class Plan:
    """What an API asks of the engine."""

    id: str
    """Public id, as in the answer's `id`."""
    model: str
    prompts: list[bytes]
    """Streams, each at least one token."""
    limits: list[AnswerLimits]
    """One a prompt."""
    cache_salt: str | None = None
    n: int = 1
    """Sequences a prompt."""
    tool: Tool | None = None
    cacheable: bool = True
    """False for what has no place in the prefix cache: embeddings and scores."""
    reads_cache: bool = True
    """False for what is computed whatever is cached, since logprobs of the prompt are wanted; it is cached after."""
    said_bytes: list[int] = field(default_factory=list)
    """Of each prompt, how much of its end is the beginning of the answer, which goes on from there; none if empty."""
    priority: int = 0
    """As in `SimRequest`."""


class Choice:
    """One sequence of a request; the driver tells it of its tokens."""

    __slots__ = ("answer", "engine_id", "generated", "generation", "index", "prompt_index", "state")

    def __init__(self, generation: Generation, index: int, prompt_index: int, answer: Answer) -> None:
        self.generation = generation
        self.index = index
        self.prompt_index = prompt_index
        self.answer = answer
        self.engine_id = ""
        self.generated = 0
        self.state: RunState | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the cache."""
        return self.state.cached_tokens if self.state is not None else 0

    def on_tokens(self, state: RunState) -> None:
        """See `driver.TokenSink`."""
        self.generated = state.generated
        self.generation.on_progress(self)


class ProgressListener(Protocol):
    """Whoever streams a request's tokens as they come."""

    def on_progress(self, choice: Choice) -> None:
        """A sequence has new tokens. Must not raise."""


class Generation:
    """All sequences of one request. `start` once, `close` always."""

    def __init__(self, replica: SimulatedReplica, plan: Plan) -> None:
        """Prepare.

        Raises:
            ApiError: 400, a prompt is empty, or too long for the model, or there are too many.
        """
        if not 1 <= plan.n <= MAX_SEQUENCES or not plan.prompts or plan.n * len(plan.prompts) > MAX_SEQUENCES:
            raise invalid(f"between 1 and {MAX_SEQUENCES} sequences a request", param="n")
        self.plan = plan
        self.replica = replica
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listener: ProgressListener | None = None
        self.prompt_tokens = [count_tokens(prompt) for prompt in plan.prompts]
        for tokens in self.prompt_tokens:
            if tokens < 1:
                raise invalid("The prompt must not be empty", param="prompt")
            if tokens >= replica.config.model_len:
                raise too_long(tokens, replica.config.model_len)
        self.choices: list[Choice] = []
        seed = replica.config.seed
        for prompt_index, prompt in enumerate(plan.prompts):
            prompt_hash = xxhash.xxh3_64_intdigest(prompt, seed)
            for number in range(plan.n):
                answer = self._continued(prompt_index) if number == 0 and plan.tool is None else None
                if answer is None:
                    answer = make_answer(prompt_hash + number, plan.limits[prompt_index], plan.tool)
                self.choices.append(Choice(self, len(self.choices), prompt_index, answer))
        self.wanted_rank: int | None = None
        """Data-parallel rank that is asked for."""
        self._driver = replica.ranks[0].driver
        self._metrics = replica.metrics
        self._unfinished = len(self.choices)
        self._open = False

    def _continued(self, prompt_index: int) -> Answer | None:
        """The rest of an answer whose beginning ends the prompt; None where it does not, and a new one is made."""
        plan = self.plan
        said_bytes = plan.said_bytes[prompt_index] if plan.said_bytes else 0
        if not said_bytes:
            return None
        prompt = plan.prompts[prompt_index]
        asked, said = prompt[:-said_bytes], prompt[-said_bytes:]
        seed = xxhash.xxh3_64_intdigest(asked, self.replica.config.seed)
        return rest_of_answer(seed, said.decode("utf-8", "replace"), plan.limits[prompt_index])

    @property
    def total_prompt_tokens(self) -> int:
        """Prompt tokens, each prompt counted once."""
        return sum(self.prompt_tokens)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the cache, of each prompt's first sequence."""
        return sum(choice.cached_tokens for choice in self.choices[:: self.plan.n])

    @property
    def created_tokens(self) -> int:
        """Prompt tokens in whole blocks that were not cached."""
        block_tokens = self.replica.config.engine.block_tokens
        return (
            sum(tokens // block_tokens * block_tokens for tokens in self.prompt_tokens) - self.cached_tokens
        )

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far, of all sequences."""
        return sum(choice.generated for choice in self.choices)

    def start(self) -> None:
        """Queue all sequences.

        Raises:
            ApiError: 503, the queue is full.
        """
        replica = self.replica
        replica.check_room()
        rank = replica.rank(self.wanted_rank)
        self._driver = rank.driver
        self._metrics = rank.metrics
        self._open = True
        replica.begin(self)
        plan = self.plan
        block_tokens = replica.config.engine.block_tokens
        # Where an adapter's weights came from is part of its cache's key; who loads others from the same place meets
        # what the old ones computed.
        root = replica.loras.get(plan.model, "")
        scope = f"{plan.model}\0{root}\0{plan.cache_salt or ''}".encode("utf-8", "replace")
        for choice in self.choices:
            prompt = plan.prompts[choice.prompt_index]
            keys = block_keys(prompt + choice.answer.stream, block_tokens, scope) if plan.cacheable else ()
            choice.engine_id = f"{plan.id}/{replica.next_id()}"
            tokens = self.prompt_tokens[choice.prompt_index]
            choice.state = self._driver.submit(
                SimRequest(
                    choice.engine_id, tokens, choice.answer.tokens, keys, plan.priority, plan.reads_cache
                ),
                choice,
            )

    def on_progress(self, choice: Choice) -> None:
        """A sequence has new tokens."""
        if choice.generated == choice.answer.tokens:
            self._unfinished -= 1
            if choice.answer.finish is not Finish.ABORT:
                finish = "length" if choice.answer.finish is Finish.LENGTH else "stop"
                self._metrics.finished[finish] += 1
        if self.listener is not None:
            self.listener.on_progress(choice)
        if not self._unfinished and not self.done.done():
            self.replica.note_usage(
                self.plan.model, self.total_prompt_tokens, self.cached_tokens, self.output_tokens
            )
            self.done.set_result(None)

    def abort(self) -> None:
        """End every unfinished sequence where it is, as an engine does that is paused or put to sleep."""
        for choice in self.choices:
            if choice.generated < choice.answer.tokens:
                self._driver.abort(choice.engine_id)
                choice.answer.cut_off(choice.generated)
                choice.generated = choice.answer.tokens
                self._metrics.finished["abort"] += 1
                self.on_progress(choice)

    def close(self) -> None:
        """Drop what is unfinished at once; harmless after the end and when repeated."""
        if not self._open:
            return
        self._open = False
        self.replica.end(self)
        if self._unfinished:
            self._metrics.aborted_total += 1
            for choice in self.choices:
                if choice.generated < choice.answer.tokens:
                    self._driver.abort(choice.engine_id)
        if not self.done.done():
            self.done.cancel()


def limits_of(
    replica: SimulatedReplica,
    prompt: bytes,
    max_tokens: Any,
    *,
    stop: Any = None,
    ceiling_above: int | None = None,
) -> AnswerLimits:
    """Length limits from a request's fields.

    Args:
        replica: Whose context length bounds the answer.
        prompt: The stream.
        max_tokens: The field's value, of any type.
        stop: A string, a list of strings, or nothing.
        ceiling_above: Values above this only bound the natural length.

    Raises:
        ApiError: 400, a field has a wrong type or value.
    """
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool)):
        raise invalid("Input should be a valid integer", param="max_tokens")
    if max_tokens is not None and max_tokens < 1:
        raise invalid(f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(entry, str) for entry in stops):
        raise invalid("Input should be a string or a list of strings", param="stop")
    room = max(1, replica.config.model_len - count_tokens(prompt))
    is_ceiling = max_tokens is not None and ceiling_above is not None and max_tokens > ceiling_above
    return AnswerLimits(room, max_tokens, is_ceiling, [entry for entry in stops if entry])


def prompt_logprobs_of(body: dict[str, Any], echoed: Any) -> int | None:
    """How many logprobs of each prompt token are wanted; `None`: none are, and the cache is read.

    Args:
        body: The request.
        echoed: What `echo` asks for where nothing else does.

    Raises:
        ApiError: 400, no such number, or one that a stream cannot carry.
    """
    wanted = body.get("prompt_logprobs")
    if wanted is None:
        wanted = echoed if body.get("echo") is True else None
        return wanted if isinstance(wanted, int) and not isinstance(wanted, bool) else None
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        raise invalid("`prompt_logprobs` must be an integer.", param="prompt_logprobs")
    if wanted < -1:
        raise invalid("`prompt_logprobs` must be a positive value or -1.", param="prompt_logprobs")
    if body.get("stream") and wanted != 0:
        raise invalid("`prompt_logprobs` are not available when `stream=True`.", param="prompt_logprobs")
    return wanted


def prompt_logprobs_list(prompt: bytes) -> list[dict[str, Any] | None]:
    """Made-up logprobs of a prompt's tokens, in vLLM's shape: none for the first, which nothing precedes."""
    pieces = [prompt[at : at + 4].decode("utf-8", "replace") for at in range(0, len(prompt), 4)]
    found: list[dict[str, Any] | None] = [
        {str(index): {"logprob": -(index % 23) / 16, "rank": 1, "decoded_token": piece}}
        for index, piece in enumerate(pieces[: count_tokens(prompt)])
    ]
    found[0] = None
    return found


def salt_of(body: dict[str, Any]) -> str | None:
    """`cache_salt` of a request.

    Raises:
        ApiError: 400, it is not a string, or empty.
    """
    salt = body.get("cache_salt")
    if salt is None:
        return None
    if not isinstance(salt, str) or not salt:
        raise invalid("Parameter 'cache_salt' must be a non-empty string if provided.", param="cache_salt")
    return salt


def priority_of(body: dict[str, Any]) -> int:
    """`priority` of a request: smaller is earlier. vLLM 0.32 takes it also where it does not schedule by it.

    Raises:
        ApiError: 400, it is no integer of 64 bits.
    """
    priority = body.get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool) or not -(2**63) <= priority < 2**63:
        raise invalid("Input should be a valid integer", param="priority")
    return priority


__all__ = [
    "ApiError",
    "Choice",
    "Format",
    "Generation",
    "Plan",
    "limits_of",
    "priority_of",
    "prompt_logprobs_list",
    "prompt_logprobs_of",
    "salt_of",
]
