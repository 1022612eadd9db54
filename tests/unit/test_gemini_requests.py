"""Google's requests become chat requests."""

from __future__ import annotations

from typing import Any

import pytest

from warmroute.caching.content import Prefix
from warmroute.core.errors import ClientError
from warmroute.dialects.gemini import chat_request, counting_request, prefix_of


def chat(cached: dict[str, Any] | None = None, **request: Any) -> dict[str, Any]:
    prefix = None if cached is None else prefix_of(cached)
    return chat_request("m", request, prefix, stream=False).body


def said(*texts: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


def test_a_conversation_with_an_instruction() -> None:
    body = chat(
        systemInstruction=said("Be kind.", "Be short."),
        contents=[said("Hello"), said("Hi", role="model"), {"parts": {"text": "Bye"}}],
    )
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be kind.\nBe short."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Bye"},
        ],
    }


def test_fields_are_known_in_both_spellings() -> None:
    snake = chat(
        system_instruction=said("S"), contents=[said("x")], generation_config={"max_output_tokens": 3}
    )
    camel = chat(systemInstruction=said("S"), contents=[said("x")], generationConfig={"maxOutputTokens": 3})
    assert snake == camel
    assert camel["max_tokens"] == 3


def test_what_one_side_says_in_a_row_is_one_message() -> None:
    body = chat(contents=[said("a"), said("b"), said("c", role="model"), said("d", role="model"), said("e")])
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "cd"},
        {"role": "user", "content": "e"},
    ]


def test_pictures_and_files_are_parts() -> None:
    parts = [
        {"text": "What is it?"},
        {"inlineData": {"mimeType": "image/png", "data": "_-8"}},
        {"fileData": {"mimeType": "video/mp4", "fileUri": "https://x/y.mp4"}},
    ]
    (message,) = chat(contents=[{"role": "user", "parts": parts}])["messages"]
    assert message["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,/+8="}},
        {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}},
    ]


def test_calls_and_their_answers_find_each_other_with_and_without_ids() -> None:
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    body = chat(
        contents=[
            said("go"),
            {"role": "model", "parts": [{"text": "so"}, call, {"functionCall": {"name": "g", "id": "own"}}]},
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "g", "id": "own", "response": {"r": 2}}},
                    {"functionResponse": {"name": "f", "response": {"r": 1}}},
                    {"text": "well?"},
                ],
            },
        ]
    )
    _, asked, first, second, last = body["messages"]
    assert asked["content"] == "so"
    assert [(one["id"], one["function"]) for one in asked["tool_calls"]] == [
        ("call_1", {"name": "f", "arguments": '{"a":1}'}),
        ("own", {"name": "g", "arguments": "{}"}),
    ]
    assert (first["tool_call_id"], first["content"]) == ("own", '{"r":2}')
    assert (second["tool_call_id"], second["content"]) == ("call_1", '{"r":1}')
    assert last == {"role": "user", "content": "well?"}


class Name(str):
    """One that counts how often names are compared."""

    compared = 0
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("answered", ["f", "g"])
def test_many_calls_and_answers_are_not_looked_for_one_by_one(answered: str) -> None:
    """Nobody waits for the other requests of a router whose loop a single one holds up for seconds."""
    Name.compared = 0
    calls = [{"functionCall": {"name": Name("f"), "id": None}} for _ in range(200)]
    answers = [{"functionResponse": {"name": Name(answered)}} for _ in range(200)]
    messages = chat(contents=[{"role": "model", "parts": calls}, {"parts": answers}])["messages"]
    ids = [message["tool_call_id"] for message in messages[1:]]
    assert ids == [f"call_{number + 1}" if answered == "f" else "call_g" for number in range(200)]
    assert Name.compared < 2000


def test_an_id_that_is_no_text_is_none() -> None:
    call = {"role": "model", "parts": [{"functionCall": {"name": "f", "id": {"x": 1}}}]}
    messages = chat(contents=[call, {"parts": [{"functionResponse": {"name": "f", "id": [1]}}]}])["messages"]
    assert messages[0]["tool_calls"][0]["id"] == messages[1]["tool_call_id"] == "call_1"


def test_an_answer_by_id_is_not_the_next_one_by_name() -> None:
    calls = [{"functionCall": {"name": "f", "id": one}} for one in ("a", "b", "a")]
    answers = [{"functionResponse": {"name": "f", **by}} for by in ({"id": "a"}, {}, {}, {"id": "z"})]
    messages = chat(contents=[{"role": "model", "parts": calls}, {"parts": answers}])["messages"]
    assert [message["tool_call_id"] for message in messages[1:]] == ["a", "b", "a", "z"]


def test_a_call_in_a_cached_content_is_answered_by_what_uses_it() -> None:
    cached = {"contents": [said("go"), {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}]}
    body = chat(cached, contents=[{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}])
    assert body["messages"][-1]["tool_call_id"] == body["messages"][1]["tool_calls"][0]["id"]


def test_thoughts_of_before_are_not_said_again() -> None:
    body = chat(
        contents=[said("x"), {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "y"}]}]
    )
    assert body["messages"][1] == {"role": "assistant", "content": "y"}


def test_what_uses_a_content_begins_with_what_it_holds() -> None:
    cached = {
        "systemInstruction": said("S"),
        "contents": [said("long")],
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    }
    body = chat(cached, contents=[said("question")])
    assert body["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "long"}, {"type": "text", "text": "question"}]},
    ]
    assert body["tools"] == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    "field",
    [{"systemInstruction": said("x")}, {"tools": [{"functionDeclarations": []}]}, {"toolConfig": {"a": 1}}],
)
def test_nothing_may_come_before_a_cached_content(field: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="together with cachedContent"):
        chat({"contents": [said("long")]}, contents=[said("x")], **field)


def test_functions_their_schemas_and_the_choice() -> None:
    schema = {
        "type": "OBJECT",
        "properties": {
            "city": {"type": "STRING", "nullable": True, "enum": ["Rome"], "format": "enum"},
            "days": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "1"},
        },
        "propertyOrdering": ["city"],
        "required": ["city"],
    }
    declared = [
        {"name": "weather", "description": "d", "parameters": schema},
        {"name": "plain", "parametersJsonSchema": {"type": "object"}},
    ]
    body = chat(
        contents=[said("x")],
        tools=[{"functionDeclarations": declared}, {}],
        toolConfig={"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
    )
    assert body["tools"][0]["function"] == {
        "name": "weather",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": ["string", "null"], "enum": ["Rome", None]},
                "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            },
            "required": ["city"],
        },
    }
    assert body["tools"][1]["function"]["parameters"] == {"type": "object"}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        ({"mode": "AUTO"}, "auto"),
        ({"mode": "NONE"}, "none"),
        ({"mode": "VALIDATED"}, "auto"),
        ({"mode": "ANY"}, "required"),
        ({"mode": "ANY", "allowedFunctionNames": ["f", "g"]}, "required"),
    ],
)
def test_modes_of_calling(config: dict[str, Any], choice: str) -> None:
    tools = [{"functionDeclarations": [{"name": name} for name in "fgh"]}]
    body = chat(contents=[said("x")], tools=tools, toolConfig={"functionCallingConfig": config})
    assert body["tool_choice"] == choice
    assert len(body["tools"]) == (2 if "allowedFunctionNames" in config else 3)


def test_generation_settings() -> None:
    settings = {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40.0,
        "maxOutputTokens": 8,
        "stopSequences": ["END"],
        "candidateCount": 2,
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "ARRAY", "items": {"type": "STRING"}},
        "thinkingConfig": {"includeThoughts": True},
    }
    told = chat_request("m", {"contents": [said("x")], "generationConfig": settings}, None, stream=True)
    assert told.thoughts
    assert {key: value for key, value in told.body.items() if key not in ("model", "messages")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 8,
        "stop": ["END"],
        "n": 2,
        "seed": 7,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": {"type": "array", "items": {"type": "string"}}},
        },
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_other_formats_of_answers() -> None:
    json_only = chat(contents=[said("x")], generationConfig={"responseMimeType": "application/json"})
    assert json_only["response_format"] == {"type": "json_object"}
    enum = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}}
    assert chat(contents=[said("x")], generationConfig=enum)["structured_outputs"] == {"choice": ["a", "b"]}


def test_what_does_nothing_is_named() -> None:
    request = {
        "contents": [said("x")],
        "safetySettings": [{"category": "X"}],
        "generationConfig": {"speechConfig": {"voice": "y"}, "responseLogprobs": False},
    }
    told = chat_request("m", request, None, stream=False)
    assert told.ignored == ("safetySettings", "generationConfig.speechConfig")


def calling(mode: str, allowed: Any) -> dict[str, Any]:
    config = {"functionCallingConfig": {"mode": mode, "allowedFunctionNames": allowed}}
    return {"tools": [{"functionDeclarations": [{"name": "f"}]}], "toolConfig": config}


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        ({}, "contents"),
        ({"systemInstruction": said("only this")}, "contents"),
        ({"contents": 3}, "contents"),
        ({"contents": [3]}, r"contents\[0\]"),
        ({"contents": [{"role": "system", "parts": []}]}, "role"),
        ({"contents": [{"parts": "x"}]}, "parts"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "executableCode"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "application/pdf", "data": ""}}]}]}, "pdf"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "files/abc"}}]}]}, "no files are kept"),
        ({"contents": [{"parts": [{"functionResponse": {}}]}]}, "must have a name"),
        ({"contents": [said("x")], "tools": [{"googleSearch": {}}]}, "googleSearch"),
        ({"contents": [said("x")], "generationConfig": {"topK": 1.5}}, "whole number"),
        ({"contents": [said("x")], "generationConfig": {"responseModalities": ["IMAGE"]}}, "TEXT"),
        (
            {"contents": [said("x")], "generationConfig": {"responseMimeType": "text/html"}},
            "responseMimeType",
        ),
        ({"contents": [said("x")], "systemInstruction": {"parts": [{"inlineData": {}}]}}, "must be text"),
        ({"contents": [said("x")], "generationConfig": {"responseModalities": 5}}, "must be a list"),
        ({"contents": [said("x")], **calling("ANY", 5)}, "allowedFunctionNames must be a list"),
        ({"contents": [said("x")], **calling("ANY", {"f": 1})}, "allowedFunctionNames must be a list"),
    ],
)
def test_what_no_engine_could_serve_is_refused_with_its_place(request_: dict[str, Any], where: str) -> None:
    with pytest.raises(ClientError, match=where) as raised:
        chat(**request_)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "enum": 5},
        {"type": "string", "minLength": "\N{SUPERSCRIPT TWO}"},
        {"type": "string", "minLength": "1" * 5000},
    ],
)
def test_what_is_no_schema_is_left_to_the_engine(schema: dict[str, Any]) -> None:
    settings = {"responseMimeType": "application/json", "responseSchema": {**schema, "nullable": True}}
    told = chat(contents=[said("x")], generationConfig=settings)
    assert told["response_format"]["json_schema"]["schema"] == {**schema, "type": ["string", "null"]}


def test_a_content_may_end_with_a_message_that_says_nothing() -> None:
    cached = Prefix([{"role": "user", "content": None}])
    told = chat_request("m", {"contents": [said("x")]}, cached, stream=False)
    assert told.body["messages"] == [{"role": "user", "content": "x"}]


def test_counting_asks_for_the_same_prompt() -> None:
    request = {"generateContentRequest": {"contents": [said("x")], "generationConfig": {"temperature": 1}}}
    assert counting_request("m", request, None) == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
    }
