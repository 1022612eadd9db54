"""Access says where the API server is and as whom we call it: by a kubeconfig, or as the pod that we run in.

`KUBECONFIG` counts first, then the pod's service account, then `~/.kube/config`. Whatever is in files is read again
when it has changed, so that a rotated token or certificate is used from the next request on. This module asks nobody
anything; it does not run a program that a kubeconfig names for credentials (`exec`).
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts a pod's token, CA and namespace, and renews them."""

_UNSUPPORTED = {
    "exec": "credentials from a program (exec)",
    "auth-provider": "an auth-provider",
    "username": "a password",
}


class AccessError(ValueError):
    """There is no way to the API server that we can go; says which file or variable to mend."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where to call, and as whom; good for one request."""

    server: str
    """Base URL, without a slash at the end."""
    namespace: str
    """The one meant where none is named."""
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    """None for `http://`, which `kubectl proxy` speaks."""
    server_name: str | None = None
    """Name that the server's certificate must have, if it is not the URL's host."""
    identity: str = ""
    """What credentials these are, for messages: the file or the user that they come from."""


class Credentials:
    """Reads `Access` anew when asked, from files only if they have changed."""

    def __init__(
        self,
        context: str = "",
        *,
        environ: Mapping[str, str] | None = None,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        """Args:
        context: Name of the kubeconfig's context; empty: its current one, and a pod's own identity counts too.

        Raises:
            AccessError: Neither a kubeconfig nor a service account is there, or what is there cannot be used.
        """
        self._environ = os.environ if environ is None else environ
        self._context = context
        self._service_account = service_account
        self._read: Access | None = None
        self._stamps: dict[Path, object] = {}
        """Of the files that it was read from, as they were before."""
        self._source = self._choose()
        try:
            self.access()
        except OSError as error:
            raise AccessError(f"{error.filename}: {error.strerror}") from error

    def access(self) -> Access:
        """What holds now.

        Raises:
            AccessError: What was there cannot be used any more.
            OSError: A file cannot be read.
        """
        if self._read is None or any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            self._read = None
            self._stamps.clear()
            self._read = self._source()
        return self._read

    def _choose(self) -> Callable[[], Access]:
        named = [Path(part) for part in self._environ.get("KUBECONFIG", "").split(os.pathsep) if part]
        if named:
            return lambda: self._from_kubeconfig(named)
        in_pod = bool(self._environ.get("KUBERNETES_SERVICE_HOST"))
        if in_pod and not self._context:
            return self._from_service_account
        home = Path(self._environ.get("HOME", "/nonexistent")) / ".kube" / "config"
        if home.is_file():
            return lambda: self._from_kubeconfig([home])
        if in_pod:
            raise AccessError("a context is named, but no kubeconfig: set KUBECONFIG")
        raise AccessError(
            "there is no way to the Kubernetes API: not in a pod (KUBERNETES_SERVICE_HOST is not set), and neither"
            " KUBECONFIG nor ~/.kube/config names a file"
        )

    def _text(self, path: Path) -> str:
        self._stamps[path] = _stamp(path)
        return path.read_text(encoding="utf-8")

    def _from_service_account(self) -> Access:
        host = self._environ["KUBERNETES_SERVICE_HOST"]
        port = self._environ.get("KUBERNETES_SERVICE_PORT", "443")
        folder = self._service_account
        try:
            token = self._text(folder / "token").strip()
            authorities = self._text(folder / "ca.crt")
            namespace = self._text(folder / "namespace").strip()
        except FileNotFoundError as error:
            raise AccessError(
                f"{error.filename} does not exist: the pod has no service account token; set"
                " automountServiceAccountToken: true"
            ) from error
        return Access(
            f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            namespace,
            token,
            _trusting(authorities, str(folder / "ca.crt")),
            identity=f"the token in {folder / 'token'}",
        )

    def _from_kubeconfig(self, paths: list[Path]) -> Access:
        files = [(path, self._mapping(path)) for path in paths if path.exists() or len(paths) == 1]
        if not files:
            raise AccessError(f"KUBECONFIG names no file that exists: {', '.join(map(str, paths))}")
        wanted = self._context or _first(files, "current-context")
        where = str(files[0][0])
        if not wanted:
            raise AccessError(f"{where} has no current-context: name one by ?context=")
        _, context = _named(files, "contexts", wanted, "context")
        cluster_file, cluster = _named(files, "clusters", str(context.get("cluster", "")), "cluster")
        user_file, user = (
            _named(files, "users", str(context["user"]), "user") if context.get("user") else (paths[0], {})
        )
        for key, what in _UNSUPPORTED.items():
            if user.get(key):
                raise AccessError(
                    f"{user_file}: user {context['user']!r} has {what}, which is not supported: give it a token or a"
                    " client certificate, a service account's for one (kubectl create token)"
                )
        server = str(cluster.get("server", "")).rstrip("/")
        if not server.startswith(("https://", "http://")):
            raise AccessError(f"{cluster_file}: cluster {context.get('cluster')!r} has no server URL")
        if cluster.get("proxy-url"):
            raise AccessError(f"{cluster_file}: proxy-url is not supported")
        token = str(user.get("token") or "")
        identity = f"user {context.get('user')!r} of {user_file}"
        if user.get("tokenFile"):
            token_file = _beside(user_file, user["tokenFile"])
            token, identity = self._text(token_file).strip(), f"the token in {token_file}"
        return Access(
            server,
            str(context.get("namespace") or "default"),
            token,
            self._tls(cluster_file, cluster, user_file, user) if server.startswith("https") else None,
            cluster.get("tls-server-name"),
            identity,
        )

    def _mapping(self, path: Path) -> dict[str, Any]:
        try:
            text = self._text(path)
        except FileNotFoundError as error:
            raise AccessError(f"KUBECONFIG: there is no file {str(path)!r}") from error
        try:
            mapping = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise AccessError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(mapping, dict):
            raise AccessError(f"{path} is no kubeconfig")
        return mapping

    def _tls(
        self, cluster_file: Path, cluster: dict[str, Any], user_file: Path, user: dict[str, Any]
    ) -> ssl.SSLContext:
        authorities = self._pem(cluster_file, cluster, "certificate-authority")
        context = _trusting(authorities, f"certificate-authority of {cluster_file}")
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = self._pem(user_file, user, "client-certificate")
        key = self._pem(user_file, user, "client-key")
        if certificate and key:
            with _as_file(certificate) as certificate_file, _as_file(key) as key_file:
                try:
                    context.load_cert_chain(
                        certificate_file, key_file, password=""
                    )  # ask no terminal for one
                except OSError as error:  # an SSLError too
                    raise AccessError(
                        f"{user_file}: the client certificate cannot be used: {error}"
                    ) from error
        return context

    def _pem(self, file: Path, section: dict[str, Any], key: str) -> str:
        data = section.get(f"{key}-data")
        if data:
            try:
                return base64.b64decode(str(data), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise AccessError(f"{file}: {key}-data is not base64 of PEM") from error
        return self._text(_beside(file, section[key])) if section.get(key) else ""


def _trusting(authorities: str, where: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authorities or None)
    except ssl.SSLError as error:
        raise AccessError(f"{where} holds no certificates: {error.reason or error}") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _first(files: list[tuple[Path, dict[str, Any]]], key: str) -> str:
    return next((str(mapping[key]) for _, mapping in files if mapping.get(key)), "")


def _named(
    files: list[tuple[Path, dict[str, Any]]], section: str, name: str, key: str
) -> tuple[Path, dict[str, Any]]:
    """The entry of this name, and its file; of several files the first that has it counts, as for kubectl."""
    for path, mapping in files:
        for entry in mapping.get(section) or ():
            if isinstance(entry, dict) and entry.get("name") == name:
                return path, entry.get(key) or {}
    raise AccessError(f"{', '.join(str(path) for path, _ in files)}: there is no {key} {name!r}")


def _beside(file: Path, name: object) -> Path:
    """A path in a kubeconfig is relative to it."""
    return file.parent / str(name)


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Python's ssl takes a client's certificate from files only; this one is ours alone, and gone at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(text)
        file.flush()
        yield file.name
