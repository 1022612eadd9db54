"""The display prints what the demo shows: progress, the table, and the closing lines.

This module decides wording only. A terminal gets colours, and progress on one line that is written over; anything else
gets plain lines now and then.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from warmroute_loadtest.demo.client import Measurements
from warmroute_loadtest.demo.figures import Side, percentile

LOG_INTERVAL_S = 5.0
"""Time between two lines of progress where there is no terminal, in seconds."""

_BAR = 24
_LABEL = 36
_COLUMN = 22


class Screen:
    """Where the demo's lines go: a terminal or something else."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._colours = self._is_terminal and not os.environ.get("NO_COLOR")
        self._open_line = False
        self._told_s = 0.0

    def say(self, line: str = "", *, strong: bool = False) -> None:
        """Print a line that stays."""
        if self._open_line:
            self._out.write("\r\033[K")
            self._open_line = False
        text = f"\033[1m{line}\033[0m" if strong and self._colours else line
        self._out.write(text + "\n")
        self._out.flush()

    def progress(self, line: str, *, last: bool = False) -> None:
        """Print a line that the next one replaces; the last one stays."""
        if self._is_terminal:
            # A line that wraps could not be written over.
            shown = line if last else line[: shutil.get_terminal_size().columns - 1]
            self._out.write("\r" + shown + "\033[K")
            self._open_line = not last
            if last:
                self._out.write("\n")
            self._out.flush()
        elif last or time.monotonic() - self._told_s >= LOG_INTERVAL_S:
            self._told_s = time.monotonic()
            self.say(line)


def progress_line(name: str, measured: Measurements, total: int) -> str:
    """Return a line that says how far a run is, and what it shows so far."""
    samples = measured.samples
    done = len(samples) + measured.failed
    filled = done * _BAR // total
    prompt_tokens = sum(sample.prompt_tokens for sample in samples) or 1
    cached_tokens = sum(sample.cached_tokens for sample in samples)
    p90_ms = percentile([sample.ttft_s for sample in samples], 0.9) * 1000
    failed = f"  {measured.failed} failed" if measured.failed else ""
    return (
        f"  {name:<12} [{'=' * filled}{' ' * (_BAR - filled)}] {done:>4}/{total}  {measured.elapsed_s:3.0f} s"
        f"  cached {cached_tokens / prompt_tokens:3.0%}  TTFT p90 {p90_ms:,.0f} ms{failed}"
    )


def table(before: Side, after: Side) -> list[str]:
    """Return a table of both sides, with one line for each figure."""
    rows = [
        (
            "cached-token share",
            f"{before.cached_ratio:.1%}",
            f"{after.cached_ratio:.1%}",
            _times(after.cached_ratio, before.cached_ratio),
        ),
        _latency("time to first token, p50", before.ttft_p50_ms, after.ttft_p50_ms),
        _latency("time to first token, p90", before.ttft_p90_ms, after.ttft_p90_ms),
        (
            "prompt tokens computed",
            f"{before.computed_tokens:,}",
            f"{after.computed_tokens:,}",
            _times(after.computed_tokens, before.computed_tokens),
        ),
        ("requests per replica", _counts(before), _counts(after), ""),
        ("requests, failed", _requests(before), _requests(after), ""),
    ]
    head = ("", before.policy, after.policy, "ratio")
    return [_row(*head), "-" * (_LABEL - 8 + 2 * _COLUMN + 10), *(_row(*row) for row in rows)]


def saving(before: Side, after: Side) -> str:
    """Return one line that says what was saved, and why."""
    saved = before.computed_tokens - after.computed_tokens
    share = saved / before.computed_tokens if before.computed_tokens else 0.0
    return (
        f"Saved {saved:,} of {before.computed_tokens:,} prompt tokens of prefill ({share:.0%}): each turn went to"
        " the replica that still held its conversation."
    )


def closing(data_url: str, admin_url: str, body_file: str, pids: Sequence[tuple[str, int]]) -> list[str]:
    """Return lines that say what the user can try while everything is up."""
    lines = [
        "The next turn of a conversation; the X-Warmroute headers say where it goes and why:",
        f"  curl -i {data_url}/v1/chat/completions -H 'Content-Type: application/json' -d @{body_file}",
        "",
        "Why, with every candidate's terms; replicas; metrics:",
        f"  curl {admin_url}/explain -H 'Content-Type: application/json' -d @{body_file}",
        f"  curl {admin_url}/replicas",
        f"  curl {admin_url}/metrics",
    ]
    if pids:
        listed = ", ".join(f"{pid} ({name})" for name, pid in pids)
        lines += ["", "Requests go on when a replica dies. Try kill -9 with one of these:", f"  {listed}"]
    return lines


def _latency(label: str, before_ms: float, after_ms: float) -> tuple[str, str, str, str]:
    return label, f"{before_ms:,.0f} ms", f"{after_ms:,.0f} ms", _times(after_ms, before_ms)


def _times(after: float, before: float) -> str:
    return f"{after / before:.2f}" if before else "-"


def _counts(side: Side) -> str:
    return " ".join(str(count) for count in side.requests_per_replica.values())


def _requests(side: Side) -> str:
    return f"{side.requests + side.failed}, {side.failed}"


def _row(label: str, before: str, after: str, ratio: str) -> str:
    return f"{label:<{_LABEL - 8}}{before:>{_COLUMN}}{after:>{_COLUMN}}{ratio:>10}".rstrip()
