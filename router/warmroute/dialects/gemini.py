"""Google's `generateContent` is translated to a chat request here: contents, instruction, tools and generation
settings.

Decides which message each part becomes, and refuses what no engine could serve. It reads nothing of answers
(`gemini_answers`) and knows no paths (`gemini_paths`). Field names are taken in both of Protocol Buffers' spellings.

The rule it keeps: what comes first is translated without regard to what comes after, so that two prompts which begin
with the same contents begin with the same messages. Calls without an id, which Google's API allows, are numbered in
order for the same reason.

Source: ai.google.dev/api/generate-content and /api/caching as of 2026-11; google-genai 1.x, `_Part_to_mldev` and
others.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from warmroute.caching.content import Prefix
from warmroute.core.errors import ClientError
from warmroute.dialects.gemini_contents import Turns, add_contents, instruction_text
from warmroute.dialects.gemini_fields import Json, field, refuse
from warmroute.dialects.gemini_settings import add_settings, chat_tools

IGNORED: Final = (
    "safetySettings",
    "labels",
    "serviceTier",
)
"""Fields of a request that engines have nothing for; named in a header of the answer."""
IGNORED_SETTINGS: Final = (
    "mediaResolution",
    "speechConfig",
    "audioTimestamp",
    "enableEnhancedCivicAnswers",
    "routingConfig",
    "modelSelectionConfig",
    "modelConfig",
    "responseLogprobs",
    "logprobs",
)
_PLACES: Final = ("systemInstruction", "tools", "toolConfig")


class Translated(NamedTuple):
    """A chat request, and what the answer's translation must know."""

    body: Json
    thoughts: bool
    """Whether the client wants to see what the model thought."""
    ignored: tuple[str, ...]
    """Names of fields that were given and do nothing."""


def prefix_of(request: Json) -> Prefix:
    """What a cached content holds: instruction, contents, tools.

    Raises:
        ClientError: Something in it cannot be translated.
    """
    turns = Turns([])
    instruction = field(request, "systemInstruction")
    if instruction is not None:
        text = instruction_text(instruction)
        if text:
            turns.messages.append({"role": "system", "content": text})
    add_contents(turns, request)
    tools, choice = chat_tools(field(request, "tools"), field(request, "toolConfig"))
    return Prefix(turns.messages, tools or None, choice)


def chat_request(model: str, request: Json, cached: Prefix | None, *, stream: bool) -> Translated:
    """The request to `/v1/chat/completions` that asks for the same.

    Args:
        cached: What the content that it names holds.

    Raises:
        ClientError: Something in it cannot be translated.
    """
    if cached is None:
        own = prefix_of(request)
        messages, tools, choice = own.messages, own.tools, own.tool_choice
    else:
        for name in _PLACES:
            if field(request, name):
                refuse(
                    name,
                    "cannot be given together with cachedContent: put it into the cached content instead, where it"
                    " comes before what is cached",
                )
        turns = Turns(list(cached.messages))
        add_contents(turns, request)
        messages, tools, choice = turns.messages, cached.tools, cached.tool_choice
    if not any(message["role"] != "system" for message in messages):
        raise ClientError(
            "contents: at least one content is required", code="prompt_required", param="contents"
        )
    body: Json = {"model": model, "messages": messages}
    if tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
    settings = field(request, "generationConfig")
    if settings is not None and not isinstance(settings, dict):
        refuse("generationConfig", "must be an object")
    thoughts = add_settings(body, settings or {})
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    ignored = [name for name in IGNORED if field(request, name)]
    ignored += [f"generationConfig.{name}" for name in IGNORED_SETTINGS if field(settings or {}, name)]
    return Translated(body, thoughts, tuple(ignored))


def counting_request(model: str, request: Json, cached: Prefix | None) -> Json:
    """The request to `/tokenize` that counts the same prompt."""
    whole = field(request, "generateContentRequest")
    chat = chat_request(model, whole if isinstance(whole, dict) else request, cached, stream=False).body
    return {name: chat[name] for name in ("model", "messages", "tools") if name in chat}
