"""This module serves `/v1/messages`, Anthropic's API as vLLM has it: it makes a chat of each request, and renders the
answer in Anthropic's shape.

Of what the engine sees, it decides only that conversion. It does not reproduce thinking blocks (their text becomes text
of the turn that they are in), citations and server-side tools.
"""

from __future__ import annotations

from typing import Any

import msgspec

from warmroute_replica.sim.answers import Answer, Finish
from warmroute_replica.sim.errors import invalid
from warmroute_replica.sim.generation import Choice, Generation, Plan, limits_of, salt_of
from warmroute_replica.sim.simulated_replica import SimulatedReplica
from warmroute_replica.sim.streaming import DONE, event
from warmroute_replica.sim.template import (
    Message,
    ToolCall,
    Turn,
    content_text,
    list_field,
    part_text,
    render,
    tool_of,
)

MAX_TOKENS_CEILING = 1024
"""This API requires `max_tokens`, and most clients send a generous bound. A value above this one only bounds the
answer's length; one up to it is the answer's length."""

BILLING = "x-anthropic-billing-header"
"""How Claude Code's attribution block begins. vLLM leaves that block out of the prompt, since it differs in every
request."""

_STOP_REASONS = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.TOOL_CALLS: "tool_use",
    Finish.ABORT: "end_turn",
}


def messages_turn(body: dict[str, Any]) -> Turn:
    """Return the conversation in a messages request.

    Raises:
        ApiError: 400, a field is not what the API expects.
    """
    entries = body.get("messages")
    if not isinstance(entries, list) or not entries:
        raise invalid("messages: a list of at least one message is required", param="messages")
    messages: list[Message] = []
    system = body.get("system")
    text = system if isinstance(system, str) else _system_text(system, "system")
    if text:
        messages.append(Message("system", text))
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
            raise invalid("each message needs a role", param="messages")
        if entry["role"] == "system":
            content = entry.get("content")
            text = _system_text([content] if isinstance(content, str) else content, "messages")
            if text:
                messages.append(Message("system", text))
            continue
        messages.extend(_messages_of(entry["role"], entry.get("content")))
    tools = [
        tool_of(entry.get("name"), entry.get("description"), entry.get("input_schema"), index=index)
        if isinstance(entry, dict)
        else tool_of(None, None, None, index=index)
        for index, entry in enumerate(list_field(body, "tools"))
    ]
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    forced = {
        "any": "required",
        "none": "none",
        "tool": f"={choice.get('name')}" if isinstance(choice, dict) else "",
    }
    return Turn(messages, tools, forced.get(str(kind)))


def _system_text(content: Any, param: str) -> str:
    """Return the text of a system prompt's blocks, without the attribution block, which differs in every request (as
    vLLM's `serving.py` does)."""
    if not isinstance(content, list):
        return content_text(content, param)
    texts = [part_text(part, param) for part in content]
    return "".join([text for text in texts if not text.startswith(BILLING)])


def _messages_of(role: str, content: Any) -> list[Message]:
    """Return the chat messages of one Anthropic message. Each tool result becomes a message of its own, before the
    rest."""
    if not isinstance(content, list):
        return [Message(role, content_text(content))]
    results: list[Message] = []
    texts: list[str] = []
    calls: list[ToolCall] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_use":
            arguments = msgspec.json.encode(part.get("input") or {}).decode()
            calls.append(ToolCall(str(part.get("id")), str(part.get("name")), arguments))
        elif kind == "tool_result":
            text = content_text(part.get("content"))
            results.append(Message("tool", f"<tool_response>\n{text}\n</tool_response>"))
        elif kind in ("thinking", "redacted_thinking"):
            texts.append(str(part.get("thinking", part.get("data", ""))))
        else:
            texts.append(part_text(part, "messages"))
    if texts or calls or not results:
        results.append(Message(role, "".join(texts), calls))
    return results


def plan_message(
    replica: SimulatedReplica, body: dict[str, Any], request_id: str
) -> tuple[Plan, MessageFormat]:
    """Read a messages request.

    Raises:
        ApiError: 400 where a field is not what the API expects, 404 for an unknown model.
    """
    model = replica.resolve_model(body.get("model"))
    turn = messages_turn(body)
    prompt = render(turn)
    if body.get("max_tokens") is None:
        raise invalid("max_tokens: Field required", param="max_tokens")
    limits = limits_of(
        replica,
        prompt,
        body["max_tokens"],
        stop=body.get("stop_sequences"),
        ceiling_above=None if body.get("ignore_eos") else MAX_TOKENS_CEILING,
    )
    plan = Plan(f"chatcmpl-{request_id}", model, [prompt], [limits], salt_of(body), 1, turn.chosen_tool())
    return plan, MessageFormat(plan)


def _stop_reason(answer: Answer) -> str:
    return "stop_sequence" if answer.stop is not None else _STOP_REASONS[answer.finish]


class MessageFormat:
    """Renders answers of Anthropic's API; see `generation.Format`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._heads = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'

    def begin(self, generation: Generation) -> bytes:
        """Return `message_start`, and the start of the only content block."""
        answer = generation.choices[0].answer
        message = self._message(generation, [], None, None, output_tokens=0)
        block: dict[str, Any] = {"type": "text", "text": ""}
        if answer.tool is not None:
            block = {"type": "tool_use", "id": answer.tool.id, "name": answer.tool.name, "input": {}}
        return event("message_start", {"type": "message_start", "message": message}) + event(
            "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}
        )

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Return one token's delta."""
        answer = choice.answer
        piece = answer.pieces[index]
        out = b""
        if answer.tool is None:
            out = b'%b{"type":"text_delta","text":%b}}\n\n' % (self._heads, msgspec.json.encode(piece))
        elif piece:
            delta = msgspec.json.encode(piece)
            out = b'%b{"type":"input_json_delta","partial_json":%b}}\n\n' % (self._heads, delta)
        return out

    def end(self, generation: Generation) -> bytes:
        """Return the end of the block, `message_delta` with the usage, and `message_stop`."""
        answer = generation.choices[0].answer
        delta = {"stop_reason": _stop_reason(answer), "stop_sequence": answer.stop}
        usage = self._usage(generation, generation.output_tokens)
        return (
            event("content_block_stop", {"type": "content_block_stop", "index": 0})
            + event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})
            + event("message_stop", {"type": "message_stop"})
            + DONE
        )

    def body(self, generation: Generation) -> dict[str, Any]:
        """Return the body of a whole answer."""
        answer = generation.choices[0].answer
        block: dict[str, Any] = {"type": "text", "text": answer.text}
        if answer.tool is not None:
            try:
                arguments = msgspec.json.decode(answer.text)
            except msgspec.DecodeError:
                # The call was cut off by max_tokens, so its arguments are no JSON.
                arguments = {}
            block = {"type": "tool_use", "id": answer.tool.id, "name": answer.tool.name, "input": arguments}
        return self._message(
            generation, [block], _stop_reason(answer), answer.stop, output_tokens=generation.output_tokens
        )

    def _message(
        self,
        generation: Generation,
        content: list[dict[str, Any]],
        stop_reason: str | None,
        stop_sequence: str | None,
        *,
        output_tokens: int,
    ) -> dict[str, Any]:
        return {
            "id": self._plan.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._plan.model,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": self._usage(generation, output_tokens),
        }

    def _usage(self, generation: Generation, output_tokens: int) -> dict[str, int]:
        cached, created = generation.cached_tokens, generation.created_tokens
        return {
            "input_tokens": generation.total_prompt_tokens - cached - created,
            "output_tokens": output_tokens,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": cached,
        }
