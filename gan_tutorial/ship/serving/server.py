"""uvicorn with bounds on its connections, and a graceful shutdown."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from socket import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, h11

from gan_tutorial.ship.serving.limits import Limits, ServerState

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None

BACKLOG = 128  # connections that asyncio accepts in one go, before any of them can be closed
OTHER_FILES = 3 * BACKLOG  # descriptors for these, and for the process itself
INSIDE = 32  # connections for probes and monitoring
DISCARDED = 2**24  # bytes of a refused body that may still come, so that its client reads the 413
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(H11Protocol):
    """A connection that cannot be held open: uvicorn bounds only silence after a response.

    - The headers of a request must be complete within ``limits.seconds`` of the connection opening
      or the last response; and the whole response must be sent within three times as long.
    - Of a body that was refused, at most ``DISCARDED`` bytes are read, and none that is malformed.
    - If there are more than ``limits.connections``, the one that has waited longest for a complete
      request is closed, so half-sent requests cannot keep others out. If all are
      being answered, uvicorn's ``limit_concurrency`` answers 503.
    - A client that closes its sending half after its request gets its response.

    Args:
        *args: for uvicorn's protocol.
        limits: of the service.
        waiting: the connections without a complete request, longest first; shared by all.
        **kwargs: for uvicorn's protocol.
    """

    def __init__(
        self, *args: Any, limits: Limits, waiting: dict["BoundedProtocol", None], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.limits, self.waiting = limits, waiting
        self.deadline: asyncio.TimerHandle | None = None
        self.discarded, self.half_closed = 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start to wait for a request, in place of another if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and self.waiting:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.transport.abort()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.deadline.cancel()
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """Keep the connection for the response if a whole request was received."""
        self.half_closed = self._is_answering()
        return self.half_closed

    def data_received(self, data: bytes) -> None:
        """Parse data, unless too much of a refused body has come."""
        if self.cycle and self.cycle.response_complete and self.cycle.more_body:
            self.discarded += len(data)
            if self.discarded > DISCARDED:
                self.transport.abort()
                return
        read = not self.transport.get_write_buffer_size()
        if self._is_over() and read and self not in self.waiting:  # only now was it read
            self._wait()
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle what was parsed; a new request gets its own time."""
        last = self.cycle
        super().handle_events()
        if self.cycle is not last:
            self.discarded = 0
            self._set_deadline(3 * self.limits.seconds)  # to read, to compute and to send
        if self._is_answering():
            self.waiting.pop(self, None)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or end the connection if this request has its response."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless the client has yet to read the response."""
        if not self.transport.get_write_buffer_size():
            self._wait()
        super().on_response_complete()
        if self.half_closed and not self._is_answering():
            self.transport.close()

    def _is_over(self) -> bool:
        cycle = self.cycle
        return cycle is not None and cycle.response_complete and not cycle.more_body

    def _is_answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _wait(self) -> None:
        self.waiting[self] = None
        self._set_deadline(self.limits.seconds)

    def _set_deadline(self, seconds: float) -> None:
        if self.deadline:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(seconds, self._close_late)

    def _close_late(self) -> None:
        idle = self.cycle is None or self._is_over()
        if idle and self.conn.trailing_data[0] and not self.transport.get_write_buffer_size():
            self.transport.write(LATE)  # to half-sent headers
        self.transport.abort()


def configure(app: ASGIApp, limits: Limits, lifespan: str = "auto") -> uvicorn.Config:
    """Return uvicorn's settings, with connections within the limits."""
    return uvicorn.Config(
        app,
        http=partial(BoundedProtocol, limits=limits, waiting={}),
        ws="none",
        lifespan=lifespan,
        log_level="error",  # a line for each malformed request would fill a disk
        access_log=False,
        backlog=BACKLOG,
        limit_concurrency=limits.connections + 1,
        timeout_graceful_shutdown=30,
    )


class Server(uvicorn.Server):
    """A server that prints a line once it accepts requests, and stops gracefully.

    After SIGTERM or SIGINT it is no longer ready, and asks each client to disconnect with its next
    response. ``drain`` seconds later it accepts no new connection, and it exits when all accepted
    requests are answered, or after 30 s more. A second signal stops it at once.

    Args:
        app: the application.
        limits: ``connections`` and ``seconds`` are enforced here.
        state: ``stopping`` is set here.
        drain: seconds.
        greeting: the line to print.
        inside: another application and its listening socket, for probes and monitoring. It has
            ``INSIDE`` connections of its own, so it answers however many clients the first has.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        state: ServerState,
        drain: float,
        greeting: str,
        inside: tuple[ASGIApp, socket] | None = None,
    ) -> None:
        super().__init__(configure(app, limits))
        self.limits, self.state, self.drain, self.greeting = limits, state, drain, greeting
        self.inside, self.connections_inside = inside, set()
        self.deadline = float("inf")  # of accepting connections

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start, and print the greeting."""
        await super().startup(sockets)
        if self.inside:
            app, listener = self.inside
            config = configure(app, replace(self.limits, connections=INSIDE), lifespan="off")
            shared = uvicorn.server.ServerState()
            self.connections_inside = shared.connections
            config.load()
            self.server_inside = await asyncio.get_running_loop().create_server(
                lambda: config.http_protocol_class(
                    config=config, server_state=shared, app_state={}
                ),
                sock=listener,
            )
        print(self.greeting, flush=True)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Answer what was accepted; until then the other application answers, too."""
        await super().shutdown(sockets)
        for connection in list(self.connections_inside):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to stop; on a second signal, stop at once."""
        if self.state.stopping:
            self.should_exit = self.force_exit = True
        self.state.stopping = True
        self.deadline = min(self.deadline, time.monotonic() + self.drain)

    async def on_tick(self, counter: int) -> bool:
        """Return, ten times a second, whether to stop accepting connections."""
        return await super().on_tick(counter) or time.monotonic() >= self.deadline


def reserve_files(connections: int) -> None:
    """Let this process open as many files as ``connections`` need.

    Raises:
        ValueError: the system does not allow that many.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + INSIDE + OTHER_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError, OverflowError) as error:
        raise ValueError(
            f"{connections} connections need {needed} open files, but this process may have {hard} "
            "(ulimit -Hn)"
        ) from error
