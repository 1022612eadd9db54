"""The process logs one line an event on standard error, `time level logger event key=value …`.

Loggers are the standard library's; fields travel as `extra={"fields": {…}}` (see `fields`). The request path does not
log: see `access_log`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TextIO

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")
_MAX_FIELD_CHARACTERS = 2000


def fields(**values: object) -> dict[str, dict[str, object]]:
    """The `extra` of a log call: `log.info("replica_ejected", extra=fields(replica=id, reason=reason))`."""
    return {"fields": values}


class EventFormatter(logging.Formatter):
    """Renders a record on one line; what a field holds cannot end the line or forge another field."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback below it if there is one."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        parts = [f"{moment}.{int(record.msecs):03d}Z", record.levelname.lower(), record.name, message]
        extra = getattr(record, "fields", None)
        if isinstance(extra, dict):
            parts += [f"{key}={_text(value)}" for key, value in extra.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _text(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if len(text) > _MAX_FIELD_CHARACTERS:
        text = text[:_MAX_FIELD_CHARACTERS] + "…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Send every logger's events of this level and above to `stream`, standard error by default.

    Replaces what was set up before. Libraries stay at warning, so that `debug` shows our own events.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(EventFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("warmroute").setLevel(level.upper())
    if level in ("warning", "error"):
        root.setLevel(level.upper())
