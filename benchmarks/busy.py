"""Training beside other programs: steps of ``quick`` a second, by threads and how long they spin.

After each operation its threads wait for each other. With GCC's OpenMP, which PyTorch for Linux
uses, they spin up to GOMP_SPINCOUNT times before they sleep: 300,000 by default, 3,000 if
gan_tutorial is imported before PyTorch. It also keeps freed memory, unless a variable of glibc's is
set; the control sets one, MALLOC_ARENA_TEST, to its default. Each speed is that of a new process on
the CPU, alone or beside endless loops; all settings take turns. Nothing else should run at the same
time.
"""

import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Annotated

import torch
import typer
from _sweep import Out, steps_per_second
from tqdm import tqdm

from gan_tutorial import data, recipes, records, training

CPU = torch.device("cpu")
SETTINGS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "1 thread, memory returned": {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_TEST": "8"},
} | {
    f"2 threads, spin {spin:,}": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": str(spin)}
    for spin in (300_000, 10_000, 3000, 1000, 0)
}


def speed(preset: str, seconds: float) -> float:
    """Return training steps per second in this process."""
    recipe = replace(recipes.preset(preset), steps=10**9)
    logs = training.train(recipe.init(CPU), data.load_images("digits"), recipe)
    return steps_per_second(logs, "d_loss", seconds)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` endless loops beside the block, a process each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main(
    rounds: Annotated[int, typer.Option(help="Processes of each setting.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="A third of each process's time.")] = 1.5,
    others: Annotated[int, typer.Option(help="Beside up to this many busy programs.", min=0)] = 2,
    preset: Annotated[str, typer.Option(help="Which preset.")] = "quick",
    out: Out = records.FOLDER / "busy.json",
) -> None:
    """Measure, store the record and print a table."""
    spawn = multiprocessing.get_context("spawn")  # a new process reads the environment
    rates = {name: [[] for _ in range(others + 1)] for name in SETTINGS}
    turns = [(count, name) for _ in range(rounds) for count in range(others + 1) for name in rates]
    for count, name in tqdm(turns, desc="processes"):
        for variable in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "MALLOC_ARENA_TEST"):
            os.environ.pop(variable, None)
        os.environ.update(SETTINGS[name])
        with busy(count), ProcessPoolExecutor(1, spawn) as process:
            rates[name][count].append(process.submit(speed, preset, seconds).result())
    record = {"preset": preset, "cores": os.cpu_count(), "steps_per_second": rates}
    show(records.save(record, out, CPU))


def show(record: dict) -> None:
    """Print the median speeds, and what share of the solo speed is left beside busy programs."""
    rates = record["steps_per_second"]
    others = range(1, len(next(iter(rates.values()))))
    print(f"{records.source(record)}; cores: {record['cores']}")
    print(f"steps of {record['preset']} a second".ljust(28) + "   alone", end="")
    print("".join(f"{f'beside {count}':>14}" for count in others))
    for name, rounds in rates.items():
        alone, *beside = map(statistics.median, rounds)
        row = "".join(f"{rate:7.1f} ({rate / alone:4.0%})" for rate in beside)
        print(f"{name:28}{alone:8.1f}{row}")


if __name__ == "__main__":
    typer.run(main)
