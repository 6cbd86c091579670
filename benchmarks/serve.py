"""The service under load: many clients at once, one request in twenty malformed, and a SIGTERM in the middle.

Three parts: one client alone; all clients together, with memory read from the service's own metrics; and stops under
load. Every answer is compared with the first of the same request. Clients and service share the machine's processors.
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
from _record import store
from tqdm import tqdm

from gan_tutorial import checkpoints, export, runtime

RESULTS = Path(__file__).parent / "results" / "serve.json"
STOPS = 5
BAD = {
    "wrong types": [b'{"count": "3"}', b'{"seed": 1.5}', b'{"truncation": []}', b"[]", b'{"count": true}'],
    "huge counts": [b'{"count": 65}', b'{"count": 1000000000}', b'{"count": 1' + b"0" * 999 + b"}"],
    "NaN": [b'{"truncation": NaN}', b'{"seed": -Infinity}', b'{"truncation": 1e999}', b'{"shift": [NaN]}'],
    "10 MB bodies": [b'{"seed": ' + b"1" * 10_000_000 + b"}"],
    "cut connections": [b'{"count": 64, "seed": 12', b""],
}
REFUSALS = {"wrong types": 422, "huge counts": 422, "NaN": 422, "10 MB bodies": 413}


class ClosedError(Exception):
    """The service closed a connection; ``cut`` tells whether that was in the middle of an answer."""

    def __init__(self, cut: bool) -> None:
        super().__init__("closed")
        self.cut = cut


@dataclass
class Client:
    """One connection that is kept, and made anew where it was closed."""

    port: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes, path: str = "/generate") -> tuple[int, bytes, bool]:
        """Return status, body, and whether the service asks to leave."""
        self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        method = "POST" if path == "/generate" else "GET"
        first = b""
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            first = await reader.readline()
            head = await reader.readuntil(b"\r\n\r\n")
            content = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ClosedError(bool(first)) from error
        if not first:
            self.close()
            raise ClosedError(False)
        leave = b"connection: close" in head
        if leave:
            self.close()
        return int(first.split()[1]), content, leave

    async def cut(self, body: bytes) -> None:
        """Send half of a request, and go."""
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
class Record:
    """What was seen by all clients."""

    statuses: dict[str, Counter] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    pictures: dict[bytes, str] = field(default_factory=dict)
    changed: int = 0
    sent: int = 0

    def note(self, kind: str, status: int | str) -> None:
        """Count one answer."""
        self.statuses.setdefault(kind, Counter())[str(status)] += 1


@asynccontextmanager
async def service(model: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start the service on a free port."""
    command = [sys.executable, "-m", "gan_tutorial.serve", str(model), "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process, int((await process.stdout.readline()).split(b":")[-1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def good(rng: random.Random) -> bytes:
    """Return a request for one to eight pictures, one in ten as numbers."""
    wanted = {"count": rng.randint(1, 8), "seed": rng.randrange(50)}
    return json.dumps(wanted | ({"format": "array"} if rng.random() < 0.1 else {})).encode()


async def load(port: int, requests: int, clients: int, share: float, record: Record) -> float:
    """Send the requests, ``share`` of them malformed, and return the seconds that it took."""
    rng, bar = random.Random(0), tqdm(total=requests, desc=f"clients: {clients}", disable=None)

    async def work() -> None:
        client = Client(port)
        while record.sent < requests:
            record.sent += 1
            number, kind = record.sent, rng.choice(list(BAD)) if rng.random() < share else "good"
            body = good(rng) if kind == "good" else rng.choice(BAD[kind])
            bar.update()
            if number % 250 == 0:
                record.memory.append((number, await memory(port)))
            if kind == "cut connections":
                await client.cut(body)
                record.note(kind, "none")
                continue
            start = time.perf_counter()
            try:
                status, content, _ = await client.ask(body)
            except ClosedError:
                record.note(kind, "closed")
                continue
            record.note(kind, status)
            if kind == "good":
                record.milliseconds.append(1000 * (time.perf_counter() - start))
                digest = hashlib.sha256(content).hexdigest()
                record.changed += record.pictures.setdefault(body, digest) != digest
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
    return float(re.search(rb"^process_resident_memory_bytes (\S+)", text, flags=re.MULTILINE)[1]) / 1e6


async def stop(model: Path, clients: int) -> dict:
    """Send SIGTERM while all clients ask without a pause; return what the service and its clients counted."""
    counts = Counter()

    async def work(port: int, seed: int) -> None:
        client, body = Client(port), json.dumps({"count": 8, "seed": seed}).encode()
        while True:
            try:
                status, _, leave = await client.ask(body)
                counts[f"answered by {status}"] += 1
                counts["told to leave"] += leave
            except ClosedError as closed:
                counts["cut in the middle" if closed.cut else "not taken in"] += 1
                return
            except OSError:  # refused: nobody listens
                return

    async with service(model) as (process, port), asyncio.TaskGroup() as group:
        for seed in range(clients):
            group.create_task(work(port, seed))
        await asyncio.sleep(2)
        process.send_signal(signal.SIGTERM)
        last = (await process.communicate())[0].decode()
    answered, accepted = map(int, re.search(r"stopped: (\d+) of (\d+) requests", last).groups())
    return {"accepted": accepted, "answered": answered, "status": process.returncode} | {"clients": dict(counts)}


async def measure(requests: int, clients: int) -> dict:
    """Return the whole record, without machine and date."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "digits.onnx"
        export.to_onnx(*checkpoints.load_generator(checkpoints.bundled("digits"))[:1], model, {"data": "digits"})
        async with service(model) as (_, port):
            alone, crowd = Record(), Record()
            await load(port, 200, 1, 0, Record())  # warm
            seconds_alone = await load(port, max(requests // 20, 100), 1, 0, alone)
            seconds = await load(port, requests, clients, 0.05, crowd)
            text = (await Client(port).ask(b"", "/metrics"))[1].decode()
        stops = [await stop(model, clients) for _ in range(STOPS)]

    def total(name: str) -> float:
        return float(re.search(rf"^{name} (\S+)", text, flags=re.MULTILINE)[1])

    return {
        "requests": requests,
        "clients": clients,
        "alone": summary(alone, seconds_alone),
        "crowd": summary(crowd, seconds),
        "requests_in_a_batch": total("gan_batched_requests_total") / total("gan_batch_pictures_count"),
        "changed_pictures": alone.changed + crowd.changed,
        "memory": crowd.memory,
        "stops": stops,
    }


def summary(record: Record, seconds: float) -> dict:
    """Return counts, throughput of all requests and latency of the good ones."""
    cuts = statistics.quantiles(record.milliseconds, n=100)
    return {
        "seconds": seconds,
        "requests_per_second": record.sent / seconds,
        "milliseconds": {
            "mean": statistics.fmean(record.milliseconds),
            "p50": cuts[49],
            "p90": cuts[89],
            "p99": cuts[98],
            "most": max(record.milliseconds),
        },
        "statuses": {kind: dict(counter) for kind, counter in record.statuses.items()},
    }


def verdicts(record: dict) -> dict[str, bool]:
    """Return whether each promise was kept."""
    statuses = record["crowd"]["statuses"]
    settled = [size for number, size in record["memory"] if number > 2000]
    start = [size for number, size in record["memory"] if 1000 < number <= 2000]
    bad = {kind: set(statuses.get(kind, {str(status): 1})) for kind, status in REFUSALS.items()}
    return {
        "good requests are answered by 200, or by 503 on purpose": set(statuses["good"]) <= {"200", "503"},
        "malformed ones are refused by 422 or 413": bad == {kind: {str(status)} for kind, status in REFUSALS.items()},
        "a request gives the same answer each time": record["changed_pictures"] == 0,
        "memory stays within a tenth": not settled or max(settled) <= 1.1 * statistics.median(start),
        "a stop loses no request that was taken in": all(
            stop["accepted"] == stop["answered"] == stop["clients"]["answered by 200"]
            and "cut in the middle" not in stop["clients"]
            and stop["status"] == 0
            for stop in record["stops"]
        ),
    }


def show(record: dict) -> None:
    """Print the record as a table."""
    print(f"{record['machine']}; {record['requests']} requests, {record['clients']} clients")
    print(f"{'':8}{'requests/s':>12}{'mean ms':>9}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'most ms':>9}")
    for name in ("alone", "crowd"):
        row = record[name]
        print(
            f"{name:8}{row['requests_per_second']:12.0f}" + "".join(f"{x:9.1f}" for x in row["milliseconds"].values())
        )
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
    requests: Annotated[int, typer.Option(help="How many in the crowd.", min=3000)] = 20_000,
    clients: Annotated[int, typer.Option(help="How many at once.", min=1)] = 64,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, store the results with machine, versions and date; fail where a promise is broken."""
    about = runtime.origin(torch.device("cpu")) | {"cores": os.cpu_count(), "niceness": os.nice(0)}
    record = about | asyncio.run(measure(requests, clients))
    store(record, out)
    show(record)
    raise typer.Exit(not all(verdicts(record).values()))


if __name__ == "__main__":
    typer.run(main)
