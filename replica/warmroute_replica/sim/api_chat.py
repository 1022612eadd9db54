"""This module reads requests of `/v1/chat/completions` and renders their answers, byte for byte as vLLM 0.32 does.

Of what the engine sees, it decides only the prompt's text and the answer's limits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

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
from warmroute_replica.sim.template import (
    Message,
    Tool,
    ToolCall,
    Turn,
    content_text,
    encode,
    list_field,
    render,
    tool_of,
)

SYSTEM_FINGERPRINT = "vllm-0.32.0-sim"
FINGERPRINT = f',"system_fingerprint":"{SYSTEM_FINGERPRINT}"'.encode()


def chat_turn(body: dict[str, Any]) -> Turn:
    """Return the conversation in a chat request, or in a request to `/tokenize`.

    Raises:
        ApiError: 400, a field is not what the API expects.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages: a list of at least one message is required", param="messages")
    kwargs = body.get("chat_template_kwargs")
    return Turn(
        [_message(entry) for entry in messages],
        _tools(list_field(body, "tools")),
        _tool_choice(body.get("tool_choice")),
        kwargs if isinstance(kwargs, dict) else {},
    )


def _message(entry: Any) -> Message:
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise invalid("each message needs a role", param="messages")
    role = entry["role"]
    text = content_text(entry.get("content"))
    calls = [tool_call_of(call) for call in list_field(entry, "tool_calls")]
    if role == "tool":
        text = f"<tool_response>\n{text}\n</tool_response>"
    name = entry.get("name")
    return Message(f"{role} {name}" if isinstance(name, str) and role != "tool" else role, text, calls)


def tool_call_of(call: Any) -> ToolCall:
    """Return a tool call that an assistant message of the chat API holds."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise invalid("each tool call needs a function", param="messages")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return ToolCall(str(call.get("id")), str(function.get("name")), arguments)


def _tools(entries: Sequence[Any]) -> list[Tool]:
    tools = []
    for index, entry in enumerate(entries):
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict):
            raise invalid(f"tools[{index}] needs a function", param="tools")
        tools.append(
            tool_of(
                function.get("name"), function.get("description"), function.get("parameters"), index=index
            )
        )
    return tools


def _tool_choice(choice: Any) -> str | None:
    if isinstance(choice, dict):
        function = choice.get("function")
        return f"={function.get('name')}" if isinstance(function, dict) else None
    return choice if choice in ("none", "required") else None


def plan_chat(replica: SimulatedReplica, body: dict[str, Any], request_id: str) -> tuple[Plan, ChatFormat]:
    """Read a chat request.

    Raises:
        ApiError: 400 as for `chat_turn`; 404 for an unknown model.
    """
    model = replica.resolve_model(body.get("model"))
    turn = chat_turn(body)
    continued = body.get("continue_final_message") is True
    said = _said(turn, body) if continued else ""
    prompt = render(turn, generate=body.get("add_generation_prompt") is not False, open_end=continued)
    max_tokens = body.get("max_completion_tokens")
    if max_tokens is None:
        max_tokens = body.get("max_tokens")
    plan = Plan(
        f"chatcmpl-{request_id}",
        model,
        [prompt],
        [limits_of(replica, prompt, max_tokens, stop=body.get("stop"))],
        salt_of(body),
        n_of(body),
        turn.chosen_tool(),
        priority=priority_of(body),
        reads_cache=prompt_logprobs_of(body, body.get("top_logprobs", 0)) is None,
        said_bytes=[len(encode(said))],
    )
    return plan, ChatFormat(plan, body)


def _said(turn: Turn, body: dict[str, Any]) -> str:
    """Return the text of the final message, which the answer is to continue; empty where that is no plain answer.

    Raises:
        ApiError: 400, where vLLM and transformers refuse to continue the message.
    """
    if body.get("add_generation_prompt"):
        raise invalid("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if body.get("add_generation_prompt") is not False:
        raise invalid(
            "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you"
            " want the model to continue the final message, and add_generation_prompt when you want to add a header"
            " that will prompt it to start a new assistant message instead."
        )
    last = turn.messages[-1]
    if not last.text:
        raise invalid("continue_final_message is set but the final message has no content to continue!")
    return last.text if last.role == "assistant" and not last.calls else ""


def n_of(body: dict[str, Any]) -> int:
    """Return a request's `n`, the number of sequences for each prompt; 1 where it is absent.

    Raises:
        ApiError: 400, `n` is not a whole number from 1 to `MAX_SEQUENCES`.
    """
    n = body.get("n")
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool):
        raise invalid("Input should be a valid integer", param="n")
    if not 1 <= n <= MAX_SEQUENCES:
        raise invalid(f"n must be from 1 to {MAX_SEQUENCES}", param="n")
    return n


def usage_of(generation: Generation) -> dict[str, Any]:
    """Return the `usage` object of the chat and completions APIs."""
    prompt, output = generation.total_prompt_tokens, generation.output_tokens
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + output,
        "completion_tokens": output,
        "prompt_tokens_details": {
            "cached_tokens": generation.cached_tokens,
            "created_cache_tokens": generation.created_tokens,
            "multimodal_tokens": None,
        },
        "completion_tokens_details": None,
    }


def stream_usage_of(generation: Generation) -> dict[str, Any]:
    """Return the `usage` object of a stream's last chunk, which leaves out fields that are null."""
    usage = usage_of(generation)
    del usage["completion_tokens_details"], usage["prompt_tokens_details"]["multimodal_tokens"]
    return usage


def running_usage_of(generation: Generation, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return the `usage` object that every chunk carries where the request asks for `continuous_usage_stats`."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "completion_tokens": output_tokens,
        "completion_tokens_details": None,
    }


class StreamOptions:
    """The `stream_options` of a request."""

    def __init__(self, body: dict[str, Any]) -> None:
        options = body.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise invalid("Input should be a valid dictionary", param="stream_options")
        self.include_usage = bool(options and options.get("include_usage"))
        self.continuous = self.include_usage and bool(options and options.get("continuous_usage_stats"))


def token_logprob(piece: str, index: int, top: int) -> dict[str, Any]:
    """Make one entry of a chat answer's `logprobs.content`. The values are made up from the token's index, so they are
    the same every time."""
    logprob = -((index * 7) % 23) / 16
    entry: dict[str, Any] = {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}
    alternatives = [dict(entry)] + [
        {"token": f"alt{rank}", "logprob": logprob - rank, "bytes": list(f"alt{rank}".encode())}
        for rank in range(1, top)
    ]
    entry["top_logprobs"] = alternatives[:top]
    return entry


class ChatFormat:
    """Renders answers of the chat API; see `generation.Format`."""

    def __init__(self, plan: Plan, body: dict[str, Any]) -> None:
        self._options = StreamOptions(body)
        self._logprobs = body.get("logprobs") is True
        top = body.get("top_logprobs")
        self._top = min(top, 20) if isinstance(top, int) else 0
        self._base = {
            "id": plan.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": plan.model,
        }
        # Chunks of plain text differ in the text alone, so all that comes before it is encoded once, here. Any other
        # chunk is encoded as a whole.
        self._plain = not (self._logprobs or self._options.continuous or plan.tool is not None)
        self._heads: list[bytes] = []
        if self._plain:
            opening = msgspec.json.encode(self._base)[:-1]
            self._heads = [
                b'data: %b,"choices":[{"index":%d,"delta":{"content":' % (opening, index)
                for index in range(plan.n)
            ]

    def begin(self, generation: Generation) -> bytes:
        """Return the chunks that state each choice's role."""
        return b"".join(
            self._chunk(
                generation,
                choice,
                {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
                0,
                prompt_token_ids=None,
                prompt_text=None,
            )
            for choice in generation.choices
        )

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Return the chunk of one token; the last token's chunk carries the finish reason."""
        answer = choice.answer
        piece = answer.pieces[index]
        last = index + 1 == len(answer.pieces)
        if self._plain:
            text = msgspec.json.encode(piece)
            if not last:
                return b'%b%b},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n' % (
                    self._heads[choice.index],
                    text,
                )
            return (
                b'%b%b},"logprobs":null,"finish_reason":"%b","stop_reason":%b,"token_ids":null}]%b}\n\n'
                % (
                    self._heads[choice.index],
                    text,
                    answer.finish.value.encode(),
                    msgspec.json.encode(answer.stop),
                    b"" if self._options.include_usage else FINGERPRINT,
                )
            )
        delta: dict[str, Any] = {"content": piece}
        if answer.tool is not None:
            if index == 0:
                function = {"name": answer.tool.name, "arguments": ""}
                delta = {
                    "tool_calls": [
                        {"id": answer.tool.id, "type": "function", "index": 0, "function": function}
                    ]
                }
            elif piece:
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            elif last:
                delta = {"content": ""}
            else:
                return b""
        entry: dict[str, Any] = {"delta": delta, "logprobs": None, "finish_reason": None}
        if self._logprobs:
            entry["logprobs"] = {"content": [token_logprob(piece, index, self._top)]}
        if last:
            entry["finish_reason"] = answer.finish.value
            entry["stop_reason"] = answer.stop
        entry["token_ids"] = None
        return self._chunk(generation, choice, entry, index + 1)

    def _chunk(
        self, generation: Generation, choice: Choice, entry: dict[str, Any], tokens: int, **extra: Any
    ) -> bytes:
        chunk: dict[str, Any] = {**self._base, "choices": [{"index": choice.index, **entry}]}
        if self._options.continuous:
            chunk["usage"] = running_usage_of(generation, generation.total_prompt_tokens, tokens)
        if entry["finish_reason"] is not None and not self._options.include_usage:
            chunk["system_fingerprint"] = SYSTEM_FINGERPRINT
        return data_event({**chunk, **extra})

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
        plan = generation.plan
        return {
            **self._base,
            "object": "chat.completion",
            "choices": [self._choice(choice) for choice in generation.choices],
            "service_tier": None,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "usage": usage_of(generation),
            "prompt_logprobs": None if plan.reads_cache else prompt_logprobs_list(plan.prompts[0]),
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        answer = choice.answer
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        if answer.tool is not None:
            function = {"name": answer.tool.name, "arguments": answer.text}
            message["content"] = None
            message["tool_calls"] = [{"id": answer.tool.id, "type": "function", "function": function}]
        logprobs = None
        if self._logprobs:
            pieces = enumerate(answer.pieces)
            logprobs = {"content": [token_logprob(piece, index, self._top) for index, piece in pieces]}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": answer.finish.value,
            "stop_reason": answer.stop,
            "token_ids": None,
            "routed_experts": None,
        }
