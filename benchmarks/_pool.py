"""Runs side by side: one process for each core, each with one thread, so that none waits for another."""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import torch
from tqdm import tqdm


def each(function: Callable, tasks: Iterable[tuple], device: torch.device) -> list:
    """Return ``function(*task)`` for all tasks, in their order; on a GPU, one after the other in one process."""
    tasks = list(tasks)
    jobs = 1 if device.type == "cuda" else os.cpu_count()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        return [future.result() for future in tqdm(futures, desc="runs")]
