"""A store that is one script in Redis: its calls are one step each, under one hash tag.

Decides how a script is called, and that a server which does not answer is away. What the script does is its own.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

from warmroute.adapters.resp.advice import with_remedy
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.resp.pipe import RedisError
from warmroute.caching.content import StoreAwayError


class RedisScript:
    """One script's calls.

    Args:
        link: Connections of its own: what is kept may be long.
        tag: Hash tag of its keys.
        name: Of the script's file.
        what: What cannot be had while Redis is away, for people.
    """

    def __init__(self, link: RedisLink, namespace: str, tag: str, name: str, what: str) -> None:
        self._link = link
        self.base = f"{namespace}:{{{tag}}}:".encode()
        self._key = self.base + b"x"
        self._what = what
        self._script = resources.files(__package__).joinpath(f"{name}.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()

    @property
    def healthy(self) -> bool:
        """Whether there is a connection."""
        return self._link.up

    async def start(self) -> None:
        """Connect, or go on trying."""
        await self._link.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._link.stop()

    async def call(self, name: str, *words: str | bytes | int) -> Any:
        """One step.

        Raises:
            StoreAwayError: It was not made, or nobody knows.
        """
        packed = [encoded(word) if isinstance(word, str) else word for word in (name, *words)]
        command = pack("EVALSHA", self._sha, 1, self._key, *packed)
        try:
            return (await self._link.ask(self._key, command))[0]
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise self._away(error) from error
        except OSError as error:
            raise self._away(error) from error
        await self._ask(pack("SCRIPT", "LOAD", self._script))
        return (await self._ask(command))[0]

    async def read(self, key: bytes) -> bytes | None:
        """One key's value.

        Raises:
            StoreAwayError: Nobody can say.
        """
        reply = (await self._ask(pack("GET", self.base + key)))[0]
        return reply if isinstance(reply, bytes) else None

    async def _ask(self, command: bytes) -> Any:
        try:
            return await self._link.ask(self._key, command)
        except (OSError, RedisError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> StoreAwayError:
        why = with_remedy(str(error)) if str(error) else type(error).__name__
        return StoreAwayError(f"{self._what} cannot be read or changed now: {why}; retry later")


def encoded(text: str) -> bytes:
    """As keys and arguments have it; a tenant's id may hold what is no character."""
    return text.encode("utf-8", "surrogatepass")
