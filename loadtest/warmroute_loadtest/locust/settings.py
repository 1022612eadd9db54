"""Settings are what `make loadtest` was asked for: `NAME=VALUE` words, as make or a container passes them.

This module decides which names there are, their defaults and what may stand together. A name that nobody knows is an
error, since a misspelt threshold would otherwise pass every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from warmroute_loadtest.locust import thresholds
from warmroute_loadtest.locust.scenarios import SCENARIOS
from warmroute_loadtest.locust.talks import Api
from warmroute_loadtest.locust.thresholds import SettingError, Threshold

TRACE, ACCESS_LOG = "trace", "access-log"
NAMES = (*SCENARIOS, TRACE, ACCESS_LOG)
API_NAMES = (Api.CHAT.value, Api.MESSAGES.value, Api.COMPLETIONS.value, "both")
OWN_POLICY = "prefix-cost"
"""Of the router that is started where no URL is given."""
OWN_SPEED = 4.0
"""How many times as fast as the machine that they model those replicas are, so that a minute shows
conversations of some turns on two cores."""

_MAKES_OWN = frozenset(("PYTHON", "VENV", "SHELL", "ENGINE", "ONCE", "WARMROUTE_COMPILE", "MAKEFLAGS"))
"""Variables of the Makefile that are not the load test's."""


@dataclass(frozen=True, slots=True)
class Target:
    """One router."""

    name: str
    url: str | None
    """None: a router with the policy `name` is started before simulated replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set; a field's string is its manual."""

    scenario: str = "multi-turn"
    """`shared-prompts`, `multi-turn`, `rag`, `agent-loops`, `no-reuse`, `embeddings`, `hostile`, `mixed`, `trace`,
    `access-log`."""
    url: str | None = None
    """The router, `http://HOST:PORT`; without it a router and 4 simulated replicas are started here."""
    compare: tuple[Target, ...] = ()
    """Routers side by side: `"NAME=URL NAME=URL"`; a word without `=` is a policy, started before simulated
    replicas."""
    together: bool = False
    """Compare at the same moments instead of one after the other: for routers that have fleets of their own."""
    rate: float | None = None
    """Requests a second, by the clock whatever answers take; 4 where neither this nor `USERS` is set, 12 with
    replicas started here. A trace's own without."""
    users: int | None = None
    """Clients instead of a rate: each sends its next request a pause after its answer."""
    duration_s: float | None = None
    """Seconds in which requests are sent: 60; a trace's own without."""
    grace_s: float = 60.0
    """Seconds after that in which answers may still come."""
    model: str | None = None
    """Model to ask for; without it the first that the router lists."""
    api: str = "chat"
    """`chat`, `messages` (Anthropic's), `completions`, or `both`: chat and messages by turns."""
    seed: int = 1
    """Another seed, other requests."""
    salt: str | None = None
    """Enters every text. Without it a new one each run, so that caches are cold for it."""
    lengths: float = 1.0
    """Factor of all lengths, for models with short contexts."""
    speed: float | None = None
    """Divisor of all pauses, and of a trace's times: 1; as fast as the replicas are, 4, with replicas started
    here."""
    trace: Path | None = None
    """A Mooncake-format trace, for `SCENARIO=trace`."""
    access_log: Path | None = None
    """The router's access log with fingerprints, for `SCENARIO=access-log`."""
    requests: int | None = None
    """The first so many of a trace or log."""
    spread: bool = False
    """Move apart what a trace sends at one moment, for traces whose clock ticks every few seconds."""
    open_loop: bool = False
    """Send every line of a trace by the clock, whatever session it names."""
    goodput_ttft_s: float | None = None
    """Time to first token within which an answer counts as goodput: 2; 0.5 with replicas started here."""
    goodput_itl_s: float | None = None
    """Inter-token latency within which it does; not looked at without."""
    bytes_per_token: float = 4.0
    """Bytes of text that are taken for a token when prompts are made."""
    ignore_eos: bool = True
    """Tell vLLM to give every answer its full length; `0` for servers that refuse the field."""
    timeout_s: float = 120.0
    """Silence after which a request has failed."""
    workers: int = 0
    """Processes of the generator on this machine beside the master; 0: one process."""
    external_workers: int = 0
    """Workers that connect from other machines or containers, to wait for before the start."""
    web: int | None = None
    """Port of locust's web interface, which then starts and stops the run."""
    insecure: bool = False
    """Accept any TLS certificate."""
    out: Path = Path("loadtest-results")
    """Folder of the reports; each run makes one in it."""
    save: Path | None = None
    """File to write this run's figures to, as a baseline."""
    baseline: Path | None = None
    """File that `SAVE` wrote, to compare with."""

    thresholds: tuple[Threshold, ...] = ()
    """Bounds that a run must keep (`thresholds.NAMES`)."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """Routers to run against."""
        if self.compare:
            return self.compare
        return (Target("router" if self.url else OWN_POLICY, self.url),)

    @property
    def starts_fleet(self) -> bool:
        """Whether routers and replicas are started here."""
        return any(target.url is None for target in self.targets)

    @property
    def is_recorded(self) -> bool:
        """Whether requests are read from a file."""
        return self.scenario in (TRACE, ACCESS_LOG)

    @property
    def pace(self) -> float:
        """`speed`, once known."""
        return self.speed or 1.0

    @property
    def target_s(self) -> float:
        """`goodput_ttft_s`, once known."""
        return 2.0 if self.goodput_ttft_s is None else self.goodput_ttft_s

    def asked(self) -> dict[str, Any]:
        """What decides what is asked and when, and what counts as in time."""
        names = (
            "scenario rate users duration_s api seed lengths speed requests spread open_loop goodput_ttft_s"
            " goodput_itl_s bytes_per_token"
        ).split()
        asked = {name: getattr(self, name) for name in names}
        file = self.trace or self.access_log
        return {**asked, "file": None if file is None else file.name}


def parse(words: Sequence[str]) -> Settings:
    """Settings from words.

    Raises:
        SettingError: One is wrong, or two contradict each other.
    """
    given: dict[str, str] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not mark:
            raise SettingError(f"{word!r}: expected NAME=VALUE")
        if name in _MAKES_OWN:
            continue
        if name.lower() not in _READERS and name not in thresholds.NAMES:
            close = get_close_matches(name, [*(n.upper() for n in _READERS), *thresholds.NAMES], 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingError(f"{name}: no such setting{hint} (make loadtest HELP=1 lists them)")
        if value:
            given[name] = value
    made: dict[str, Any] = {}
    for name, value in given.items():
        if name.lower() in _READERS:
            made[name.lower()] = _READERS[name.lower()](name, value)
    settings = Settings(**made, thresholds=tuple(thresholds.parse(given)))
    _check(settings)
    return _completed(settings)


def manual() -> str:
    """All settings and thresholds, for people."""
    lines = ["make loadtest [NAME=VALUE …]", ""]
    lines += [f"  {field.name.upper()}" for field in fields(Settings) if field.name != "thresholds"]
    lines += ["", "Thresholds (the exit status is 1 when one is missed):", ""]
    lines += [f"  {name}" for name in thresholds.NAMES]
    lines += ["", f"SCENARIO is one of {', '.join(NAMES)}. What each setting means: docs/load-testing.md"]
    return "\n".join(lines)


def _completed(settings: Settings) -> Settings:
    """With the defaults that depend on others."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    if not settings.is_recorded or settings.users is not None:
        values["duration_s"] = settings.duration_s or 60.0
    if not settings.is_recorded and settings.users is None:
        values["rate"] = settings.rate or (12.0 if settings.starts_fleet else 4.0)
    values["speed"] = settings.speed or (OWN_SPEED if settings.starts_fleet else 1.0)
    target_s = 2.0 / OWN_SPEED if settings.starts_fleet else 2.0
    values["goodput_ttft_s"] = target_s if settings.goodput_ttft_s is None else settings.goodput_ttft_s
    return Settings(**values)


def _check(settings: Settings) -> None:
    if settings.url is not None and settings.compare:
        raise SettingError("URL and COMPARE: give one of them")
    if settings.rate is not None and settings.users is not None:
        raise SettingError(
            "RATE and USERS: requests come by the clock or from clients that wait; give one of them"
        )
    if settings.users is not None and settings.compare:
        raise SettingError("COMPARE needs requests by the clock: RATE instead of USERS")
    if settings.web is not None and settings.compare:
        raise SettingError("COMPARE and WEB: the web interface shows one router")
    if settings.workers and settings.external_workers:
        raise SettingError("WORKERS and EXTERNAL_WORKERS: give one of them")
    if settings.together and settings.starts_fleet:
        raise SettingError("TOGETHER: routers started here share their replicas; give URLs")
    for name, path in ((TRACE, settings.trace), (ACCESS_LOG, settings.access_log)):
        variable = name.upper().replace("-", "_")
        if settings.scenario == name and path is None:
            raise SettingError(f"SCENARIO={name} needs {variable}=FILE")
        if path is not None and settings.scenario != name:
            raise SettingError(f"{variable} is for SCENARIO={name}, not for {settings.scenario}")
    names = [target.name for target in settings.compare]
    if len(set(names)) < len(names):
        raise SettingError("COMPARE: two routers have one name")


def _scenario(name: str, text: str) -> str:
    if text not in NAMES:
        raise SettingError(f"{name}={text}: no such scenario; there are {', '.join(NAMES)}")
    return text


def _api(name: str, text: str) -> str:
    if text not in API_NAMES:
        raise SettingError(f"{name}={text}: no such API; there are {', '.join(API_NAMES)}")
    return text


def _url(name: str, text: str) -> str:
    if not text.startswith(("http://", "https://")) or len(text.split("://", 1)[1]) < 1:
        raise SettingError(f"{name}={text}: not a URL; write for example {name}=http://127.0.0.1:8000")
    return text.rstrip("/")


def _targets(name: str, text: str) -> tuple[Target, ...]:
    targets = []
    for word in text.split():
        label, mark, url = word.partition("=")
        targets.append(Target(label, _url(f"{name}: {label}", url) if mark else None))
    if len({target.url is None for target in targets}) > 1:
        raise SettingError(f"{name}={text}: either all have URLs, or all are policies")
    return tuple(targets)


def _number(least: float, most: float = float("inf")) -> Callable[[str, str], float]:
    def read(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise SettingError(f"{name}={text}: not a number") from None
        if not least <= value <= most or value == float("inf"):
            raise SettingError(f"{name}={text}: must be from {least:g} to {most:g}")
        return value

    return read


def _whole(least: int, most: int = 1_000_000_000) -> Callable[[str, str], int]:
    def read(name: str, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise SettingError(f"{name}={text}: not a whole number") from None
        if not least <= value <= most:
            raise SettingError(f"{name}={text}: must be from {least} to {most}")
        return value

    return read


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise SettingError(f"{name}={text}: 0 or 1")
    return text == "1"


def _file(name: str, text: str) -> Path:
    path = Path(text)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise SettingError(f"{name}={text}: no such file, or not readable")
    return path


_READERS: dict[str, Callable[[str, str], Any]] = {
    "scenario": _scenario,
    "url": _url,
    "compare": _targets,
    "together": _flag,
    "rate": _number(0.001, 100_000),
    "users": _whole(1, 100_000),
    "duration_s": _number(0.1, 1_000_000),
    "grace_s": _number(0, 100_000),
    "model": lambda name, text: text,
    "api": _api,
    "seed": _whole(0),
    "salt": lambda name, text: text,
    "lengths": _number(0.0001, 1000),
    "speed": _number(0.001, 1000),
    "trace": _file,
    "access_log": _file,
    "requests": _whole(1),
    "spread": _flag,
    "open_loop": _flag,
    "goodput_ttft_s": _number(0, 1_000_000),
    "goodput_itl_s": _number(0, 1_000_000),
    "bytes_per_token": _number(0.5, 100),
    "ignore_eos": _flag,
    "timeout_s": _number(0.1, 1_000_000),
    "workers": _whole(0, 1000),
    "external_workers": _whole(0, 10_000),
    "web": _whole(1, 65_535),
    "insecure": _flag,
    "out": lambda name, text: Path(text),
    "save": lambda name, text: Path(text),
    "baseline": lambda name, text: Path(text),
}
