"""docs/routing.md lists every number that can move a choice, with the value that it has."""

from __future__ import annotations

from tests.support.routing_constants import (
    MODULES,
    OTHERS,
    ROWS,
    SETTINGS,
    documented,
    markdown,
    numbers,
    rows,
    settings,
)

MOST = 40
"""There is no reason for more: whoever adds one takes another away."""


def test_the_table_is_current() -> None:
    assert documented() == markdown(), "run `python -m tests.support.routing_constants`"


def test_every_number_has_a_row_or_a_reason_and_nothing_else_has() -> None:
    found = [name for module in MODULES for name, _ in numbers(module)]
    assert len(found) == len(set(found))
    assert set(found) == ROWS.keys() | OTHERS.keys()
    assert not ROWS.keys() & OTHERS.keys()
    assert {name for name, _ in settings()} == {
        f"{section}.{name}" for section, known in SETTINGS.items() for name in known
    }


def test_they_do_not_become_more() -> None:
    assert len(rows()) <= MOST
