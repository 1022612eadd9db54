"""Labelled rows of prompts: each row is what one application sends, with why its prompts miss each other, or that they
do not. Texts are made of a seed, so that every run has the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from warmroute.advice.cause import Cause
from warmroute.core.types import Api

Body = dict[str, Any]
_SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()
_CJK = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"
NAMES = "Ada Grace Edsger Barbara Donald Tony Leslie Robin Kristen Radia Frances Niklaus".split()


class Labelled(NamedTuple):
    """One row: the prompts in the order in which they are sent."""

    name: str
    cause: Cause | None
    """What is to be found of the last one."""
    bodies: list[Body]
    api: Api = Api.CHAT


def words(rng: random.Random, count: int) -> str:
    """A text of so many words, in lines of some twenty."""
    lines = []
    while count > 0:
        length = min(count, rng.randrange(12, 28))
        line = ["".join(rng.choice(_SYLLABLES) for _ in range(rng.randrange(1, 5))) for _ in range(length)]
        lines.append(" ".join(line).capitalize() + rng.choice((".", "?", ":", ";")))
        count -= length
    return "\n".join(lines)


def chat(system: str, *turns: str, **fields: Any) -> Body:
    """A conversation: the user speaks first."""
    roles = ("user", "assistant")
    said = [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return {"model": "m", "messages": [{"role": "system", "content": system}, *said], **fields}


def tool(rng: random.Random, number: int) -> Body:
    """A tool's definition."""
    properties = {f"p{n}": {"type": "string", "description": words(rng, 8)} for n in range(3)}
    return {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": words(rng, 25),
            "parameters": {"type": "object", "properties": properties, "required": ["p0"]},
        },
    }


def _backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _backwards(value[key]) for key in reversed(value)}
    return [_backwards(one) for one in value] if isinstance(value, list) else value


def _question(rng: random.Random) -> str:
    return words(rng, 12)


Maker = Callable[[random.Random], list[Body]]


def _rendered(form: Callable[[random.Random, int], str], *, own: int = 12) -> Maker:
    """A system prompt with something in it that differs each time."""

    def make(rng: random.Random) -> list[Body]:
        shared, head = words(rng, 420), words(rng, rng.randrange(2, 30))
        return [chat(f"{head}\n{form(rng, n)}\n{shared}", words(rng, own)) for n in range(3)]

    return make


_DAY = datetime(2026, 11, 28, 21, 4, 9, tzinfo=UTC)


def _at(rng: random.Random, n: int) -> datetime:
    return _DAY + timedelta(seconds=7919 * n + rng.randrange(3000), days=n)


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _id(rng: random.Random, letters: str = "0123456789abcdef", length: int = 24) -> str:
    return "".join(rng.choice(letters) for _ in range(length))


def _tools_in_any_order(rng: random.Random) -> list[Body]:
    tools = [tool(rng, n) for n in range(7)]
    system = words(rng, 300)
    return [chat(system, _question(rng), tools=tools[shift:] + tools[:shift]) for shift in (0, 2, 3)]


def _tools_written_otherwise(rng: random.Random) -> list[Body]:
    tools = [tool(rng, n) for n in range(6)]
    system = words(rng, 300)
    return [chat(system, _question(rng), tools=t) for t in (tools, _backwards(tools))]


def _tools_more_or_less(rng: random.Random) -> list[Body]:
    tools = [tool(rng, n) for n in range(7)]
    system = words(rng, 300)
    return [chat(system, _question(rng), tools=t) for t in (tools, tools[:2] + tools[3:])]


def _tools_sometimes(rng: random.Random) -> list[Body]:
    tools = [tool(rng, n) for n in range(3)]
    system = words(rng, 400)
    return [chat(system, _question(rng), tools=tools), chat(system, _question(rng))]


def _passages(rng: random.Random, *, one_text: bool = True, orders: Any = None) -> list[Body]:
    passages = [words(rng, rng.randrange(60, 110)) for _ in range(6)]
    system = words(rng, 80)
    bodies = []
    for order in orders or ((0, 1, 2, 3, 4), (3, 0, 4, 1, 2), (2, 4, 1, 0, 3)):
        chosen = [passages[n] for n in order]
        if one_text:
            bodies.append(chat(system, "\n\n".join(chosen) + "\n\n" + _question(rng)))
        else:
            parts = [{"type": "text", "text": text} for text in [*chosen, _question(rng)]]
            bodies.append({"model": "m", "messages": [{"role": "system", "content": system},
                                                      {"role": "user", "content": parts}]})  # fmt: skip
    return bodies


def _window(rng: random.Random) -> list[Body]:
    system = words(rng, 60)
    turns = [words(rng, rng.randrange(50, 90)) for _ in range(15)]
    return [chat(system, *turns[:9]), chat(system, *turns[2:11]), chat(system, *turns[4:13])]


def _folded(rng: random.Random) -> list[Body]:
    system = words(rng, 60)
    turns = [words(rng, rng.randrange(60, 90)) for _ in range(15)]
    return [chat(system, *turns[:11]), chat(system, words(rng, 40), *turns[5:13])]


def _question_first(rng: random.Random) -> list[Body]:
    document = words(rng, 600)
    return [chat(words(rng, 40) if not n else "", words(rng, 40) + "\n\n" + document) for n in range(1, 4)]


def _system_after_text(rng: random.Random) -> list[Body]:
    shared = words(rng, 500)
    return [chat(words(rng, 60) + "\n" + shared, _question(rng)) for _ in range(3)]


def _efforts(rng: random.Random) -> list[Body]:
    system = words(rng, 500)
    return [chat(system, _question(rng), reasoning_effort=effort) for effort in ("low", "high")]


def _arguments(rng: random.Random) -> list[Body]:
    system = words(rng, 500)
    return [
        chat(system, _question(rng), chat_template_kwargs={"enable_thinking": flag}) for flag in (True, False)
    ]


def _dated_tool(rng: random.Random) -> list[Body]:
    bodies = []
    tools = [tool(rng, n) for n in range(5)]
    system = words(rng, 200)
    for n in range(2):
        first = json.loads(json.dumps(tools))
        first[0]["function"]["description"] += f" As of {_at(rng, n):%Y-%m-%d %H:%M:%S} or later."
        bodies.append(chat(system, _question(rng), tools=first))
    return bodies


def _chinese(rng: random.Random) -> list[Body]:
    shared = "".join(rng.choice(_CJK) for _ in range(900))
    return [chat(f"现在是{_at(rng, n):%Y-%m-%d %H:%M}。{shared}", "".join(rng.choice(_CJK) for _ in range(20)))
            for n in range(3)]  # fmt: skip


CAUSES: dict[str, tuple[Cause, Maker]] = {
    "an ISO time": (
        Cause.TIMESTAMP,
        _rendered(lambda r, n: f"Current time: {_at(r, n):%Y-%m-%dT%H:%M:%SZ}."),
    ),
    "a time in words": (
        Cause.TIMESTAMP,
        _rendered(lambda r, n: f"Today is {_at(r, n):%A, %d %B %Y}, {_at(r, n):%I:%M} {'ap'[n % 2]}m."),
    ),
    "Unix seconds": (Cause.TIMESTAMP, _rendered(lambda r, n: f"now={int(_at(r, n).timestamp())}")),
    "a date": (Cause.TIMESTAMP, _rendered(lambda r, n: f"Date: {_at(r, n):%d/%m/%Y}")),
    "a date in Chinese": (Cause.TIMESTAMP, _chinese),
    "a date in a tool": (Cause.TIMESTAMP, _dated_tool),
    "a UUID": (Cause.ID, _rendered(lambda r, _: f"Request {_uuid(r)}")),
    "a trace": (Cause.ID, _rendered(lambda r, _: f"trace-id: {_id(r)}a1")),
    "a session's name": (
        Cause.ID,
        _rendered(lambda r, _: f"[session sess_{_id(r, 'abcXYZ0123456789', 20)}7k4j2]"),
    ),
    "a number": (Cause.NUMBER, _rendered(lambda r, n: f"You have {r.randrange(100, 99999)} credits left.")),
    "a ticket": (Cause.NUMBER, _rendered(lambda r, n: f"Ticket #{40_000 + 37 * n}:")),
    "a user's name": (Cause.WORDS, _rendered(lambda r, n: f"You speak with {NAMES[n]}.")),
    "two words": (
        Cause.WORDS,
        _rendered(lambda r, n: f"The user is {NAMES[n]} {NAMES[n + 5]} of {NAMES[n + 2]}."),
    ),
    "a profile": (Cause.TEXT, _rendered(lambda r, _: words(r, 60))),
    "the question first": (Cause.TEXT, _question_first),
    "what varies at the very front": (Cause.TEXT, _system_after_text),
    "tools in any order": (Cause.TOOLS_ORDER, _tools_in_any_order),
    "tools written otherwise": (Cause.TOOLS_FORM, _tools_written_otherwise),
    "a tool less": (Cause.TOOLS_CHANGED, _tools_more_or_less),
    "tools sometimes": (Cause.TOOLS_CHANGED, _tools_sometimes),
    "passages in any order": (Cause.PASSAGES_ORDER, _passages),
    "passages as parts": (Cause.PASSAGES_ORDER, lambda rng: _passages(rng, one_text=False)),
    "other passages in any order": (
        Cause.PASSAGES_ORDER,
        lambda rng: _passages(rng, orders=((0, 1, 2, 3), (4, 2, 0, 3), (5, 3, 1, 2))),
    ),
    "a sliding window": (Cause.HISTORY, _window),
    "a folded history": (Cause.HISTORY, _folded),
    "efforts": (Cause.SETTINGS, _efforts),
    "template arguments": (Cause.SETTINGS, _arguments),
}
"""What goes wrong, and how."""


def _conversations(rng: random.Random) -> list[Body]:
    system = words(rng, 500)
    return [chat(system, words(rng, 100)) for _ in range(6)]


def _growing(rng: random.Random) -> list[Body]:
    system = words(rng, 200)
    turns = [words(rng, 80) for _ in range(9)]
    return [chat(system, *turns[:count]) for count in (1, 3, 5, 7, 9)]


def _growing_side_by_side(rng: random.Random) -> list[Body]:
    """Each with a time of its own at the front, which stays; only the first prompt of each misses."""
    bodies = []
    shared = words(rng, 300)
    turns = [[words(rng, 60) for _ in range(7)] for _ in range(2)]
    for count in (1, 3, 5, 7):
        bodies += [
            chat(f"Started {_at(rng, 0):%Y-%m-%d} as {who}. {shared}", *turns[who][:count]) for who in (0, 1)
        ]
    return bodies


def _new_documents(rng: random.Random) -> list[Body]:
    system = words(rng, 150)
    ask = words(rng, 15)
    return [chat(system, words(rng, 700) + "\n\n" + ask) for _ in range(4)]


def _edited_turn(rng: random.Random) -> list[Body]:
    system, turns = words(rng, 200), [words(rng, 80) for _ in range(5)]
    return [chat(system, *turns), chat(system, *turns[:2], words(rng, 80))]


def _same_files(rng: random.Random) -> list[Body]:
    """Agents at different tasks that come to read the same files."""
    files = [words(rng, 200) for _ in range(3)]
    system = words(rng, 400)
    bodies = []
    for order in ((0, 1, 2), (2, 0, 1)):
        turns = [words(rng, 50)]
        for n in order:
            turns += [words(rng, 20), files[n]]
        bodies.append(chat(system, *turns, words(rng, 20)))
    return bodies


def _strangers(rng: random.Random) -> list[Body]:
    return [chat(words(rng, 300), words(rng, 200)) for _ in range(5)]


def _same_again(rng: random.Random) -> list[Body]:
    return [chat(words(rng, 300), words(rng, 100))] * 3


def _time_at_the_end(rng: random.Random) -> list[Body]:
    system = words(rng, 500)
    return [chat(system, f"{words(rng, 30)} (It is {_at(rng, n):%H:%M:%S}.)") for n in range(3)]


def _short(rng: random.Random) -> list[Body]:
    shared = words(rng, 30)
    return [chat(f"It is {_at(rng, n):%H:%M}. {shared}", _question(rng)) for n in range(3)]


def _steady_tools(rng: random.Random) -> list[Body]:
    tools, system = [tool(rng, n) for n in range(6)], words(rng, 200)
    return [chat(system, words(rng, 60), tools=tools) for _ in range(4)]


def _courtesies(rng: random.Random) -> list[Body]:
    polite = "You are welcome. What else can I do for you today?"

    def talk() -> Body:
        return chat(words(rng, 20), words(rng, 60), polite, words(rng, 60), polite, words(rng, 60))

    return [talk() for _ in range(4)]


NONE: dict[str, Maker] = {
    "new conversations": _conversations,
    "a growing conversation": _growing,
    "growing conversations side by side": _growing_side_by_side,
    "new documents": _new_documents,
    "an edited turn": _edited_turn,
    "agents that read the same files": _same_files,
    "strangers": _strangers,
    "the same again": _same_again,
    "a time at the end": _time_at_the_end,
    "too short to matter": _short,
    "steady tools": _steady_tools,
    "courtesies": _courtesies,
}
"""What goes well, or cannot go better."""


def corpus(seeds: int) -> list[Labelled]:
    """Every row, made of so many seeds."""
    rows = []
    for seed in range(seeds):
        for name, (cause, make) in CAUSES.items():
            rows.append(Labelled(f"{name} {seed}", cause, make(random.Random(f"{name}{seed}"))))
        for name, make in NONE.items():
            rows.append(Labelled(f"{name} {seed}", None, make(random.Random(f"{name}{seed}"))))
    return rows
