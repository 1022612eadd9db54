"""Tools and generation settings of Google's API become those of a chat request here."""

from __future__ import annotations

from typing import Any, Final

from warmroute.dialects.gemini_fields import Json, field, refuse
from warmroute.dialects.gemini_schema import json_schema

_NUMBERS: Final = {
    "temperature": "temperature",
    "topP": "top_p",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
_COUNTS: Final = {"topK": "top_k", "maxOutputTokens": "max_tokens", "candidateCount": "n", "seed": "seed"}


def chat_tools(tools: Any, config: Any) -> tuple[list[Json], Any]:
    """Functions, and the choice among them; None: nothing is said of that.

    Raises:
        ClientError: A tool is none that an engine could be given.
    """
    if isinstance(tools, dict):
        tools = [tools]
    if tools is not None and not isinstance(tools, list):
        refuse("tools", "must be a list")
    functions: list[Json] = []
    for index, tool in enumerate(tools or ()):
        declared = field(tool, "functionDeclarations") if isinstance(tool, dict) else None
        if declared is None and tool == {}:
            continue
        if not isinstance(declared, list):
            names = ", ".join(sorted(tool))[:100] if isinstance(tool, dict) else "no object"
            refuse(
                f"tools[{index}]",
                f"holds {names}: an engine has no tools of its own, only functionDeclarations",
            )
        for number, one in enumerate(declared):
            functions.append(_function(one, f"tools[{index}].functionDeclarations[{number}]"))
    calling = field(config, "functionCallingConfig") if isinstance(config, dict) else None
    if not isinstance(calling, dict) or not functions:
        return functions, None
    mode = str(calling.get("mode") or "AUTO").upper()
    allowed = _list(calling, "allowedFunctionNames", "toolConfig.functionCallingConfig")
    if mode in ("AUTO", "MODE_UNSPECIFIED", "VALIDATED"):
        return functions, "auto"
    if mode == "NONE":
        return functions, "none"
    if mode != "ANY":
        refuse("toolConfig.functionCallingConfig.mode", "must be AUTO, ANY, NONE or VALIDATED")
    if len(allowed) == 1:
        return functions, {"type": "function", "function": {"name": allowed[0]}}
    if allowed:
        functions = [one for one in functions if one["function"]["name"] in allowed]
    return functions, "required"


def _list(source: Json, name: str, where: str) -> list[Any]:
    found = field(source, name) or []
    if not isinstance(found, list):
        refuse(f"{where}.{name}", "must be a list")
    return found


def _function(declared: Any, where: str) -> Json:
    if not isinstance(declared, dict) or not isinstance(declared.get("name"), str):
        refuse(where, "must have a name")
    function: Json = {"name": declared["name"]}
    if isinstance(declared.get("description"), str):
        function["description"] = declared["description"]
    schema = field(declared, "parametersJsonSchema")
    if schema is None and declared.get("parameters") is not None:
        schema = json_schema(declared["parameters"], f"{where}.parameters")
    if schema is not None:
        function["parameters"] = schema
    return {"type": "function", "function": function}


def add_settings(body: Json, settings: Json) -> bool:
    """Add what engines are told how to answer. Returns whether thoughts are to be shown.

    Raises:
        ClientError: A setting has a value that engines have nothing for.
    """
    for name, own in _NUMBERS.items():
        value = field(settings, name)
        if value is not None:
            body[own] = value
    for name, own in _COUNTS.items():
        value = field(settings, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            refuse(f"generationConfig.{name}", "must be a whole number")
        body[own] = int(value)
    stop = field(settings, "stopSequences")
    if stop:
        body["stop"] = stop
    for modality in _list(settings, "responseModalities", "generationConfig"):
        if str(modality).upper() not in ("TEXT", "MODALITY_UNSPECIFIED"):
            refuse(
                "generationConfig.responseModalities", "can only be TEXT: engines of this fleet write text"
            )
    _add_format(body, settings)
    thinking = field(settings, "thinkingConfig")
    return isinstance(thinking, dict) and field(thinking, "includeThoughts") is True


def _add_format(body: Json, settings: Json) -> None:
    kind = field(settings, "responseMimeType") or "text/plain"
    schema = field(settings, "responseJsonSchema")
    if schema is None and field(settings, "responseSchema") is not None:
        schema = json_schema(field(settings, "responseSchema"), "generationConfig.responseSchema")
    if kind == "application/json":
        if schema is None:
            body["response_format"] = {"type": "json_object"}
        else:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "response", "schema": schema},
            }
    elif kind == "text/x.enum" and isinstance(schema, dict) and schema.get("enum"):
        body["structured_outputs"] = {"choice": schema["enum"]}
    elif kind != "text/plain":
        refuse(
            "generationConfig.responseMimeType",
            "must be text/plain, application/json, or text/x.enum with an enum",
        )
    elif schema is not None:
        refuse("generationConfig.responseSchema", "needs responseMimeType: application/json")
