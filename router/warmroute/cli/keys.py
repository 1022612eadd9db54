"""`warmroute keys`: make, list and revoke API keys, where the routers' settings or `--keys` say that they are kept.

A new key is printed once, alone on standard output, and kept nowhere.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from warmroute.cli.options import Commands, add_flags, load_from
from warmroute.config.errors import ConfigError
from warmroute.config.rules import redacted
from warmroute.config.schema import Config, KeysConfig

if TYPE_CHECKING:
    from warmroute.ports import KeyStore

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "keys", help="make, list and revoke API keys", description="Make, list and revoke API keys."
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it, once")
    add.add_argument("--tenant", required=True, metavar="NAME", help="whose it is")
    add.add_argument("--name", default="", metavar="TEXT", help="what people call it")
    add.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model that it may use; repeat for each (default all)",
    )
    add.add_argument(
        "--expires", metavar="TIME", help="how long it is good: 90d, 12h, 30m (default for ever)"
    )
    add.add_argument(
        "--priority",
        choices=("interactive", "default", "batch"),
        help="class of its requests (default the tenant's)",
    )
    add.add_argument(
        "--stdin",
        action="store_true",
        help="take the key from standard input, of at least 20 characters, instead of making one",
    )
    listed = actions.add_parser("list", help="list the keys, without the keys themselves")
    listed.add_argument("--tenant", metavar="NAME", help="of this tenant only")
    listed.add_argument("--json", action="store_true", help="as JSON")
    revoke = actions.add_parser("revoke", help="revoke keys")
    revoke.add_argument("ids", nargs="+", metavar="ID", help="as `list` names it")
    for action, run_action in ((add, _add), (listed, _list), (revoke, _revoke)):
        action.add_argument(
            "--keys", metavar="PLACE", help="a file, or redis://…; without it the settings' keys.url"
        )
        action.add_argument("--namespace", default="w", help="of a Redis that --keys names (default w)")
        add_flags(action)
        action.set_defaults(run=_runner(run_action))


Action = Callable[[argparse.Namespace, "KeyStore"], Awaitable[int]]


def _runner(action: Action) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        from warmroute.ports import KeyStoreError

        # What goes wrong is this command's to say, in words; bare names of events would stand beside it.
        logging.getLogger("warmroute").addHandler(logging.NullHandler())
        try:
            return asyncio.run(_with_store(action, arguments))
        except KeyStoreError as error:
            print(f"warmroute: {error}", file=sys.stderr)
            return 1

    return run


async def _with_store(action: Action, arguments: argparse.Namespace) -> int:
    from warmroute.tenancy import key_store

    if arguments.keys is not None:
        config = Config(keys=KeysConfig(url=arguments.keys))
        if arguments.keys == "redis":
            raise ConfigError("--keys", "", "redis is the registry's own: name it as redis://HOST:PORT")
        config = dataclasses.replace(
            config, registry=dataclasses.replace(config.registry, namespace=arguments.namespace)
        )
    else:
        # Which replicas there are is nobody's business here, and need not be said.
        arguments.replica = ["http://127.0.0.1:1"]
        config = load_from(arguments)
    store = key_store(config)
    if store is None:
        raise ConfigError("", "keys.url", "says nowhere where keys are kept: set it, or give --keys PLACE")
    await store.start(lambda _: None)
    try:
        return await action(arguments, store)
    finally:
        await store.stop()


async def _add(arguments: argparse.Namespace, store: KeyStore) -> int:
    from warmroute.control.tenants import NewKey, made
    from warmroute.core.errors import ClientError
    from warmroute.tenants.keys import LEAST_CHARACTERS, digest_of
    from warmroute.tenants.tenant import Priority

    wanted = NewKey(
        tenant=arguments.tenant,
        name=arguments.name,
        models=tuple(arguments.model),
        expires_in_s=None if arguments.expires is None else _seconds(arguments.expires),
        priority=None if arguments.priority is None else Priority(arguments.priority),
    )
    try:
        record, text = made(wanted, time.time())
    except ClientError as error:
        raise ConfigError("", "", error.message) from None
    if arguments.stdin:
        text = sys.stdin.readline().strip()
        if len(text) < LEAST_CHARACTERS or not re.fullmatch(r"[\x21-\x7e]+", text):
            raise ConfigError(
                "--stdin",
                "",
                f"a key must have at least {LEAST_CHARACTERS} printable characters and no blanks",
            )
        import msgspec

        record = msgspec.structs.replace(record, sha256=digest_of(text.encode()).hex())
    await store.add(record)
    print(
        f"key {record.id} of tenant {record.tenant}; this is the only time that it is shown:", file=sys.stderr
    )
    if not arguments.stdin:
        print(text)
    return 0


async def _list(arguments: argparse.Namespace, store: KeyStore) -> int:
    records = [one for one in await store.records() if arguments.tenant in (None, one.tenant)]
    if arguments.json:
        print(json.dumps([record.shown() for record in records], indent=2))
        return 0
    if not records:
        whose = "" if arguments.tenant is None else f" of tenant {arguments.tenant}"
        print(f"warmroute: there is no key{whose} in {_shown(arguments)}", file=sys.stderr)
        return 0
    rows = [("ID", "TENANT", "NAME", "MODELS", "EXPIRES")]
    for record in records:
        expires = "never"
        if record.expires_s is not None:
            expires = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.expires_s))
            if record.expires_s <= time.time():
                expires += " (past)"
        rows.append((record.id, record.tenant, record.name, ",".join(record.models) or "all", expires))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


async def _revoke(arguments: argparse.Namespace, store: KeyStore) -> int:
    status = 0
    for key_id in arguments.ids:
        if await store.revoke(key_id):
            print(f"revoked {key_id}")
        else:
            print(f"warmroute: there is no key {key_id!r}", file=sys.stderr)
            status = 1
    return status


def _shown(arguments: argparse.Namespace) -> str:
    """Where the keys are kept, for messages."""
    return redacted(arguments.keys) if arguments.keys is not None else "the place that keys.url names"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None or not int(found[1]):
        raise ConfigError("--expires", "", f"must be a time such as 90d, 12h or 30m, not {text!r}")
    return float(int(found[1]) * _UNITS_S[found[2]])
