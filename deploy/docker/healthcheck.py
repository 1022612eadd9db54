"""Exit status 0 if a URL answers 2xx within 2 seconds; else 1, with the reason on standard error.

For containers, whose images have no curl. Bare sockets, since it runs every few seconds: 15 ms of CPU instead of the
100 of an HTTP library.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT_S = 2.0


def main(url: str) -> int:
    """Ask once."""
    address, slash, path = url.removeprefix("http://").partition("/")
    host, _, port = address.rpartition(":")
    request = f"GET {slash}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S) as connection:
            connection.sendall(request.encode())
            status = connection.makefile("rb").readline(100).split()
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    if len(status) > 1 and status[1].startswith(b"2"):
        return 0
    print(f"{url}: {b' '.join(status).decode(errors='replace') or 'no answer'}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: healthcheck.py http://HOST:PORT/PATH")
    sys.exit(main(sys.argv[1]))
