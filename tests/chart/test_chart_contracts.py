"""What breaks in practice: names, labels, ports and times that have to agree between manifests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.chart import (
    CHART,
    MIDDLE,
    NAMESPACE,
    SCENARIOS,
    VERSIONS,
    Manifest,
    container,
    containers,
    manifests,
    matches,
    named,
    of_kind,
    pod_of,
    values_in,
    workloads,
)
from tests.support.helm import helm
from warmroute.config.load import load
from warmroute_loadtest.locust.settings import parse

scenarios = pytest.mark.parametrize("scenario", SCENARIOS)

GIVEN_SECRETS = {
    "warmroute-tls", "warmroute-secrets", "hugging-face", "redis", "redis-credentials", "redis-tls", "registry",
    "llm-example-com", "engine-key", "client-keys", "admin-tokens",
}  # fmt: skip
"""Secrets that scenarios name and that whoever installs has to make."""


def _pods(scenario: str) -> list[Manifest]:
    return [pod_of(workload) for workload in workloads(manifests(scenario))]


@scenarios
def test_services_select_pods_that_have_their_ports(scenario: str) -> None:
    for service in of_kind(manifests(scenario), "Service"):
        selector = service["spec"]["selector"]
        found = [
            pod for pod in _pods(scenario) if matches({"matchLabels": selector}, pod["metadata"]["labels"])
        ]
        assert len({pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in found}) == 1, service
        for pod in found:
            ports = {port["name"] for each in containers(pod) for port in each.get("ports", ())}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@scenarios
def test_workloads_select_their_own_pods_and_no_others(scenario: str) -> None:
    owners = of_kind(manifests(scenario), "Deployment", "StatefulSet")
    for owner in owners:
        found = [
            pod for pod in _pods(scenario) if matches(owner["spec"]["selector"], pod["metadata"]["labels"])
        ]
        assert found == [pod_of(owner)], owner["metadata"]["name"]
        for constraint in pod_of(owner)["spec"].get("topologySpreadConstraints", ()):
            assert matches(constraint["labelSelector"], pod_of(owner)["metadata"]["labels"])


@scenarios
def test_budgets_scalers_routes_and_monitors_name_what_exists(scenario: str) -> None:
    rendered = manifests(scenario)
    for budget in of_kind(rendered, "PodDisruptionBudget"):
        assert sum(matches(budget["spec"]["selector"], p["metadata"]["labels"]) for p in _pods(scenario)) == 1
    for scaler in of_kind(rendered, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        workload = named(rendered, target["kind"], target["name"])
        assert "replicas" not in workload["spec"], "an upgrade would undo the scaler's work"
    for ingress in of_kind(rendered, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                _has_port(
                    rendered, path["backend"]["service"]["name"], path["backend"]["service"]["port"]["name"]
                )
    for route in of_kind(rendered, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                _has_port(rendered, backend["name"], backend["port"])
    for monitor in of_kind(rendered, "ServiceMonitor"):
        services = [
            s
            for s in of_kind(rendered, "Service")
            if matches(monitor["spec"]["selector"], s["metadata"]["labels"])
        ]
        offered = {port["name"] for service in services for port in service["spec"]["ports"]}
        assert offered == {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}


def _has_port(rendered: tuple[Manifest, ...], service: str, port: str | int) -> None:
    ports = named(rendered, "Service", service)["spec"]["ports"]
    assert port in {value for each in ports for value in (each["name"], each["port"])}


@scenarios
def test_probes_and_hooks_name_ports_of_their_pod(scenario: str) -> None:
    for pod in _pods(scenario):
        names = {port["name"]: port["containerPort"] for c in containers(pod) for port in c.get("ports", ())}
        for each in containers(pod):
            own = {port["name"] for port in each.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "httpGet" in each.get(probe, {}):
                    assert each[probe]["httpGet"]["port"] in own
            hook = each.get("lifecycle", {}).get("preStop", {})
            if "httpGet" in hook:
                assert hook["httpGet"]["port"] in names.values()


@scenarios
def test_every_volume_that_is_mounted_is_there(scenario: str) -> None:
    for workload in workloads(manifests(scenario)):
        pod = pod_of(workload)
        claims = workload["spec"].get("volumeClaimTemplates", ())
        there = {v["name"] for v in pod["spec"].get("volumes", ())} | {c["metadata"]["name"] for c in claims}
        mounted = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", ())}
        assert mounted == there, workload["metadata"]["name"]


@scenarios
def test_secrets_and_settings_that_pods_name_are_there(scenario: str) -> None:
    rendered = manifests(scenario)
    secrets = {m["metadata"]["name"]: set(m["data"]) for m in of_kind(rendered, "Secret")}
    maps = {m["metadata"]["name"] for m in of_kind(rendered, "ConfigMap")}
    for pod in _pods(scenario):
        for each in containers(pod):
            for variable in each.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["name"] not in GIVEN_SECRETS:
                    assert reference["key"] in secrets[reference["name"]]
        for volume in pod["spec"].get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                assert volume["secret"]["secretName"] in GIVEN_SECRETS


@scenarios
def test_variables_that_others_are_made_of_come_before_them(scenario: str) -> None:
    for pod in _pods(scenario):
        for each in containers(pod):
            known: set[str] = set()
            for variable in each.get("env", ()):
                assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= known, variable
                known.add(variable["name"])


@scenarios
def test_no_secret_is_anywhere_but_in_a_secret(scenario: str) -> None:
    for manifest in manifests(scenario):
        if manifest["kind"] == "Secret":
            continue
        for path, value in values_in(manifest):
            assert not re.search(r"://[^/\s$]*:[^/\s$@]+@", str(value)), (manifest["kind"], path)
        if manifest["kind"] == "ConfigMap":
            whole = str(manifest["data"])
            assert not re.search(r"(?i)requirepass|redis-password|fingerprint[-_]secret|api_key:", whole)


@scenarios
def test_no_image_tag_moves(scenario: str) -> None:
    for pod in _pods(scenario):
        for each in containers(pod):
            assert re.fullmatch(
                r"[a-z0-9./-]+(:v?\d+\.\d+\.\d+[-a-z0-9.]*|@sha256:[0-9a-f]{64})", each["image"]
            )


@scenarios
def test_pods_are_restricted_and_bounded(scenario: str) -> None:
    for pod in _pods(scenario):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        router = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "router"
        assert spec["automountServiceAccountToken"] is (router and bool(_watched(scenario)))
        for each in containers(pod):
            context = each["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            if not each["image"].startswith("vllm/"):
                assert context["readOnlyRootFilesystem"] is True
                assert each["resources"]["limits"]["memory"]


def _watched(scenario: str) -> set[str]:
    config = named(manifests(scenario), "ConfigMap", "warmroute-router")["data"]["config.yaml"]
    return set(re.findall(r"kubernetes://([a-z0-9-]+)", config))


@scenarios
def test_routers_may_list_and_watch_endpoint_slices_where_they_look_and_nothing_else(scenario: str) -> None:
    rendered = manifests(scenario)
    roles = of_kind(rendered, "Role")
    assert {role["metadata"]["namespace"] for role in roles} == _watched(scenario)
    assert of_kind(rendered, "ClusterRole", "ClusterRoleBinding") == []
    for role in roles:
        rule = {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
        assert role["rules"] == [rule]
    account = named(rendered, "Deployment", "warmroute-router")["spec"]["template"]["spec"][
        "serviceAccountName"
    ]
    for binding in of_kind(rendered, "RoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
        assert binding["roleRef"]["name"] in {
            role["metadata"]["name"]
            for role in roles
            if role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        }


@scenarios
def test_a_router_is_killed_only_after_its_drain(scenario: str) -> None:
    spec = named(manifests(scenario), "Deployment", "warmroute-router")["spec"]["template"]["spec"]
    config = named(manifests(scenario), "ConfigMap", "warmroute-router")["data"]["config.yaml"]
    drain = int(re.search(r"^drain_grace_s: (\d+)$", config, re.MULTILINE)[1])  # type: ignore[index]
    wait = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= wait + drain + 5


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_a_replica_is_killed_only_after_its_drain(version: str) -> None:
    for scenario in SCENARIOS:
        for workload in workloads(manifests(scenario, version)):
            pod = pod_of(workload)
            if not pod["metadata"]["labels"]["app.kubernetes.io/component"].startswith("pool-"):
                continue
            engine = container(pod, "engine")
            hook = engine["lifecycle"]["preStop"]
            agents = [each for each in containers(pod) if each["name"] == "agent"]
            if agents:
                assert hook["httpGet"]["path"] == "/prestop"
                grace = next(v for v in agents[0]["env"] if v["name"] == "WARMROUTE_AGENT_DRAIN_GRACE")
                wait = int(grace["value"])
            else:
                wait = int(hook["sleep"]["seconds"] if "sleep" in hook else hook["exec"]["command"][1])
            words = engine["args"]
            if "--shutdown-timeout" in words and not agents:
                wait += int(words[words.index("--shutdown-timeout") + 1])
            assert pod["spec"]["terminationGracePeriodSeconds"] >= wait + 10, workload["metadata"]["name"]


def test_the_agent_outlives_the_engine_where_kubernetes_can_see_to_it() -> None:
    def agent(version: str) -> Manifest:
        return container(
            pod_of(named(manifests("minimal", version), "StatefulSet", "warmroute-vllm")), "agent"
        )

    old, new = (
        pod_of(named(manifests("minimal", version), "StatefulSet", "warmroute-vllm"))
        for version in ("1.28.0", "1.29.0")
    )
    assert agent("1.29.0")["restartPolicy"] == "Always"
    assert [each["name"] for each in new["spec"]["initContainers"]] == ["agent"]
    assert "initContainers" not in old["spec"]
    assert "restartPolicy" not in agent("1.28.0")


@scenarios
def test_the_built_in_registry_drops_records_before_it_is_killed(scenario: str) -> None:
    for server in of_kind(manifests(scenario), "StatefulSet"):
        if server["metadata"]["name"] != "warmroute-redis":
            continue
        conf = named(manifests(scenario), "ConfigMap", "warmroute-redis")["data"]["redis.conf"]
        assert "maxmemory-policy volatile-lru" in conf
        assert "appendonly no" in conf
        assert 'save ""' in conf
        most = _bytes(re.search(r"^maxmemory (\S+)$", conf, re.MULTILINE)[1])  # type: ignore[index]
        limit = _bytes(container(pod_of(server), "redis")["resources"]["limits"]["memory"])
        assert limit >= 1.4 * most


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    factors = {
        "": 1,
        "kb": 1 << 10,
        "mb": 1 << 20,
        "gb": 1 << 30,
        "Ki": 1 << 10,
        "Mi": 1 << 20,
        "Gi": 1 << 30,
    }
    return int(number) * factors[unit]


@scenarios
def test_bodies_that_routers_buffer_fit_their_memory(scenario: str) -> None:
    router = named(manifests(scenario), "Deployment", "warmroute-router")["spec"]["template"]["spec"]
    limit = _bytes(router["containers"][0]["resources"]["limits"]["memory"])
    config = named(manifests(scenario), "ConfigMap", "warmroute-router")["data"]["config.yaml"]
    most = int(re.search(r"^  buffered_body_bytes: (\d+)$", config, re.MULTILINE)[1])  # type: ignore[index]
    workers = int(re.search(r"^workers: (\d+)$", config, re.MULTILINE)[1])  # type: ignore[index]
    assert most * workers <= limit / 2


@pytest.mark.parametrize(
    ("memory", "most"),
    [
        ("1Gi", 1 << 29),
        ("1.5Gi", 3 << 28),
        ("0.5Gi", 1 << 28),
        ("2G", 10**9),
        ("1Ti", 1 << 39),
        ("1073741824", 1 << 29),
        ('"1073741824"', 1 << 29),
    ],
)
def test_the_bound_on_bodies_follows_memory_however_it_is_written(
    memory: str, most: int, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(f"model: m\nrouter: {{resources: {{limits: {{memory: {memory}}}}}}}\n")
    command = [helm(), "template", "warmroute", str(CHART), "--kube-version", MIDDLE, "-f", str(values)]
    command += ["--show-only", "templates/router/configmap.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(yaml.safe_load(done.stdout)["data"]["config.yaml"])["limits"] == {
        "buffered_body_bytes": most
    }


def test_routers_restart_when_their_settings_change_and_engines_do_not() -> None:
    before, after = manifests("minimal"), manifests("minimal", settings=("router.config.max_attempts=5",))
    routers = [pod_of(named(each, "Deployment", "warmroute-router")) for each in (before, after)]
    assert routers[0] != routers[1]
    engines = [pod_of(named(each, "StatefulSet", "warmroute-vllm")) for each in (before, after)]
    assert engines[0] == engines[1]


@scenarios
def test_pods_carry_nothing_of_the_chart_s_version(scenario: str) -> None:
    # A new chart would restart every engine otherwise, and empty its cache.
    for pod in _pods(scenario):
        if "helm.sh/hook" not in pod["metadata"].get("annotations", {}):
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(pod["metadata"]["labels"])


@scenarios
def test_everything_is_in_the_release_s_namespace_but_rights_to_read_another(scenario: str) -> None:
    for manifest in manifests(scenario):
        if manifest["metadata"]["namespace"] != NAMESPACE:
            assert manifest["kind"] in ("Role", "RoleBinding")


def test_two_releases_in_one_namespace_share_neither_names_nor_pods() -> None:
    one, other = manifests("minimal"), manifests("minimal", release="other")
    assert not {(m["kind"], m["metadata"]["name"]) for m in one} & {
        (m["kind"], m["metadata"]["name"]) for m in other
    }
    for service in of_kind(one, "Service"):
        for workload in workloads(other):
            labels = pod_of(workload)["metadata"]["labels"]
            assert not matches({"matchLabels": service["spec"]["selector"]}, labels)


def test_routers_find_the_pools_services_by_a_port_that_they_have() -> None:
    for scenario in SCENARIOS:
        services = {s["metadata"]["name"]: s for s in of_kind(manifests(scenario), "Service")}
        config = named(manifests(scenario), "ConfigMap", "warmroute-router")["data"]["config.yaml"]
        for name, port in re.findall(rf"kubernetes://{NAMESPACE}/(warmroute-[a-z0-9-]+)\?port=(\w+)", config):
            assert port in {each["name"] for each in services[name]["spec"]["ports"]}
        for name, number in re.findall(
            rf"dns://(warmroute-[a-z0-9-]+)\.{NAMESPACE}\.svc\.[a-z.]+:(\d+)", config
        ):
            assert int(number) in {each["port"] for each in services[name]["spec"]["ports"]}
            assert services[name]["spec"]["clusterIP"] == "None"


@scenarios
def test_the_rendered_settings_are_settings(scenario: str, tmp_path: Path) -> None:
    rendered, place = manifests(scenario), tmp_path
    config = named(rendered, "ConfigMap", "warmroute-router")["data"]["config.yaml"]
    router = container(pod_of(named(rendered, "Deployment", "warmroute-router")), "router")
    for mount in router["volumeMounts"]:
        # Files of Secrets that are mounted there.
        config = config.replace(f"{mount['mountPath']}/", f"{place}/")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (place / name).write_text("")
    (place / "config.yaml").write_text(config)
    environ = {v["name"]: v.get("value", f"given-by-a-secret-as-{v['name']}") for v in router["env"]}
    if "value" not in next(v for v in router["env"] if v["name"] == "WARMROUTE_REGISTRY"):
        environ["WARMROUTE_REGISTRY"] = "rediss+cluster://example:6379"
    loaded = load(path=str(place / "config.yaml"), environ=environ)
    assert (loaded.listen, loaded.admin) in {("0.0.0.0:8000", "0.0.0.0:8001"), ("[::]:8000", "[::]:8001")}
    assert loaded.discovery
    assert loaded.registry.url != "memory"


def _load_jobs(*settings: str) -> dict[str, Manifest]:
    """Containers of the load test's Jobs by role."""
    rendered = manifests("simulated", settings=("loadtest.enabled=true", "loadtest.model=m", *settings))
    return {
        job["spec"]["template"]["metadata"]["labels"]["warmroute.io/role"]: job["spec"]["template"]["spec"][
            "containers"
        ][0]
        for job in of_kind(rendered, "Job")
        if "-loadtest-" in job["metadata"]["name"]
    }


def test_a_load_test_with_settings_is_the_project_s_own_and_knows_them_all() -> None:
    jobs = _load_jobs(
        "loadtest.settings.TTFT_P90_S=1.5",
        "loadtest.settings.RATE=20",
        "loadtest.runTime=1h5m2s",
        "loadtest.workers=2",
    )
    assert jobs["main"]["command"] == ["python", "-m", "warmroute_loadtest.locust"]
    settings = parse(jobs["main"]["args"])
    assert (settings.scenario, settings.model, settings.rate, settings.users) == (
        "shared-prompts",
        "m",
        20.0,
        None,
    )
    assert (settings.duration_s, settings.grace_s, settings.external_workers) == (3902.0, 60.0, 2)
    assert settings.url == "http://warmroute:80"
    assert [(each.name, each.bound) for each in settings.thresholds] == [("TTFT_P90_S", 1.5)]
    assert jobs["worker"]["command"] == ["locust"]
    assert "--worker" in jobs["worker"]["args"]
    assert parse(_load_jobs("loadtest.settings.SEED=2", "loadtest.runTime=90s")["main"]["args"]).users == 50


def test_a_load_test_without_settings_is_locust_that_waits_for_the_last_answers() -> None:
    container = _load_jobs()["main"]
    assert container["command"] == ["locust"]
    assert " --run-time 5m --stop-timeout 60" in " ".join(container["args"])


def test_alerts_lead_to_the_runbook_where_it_is_kept() -> None:
    enabled = "metrics.prometheusRule.enabled=true"
    base = "https://git.example.com/warmroute/docs/monitoring.md"
    for settings, name, start in (
        ((enabled,), "runbook", "docs/monitoring.md#"),
        ((enabled, f"metrics.prometheusRule.runbookBaseUrl={base}"), "runbook_url", f"{base}#"),
    ):
        (rules,) = of_kind(manifests("simulated", settings=settings), "PrometheusRule")
        alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
        assert alerts
        for alert in alerts:
            assert alert["annotations"][name] == start + alert["alert"].lower()
            assert len({"runbook", "runbook_url"} & set(alert["annotations"])) == 1


def test_keys_are_a_file_and_admin_tokens_are_variables_of_the_routers() -> None:
    (router,) = [
        each
        for each in of_kind(manifests("production"), "Deployment")
        if each["metadata"]["name"].endswith("-router")
    ]
    pod = pod_of(router)["spec"]
    (each,) = pod["containers"]
    variables = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in each["env"]}
    assert variables["WARMROUTE_ADMIN_AUTH__OPERATOR_TOKENS"] == {
        "name": "admin-tokens",
        "key": "operator-tokens",
    }
    assert variables["WARMROUTE_ADMIN_AUTH__READ_TOKENS"] == {"name": "admin-tokens", "key": "read-tokens"}
    assert {"name": "keys", "mountPath": "/etc/warmroute/keys", "readOnly": True} in each["volumeMounts"]
    assert {"name": "keys", "secret": {"secretName": "client-keys", "defaultMode": 0o440}} in pod["volumes"]


def test_a_pool_scales_by_its_own_replicas_and_by_no_other_pool_s() -> None:
    settings = tuple(
        f"pools.{name}.{value}"
        for name in ("small", "small-fp8")
        for value in (
            f"model={name}",
            "autoscaling.enabled=true",
            "autoscaling.mode=keda",
            "autoscaling.prometheusAddress=http://p:9090",
        )
    )
    for workload, pod in (("StatefulSet", "0"), ("Deployment", "7d4b9c6f5-x2k8q")):
        rendered = manifests(None, settings=(*settings, f"poolDefaults.workload={workload}"))
        queries = {}
        for scaler in of_kind(rendered, "ScaledObject"):
            (trigger,) = scaler["spec"]["triggers"]
            found = re.search(r'replica=~"([^"]+)"', trigger["metadata"]["query"])
            assert found is not None
            queries[scaler["metadata"]["name"]] = found[1]
        for pool, pattern in queries.items():
            for replica in (f"{pool}-{pod}", f"{pool}-{pod}#3"):
                assert [name for name, each in queries.items() if re.fullmatch(each, replica)] == [pool]
                assert re.fullmatch(pattern, replica)


def _notes(tmp_path: Path, *settings: str) -> str:
    """What helm prints after an installation: rendered as a manifest, since `helm template` leaves it out."""
    chart = tmp_path / "chart"
    if not chart.exists():
        shutil.copytree(CHART, chart)
        notes = (chart / "templates/NOTES.txt").read_text()
        body = "".join(f"  {line}\n" for line in notes.splitlines())
        (chart / "templates/notes.yaml").write_text(
            f"apiVersion: v1\nkind: Notes\nmetadata: {{name: notes}}\nsaid: |\n{body}"
        )
    command = [helm(), "template", "warmroute", str(chart), "--kube-version", MIDDLE]
    command += ["--show-only", "templates/notes.yaml"]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(yaml.safe_load(done.stdout)["said"])


@pytest.mark.parametrize(
    ("settings", "whose"),
    [
        ((), ""),
        (("router.keys.existingSecret=client-keys",), "routers"),
        (("router.config.oidc.issuer=https://login.example.com",), "routers"),
        (("poolDefaults.apiKey.existingSecret=k", "router.upstreamApiKey.existingSecret=k"), "engines"),
    ],
)
def test_the_request_that_helm_prints_has_a_key_where_one_is_asked_for(
    tmp_path: Path, settings: tuple[str, ...], whose: str
) -> None:
    said = _notes(tmp_path, "model=m", *settings)
    command = said.split("curl -i")[1].split("\n\n")[0]
    assert command.count(" \\\n") == command.count("\n    -"), command
    assert ('-H "Authorization: Bearer $KEY"' in command) is bool(whose)
    assert (f"one of the keys that {whose} ask of clients" in said) is bool(whose)
    assert '-d \'{"model": "m"' in command
