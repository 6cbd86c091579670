"""Batches: their size, their order, and errors."""

import asyncio

import numpy as np
import pytest
from running import run

from gan_tutorial.ship.serving.batching import Batcher, QueueFullError


def test_an_error_in_one_batch_does_not_stop_the_next():
    def function(z: np.ndarray, _: None) -> np.ndarray:
        if np.isnan(z).any():
            raise ArithmeticError("NaN")
        return z * 2

    async def play() -> None:
        batcher = Batcher(function)
        task = asyncio.create_task(batcher.run())
        with pytest.raises(ArithmeticError):
            await batcher(np.full((1, 2), np.nan), None)
        assert (await batcher(np.ones((1, 2)), None)).tolist() == [[2, 2]]
        task.cancel()

    run(play())


def test_batches_keep_their_size_and_their_order():
    sizes = []

    def function(z: np.ndarray) -> np.ndarray:
        sizes.append(len(z))
        return z

    async def play() -> None:
        batcher = Batcher(function, max_rows=8, max_queue=50)
        calls = [asyncio.create_task(batcher(np.full((1 + i % 3, 1), i))) for i in range(20)]
        large = asyncio.create_task(batcher(np.full((30, 1), -1)))
        await asyncio.sleep(0)
        task = asyncio.create_task(batcher.run())
        for i, call in enumerate(calls):
            assert (await call).tolist() == [[i]] * (1 + i % 3)
        assert len(await large) == 30
        task.cancel()

    run(play())
    assert sum(sizes) == sum(1 + i % 3 for i in range(20)) + 30
    assert sizes[-1] == 30
    assert max(sizes[:-1]) <= 8
    assert len(sizes) < 10


def test_a_full_queue_refuses_calls():
    async def play() -> None:
        batcher = Batcher(lambda z: z, max_queue=2)
        waiting = [asyncio.create_task(batcher(np.zeros((1, 1)))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="2 requests are waiting"):
            await batcher(np.zeros((1, 1)))
        for task in waiting:
            task.cancel()

    run(play())
