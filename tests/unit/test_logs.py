"""Log lines: one line an event, fields that cannot be forged, levels that apply."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from warmroute.telemetry.logs import fields, set_up


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("warmroute").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("warmroute").setLevel(ours)


def lines(level: str) -> tuple[io.StringIO, logging.Logger]:
    stream = io.StringIO()
    set_up(level, stream)
    return stream, logging.getLogger("warmroute.test")


def test_an_event_is_one_line_with_its_fields() -> None:
    stream, log = lines("info")
    log.info("replica_ejected", extra=fields(replica="a:1", reason="refused", backoff_s=1.0 / 3, none=None))
    stamp, rest = stream.getvalue().split(" ", 1)
    assert (
        rest
        == "info warmroute.test replica_ejected replica=a:1 reason=refused backoff_s=0.333333 none=None\n"
    )
    assert len(stamp) == len("2026-01-01T00:00:00.000Z")
    assert stamp.endswith("Z")


def test_a_field_can_neither_end_the_line_nor_forge_another() -> None:
    stream, log = lines("info")
    log.info("told\nlies", extra=fields(model='x" level=error\n2026 error', long="y" * 10_000))
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert 'told\\nlies model="x\\" level=error\\n2026 error" long=' in text
    assert len(text) < 2_500


def test_levels_apply_to_us_and_libraries_stay_quiet() -> None:
    stream, log = lines("debug")
    log.debug("seen")
    logging.getLogger("aiohttp.access").info("unseen")
    assert "seen" in stream.getvalue()
    assert "unseen" not in stream.getvalue()
    stream, log = lines("error")
    log.warning("unseen")
    logging.getLogger("aiohttp").warning("unseen")
    assert stream.getvalue() == ""


def test_a_traceback_follows_its_event() -> None:
    stream, log = lines("info")
    try:
        int("broken")
    except ValueError:
        log.exception("task_crashed", extra=fields(task="probe"))
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("error warmroute.test task_crashed task=probe")
    assert rest[-1].startswith("ValueError: invalid literal")
