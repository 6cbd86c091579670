"""The service under Ray Serve: several replicas, on one machine as on a cluster.

    .venv/ray/bin/python deploy/cluster.py model.onnx --replicas 2

``make ray`` gives it an environment of its own. Ray routes requests, batches them and replaces a
replica that has died; what a request may say is the same as without Ray, but nothing bounds
bodies and connections. Ray's processes talk over ports of their own, open to all who reach the
machine: give it its own network.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, ROOT)
os.environ |= {
    "PYTHONPATH": ROOT,  # of Ray's processes
    "RAY_USAGE_STATS_ENABLED": "0",  # else it reports to its vendor
    "OMP_NUM_THREADS": "1",
}

import numpy as np  # noqa: E402
import ray  # noqa: E402
from ray import serve  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402

from gan_tutorial.ship.serving.app import Service  # noqa: E402
from gan_tutorial.ship.serving.limits import Limits, ServerState  # noqa: E402
from gan_tutorial.ship.serving.model import OnnxGenerator  # noqa: E402

ONGOING = 8  # requests that a replica may have taken: what is lost if it dies
QUEUE = 256  # requests that may wait for a replica; one more gets 503


@serve.deployment(max_ongoing_requests=ONGOING, max_queued_requests=QUEUE, health_check_period_s=1)
class Pictures:
    """A replica: the generator, with Ray's batches in place of the service's own.

    Args:
        path: a file that ``export.to_onnx`` wrote, the same on every machine.
    """

    def __init__(self, path: str) -> None:
        self.generator = OnnxGenerator(path)
        self.service = Service(self.generator, Limits(), ServerState())
        self.service.batcher = self.draw
        self.largest = 0

    @serve.batch(max_batch_size=ONGOING, batch_wait_timeout_s=0)
    async def draw(self, z: list[np.ndarray], labels: list[np.ndarray | None]) -> list[np.ndarray]:
        """Return the samples of each of several calls, drawn as one batch."""
        together = None if labels[0] is None else np.concatenate(labels)
        self.largest = max(self.largest, len(z))
        samples = await asyncio.to_thread(self.generator, np.concatenate(z), together)
        return np.split(samples, np.cumsum([len(rows) for rows in z])[:-1])

    async def __call__(self, request: Request) -> Response:
        """Answer one request; the headers name this process and the largest batch so far."""
        try:
            response = await self.service.generate(request)
        except HTTPException as error:
            response = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
        response.headers["x-replica"] = str(os.getpid())
        response.headers["x-largest-batch"] = str(self.largest)  # requests
        return response


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python deploy/cluster.py", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a file that gan_tutorial export wrote")
    parser.add_argument("--replicas", type=int, default=2, help="processes that draw")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    options = parser.parse_args()
    path = str(Path(options.model).resolve())
    try:
        if options.replicas < 1:
            raise ValueError(f"--replicas must be 1 or more, but is {options.replicas}")
        name = OnnxGenerator(path).card.name  # refuses a bad file before Ray starts
        socket.create_server((options.host, options.port)).close()  # and a port that is taken
    except (ValueError, OSError, OverflowError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    ray.init(
        num_cpus=options.replicas,
        object_store_memory=10**8,  # hardly used: samples are small
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(
        Pictures.options(num_replicas=options.replicas, ray_actor_options={"num_cpus": 1}).bind(
            path
        ),
        route_prefix="/generate",
    )
    stop = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):  # now, since Ray sets its own when it starts
        signal.signal(kind, lambda *_: stop.set())
    print(f"serving {name} on http://{options.host}:{options.port}", flush=True)
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
