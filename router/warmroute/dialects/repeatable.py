"""What a request asks, as far as it decides the answer: whether two requests ask the same is one comparison of bytes.

Decides what of a body counts (its meaning as JSON, not its bytes), whether its answer is determined by it, and which
part is the last thing that the user said. It keeps nothing, and whether an answer may be given twice at all is for
others to say (`service.response_cache`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from warmroute.core.types import Api

Json = dict[str, Any]

_COMPLETIONS: Final = Api.COMPLETIONS
_MESSAGES: Final = Api.MESSAGES
_RESPONSES: Final = Api.RESPONSES

IGNORED: Final = frozenset(
    (
        "client_metadata",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "user",
    )
)
"""What says who asks, or how it is served, and not what is asked. Responses repeat some of it in their answers, so
there all of it counts."""

MOST_TEXT: Final = 500
"""Letters of a last turn that can be compared by its meaning: what the rules were tried on, and far within the 512
tokens that small models of embeddings read."""

_TEXTS: Final = frozenset(("text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking"))
_MEDIA: Final = ("url", "uuid", "file_id", "image_uuid", "video_uuid", "audio_uuid")
_MEDIA_KINDS: Final = (
    "image_url", "video_url", "audio_url", "input_image", "input_file", "input_audio", "file", "image", "document",
    "image_embeds", "image_pil",
)  # fmt: skip
_MOST_DEPTH: Final = 64
_STORED: Final = ("background", "previous_response_id", "conversation", "prompt")
"""Fields of a response's request that name what a server has stored: a conversation, or a prompt of the account's."""
_SERVERS_OWN: Final = ("container", "mcp_servers", "web_search_options")
"""Fields with which a server looks elsewhere, or keeps something, as with tools of its own."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder().decode


class Repeatable:
    """One request, read."""

    __slots__ = ("around", "bypass", "meaning", "model", "sampled", "stream", "text")

    def __init__(self, model: str, stream: bool, bypass: str) -> None:
        self.model = model
        """Empty where the body names none."""
        self.stream = stream
        self.bypass = bypass
        """Why no recorded answer can be given to it, whatever the settings say; empty: one can."""
        self.sampled = False
        """The answer is drawn by chance: no temperature of 0, and no seed."""
        self.meaning = b""
        """What decides the answer, but for the model and how it is framed."""
        self.around = b""
        """The same without the last turn; empty where that is not one text of a user's."""
        self.text = ""
        """That turn."""


def read(api: Api, body: bytes | bytearray) -> Repeatable:
    """Read a body; nothing is raised whatever it holds."""
    try:
        request = _decode(body)
        if isinstance(request, dict):
            return _read(api, request)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    return Repeatable("", False, "unread")


def _read(api: Api, request: Json) -> Repeatable:
    model = request.get("model")
    stream = request.get("stream")
    if not isinstance(model, str | None) or not isinstance(stream, bool | None):
        return Repeatable("", False, "unread")
    found = Repeatable(model or "", bool(stream), _bypass(api, request))
    if found.bypass:
        return found
    found.sampled = not _determined(api, request)
    asked = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in request.items()
        if name not in ("model", "stream") and (api is _RESPONSES or name not in IGNORED)
    }
    found.meaning = _encode(asked)
    turn = _last_turn(api, asked)
    if turn is not None:
        found.text, without = turn
        found.around = _encode({**asked, **without})
    return found


def _bypass(api: Api, request: Json) -> str:
    for name in ("n", "best_of"):
        count = request.get(name)
        if count is not None and (isinstance(count, bool) or count != 1):
            return "several"
    if request.get("kv_transfer_params"):
        return "stored"  # blocks that an engine holds for this request
    if api is _RESPONSES:
        if request.get("store") is not False:
            return "stored"
        if any(request.get(name) for name in _STORED):
            return "stored"
    if api is _MESSAGES and request.get("max_tokens") == 0:
        return "prewarms"  # it wants its prompt computed, and no answer
    tools = request.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(_is_clients(tool) for tool in tools)):
        return "tools"
    if any(request.get(name) is not None for name in _SERVERS_OWN):
        return "tools"
    for name in ("messages", "input", "system", "prompt"):
        if _outside(request.get(name), 0):
            return "media"
    return ""


def _is_clients(tool: Any) -> bool:
    """Whether a tool is the client's to call: one that a server calls may answer otherwise next time."""
    if not isinstance(tool, dict):
        return False
    kind = tool.get("type")
    return kind in (None, "function", "custom")


def _outside(value: Any, depth: int) -> bool:
    """Whether a prompt refers to what is not in it, such as an image by its URL: that may change."""
    if depth > _MOST_DEPTH:
        return True
    if isinstance(value, list):
        return any(_outside(one, depth + 1) for one in value)
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    if kind in _MEDIA_KINDS or "file_id" in value or any(name in value for name in _MEDIA_KINDS):
        return _refers(value, depth)
    if isinstance(kind, str) and kind not in _TEXTS and kind.endswith("_reference"):
        return True
    return any(_outside(value.get(name), depth + 1) for name in ("content", "output"))


def _refers(value: Any, depth: int) -> bool:
    if depth > _MOST_DEPTH:
        return True
    if isinstance(value, list):
        return any(_refers(one, depth + 1) for one in value)
    if isinstance(value, str):
        return False
    if not isinstance(value, dict):
        return False
    for name, one in value.items():
        if isinstance(one, str):
            if (name in _MEDIA or name in _MEDIA_KINDS) and not one.startswith("data:") and name != "type":
                return True
        elif _refers(one, depth + 1):
            return True
    return False


def _determined(api: Api, request: Json) -> bool:
    temperature = request.get("temperature")
    if isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0:
        return True
    seed = request.get("seed")
    return api is not _MESSAGES and isinstance(seed, int) and not isinstance(seed, bool)


def _last_turn(api: Api, asked: Json) -> tuple[str, Json] | None:
    """The user's last text, and the fields that are there without it."""
    name = "input" if api is _RESPONSES else "messages"
    turns = asked.get(name)
    if api is _COMPLETIONS:
        return None
    if isinstance(turns, str):
        return (turns, {name: None}) if _comparable(turns) else None
    if not isinstance(turns, list) or not turns:
        return None
    last = turns[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, list) and len(content) == 1:
        part = content[0]
        if not isinstance(part, dict) or part.keys() - {"type", "text"} or part.get("type") not in _TEXTS:
            return None
        content = part.get("text")
    if not isinstance(content, str) or not _comparable(content):
        return None
    return content, {name: [*turns[:-1], {**last, "content": None}]}


def _comparable(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MOST_TEXT
