"""The routes of the service."""

import asyncio
import base64
import contextlib
import hashlib
import html
import math
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import prometheus_client
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from swagger_ui_bundle import swagger_ui_path

from gan_tutorial import arrays
from gan_tutorial.ship.serving.batching import Batcher, QueueFullError
from gan_tutorial.ship.serving.limits import Limits, ServerState
from gan_tutorial.ship.serving.model import Card, OnnxGenerator

STATUSES = {
    200: "PNG or JSON",
    400: "the body is not JSON",
    408: "the body took too long",
    413: "the body is too large",
    415: "the body's type is not application/json",
    422: "a value is invalid",
    503: "the service is overloaded",
}


def request_model(card: Card, limits: Limits) -> type[BaseModel]:
    """Return the pydantic model of the body of ``POST /generate`` for this generator."""

    class GenerateRequest(BaseModel):
        model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

        count: int = Field(1, ge=1, le=limits.count, description="Number of images.")
        seed: int = Field(
            0, ge=0, le=2**53 - 1, description="Image i of a seed is always the same."
        )
        truncation: float | None = Field(
            None, gt=0, le=100, description="Sample z within ± this; no limit by default."
        )
        label: int | None = Field(
            None,
            alias="class",
            ge=0,
            le=max(len(card.classes) - 1, 0),
            description="Each class in turn by default.",
        )
        shift: list[Annotated[float, Field(ge=-20, le=20)]] = Field(
            [],
            max_length=len(card.directions),
            description="Distance to move along each of the latent directions.",
        )
        format: Literal["png", "array"] = Field(
            "png" if card.range else "array",
            description="One PNG with a grid of all images, or their values in JSON.",
        )

    return GenerateRequest


class Service:
    """The handlers of all routes, and the metrics.

    Args:
        generator: the network.
        limits: of the requests.
        state: of the server.
    """

    def __init__(self, generator: OnnxGenerator, limits: Limits, state: ServerState) -> None:
        self.generator, self.limits, self.state = generator, limits, state
        self.request_model = request_model(generator.card, limits)
        self.page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        buckets = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        self.batches = Histogram(
            "gan_batch_pictures", "Images in a batch.", buckets=buckets, registry=self.registry
        )
        self.calls = Counter(
            "gan_batched_requests", "Requests computed in a batch.", registry=self.registry
        )
        self.writers = ThreadPoolExecutor(2)
        self.batcher = Batcher(generator, limits.batch, limits.queue, self._observe)
        waiting = Gauge("gan_waiting_requests", "Requests in the queue.", registry=self.registry)
        waiting.set_function(lambda: self.batcher.waiting)

    def _observe(self, rows: int, calls: int) -> None:
        self.batches.observe(rows)
        self.calls.inc(calls)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Compute batches while the application runs."""
        task = asyncio.create_task(self.batcher.run())
        yield
        task.cancel()
        self.writers.shutdown(wait=False, cancel_futures=True)

    async def generate(self, request: Request) -> Response:
        """Generate images: the same for the same seed, whatever other requests there are."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a page of any site may send other types without asking
            raise HTTPException(415, "the Content-Type must be application/json")
        options, card = self._validate(await request.body()), self.generator.card
        z = arrays.latents(options.count, card.latent_dim, options.seed, options.truncation)
        directions = np.asarray(card.directions[: len(options.shift)], np.float32)
        z = z + np.asarray(options.shift, np.float32) @ directions  # + 0 without shift
        labels = arrays.labels(options.count, len(card.classes), options.label)
        try:
            async with asyncio.timeout(self.limits.seconds):
                samples = await self.batcher(z, labels)
                if options.format == "array":  # slow for many numbers, which also fill the memory
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(self.writers, _as_json, samples)
        except (QueueFullError, TimeoutError) as error:
            why = str(error) or f"not generated within {self.limits.seconds:g} s"
            raise HTTPException(503, f"{why}; try again", {"Retry-After": "1"}) from error
        png = arrays.png(arrays.tile(arrays.to_bytes(samples)), generated_by=card.name)
        return Response(png, media_type="image/png")

    def _validate(self, body: bytes) -> BaseModel:
        """Return the options of a request; refuse what is not JSON with 400, the rest with 422."""
        try:
            options = self.request_model.model_validate_json(body)
        except ValidationError as error:
            reasons = [
                f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"
                for fault in error.errors()
            ]
            status = 400 if error.errors()[0]["type"] == "json_invalid" else 422
            raise HTTPException(status, "; ".join(reasons)) from error
        if options.label is not None and not self.generator.card.classes:
            raise HTTPException(422, "class: this generator has no classes")
        if options.format == "png" and not self.generator.card.range:
            raise HTTPException(422, "format: must be array, since this generator makes points")
        each = math.prod(self.generator.card.shape)
        if options.format == "array" and options.count * each > self.limits.values:
            most = f"{self.limits.values:,} numbers, {self.limits.values // each} samples"
            raise HTTPException(422, f"count: an array must not have more than {most}")
        return options

    async def healthz(self) -> dict:
        """Report that the process is alive; if this fails, restart it."""
        return {"status": "alive"}

    async def readyz(self) -> dict:
        """Report whether to send requests: yes until it is stopping, even while the queue is full.

        A full queue refuses requests one by one. If that made the service not ready, other replicas
        would get its load.
        """
        if self.state.stopping:
            raise HTTPException(503, "stopping")
        return {"status": "ready"}

    async def metrics(self) -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(
            prometheus_client.generate_latest(self.registry),
            media_type=prometheus_client.CONTENT_TYPE_LATEST,
        )

    async def model(self) -> dict:
        """Return the card of the generator and the limits of the service."""
        card = asdict(self.generator.card)
        del card["probe"]
        return card | {"limits": asdict(self.limits)}

    async def index(self) -> HTMLResponse:
        """Return the page with the sliders."""
        return _as_html(self.page)

    async def docs(self) -> HTMLResponse:
        """Return the documentation of the API, as a page that loads nothing from other hosts."""
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=html.escape(f"Generated pictures: {self.generator.card.name}"),
            swagger_js_url="/static/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger-ui.css",
            swagger_favicon_url="/static/favicon-32x32.png",
        )
        return _as_html(page.body.decode())


def _as_html(page: str) -> HTMLResponse:
    """Return a page that runs its own scripts alone, and loads nothing from other hosts."""
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in re.findall("<script>(.*?)</script>", page, flags=re.DOTALL)
    ]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    policy = (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' blob: data:; frame-ancestors 'none'"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _as_json(samples: np.ndarray) -> JSONResponse:
    values = np.round(samples.astype(float), 4).tolist()
    return JSONResponse({"shape": samples.shape, "samples": values})


def application(service: Service, metrics: bool = True) -> FastAPI:
    """Return the application with the routes of the service.

    Args:
        service: the handlers.
        metrics: whether /metrics is one of the routes.
    """
    app = FastAPI(
        title="Generated pictures", docs_url=None, redoc_url=None, lifespan=service.lifespan
    )
    app.openapi_version = "3.0.3"  # the bundled Swagger UI cannot read a later one
    body = {"application/json": {"schema": service.request_model.model_json_schema()}}
    app.add_api_route(
        "/generate",
        service.generate,
        methods=["POST"],
        openapi_extra={"requestBody": {"content": body}},
        response_class=Response,
        responses={status: {"description": text} for status, text in STATUSES.items()},
    )
    named = [service.healthz, service.readyz, service.model, service.docs]
    if metrics:
        named.append(service.metrics)
    _add_routes(app, {"/": service.index} | {f"/{each.__name__}": each for each in named})
    app.mount("/static", StaticFiles(directory=swagger_ui_path))
    return app


def inside(service: Service) -> FastAPI:
    """Return the application for probes and monitoring, for a port of their own."""
    app = FastAPI(openapi_url=None)
    named = (service.healthz, service.readyz, service.metrics)
    _add_routes(app, {f"/{each.__name__}": each for each in named})
    return app


def _add_routes(app: FastAPI, routes: dict[str, Callable]) -> None:
    for path, handler in routes.items():
        schema = path not in ("/", "/docs")
        app.add_api_route(path, handler, methods=["GET"], include_in_schema=schema)
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
