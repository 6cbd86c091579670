"""Reading and running exported files: bad files and bad inputs raise, and say why."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

from gan_tutorial import data
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship import export
from gan_tutorial.ship.serving.model import FORMAT, Card, ModelError, OnnxGenerator


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    """Return a function that writes a changed copy of a file into a folder."""

    def write(file: Path, folder: Path) -> Path:
        (folder / "changed.onnx").write_bytes(change(file.read_bytes()))
        return folder / "changed.onnx"

    return write


def with_metadata(**entries: str | None) -> Callable[[Path, Path], Path]:
    """As ``changed``, but with other metadata; None removes an entry."""

    def change(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        kept = {entry.key: entry.value for entry in model.metadata_props} | entries
        del model.metadata_props[:]
        for key, value in kept.items():
            if value is not None:
                model.metadata_props.add(key=key, value=value)
        return model.SerializeToString()

    return changed(change)


def with_other_weights(content: bytes, seal: bool) -> bytes:
    model = onnx.load_from_string(content)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    values = -onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return export.seal(model) if seal else model.SerializeToString()


INCOMPLETE = "is not a complete ONNX file"
BAD_FILES = {
    "no file": (lambda file, folder: folder / "none.onnx", "there is no model at"),
    "a folder": (lambda file, folder: folder, "(Is a directory); write one"),
    "empty": (changed(lambda b: b""), INCOMPLETE),
    "cut short": (changed(lambda b: b[: len(b) // 2]), INCOMPLETE),
    "a text": (changed(lambda b: b"hello, world\n"), INCOMPLETE),
    "a checkpoint": (lambda *_: data.asset("digits-gan.safetensors"), INCOMPLETE),
    "of another program": (with_metadata(format=None), f"do not say {FORMAT!r}"),
    "of an older version": (with_metadata(format="gan_tutorial onnx 1"), f"do not say {FORMAT!r}"),
    "without its shape": (with_metadata(shape=None), "are incomplete ('shape')"),
    "no JSON": (with_metadata(step="many"), "are incomplete"),
    "other weights": (
        changed(lambda b: with_other_weights(b, seal=False)),
        "it is damaged: its SHA-256 differs",
    ),
    "other samples": (
        changed(lambda b: with_other_weights(b, seal=True)),
        "its samples differ from those at export",
    ),
    "no digest": (
        changed(lambda b: b.replace(b"file_sha256", b"file_sha255")),
        "it is damaged: its SHA-256 differs",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(name, small_onnx, tmp_path):
    make, message = BAD_FILES[name]
    path = make(small_onnx, tmp_path)
    with pytest.raises(ModelError) as error:
        OnnxGenerator(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_any_flipped_bit_is_found(small_onnx, tmp_path):
    content, rng, path = small_onnx.read_bytes(), random.Random(0), tmp_path / "flipped.onnx"
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ModelError):
            OnnxGenerator(path)
    path.write_bytes(content)
    OnnxGenerator(path)


def test_bad_inputs_raise_and_say_why(small_onnx, tmp_path):
    recipe = Recipe(network="mlp", shape=(2,), latent_dim=4, hidden=(16,), classes=3)
    export.to_onnx(recipe.init().G, tmp_path / "g.onnx", {"recipe": asdict(recipe)})
    unconditional, conditional = OnnxGenerator(small_onnx), OnnxGenerator(tmp_path / "g.onnx")
    z, labels = np.zeros((2, 4), np.float32), np.array([0, 1])
    assert conditional(z, labels).shape == (2, 2)
    for call, reason in (
        (lambda: unconditional(z[:, :3]), "Got: 3 Expected: 4"),
        (lambda: unconditional(z.astype(float)), "tensor(double)"),
        (lambda: unconditional(z, labels), "Invalid input name: labels"),
        (lambda: conditional(z), "['labels']) are missing"),
        (lambda: conditional(z, labels[:1]), "mismatched dimensions of 1 and 2"),
        (lambda: conditional(z, labels + 2), "out of data bounds, idx=3"),
        (lambda: conditional(z, labels - 1), "labels must not be negative"),
    ):
        with pytest.raises(Exception) as error:  # noqa: PT011 (private to onnxruntime)
            call()
        assert reason in str(error.value)


def test_a_card_is_read_as_it_was_written(small_onnx):
    card = OnnxGenerator(small_onnx).card
    again = Card.from_metadata(card.as_metadata())
    assert json.dumps(again.as_metadata()) == json.dumps(card.as_metadata())
    assert again == card
