"""deploy/compose is whole: files exist, images are pinned, containers are confined, parts name each other rightly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from warmroute.telemetry.build import version

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, each in SERVICES.items() if each["image"].startswith("warmroute/"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_confined_looked_after_and_started_again(name: str) -> None:
    service = SERVICES[name]
    tag = service["image"].partition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+\.\d+(-alpine)?|\$\{WARMROUTE_VERSION:-\d+\.\d+\.\d+\}", tag)
    assert service["healthcheck"]["test"][0] == "CMD", "a shell is not needed, and not every image has one"
    assert service["restart"] == "unless-stopped"
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "vllm":  # which fetches and compiles what its model needs
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_mounts_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (FOLDER / source).exists(), volume
            assert rest.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"]


def test_its_image_is_that_of_this_version() -> None:
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert version() in (project[1], "unknown")
    assert OURS == ["replica-1", "replica-2", "replica-3", "router", "vllm"]
    for name in OURS:
        assert SERVICES[name]["image"].endswith(f":${{WARMROUTE_VERSION:-{project[1]}}}")


def test_only_the_port_of_clients_leaves_the_machine() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert set(published) == {"balancer", "prometheus", "grafana"}
    for name, ports in published.items():
        assert all(port.startswith("127.0.0.1:") for port in ports) is (name != "balancer")


def test_the_balancer_asks_routers_whether_they_are_ready() -> None:
    text = (FOLDER / "haproxy.cfg").read_text()
    assert "server-template router 16 router:8000 check port 8001" in text
    assert "option httpchk GET /ready" in text
    assert "mode tcp" in text


def test_prometheus_scrapes_every_container_of_ours_and_reads_the_alerts() -> None:
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    scraped = {
        (name, config["port"])
        for job in settings["scrape_configs"]
        for config in job["dns_sd_configs"]
        for name in config["names"]
    }
    replicas = [name for name in OURS if name != "router"]
    assert scraped == {("router", 8001)} | {(name, port) for name in replicas for port in (8000, 8011)}
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["prometheus"]["volumes"])
    rules = {inside: FOLDER / source for source, inside in mounts.items()}
    for path in settings["rule_files"]:
        assert yaml.safe_load(rules[path].read_text())["groups"]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    source = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((FOLDER / "grafana/dashboards/warmroute.yaml").read_text())["providers"][0]
    mounts = {inside: source for source, inside in (v.split(":")[:2] for v in SERVICES["grafana"]["volumes"])}
    (dashboard,) = (
        FOLDER / mounts[path] for path in mounts if Path(path).parent == Path(provider["options"]["path"])
    )
    assert json.loads(dashboard.read_text())["title"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in mounts


def test_a_drain_is_over_before_patience_is() -> None:
    """60 s is the longer default of the two."""
    for name in OURS:
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 60
