"""Settings and fixtures of all tests: fixed examples for hypothesis, no display."""

import os
import shutil
from collections.abc import Iterator

import hypothesis
import matplotlib as mpl
import pytest
import torch

from gan_tutorial import data

mpl.use("Agg")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms on a GPU
hypothesis.settings.register_profile(
    "fixed", deadline=None, max_examples=25, derandomize=True, database=None
)
hypothesis.settings.load_profile("fixed")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """Every device of this machine."""
    return torch.device(request.param)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Only algorithms that give the same bits each time; else a GPU adds in no fixed order."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def pictures() -> data.ImageSet:
    """Forty grey 8×8 images of noise in four classes; the first pixel of each is its index."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=rng).to(torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(40)
    return data.ImageSet(pixels, torch.arange(40) % 4, ("a", "b", "c", "d"), "noise")


@pytest.fixture(scope="session")
def held_out_digits() -> data.ImageSet:
    """The test split of the bundled digits."""
    return data.load_images("digits", "test")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """One Chromium for all tests; its event loop runs in this thread, so tests can run no other."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a browser: install Debian's package chromium")
        pytest.skip("the pages are checked where there is a browser: install chromium")
    from playwright.sync_api import sync_playwright  # most tests run without a browser

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
