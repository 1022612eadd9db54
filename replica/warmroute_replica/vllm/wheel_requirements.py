"""This script prints a wheel's requirements as JSON: `plain` ones, and `bare` ones to install without their own.

It runs in the engine's environment (it needs `packaging`). It leaves out torch's family and triton, which
`warmroute_replica.vllm.install` decides about.
"""

from __future__ import annotations

import email
import json
import sys
import zipfile

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
BARE = {"xgrammar"}


def requirements_of(wheel: str) -> dict[str, list[str]]:
    """Return the requirements that apply on this machine, in the wheel's order, with their markers resolved."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    found: dict[str, list[str]] = {"plain": [], "bare": []}
    for line in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.name.lower() in LEFT_OUT:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        requirement.marker = None
        found["bare" if requirement.name.lower() in BARE else "plain"].append(str(requirement))
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(requirements_of(sys.argv[1])))
