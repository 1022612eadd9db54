"""The chat template, ChatML with tools, turns messages into the bytes for which an engine computes KV.

This module decides the prompt's order and framing. The modules of the chat, messages and responses APIs convert each
request to a `Turn`, as vLLM converts it to chat messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from warmroute_replica.sim.errors import invalid

IMAGE_TOKENS_TEXT = "<|image_pad|>" * 64
"""The text that stands for an image in the prompt: about 200 tokens, like a small picture in Qwen2-VL."""


@dataclass(slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(slots=True)
class ToolCall:
    """A call that the model makes, or made in an earlier turn."""

    id: str
    name: str
    arguments: str
    """The arguments as JSON text."""

    def rendered(self) -> str:
        """Return the call as the model writes it."""
        return (
            f'<tool_call>\n{{"name": {json.dumps(self.name)}, "arguments": {self.arguments}}}\n</tool_call>'
        )


@dataclass(slots=True)
class Message:
    """One message of the conversation."""

    role: str
    text: str
    calls: list[ToolCall] = field(default_factory=list)


@dataclass(slots=True)
class Turn:
    """A conversation that waits for its next message."""

    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    tool_choice: str | None = None
    """None leaves the choice to the model; else `"none"`, `"required"`, or `"=NAME"` to force a tool."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def chosen_tool(self) -> Tool | None:
        """The tool that the simulated model calls: the forced one, or the first when the user asks for a call."""
        if not self.tools or self.tool_choice == "none":
            return None
        if self.tool_choice is not None and self.tool_choice.startswith("="):
            name = self.tool_choice[1:]
            for tool in self.tools:
                if tool.name == name:
                    return tool
            raise invalid(
                f"The tool specified in `tool_choice` does not match any of the specified `tools`: {name}"
            )
        last = self.messages[-1] if self.messages else None
        asked = last is not None and last.role == "user" and "call the tool" in last.text.lower()
        return self.tools[0] if asked or self.tool_choice == "required" else None


def render(turn: Turn, *, generate: bool = True, open_end: bool = False) -> bytes:
    """Return the prompt's bytes: system message and tools, then the messages, then the opening of the assistant's
    message.

    Args:
        open_end: Whether the last message is left without its end, so that the model goes on with it.
    """
    messages = turn.messages
    system = ""
    if messages and messages[0].role in ("system", "developer"):
        system = messages[0].text
        messages = messages[1:]
    parts: list[str] = []
    if turn.template_kwargs:
        parts.append(f"<|template|>{json.dumps(turn.template_kwargs, sort_keys=True)}\n")
    if turn.tools:
        listed = "\n".join(
            json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.schema})
            for tool in turn.tools
        )
        system += (
            f"\n\n# Tools\n\nCall functions within <tool_call></tool_call>.\n<tools>\n{listed}\n</tools>"
        )
    if system:
        parts.append(f"<|im_start|>system\n{system}<|im_end|>\n")
    for message in messages:
        calls = "\n".join(call.rendered() for call in message.calls)
        between = "\n" if calls and message.text else ""
        parts.append(f"<|im_start|>{message.role}\n{message.text}{between}{calls}<|im_end|>\n")
    if open_end:
        parts[-1] = parts[-1].removesuffix("<|im_end|>\n")
    elif generate:
        parts.append("<|im_start|>assistant\n")
    return encode("".join(parts))


def encode(text: str) -> bytes:
    """Encode text that came out of JSON as UTF-8; lone surrogates, which such text may hold, become `?`."""
    return text.encode("utf-8", "replace")


def content_text(content: Any, param: str = "messages") -> str:
    """Return the text of a message's content, which is a string or a list of parts of any of the three APIs. Media
    become a digest."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid("Input should be a valid string or list of content parts", param=param)
    return "".join(part_text(part, param) for part in content)


def part_text(part: Any, param: str) -> str:
    """Return the text of one content part."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise invalid("Input should be a valid content part", param=param)
    text = part.get("text", part.get("refusal"))
    if isinstance(text, str):
        return text
    kind = str(part.get("type"))
    if "image" in kind or "audio" in kind or "video" in kind or "file" in kind or "document" in kind:
        digest = hashlib.sha256(encode(json.dumps(part, sort_keys=True))).hexdigest()
        return f"<|vision_start|>{digest}{IMAGE_TOKENS_TEXT}<|vision_end|>"
    raise invalid(f"Unknown content part type: {kind}", param=param)


def tool_of(name: Any, description: Any, schema: Any, *, index: int) -> Tool:
    """Make a tool from an API's fields."""
    if not isinstance(name, str) or not name:
        raise invalid(f"tools[{index}] needs a name", param="tools")
    return Tool(
        name, description if isinstance(description, str) else "", schema if isinstance(schema, dict) else {}
    )


def list_field(body: dict[str, Any], name: str) -> Sequence[Any]:
    """Return a list in a request's body; an absent list is empty.

    Raises:
        ApiError: 400, the field is no list.
    """
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid("Input should be a valid list", param=name)
    return value
