"""One service for the tests that only send requests."""

from collections.abc import Iterator

import pytest
from running import Process, started


@pytest.fixture(scope="session")
def service(digits_onnx) -> Iterator[Process]:
    """A service with the default limits."""
    with started(digits_onnx) as running:
        yield running
        assert running.process.poll() is None, "it ended by itself"
