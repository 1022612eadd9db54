"""A real kube-apiserver with its etcd, for tests of what speaks to it: on free ports, able to die and come back.

Found on PATH or in the folder that KUBE_BIN names. Any version will do: one before 1.21, which has no
`discovery.k8s.io/v1`, is given that by a CustomResourceDefinition, so that the server itself lists and watches.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.redis_server import free_port

PROGRAMS = ("kube-apiserver", "etcd", "openssl")
PATH = os.pathsep.join(filter(None, [os.environ.get("KUBE_BIN"), os.environ.get("PATH", "")]))
ADMIN, ROUTER = "admin-token", "router-token"
SLICES = "apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
_START_S = 120.0
_BEFORE_V1 = 21

_RESOURCE = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "endpointslices.discovery.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
    },
    "spec": {
        "group": "discovery.k8s.io",
        "scope": "Namespaced",
        "names": {
            "plural": "endpointslices",
            "singular": "endpointslice",
            "kind": "EndpointSlice",
            "listKind": "EndpointSliceList",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


def lacking() -> str | None:
    """Why there can be none here; None where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if not missing:
        return None
    return (
        f"needs {', '.join(missing)}: put them on PATH, or Kubernetes's own in a folder that KUBE_BIN names"
    )


class ApiServer:
    """`with ApiServer() as server: …`; `kill` and `start` in between."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="warmroute-apiserver-"))
        self.port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.tls: ssl.SSLContext | None = None
        """Trusts the server's own certificate; known once it has started."""

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self._start_etcd()
            self.start()
            if self._minor() < _BEFORE_V1:
                path = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
                self.call("POST", path, _RESOURCE)
                self._until(lambda: self.call("GET", SLICES.format("default"), missing_ok=True) is not None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._server, self._etcd):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(60)
        shutil.rmtree(self.place, ignore_errors=True)

    def start(self) -> None:
        """Start the API server, again after `kill`, and wait until it is ready."""
        etcd = f"http://127.0.0.1:{self._etcd_port}"
        key = str(self.place / "sa.key")
        words = [
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"),
            *(f"--secure-port={self.port}", f"--cert-dir={self.place / 'certs'}"),
            *("--service-cluster-ip-range=10.96.0.0/16", f"--token-auth-file={self.place / 'tokens.csv'}"),
            *("--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc"),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--disable-admission-plugins=ServiceAccount", "--min-request-timeout=5"),
        ]
        if self._minor() < _BEFORE_V1:
            words.append("--runtime-config=discovery.k8s.io/v1beta1=false")
        self._server = self._run("kube-apiserver", *words)
        certificate = self.place / "certs" / "apiserver.crt"
        self._until(certificate.exists)
        self.tls = ssl.create_default_context(cafile=str(certificate))
        self._until(self._ready)

    def kill(self) -> None:
        """Its end, without a word to anybody. etcd keeps what it knew."""
        assert self._server is not None
        self._server.send_signal(signal.SIGKILL)
        self._server.wait(60)

    def call(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """A call as its administrator; None for what is not there, if that may be."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if missing_ok and error.code == 404:
                    return None
                raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error

    def namespace(self, name: str, *verbs: str) -> None:
        """A namespace in which the router may do this to EndpointSlices, and nothing else."""
        self.call("POST", "api/v1/namespaces", {"metadata": {"name": name}})
        roles = f"apis/rbac.authorization.k8s.io/v1/namespaces/{name}"
        rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": list(verbs)}
        self.call("POST", f"{roles}/roles", {"metadata": {"name": "warmroute"}, "rules": [rule]})
        binding = {
            "metadata": {"name": "warmroute"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "warmroute"},
            "subjects": [{"kind": "User", "name": "router", "apiGroup": "rbac.authorization.k8s.io"}],
        }
        self.call("POST", f"{roles}/rolebindings", binding)

    def put_slice(self, namespace: str, slice_: dict[str, Any]) -> None:
        """Make this EndpointSlice, or make it so."""
        name = slice_["metadata"]["name"]
        path = SLICES.format(namespace)
        metadata = {"name": name, "namespace": namespace, "labels": slice_["metadata"].get("labels", {})}
        known = self.call("GET", f"{path}/{name}", missing_ok=True)
        if known is not None:
            metadata["resourceVersion"] = known["metadata"]["resourceVersion"]
        wanted = {
            **slice_,
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
        }
        self.call(
            "PUT" if known is not None else "POST", f"{path}/{name}" if known is not None else path, wanted
        )

    def compact(self) -> None:
        """Make etcd forget all but the present: a watch from an older version gets 410."""
        etcd = f"http://127.0.0.1:{self._etcd_port}/v3"

        def ask(path: str, body: dict[str, str]) -> Any:
            request = urllib.request.Request(f"{etcd}/{path}", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        ask("kv/compaction", {"revision": ask("kv/range", {"key": "AA=="})["header"]["revision"]})

    def _prepare(self) -> None:
        (self.place / "tokens.csv").write_text(
            f'{ADMIN},admin,admin,"system:masters"\n{ROUTER},router,router,"system:authenticated"\n'
        )
        openssl = shutil.which("openssl", path=PATH)
        assert openssl is not None
        subprocess.run(
            [openssl, "genrsa", "-out", str(self.place / "sa.key"), "2048"], check=True, capture_output=True
        )

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._etcd = self._run(
            "etcd",
            *("--data-dir", str(self.place / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        )

    def _run(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        path = shutil.which(program, path=PATH)
        assert path is not None
        with (self.place / f"{program}.log").open("ab") as log:
            return subprocess.Popen([path, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _minor(self) -> int:
        path = shutil.which("kube-apiserver", path=PATH)
        assert path is not None
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"v1\.(\d+)", said)
        assert found is not None, said
        return int(found[1])

    def _ready(self) -> bool:
        try:
            request = urllib.request.Request(
                f"{self.url}/readyz", headers={"Authorization": f"Bearer {ADMIN}"}
            )
            with urllib.request.urlopen(request, context=self.tls, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _until(self, condition: Any) -> None:
        end_s = time.monotonic() + _START_S
        while not condition():
            for name, process in (("etcd", self._etcd), ("kube-apiserver", self._server)):
                assert process is None or process.poll() is None, (self.place / f"{name}.log").read_text()[
                    -2000:
                ]
            assert time.monotonic() < end_s, f"the API server is not ready after {_START_S:g} s"
            time.sleep(0.1)
