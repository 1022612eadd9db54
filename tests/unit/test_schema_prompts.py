"""Prompt schemas: what a prompt takes of one, in which order it stands there, and what is computed ahead."""

from __future__ import annotations

from typing import Any

import pytest

from warmroute.caching.schemas.compiler import Blend, compiled, filled, in_turns
from warmroute.caching.schemas.model import SchemaError
from warmroute.caching.schemas.prefixes import chosen_prefixes, prefixes
from warmroute.caching.schemas.selection import Index, selected, values_of
from warmroute.core.errors import ClientError
from warmroute.dialects.prompt_schemas import asked, joined, registration, schema_of, version_of

ORDER = {
    "name": "order",
    "content": [
        {"role": "system", "content": "You write orders."},
        "Order ",
        {"parameter": "no", "length": 4},
        ": ",
        {"parameter": "quantity", "length": 2},
        " pieces of ",
        {"parameter": "item", "length": 8},
        ", to be sent at once. Repeat the number ",
        {"parameter": "no", "length": 4},
        ".",
    ],
}
VALUES = {"item": "apples", "quantity": "3", "no": "17"}
TRIP: dict[str, Any] = {
    "name": "trip",
    "content": [
        "Plan a trip.",
        {"module": "long", "content": " It is long."},
        {
            "union": [
                {"module": "rome", "content": [" To Rome.", {"module": "food", "content": " With food."}]},
                {
                    "module": "miami",
                    "content": [" To Miami.", {"parameter": "surf", "length": 5, "default": ""}],
                },
            ]
        },
        {"module": "money", "content": [" For ", {"parameter": "sum", "length": 4}]},
        " Now.",
    ],
}


def prompt(
    document: dict[str, Any],
    modules: tuple[str, ...] = (),
    parameters: dict[str, str] | None = None,
    blend: Blend | None = None,
) -> list[dict[str, Any]]:
    index = Index(schema_of(document))
    taken = selected(index, modules)
    return filled(compiled(index, taken, blend), values_of(index, taken, parameters or {}, 4.0), 1 << 20)


def text(*arguments: Any) -> str:
    (message,) = prompt(*arguments)
    return str(message["content"])


def test_values_stand_in_place_or_last() -> None:
    assert prompt(ORDER, (), VALUES) == [
        {"role": "system", "content": "You write orders."},
        {
            "role": "user",
            "content": "Order 17: 3 pieces of apples, to be sent at once. Repeat the number 17.",
        },
    ]
    last = prompt({**ORDER, "parameters": "last"}, (), VALUES)
    assert last[1]["content"] == (
        "Order <no>: <quantity> pieces of <item>, to be sent at once. Repeat the number <no>."
        "\n\nValues of the names in angle brackets above:\nno: 17\nquantity: 3\nitem: apples"
    )


def test_a_module_decides_for_itself_where_its_values_stand() -> None:
    content = [
        {"module": "a", "parameters": "last", "content": ["A=", {"parameter": "x", "length": 3}]},
        {"module": "b", "content": [" B=", {"parameter": "x", "length": 3}]},
    ]
    document = {"name": "s", "values": "Where:", "content": content}
    assert text(document, ("a", "b"), {"x": "7"}) == "A=<a/x> B=7\n\nWhere:\na/x: 7"
    assert text(document, ("a", "b"), {"x": "7", "a/x": "8"}) == "A=<a/x> B=7\n\nWhere:\na/x: 8"
    assert text({**document, "values": ""}, ("a",), {"x": "7"}) == "A=<a/x>\n\na/x: 7"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("two words", "two words"),
        ("", '""'),
        (" a", '" a"'),
        ("a\nb", '"a\\nb"'),
        ('"a"', '"\\"a\\""'),
        ("ü", "ü"),
    ],
)
def test_a_value_that_comes_last_shows_its_end(value: str, said: str) -> None:
    document = {"name": "s", "parameters": "last", "content": [{"parameter": "p", "length": 9}]}
    assert text(document, (), {"p": value}).endswith(f":\np: {said}")


def test_modules_stand_in_the_schemas_order_whatever_the_requests() -> None:
    one = text(TRIP, ("money", "food", "long"), {"sum": "100"})
    assert one == "Plan a trip. It is long. To Rome. With food. For 100 Now."
    assert one == text(TRIP, ("long", "rome", "rome/food", "money"), {"sum": "100"})
    assert text(TRIP, ("miami",)) == "Plan a trip. To Miami. Now."


class Counted(str):
    """A path that counts how often its end is looked at."""

    looks = 0

    def endswith(self, *arguments: Any) -> bool:
        Counted.looks += 1
        return super().endswith(*arguments)


def test_short_names_are_found_without_a_look_at_every_path() -> None:
    modules = [{"module": f"m{number}", "content": "x"} for number in range(100)]
    index = Index(schema_of({"name": "s", "content": [{"module": "outer", "content": modules}]}))
    index.module_ends = type(index.module_ends)([Counted(path) for path in index.modules])
    names = [f"m{number}" for number in range(100)]
    assert selected(index, names * 2) == frozenset(index.modules)
    assert Counted.looks == 100, "one a name, however often it is given"


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ((), "one of the union rome, miami is missing"),
        (("rome", "miami"), "exclude each other"),
        (("food", "miami"), "exclude each other"),
        (("miami", "paris"), "has no module 'paris'; it has long, rome, rome/food, miami, money"),
        (("miami", "ome"), "no module 'ome'"),
    ],
)
def test_a_prompt_takes_what_there_is_and_one_of_a_union(modules: tuple[str, ...], said: str) -> None:
    with pytest.raises(SchemaError, match=said) as raised:
        prompt(TRIP, modules)
    assert raised.value.param == "prompt_schema.modules"


def test_a_union_can_be_optional_and_names_can_stand_in_several_modules() -> None:
    content = [
        {"module": "education", "content": "e"},
        {"module": "work", "content": ["w", {"module": "education", "content": "we"}]},
        {"union": [{"module": "b", "content": "b"}], "optional": True},
    ]
    content.append(
        {"module": "other", "content": ["o", {"module": "x", "content": [{"module": "b", "content": "ob"}]}]}
    )
    document = {"name": "s", "content": content}
    assert text(document, ("education",)) == "e", "a path from the top comes before the end of another"
    assert text(document, ("work/education",)) == "wwe"
    assert text(document, ("x/b",)) == "oob"
    content.append({"module": "third", "content": ["t", {"module": "x", "content": "tx"}]})
    with pytest.raises(SchemaError, match="may be any of other/x, third/x"):
        text(document, ("x",))


@pytest.mark.parametrize(
    ("modules", "parameters", "code", "said"),
    [
        (("miami", "money"), {}, "invalid_prompt_schema", "'money/sum' is missing"),
        (("miami", "money"), {"sum": "x" * 17}, "parameter_too_long", "about 5 tokens, and its length is 4"),
        (("miami",), {"sum": "1"}, "invalid_prompt_schema", "stands in the module 'money'"),
        (("miami",), {"money/sum": "1"}, "invalid_prompt_schema", "stands in the module 'money'"),
        (
            ("miami",),
            {"price": "1"},
            "invalid_prompt_schema",
            "no parameter 'price'; it has miami/surf, money/sum",
        ),
    ],
)
def test_values_are_needed_where_they_stand_and_nowhere_else(
    modules: tuple[str, ...], parameters: dict[str, str], code: str, said: str
) -> None:
    with pytest.raises(SchemaError, match=said) as raised:
        prompt(TRIP, modules, parameters)
    assert raised.value.code == code
    assert str(raised.value.param).startswith("prompt_schema.parameters.")
    assert "x" * 17 not in raised.value.message, "values are the client's own"


def test_what_is_longer_than_a_request_may_be_is_refused() -> None:
    content = [{"parameter": "p", "length": 100}] * 100
    index = Index(schema_of({"name": "s", "content": content}))
    layout = compiled(index, frozenset())
    with pytest.raises(ClientError) as raised:
        filled(layout, {"p": "v" * 400}, 39_999)
    assert (raised.value.status, raised.value.code) == (413, "request_too_large")


def test_long_modules_are_set_apart_where_engines_reuse_chunks() -> None:
    content = [
        "Use:",
        *({"module": name, "content": name * 12} for name in "abc"),
        {"module": "d", "content": "d"},
    ]
    document = {"name": "s", "content": [*content, " End."]}
    blend = Blend(" # # ", 3, 4.0)
    assert text(document, ("a", "b", "d"), {}, blend) == f"Use: # # {'a' * 12} # # {'b' * 12} # # d End."
    assert text(document, ("c",), {}, blend) == f"Use: # # {'c' * 12} # #  End."
    assert text(document, ("d",), {}, blend) == "Use:d End."


def test_roles_make_messages_and_neighbours_of_one_role_are_one() -> None:
    content = [
        {"role": "user", "content": "a"},
        {"module": "m", "content": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]},
        {"role": "system", "content": ""},
        "d",
    ]
    document = {"name": "s", "content": content}
    assert [(one["role"], one["content"]) for one in prompt(document, ("m",))] == [
        ("user", "a\n\nb"),
        ("assistant", "c"),
        ("user", "d"),
    ]
    last = {
        "name": "s",
        "parameters": "last",
        "content": [{"role": "system", "content": [{"parameter": "p", "length": 2}]}],
    }
    assert [one["role"] for one in prompt(last, (), {"p": "v"})] == ["system", "user"]


# -- what a request says itself --------------------------------------------------------------------------------------


def test_the_requests_messages_follow_in_turns() -> None:
    begun = [{"role": "user", "content": "S"}]
    chat = {
        "model": "m",
        "prompt_schema": {"name": "s"},
        "messages": [{"role": "user", "content": "Q", "name": "n"}],
    }
    whole = joined(chat, begun, asked({"name": "s"}), "\n\n")
    assert whole == {"model": "m", "messages": [{"role": "user", "content": "S\n\nQ", "name": "n"}]}
    parts = [{"type": "image_url", "image_url": {"url": "u"}}]
    assert in_turns(begun, [{"role": "user", "content": parts}], "\n\n")[0]["content"] == [
        {"type": "text", "text": "S\n\n"},
        *parts,
    ]
    assert in_turns([{"role": "assistant", "content": "A"}], begun, "-") == [
        {"role": "assistant", "content": "A"},
        *begun,
    ]
    markup = asked('<prompt schema="s">Well?<assistant>Yes.</assistant></prompt>')
    assert joined({**chat, "messages": None}, begun, markup, "\n\n")["messages"] == [
        {"role": "user", "content": "S\n\nWell?"},
        {"role": "assistant", "content": "Yes."},
    ]


@pytest.mark.parametrize(
    ("chat", "param"),
    [
        ({"messages": "Q"}, "messages"),
        ({"messages": [{"role": "system", "content": "S"}]}, "messages"),
        ({"messages": [], "cached_content": "c"}, "prompt_schema"),
        ({"messages": []}, "prompt_schema"),
    ],
)
def test_what_cannot_follow_a_schema_is_refused(chat: dict[str, Any], param: str) -> None:
    with pytest.raises(ClientError) as raised:
        joined(chat, [], asked({"name": "s"}), "")
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (3, "prompt_schema"),
        ({"modules": []}, "prompt_schema.name"),
        ({"name": "s", "modules": "a"}, "prompt_schema.modules"),
        ({"name": "s", "parameters": ["a"]}, "prompt_schema.parameters"),
        ({"name": "s", "parameters": {"a": None}}, "prompt_schema.parameters.a"),
        ({"name": "s", "version": "new"}, "version"),
        ({"name": "s", "version": True}, "version"),
        ({"name": "s", "version": 0}, "version"),
        ({"name": "s", "module": []}, "prompt_schema.module"),
    ],
)
def test_a_use_that_cannot_be_read_says_where(value: Any, param: str) -> None:
    with pytest.raises(SchemaError) as raised:
        asked(value)
    assert raised.value.param == param


def test_versions_and_numbers_as_values() -> None:
    assert [version_of(one) for one in (None, "latest", 3, "3")] == [0, 0, 3, 3]
    found = asked({"name": "s", "parameters": {"a": 3, "b": 0.5, "c": True, "d": "x"}})
    assert found.parameters == {"a": "3", "b": "0.5", "c": "true", "d": "x"}


# -- registration ----------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    content: Any = "x"
    for number in range(depth):
        content = [{"module": f"m{number}", "content": content}]
    return content


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "name"),
        ({"name": 3}, "name"),
        ({"name": "a/b", "content": "x"}, "name"),
        ({"name": "s"}, "content"),
        ({"name": "s", "content": []}, "nothing in it"),
        ({"name": "s", "content": " "}, "nothing in it"),
        ({"name": "s", "content": "x", "turns": 1}, "turns"),
        ({"name": "s", "content": [3]}, r"content\[0\]"),
        ({"name": "s", "content": [{"role": "tool", "content": "x"}]}, r"content\[0\].role"),
        ({"name": "s", "content": [{"module": "m", "content": "x", "text": ""}]}, r"content\[0\].text"),
        ({"name": "s", "content": [{"module": "m"}]}, r"content\[0\].content"),
        ({"name": "s", "content": [{"module": "user", "content": "x"}]}, "cannot be a module's name"),
        ({"name": "s", "content": [{"module": "1", "content": "x"}]}, "cannot be a module's name"),
        ({"name": "s", "content": [{"module": "m", "content": "x"}] * 2}, "two modules called 'm'"),
        ({"name": "s", "content": [{"union": []}]}, "without modules"),
        ({"name": "s", "content": [{"union": ["m"]}]}, r"content\[0\].union\[0\]"),
        (
            {"name": "s", "content": [{"union": [{"module": "m", "content": "x"}], "scaffold": "n"}]},
            "scaffold 'n'",
        ),
        ({"name": "s", "content": [{"union": [{"module": "m", "content": "x"}], "optional": 1}]}, "optional"),
        ({"name": "s", "content": [{"parameter": "p"}]}, r"content\[0\].length"),
        ({"name": "s", "content": [{"parameter": "p", "length": 0}]}, "length 0"),
        ({"name": "s", "content": [{"parameter": "p", "length": True}]}, r"content\[0\].length"),
        ({"name": "s", "content": [{"parameter": "version", "length": 1}]}, "cannot be a parameter's name"),
        (
            {"name": "s", "content": [{"parameter": "p", "length": 1}, {"parameter": "p", "length": 2}]},
            "twice",
        ),
        ({"name": "s", "content": "x", "parameters": "first"}, "parameters"),
        ({"name": "s", "content": nested(17)}, "levels"),
        ({"name": "s", "content": ["x"] * 10_001}, "10000"),
        ({"pml": "<schema name='s'>x</schema>", "content": "x"}, "pml"),
        ({"pml": "<schema name='s'>x</schema>", "name": "t"}, "the markup's is 's'"),
        ({"pml": 3}, "pml"),
        ({"name": "s", "content": "x", "model": 1}, "model"),
        ({"name": "s", "content": "x", "prewarm": "yes"}, "prewarm"),
        ({"name": "s", "content": "x", "prewarm": [[]] * 65}, "64 are the most"),
    ],
)
def test_a_registration_that_cannot_be_says_what_is_wrong_and_where(document: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said) as raised:
        registration(document)
    assert (raised.value.status, raised.value.code) == (400, "invalid_prompt_schema")


# -- what is computed ahead ------------------------------------------------------------------------------------------


def begun(document: dict[str, Any], most: int = 8) -> list[str]:
    return [found[-1]["content"] for found in prefixes(Index(schema_of(document)), most)]


def test_each_module_is_computed_as_the_prompt_has_it_that_takes_it_alone() -> None:
    assert begun(TRIP) == [
        "Plan a trip. It is long.",
        "Plan a trip. To Rome. With food.",
        "Plan a trip. To Miami.",
        "Plan a trip. To Rome. For ",
    ]
    assert begun(TRIP, 2) == ["Plan a trip. It is long.", "Plan a trip. To Rome. With food."]


def test_a_beginning_ends_at_the_first_value_unless_values_come_last() -> None:
    assert begun(ORDER) == ["Order "]
    assert begun({**ORDER, "parameters": "last"}) == [
        "Order <no>: <quantity> pieces of <item>, to be sent at once. Repeat the number <no>."
    ]
    assert begun({"name": "s", "content": [{"parameter": "p", "length": 1}]}) == []


def test_prompts_that_are_said_to_come_are_computed_instead() -> None:
    index = Index(schema_of(TRIP))
    found = chosen_prefixes(index, [["miami", "long"], ["rome"]])
    assert [one[-1]["content"] for one in found] == [
        "Plan a trip. It is long. To Miami.",
        "Plan a trip. To Rome.",
    ]
    with pytest.raises(SchemaError):
        chosen_prefixes(index, [["long"]])


def test_what_is_not_to_be_cached_is_not_computed_ahead() -> None:
    content = ["x", {"module": "a", "content": "a", "cache": False}, {"module": "b", "content": "b"}]
    assert begun({"name": "s", "content": content}) == ["xb"]
