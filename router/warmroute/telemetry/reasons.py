"""Reasons say in words for the operator why something could not be reached: what happened, not which exception said so.

This module decides words only. They hold no path below the server's root that a client named, no keys and no bodies.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl

_ERRNO = re.compile(r"\[Errno (\d+)\]")
_MOST_CHARACTERS = 200


def is_refused(error: OSError) -> bool:
    """Whether nothing listens there, at any of the addresses that a name has."""
    if isinstance(error, ConnectionRefusedError):
        return True
    # How asyncio and uvloop tell that several addresses were tried.
    numbers = _ERRNO.findall(str(error)) if error.errno is None else []
    return bool(numbers) and all(int(number) == errno.ECONNREFUSED for number in numbers)


def why_no_connection(error: OSError, host: str) -> str:
    """What kept a connection to this host from being made."""
    if isinstance(error, socket.gaierror):
        return f"the name {host} does not resolve: {error.strerror}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        hint = " (it does not speak TLS here)" if error.reason == "WRONG_VERSION_NUMBER" else ""
        return f"TLS: {error.reason or error}{hint}"
    if is_refused(error):
        return "connection refused"
    return f"cannot connect: {(error.strerror or str(error))[:_MOST_CHARACTERS]}"
