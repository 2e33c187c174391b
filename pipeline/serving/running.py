"""The life of the server: start the devices, serve, and end in order after a signal. Knows no protocol and no model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from ..captioning.process.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE_ERROR, RunError, UsageError
from ..captioning.process.signals import ECHO_SECONDS
from .connections import LimitedConnection
from .devices.devices import Devices
from .listening import url_of

logger = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 30
"""For connections without a request: longer than clients keep theirs (5 to 15 s), so that the client closes first."""
_FLUSH_SECONDS = 5
"""At the end, time for the last bytes of answers to reach their clients."""
_FORCED_SECONDS = 5.0
"""After a second signal, and after the end of the server, time for the process to end: a thread can't be cancelled."""


class Running:
    """One run of the server in this process.

    app: the ASGI application, which asks `devices`.
    connections: most open connections.
    drain_seconds: time for open questions to end after a signal.
    """

    def __init__(self, app: Any, devices: Devices, connections: int, drain_seconds: float) -> None:
        self._devices, self._drain_seconds = devices, drain_seconds
        self._server = _Server(
            uvicorn.Config(
                app,
                http=LimitedConnection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=connections + 1,  # uvicorn refuses a request if this many connections are open
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_FLUSH_SECONDS,
            )
        )
        self._error: UsageError | RunError | None = None
        self._end: asyncio.Task[None] | None = None
        self._first_signal = (0, 0.0)  # its number, and when it arrived
        self._forced: threading.Timer | None = None

    def serve(self, listener: socket.socket) -> None:
        """As `run`, in an event loop of its own; no thread of the loop keeps the process alive for long."""
        try:
            asyncio.run(self.run(listener))
        finally:
            if self._forced is not None:
                self._forced.cancel()

    async def run(self, listener: socket.socket) -> None:
        """Serve until a signal arrives or a device can't load its model.

        Raises:
            UsageError, RunError: a model can't be loaded; RunError also if the server was ended by a second signal.
        """
        loop, begin = asyncio.get_running_loop(), time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        self._devices.start()
        loading = loop.create_task(self._wait_until_ready(begin))
        try:
            logger.info("listening on %s; the model is being loaded", url_of(listener))
            await self._server.serve([listener])
        except SystemExit as error:  # how uvicorn reports that the application did not start
            raise RunError("the HTTP application did not start; see the log") from error
        finally:
            loading.cancel()
            if self._end is not None:
                self._end.cancel()
            await self._devices.close()
            self._force_end()
        if self._error is not None:
            raise self._error
        logger.info("the server has ended")

    async def _wait_until_ready(self, begin: float) -> None:
        try:
            await self._devices.wait_until_ready()
        except (UsageError, RunError) as error:
            self._error = error
            self._server.should_exit = True
            return
        logger.info("ready after %.1f s: %s", time.monotonic() - begin, self._devices.description())

    def _on_signal(self, number: int) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if self._end is None:
            self._first_signal = number, now
            logger.info("%s: open questions have %g s to end; a second signal ends them", name, self._drain_seconds)
            self._end = asyncio.get_running_loop().create_task(self._drain())
            return
        first, arrived = self._first_signal
        if number == first and now - arrived < ECHO_SECONDS:
            return  # a copy: `timeout` sends SIGTERM to its child, and then to the child's process group
        self._error = RunError(f"ended by a second signal ({name}); open questions were not answered")
        self._force_end()
        self._devices.kill()
        self._server.end_at_once()

    def _force_end(self) -> None:
        """End the process some seconds later, if it is still there."""
        if self._forced is None:
            self._forced = threading.Timer(_FORCED_SECONDS, self._exit)
            self._forced.daemon = True
            self._forced.start()

    def _exit(self) -> None:
        if self._error is not None:
            logger.error("%s", self._error)
        os._exit(self._exit_code())

    def _exit_code(self) -> int:
        if self._error is None:
            return EXIT_DONE
        return EXIT_USAGE_ERROR if isinstance(self._error, UsageError) else EXIT_FAILED

    async def _drain(self) -> None:
        await self._devices.drain(self._drain_seconds)
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals to `Running`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end_at_once(self) -> None:
        """End without waiting for connections and requests."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it logs each request that is cancelled
        self.should_exit = True
        for task in list(self.server_state.tasks):
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
