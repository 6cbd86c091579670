"""The door of the service: what may come in, what is counted, and how to close without losing anyone."""

import asyncio
import time
from dataclasses import asdict, dataclass
from socket import socket

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/", "/docs", "/generate", "/healthz", "/metrics", "/model", "/openapi.json", "/readyz")
LOCAL_ONLY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'"
)
HEADERS = [(b"content-security-policy", LOCAL_ONLY.encode()), (b"x-content-type-options", b"nosniff")]
GONE = 499  # no answer: the client left first; a number that other servers use too


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all together, may ask for.

    Attributes:
        count: pictures in a request; more is answered by 422.
        body: bytes of a request's body; more is answered by 413.
        queue: requests that wait; one more is answered by 503.
        seconds: until the body has come, else 408, and from then until its pictures are drawn, else 503.
        batch: pictures that the network draws at a time.

    Raises:
        ValueError: a limit is not above 0.
    """

    count: int = 64
    body: int = 4096
    queue: int = 256
    seconds: float = 10.0
    batch: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, but is {value}")


@dataclass
class Traffic:
    """What is going on: whether the service stops, and how many requests were taken in and were answered."""

    stopping: bool = False
    accepted: int = 0
    answered: int = 0


class Door:
    """Stands before an application: reads each body within the limits, and counts.

    Args:
        app: the application; it gets only requests whose bodies came whole.
        limits: of body and seconds.
        traffic: where to count, and whether to show each client the way out.
        registry: where the numbers go that ``/metrics`` tells.
    """

    def __init__(self, app: ASGIApp, limits: Limits, traffic: Traffic, registry: CollectorRegistry) -> None:
        self.app, self.limits, self.traffic = app, limits, traffic
        self.requests = Counter("gan_requests", "Requests that have ended.", ["path", "status"], registry=registry)
        self.seconds = Histogram("gan_request_seconds", "From the first byte to the last.", ["path"], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.traffic.accepted += 1
        start, status = time.perf_counter(), GONE

        async def passed_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                leave = [(b"connection", b"close")] if self.traffic.stopping or status == 408 else []
                message = message | {"headers": [*message["headers"], *HEADERS, *leave]}
            await send(message)

        try:
            await self._answer(scope, receive, passed_on)
        finally:
            self.traffic.answered += 1
            path = scope["path"] if scope["path"] in PATHS else "other"  # a name for each address would fill the memory
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more, most = b"", True, self.limits.body
        declared = int(dict(scope["headers"]).get(b"content-length", b"0"))  # digits, as the server has checked
        try:
            async with asyncio.timeout(self.limits.seconds):
                while more and max(len(body), declared) <= most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body, more = body + message.get("body", b""), message.get("more_body", False)
        except TimeoutError:
            refusal = f"the body has not come within {self.limits.seconds:g} s"
            await JSONResponse({"detail": refusal}, 408)(scope, receive, send)
            return
        if max(len(body), declared) > most:  # the server forgets what still comes
            await JSONResponse({"detail": f"the body may have {most} bytes"}, 413)(scope, receive, send)
            return
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, again, send)


class Server(uvicorn.Server):
    """A server that says when it is ready, and stops in two steps.

    On SIGTERM or SIGINT it calls itself not ready and asks each client to leave with its answer; ``drain`` seconds
    later it takes no new connection, and it ends once all that it took in is answered. A second signal ends it at once.

    Args:
        door: the application behind its door.
        traffic: where to say that the service stops.
        drain: seconds.
        greeting: a line to print once requests can come.
    """

    def __init__(self, door: Door, traffic: Traffic, drain: float, greeting: str) -> None:
        super().__init__(
            uvicorn.Config(door, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=30)
        )
        self.traffic, self.drain, self.greeting, self.last = traffic, drain, greeting, float("inf")

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        print(self.greeting, flush=True)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to stop; end at once if that has begun already."""
        if self.traffic.stopping:
            self.should_exit = self.force_exit = True
        self.traffic.stopping = True
        self.last = min(self.last, time.monotonic() + self.drain)

    async def on_tick(self, counter: int) -> bool:
        """Tell, ten times a second, whether to take no more connections."""
        return await super().on_tick(counter) or time.monotonic() >= self.last
