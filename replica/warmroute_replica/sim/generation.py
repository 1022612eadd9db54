"""A generation is one API request's life in the engine: its sequences are queued, progress, finish or are dropped.

This module decides when a request is done and what it used. Each API has a `Format`, which renders the answer;
`streaming` sends it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

import xxhash

from warmroute_replica.sim.answers import Answer, AnswerLimits, Finish, make_answer, rest_of_answer
from warmroute_replica.sim.chunk_store import Chunk
from warmroute_replica.sim.engine import RunState, SimRequest
from warmroute_replica.sim.errors import ApiError, invalid, too_long
from warmroute_replica.sim.simulated_replica import SimulatedReplica
from warmroute_replica.sim.template import Tool, encode
from warmroute_replica.sim.tokens import block_keys, chunks_of, count_tokens

MAX_SEQUENCES = 1024
"""Number of sequences (`n` times the prompts) that one request may have at most."""


class Format(Protocol):
    """Renders one answer in an API's shape. A format holds what it needs of the request; its methods are called in the
    order below."""

    def begin(self, generation: Generation) -> bytes:
        """Return the stream events that come before the first token."""

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Return the stream events of one token of one sequence; may be empty. The last token's events include the
        sequence's end."""

    def end(self, generation: Generation) -> bytes:
        """Return the stream events that come after all tokens."""

    def body(self, generation: Generation) -> Any:
        """Return the JSON body of an answer that is not streamed."""


@dataclass(slots=True)
class Plan:
    """What an API request asks of the engine."""

    id: str
    """The id that the answer shows to clients."""
    model: str
    prompts: list[bytes]
    """The streams of the prompts, each at least one token long."""
    limits: list[AnswerLimits]
    """The limits of the answers, one entry a prompt."""
    cache_salt: str | None = None
    n: int = 1
    """Number of sequences for each prompt."""
    tool: Tool | None = None
    cacheable: bool = True
    """False for what has no place in the prefix cache: embeddings and scores."""
    reads_cache: bool = True
    """False where all of the prompt is computed, whatever is cached, since its logprobs are wanted; its blocks are
    cached afterwards."""
    said_bytes: list[int] = field(default_factory=list)
    """For each prompt, how many bytes at its end are the beginning of the answer, which then goes on from there; empty
    where no prompt has any."""
    priority: int = 0
    """The request's priority, as in `SimRequest`."""


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
        """Number of prompt tokens found in the cache."""
        return self.state.cached_tokens if self.state is not None else 0

    def on_tokens(self, state: RunState) -> None:
        """Tell the generation that the sequence has new tokens; see `driver.TokenSink`."""
        self.generated = state.generated
        self.generation.on_progress(self)


class ProgressListener(Protocol):
    """Receives word of a request's tokens as they come, so that they can be streamed."""

    def on_progress(self, choice: Choice) -> None:
        """Take note that a sequence has new tokens; must not raise."""


class Generation:
    """All sequences of one request. Its owner calls `start` once, and `close` always."""

    def __init__(self, replica: SimulatedReplica, plan: Plan) -> None:
        """Prepare the sequences without queueing them.

        Raises:
            ApiError: 400, a prompt is empty or too long for the model, or there are too many sequences.
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
        """The data-parallel rank that the request names; None where it names none."""
        self._driver = replica.ranks[0].driver
        self._metrics = replica.metrics
        self._unfinished = len(self.choices)
        self._open = False

    def _continued(self, prompt_index: int) -> Answer | None:
        """Return the rest of an answer whose beginning ends the prompt; None where the prompt does not end so, and a
        new answer is to be made."""
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
        """Number of prompt tokens, each prompt counted once."""
        return sum(self.prompt_tokens)

    @property
    def cached_tokens(self) -> int:
        """Number of prompt tokens found in the cache; of each prompt its first sequence counts."""
        return sum(choice.cached_tokens for choice in self.choices[:: self.plan.n])

    @property
    def created_tokens(self) -> int:
        """Number of prompt tokens in whole blocks that were not cached."""
        block_tokens = self.replica.config.engine.block_tokens
        return (
            sum(tokens // block_tokens * block_tokens for tokens in self.prompt_tokens) - self.cached_tokens
        )

    @property
    def output_tokens(self) -> int:
        """Number of tokens generated so far by all sequences."""
        return sum(choice.generated for choice in self.choices)

    def start(self) -> None:
        """Queue all sequences in the engine.

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
        # The path of an adapter's weights is part of the cache key, as in vLLM. So an adapter that is loaded from the
        # same path with other weights hits blocks that the old weights computed.
        root = replica.loras.get(plan.model, "")
        scope = f"{plan.model}\0{root}\0{plan.cache_salt or ''}".encode("utf-8", "replace")
        for choice in self.choices:
            prompt = plan.prompts[choice.prompt_index]
            keys = block_keys(prompt + choice.answer.stream, block_tokens, scope) if plan.cacheable else ()
            chunks: list[Chunk] = []
            if plan.cacheable and replica.config.blend_separator:
                separator = encode(replica.config.blend_separator)
                chunks = chunks_of(prompt, separator, replica.config.blend_chunk_tokens, scope)
            choice.engine_id = f"{plan.id}/{replica.next_id()}"
            tokens = self.prompt_tokens[choice.prompt_index]
            choice.state = self._driver.submit(
                SimRequest(
                    choice.engine_id,
                    tokens,
                    choice.answer.tokens,
                    keys,
                    plan.priority,
                    plan.reads_cache,
                    chunks,
                ),
                choice,
            )

    def on_progress(self, choice: Choice) -> None:
        """Take note that a sequence has new tokens."""
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
        """Drop unfinished sequences at once; the call does nothing after the end, and may be repeated."""
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
    """Return the limits of an answer's length that follow from a request's fields.

    Args:
        replica: The replica whose context length bounds the answer.
        prompt: The prompt's stream.
        max_tokens: The field's value, of any type.
        stop: A string, a list of strings, or nothing.
        ceiling_above: A `max_tokens` above this only bounds the length that the seed chooses.

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
    """Return how many logprobs of each prompt token the request wants; None where it wants none, so that the cache is
    read.

    Args:
        body: The request.
        echoed: The number that `echo` asks for where no other field gives one.

    Raises:
        ApiError: 400, the value is no such number, or is not 0 in a stream, which cannot carry these logprobs.
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
    """Make up logprobs for a prompt's tokens, in vLLM's shape; the first token gets none, since no token precedes
    it."""
    pieces = [prompt[at : at + 4].decode("utf-8", "replace") for at in range(0, len(prompt), 4)]
    found: list[dict[str, Any] | None] = [
        {str(index): {"logprob": -(index % 23) / 16, "rank": 1, "decoded_token": piece}}
        for index, piece in enumerate(pieces[: count_tokens(prompt)])
    ]
    found[0] = None
    return found


def salt_of(body: dict[str, Any]) -> str | None:
    """Return the `cache_salt` of a request; None where it has none.

    Raises:
        ApiError: 400, the salt is not a string, or is empty.
    """
    salt = body.get("cache_salt")
    if salt is None:
        return None
    if not isinstance(salt, str) or not salt:
        raise invalid("Parameter 'cache_salt' must be a non-empty string if provided.", param="cache_salt")
    return salt


def priority_of(body: dict[str, Any]) -> int:
    """Return the `priority` of a request; the smaller one goes first. vLLM 0.32 accepts the field also where it does
    not schedule by it.

    Raises:
        ApiError: 400, the value is not an integer of 64 bits.
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
