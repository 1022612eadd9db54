"""docs/endpoints.md is the table of the code, and the table has what the official clients call."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from warmroute.dialects.routes import ENDPOINTS, RouteKind, route

PAGE = Path(__file__).parents[2] / "docs" / "endpoints.md"
ROW = re.compile(r"^\| ([A-Z, ]+) \| `([^`]+)` \| ([a-z ]+) \|$", re.MULTILINE)


def test_the_page_has_every_row_of_the_table() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert rows == [(end.methods, end.path, end.kind.value) for end in ENDPOINTS]


def test_the_page_says_what_every_kind_means() -> None:
    text = PAGE.read_text()
    for kind in RouteKind:
        if kind is not RouteKind.METHOD:
            assert f"\n| {kind.value} | " in text, kind


def test_no_path_is_in_the_table_twice() -> None:
    paths = [end.path for end in ENDPOINTS]
    assert len(set(paths)) == len(paths)


def called_by(package: str) -> set[tuple[str, str]]:
    """Methods and paths in the source of an official client's resources; `{…}` are filled in."""
    found = set()
    pending = [resources.files(package).joinpath("resources")]
    while pending:
        folder = pending.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                pending.append(entry)
            elif entry.name.endswith(".py"):
                for method, path in re.findall(
                    r"self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?f?\"(/[^\"]*)\"",
                    entry.read_text(),
                ):
                    path = re.sub(r"\{[^}]*\}", "x_1", path.partition("?")[0])
                    found.add((method.replace("get_api_list", "get").upper(), path))
    return found


@pytest.mark.parametrize(("package", "prefix", "least"), [("openai", "/v1", 90), ("anthropic", "", 30)])
def test_whatever_an_official_client_calls_is_in_the_table(package: str, prefix: str, least: int) -> None:
    """The router passes the rest below `/v1`, too; but then nobody has thought about it."""
    calls = called_by(package)
    assert len(calls) >= least
    unknown = set()
    for method, path in sorted(calls):
        found = route(method.encode(), (prefix + path).encode())
        # The table's own answer to a method that a known path does not have is an answer as well.
        if (
            found is None
            or found.allow == b"GET, HEAD, POST, PUT, PATCH, DELETE"
            and found.kind is RouteKind.LOAD
        ):
            unknown.add((method, path))
    assert unknown == set()
