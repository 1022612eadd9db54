"""deploy/kubernetes is what the chart renders, and holds no secret."""

from __future__ import annotations

import re

import yaml

from tests.support.kubernetes_schemas import errors
from tests.support.plain_manifests import documents


def test_the_plain_manifests_are_current() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, f"{path.name} is stale: run `make chart`"


def test_the_plain_manifests_are_valid_and_name_a_secret_that_whoever_applies_them_makes() -> None:
    for path in documents():
        manifests = [part for part in yaml.safe_load_all(path.read_text()) if part]
        assert len(manifests) > 10
        for manifest in manifests:
            for version in ("1.29.0", "1.36.0"):
                assert errors(manifest, version) == []
        assert "Secret" not in {manifest["kind"] for manifest in manifests}
        named = set(re.findall(r"secretKeyRef: \{name: (\S+), key: ([a-z-]+)\}", path.read_text()))
        assert named == {("warmroute", "redis-password"), ("warmroute", "fingerprint-secret")}
