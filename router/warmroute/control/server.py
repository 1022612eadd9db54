"""The admin server listens on the admin address, from before the data plane starts until after it, to show a drain."""

from __future__ import annotations

from aiohttp import web


class ControlServer:
    """One application on one address, or on a socket file where there is one."""

    def __init__(
        self, application: web.Application, host: str, port: int, *, socket_path: str | None = None
    ) -> None:
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._host = host
        self._port = port
        self._socket_path = socket_path

    async def start(self) -> int:
        """Listen, and return the port: the one asked for, or a free one for 0; 0 for a socket file.

        Raises:
            OSError: The address is taken or not this machine's.
        """
        await self._runner.setup()
        try:
            if self._socket_path is not None:
                await web.UnixSite(self._runner, self._socket_path).start()
                return 0
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        await self._runner.cleanup()
