"""What the commands that speak to running routers share: where their admin ports are, and one request to each.

Standard library only, so that a command answers at once. Decides no exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from typing import Any

from warmroute.config.errors import ConfigError
from warmroute.config.schema import split_address

DEFAULT: str = "127.0.0.1:8001"
VARIABLE: str = "WARMROUTE_ADMIN"
TIMEOUT_S: float = 30.0


def add_admin_flag(parser: argparse.ArgumentParser) -> None:
    """Declare `--admin`."""
    parser.add_argument(
        "--admin",
        metavar="HOST:PORT",
        action="append",
        help=f"admin port of a router; repeat for each of several (default {VARIABLE}, else {DEFAULT})",
    )


def routers_of(arguments: argparse.Namespace) -> list[str]:
    """The admin ports that are meant, as `HOST:PORT`.

    Raises:
        ConfigError: One is none.
    """
    found: list[str] = arguments.admin or [os.environ.get(VARIABLE) or DEFAULT]
    for address in found:
        try:
            split_address(address)
        except ValueError as error:
            raise ConfigError("", "--admin", f"{error}, not {address!r}") from None
    return found


def ask(router: str, method: str, path: str, body: Any = None) -> Any:
    """One request to an admin port, and its answer's JSON.

    Raises:
        ConfigError: It is not there, or refused; the message is the router's own.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{router}{path}", data=data, method=method, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
        try:
            said = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = f"it answered {error.code}"
        raise ConfigError("", f"router {router}", said) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            "", f"router {router}", f"no answer ({reason}): is it running, and is this its admin port?"
        ) from None
