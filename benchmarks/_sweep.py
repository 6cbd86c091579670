"""Runs side by side, over variants and seeds, and what else the benchmarks have in common."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from tqdm import tqdm

from gan_tutorial import data, metrics, recipes, runtime, sampling, training

DEVICE = runtime.choose_device()
Out = Annotated[Path, typer.Option(help="Where the record goes.")]

Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


def sweep(
    function: Callable[..., Result],
    variants: Mapping[Name, Mapping[str, Any]],
    seeds: Sequence[int],
    device: torch.device,
) -> dict[Name, list[Result]]:
    """Return ``[function(**kwargs, seed=seed) for seed in seeds]`` by the name of each variant.

    On a CPU there is one process for each core, with one thread each, so that runs do not wait for
    each other; on a GPU the runs follow one another in one process.

    Args:
        function: a function at the top level of its module, which other processes import.
        variants: keyword arguments by the name of the variant.
        seeds: of the runs of each variant.
        device: where the function computes.
    """
    tasks = [(name, seed) for name in variants for seed in seeds]
    jobs = 1 if device.type == "cuda" else os.cpu_count()
    spawn = multiprocessing.get_context("spawn")
    results = {name: [] for name in variants}
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, initargs=(1,)) as pool:
        runs = [pool.submit(function, **variants[name], seed=seed) for name, seed in tasks]
        for (name, _), run in zip(tasks, tqdm(runs, desc="runs"), strict=True):
            results[name].append(run.result())
    return results


def fd_curve(
    recipe: recipes.Recipe, images: data.ImageSet, evaluator: metrics.Evaluator, stops: int
) -> list[tuple[int, float]]:
    """Train, and return (step, FD of 2,000 samples) for some steps on the way and the last one."""
    state, curve = recipe.init(DEVICE), []
    every = max(recipe.steps // stops, 1)
    for log in training.train(state, images, recipe):
        if log.step % every == 0 or log.step == recipe.steps:
            G = sampling.recalibrate_batchnorm(state.G_ema)
            samples = sampling.generate(G, 2000, seed=1)
            curve.append((log.step, evaluator.fd(samples)))
    return curve


def steps_per_second(logs: Iterator[training.Log], name: str, seconds: float = 1.5) -> float:
    """Return training steps per second, the median of three rounds of ``seconds`` each."""
    for _ in range(5):
        next(logs)
    rates = []
    for _ in range(3):
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(logs)[name]  # reading a number waits for the device
            steps += 1
        rates.append(steps / (time.perf_counter() - start))
    return statistics.median(rates)
