"""A generator as a file: it draws what PyTorch draws, says what it is, needs no PyTorch, and is whole or absent."""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_tutorial import checkpoints, data, drawing, export, networks, plotting, sampling
from gan_tutorial.__main__ import main
from gan_tutorial.drawing import ModelError
from gan_tutorial.export import ExportError

NAN = math.nan
LIMIT = export.LARGEST_DIFFERENCE
MLP = networks.NetworkConfig(kind="mlp", shape=(1, 8, 8), latent_dim=4, hidden=(16,))
POINTS = networks.NetworkConfig(kind="mlp", shape=(2,), latent_dim=2, hidden=(16,), classes=3)


def run(*arguments: object) -> int:
    """Run the command line in this process and return its status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


def made(config: networks.NetworkConfig) -> tuple[networks.Generator, dict]:
    torch.manual_seed(0)
    G, _ = config.build()
    return G, {"network": config.as_dict()}


@pytest.fixture(scope="session", params=[*data.BUNDLED, "mlp", "points"])
def exported(request, tmp_path_factory) -> tuple[networks.Generator, Path, export.Parity]:
    """Each kind of generator, its ONNX file, and what the exporter measured."""
    if request.param in data.BUNDLED:
        G, settings = checkpoints.load_generator(checkpoints.bundled(request.param))
    else:
        G, settings = made(MLP if request.param == "mlp" else POINTS)
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    return G, path, export.to_onnx(G, path, settings)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """The ONNX file of a small MLP."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    export.to_onnx(*made(MLP)[:1], path, made(MLP)[1])
    return path


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_the_file_draws_what_pytorch_draws(exported, count):
    G, path, parity = exported
    generator = drawing.OnnxGenerator(path)
    z = drawing.latents(count, G.latent_dim, seed=5)
    labels = generator.labels(count)
    there = generator.draw(z, labels)
    here = sampling.sample(G, torch.from_numpy(z), None if labels is None else torch.from_numpy(labels)).numpy()
    assert there.shape == (count, *G.shape)
    assert abs(there - here).max() < LIMIT
    assert max(parity.from_pytorch, parity.from_crowd) < LIMIT


def test_a_picture_is_the_same_alone_and_in_a_crowd(exported):
    G, path, _ = exported
    generator = drawing.OnnxGenerator(path)
    z, labels = drawing.latents(64, G.latent_dim), generator.labels(64)
    together = generator.draw(z, labels)
    for i in (0, 31, 63):
        alone = generator.draw(z[i : i + 1], None if labels is None else labels[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_the_file_says_what_it_is(exported):
    G, path, _ = exported
    model, about = onnx.load(path), drawing.OnnxGenerator(path).card
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", export.OPSET)]
    assert about.opset == export.OPSET
    assert (about.latent_dim, about.shape, len(about.classes)) == (G.latent_dim, G.shape, G.classes)
    assert about.range == ((-1.0, 1.0) if len(G.shape) > 1 else None)
    assert about.weights_sha256 == export.weights_digest(G)
    assert networks.NetworkConfig(**about.recipe["network"]).latent_dim == G.latent_dim
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    assert names == ["z", *(["labels"] if G.classes else []), "samples"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    directions = np.array(about.directions)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-4)


def test_bundled_names_of_classes_are_in_the_file(exported):
    _, path, _ = exported
    about = drawing.OnnxGenerator(path).card
    assert about.classes == data.BUNDLED.get(about.name, about.classes)


def test_the_file_does_not_tell_of_the_machine(exported):
    _, path, _ = exported
    content = path.read_bytes()
    assert str(Path(export.__file__).parent).encode() not in content
    assert b"site-packages" not in content
    assert b'File "' not in content


def test_the_same_weights_give_the_same_file(exported, tmp_path):
    G, path, _ = exported
    about = drawing.OnnxGenerator(path).card
    export.to_onnx(G, tmp_path / "again.onnx", {"data": about.name, "step": about.step} | about.recipe)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_export_leaves_the_generator_as_it_was(tmp_path):
    G, settings = made(MLP)
    G.train()
    before = copy.deepcopy(G.state_dict())
    export.to_onnx(G, tmp_path / "a.onnx", settings)
    assert G.training
    assert all(parameter.requires_grad for parameter in G.parameters())
    for key, value in G.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_folder_of_images_is_named_without_its_place(tmp_path):
    G, settings = made(MLP)
    assert export.card(G, settings | {"data": str(tmp_path / "my-faces")}).name == "my-faces"


def test_safetensors_hold_the_weights_and_how_to_build_the_network(exported, tmp_path):
    G, path, _ = exported
    about = drawing.OnnxGenerator(path).card
    settings = {"data": about.name, "step": about.step} | about.recipe
    parity = export.to_safetensors(G, tmp_path / "g.safetensors", settings)
    assert parity.from_pytorch == 0
    again, other = export.load_safetensors(tmp_path / "g.safetensors")
    assert other.weights_sha256 == about.weights_sha256
    for key, value in again.state_dict().items():
        assert torch.equal(value, G.state_dict()[key])


def test_the_file_runs_without_pytorch(small):
    program = (
        "import sys; from gan_tutorial import drawing; g = drawing.OnnxGenerator(sys.argv[1]);"
        "print(len(drawing.png(g.draw(drawing.latents(4, g.card.latent_dim)))), 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program, small], capture_output=True, text=True, check=True)
    size, torch_is_there = ended.stdout.split()
    assert int(size) > 100
    assert torch_is_there == "False"


def test_the_file_runs_with_onnxruntime_alone(small):
    """Without a line of this package."""
    program = (
        "import sys, numpy, onnxruntime; s = onnxruntime.InferenceSession(sys.argv[1]);"
        "print(s.run(None, {'z': numpy.zeros((3, 4), numpy.float32)})[0].shape, *sorted(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program, small], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("(3, 1, 8, 8) ")
    assert not {"torch", "gan_tutorial"} & set(ended.stdout.split())


def test_the_command_prints_parity_and_digest(tmp_path, capsys):
    assert run("export", "digits", "--out", tmp_path / "deep" / "model.onnx") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.split()[-1]) < LIMIT
    assert second.split()[-1] == drawing.OnnxGenerator(tmp_path / "deep" / "model.onnx").card.weights_sha256
    assert run("export", "fashion", "--format", "safetensors", "--out", tmp_path / "model.safetensors") == 0
    assert export.load_safetensors(tmp_path / "model.safetensors")[1].classes == data.GARMENTS


@given(st.integers(1, 40), st.integers(0, 2**53), st.none() | st.floats(0.01, 50))
def test_a_vector_depends_on_its_seed_and_not_on_how_many_are_drawn(count, seed, truncation):
    z = drawing.latents(count, 3, seed, truncation)
    assert z.dtype == np.float32
    assert np.array_equal(z[:1], drawing.latents(1, 3, seed, truncation))
    assert truncation is None or abs(z).max() <= np.float32(truncation)


def test_latents_are_normal_and_truncated_ones_keep_the_shape_between():
    assert abs(drawing.latents(2000, 50).std() - 1) < 0.01
    plain, cut = drawing.latents(2000, 50), drawing.latents(2000, 50, truncation=1.0)
    inside = plain[abs(plain) <= 1]
    np.testing.assert_allclose(np.quantile(cut, [0.1, 0.3, 0.8]), np.quantile(inside, [0.1, 0.3, 0.8]), atol=0.02)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("columns", [None, 1, 3, 10])
def test_pictures_are_those_of_the_figures(channels, columns):
    images = torch.rand(7, channels, 5, 6) * 2 - 1
    tiled = drawing.tile(images.numpy(), columns)
    expected = plotting.tile(images, columns)
    given_columns, rows = columns or 3, -(-7 // (columns or 3))
    whole = tiled if channels == 3 else np.repeat(tiled[..., None], 3, axis=2)
    assert whole.shape == expected.shape == (rows * 7 - 2, given_columns * 8 - 2, 3)
    assert np.array_equal(whole, expected)


def test_directions_change_the_first_layer_most(exported):
    G, path, _ = exported
    z = drawing.latents(1, G.latent_dim)
    weight = G.layers[0].weight.detach().numpy()[:, : G.latent_dim]
    first = np.array(drawing.OnnxGenerator(path).card.directions[0])
    assert np.linalg.norm(weight @ first) == pytest.approx(np.linalg.norm(weight, 2), rel=1e-4)
    np.testing.assert_allclose(drawing.moved(z, [first], [2.0]) - z, 2 * first[None], atol=1e-5)
    assert drawing.moved(z, [first], []) is z


# What goes wrong


def damaged(small: Path, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    path = folder / "damaged.onnx"
    path.write_bytes(change(small.read_bytes()))
    return path


def with_other_metadata(small: Path, folder: Path, **entries: str | None) -> Path:
    model = onnx.load(small)
    kept = {entry.key: entry.value for entry in model.metadata_props} | entries
    del model.metadata_props[:]
    for key, value in kept.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def with_other_weights(small: Path, folder: Path) -> Path:
    model = onnx.load(small)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


BAD_FILES = {
    "nothing there": (lambda s, f: f / "none.onnx", "there is no model at"),
    "a folder": (lambda s, f: f, "cannot be read"),
    "empty": (lambda s, f: damaged(s, f, lambda b: b""), "is not a whole ONNX file"),
    "cut short": (lambda s, f: damaged(s, f, lambda b: b[: len(b) // 2]), "is not a whole ONNX file"),
    "a text": (lambda s, f: damaged(s, f, lambda b: b"hello, world\n"), "is not a whole ONNX file"),
    "a checkpoint": (lambda s, f: checkpoints.bundled("digits"), "is not a whole ONNX file"),
    "of another program": (lambda s, f: with_other_metadata(s, f, format=None), "do not say 'gan_tutorial onnx 1'"),
    "without its shape": (lambda s, f: with_other_metadata(s, f, shape=None), "are not whole ('shape')"),
    "no JSON": (lambda s, f: with_other_metadata(s, f, step="many"), "are not whole"),
    "other weights": (with_other_weights, "draws something else than when it was exported"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(name, small, tmp_path):
    make, message = BAD_FILES[name]
    path = make(small, tmp_path)
    with pytest.raises(ModelError) as error:
        drawing.OnnxGenerator(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


Z = np.zeros((2, 4), np.float32)
BAD_CALLS = {
    "z of another size": (lambda g: g.draw(np.zeros((2, 5), np.float32)), "z must be float32 of shape (N, 4)"),
    "z of doubles": (lambda g: g.draw(np.zeros((2, 4))), "but is float64"),
    "z is a list": (lambda g: g.draw([[0.0] * 4]), "but is list"),
    "no z": (lambda g: g.draw(Z[:0]), "but is float32 (0, 4)"),
    "NaN in z": (lambda g: g.draw(np.full((1, 4), NAN, np.float32)), "must be finite"),
    "a class of none": (lambda g: g.labels(2, 0), "was not told any"),
    "no vectors": (lambda g: drawing.latents(0, 4), "count must be an integer of at least 1"),
    "half a vector": (lambda g: drawing.latents(1.5, 4), "count must be"),
    "negative seed": (lambda g: drawing.latents(1, 4, -1), "seed must be"),
    "seed of yes": (lambda g: drawing.latents(1, 4, True), "seed must be"),
    "truncation of 0": (lambda g: drawing.latents(1, 4, 0, 0.0), "truncation must be a number in (0, inf)"),
    "truncation of NaN": (lambda g: drawing.latents(1, 4, 0, NAN), "truncation must be"),
    "truncation of text": (lambda g: drawing.latents(1, 4, 0, "1"), "truncation must be"),
    "points are no pictures": (lambda g: drawing.png(Z), "with C = 1 or 3"),
    "no columns": (lambda g: drawing.png(np.zeros((1, 1, 4, 4)), 0), "columns must be"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_refused(name, small):
    act, message = BAD_CALLS[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        act(drawing.OnnxGenerator(small))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "but are NoneType"),
        (np.array([0]), "of shape (2,), but are int64 (1,)"),
        (np.array([0.0, 1.0]), "but are float64"),
        (np.array([0, 3]), "must lie in [0, 2], but reach from 0 to 3"),
        (np.array([-1, 0]), "reach from -1 to 0"),
    ],
)
def test_bad_labels_are_refused(labels, message, tmp_path):
    G, settings = made(POINTS)
    export.to_onnx(G, tmp_path / "points.onnx", settings)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        drawing.OnnxGenerator(tmp_path / "points.onnx").draw(np.zeros((2, 2), np.float32), labels)
    assert message in str(error.value)


@pytest.mark.parametrize("write", [export.to_onnx, export.to_safetensors])
def test_lost_weights_are_not_exported(write, tmp_path):
    G, settings = made(MLP)
    (tmp_path / "old").write_text("old")
    nn.init.constant_(G.layers[0].weight, NAN)
    with pytest.raises(ExportError, match="layers.0.weight holds NaN or infinity"):
        write(G, tmp_path / "old", settings)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


def test_a_file_that_draws_something_else_is_not_kept(tmp_path, monkeypatch):
    G, settings = made(MLP)
    (tmp_path / "a.onnx").write_text("old")
    monkeypatch.setattr(export, "compare", lambda *_: export.Parity(2e-4, 0.0, 256))
    with pytest.raises(ExportError, match=r"differs by 2.0e-04 from PyTorch .* where 0.0001 is allowed"):
        export.to_onnx(G, tmp_path / "a.onnx", settings)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.onnx", "old")]


@pytest.mark.parametrize("difference", [NAN, math.inf])
def test_a_comparison_that_failed_is_no_parity(difference, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: export.Parity(difference, 0.0, 256))
    with pytest.raises(ExportError):
        export.to_onnx(*made(MLP)[:1], tmp_path / "a.onnx", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [lambda b: b[:-4] + b"\0\0\0\x41", lambda b: b[:100], lambda b: b"", lambda b: b"x" * 99]
)
def test_damaged_weights_are_refused(change, tmp_path):
    path = tmp_path / "g.safetensors"
    export.to_safetensors(*made(MLP)[:1], path, made(MLP)[1])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ExportError) as error:
        export.load_safetensors(path)
    assert str(path) in str(error.value)
    assert "export it again" in str(error.value)


BAD_COMMANDS = {
    "no run": (["export", "{new}"], "there is no checkpoint"),
    "no checkpoint": (["export", "{file}"], "not a whole safetensors file"),
    "no format": (["export", "digits", "--format", "tf"], "--format must be one of onnx, safetensors"),
    "no place": (["export", "digits", "--out", "{file}/model.onnx"], "{file}/model.onnx"),
    "onto a folder": (["export", "digits", "--out", "{folder}"], "{folder}"),
    "two runs": (["export", "digits", "fashion"], "unexpected extra argument"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_ends_in_one_line_and_a_status(name, tmp_path, capsys):
    arguments, message = BAD_COMMANDS[name]
    (tmp_path / "file").write_text("not a checkpoint")
    (tmp_path / "folder").mkdir()
    places = {"new": tmp_path / "new", "file": tmp_path / "file", "folder": tmp_path / "folder"}
    assert run(*(argument.format(**places) for argument in arguments)) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.format(**places) in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_card_is_read_as_it_was_written(small):
    about = drawing.OnnxGenerator(small).card
    again = drawing.Card.from_metadata(about.as_metadata())
    assert json.dumps(again.as_metadata()) == json.dumps(about.as_metadata())
