"""`make fuzz-atheris TARGET=dialects SECONDS=60`: one target under libFuzzer, which looks for what reaches new code.

atheris is no dependency: it is installed into `.cache/atheris` at first use. What is found is added to the corpus by
hand, with what was wrong. Starts from the same seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CACHE = Path(".cache/atheris")
CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Exit status: libFuzzer's own, which is not 0 if an input failed."""
    arguments = argparse.ArgumentParser(prog="make fuzz-atheris")
    arguments.add_argument("target")
    arguments.add_argument("seconds", type=int)
    given = arguments.parse_args()
    packages = CACHE / "packages"
    if not packages.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(packages), "atheris"]
        if subprocess.run(command, check=False).returncode:
            print("atheris does not install on this Python", file=sys.stderr)
            return 1
    sys.path.append(str(packages))
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["warmroute"]):
        from tests.fuzz.targets import TARGETS

    import warmroute

    if not Path(warmroute.__file__).is_relative_to(Path.cwd() / "router"):
        print("compiled modules cannot be followed: run it from the sources", file=sys.stderr)
        return 1
    target = TARGETS[given.target]
    found = CACHE / given.target
    found.mkdir(parents=True, exist_ok=True)
    words = [sys.argv[0], f"-max_total_time={given.seconds}", "-max_len=4096", "-print_final_stats=1"]
    words.append(f"-artifact_prefix={found.parent}/")  # an input that fails is left there
    atheris.Setup([*words, str(found), str(CORPUS / given.target)], target)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
