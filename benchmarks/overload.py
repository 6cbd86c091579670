"""The service below and above its capacity: requests come whether or not others wait (open loop).

A closed loop of clients that wait for their answers first finds the capacity. Then requests come
at random times (a Poisson process) at fractions and multiples of it. A latency counts from the time
at which the request was due, so that a slow client hides nothing (coordinated omission). Clients
and service share the processors of the machine.
"""

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import typer
from _sweep import Out
from serve import Client, ClosedError, metric, service

from gan_tutorial import checkpoints, records
from gan_tutorial.ship import export

COUNT = 64  # images in a request: large ones, so that the clients cost little beside the service
QUEUE = 32  # requests that may wait
LOADS = (0.5, 0.8, 1.0, 1.5, 3.0)  # of the capacity


@dataclass
class Counts:
    """What the clients saw at one rate."""

    due: int = 0
    statuses: Counter = field(default_factory=Counter)
    seconds: dict[int, list[float]] = field(default_factory=lambda: {200: [], 503: []})
    retry_after: int = 0
    spent: float = 0.0  # seconds of all requests, from when they were sent
    inside: int = 0
    seen: list[tuple[float, int]] = field(default_factory=list)  # when, and how many were inside
    again: int = 0  # requests sent once more


async def ask(port: int, idle: list[Client], seed: int, due: float, counts: Counts) -> None:
    """Send one request on an idle connection, or on a new one.

    An idle connection may be closed while the request is on its way, and then nothing is read. The
    request is sent again on a new one, as HTTP clients do.
    """
    body = json.dumps({"count": COUNT, "seed": seed}).encode()
    reused = bool(idle)
    client = idle.pop() if idle else Client(port)
    counts.inside += 1
    start = time.perf_counter()
    try:
        try:
            status, _, disconnect = await client.ask(body)
        except ClosedError as error:
            if error.incomplete or not reused:
                raise
            counts.again += 1
            status, _, disconnect = await client.ask(body)
    except Exception as error:  # what else can go wrong is counted by its name
        counts.statuses[type(error).__name__] += 1
        client.close()
        return
    finally:
        counts.inside -= 1
        counts.spent += time.perf_counter() - start
    counts.statuses[status] += 1
    counts.seconds.setdefault(status, []).append(time.perf_counter() - due)
    counts.retry_after += status == 503 and b"retry-after" in client.head
    if not disconnect:
        idle.append(client)


async def capacity(port: int, seconds: float, clients: int = 8) -> float:
    """Return the requests per second of clients that wait for their answers."""
    end, counts, idle = time.perf_counter() + seconds, Counts(), []

    async def work(seed: int) -> None:
        while time.perf_counter() < end:
            await ask(port, idle, seed, 0, counts)

    async with asyncio.TaskGroup() as group:
        for seed in range(clients):
            group.create_task(work(seed))
    return counts.statuses[200] / seconds


async def offer(port: int, rate: float, seconds: float) -> tuple[Counts, float]:
    """Send requests at random times; return what came, and the seconds until the last answer."""
    rng, counts, idle, tasks = random.Random(0), Counts(), [], set()

    async def sample() -> None:
        while True:
            counts.seen.append((time.perf_counter(), counts.inside))
            await asyncio.sleep(0.005)

    sampler = asyncio.create_task(sample())
    start = due = time.perf_counter()
    while due < start + seconds:
        due += rng.expovariate(rate)
        await asyncio.sleep(due - time.perf_counter())
        counts.due += 1
        tasks.add(asyncio.create_task(ask(port, idle, rng.randrange(1000), due, counts)))
    await asyncio.gather(*tasks)
    sampler.cancel()
    for client in idle:
        client.close()
    return counts, time.perf_counter() - start


async def handled(port: int) -> tuple[float, float]:
    """Return the number of the service's answers to requests for images, and their seconds."""
    client = Client(port)
    _, text, _ = await client.ask(b"", "/metrics")
    client.close()
    label = r'{path="/generate"}'
    return tuple(metric(f"gan_request_seconds_{name}{label}", text) for name in ("count", "sum"))


async def measure(seconds: float) -> dict:
    """Return the record, without machine and date."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "digits.onnx"
        export.to_onnx(*checkpoints.load_generator("digits")[:1], model, {"data": "digits"})
        async with service(model, "--queue", str(QUEUE)) as (_, port):
            await capacity(port, 1)  # warm-up
            most = await capacity(port, seconds)
            for load in LOADS:
                before = await handled(port)
                counts, took = await offer(port, load * most, seconds)
                after = await handled(port)
                rows.append(summary(load, counts, took, before, after))
    return {"images": COUNT, "queue": QUEUE, "capacity": most, "rows": rows}


def mean_inside(seen: list[tuple[float, int]]) -> float:
    """Return the mean over time of how many were inside; a busy client looks less often."""
    times, numbers = zip(*seen, strict=True)
    gaps = [after - before for before, after in pairwise(times)]
    return statistics.fmean(numbers[1:], gaps)


def summary(load: float, counts: Counts, took: float, before: tuple, after: tuple) -> dict:
    """Return the row of one load; both sides of Little's law are for all its requests."""
    good = sorted(counts.seconds[200])
    number, inside = (new - old for new, old in zip(after, before, strict=True))
    return {
        "load": load,
        "due": counts.due,
        "seconds": took,
        "statuses": {str(status): count for status, count in counts.statuses.items()},
        "retry_after": counts.retry_after,
        "milliseconds": {
            "p50": 1000 * statistics.median(good),
            "p99": 1000 * good[int(0.99 * len(good))],
        },
        "milliseconds_503": 1000 * statistics.median(counts.seconds[503] or [0]),
        "sent_again": counts.again,
        "inside": mean_inside(counts.seen),
        "rate_times_latency": counts.spent / took,  # λ = n / took, W = spent / n
        "service": {"requests": number, "inside": inside / took},
    }


def verdicts(record: dict) -> dict[str, bool]:
    """Return whether each promise was kept."""
    rows = record["rows"]
    good = [row["statuses"].get("200", 0) / row["seconds"] for row in rows]
    return {
        "every request gets 200 or 503": all(set(row["statuses"]) <= {"200", "503"} for row in rows)
        and all(sum(row["statuses"].values()) == row["due"] for row in rows),
        "every 503 says when to come back": all(
            row["retry_after"] == row["statuses"].get("503", 0) for row in rows
        ),
        "above its capacity it refuses": rows[-1]["statuses"].get("503", 0) > 0,
        "and does not collapse": good[-1] > 0.5 * max(good),
    }


def show(record: dict) -> None:
    """Print the record as a table."""
    print(f"{records.source(record)}; {record['capacity']:.0f} requests/s in a closed loop")
    names = ("load", "sent/s", "200/s", "503/s", "p50 ms", "p99 ms", "503 ms", "L", "λW")
    print("".join(f"{name:>9}" for name in names))
    for row in record["rows"]:
        seconds, statuses = row["seconds"], row["statuses"]
        rates = (row["due"], statuses.get("200", 0), statuses.get("503", 0))
        print(f"{row['load']:9.1f}" + "".join(f"{n / seconds:9.0f}" for n in rates), end="")
        print("".join(f"{x:9.0f}" for x in row["milliseconds"].values()), end="")
        print(f"{row['milliseconds_503']:9.0f}", end="")
        print(f"{row['inside']:9.1f}{row['rate_times_latency']:9.1f}")
    for promise, kept in verdicts(record).items():
        print(f"{'kept' if kept else 'BROKEN':8}{promise}")


def main(
    seconds: Annotated[float, typer.Option(help="Seconds at each load.", min=2)] = 20,
    out: Out = records.FOLDER / "overload.json",
) -> None:
    """Measure, store the record and print a table; fail if a promise is broken."""
    machine = {
        "cores": os.cpu_count(),
        "niceness": os.nice(0),
        "load_average": os.getloadavg()[0],  # what else was running
    }
    measured = asyncio.run(measure(seconds))
    record = records.save(machine | measured, out, torch.device("cpu"))
    show(record)
    raise typer.Exit(not all(verdicts(record).values()))


if __name__ == "__main__":
    typer.run(main)
