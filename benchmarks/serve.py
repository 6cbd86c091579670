"""The service under load: many clients at once, one request in twenty malformed, and a SIGTERM.

Three parts: one client alone; all clients together, with the memory read from the service's own
metrics; and stops under load. Every response is compared with the first one to the same request.
Clients and service share the processors of the machine.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from _sweep import Out
from tqdm import tqdm

from gan_tutorial import checkpoints, records
from gan_tutorial.ship import export

STOPS = 5
BAD = {
    "wrong types": [
        b'{"count": "3"}',
        b'{"seed": 1.5}',
        b'{"truncation": []}',
        b"[]",
        b'{"count": true}',
    ],
    "huge counts": [b'{"count": 65}', b'{"count": 1000000000}', b'{"count": 1' + b"0" * 999 + b"}"],
    "NaN": [
        b'{"truncation": NaN}',
        b'{"seed": -Infinity}',
        b'{"truncation": 1e999}',
        b'{"shift": [NaN]}',
    ],
    "10 MB bodies": [b'{"seed": ' + b"1" * 10_000_000 + b"}"],
    "cut connections": [b'{"count": 64, "seed": 12', b""],
}
REFUSALS = {"wrong types": 422, "huge counts": 422, "NaN": 422, "10 MB bodies": 413}


class ClosedError(Exception):
    """The service closed a connection; ``incomplete`` if that was in the middle of a response."""

    def __init__(self, incomplete: bool) -> None:
        super().__init__("closed")
        self.incomplete = incomplete


@dataclass
class Client:
    """A client that keeps one connection, and opens a new one when it has been closed."""

    port: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    head: bytes = b""  # the headers of the last response

    async def ask(self, body: bytes, path: str = "/generate") -> tuple[int, bytes, bool]:
        """Return status, body, and whether the service asks to disconnect."""
        self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        method = "POST" if path == "/generate" else "GET"
        first = b""
        try:
            request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            writer.write(f"{request}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            first = await reader.readline()
            self.head = await reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"content-length: (\d+)", self.head)[1])
            content = await reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ClosedError(bool(first)) from error
        if not first:
            self.close()
            raise ClosedError(False)
        disconnect = b"connection: close" in self.head
        if disconnect:
            self.close()
        return int(first.split()[1]), content, disconnect

    async def cut(self, body: bytes) -> None:
        """Send half of a request, and disconnect."""
        _, writer = self.streams or await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        self.streams = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.streams:
            self.streams[1].close()
        self.streams = None


@dataclass
class Counts:
    """What all clients saw."""

    statuses: dict[str, Counter] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    pictures: dict[bytes, str] = field(default_factory=dict)
    changed: int = 0
    sent: int = 0

    def note(self, kind: str, status: int | str) -> None:
        """Count one response."""
        self.statuses.setdefault(kind, Counter())[str(status)] += 1


@asynccontextmanager
async def service(
    model: Path, *options: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start the service on a free port."""
    module = [sys.executable, "-m", "gan_tutorial.ship.serving"]
    command = [*module, str(model), "--port", "0", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process, int((await process.stdout.readline()).split(b":")[-1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def good(rng: random.Random) -> bytes:
    """Return a valid request for one to eight images, one in ten as an array."""
    request = {"count": rng.randint(1, 8), "seed": rng.randrange(50)}
    return json.dumps(request | ({"format": "array"} if rng.random() < 0.1 else {})).encode()


async def load(port: int, requests: int, clients: int, malformed: float, counts: Counts) -> float:
    """Send the requests, a fraction of them malformed, and return the seconds that it took."""
    rng, bar = random.Random(0), tqdm(total=requests, desc=f"clients: {clients}", disable=None)

    async def work() -> None:
        client = Client(port)
        while counts.sent < requests:
            counts.sent += 1
            number, kind = (
                counts.sent,
                rng.choice(list(BAD)) if rng.random() < malformed else "good",
            )
            body = good(rng) if kind == "good" else rng.choice(BAD[kind])
            bar.update()
            if number % 250 == 0:
                counts.memory.append((number, await memory(port)))
            if kind == "cut connections":
                await client.cut(body)
                counts.note(kind, "none")
                continue
            start = time.perf_counter()
            try:
                status, content, _ = await client.ask(body)
            except ClosedError:
                counts.note(kind, "closed")
                continue
            counts.note(kind, status)
            if kind == "good":
                counts.milliseconds.append(1000 * (time.perf_counter() - start))
                digest = hashlib.sha256(content).hexdigest()
                counts.changed += counts.pictures.setdefault(body, digest) != digest
        client.close()

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work())
    bar.close()
    return time.perf_counter() - start


async def memory(port: int) -> float:
    """Return the resident memory of the service in MB."""
    client = Client(port)
    _, text, _ = await client.ask(b"", "/metrics")
    client.close()
    return metric("process_resident_memory_bytes", text) / 1e6


def metric(name: str, text: bytes) -> float:
    """Return a number from the service's metrics."""
    return float(re.search(rf"^{name} (\S+)", text.decode(), flags=re.MULTILINE)[1])


async def stop(model: Path, clients: int) -> dict:
    """Send SIGTERM while all clients send requests; return what service and clients counted."""
    counts = Counter()

    async def work(port: int, seed: int) -> None:
        client, body = Client(port), json.dumps({"count": 8, "seed": seed}).encode()
        while True:
            try:
                status, _, disconnect = await client.ask(body)
                counts[f"answered by {status}"] += 1
                counts["asked to disconnect"] += disconnect
            except ClosedError as closed:
                counts["incomplete" if closed.incomplete else "not accepted"] += 1
                return
            except OSError:  # refused: the port is closed
                return

    async with service(model) as (process, port), asyncio.TaskGroup() as group:
        for seed in range(clients):
            group.create_task(work(port, seed))
        await asyncio.sleep(2)
        process.send_signal(signal.SIGTERM)
        last = (await process.communicate())[0].decode()
    answered, accepted = map(int, re.search(r"stopped: (\d+) of (\d+) requests", last).groups())
    return {
        "accepted": accepted,
        "answered": answered,
        "status": process.returncode,
        "clients": dict(counts),
    }


async def measure(requests: int, clients: int) -> dict:
    """Return the record, without machine and date."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "digits.onnx"
        export.to_onnx(*checkpoints.load_generator("digits")[:1], model, {"data": "digits"})
        async with service(model) as (_, port):
            alone, crowd = Counts(), Counts()
            await load(port, 200, 1, 0, Counts())  # warm-up
            seconds_alone = await load(port, max(requests // 20, 100), 1, 0, alone)
            seconds = await load(port, requests, clients, 0.05, crowd)
            text = (await Client(port).ask(b"", "/metrics"))[1]
        stops = [await stop(model, clients) for _ in range(STOPS)]

    calls, batches = (
        metric(name, text) for name in ("gan_batched_requests_total", "gan_batch_pictures_count")
    )
    return {
        "requests": requests,
        "clients": clients,
        "alone": summary(alone, seconds_alone),
        "crowd": summary(crowd, seconds),
        "requests_in_a_batch": calls / batches,
        "changed_pictures": alone.changed + crowd.changed,
        "memory": crowd.memory,
        "stops": stops,
    }


def summary(counts: Counts, seconds: float) -> dict:
    """Return counts, throughput of all requests and latency of the good ones."""
    percentiles = statistics.quantiles(counts.milliseconds, n=100)
    return {
        "seconds": seconds,
        "requests_per_second": counts.sent / seconds,
        "milliseconds": {
            "mean": statistics.fmean(counts.milliseconds),
            "p50": percentiles[49],
            "p90": percentiles[89],
            "p99": percentiles[98],
            "max": max(counts.milliseconds),
        },
        "statuses": {kind: dict(counter) for kind, counter in counts.statuses.items()},
    }


def verdicts(record: dict) -> dict[str, bool]:
    """Return whether each promise was kept."""
    statuses = record["crowd"]["statuses"]
    refused = [kind for kind in REFUSALS if kind in statuses]
    start = [size for number, size in record["memory"] if 1000 < number <= 2000]
    settled = [size for number, size in record["memory"] if number > 2000]
    kept = {
        "good requests get 200, or 503 on purpose": set(statuses["good"]) <= {"200", "503"},
        "malformed requests get 422 or 413": all(
            set(statuses[kind]) == {str(REFUSALS[kind])} for kind in refused
        ),
        "a request gets the same response each time": record["changed_pictures"] == 0,
        "a stop answers every accepted request": all(map(graceful, record["stops"])),
    }
    if settled:
        kept["memory grows by a tenth at most"] = max(settled) <= 1.1 * statistics.median(start)
    return kept


def graceful(stop: dict) -> bool:
    """Return whether every accepted request was answered, and received by its client."""
    clients = stop["clients"]
    same = stop["accepted"] == stop["answered"] == clients["answered by 200"]
    return same and "incomplete" not in clients and stop["status"] == 0


def show(record: dict) -> None:
    """Print the record as a table."""
    print(f"{records.source(record)}; {record['requests']} requests, {record['clients']} clients")
    names = ("requests/s", "mean ms", "p50 ms", "p90 ms", "p99 ms", "max ms")
    print(f"{'':8}" + "".join(f"{name:>11}" for name in names))
    for name in ("alone", "crowd"):
        row = record[name]
        times = "".join(f"{x:11.1f}" for x in row["milliseconds"].values())
        print(f"{name:8}{row['requests_per_second']:11.0f}{times}")
    print(f"requests in a batch, on average: {record['requests_in_a_batch']:.1f}")
    for kind, counts in record["crowd"]["statuses"].items():
        print(f"  {kind:18}" + ", ".join(f"{status}: {count}" for status, count in counts.items()))
    sizes = [size for _, size in record["memory"]]
    print(f"memory: {min(sizes):.0f} to {max(sizes):.0f} MB")
    for stop in record["stops"]:
        print(f"  stop: {stop}")
    for promise, kept in verdicts(record).items():
        print(f"{'kept' if kept else 'BROKEN':8}{promise}")


def main(
    requests: Annotated[int, typer.Option(help="Requests of all clients.", min=300)] = 20_000,
    clients: Annotated[int, typer.Option(help="Clients at once.", min=1)] = 64,
    out: Out = records.FOLDER / "serve.json",
) -> None:
    """Measure, store the record and print a table; fail if a promise is broken."""
    machine = {
        "cores": os.cpu_count(),
        "niceness": os.nice(0),
        "load_average": os.getloadavg()[0],  # what else was running
    }
    measured = asyncio.run(measure(requests, clients))
    record = records.save(machine | measured, out, torch.device("cpu"))
    show(record)
    raise typer.Exit(not all(verdicts(record).values()))


if __name__ == "__main__":
    typer.run(main)
