"""Tests of a whole cluster say in one line what they lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cluster import lacking


def test_what_is_needed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.e2e.cluster.PATH", str(tmp_path))
    said = lacking()
    assert said is not None
    assert "kube-apiserver" in said
    assert "\n" not in said
