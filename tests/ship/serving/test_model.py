"""Reading and running exported files: bad files and bad inputs raise, and say why."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from gan_tutorial import data
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship import export
from gan_tutorial.ship.serving.model import FORMAT, Card, ModelError, OnnxGenerator

VARIABLE = "ORT_DISABLE_TELEMETRY"


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    """Return a function that writes a changed copy of a file into a folder."""

    def write(file: Path, folder: Path) -> Path:
        (folder / "changed.onnx").write_bytes(change(file.read_bytes()))
        return folder / "changed.onnx"

    return write


def with_metadata(seal: bool = False, **entries: str | None) -> Callable[[Path, Path], Path]:
    """As ``changed``, but with other metadata; None removes an entry."""

    def change(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        kept = {entry.key: entry.value for entry in model.metadata_props} | entries
        del model.metadata_props[:]
        for key, value in kept.items():
            if value is not None:
                model.metadata_props.add(key=key, value=value)
        return export.seal(model) if seal else model.SerializeToString()

    return changed(change)


def with_other_weights(content: bytes, seal: bool) -> bytes:
    model = onnx.load_from_string(content)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    values = -onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return export.seal(model) if seal else model.SerializeToString()


ODD_METADATA = [  # of other types and sizes
    ("latent_dim", "0"),
    ("latent_dim", "4.5"),
    ("latent_dim", '"4"'),
    ("latent_dim", str(10**12)),
    ("shape", "[]"),
    ("shape", "28"),
    ("shape", "[1, -8, 8]"),
    ("shape", "[1, 8, 8, 8]"),
    ("shape", "[64]"),
    ("range", "[0, 1]"),
    ("range", "[-1, NaN]"),
    ("classes", "3"),
    ("classes", "[1, 2]"),
    ("recipe", "[]"),
    ("step", "-1"),
    ("step", "null"),
    ("weights_sha256", '"none"'),
    ("directions", "[[1]]"),
    ("directions", "[[1, 2, 3, Infinity]]"),
    ("probe", "[]"),
    ("probe", '["a"]'),
]


def of_version(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path, Path], Path]:
    def write(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        change(model)
        return model.SerializeToString()

    return changed(write)


def next_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


INCOMPLETE = "is not a complete ONNX file; write one with gan_tutorial export"
NEWER = f"is newer than onnxruntime {onnxruntime.__version__} can run; update onnxruntime, or"
BAD_FILES = {
    "no file": (lambda file, folder: folder / "none.onnx", "there is no model at"),
    "a folder": (lambda file, folder: folder, "(Is a directory); write one"),
    "empty": (changed(lambda b: b""), INCOMPLETE),
    "cut short": (changed(lambda b: b[: len(b) // 2]), INCOMPLETE),
    "a text": (changed(lambda b: b"hello, world\n"), INCOMPLETE),
    "a checkpoint": (lambda *_: data.asset("digits-gan.safetensors"), INCOMPLETE),
    "of a later ONNX": (of_version(lambda m: setattr(m, "ir_version", 99)), NEWER),
    "of a later opset": (of_version(next_opset), NEWER),
    "of an unknown layer": (
        of_version(lambda m: setattr(m.graph.node[0], "op_type", "Dream")),
        "No Op registered for Dream",
    ),
    "of another program": (with_metadata(format=None), f"do not say {FORMAT!r}"),
    "of an older version": (with_metadata(format="gan_tutorial onnx 1"), f"do not say {FORMAT!r}"),
    "without its shape": (with_metadata(shape=None), "are incomplete ('shape')"),
    "no JSON": (with_metadata(step="many"), "are incomplete"),
    **{
        f"{entry}: {value}"[:60]: (with_metadata(**{entry: value}), f"its metadata say {entry}")
        for entry, value in ODD_METADATA
    },
    "nested too deeply": (with_metadata(recipe="[" * 10**5), "are incomplete"),
    "another shape than the network's": (
        with_metadata(shape="[1, 8, 16]", seal=True),
        "its metadata say shapes: ",
    ),
    "another z than the network's": (
        with_metadata(latent_dim="1048576", directions="[]", seal=True),
        "its metadata say shapes: ",
    ),
    "classes of a network that has none": (
        with_metadata(classes='["a", "b"]', seal=True),
        "its metadata say shapes: ",
    ),
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


def test_names_that_are_no_utf8_can_be_served(small_onnx):
    card = replace(OnnxGenerator(small_onnx).card, name="f\udcffces", classes=("grün", "\udcff"))
    again = Card.from_metadata(card.as_metadata())
    assert (again.name, again.classes) == ("f?ces", ("grün", "?"))
    assert json.dumps(asdict(again), ensure_ascii=False).encode()


def test_nothing_is_reported_to_the_vendor_of_onnxruntime(small_onnx, tmp_path):
    """It writes a database of reports under the home folder, unless it is told not to."""
    program = (
        "import sys, time; from gan_tutorial.ship.serving.model import OnnxGenerator;"
        "OnnxGenerator(sys.argv[1]); time.sleep(1)"
    )
    left = {}
    for chosen in (None, "0"):  # the second one is the control: what the user sets stands
        home = tmp_path / f"home-{chosen}"
        home.mkdir()
        environment = {k: v for k, v in os.environ.items() if k not in ("CI", VARIABLE)}
        environment |= {"HOME": str(home)} | ({VARIABLE: chosen} if chosen else {})
        environment = {k: v for k, v in environment.items() if not k.startswith("XDG_")}
        subprocess.run([sys.executable, "-c", program, small_onnx], env=environment, check=True)
        left[chosen] = [path.name for path in home.rglob("*") if path.is_file()]
    assert not left[None]
    if "onnxruntime.db" not in left["0"]:
        pytest.skip("this onnxruntime writes no reports")


def test_a_card_is_read_as_it_was_written(small_onnx):
    card = OnnxGenerator(small_onnx).card
    again = Card.from_metadata(card.as_metadata())
    assert json.dumps(again.as_metadata()) == json.dumps(card.as_metadata())
    assert again == card
