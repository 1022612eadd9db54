"""This module keeps tiny models and LoRA adapters in the cache: it makes each once, whole or not at all.

It does not know how a model is made (`warmroute_replica.vllm.tiny_model` does, inside the engine's environment).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmroute_replica.vllm.environment import clean_environment
from warmroute_replica.vllm.install import InstallError, Progress, cache_dir
from warmroute_replica.vllm.tiny_model import PRESETS

_MAKER = Path(__file__).with_name("tiny_model.py")


@dataclass(frozen=True, slots=True)
class Model:
    """A model on disk and the adapters made for it."""

    path: Path
    lora: tuple[tuple[str, Path], ...] = ()
    """The name and the directory of each adapter."""


def default_model(preset: str) -> Path:
    """Return the directory of a preset's model where no other is named."""
    return cache_dir() / f"model-{preset}"


def ensure_model(
    venv: Path,
    progress: Progress,
    *,
    out: Path | None = None,
    preset: str = "small",
    lora: Sequence[str] = (),
) -> Model:
    """Make a model and adapters named `lora` for it, unless they are there. Takes about ten seconds each.

    Args:
        venv: The engine's environment, as `ensure_installed` returned it.
        progress: Called with one line per thing made.
        out: Directory of the model; `default_model(preset)` if absent. Adapters lie beside it, at
        `OUT-lora-NAME`.
        preset: A key of `tiny_model.PRESETS`.
        lora: Names of the adapters.
    Raises:
        InstallError: The maker failed.
        ValueError: Unknown preset, or a name of an adapter that is no plain word.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(sorted(PRESETS))}")
    out = (out or default_model(preset)).absolute()
    _make(venv, out, [], preset, progress)
    adapters: list[tuple[str, Path]] = []
    for name in lora:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise ValueError(f"adapter name {name!r}: letters, digits, dot, dash and underscore only")
        path = out.with_name(f"{out.name}-lora-{name}")
        _make(venv, path, ["--lora", name], preset, progress)
        adapters.append((name, path))
    return Model(out, tuple(adapters))


def _make(venv: Path, out: Path, arguments: list[str], preset: str, progress: Progress) -> None:
    arguments = ["--preset", preset, *arguments]
    recipe = hashlib.sha256(_MAKER.read_bytes())
    recipe.update(_MAKER.with_name("chat_template.jinja").read_bytes())
    stamp = " ".join([recipe.hexdigest(), *arguments]) + "\n"
    stamp_file = out / "warmroute-recipe"
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        return
    if out.exists() and any(out.iterdir()) and not stamp_file.exists():
        raise InstallError(f"{out} holds something that was not made here; name another directory")
    progress(f"making {out.name} (once)")
    # The model is made beside its place and then moved there, so that an interrupted run leaves nothing that looks
    # whole.
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    command = [str(venv / "bin" / "python"), "-I", "-W", "ignore", str(_MAKER), str(unfinished), *arguments]
    environment = clean_environment({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise InstallError(f"making {out.name} failed:\n{done.stderr[-2000:]}")
        (unfinished / "warmroute-recipe").write_text(stamp)
        shutil.rmtree(out, ignore_errors=True)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if done.stdout.strip():
        progress("      " + done.stdout.strip())
