"""The agent's log has one line an event on standard error: `time level event key=value …`."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return `fields` as the `extra` argument of a log call."""
    return {"fields": values}


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [f"{moment}.{int(record.msecs):03d}Z", record.levelname.lower(), "agent", record.getMessage()]
        for key, value in getattr(record, "fields", {}).items():
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            parts.append(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)}")
        line = " ".join(parts)
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


def set_up() -> None:
    """Write events of the agent from `info` on, and warnings of libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("warmroute_replica").setLevel(logging.INFO)
