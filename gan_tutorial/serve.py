"""A generator as an HTTP service, without PyTorch: python -m gan_tutorial.serve model.onnx."""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from importlib import resources
from typing import Annotated, Literal, NoReturn

import numpy as np
import prometheus_client
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from swagger_ui_bundle import swagger_ui_path

from gan_tutorial.batching import Batcher, QueueFullError
from gan_tutorial.door import Door, Limits, Server, Traffic
from gan_tutorial.drawing import Card, ModelError, OnnxGenerator, latents, moved, png


def request_model(card: Card, limits: Limits) -> type[BaseModel]:
    """Return what ``POST /generate`` takes for this generator, with the limits as the bounds of its fields."""

    class Wanted(BaseModel):
        model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

        count: int = Field(1, ge=1, le=limits.count, description="How many pictures.")
        seed: int = Field(0, ge=0, le=2**53 - 1, description="Picture i of a seed is the same in every request.")
        truncation: float | None = Field(None, gt=0, le=100, description="Draw z within ± this; none if left out.")
        label: int | None = Field(
            None, alias="class", ge=0, le=max(len(card.classes) - 1, 0), description="All in turn if left out."
        )
        shift: list[Annotated[float, Field(ge=-20, le=20)]] = Field(
            [], max_length=len(card.directions), description="How far to go along each of the latent directions."
        )
        format: Literal["png", "array"] = Field(
            "png" if card.range else "array", description="One PNG with all pictures in a grid, or numbers in JSON."
        )

    return Wanted


class Service:
    """The answers to requests, and what is counted on the way.

    Args:
        generator: the network.
        limits: what may be asked.
        traffic: what is going on at the door.
    """

    def __init__(self, generator: OnnxGenerator, limits: Limits, traffic: Traffic) -> None:
        self.generator, self.limits, self.traffic = generator, limits, traffic
        self.wanted = request_model(generator.card, limits)
        self.page = resources.files("gan_tutorial").joinpath("page.html").read_text(encoding="utf-8")
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        buckets = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        self.batches = Histogram("gan_batch_pictures", "Pictures in a batch.", buckets=buckets, registry=self.registry)
        self.calls = Counter("gan_batched_requests", "Requests that were drawn in some batch.", registry=self.registry)
        self.batcher = Batcher(generator.draw, limits.batch, limits.queue, self._observe)
        waiting = Gauge("gan_waiting_requests", "Requests that wait for a batch.", registry=self.registry)
        waiting.set_function(lambda: self.batcher.waiting)

    def _observe(self, rows: int, calls: int) -> None:
        self.batches.observe(rows)
        self.calls.inc(calls)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Draw batches while the application runs."""
        task = asyncio.create_task(self.batcher.run())
        yield
        task.cancel()

    async def generate(self, request: Request) -> Response:
        """Draw pictures: the same for the same seed, whatever else is asked at the same time."""
        try:
            wanted = self.wanted.model_validate_json(await request.body())
            card, labels = self.generator.card, self.generator.labels(wanted.count, wanted.label)
            if wanted.format == "png" and not card.range:
                raise ValueError("format must be array: this generator draws points, not pictures")
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors()]
            raise HTTPException(422, "; ".join(faults)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        z = moved(latents(wanted.count, card.latent_dim, wanted.seed, wanted.truncation), card.directions, wanted.shift)
        try:
            async with asyncio.timeout(self.limits.seconds):
                samples = await self.batcher(z, labels)
        except (QueueFullError, TimeoutError) as error:
            why = str(error) or f"not drawn within {self.limits.seconds:g} s"
            raise HTTPException(503, f"{why}; try again", {"Retry-After": "1"}) from error
        if wanted.format == "png":
            return Response(png(samples), media_type="image/png")
        return await run_in_threadpool(_numbers, samples)  # as text they are long to write

    async def healthz(self) -> dict:
        """Tell that the process lives: if this fails, start it again."""
        return {"status": "alive"}

    async def readyz(self) -> dict:
        """Tell whether to send requests here: not while it stops, nor while its queue is full."""
        if self.traffic.stopping or self.batcher.waiting >= self.limits.queue:
            raise HTTPException(503, "stopping" if self.traffic.stopping else "the queue is full")
        return {"status": "ready"}

    async def metrics(self) -> Response:
        """Return counters and timings in the text format of Prometheus."""
        return Response(
            prometheus_client.generate_latest(self.registry), media_type=prometheus_client.CONTENT_TYPE_LATEST
        )

    async def model(self) -> dict:
        """Return what the file says about the generator, and the limits of this service."""
        card = asdict(self.generator.card)
        return {key: value for key, value in card.items() if key != "probe"} | {"limits": asdict(self.limits)}

    async def index(self) -> HTMLResponse:
        """Return the page with the sliders."""
        return HTMLResponse(self.page)

    async def docs(self) -> HTMLResponse:
        """Return the description of the interface as a page that loads nothing from elsewhere."""
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"Pictures: {self.generator.card.name}",
            swagger_js_url="/static/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger-ui.css",
            swagger_favicon_url="/static/favicon-32x32.png",
        )


def _numbers(samples: np.ndarray) -> JSONResponse:
    return JSONResponse({"shape": samples.shape, "samples": np.round(samples.astype(float), 4).tolist()})


def application(service: Service) -> FastAPI:
    """Return the service's routes."""
    app = FastAPI(title="Pictures", docs_url=None, redoc_url=None, lifespan=service.lifespan)
    app.openapi_version = "3.0.3"  # what the bundled page of the interface can read
    body = {"application/json": {"schema": service.wanted.model_json_schema()}}
    reasons = {
        200: "PNG or JSON",
        408: "too slow",
        413: "too large a body",
        422: "a value does not fit",
        503: "too busy",
    }
    app.add_api_route(
        "/generate",
        service.generate,
        methods=["POST"],
        openapi_extra={"requestBody": {"content": body}},
        response_class=Response,
        responses={status: {"description": reason} for status, reason in reasons.items()},
    )
    for path, answer in (
        ("/healthz", service.healthz), ("/readyz", service.readyz), ("/metrics", service.metrics),
        ("/model", service.model),
    ):  # fmt: skip
        app.add_api_route(path, answer, methods=["GET"])
    app.add_api_route("/", service.index, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", service.docs, methods=["GET"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=swagger_ui_path))
    return app


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message, 2)


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what goes wrong is told in one line, with a status that is not 0."""
    parser = _Parser("python -m gan_tutorial.serve", description=__doc__)
    parser.add_argument("model", help="a file that gan_tutorial export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one, and prints it")
    parser.add_argument("--threads", type=int, default=1, help="how many the network may use")
    parser.add_argument("--drain", type=float, default=0.5, help="seconds between a signal and the last new connection")
    for name, value in asdict(Limits()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"see Limits; by default {value:g}")
    options = parser.parse_args(arguments)
    try:
        limits = Limits(**{name: getattr(options, name) for name in asdict(Limits())})
        if not 0 <= options.port < 2**16 or not 0 <= options.drain < 3600:
            raise ValueError(f"--port must be a port and --drain seconds, but are {options.port} and {options.drain}")
        traffic = Traffic()
        service = Service(OnnxGenerator(options.model, options.threads), limits, traffic)
        place = socket.create_server((options.host, options.port), backlog=2048)
        place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else short answers wait 40 ms for a receipt
    except (ModelError, ValueError, OSError) as error:
        _fail(str(error), 1)
    door = Door(application(service), limits, traffic, service.registry)
    host, port, *_ = place.getsockname()
    Server(door, traffic, options.drain, f"serving {service.generator.card.name} on http://{host}:{port}").run([place])
    print(f"stopped: {traffic.answered} of {traffic.accepted} requests answered", flush=True)


if __name__ == "__main__":
    main()
