"""ONNX files that several tests read."""

from dataclasses import asdict
from pathlib import Path

import pytest

from gan_tutorial import checkpoints
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship import export

SMALL = Recipe(network="mlp", shape=(1, 8, 8), latent_dim=4, hidden=(16,))


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory) -> Path:
    """A small unconditional MLP."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    export.to_onnx(SMALL.init().G, path, {"recipe": asdict(SMALL)})
    return path


@pytest.fixture(scope="session")
def digits_onnx(tmp_path_factory) -> Path:
    """The bundled generator of digits."""
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    export.to_onnx(*checkpoints.load_generator("digits")[:1], path, {"data": "digits"})
    return path
