"""Request limits and request metrics."""

import asyncio
import time
from dataclasses import asdict, dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/", "/docs", "/generate", "/healthz", "/metrics", "/model", "/openapi.json", "/readyz")
NO_GUESSING = (b"x-content-type-options", b"nosniff")
CLIENT_CLOSED = 499  # status in the metrics if the client left before the response, as in nginx


def _limit(default: float, text: str) -> float:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request and of the service; each is an option of the command line.

    Raises:
        ValueError: a limit is not a finite number above 0.
    """

    count: int = _limit(64, "images in a request; more get 422")
    body: int = _limit(4096, "bytes in the body of a request; more get 413")
    queue: int = _limit(256, "requests that may wait; one more gets 503")
    seconds: float = _limit(
        10.0, "to read headers, then the body (else 408), then to answer (else 503)"
    )
    connections: int = _limit(
        512, "open connections; one more closes the one longest without a request"
    )
    batch: int = _limit(64, "images in one call of the network")
    values: int = _limit(200_000, "numbers in a response in JSON; more get 422")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, but is {value}")


@dataclass
class ServerState:
    """Whether the server is stopping, and how many requests it has accepted and answered.

    A request counts as answered once the web server has the last byte of its response.
    """

    stopping: bool = False
    accepted: int = 0
    answered: int = 0


class LimitsMiddleware:
    """ASGI middleware: reads each body within the limits, counts and times requests, adds headers.

    Args:
        app: the application; it receives only requests whose body is complete.
        limits: ``body`` and ``seconds`` are enforced here.
        state: where requests are counted; while it is stopping, clients are asked to disconnect.
        registry: of the Prometheus metrics.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, state: ServerState, registry: CollectorRegistry
    ) -> None:
        self.app, self.limits, self.state = app, limits, state
        self.requests = Counter(
            "gan_requests", "Finished requests.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "gan_request_seconds", "Duration of a request.", ["path"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.state.accepted += 1
        start, status = time.perf_counter(), CLIENT_CLOSED

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], NO_GUESSING]
                if self.state.stopping or status == 408:
                    headers.append((b"connection", b"close"))
                message = message | {"headers": headers}
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.state.answered += 1

        try:
            await self._handle(scope, receive, send_with_headers)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"  # bounds the label's values
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - start)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more, limit = b"", True, self.limits.body
        declared = int(dict(scope["headers"]).get(b"content-length", b"0"))  # checked by uvicorn
        try:
            async with asyncio.timeout(self.limits.seconds):
                while more and max(len(body), declared) <= limit:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body, more = body + message.get("body", b""), message.get("more_body", False)
        except TimeoutError:
            detail = f"the body was not received within {self.limits.seconds:g} s"
            await JSONResponse({"detail": detail}, 408)(scope, receive, send)
            return
        if max(len(body), declared) > limit:  # uvicorn discards the rest
            detail = f"the body must not exceed {limit} bytes"
            await JSONResponse({"detail": detail}, 413)(scope, receive, send)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)
