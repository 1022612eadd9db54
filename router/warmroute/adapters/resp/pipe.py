"""A pipe is one connection to a Redis server: bytes go out, and replies go back to their askers in the order of asking.

It decides nothing about what is asked, about deadlines, or about what a lost connection means. An asker that has given
up stays in line until its reply has come, so that later replies keep their askers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import hiredis

from warmroute.adapters.resp.breaker import Breaker
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.url import Address, RedisTarget

Replies = list[Any]
"""As many replies as were asked for. Errors are `hiredis.ReplyError` objects among them."""


class RedisError(Exception):
    """A server answered with an error, or with something that Redis does not say."""


class Pipe(asyncio.Protocol):
    """Sends pipelined commands and hands out their replies.

    Args:
        on_lost: Called once when the connection is gone, after every asker has been told.
    """

    __slots__ = (
        "_feed",
        "_gets",
        "_on_lost",
        "_transport",
        "_waiting",
        "address",
        "breaker",
        "loop",
        "said",
    )

    def __init__(
        self, address: Address, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Pipe], None]
    ) -> None:
        self.address = address
        self.loop = loop
        self.said = ""
        """Its last words, where the server closed the connection with an error that answers nothing."""
        self.breaker = Breaker()
        """Kept by whoever sets deadlines."""
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[int, Callable[[Replies | None], None]]] = deque()
        reader = hiredis.Reader()
        self._feed = reader.feed
        self._gets = reader.gets

    @property
    def open(self) -> bool:
        """True until the connection is lost or closed."""
        return self._transport is not None

    def send(self, data: bytes, count: int, on_replies: Callable[[Replies | None], None]) -> None:
        """Send commands that `count` replies answer; `on_replies` gets them, or `None` if the connection is lost.

        The caller has checked `open`.
        """
        self._waiting.append((count, on_replies))
        self._transport.write(data)  # type: ignore[union-attr,unused-ignore]

    async def ask(self, *words: str | bytes | int) -> Any:
        """Send one command and wait for its reply.

        Raises:
            RedisError: The reply is an error, or the server's last word.
            ConnectionError: The connection is or gets lost.
        """
        if self._transport is None:
            raise self._loss("connection to Redis is closed")
        reply: asyncio.Future[Any] = self.loop.create_future()

        def on_replies(replies: Replies | None) -> None:
            if reply.done():
                return
            if replies is None:
                reply.set_exception(self._loss("connection to Redis lost"))
            elif isinstance(replies[0], Exception):
                reply.set_exception(RedisError(f"{words[0]!s}: {replies[0]}"))
            else:
                reply.set_result(replies[0])

        self.send(pack(*words), 1, on_replies)
        return await reply

    def _loss(self, what: str) -> RedisError | ConnectionResetError:
        return RedisError(self.said) if self.said else ConnectionResetError(what)

    def close(self) -> None:
        """Close at once; askers are told before this returns."""
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; nothing is sent by itself."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        waiting = self._waiting
        gets = self._gets
        try:
            self._feed(data)
            replies: Replies = []
            while waiting:
                count, on_replies = waiting[0]
                while len(replies) < count:
                    try:
                        reply = gets()
                    except TypeError as error:  # a map whose keys are no values, which no Redis sends
                        raise hiredis.ProtocolError(str(error)) from error
                    if reply is False:
                        if replies:
                            self._keep(count, on_replies, replies)
                        return
                    replies.append(reply)
                waiting.popleft()
                on_replies(replies)
                replies = []
        except (hiredis.ProtocolError, MemoryError):  # the latter where billions of elements are announced
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every asker, then the owner. Also called by `close`; the second call does nothing."""
        if self._transport is None:
            return
        self._transport = None
        with suppress(hiredis.ProtocolError, TypeError, MemoryError):
            last = self._gets()
            if isinstance(last, Exception):
                self.said = str(last)
        while self._waiting:
            self._waiting.popleft()[1](None)
        self._on_lost(self)

    def _keep(self, count: int, on_replies: Callable[[Replies | None], None], replies: Replies) -> None:
        """Put back an asker of which part of the replies has come."""

        def on_rest(rest: Replies | None) -> None:
            on_replies(None if rest is None else replies + rest)

        self._waiting[0] = count - len(replies), on_rest


async def open_pipe(target: RedisTarget, address: Address, on_lost: Callable[[Pipe], None]) -> Pipe:
    """Connect to one server as the target's user and select its database. The caller sets the deadline.

    Raises:
        OSError, RedisError: Refused, unreachable, or not let in.
    """
    pipe = await connect_pipe(target, address, on_lost)
    try:
        if target.password is not None:
            await pipe.ask("AUTH", *([target.username] if target.username else []), target.password)
        if target.db:
            await pipe.ask("SELECT", target.db)
    except BaseException:
        pipe.close()
        raise
    return pipe


async def connect_pipe(target: RedisTarget, address: Address, on_lost: Callable[[Pipe], None]) -> Pipe:
    """Connect without signing in."""
    loop = asyncio.get_running_loop()
    if isinstance(address, str):
        _, pipe = await loop.create_unix_connection(
            lambda: Pipe(address, loop, on_lost), address, ssl=target.tls, server_hostname=None
        )
    else:
        _, pipe = await loop.create_connection(lambda: Pipe(address, loop, on_lost), *address, ssl=target.tls)
    return pipe
