"""What the commands that speak to running routers share: where their admin ports are, and one request to each.

Standard library only, so that a command answers at once. Decides no exit status. A token comes from the variables that
give a router its own, so that a command in a router's container needs nothing, and none is in a list of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import urllib.error
import urllib.request
from typing import Any

from warmroute.config.errors import ConfigError
from warmroute.config.schema import split_address

DEFAULT: str = "127.0.0.1:8001"
VARIABLE: str = "WARMROUTE_ADMIN"
TOKENS: tuple[str, ...] = ("WARMROUTE_ADMIN_AUTH__OPERATOR_TOKENS", "WARMROUTE_ADMIN_AUTH__READ_TOKENS")
"""Variables with tokens, divided by commas; the first token of the first of them that is set is sent."""
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


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    for variable in TOKENS:
        token = os.environ.get(variable, "").partition(",")[0].strip()
        if token:
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise ConfigError(variable, "", "must be printable ASCII without spaces")
            return {**headers, "Authorization": f"Bearer {token}"}
    return headers


def ask(router: str, method: str, path: str, body: Any = None) -> Any:
    """One request to an admin port, and its answer's JSON.

    Raises:
        ConfigError: It is not there, or refused; the message is the router's own.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{router}{path}", data=data, method=method, headers=_headers())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
        try:
            told = json.loads(text)["error"]
            said = told["message"]
            if told.get("code") == "unknown_endpoint":
                said += ": is this its admin port?"
        except (ValueError, KeyError, TypeError):
            said = f"it answered {error.code}"
        if error.code == 401:
            said += f": put an operator's token into {TOKENS[0]}"
        raise ConfigError("", f"router {router}", said) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            "", f"router {router}", f"no answer ({reason}): is it running, and is this its admin port?"
        ) from None
