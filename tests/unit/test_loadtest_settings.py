from __future__ import annotations

from pathlib import Path

import pytest

from warmroute_loadtest.locust.__main__ import main
from warmroute_loadtest.locust.launch import arguments
from warmroute_loadtest.locust.settings import NAMES, Target, manual, parse
from warmroute_loadtest.locust.thresholds import SettingError

URL = "URL=http://127.0.0.1:1"


def test_nothing_given_is_a_fleet_of_its_own_and_requests_by_the_clock() -> None:
    settings = parse([])
    assert settings.starts_fleet
    assert (settings.rate, settings.duration_s, settings.speed) == (12.0, 60.0, 4.0)
    given = parse([URL])
    assert not given.starts_fleet
    assert (given.rate, given.duration_s, given.speed) == (4.0, 60.0, 1.0)


def test_routers_to_compare_have_names() -> None:
    settings = parse(["COMPARE=warmroute=http://a:1 roundrobin=http://b:2/"])
    assert settings.targets == (Target("warmroute", "http://a:1"), Target("roundrobin", "http://b:2"))
    assert parse(["COMPARE=prefix-cost round-robin"]).starts_fleet


def test_what_make_passes_for_itself_is_left_alone() -> None:
    assert parse(["PYTHON=python3.12", "WARMROUTE_COMPILE=0", "URL=", "SCENARIO=rag"]).scenario == "rag"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["SCENARIO=chat"], f"no such scenario; there are {', '.join(NAMES)}"),
        (["TTFT_P95_S=1"], "TTFT_P95_S: no such setting; did you mean TTFT_P9"),
        (["SCENRIO=rag"], "did you mean SCENARIO?"),
        (["rag"], "expected NAME=VALUE"),
        (["RATE=much"], "RATE=much: not a number"),
        (["RATE=0"], "must be from"),
        (["RATE=inf"], "must be from"),
        (["USERS=2.5"], "not a whole number"),
        (["RATE=1", "USERS=1"], "give one of them"),
        ([URL, "COMPARE=a=http://a"], "give one of them"),
        (["COMPARE=a=http://a round-robin"], "either all have URLs"),
        (["COMPARE=a=http://a a=http://b"], "two routers have one name"),
        (["COMPARE=a=b"], "COMPARE: a=b: not a URL"),
        (["COMPARE=a=http://a b=http://b", "USERS=3"], "RATE instead of USERS"),
        (["TOGETHER=1"], "give URLs"),
        (["URL=127.0.0.1:8000"], "write for example URL=http://"),
        (["API=responses"], "no such API; there are chat"),
        (["SCENARIO=trace"], "SCENARIO=trace needs TRACE=FILE"),
        (["SCENARIO=access-log"], "SCENARIO=access-log needs ACCESS_LOG=FILE"),
        (["SCENARIO=trace", "TRACE=/no/such"], "no such file"),
        ([f"TRACE={__file__}"], "TRACE is for SCENARIO=trace"),
        (["INSECURE=yes"], "0 or 1"),
        (["WEB=0"], "must be from 1"),
        (["WORKERS=2", "EXTERNAL_WORKERS=2"], "give one of them"),
        (["TTFT_P90_S=fast"], "not a number of seconds"),
    ],
)
def test_what_is_wrong_is_named_and_ends_with_status_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError) as caught:
        parse(words)
    assert said in str(caught.value)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("loadtest: ")


def test_a_baseline_that_is_not_there_ends_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([URL, "BASELINE=/no/such.json"]) == 2
    assert "BASELINE=/no/such.json: No such file" in capsys.readouterr().err


def test_the_manual_names_every_scenario_and_setting() -> None:
    text = manual()
    for name in (*NAMES, "SCENARIO", "BASELINE", "TTFT_P90_S", "CACHED_RATIO"):
        assert name in text
    assert main(["HELP=1"]) == 0


def test_locust_is_told_everything() -> None:
    asked = parse([URL, "SCENARIO=rag", "RATE=7", "DURATION_S=12.5", "GRACE_S=5", "WORKERS=3", "API=both"])
    words = " ".join(arguments(asked, None))
    for said in ("--scenario rag", "--rate 7", "--processes 3", "--users 3", "--run-time 18s", "--api both"):
        assert said in words
    users = " ".join(arguments(parse([URL, "USERS=500", "DURATION_S=60"]), None))
    for said in ("--users 500", "--spawn-rate 50", "--run-time 60s", "--stop-timeout 60", "--by-users"):
        assert said in users
    assert "--rate" not in users
    assert "--headless" not in arguments(parse([URL, "WEB=8089"]), None)
    assert "--master" in arguments(parse([URL, "EXTERNAL_WORKERS=2"]), None)


def test_every_setting_is_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "load-testing.md").read_text()
    words = [line.strip() for line in manual().splitlines() if line.startswith("  ")]
    assert len(words) > 40
    assert [word for word in words if f"`{word}`" not in text] == []
    assert [name for name in NAMES if f"`{name}`" not in text] == []
