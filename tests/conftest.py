"""What all tests share: a fixed set of examples for the properties, one thread, no window, and a few small objects."""

import os
import shutil
from collections.abc import Iterator

import hypothesis
import matplotlib as mpl
import pytest
import torch

from gan_tutorial import data

mpl.use("Agg")
torch.set_num_threads(1)  # the networks here are so small that more threads only wait for each other
hypothesis.settings.register_profile("fixed", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
    """Each device that this machine has."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def pictures() -> data.ImageSet:
    """Forty grey 8×8 pictures of noise in four classes; the first pixel of each is its index."""
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(40)
    return data.ImageSet(pixels, torch.arange(40) % 4, ("a", "b", "c", "d"), "noise")


@pytest.fixture(scope="session")
def held_out_digits() -> data.ImageSet:
    """The bundled digits that no training sees."""
    return data.load_images("digits", "test")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """One Chromium for all tests. Its event loop stays in this thread: a test's own loop needs another one."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a browser: install Debian's package chromium")
        pytest.skip("the pages are checked where there is a browser: install chromium")
    from playwright.sync_api import sync_playwright  # here, since most tests need no browser and run without it

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
