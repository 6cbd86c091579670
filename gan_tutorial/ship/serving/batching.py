"""Dynamic batching: requests that arrive while a batch is computed form the next batch."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np


class QueueFullError(Exception):
    """The queue is full."""


@dataclass
class _Job:
    inputs: tuple[np.ndarray | None, ...]
    result: asyncio.Future


class Batcher:
    """Combines concurrent calls of a batched function into larger batches.

    A batch is computed in a separate thread; the calls that arrive meanwhile form the next one. No
    timer is needed: a single request never waits for others, and batches grow with the load.

    Args:
        function: takes arrays of N rows, or None instead of an array; returns an array of N rows.
        max_rows: rows in a batch; a single call may have more.
        max_queue: calls that may wait.
        observe: called with (rows, calls) after each batch.
    """

    def __init__(
        self,
        function: Callable[..., np.ndarray],
        max_rows: int = 64,
        max_queue: int = 256,
        observe: Callable[[int, int], None] = lambda rows, calls: None,
    ) -> None:
        self._function, self._observe = function, observe
        self._max_rows, self._max_queue = max_rows, max_queue
        self._jobs: deque[_Job] = deque()
        self._new_job = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "batcher")

    @property
    def waiting(self) -> int:
        """Number of calls in the queue."""
        return len(self._jobs)

    async def __call__(self, *inputs: np.ndarray | None) -> np.ndarray:
        """Return the rows of the function's result for these inputs.

        Raises:
            QueueFullError: too many calls are waiting.
        """
        if len(self._jobs) >= self._max_queue:
            raise QueueFullError(f"{self._max_queue} requests are waiting")
        job = _Job(inputs, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._new_job.set()
        return await job.result

    async def run(self) -> None:
        """Compute batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._new_job.wait()
            batch = self._next_batch()
            if not batch:
                self._new_job.clear()
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._compute, batch)
            except Exception as error:  # passed on to the callers; the next batch is computed
                results = [error] * len(batch)
            for job, result in zip(batch, results, strict=True):
                if job.result.done():  # cancelled by its caller
                    continue
                if isinstance(result, Exception):
                    job.result.set_exception(result)
                else:
                    job.result.set_result(result)

    def _next_batch(self) -> list[_Job]:
        """Remove the oldest calls that fit into one batch from the queue, and return them."""
        batch, rows = [], 0
        while self._jobs:
            size = len(self._jobs[0].inputs[0])
            if batch and rows + size > self._max_rows:
                break
            job = self._jobs.popleft()
            if not job.result.done():  # skip what its caller has cancelled
                batch.append(job)
                rows += size
        return batch

    def _compute(self, batch: list[_Job]) -> list[np.ndarray]:
        columns = zip(*(job.inputs for job in batch), strict=True)
        result = self._function(
            *(None if column[0] is None else np.concatenate(column) for column in columns)
        )
        sizes = [len(job.inputs[0]) for job in batch]
        self._observe(sum(sizes), len(batch))
        return np.split(result, np.cumsum(sizes)[:-1])
