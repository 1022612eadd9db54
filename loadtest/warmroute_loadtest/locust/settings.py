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
"""Policy of the router that is started where no URL is given."""
OWN_SPEED = 4.0
"""How many times faster those replicas are than the machine that they model, so that a minute on two cores shows
conversations of some turns."""

_MAKES_OWN = frozenset(("PYTHON", "VENV", "SHELL", "ENGINE", "ONCE", "WARMROUTE_COMPILE", "MAKEFLAGS"))
"""Variables of the Makefile that are no settings of the load test."""


@dataclass(frozen=True, slots=True)
class Target:
    """One router."""

    name: str
    url: str | None
    """The router's URL; None starts a router with the policy `name` before simulated replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings; a field's string is its manual."""

    scenario: str = "multi-turn"
    """What is asked: `shared-prompts`, `multi-turn`, `rag`, `agent-loops`, `no-reuse`, `embeddings`, `hostile`,
    `mixed`, `trace` or `access-log`."""
    url: str | None = None
    """The router's URL, `http://HOST:PORT`; without it a router and 4 simulated replicas are started here."""
    compare: tuple[Target, ...] = ()
    """Routers to compare side by side: `"NAME=URL NAME=URL"`. A word without `=` is a policy; a router with it is
    started before simulated replicas."""
    together: bool = False
    """Whether routers are compared at the same moments instead of one after the other; for routers with fleets of their
    own."""
    rate: float | None = None
    """Requests a second, sent by the clock however long answers take. Where neither this nor `USERS` is set, the rate
    is 4, 12 with replicas started here, and a trace's own where a trace is replayed."""
    users: int | None = None
    """Number of clients, instead of a rate. Each sends its next request a pause after its answer."""
    duration_s: float | None = None
    """Seconds in which requests are sent; the default is 60, or a trace's own duration."""
    grace_s: float = 60.0
    """Seconds after that in which answers may still come."""
    model: str | None = None
    """Name of the model to ask for; without it the first that the router lists."""
    api: str = "chat"
    """API of the requests: `chat`, `messages` (Anthropic's), `completions`, or `both` for chat and messages by
    turns."""
    seed: int = 1
    """With another seed, other requests are sent."""
    salt: str | None = None
    """Enters every text. Without it each run has a new one, so that no cache holds the run's prompts."""
    lengths: float = 1.0
    """All lengths are multiplied by this, for models with short contexts."""
    speed: float | None = None
    """All pauses, and a trace's times, are divided by this. The default is 1; with replicas started here it is 4, which
    is how much faster these are."""
    trace: Path | None = None
    """File of a trace in Mooncake's format, for `SCENARIO=trace`."""
    access_log: Path | None = None
    """File of the router's access log with fingerprints, for `SCENARIO=access-log`."""
    requests: int | None = None
    """Number of requests of a trace or log that are replayed, the first ones; without it all are."""
    spread: bool = False
    """Whether requests that a trace sends at one moment are moved apart, for traces whose clock ticks every few
    seconds."""
    open_loop: bool = False
    """Whether every line of a trace is sent by the clock, whatever session it names."""
    goodput_ttft_s: float | None = None
    """Time to first token in seconds within which an answer counts as goodput; the default is 2, or 0.5 with replicas
    started here."""
    goodput_itl_s: float | None = None
    """Inter-token latency in seconds within which an answer counts as goodput; without it latency is not looked at."""
    bytes_per_token: float = 4.0
    """Number of bytes of text that count as one token when prompts are made."""
    ignore_eos: bool = True
    """Whether vLLM is told to give every answer its full length; set `0` for servers that refuse the field."""
    timeout_s: float = 120.0
    """Seconds of silence after which a request has failed."""
    workers: int = 0
    """Number of the generator's processes on this machine besides the master; with 0 there is one process in all."""
    external_workers: int = 0
    """Number of workers on other machines or in other containers that have to connect before the run starts."""
    web: int | None = None
    """Port of locust's web interface, where people then start and stop the run."""
    insecure: bool = False
    """Whether any TLS certificate is accepted."""
    out: Path = Path("loadtest-results")
    """Folder of the reports; each run makes a folder of its own in it."""
    save: Path | None = None
    """File to which this run's figures are written, as a baseline."""
    baseline: Path | None = None
    """File that `SAVE` wrote, with which this run is compared."""

    thresholds: tuple[Threshold, ...] = ()
    """Bounds that a run must keep (see `thresholds.NAMES`)."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The routers to run against."""
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
        """The value of `speed`, once its default is filled in."""
        return self.speed or 1.0

    @property
    def target_s(self) -> float:
        """The value of `goodput_ttft_s`, once its default is filled in."""
        return 2.0 if self.goodput_ttft_s is None else self.goodput_ttft_s

    def asked(self) -> dict[str, Any]:
        """The settings that decide what is asked and when, and what counts as in time."""
        names = (
            "scenario rate users duration_s api seed lengths speed requests spread open_loop goodput_ttft_s"
            " goodput_itl_s bytes_per_token"
        ).split()
        asked = {name: getattr(self, name) for name in names}
        file = self.trace or self.access_log
        return {**asked, "file": None if file is None else file.name}


def parse(words: Sequence[str]) -> Settings:
    """Read settings from `NAME=VALUE` words.

    Raises:
        SettingError: A setting is wrong, or two contradict each other.
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
    """Return a list of all settings and thresholds, for people."""
    lines = ["make loadtest [NAME=VALUE …]", ""]
    lines += [f"  {field.name.upper()}" for field in fields(Settings) if field.name != "thresholds"]
    lines += ["", "Thresholds (the exit status is 1 when one is missed):", ""]
    lines += [f"  {name}" for name in thresholds.NAMES]
    lines += ["", f"SCENARIO is one of {', '.join(NAMES)}. What each setting means: docs/load-testing.md"]
    return "\n".join(lines)


def _completed(settings: Settings) -> Settings:
    """Return the settings with those defaults filled in that depend on other settings."""
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
