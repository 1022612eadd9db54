"""What deploy/ and the documents hand to operators is what the program takes."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from warmroute.cli.main import main
from warmroute.config.load import load
from warmroute.core.choice.cost import CostTerms
from warmroute.core.types import DecisionKind
from warmroute.dialects.routes import route
from warmroute.telemetry.access_log import AccessEntry

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/warmroute.service"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob("helm/**/*.md")]
)


def test_the_example_configuration_loads() -> None:
    config = load(path=str(ROOT / "deploy/config/example.yaml"), environ={})
    assert [replica.id for replica in config.replicas] == ["gpu-1", "gpu-2", "gpu-3"]
    assert config.registry.url.startswith("redis://")


def test_the_unit_starts_a_command_that_exists_and_waits_for_the_drain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    _, command, *arguments = unit["Service"]["ExecStart"].split()
    assert (command, arguments[0]) == ("serve", "--config")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--config" in capsys.readouterr().out
    checking = re.search(r"^ExecReload=\S+/warmroute (.*)$", UNIT.read_text(), re.MULTILINE)
    assert checking is not None
    words = checking[1].replace("/etc/warmroute/config.yaml", str(ROOT / "deploy/config/example.yaml"))
    assert main(words.split()) == 0
    assert capsys.readouterr() == ("", "")
    assert "ExecReload=/bin/kill -HUP $MAINPID" in UNIT.read_text()
    config = load(path=str(ROOT / "deploy/config/example.yaml"), environ={})
    assert float(unit["Service"]["TimeoutStopSec"]) > config.drain_grace_s


def test_the_socket_unit_listens_where_the_example_configuration_says() -> None:
    config = load(path=str(ROOT / "deploy/config/example.yaml"), environ={})
    unit = (ROOT / "deploy/systemd/warmroute.socket").read_text()
    assert re.findall(r"^ListenStream=(.*)$", unit, re.MULTILINE) == [config.listen]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_log_that_is_rotated_is_the_one_that_the_example_configuration_writes() -> None:
    config = load(path=str(ROOT / "deploy/config/example.yaml"), environ={})
    assert f"    {config.access_log.path} {{\n" in (ROOT / "docs/operations.md").read_text()


def _anchors(document: Path) -> set[str]:
    """What links may name in it, as the pages of Git hosts make it of headings."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip())
        found.add(re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_into_documents_name_a_heading(document: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
        path = document.parent / target if target else document
        if path.suffix == ".md":
            assert heading in _anchors(path), f"{target}#{heading}"


def test_where_a_behaviour_is_said_to_be_there_is_a_file() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().split("## Where is")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|`]+) \| `([^`]+)` \| `([^`]+)` \|$", table, re.MULTILINE)
    assert len(rows) >= 20
    for behaviour, *files in rows:
        for file in files:
            assert (ROOT / file).is_file(), (behaviour, file)


def test_every_decision_is_explained() -> None:
    text = (ROOT / "docs/routing.md").read_text()
    for kind in DecisionKind:
        assert f"| `{kind}` |" in text, kind


def test_every_term_of_the_cost_is_explained() -> None:
    text = (ROOT / "docs/routing.md").read_text()
    for field in fields(CostTerms):
        assert f"| `{field.name}` |" in text, field.name


def test_every_field_of_the_access_log_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for name in AccessEntry.__struct_fields__:
        assert f"`{name}`" in text, name


def _codes(tree: ast.Module) -> Iterator[str]:
    """Codes of the errors that a module raises, or that are its classes'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            given = [one.value for one in node.keywords if one.arg == "code"]
            # `_finish(code=…)` only names the access log's.
            values = given if called.endswith("Error") or called == "__init__" else []
        elif isinstance(node, ast.ClassDef):
            assigned = [one for one in node.body if isinstance(one, ast.Assign)]
            values = [one.value for one in assigned if ast.unparse(one.targets[0]) == "code"]
        else:
            continue
        for value in values:
            yield from [
                str(one.value)
                for one in ast.walk(value)
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]


def test_every_code_of_an_error_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text().split("\n## Errors\n")[1].split("\n## ")[0]
    explained = {
        code
        for row in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", row)
    }
    sources = {path: path.read_text() for path in (ROOT / "router/warmroute").rglob("*.py")}
    raised = {code for source in sources.values() for code in _codes(ast.parse(source))}
    assert len(raised) > 50
    assert raised - explained == set()
    whole = "".join(sources.values())
    assert {code for code in explained if f'"{code}"' not in whole} == set()


@pytest.mark.parametrize(
    ("script", "document"),
    [
        ("tenants/usage.lua", "tenants.md"),
        ("tenants/limits.lua", "tenants.md"),
        ("caching/contents.lua", "prompt-caching-google.md"),
        ("caching/schemas.lua", "prompt-schemas.md"),
        ("caching/responses.lua", "response-cache.md"),
    ],
)
def test_rights_in_redis_that_a_script_needs_are_told(script: str, document: str) -> None:
    source = (ROOT / "router/warmroute/adapters" / script).read_text()
    needed = set(re.findall(r"call\('([A-Z]+)'", source)) | {"EVALSHA", "SCRIPT"}
    text = " ".join((ROOT / "docs" / document).read_text().split())
    (told,) = re.findall(r"(?:Redis's|Redis) user (?:with an ACL of its own )?needs[^.]*EVALSHA[^.]*\.", text)
    assert needed - set(re.findall(r"\b[A-Z]{3,}\b", told)) == set()


def test_every_endpoint_in_the_readme_has_a_route() -> None:
    table = (ROOT / "README.md").read_text().split("## API")[1].split("| admin port")[0]
    paths = re.findall(r"`(?:POST |GET )?(/[\w/]+)`", table)
    assert len(paths) > 20
    for path in paths:
        if path == "/v1":
            continue  # named as what endpoints are below
        found = route(b"POST", path.encode()) or route(b"GET", path.encode())
        assert found is not None, path
