"""Modules are small, and each of the request path's layers is compiled, or is not for a reason that is said here."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for root in ("router", "replica", "loadtest")
    for path in (ROOT / root).rglob("*.py")
    if path.name != "__init__.py"
)
LARGE_LINES = 400
MOST_LINES = 600
MEDIAN_LINES = 150

INTERPRETED = {
    "core/errors.py": "raised, not called; dialects match on the classes",
    "core/beliefs/idle_time.py": "once a minute",
    "core/choice/policies/baseline.py": "of the baselines to compare with",
    "core/choice/policies/least_loaded.py": "a baseline to compare with",
    "core/choice/policies/power_of_two.py": "a baseline to compare with",
    "core/choice/policies/prefix_hash.py": "a baseline to compare with",
    "core/choice/policies/random_choice.py": "a baseline to compare with",
    "core/choice/policies/round_robin.py": "a baseline to compare with",
    "core/fleet/peer_load.py": "a few times a second, off the request path",
    "core/fleet/report.py": "for people",
    "core/holding/parameters.py": "data, read once",
    "core/holding/queue_parameters.py": "data, read once",
    "core/prompt/promises.py": "requests that ask for a prefix to be kept",
    "core/prompt/prompt.py": "its work is done by C: joins, encodes, hashes",
    "dialects/urgency.py": "of a request that has to wait, and of a head once",
    "dataplane/cors.py": "browsers alone",
    "dataplane/explain.py": "for people",
    "dataplane/later.py": "a try that waits: retries from the second on",
    "dataplane/kinds.py": "one call a request, where what few have is switched on",
    "dataplane/large_body.py": "a `BufferedProtocol`, which asyncio inspects",
    "dataplane/local.py": "the router's own answers",
    "dataplane/own_answers.py": "the router's own answers",
    "dataplane/proxy_header.py": "once a connection, where proxies send it",
    "dataplane/proxies.py": "once a connection",
    "dataplane/server.py": "at the start and the end",
    "dataplane/sweeper.py": "twice a second",
    "dataplane/tunnel.py": "WebSockets: once a connection, then bytes as they come",
    "dialects/cache_asked.py": "data",
    "dialects/cache_directives.py": "requests that recorded responses may answer",
    "dialects/complete.py": "its work is done by C: JSON read",
    "dialects/repeatable.py": "its work is done by C: JSON read and written",
    "dialects/cache_control.py": "requests that ask for a prefix to be kept",
    "dialects/cached_contents.py": "cached contents are made and changed now and then",
    "dialects/chat_request.py": "structs that msgspec inspects",
    "dialects/coding.py": "its work is done by C: zlib, zstd",
    "dialects/completions.py": "structs that msgspec inspects",
    "dialects/continuation.py": "streams while failover is on, and what has broken",
    "dialects/fields.py": "structs that msgspec inspects",
    "dialects/gemini.py": "its work is done by C: JSON read and written",
    "dialects/gemini_answers.py": "its work is done by C: JSON read and written",
    "dialects/gemini_contents.py": "its work is done by C: JSON read and written",
    "dialects/gemini_fields.py": "its work is done by C: JSON read and written",
    "dialects/gemini_paths.py": "Google's API alone",
    "dialects/gemini_schema.py": "schemas of tools",
    "dialects/gemini_settings.py": "a dozen fields a request of Google's",
    "dialects/guess.py": "answers 404",
    "dialects/lax.py": "bodies that the strict readers refuse",
    "dialects/markup.py": "its work is done by C: expat",
    "dialects/messages.py": "structs that msgspec inspects",
    "dialects/model_list.py": "the router's own answers",
    "dialects/other.py": "bodies that are not JSON: no field of them is read",
    "dialects/parts.py": "content that is not plain text",
    "dialects/prefix_request.py": "a prefix that is promised and kept warm, once",
    "dialects/pml.py": "schemas are registered now and then; prompts in markup are short",
    "dialects/prompt_blocks.py": "requests that ask for a prefix to be kept",
    "dialects/prompt_cache.py": "requests that ask for a prefix to be kept",
    "dialects/prompt_schemas.py": "requests that use a schema; the text is put together by C: joins",
    "dialects/render.py": "the router's own answers",
    "dialects/responses.py": "structs that msgspec inspects",
    "dialects/rewrites.py": "its work is done by C: JSON read and written",
    "dialects/routes.py": "a table; a known head's route comes with it from the cache",
    "dialects/schema_paths.py": "the resource of prompt schemas alone",
    "dialects/usage_told.py": "its work is done by C: JSON, decoded and encoded",
    "dialects/usage_report.py": "what the fast reader of usage leaves over",
}
"""Modules of the request path's layers that mypyc does not compile, and why that costs nothing there."""


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def compiled() -> set[str]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED"
    )
    assert list(names) == sorted(set(names)), "each once, in order"
    return set(names)


def test_every_module_of_the_request_path_is_compiled_or_exempt_for_a_reason() -> None:
    found = {}
    for path in SOURCES:
        root, *inside = path.relative_to(ROOT).parts
        for layer in {"core", "dataplane", "dialects"} & set(inside) if root == "router" else ():
            found["/".join([root, *inside])] = "/".join(inside[inside.index(layer) :])
    there = {name for path, name in found.items() if path in compiled()}
    assert there & INTERPRETED.keys() == set(), "compiled, and said not to be"
    assert set(found.values()) - there == INTERPRETED.keys(), "compile it (setup.py), or say here why not"


def test_what_is_compiled_exists() -> None:
    assert [name for name in sorted(compiled()) if not (ROOT / name).is_file()] == []


def test_modules_are_small_and_the_large_ones_are_named_with_a_reason() -> None:
    assert median(map(lines, SOURCES)) <= MEDIAN_LINES
    assert [path.name for path in SOURCES if lines(path) > MOST_LINES] == []
    text = (ROOT / "ARCHITECTURE.md").read_text().split("## Large modules")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `([^`]+)` \|", text, re.M))
    large = {path.relative_to(ROOT).as_posix() for path in SOURCES if lines(path) > LARGE_LINES}
    assert large - named == set(), f"over {LARGE_LINES} lines: split it, or say in ARCHITECTURE.md why not"
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_what_the_compiler_reads_is_free_of_errors_without_the_packages_that_it_does_not_have() -> None:
    """A build has `build-system.requires` alone. Where a type is unknown nothing is wrong with its use, so that a
    comment that ignores what would be is an error."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    there = {re.match(r"[a-z0-9]+", line)[0] for line in project["build-system"]["requires"]}  # type: ignore[index]
    router = ROOT / "router"
    seen: set[Path] = set()
    left = [ROOT / name for name in compiled()]
    wrong = []
    while left:
        path = left.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        names = imported(path)
        left += [router / (name.replace(".", "/") + ".py") for name in names if name.startswith("warmroute.")]
        foreign = {name.partition(".")[0] for name in names} - {"warmroute"} - sys.stdlib_module_names - there
        ignores = re.findall(r"# type: ignore\[(?![^\]]*unused-ignore)", path.read_text())
        if foreign and ignores:
            wrong.append((path.relative_to(ROOT).as_posix(), sorted(foreign)))
    assert len(seen) > 100
    assert wrong == [], "say it with a cast, or add unused-ignore"
