"""A running service: as a process on a free port, or in this process behind an HTTP client."""

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from gan_tutorial.ship.serving.app import Service, application
from gan_tutorial.ship.serving.limits import Limits, LimitsMiddleware, ServerState
from gan_tutorial.ship.serving.model import OnnxGenerator

PATIENCE = 60  # seconds; a busy machine is slow, not wrong
HEAD = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@dataclass
class Process:
    """A service in a process of its own."""

    process: subprocess.Popen
    port: int
    host: str = "127.0.0.1"

    def ask(
        self,
        path: str = "/generate",
        body: object = None,
        method: str | None = None,
        kind: str = "application/json",
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send one request on a new connection; return status, body and headers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        method, headers = method or ("GET" if body is None else "POST"), {"Content-Type": kind}
        with contextlib.closing(connection):
            connection.request(method, path, content, headers if kind else {})
            response = connection.getresponse()
            headers = {key.lower(): value for key, value in response.getheaders()}
            return response.status, response.read(), headers

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = self.ask("/metrics")[1].decode()
        values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
        return sum(map(float, values))

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)


@contextlib.contextmanager
def started(path: Path, *options: object, files: int | None = None) -> Iterator[Process]:
    """Start the service with the file of the digits on a free port; kill it at the end.

    Args:
        path: the file.
        *options: of the command line.
        files: number of files that the process may open.
    """
    module = [sys.executable, "-m", "gan_tutorial.ship.serving"]
    limit = [shutil.which("prlimit"), f"--nofile={files}"] if files else []
    command = [*limit, *module, str(path), "--port", "0", *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            greeting = process.stdout.readline()
            address = re.match(r"serving \S+ on http://\[?(.*?)\]?:(\d+)$", greeting)
            assert address, process.stderr.read()
            yield Process(process, int(address[2]), address[1])
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def in_process(
    generator: OnnxGenerator, **limits: float
) -> AsyncIterator[tuple[httpx.AsyncClient, ServerState]]:
    """Yield a client of a service in this process, where a test can slow the generator down."""
    state, chosen = ServerState(), Limits(**limits)
    service = Service(generator, chosen, state)
    app = application(service)
    transport = httpx.ASGITransport(LimitsMiddleware(app, chosen, state, service.registry))
    async with (
        service.lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client, state


def run(play: Coroutine[None, None, None]) -> None:
    """Run a coroutine in another thread: the browser's event loop may be running in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, play).result()
