"""This module serves `/v1/responses`: it makes a chat of each request, and renders the answer as items or as events.

It keeps answers for later turns, and decides what a stored answer holds. It does not reproduce reasoning items,
built-in tools and conversations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from warmroute_replica.sim.answers import Finish
from warmroute_replica.sim.errors import ApiError, invalid
from warmroute_replica.sim.generation import Choice, Generation, Plan, limits_of, priority_of, salt_of
from warmroute_replica.sim.simulated_replica import SimulatedReplica
from warmroute_replica.sim.streaming import event
from warmroute_replica.sim.template import (
    Message,
    Tool,
    ToolCall,
    Turn,
    content_text,
    list_field,
    render,
    tool_of,
)


@dataclass(slots=True)
class StoredResponse:
    """A stored answer: what `previous_response_id` and `GET /v1/responses/{id}` need of it."""

    body: dict[str, Any]
    messages: list[Message]
    """The conversation, this answer included once it is complete. Instructions are left out, since later turns do not
    carry them on."""
    generation: Generation | None = None
    """The generation that makes a background answer; None once the answer is complete."""


def _items(items: Any) -> list[Message]:
    """Return the chat messages that a request's `input` holds.

    Raises:
        ApiError: 400, `input` is not what the API expects.
    """
    if isinstance(items, str):
        return [Message("user", items)]
    if not isinstance(items, list) or not items:
        raise invalid("input: a string or a list of at least one item is required", param="input")
    messages: list[Message] = []
    for item in items:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message" and isinstance(item.get("role"), str):
            messages.append(Message(item["role"], content_text(item.get("content"), "input")))
        elif kind == "function_call":
            call = ToolCall(str(item.get("call_id")), str(item.get("name")), str(item.get("arguments")))
            if messages and messages[-1].role == "assistant":
                messages[-1] = Message("assistant", messages[-1].text, [*messages[-1].calls, call])
            else:
                messages.append(Message("assistant", "", [call]))
        elif kind == "function_call_output":
            text = content_text(item.get("output"), "input")
            messages.append(Message("tool", f"<tool_response>\n{text}\n</tool_response>"))
        elif kind == "reasoning":
            continue
        else:
            raise invalid(f"Unknown input item: {kind}", param="input")
    return messages


def _tools(body: dict[str, Any]) -> list[Tool]:
    tools = []
    for index, entry in enumerate(list_field(body, "tools")):
        if not isinstance(entry, dict):
            raise invalid(f"tools[{index}] should be a valid dictionary", param="tools")
        if entry.get("type") == "function":
            tools.append(
                tool_of(entry.get("name"), entry.get("description"), entry.get("parameters"), index=index)
            )
    return tools


def stored(replica: SimulatedReplica, response_id: str) -> StoredResponse:
    """Return a stored answer by its id.

    Raises:
        ApiError: 404, this replica does not keep such an answer.
    """
    entry = replica.responses.get(response_id)
    if not isinstance(entry, StoredResponse):
        raise ApiError(
            404, f"Response with id '{response_id[:256]}' not found.", kind="invalid_request_error"
        )
    return entry


def plan_response(
    replica: SimulatedReplica, body: dict[str, Any], request_id: str
) -> tuple[Plan, ResponsesFormat]:
    """Read a responses request.

    Raises:
        ApiError: 400 where a field is not what the API expects, 404 for an unknown model or previous response.
    """
    model = replica.resolve_model(body.get("model"))
    messages: list[Message] = []
    previous = body.get("previous_response_id")
    if previous is not None:
        messages.extend(stored(replica, str(previous)).messages)
    messages.extend(_items(body.get("input")))
    instructions = body.get("instructions")
    prompt_messages = messages
    if isinstance(instructions, str) and instructions:
        prompt_messages = [Message("system", instructions), *messages]
    choice = body.get("tool_choice")
    forced = choice if choice in ("none", "required") else None
    if isinstance(choice, dict) and choice.get("type") == "function":
        forced = f"={choice.get('name')}"
    turn = Turn(prompt_messages, _tools(body), forced)
    prompt = render(turn)
    limits = limits_of(replica, prompt, body.get("max_output_tokens"))
    plan = Plan(
        f"resp_{request_id}",
        model,
        [prompt],
        [limits],
        salt_of(body),
        1,
        turn.chosen_tool(),
        priority=priority_of(body),
    )
    return plan, ResponsesFormat(replica, plan, body, messages)


class ResponsesFormat:
    """Renders answers of the responses API and stores them; see `generation.Format`."""

    def __init__(
        self, replica: SimulatedReplica, plan: Plan, body: dict[str, Any], messages: list[Message]
    ) -> None:
        self._replica = replica
        self._plan = plan
        self._request = body
        self._messages = messages
        self._created_s = int(time.time())
        self._sequence = 0
        self._item_id = plan.id.replace("resp_", "msg_" if plan.tool is None else "fc_", 1)
        self._keep = body.get("store") is not False
        self.background = body.get("background") is True

    def begin(self, generation: Generation) -> bytes:
        """Return the events that open the response, the item and the part."""
        opening = self._response("in_progress", [], None)
        out = self._event("response.created", response=opening) + self._event(
            "response.in_progress", response=opening
        )
        item = self._item(generation, "in_progress", "")
        if generation.choices[0].answer.tool is None:
            item["content"] = []
        out += self._event("response.output_item.added", output_index=0, item=item)
        if generation.choices[0].answer.tool is None:
            out += self._part_event("response.content_part.added", part=self._part(""))
        return out

    def token(self, generation: Generation, choice: Choice, index: int) -> bytes:
        """Return one token's delta."""
        piece = choice.answer.pieces[index]
        if choice.answer.tool is None:
            return self._part_event("response.output_text.delta", delta=piece, logprobs=[])
        if not piece:
            return b""
        return self._event(
            "response.function_call_arguments.delta", item_id=self._item_id, output_index=0, delta=piece
        )

    def end(self, generation: Generation) -> bytes:
        """Return the events that close the part, the item and the response."""
        answer = generation.choices[0].answer
        if answer.tool is None:
            out = self._part_event("response.output_text.done", text=answer.text, logprobs=[])
            out += self._part_event("response.content_part.done", part=self._part(answer.text))
        else:
            out = self._event(
                "response.function_call_arguments.done",
                item_id=self._item_id,
                output_index=0,
                name=answer.tool.name,
                arguments=answer.text,
            )
        item = self._item(generation, "completed", answer.text)
        out += self._event("response.output_item.done", output_index=0, item=item)
        return out + self._event("response.completed", response=self.body(generation))

    def body(self, generation: Generation) -> dict[str, Any]:
        """Return the body of a whole answer, and keep the answer unless the request asks not to."""
        answer = generation.choices[0].answer
        status = "incomplete" if answer.finish in (Finish.LENGTH, Finish.ABORT) else "completed"
        usage = {
            "input_tokens": generation.total_prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": generation.cached_tokens,
                "cache_write_tokens": generation.created_tokens,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": generation.output_tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": generation.total_prompt_tokens + generation.output_tokens,
        }
        body = self._response(status, [self._item(generation, "completed", answer.text)], usage)
        if self._keep:
            text, calls = (answer.text, []) if answer.tool is None else ("", [answer.tool])
            if answer.tool is not None:
                calls = [ToolCall(answer.tool.id, answer.tool.name, answer.text)]
            messages = [*self._messages, Message("assistant", text, calls)]
            self._replica.store_response(self._plan.id, StoredResponse(body, messages))
        return body

    def queued(self, generation: Generation) -> dict[str, Any]:
        """Return the answer to a background request, which is kept until the complete answer replaces it."""
        body = self._response("queued", [], None)
        self._replica.store_response(self._plan.id, StoredResponse(body, self._messages, generation))
        return body

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._sequence
        self._sequence += 1
        return event(kind, {"type": kind, "sequence_number": number, **fields})

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, generation: Generation, status: str, text: str) -> dict[str, Any]:
        tool = generation.choices[0].answer.tool
        if tool is not None:
            return {
                "type": "function_call",
                "id": self._item_id,
                "call_id": tool.id,
                "name": tool.name,
                "arguments": text,
                "status": status,
            }
        return {
            "type": "message",
            "id": self._item_id,
            "role": "assistant",
            "status": status,
            "content": [self._part(text)],
        }

    def _response(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        request = self._request
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._plan.id,
            "created_at": self._created_s,
            "incomplete_details": details,
            "instructions": request.get("instructions"),
            "metadata": request.get("metadata"),
            "model": self._plan.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": request.get("parallel_tool_calls", True),
            "temperature": request.get("temperature", 1.0),
            "tool_choice": request.get("tool_choice", "auto"),
            "tools": request.get("tools") or [],
            "top_p": request.get("top_p", 1.0),
            "background": self.background,
            "max_output_tokens": request.get("max_output_tokens"),
            "max_tool_calls": None,
            "previous_response_id": request.get("previous_response_id"),
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": usage,
            "user": request.get("user"),
        }


def run_in_background(generation: Generation, fmt: ResponsesFormat) -> dict[str, Any]:
    """Start an answer for which no client waits, and return the queued one; once complete, the answer replaces the
    queued one in the store."""
    generation.start()

    def finish(_future: object) -> None:
        if not generation.done.cancelled():
            fmt.body(generation)
        generation.close()

    generation.done.add_done_callback(finish)
    return fmt.queued(generation)


def cancel(replica: SimulatedReplica, response_id: str) -> dict[str, Any]:
    """Cancel a background answer.

    Raises:
        ApiError: 404, this replica does not keep such an answer; 400, the answer is not under way.
    """
    entry = stored(replica, response_id)
    if entry.generation is None:
        raise ApiError(400, "Cannot cancel a synchronous response.", kind="invalid_request_error")
    entry.generation.close()
    entry.generation = None
    entry.body = {**entry.body, "status": "cancelled"}
    return entry.body
