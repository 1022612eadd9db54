"""What is said of a connection that could not be made."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from warmroute.telemetry.reasons import is_refused, why_no_connection


def verification(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1)")
    error.reason = reason
    return error


def numbered(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "the name h does not resolve: Name or service not known",
        ),
        (verification("self-signed certificate"), "TLS: its certificate is not accepted: self-signed certificate"),
        (tls("WRONG_VERSION_NUMBER"), "TLS: WRONG_VERSION_NUMBER (it does not speak TLS here)"),
        (tls("TLSV1_ALERT_UNKNOWN_CA"), "TLS: TLSV1_ALERT_UNKNOWN_CA"),
        (numbered(errno.ECONNREFUSED), "connection refused"),
        (numbered(errno.EHOSTUNREACH), "cannot connect: No route to host"),
        (numbered(errno.ENETUNREACH), "cannot connect: Network is unreachable"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), "
                "[Errno 111] Connect call failed ('127.0.0.1', 1)"
            ),
            "connection refused",
        ),
        (
            OSError("Multiple exceptions: [Errno 101] unreachable, [Errno 111] refused"),
            "cannot connect: Multiple exceptions: [Errno 101] unreachable, [Errno 111] refused",
        ),
    ],
)  # fmt: skip
def test_it_says_what_happened(error: OSError, said: str) -> None:
    assert why_no_connection(error, "h") == said
    assert is_refused(error) == (said == "connection refused")
