"""Where the API server is and as whom we call it, from files and variables."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from warmroute.adapters.discovery.kubernetes.access import AccessError, Credentials


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    subprocess.run(
        [
            *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=k".split(),
            *("-keyout", folder / "key", "-out", folder / "cert"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def config(
    cluster: dict[str, Any],
    user: dict[str, Any] | None = None,
    namespace: str | None = "prod",
    name: str = "c",
) -> dict[str, Any]:
    context: dict[str, Any] = {"cluster": name}
    if user is not None:
        context["user"] = name
    if namespace:
        context["namespace"] = namespace
    return {
        "current-context": name,
        "contexts": [{"name": name, "context": context}],
        "clusters": [{"name": name, "cluster": {"server": "https://k:6443", **cluster}}],
        "users": [{"name": name, "user": user}] if user is not None else None,
    }


def written(path: Path, content: object) -> dict[str, str]:
    """The environment that names this file."""
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return {"KUBECONFIG": str(path)}


def test_a_pod_is_its_service_account(tmp_path: Path, pem: Path) -> None:
    for name, text in {"token": "t1\n", "namespace": "prod", "ca.crt": (pem / "cert").read_text()}.items():
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    credentials = Credentials(environ=environ, service_account=tmp_path)
    access = credentials.access()
    assert (access.server, access.namespace, access.token) == ("https://10.96.0.1:6443", "prod", "t1")
    assert access.tls is not None
    assert access.tls.cert_store_stats()["x509"] == 1, "the cluster's CA, and no other"
    assert "t1" not in repr(access)
    assert credentials.access() is access, "nothing is read that has not changed"
    (tmp_path / "next").write_text("t2")
    os.rename(tmp_path / "next", tmp_path / "token")
    assert credentials.access().token == "t2"
    (tmp_path / "token").unlink()
    for _ in range(2):
        with pytest.raises(AccessError, match="automountServiceAccountToken"):
            credentials.access()
    (tmp_path / "token").write_text("t3")
    assert credentials.access().token == "t3"


def test_ipv6_hosts_get_brackets(tmp_path: Path, pem: Path) -> None:
    for name, text in {"token": "t", "namespace": "p", "ca.crt": (pem / "cert").read_text()}.items():
        (tmp_path / name).write_text(text)
    credentials = Credentials(environ={"KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account=tmp_path)
    assert credentials.access().server == "https://[fd00::1]:443"


def test_a_kubeconfig_counts_before_the_pods_account_and_a_context_may_be_named(tmp_path: Path) -> None:
    both = config({}, {"token": "one"})
    other = config({"server": "http://other:8001"}, {"token": "two"}, namespace=None, name="d")
    for section in ("contexts", "clusters", "users"):
        both[section] += other[section]
    environ = written(tmp_path / "both", both) | {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    access = Credentials(environ=environ).access()
    assert (access.server, access.namespace, access.token) == ("https://k:6443", "prod", "one")
    access = Credentials("d", environ=environ).access()
    assert (access.server, access.namespace, access.token) == ("http://other:8001", "default", "two")
    assert access.tls is None


def test_of_several_files_the_first_that_names_a_thing_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(yaml.safe_dump({"users": [{"name": "c", "user": {"token": "mine"}}]}))
    (tmp_path / "b").write_text(yaml.safe_dump(config({}, {"token": "theirs"})))
    names = [str(tmp_path / name) for name in ("a", "missing", "b")]
    access = Credentials(environ={"KUBECONFIG": os.pathsep.join(names)}).access()
    assert access.token == "mine"


def test_without_a_variable_the_file_at_home_counts(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    written(tmp_path / ".kube" / "config", config({}, {"token": "home"}))
    assert Credentials(environ={"HOME": str(tmp_path)}).access().token == "home"


def test_certificates_are_files_beside_the_kubeconfig_or_inside_it(tmp_path: Path, pem: Path) -> None:
    (tmp_path / "ca").write_text((pem / "cert").read_text())
    (tmp_path / "cert").write_text((pem / "cert").read_text())
    (tmp_path / "key").write_text((pem / "key").read_text())
    files = config(
        {"certificate-authority": "ca", "tls-server-name": "kubernetes"},
        {"client-certificate": "cert", "client-key": str(tmp_path / "key")},
    )
    inline = config(
        {"certificate-authority-data": base64.b64encode((pem / "cert").read_bytes()).decode()},
        {
            "client-certificate-data": base64.b64encode((pem / "cert").read_bytes()).decode(),
            "client-key-data": base64.b64encode((pem / "key").read_bytes()).decode(),
        },
    )
    for content in (files, inline):
        access = Credentials(environ=written(tmp_path / "config", content)).access()
        assert access.tls is not None
        assert access.tls.cert_store_stats()["x509"] == 1
        assert access.tls.verify_mode is ssl.CERT_REQUIRED
    access = Credentials(environ=written(tmp_path / "config", files)).access()
    assert access.server_name == "kubernetes"
    insecure = config({"insecure-skip-tls-verify": True}, {"token": "t"})
    access = Credentials(environ=written(tmp_path / "config", insecure)).access()
    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_NONE


def without_context(content: dict[str, Any]) -> dict[str, Any]:
    return content | {"current-context": ""}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda: config({}, {"exec": {"command": "aws"}}),
            r"user 'c' has credentials from a program \(exec\)",
        ),
        (
            lambda: config({}, {"auth-provider": {"name": "gcp"}}),
            "has an auth-provider, which is not supported",
        ),
        (lambda: config({}, {"username": "u", "password": "p"}), "has a password"),
        (lambda: config({"server": "k:6443"}), "has no server URL"),
        (lambda: config({"proxy-url": "http://p"}), "proxy-url is not supported"),
        (lambda: config({"certificate-authority-data": "%"}), "certificate-authority-data is not base64"),
        (lambda: config({"certificate-authority": "config"}), "holds no certificates"),
        (lambda: config({"certificate-authority": "missing"}), "missing: No such file"),
        (lambda: config({}, {"tokenFile": "missing"}), "missing: No such file"),
        (lambda: without_context(config({})), r"no current-context: name one by \?context="),
        (lambda: config({}) | {"current-context": "x"}, "there is no context 'x'"),
        (lambda: config({}) | {"clusters": []}, "there is no cluster 'c'"),
        (lambda: "[", "is not valid YAML"),
        (lambda: "- a", "is no kubeconfig"),
    ],
)
def test_what_cannot_be_used_is_told(content: Callable[[], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=said):
        Credentials(environ=written(tmp_path / "config", content()))


@pytest.mark.parametrize(
    ("context", "environ", "said"),
    [
        ("", {}, "not in a pod"),
        ("", {"KUBECONFIG": "/nonexistent/config"}, "no file '/nonexistent/config'"),
        ("", {"KUBECONFIG": "/nonexistent/a:/nonexistent/b"}, "names no file that exists"),
        ("c", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "a context is named, but no kubeconfig"),
        ("", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "the pod has no service account token"),
    ],
)
def test_no_way_to_the_server_is_told_with_what_to_set(
    context: str, environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(AccessError, match=said):
        Credentials(context, environ=environ, service_account=tmp_path)
