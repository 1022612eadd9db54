"""This module serves what needs no generated text: `/v1/embeddings`, `/v1/rerank`, `/v1/score`, `/tokenize` and
`/detokenize`.

It makes vectors and scores from the texts' hashes, so they are the same every time. Embeddings and scores pass through
the engine (their prompts take prefill time) but read no prefix cache.
"""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import xxhash

from warmroute_replica.sim.api_chat import chat_turn
from warmroute_replica.sim.api_completions import prompt_streams
from warmroute_replica.sim.errors import invalid
from warmroute_replica.sim.generation import Choice, Generation, Plan, limits_of, priority_of
from warmroute_replica.sim.simulated_replica import SimulatedReplica
from warmroute_replica.sim.template import content_text, encode, render
from warmroute_replica.sim.tokens import count_tokens, text_of_ids, token_ids

DIMENSIONS = 16
"""Length of an embedding unless the request sets `dimensions`."""
MAX_DIMENSIONS = 4096


class PoolingFormat:
    """Renders answers of the pooling APIs, which never stream; see `generation.Format`."""

    def __init__(self, kind: str, plan: Plan, body: dict[str, Any], documents: list[Any]) -> None:
        self._kind = kind
        self._plan = plan
        self._request = body
        self._documents = documents
        dimensions = body.get("dimensions")
        self._dimensions = (
            dimensions if isinstance(dimensions, int) and not isinstance(dimensions, bool) else DIMENSIONS
        )
        if not 1 <= self._dimensions <= MAX_DIMENSIONS:
            raise invalid(f"dimensions must be from 1 to {MAX_DIMENSIONS}", param="dimensions")

    def begin(self, generation: Generation) -> bytes:
        """Return nothing, since these answers never stream."""
        return b""

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Return nothing, since these answers never stream."""
        return b""

    def end(self, generation: Generation) -> bytes:
        """Return nothing, since these answers never stream."""
        return b""

    def body(self, generation: Generation) -> dict[str, Any]:
        """Return the body of a whole answer."""
        tokens = generation.total_prompt_tokens
        usage = {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        }
        scores = [_unit(prompt, 0) for prompt in self._plan.prompts]
        if self._kind == "rerank":
            ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
            top = self._request.get("top_n")
            if isinstance(top, int) and top > 0:
                ranked = ranked[:top]
            results = [
                {
                    "index": index,
                    "document": {"text": self._documents[index]},
                    "relevance_score": scores[index],
                }
                for index in ranked
            ]
            return {
                "id": self._plan.id,
                "model": self._plan.model,
                "usage": {"total_tokens": tokens},
                "results": results,
            }
        head = {"id": self._plan.id, "object": "list", "created": int(time.time()), "model": self._plan.model}
        if self._kind == "score":
            data: list[dict[str, Any]] = [
                {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
            ]
        else:
            data = [
                {"index": index, "object": "embedding", "embedding": self._embedding(prompt)}
                for index, prompt in enumerate(self._plan.prompts)
            ]
        return {**head, "data": data, "usage": usage}

    def _embedding(self, prompt: bytes) -> Any:
        vector = [_unit(prompt, index) * 2 - 1 for index in range(self._dimensions)]
        length = sum(value * value for value in vector) ** 0.5
        vector = [value / length for value in vector]
        if self._request.get("encoding_format") == "base64":
            return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        return vector


def _unit(data: bytes, index: int) -> float:
    """Return a number from 0 to 1 that is made from a text."""
    return (xxhash.xxh3_64_intdigest(data, index) >> 11) / 2.0**53


def _plan(replica: SimulatedReplica, body: dict[str, Any], request_id: str, prompts: list[bytes]) -> Plan:
    limits = [limits_of(replica, prompt, 1) for prompt in prompts]
    return Plan(
        request_id,
        replica.resolve_model(body.get("model")),
        prompts,
        limits,
        cacheable=False,
        priority=priority_of(body),
    )


def plan_embeddings(
    replica: SimulatedReplica, body: dict[str, Any], request_id: str
) -> tuple[Plan, PoolingFormat]:
    """Read an embeddings request, of texts or of a chat."""
    prompts = [render(chat_turn(body))] if "messages" in body else prompt_streams(body.get("input"), "input")
    plan = _plan(replica, body, f"embd-{request_id}", prompts)
    return plan, PoolingFormat("embeddings", plan, body, [])


def plan_rerank(
    replica: SimulatedReplica, body: dict[str, Any], request_id: str
) -> tuple[Plan, PoolingFormat]:
    """Read a rerank request."""
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise invalid("query and a list of documents are required", param="documents")
    texts = [
        content_text(document if isinstance(document, str) else [document], "documents")
        for document in documents
    ]
    plan = _plan(replica, body, f"rerank-{request_id}", [encode(f"{query}\n{text}") for text in texts])
    return plan, PoolingFormat("rerank", plan, body, texts)


def plan_score(
    replica: SimulatedReplica, body: dict[str, Any], request_id: str
) -> tuple[Plan, PoolingFormat]:
    """Read a score request: one text against many, or pairs."""
    first = body.get("text_1", body.get("queries"))
    second = body.get("text_2", body.get("documents", body.get("items")))
    left = [first] if isinstance(first, str) else first
    right = [second] if isinstance(second, str) else second
    if not isinstance(left, list) or not isinstance(right, list) or not left or not right:
        raise invalid("text_1 and text_2 are required", param="text_1")
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise invalid("Input lengths must be either 1:1, 1:N or N:N", param="text_2")
    prompts = [encode(f"{one}\n{other}") for one, other in zip(left, right, strict=True)]
    plan = _plan(replica, body, f"score-{request_id}", prompts)
    return plan, PoolingFormat("score", plan, body, [])


def tokenize(replica: SimulatedReplica, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request to `/tokenize`.

    Raises:
        ApiError: 400 where a field is not what the API expects, 404 for an unknown model.
    """
    replica.resolve_model(body.get("model"))
    if "messages" in body:
        stream = render(chat_turn(body), generate=body.get("add_generation_prompt") is not False)
    else:
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise invalid("Input should be a valid string", param="prompt")
        stream = encode(prompt)
    ids = token_ids(stream)
    strings = [text_of_ids([token]) for token in ids] if body.get("return_token_strs") else None
    return {
        "count": count_tokens(stream),
        "max_model_len": replica.config.model_len,
        "tokens": ids,
        "token_strs": strings,
    }


def detokenize(replica: SimulatedReplica, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request to `/detokenize`.

    Raises:
        ApiError: 400 where a field is not what the API expects, 404 for an unknown model.
    """
    replica.resolve_model(body.get("model"))
    tokens = body.get("tokens")
    if not isinstance(tokens, list):
        raise invalid("Input should be a valid list", param="tokens")
    try:
        return {"prompt": text_of_ids(tokens)}
    except ValueError as error:
        raise invalid(str(error), param="tokens") from error
