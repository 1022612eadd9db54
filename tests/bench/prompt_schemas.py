"""What a prompt schema saves on a template whose middle varies, beside the same template filled in by the client.

    python -m tests.bench.prompt_schemas [--slots 1000] [--prompts 10] [--vllm]

The template is an order of so many lines, each with an `<item>`, a `<quantity>` or a `<no>` in its middle. Every prompt
has other values. One half of them is sent as an application would write it, values in place; the other half by schema,
values last. Prints what engines found cached, against the tokens that all prompts share, as the engine counts them: of
those in place the template's text without any value, of those by schema the same text with the slots' names. Simulated
replicas, or two real ones (`--vllm`; their model's context is 16,384 tokens, which is enough for 300 slots).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

from tests.support.processes import SimProcess
from tests.support.vllm_fleet import RouterProcess, call

WORDS = (
    "asks the store for goods that are to be packed apart from all others and sent on the same day".split()
)
KINDS = ("item", "quantity", "no")


def template(slots: int, name: str) -> list[Any]:
    """Texts and parameters, in turns."""
    content: list[Any] = [f"Order of {name}.\n"]
    for number in range(slots):
        kind = KINDS[number % 3]
        content += [
            f"Line {number} {' '.join(WORDS[:8])} ",
            {"parameter": f"{kind}{number}", "length": 8},
            f" {' '.join(WORDS[8:])}.\n",
        ]
    return content


def values(slots: int, prompt: int) -> dict[str, str]:
    """Other ones for each prompt."""
    told = {"item": "boxes{}", "quantity": "{}", "no": "n{}"}
    return {f"{KINDS[n % 3]}{n}": told[KINDS[n % 3]].format(prompt * slots + n) for n in range(slots)}


def text(content: list[Any], found: dict[str, str] | None) -> str:
    """The template filled in; None: its text alone."""
    return "".join(
        [one if isinstance(one, str) else "" if found is None else found[one["parameter"]] for one in content]
    )


def measured(router: RouterProcess, model: str, slots: int, prompts: int) -> dict[str, Any]:
    """What prompts of both kinds cost."""
    rows: dict[str, list[tuple[int, int, float]]] = {"in place": [], "by schema": []}
    go = {"role": "user", "content": "Is it complete?"}
    common = {"model": model, "max_tokens": 1, "temperature": 0}

    def ask(kind: str, body: dict[str, Any]) -> None:
        began_s = time.monotonic()
        answer = call(router.url, "/v1/chat/completions", {**common, **body})
        assert answer.status == 200, answer.body
        usage = answer.json["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        rows[kind].append((usage["prompt_tokens"], cached, time.monotonic() - began_s))

    def shared(content: list[Any]) -> int:
        message = {"role": "user", "content": text(content, None)}
        counted = call(router.url, "/tokenize", {"model": model, "messages": [message]})
        return int(counted.json["count"])

    names = [uuid.uuid4().hex[:8] for _ in range(2)]
    naive, schema = (template(slots, name) for name in names)
    registration = {"name": names[1], "model": model, "parameters": "last", "content": schema}
    made = call(router.url, "/v1/prompt_schemas", registration)
    assert made.status == 200, made.body
    for prompt in range(prompts):
        found = values(slots, prompt)
        ask(
            "in place",
            {"messages": [{"role": "user", "content": text(naive, found) + "\n\n" + go["content"]}]},
        )
        ask("by schema", {"prompt_schema": {"name": names[1], "parameters": found}, "messages": [go]})
    shares = {"in place": shared(naive), "by schema": made.json["prewarm"]["tokens"]}
    told: dict[str, Any] = {}
    for kind, costs in rows.items():
        again = costs[1:] if kind == "in place" else costs  # the schema was computed when it was registered
        count = len(again)
        told[kind] = {
            "shared_tokens": shares[kind],
            "prompt_tokens": round(sum([cost[0] for cost in again]) / count),
            "cached_tokens": round(sum([cost[1] for cost in again]) / count),
            "computed_tokens": round(sum([cost[0] - cost[1] for cost in again]) / count),
            "cached_of_shared": round(sum([cost[1] for cost in again]) / count / shares[kind], 3),
            "answer_s": round(sorted([cost[2] for cost in again])[count // 2], 3),
        }
    return told


@contextlib.contextmanager
def replicas(vllm: bool) -> Iterator[tuple[list[str], str]]:
    """Two of them, and their model."""
    if not vllm:
        with SimProcess(2, "--speed", "1000") as sims:
            yield sims.urls, "sim"
        return
    from warmroute_replica.vllm.launch import Fleet, Options

    with Fleet(2, print, options=Options(max_model_len=16384), start_timeout_s=500.0) as fleet:
        yield fleet.urls, fleet.model_name


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--vllm", action="store_true")
    args = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as settings, replicas(args.vllm) as (urls, model):
        settings.write(json.dumps({"prompt_schemas": True}))
        settings.flush()
        with RouterProcess(urls, "--config", settings.name) as router:
            told = measured(router, model, args.slots, args.prompts)
    print(f"{args.slots} slots, mean of a prompt (answer_s: median)")
    print(f"{'':10}", *[f"{name:>16}" for name in told["in place"]])
    for kind, row in told.items():
        print(f"{kind:10}", *[f"{value:>16}" for value in row.values()])


if __name__ == "__main__":
    main()
