"""Requests that wait together are computed together: a queue, one thread, and no waiting for its own sake."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

Draw = Callable[..., np.ndarray]


class QueueFullError(Exception):
    """As many requests wait as may."""


@dataclass
class _Job:
    inputs: tuple[np.ndarray | None, ...]
    answer: asyncio.Future


class Batcher:
    """Answers many small calls of a function of batches by few large ones.

    While one batch is computed, in a thread of its own, what arrives meanwhile piles up, and is the next batch. So a
    lone request never waits for others, and the busier the service, the larger its batches.

    Args:
        draw: takes arrays with one row for each sample, or None in place of an array; returns as many rows.
        most: rows in one batch; a single call may have more.
        queue: calls that may wait.
        observe: is told of each batch: how many rows, how many calls.
    """

    def __init__(
        self,
        draw: Draw,
        most: int = 64,
        queue: int = 256,
        observe: Callable[[int, int], None] = lambda rows, calls: None,
    ) -> None:
        if most < 1 or queue < 1:
            raise ValueError(f"most and queue must be at least 1, but are {most} and {queue}")
        self._draw, self._most, self._queue, self._observe = draw, most, queue, observe
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "draw")

    @property
    def waiting(self) -> int:
        """How many calls wait for a batch."""
        return len(self._jobs)

    async def __call__(self, *inputs: np.ndarray | None) -> np.ndarray:
        """Return the rows of ``draw`` for these inputs, computed in whatever batch.

        Raises:
            QueueFullError: too many calls wait; this one was not accepted.
        """
        if len(self._jobs) >= self._queue:
            raise QueueFullError(f"{self._queue} requests wait already")
        job = _Job(inputs, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        return await job.answer

    async def run(self) -> None:
        """Compute batches for ever; cancel it to stop."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            try:
                drawn = await loop.run_in_executor(self._thread, self._compute, batch)
            except Exception as error:  # the callers learn of it, and the next batch has its chance
                drawn = [error] * len(batch)
            for job, rows in zip(batch, drawn, strict=True):
                if not job.answer.done():  # its caller may have gone meanwhile
                    job.answer.set_exception(rows) if isinstance(rows, Exception) else job.answer.set_result(rows)

    def _take(self) -> list[_Job]:
        """Return the calls that wait, first come first served, as far as they fit into one batch."""
        batch, rows = [], 0
        while self._jobs:
            size = len(self._jobs[0].inputs[0])
            if batch and rows + size > self._most:
                break
            job = self._jobs.popleft()
            if not job.answer.done():  # given up by its caller
                batch.append(job)
                rows += size
        return batch

    def _compute(self, batch: list[_Job]) -> list[np.ndarray]:
        columns = zip(*(job.inputs for job in batch), strict=True)
        drawn = self._draw(*(None if parts[0] is None else np.concatenate(parts) for parts in columns))
        sizes = [len(job.inputs[0]) for job in batch]
        self._observe(sum(sizes), len(batch))
        return np.split(drawn, np.cumsum(sizes)[:-1])
