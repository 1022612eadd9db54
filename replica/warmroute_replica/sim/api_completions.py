"""This module serves `/v1/completions`: prompts are text, lists of texts, token ids, or lists of those.

Of what the engine sees, it decides only the prompts' streams and the answers' limits.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from warmroute_replica.sim.answers import said_tokens
from warmroute_replica.sim.api_chat import (
    FINGERPRINT,
    SYSTEM_FINGERPRINT,
    StreamOptions,
    n_of,
    running_usage_of,
    stream_usage_of,
    usage_of,
)
from warmroute_replica.sim.errors import invalid
from warmroute_replica.sim.generation import (
    MAX_SEQUENCES,
    Choice,
    Generation,
    Plan,
    limits_of,
    priority_of,
    prompt_logprobs_list,
    prompt_logprobs_of,
    salt_of,
)
from warmroute_replica.sim.simulated_replica import SimulatedReplica
from warmroute_replica.sim.streaming import DONE, data_event
from warmroute_replica.sim.template import encode
from warmroute_replica.sim.tokens import stream_of_ids

DEFAULT_MAX_TOKENS = 16
"""vLLM's default of `max_tokens` in this API."""


def prompt_streams(prompt: Any, param: str = "prompt") -> list[bytes]:
    """Return the streams of the prompts in a `prompt` or `input` field.

    Raises:
        ApiError: 400, the field is none of: text, list of texts, list of token ids, list of such lists.
    """
    if isinstance(prompt, str):
        return [encode(prompt)]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(entry, str) for entry in prompt):
            return [encode(entry) for entry in prompt]
        try:
            if all(isinstance(entry, list) for entry in prompt):
                return [stream_of_ids(entry) for entry in prompt]
            return [stream_of_ids(prompt)]
        except ValueError as error:
            raise invalid(str(error), param=param) from error
    raise invalid(
        "Either prompt or prompt_embeds must be provided and non-empty."
        if prompt is None or prompt == []
        else "Input should be a string, a list of strings, token ids, or a list of lists of token ids",
        param=param,
    )


def plan_completion(
    replica: SimulatedReplica, body: dict[str, Any], request_id: str
) -> tuple[Plan, CompletionFormat]:
    """Read a completions request.

    Raises:
        ApiError: 400 where a field is not what the API expects, 404 for an unknown model.
    """
    model = replica.resolve_model(body.get("model"))
    prompts = prompt_streams(body.get("prompt"))
    max_tokens = body.get("max_tokens", DEFAULT_MAX_TOKENS)
    plan = Plan(
        f"cmpl-{request_id}",
        model,
        prompts,
        [limits_of(replica, prompt, max_tokens, stop=body.get("stop")) for prompt in prompts],
        salt_of(body),
        n_of(body),
        priority=priority_of(body),
        reads_cache=prompt_logprobs_of(body, body.get("logprobs")) is None,
        said_bytes=[4 * said_tokens(prompt, replica.config.seed) for prompt in prompts],
    )
    return plan, CompletionFormat(plan, body)


class CompletionFormat:
    """Renders answers of the completions API; see `generation.Format`."""

    def __init__(self, plan: Plan, body: dict[str, Any]) -> None:
        self._options = StreamOptions(body)
        logprobs = body.get("logprobs")
        self._logprobs = min(logprobs, 20) if isinstance(logprobs, int) and logprobs is not False else None
        self._echo = body.get("echo") is True
        self._base = {
            "id": plan.id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": plan.model,
        }
        opening = msgspec.json.encode(self._base)[:-1]
        count = min(len(plan.prompts) * plan.n, MAX_SEQUENCES)
        self._heads = [
            b'data: %b,"choices":[{"index":%d,"text":' % (opening, index) for index in range(count)
        ]

    def begin(self, generation: Generation) -> bytes:
        """Return the prompt where the request sets `echo`, else nothing."""
        if not self._echo:
            return b""
        return b"".join(
            b'%b%b,"logprobs":null,"finish_reason":null,"stop_reason":null}]}\n\n'
            % (self._heads[choice.index], msgspec.json.encode(self._prompt_text(generation, choice)))
            for choice in generation.choices
        )

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Return the chunk of one token; the last token's chunk carries the finish reason."""
        answer = choice.answer
        last = index + 1 == len(answer.pieces)
        finish = answer.finish.value if last else None
        if self._options.continuous or self._logprobs is not None:
            entry = {
                "index": choice.index,
                "text": answer.pieces[index],
                "logprobs": self._entry_logprobs(answer.pieces[index : index + 1], index),
                "finish_reason": finish,
                "stop_reason": answer.stop if last else None,
            }
            chunk = {**self._base, "choices": [entry]}
            if self._options.continuous:
                prompt_tokens = generation.prompt_tokens[choice.prompt_index]
                chunk["usage"] = running_usage_of(generation, prompt_tokens, index + 1)
            elif last and not self._options.include_usage:
                chunk["system_fingerprint"] = SYSTEM_FINGERPRINT
            return data_event(chunk)
        return b'%b%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b}]%b}\n\n' % (
            self._heads[choice.index],
            msgspec.json.encode(answer.pieces[index]),
            msgspec.json.encode(finish),
            msgspec.json.encode(answer.stop if last else None),
            FINGERPRINT if last and not self._options.include_usage else b"",
        )

    def end(self, generation: Generation) -> bytes:
        """Return the usage chunk, if the request asks for it, and `[DONE]`."""
        if not self._options.include_usage:
            return DONE
        usage = {
            "choices": [],
            "usage": stream_usage_of(generation),
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }
        return data_event({**self._base, **usage}) + DONE

    def body(self, generation: Generation) -> dict[str, Any]:
        """Return the body of a whole answer."""
        choices = []
        for choice in generation.choices:
            prompt = self._prompt_text(generation, choice) if self._echo else ""
            choices.append(
                {
                    "index": choice.index,
                    "text": prompt + choice.answer.text,
                    "logprobs": self._entry_logprobs(choice.answer.pieces, 0),
                    "finish_reason": choice.answer.finish.value,
                    "stop_reason": choice.answer.stop,
                    "token_ids": None,
                    "prompt_logprobs": self._prompt_logprobs(generation, choice),
                    "prompt_token_ids": None,
                }
            )
        return {
            **self._base,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "usage": usage_of(generation),
            "kv_transfer_params": None,
        }

    def _prompt_logprobs(self, generation: Generation, choice: Choice) -> list[dict[str, Any] | None] | None:
        plan = generation.plan
        return None if plan.reads_cache else prompt_logprobs_list(plan.prompts[choice.prompt_index])

    def _prompt_text(self, generation: Generation, choice: Choice) -> str:
        return generation.plan.prompts[choice.prompt_index].replace(b"\0", b"").decode("utf-8", "replace")

    def _entry_logprobs(self, pieces: list[str], offset: int) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        values = [-(((offset + index) * 7) % 23) / 16 for index in range(len(pieces))]
        offsets = []
        start = offset * 4
        for piece in pieces:
            offsets.append(start)
            start += len(piece)
        return {
            "text_offset": offsets,
            "token_logprobs": values,
            "tokens": list(pieces),
            "top_logprobs": [
                {piece: value, **{f"alt{rank}": value - rank for rank in range(1, self._logprobs)}}
                for piece, value in zip(pieces, values, strict=True)
            ],
        }
