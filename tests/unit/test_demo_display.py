from __future__ import annotations

import io

import pytest

from warmroute_loadtest.demo.client import Measurements
from warmroute_loadtest.demo.display import Screen, closing, progress_line, saving, table
from warmroute_loadtest.demo.figures import Side


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


BEFORE = Side("round-robin", 10, 0, 3.0, 1000, 250, 0.25, 100.0, 300.0, {"a": 5, "b": 5}, 0)
AFTER = Side("prefix-cost", 10, 0, 3.0, 1000, 800, 0.8, 20.0, 120.0, {"a": 6, "b": 4}, 0)


def test_a_log_gets_no_escape_codes_and_few_lines_of_progress() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for _ in range(50):
        screen.progress("working")
    screen.progress("done", last=True)
    screen.say("the end", strong=True)
    assert out.getvalue() == "working\ndone\nthe end\n"


def test_a_terminal_gets_one_line_of_progress_that_is_written_over() -> None:
    out = Terminal()
    screen = Screen(out)
    for number in range(3):
        screen.progress(f"working {number}")
    screen.progress("done", last=True)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\rdone\033[K\n")


def test_a_line_said_while_progress_is_shown_takes_its_place() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.progress("working")
    screen.say("news")
    assert out.getvalue().endswith("\r\033[Knews\n")


def test_progress_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    Screen(out).progress("x" * 50)
    assert out.getvalue() == "\r" + "x" * 19 + "\033[K"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    Screen(out).say("bold", strong=True)
    assert out.getvalue() == "bold\n"


def test_the_table_has_both_sides_and_their_ratio() -> None:
    lines = table(BEFORE, AFTER)
    assert max(len(line) for line in lines) <= 90
    (share,) = [line for line in lines if line.startswith("cached-token share")]
    assert share.split()[-3:] == ["25.0%", "80.0%", "3.20"]
    (p90,) = [line for line in lines if "p90" in line]
    assert p90.split()[-5:] == ["300", "ms", "120", "ms", "0.40"]
    (counts,) = [line for line in lines if line.startswith("requests per replica")]
    assert counts.split()[-4:] == ["5", "5", "6", "4"]


def test_what_was_saved_is_the_difference_of_computed_tokens() -> None:
    assert saving(BEFORE, AFTER).startswith("Saved 550 of 750 prompt tokens of prefill (73%)")


def test_progress_before_the_first_answer() -> None:
    assert "0/10" in progress_line("x", Measurements(), 10)


def test_the_line_to_try_shows_headers() -> None:
    lines = closing("http://h:1", "http://h:2", "/b.json", [("replica 7", 42)])
    assert any(line.strip().startswith("curl -i http://h:1/v1/chat/completions") for line in lines)
    assert lines[-1].split() == ["42", "(replica", "7)"]
