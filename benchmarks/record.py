"""The speed record: seconds until a GAN draws digits within five floors, on two CPU cores.

The rules, so that others can send a faster ``entry``:

1. The target is an FD to the held-out bundled digits of at most five floors, for 2,000 samples of
   one generator, by ``metrics.Evaluator``. FD is measured on the features of the bundled classifier
   and is not FID.
2. An entry yields a generator whenever it wants it judged. The clock starts before the images are
   read and stops only while a generator is judged: building the networks, compiling, warming up and
   every generator that missed the target are paid for. Starting Python and importing are not.
3. An entry learns from the 8,000 bundled training digits alone: no other images, and no weights
   that existed before. Its settings were not chosen on the held-out digits.
4. Every seed from 0 counts, at least 20 of them. One that misses the target in ``LIMIT`` seconds
   counts as infinitely slow. The result is the median.
5. Two cores and nothing else running. The speed of ``RECIPE`` is measured beside every
   entry, so that machines can be compared.

This entry is the preset ``quick`` without its minibatch standard deviation, judged on the way: its
learning rates fall as if it ran to its end.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
import typer
from _sweep import Out
from recipe import speed
from torch import nn
from tqdm import tqdm

from gan_tutorial import data, metrics, recipes, records, sampling, training

RECIPE = replace(recipes.preset("quick"), minibatch_std=0)
LIMIT = 300.0  # seconds
FLOORS = 5.0
FIRST, EVERY = 200, 50  # steps before the first judgement, and between two


def entry(seed: int) -> Iterator[nn.Module]:
    """Train, and yield the averaged generator when it may have reached the target."""
    images = data.load_images("digits")
    recipe = replace(RECIPE, seed=seed)
    state = recipe.init()
    for log in training.train(state, images, recipe):
        if log.step >= FIRST and log.step % EVERY == 0:
            yield sampling.recalibrate_batchnorm(state.G_ema)


def race(seed: int, judge: metrics.Evaluator, limit: float) -> tuple[float | None, float]:
    """Return the seconds until the target, None if it was missed, and the last ratio to the floor.

    Args:
        seed: of the entry.
        judge: measures FD; its floor is known before the clock starts.
        limit: seconds after which a run is given up.
    """
    seconds, start = 0.0, time.perf_counter()
    for G in entry(seed):
        seconds += time.perf_counter() - start
        ratio = judge.ratio(sampling.generate(G, 2000, seed=1))
        if ratio <= FLOORS or seconds > limit:
            return (seconds if ratio <= FLOORS and seconds <= limit else None), ratio
        start = time.perf_counter()
    return None, ratio


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.", min=1)] = 20,
    limit: Annotated[float, typer.Option(help="Seconds after which a seed is given up.")] = LIMIT,
    out: Out = records.FOLDER / "record.json",
) -> None:
    """Measure, one seed after the other, store the record and print a table."""
    cpu = torch.device("cpu")
    reference = speed(RECIPE, data.load_images("digits"), cpu)
    judge = metrics.Evaluator("digits")
    judge.floor(2000)
    runs = [race(seed, judge, limit) for seed in tqdm(range(seeds), desc="seeds")]
    record = {
        "floors": FLOORS,
        "floor": judge.floor(2000).mean,
        "quick_steps_per_second": reference,
        "seconds": [seconds for seconds, _ in runs],
        "ratios": [ratio for _, ratio in runs],
    }
    show(records.save(record, out, cpu))


def show(record: dict) -> None:
    """Print the median, the range, and how many seeds missed the target."""
    print(records.source(record))
    speed_of = "quick, minibatch_std=0"
    print(f"{speed_of}: {record['quick_steps_per_second']:.1f} steps/s on this machine")
    seconds = [float("inf") if s is None else s for s in record["seconds"]]
    missed = record["seconds"].count(None)
    print(f"seconds to {record['floors']:g} floors, {len(seconds)} seeds, {missed} missed")
    print(f"{'median':>10}{'min':>10}{'max':>10}")
    print(f"{statistics.median(seconds):10.1f}{min(seconds):10.1f}{max(seconds):10.1f}")


if __name__ == "__main__":
    typer.run(main)
