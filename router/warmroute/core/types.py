"""The vocabulary of a routing decision: ids, the request's shape, and records of who holds what.

This module decides nothing. Everything here is plain data, so that every layer may name it. Token counts are estimates
(see `RequestShape.prompt_tokens`) until an engine confirms them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

FingerprintHash = NewType("FingerprintHash", int)
"""Unsigned 64-bit hash of a canonical prompt up to one rung, or of one chunk of it. Ours; never comparable to an
engine's block hash."""

ReplicaId = NewType("ReplicaId", str)
"""Stable name of one vLLM server, `host:port` of its URL unless configured. Appears in headers, metrics and logs."""

Incarnation = NewType("Incarnation", int)
"""48-bit id of one life of one replica: changes whenever the engine restarts, so that old records die by themselves."""

Holder = tuple[Incarnation, float]
"""Who served a rung, and when it last did (Unix seconds)."""

Record = tuple[Holder, ...]
"""What the registry keeps for one rung: a few holders, most recent last. Never empty."""

Records = list[Record | None]
"""One entry a rung, shallowest first, then one a chunk (`RequestShape.keys`); `None` where nobody is known. A record
read twice in one answer is the same object, so that a reader may skip it by identity."""


class Api(StrEnum):
    """Public HTTP format of a request: decides how it is read and how the router's own errors are rendered."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    OTHER = "other"
    """Everything not routed by prefix (embeddings, audio, tokenize, …); errors in OpenAI's shape."""


class DecisionKind(StrEnum):
    """Why a request went where it went; a metric label and the value of `X-Warmroute-Decision`."""

    WARM = "warm"
    """The replica is believed to hold part of the prompt."""
    RING = "ring"
    """Nobody is believed to hold it: the consistent-hash ring's first choice."""
    SPILL = "spill"
    """Another than a warm replica, or than the ring's first choice, costs less in all, or as little: for what is under
    way there, what it was given lately, its speed, or what a miss would push out of its cache."""
    RETRY = "retry"
    """An earlier choice failed before its first response byte."""
    LOAD = "load"
    """A policy without prefixes (round robin, random, least loaded, power of two) chose."""
    PINNED = "pinned"
    """The replica keeps something that the request refers to (a stored response)."""


class DecidedBy(StrEnum):
    """Which key of the rule of `prefix-cost` decided between replicas, for `/explain`."""

    ONLY_ONE = "only_one"
    """No other replica may be chosen."""
    COST = "cost"
    """No other replica costs as little; or several do, and all of them have as many requests as the bound allows."""
    REQUESTS = "requests"
    """Of the replicas that cost as little, one has the fewest requests under way."""
    RING = "ring"
    """Of those that are left, it is the one that the ring prefers."""
    BOUND = "bound"
    """The ring prefers another that costs as little, and that one has as many requests as the bound allows."""


class Chunks:
    """The parts of a prompt that engines reuse wherever they stand (`prompt.chunks`), in their order."""

    __slots__ = ("bounds", "hashes", "reused_ratio")

    def __init__(
        self, hashes: list[FingerprintHash], bounds: list[tuple[int, int]], reused_ratio: float
    ) -> None:
        self.hashes = hashes
        """One a chunk, by its content alone; all differ."""
        self.bounds = bounds
        """Where each begins in the canonical prompt, and where it ends, in bytes."""
        self.reused_ratio = reused_ratio
        """Share of a chunk's tokens that an engine which has it need not compute."""


class RequestShape:
    """Everything a policy may know of a request. Built once per request; never holds prompt text."""

    __slots__ = (
        "chunks",
        "head_key",
        "key",
        "keys",
        "model",
        "needs_engine",
        "prompt_bytes",
        "prompt_tokens",
        "reads_cache",
        "reusable_tokens",
        "ring_key",
        "rungs",
        "single",
        "streams",
        "tokens_known",
    )

    def __init__(
        self,
        model: str,
        rungs: list[FingerprintHash] | None = None,
        prompt_bytes: int = 0,
        prompt_tokens: int = 0,
        ring_key: int = 0,
        head_key: int = 0,
        streams: bool = True,
        needs_engine: bool = True,
    ) -> None:
        self.model = model
        """Model or LoRA adapter named by the client; only replicas that serve it are eligible."""
        self.rungs: list[FingerprintHash] = [] if rungs is None else rungs
        """Fingerprint at each ladder depth, shallowest first; empty when not routed by prefix or under a block long."""
        self.chunks: Chunks | None = None
        """What is reused wherever it stands; None where engines reuse prefixes alone, and where there is nothing."""
        self.keys = self.rungs
        """What is looked up and noted of it: the rungs, then the chunks' hashes."""
        self.prompt_bytes = prompt_bytes
        """Length of the canonical prompt; 0 when not routed by prefix."""
        self.prompt_tokens = prompt_tokens
        """Estimated prompt tokens, at least 1 for prefix-routed requests."""
        self.ring_key = ring_key
        """Unsigned 64-bit key for the ring: the prompt's head, joined with `prompt_cache_key` or the session header."""
        self.head_key = head_key
        """Unsigned 64-bit hash of (at most) the first 1,024 tokens' bytes; the key of policy `prefix-hash`."""
        self.key = head_key
        """Unsigned 64-bit hash of the whole prompt (of a batch, the first): tells requests apart."""
        self.reads_cache = True
        """False if an engine computes all of it, whatever it holds: it is neither predicted nor learned from."""
        self.streams = streams
        """Whether the first byte comes with the first token. Where it does not, the end of a prefill is a guess."""
        self.needs_engine = needs_engine
        """Whether an engine has to do something for it; False for what its server answers by itself."""
        self.tokens_known = False
        """Whether `prompt_tokens` is the client's own count, of token ids, so that `prompt_bytes` are not text."""
        self.single = True
        """Whether it is one prompt: what is reported of a batch says little of its first, which alone is recognised."""
        self.reusable_tokens = -1
        """Leading tokens that were seen before, as of the first choice; -1 until then."""
