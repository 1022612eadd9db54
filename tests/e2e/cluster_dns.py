"""A cluster's DNS for tests: `SERVICE.NAMESPACE.svc.cluster.local`, asked of the API server at every question.

    cluster_dns.py https://API TOKEN ADDRESS

Answers A with the Service's own address, or a headless one's ready endpoints; any other name does not
exist. UDP only, a time to live of one second, standard library only.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import urllib.error
import urllib.request

A, IN = 1, 1
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3


class Cluster:
    """The API server."""

    def __init__(self, api: str, token: str) -> None:
        self._api = api
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = ssl._create_unverified_context()

    def get(self, path: str) -> dict:
        """One object; empty where there is none."""
        request = urllib.request.Request(self._api + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=3, context=self._tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return {}
            raise

    def addresses(self, name: str) -> list[str] | None:
        """IPv4 addresses of a name; None where there is no such name."""
        words = name.lower().rstrip(".").split(".")
        if len(words) != 5 or words[2:] != ["svc", "cluster", "local"]:
            return None
        service = self.get(f"/api/v1/namespaces/{words[1]}/services/{words[0]}")
        if not service:
            return None
        if service["spec"].get("clusterIP", "None") != "None":
            return [service["spec"]["clusterIP"]]
        endpoints = self.get(f"/api/v1/namespaces/{words[1]}/endpoints/{words[0]}")
        return [a["ip"] for subset in endpoints.get("subsets") or () for a in subset.get("addresses") or ()]


def question(packet: bytes) -> tuple[str, int, int]:
    """Name and type of the first question, and where it ends."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels), struct.unpack_from("!H", packet, at + 1)[0], at + 5


def answer(packet: bytes, addresses: list[str] | None, code: int, end: int, kind: int) -> bytes:
    """The reply to a question."""
    found = [socket.inet_aton(each) for each in addresses or ()] if kind == A else []
    flags = 0x8580 | code
    head = packet[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", A, IN, 1, 4) + each for each in found)
    return head + packet[12:end] + records


def main(api: str, token: str, address: str) -> None:
    """Serve until killed."""
    cluster = Cluster(api, token)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            packet, client = server.recvfrom(4096)
            try:
                name, kind, end = question(packet)
            except (IndexError, ValueError, struct.error):
                continue
            try:
                addresses = cluster.addresses(name)
                code = NO_SUCH_NAME if addresses is None else NO_ERROR
            except (OSError, ValueError) as error:
                print(f"{name}: {error}", flush=True)
                addresses, code = None, SERVER_FAILURE
            server.sendto(answer(packet, addresses, code, end, kind), client)


if __name__ == "__main__":
    main(*sys.argv[1:])
