"""`make check-chart`: checkov's policies over what every scenario of the chart renders.

    python -m tests.support.checkov

checkov is installed at first use, in an environment of its own below the cache. Each policy that is skipped has its
reason beside it; one that nothing breaks any more must leave the list.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tests.support.chart import SCENARIOS, VERSIONS, text

PACKAGE = "checkov"

ENGINES = r"warmroute-(vllm|llama|small|large|embed)"
"""Names of the scenarios' vLLM pools."""

SKIPPED = {
    "CKV_K8S_11": (r".*", "a limit of CPU throttles, which is latency; requests say what each needs"),
    "CKV_K8S_15": (
        r".*",
        "tags do not move (a test sees to it), so pulling again brings nothing but an outage",
    ),
    "CKV_K8S_43": (r".*", "digests are a registry's own; whoever installs can name them (image.digest)"),
    "CKV_K8S_35": (r".*", "the program reads secrets from variables, which are gone with the process"),
    "CKV_K8S_38": (
        r"warmroute-router",
        "routers need their token, to watch EndpointSlices; no other pod has one",
    ),
    "CKV_K8S_8": (r"warmroute-test", "a test ends by itself"),
    "CKV_K8S_9": (r"warmroute-test", "nobody calls the test"),
    "CKV_K8S_10": (
        ENGINES,
        "what an engine needs beside its GPUs depends on its model (the pool's resources)",
    ),
    "CKV_K8S_12": (ENGINES, "the same"),
    "CKV_K8S_13": (ENGINES, "the same"),
    "CKV_K8S_22": (
        ENGINES,
        "vLLM and its libraries write beside their code; the pool's containerSecurityContext can forbid it",
    ),
    "CKV_K8S_40": (ENGINES, "the user that the official image is made for"),
}
"""Policies that are not followed, for which workloads, and why not."""


def _program() -> Path:
    place = Path(os.environ.get("WARMROUTE_CACHE") or ".cache/warmroute").absolute() / "checkov"
    program = place / "bin" / "checkov"
    if not program.exists():
        print("installing checkov (290 MB, once)", flush=True)
        venv.create(place, with_pip=True, clear=True)
        python = str(place / "bin" / "python")
        # pip takes a quarter of an hour to find versions that fit each other.
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv"], check=True
        )
        subprocess.run([python, "-m", "uv", "pip", "install", "-q", "--python", python, PACKAGE], check=True)
    return program


def _failed(folder: Path) -> list[dict[str, Any]]:
    command = [str(_program()), "-d", str(folder), "--framework", "kubernetes", "--output", "json", "--quiet"]
    environment = {**os.environ, "LOG_LEVEL": "ERROR", "BC_SKIP_MAPPING": "TRUE"}
    done = subprocess.run(
        [*command, "--soft-fail"], capture_output=True, text=True, check=False, env=environment
    )
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise SystemExit(f"checkov said nothing of use: {done.stdout[-500:]}{done.stderr[-2000:]}") from None
    failed: list[dict[str, Any]] = report["results"]["failed_checks"]
    print(f"checkov {report['summary']['checkov_version']}: {report['summary']['passed']} checks passed")
    return failed


def _skipped(check: dict[str, Any]) -> bool:
    where, _ = SKIPPED.get(check["check_id"], ("", ""))
    return re.fullmatch(where, check["resource"].rpartition(".")[2]) is not None


def main() -> int:
    """Exit status 1 if a policy is broken that is not in the list, or the list has one too many."""
    with tempfile.TemporaryDirectory() as folder:
        for scenario in SCENARIOS:
            Path(folder, f"{scenario}.yaml").write_text(text(scenario, VERSIONS[-1]))
        failed = _failed(Path(folder))
    wrong = [check for check in failed if not _skipped(check)]
    for check in wrong:
        print(f"{check['check_id']} {check['check_name']}: {check['file_path']} {check['resource']}")
    unused = sorted(set(SKIPPED) - {check["check_id"] for check in failed})
    for name in unused:
        print(f"{name} is skipped, but nothing breaks it: take it out of the list")
    print(f"{len(SCENARIOS)} scenarios, {len(wrong)} broken, {len(SKIPPED)} policies skipped")
    return 1 if wrong or unused else 0


if __name__ == "__main__":
    sys.exit(main())
