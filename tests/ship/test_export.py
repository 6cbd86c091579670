"""Exported files: the same samples as PyTorch's, a description, complete or absent."""

import copy
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gan_tutorial import arrays, checkpoints, data, networks, sampling
from gan_tutorial.__main__ import main
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship import export
from gan_tutorial.ship.export import ExportError
from gan_tutorial.ship.serving.model import OnnxGenerator

NAN = math.nan
RECIPES = {
    "mlp": Recipe(network="mlp", shape=(1, 8, 8), latent_dim=4, hidden=(16,)),
    "points": Recipe(network="mlp", shape=(2,), latent_dim=2, hidden=(16,), classes=3),
    "colour": Recipe(shape=(3, 64, 64), latent_dim=8, width=4),
}


def run(*arguments: object) -> int:
    """Run the command line in this process and return its status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


def build(name: str = "mlp") -> tuple[networks.Generator, dict]:
    recipe = RECIPES[name]
    return recipe.init().G, {"recipe": asdict(recipe)}


@pytest.fixture(scope="session", params=[*data.BUNDLED, *RECIPES])
def exported(request, tmp_path_factory) -> tuple[networks.Generator, Path, export.Parity]:
    """Each kind of generator, its ONNX file, and what the exporter measured."""
    known = request.param in RECIPES
    G, settings = (build if known else checkpoints.load_generator)(request.param)
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    return G, path, export.to_onnx(G, path, settings)


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_the_file_and_pytorch_give_the_same_samples(exported, count):
    """For the same seed, with the book's functions on one side and the service's on the other."""
    G, path, parity = exported
    generator = OnnxGenerator(path)
    z = arrays.latents(count, G.latent_dim, seed=5, truncation=2.0)
    found = generator(z, arrays.labels(count, len(generator.card.classes)))
    expected = sampling.generate(G, count, seed=5, truncation=2.0).numpy()
    assert found.shape == (count, *G.shape)
    assert abs(found - expected).max() < export.TOLERANCE
    assert parity.samples == 256
    assert max(parity.from_pytorch, parity.across_batches) < export.TOLERANCE


def test_the_comparison_finds_a_single_value_that_differs():
    G, _ = build()

    def twin(z, _):
        samples = sampling.sample(G, torch.from_numpy(z)).numpy()
        samples.flat[-1] += 1e-4 if len(z) > 1 else 3e-4  # in the last of a batch, or alone
        return samples

    parity = export.compare(G, twin)
    assert parity.from_pytorch == pytest.approx(1e-4, rel=0.05)
    assert parity.across_batches == pytest.approx(3e-4, rel=0.05)


def test_a_sample_is_the_same_alone_and_in_a_batch(exported):
    G, path, _ = exported
    generator = OnnxGenerator(path)
    z, labels = arrays.latents(64, G.latent_dim), arrays.labels(64, G.classes)
    together = generator(z, labels)
    for i in (0, 31, 63):
        alone = generator(z[i : i + 1], None if labels is None else labels[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_the_file_describes_itself(exported):
    G, path, _ = exported
    model, card = onnx.load(path), OnnxGenerator(path).card
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", export.OPSET)]
    assert card.opset == export.OPSET
    assert (card.latent_dim, card.shape, len(card.classes)) == (G.latent_dim, G.shape, G.classes)
    assert card.range == ((-1.0, 1.0) if len(G.shape) > 1 else None)
    assert card.weights_sha256 == export.weights_digest(G)
    assert Recipe(**card.recipe).latent_dim == G.latent_dim
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    assert names == ["z", *(["labels"] if G.classes else []), "samples"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    directions = np.array(card.directions)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-4)


def test_bundled_names_of_classes_are_in_the_file(exported):
    _, path, _ = exported
    card = OnnxGenerator(path).card
    assert card.classes == data.BUNDLED.get(card.name, card.classes)


def test_the_file_contains_no_path_of_this_machine(exported):
    _, path, _ = exported
    content = path.read_bytes()
    assert str(Path(export.__file__).parent).encode() not in content
    assert b"site-packages" not in content
    assert b'File "' not in content


def test_the_same_weights_give_the_same_file(exported, tmp_path):
    G, path, _ = exported
    card = OnnxGenerator(path).card
    settings = {"data": card.name, "step": card.step, "recipe": card.recipe}
    export.to_onnx(G, tmp_path / "again.onnx", settings)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_export_does_not_change_the_generator(tmp_path):
    G, settings = build()
    G.train()
    before = copy.deepcopy(G.state_dict())
    export.to_onnx(G, tmp_path / "a.onnx", settings)
    assert G.training
    assert all(parameter.requires_grad for parameter in G.parameters())
    for key, value in G.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_folder_of_images_is_named_without_its_path(tmp_path):
    G, settings = build()
    assert export.card(G, settings | {"data": str(tmp_path / "my-faces")}).name == "my-faces"


@pytest.mark.parametrize("folder", [".", "..", "/", "faces/.."])
def test_a_folder_without_a_name_gives_one(folder):
    """Pictures say that they are generated only if they can say by what."""
    G, settings = build()
    assert export.card(G, settings | {"data": folder}).name == "unnamed"


def test_safetensors_hold_the_weights_and_the_recipe(exported, tmp_path):
    G, path, _ = exported
    card = OnnxGenerator(path).card
    settings = {"data": card.name, "step": card.step, "recipe": card.recipe}
    parity = export.to_safetensors(G, tmp_path / "g.safetensors", settings)
    assert (parity.from_pytorch, parity.samples) == (0, 64)
    loaded, other = export.load_safetensors(tmp_path / "g.safetensors")
    assert other.weights_sha256 == card.weights_sha256
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, G.state_dict()[key])


def test_the_file_runs_without_pytorch(small_onnx):
    program = (
        "import sys; from gan_tutorial import arrays;"
        "from gan_tutorial.ship.serving.model import OnnxGenerator;"
        "G = OnnxGenerator(sys.argv[1]); images = G(arrays.latents(4, G.card.latent_dim));"
        "print(images.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, small_onnx], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(4, 1, 8, 8) False\n"


def test_the_file_runs_with_onnxruntime_alone(small_onnx):
    """Without any of this package."""
    program = (
        "import sys, numpy, onnxruntime; s = onnxruntime.InferenceSession(sys.argv[1]);"
        "print(s.run(None, {'z': numpy.zeros((3, 4), numpy.float32)})[0].shape, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, small_onnx], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("(3, 1, 8, 8) ")
    assert not {"torch", "gan_tutorial"} & set(done.stdout.split())


def test_the_command_prints_parity_and_digest(tmp_path, capsys):
    path = tmp_path / "new" / "model.onnx"
    assert run("export", "digits", "--out", path) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.split()[-1]) < export.TOLERANCE
    assert second.split()[-1] == OnnxGenerator(path).card.weights_sha256
    path = tmp_path / "model.safetensors"
    assert run("export", "fashion", "--format", "safetensors", "--out", path) == 0
    assert export.load_safetensors(path)[1].classes == data.GARMENTS


def test_directions_change_the_first_layer_most(exported):
    G, path, _ = exported
    weight = G.layers[0].weight.detach().numpy()[:, : G.latent_dim]
    first = np.array(OnnxGenerator(path).card.directions[0])
    assert np.linalg.norm(weight @ first) == pytest.approx(np.linalg.norm(weight, 2), rel=1e-4)


# Errors


@pytest.mark.parametrize("write", [export.to_onnx, export.to_safetensors])
def test_weights_with_nan_are_not_exported(write, tmp_path):
    G, settings = build()
    (tmp_path / "old").write_text("old")
    nn.init.constant_(G.layers[0].weight, NAN)
    with pytest.raises(ValueError, match="the generator returned NaN or infinity"):
        write(G, tmp_path / "old", settings)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


def test_a_file_with_other_samples_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("old")
    monkeypatch.setattr(export, "compare", lambda *_: export.Parity(2e-4, 0.0, 256))
    with pytest.raises(ExportError, match=r"2.0e-04 from PyTorch, .* above 0.0001"):
        export.to_onnx(*build()[:1], tmp_path / "a.onnx", {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.onnx", "old")]


@pytest.mark.parametrize("differences", [(NAN, 0.0), (0.0, NAN), (math.inf, 0.0), (0.0, 1.0)])
def test_a_comparison_that_failed_is_no_parity(differences, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: export.Parity(*differences, 256))
    with pytest.raises(ExportError):
        export.to_onnx(*build()[:1], tmp_path / "a.onnx", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [lambda b: b[:-4] + b"\0\0\0\x41", lambda b: b[:100], lambda b: b"", lambda b: b"x" * 99],
)
def test_damaged_weights_are_refused(change, tmp_path):
    path = tmp_path / "g.safetensors"
    G, settings = build()
    export.to_safetensors(G, path, settings)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ExportError) as error:
        export.load_safetensors(path)
    assert str(path) in str(error.value)
    assert "export it again" in str(error.value)


BAD_COMMANDS = {
    "no run": (["export", "{new}"], "there is no checkpoint"),
    "no checkpoint": (["export", "{file}"], "not a safetensors file"),
    "no format": (["export", "digits", "--format", "tf"], "must be one of onnx, safetensors"),
    "no folder": (["export", "digits", "--out", "{file}/model.onnx"], "{file}/model.onnx"),
    "onto a folder": (["export", "digits", "--out", "{folder}"], "{folder}"),
    "two runs": (["export", "digits", "fashion"], "unexpected extra argument"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_prints_one_line_and_exits(name, tmp_path, capsys):
    arguments, message = BAD_COMMANDS[name]
    (tmp_path / "file").write_text("not a checkpoint")
    (tmp_path / "folder").mkdir()
    places = {name: tmp_path / name for name in ("new", "file", "folder")}
    assert run(*(argument.format(**places) for argument in arguments)) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.format(**places) in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
