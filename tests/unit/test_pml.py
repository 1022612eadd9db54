"""Prompt Cache's markup: schemas and prompts, as its README has them, and what is not read."""

from __future__ import annotations

import pytest

from warmroute.caching.schemas.compiler import compiled, filled
from warmroute.caching.schemas.model import Module, Parameter, Role, SchemaError, Text, Union
from warmroute.caching.schemas.selection import Index, selected, values_of
from warmroute.dialects import pml
from warmroute.dialects.prompt_schemas import schema_of

README = """
<!-- Schema is a root module. Schema can contain modules and unions -->
<schema name="default">
    <module name="preface">
        Just some text with parameter:
        <parameter name="param-name" length="5" scaffold="[to be filled later]"/>
        <module name="nested">Nested</module>
        <system>
            <union scaffold="system1">
                <module name="system1">System prompt type 1.</module>
                <!-- Cache can be disabled for a module. -->
                <module name="system2" cache="false">System prompt type 2.</module>
                <module name="system3">System prompt type 3,
                    with parameter:
                    <parameter name="message" length="10"/>
                </module>
            </union>
            <union>
                <module name="user1" cache="false">User 1 information</module>
                <module name="user2">User 2 information</module>
            </union>
        </system>
    </module>
    <module name="task">
        <union>
            <module name="task-robot-control">Task description 1
                <parameter name="speed" length="5"/>
            </module>
            <module name="task-random">Task description 1</module>
        </union>
    </module>
</schema>
"""
PROMPT = """
<prompt schema="default">
    <preface param-name="test">
        <nested/>
        <system3 message="just doing some test"/>
        <user2/>
    </preface>
    <task>
        <task-robot-control speed="fast"/>
    </task>
    <user>What will be the next movement of the robot?</user>
    <assistant>It will move forward.</assistant>
    <user>What would be the speed then?</user>
</prompt>
"""


def messages(schema: str, prompt: str) -> list[tuple[str, str]]:
    index = Index(schema_of({"pml": schema}))
    asked = pml.prompt(prompt)
    taken = selected(index, asked.modules)
    values = values_of(index, taken, asked.parameters, 4.0)
    return [(one["role"], one["content"]) for one in filled(compiled(index, taken), values, 1 << 20)]


def test_the_readmes_schema_and_prompt() -> None:
    assert messages(README, PROMPT) == [
        ("user", "Just some text with parameter:\ntest\nNested"),
        (
            "system",
            "System prompt type 3,\nwith parameter:\njust doing some test\nUser 2 information",
        ),
        ("user", "Task description 1\nfast"),
    ]
    assert pml.prompt(PROMPT).messages == [
        {"role": "user", "content": "What will be the next movement of the robot?"},
        {"role": "assistant", "content": "It will move forward."},
        {"role": "user", "content": "What would be the speed then?"},
    ]


def test_what_the_elements_mean() -> None:
    schema = pml.schema(
        '<schema name="s" parameters="last" values="Values:"><system>S</system>'
        '<module name="a" cache="false" parameters="inline">A <param name="p" len="3" default="x"/></module>'
        '<union scaffold="c" optional="true"><module name="b">B</module><module name="c">C</module></union>'
        "</schema>"
    )
    assert (schema.name, schema.last, schema.heading) == ("s", True, "Values:")
    assert schema.items == (
        Role("system", (Text("S"),)),
        Module("a", (Text("A "), Parameter("p", 3, "x")), cache=False, last=False),
        Union((Module("b", (Text("B"),)), Module("c", (Text("C"),))), "c", True),
    )


def test_white_space_that_only_lays_the_markup_out_is_left_out() -> None:
    schema = pml.schema(
        """<schema name="s">
             First,
               indented
             <module name="a">
               A1
                 A2

             </module>


             <module name="b">B</module> and <module name="c">C</module>
             last
           </schema>"""
    )
    assert schema.items == (
        Text("First,\n  indented"),
        Module("a", (Text("A1\n  A2"),), lead="\n"),
        Module("b", (Text("B"),), lead="\n\n"),
        Text(" and"),
        Module("c", (Text("C"),), lead=" "),
        Text("\nlast"),
    )


def test_a_long_run_of_blanks_is_read_in_one_go() -> None:
    blanks = " " * 1_000_000  # backtracking takes hours for them
    schema = f'<schema name="s">a{blanks}b<module name="m">c</module></schema>'
    assert messages(schema, '<prompt schema="s"><m/></prompt>') == [("user", f"a{blanks}bc")]


def test_text_can_be_kept_as_it_is() -> None:
    code = "\n  def f():\n      return 1\n"
    schema = pml.schema(f'<schema name="s"><module name="a" xml:space="preserve">{code}</module></schema>')
    assert schema.items == (Module("a", (Text(code),)),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no element found"),
        ("<schema", "line 1"),
        ('<schema name="s">a & b</schema>', "&amp;"),
        ('<!DOCTYPE schema [<!ENTITY a "b">]><schema name="s">&a;</schema>', "document type"),
        ('<?php x?><schema name="s">a</schema>', "processing instruction"),
        ("<prompt/>", "no schema"),
        ("<schema>a</schema>", "needs name"),
        ('<schema name="s" version="2">a</schema>', "'version'"),
        ('<schema name="s"><b>a</b></schema>', "&lt;"),
        ('<schema name="s">\n<module>a</module></schema>', "line 2: <module> needs name"),
        ('<schema name="s"><module name="a" cache="no">a</module></schema>', "true or false"),
        ('<schema name="s"><parameter name="p"/></schema>', "length"),
        ('<schema name="s"><parameter name="p" length="-1"/></schema>', "length"),
        ('<schema name="s"><parameter name="p" length="1">v</parameter></schema>', "empty"),
        ('<schema name="s" parameters="first">a</schema>', "inline"),
        ('<schema name="s"><union>a</union></schema>', "text outside"),
        ('<schema name="s"><union><user>a</user></union></schema>', "only modules"),
        ('<schema name="s" xml:space="none">a</schema>', "preserve"),
        ('<schema name="s">' + "<user>" * 40 + "a" + "</user>" * 40 + "</schema>", "too deep"),
        ('<schema name="s">' + '<module name="a"/>' * 10_001 + "</schema>", "10000"),
        ('<schema name="s">\ud800</schema>', "surrogate"),
    ],
)
def test_what_is_no_schema_is_refused_and_said_where(text: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said) as raised:
        pml.schema(text)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<prompt><a/></prompt>", "schema="),
        ('<schema name="s"/>', "no prompt"),
        ('<prompt schema="s" version="new"/>', "version"),
        ('<prompt schema="s">text<a/></prompt>', "modules come first"),
        ('<prompt schema="s"><a>text</a></prompt>', "has text in it"),
        ('<prompt schema="s"><user>a<b/></user></prompt>', "text only"),
    ],
)
def test_what_is_no_prompt_is_refused(text: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        pml.prompt(text)


def test_a_prompts_version_values_and_text() -> None:
    found = pml.prompt(
        '<prompt schema="s" version="3" item="a &amp; b"><m/><n><o p="1"/></n>\n  Go on.\n</prompt>'
    )
    assert found == pml.PmlPrompt(
        "s",
        3,
        ["m", "n", "n/o"],
        {"item": "a & b", "n/o/p": "1"},
        [{"role": "user", "content": "Go on."}],
    )
