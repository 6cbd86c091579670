"""The SavedModel: TensorFlow, in an environment that has it, draws what PyTorch draws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_repository import ROOT

from gan_tutorial.__main__ import main

TENSORFLOW = ROOT / ".venv" / "tensorflow" / "bin" / "python"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
READ = """
import sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
_, inputs = serve.structured_input_signature
print(*(f"{name}:{spec.dtype.name}:{spec.shape}" for name, spec in sorted(inputs.items())))
print(*(f"{name}:{tensor.shape}" for name, tensor in serve.structured_outputs.items()))
"""
OTHERS = """
import sys
import torch
from gan_tutorial import networks
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship import export, savedmodel
recipes = {
    "mlp": Recipe(network="mlp", shape=(1, 8, 8), latent_dim=4, hidden=(16,)),
    "points": Recipe(network="mlp", shape=(2,), latent_dim=2, hidden=(16,), classes=3),
    "colour": Recipe(shape=(3, 64, 64), latent_dim=8, width=4),
}
for name, recipe in recipes.items():
    parity = savedmodel.to_savedmodel(recipe.init().G, f"{sys.argv[1]}/{name}/1", {})
    print(name, parity.from_pytorch, parity.across_batches)
class Sine(networks.MLPGenerator):
    def forward(self, z, labels=None):
        return torch.sin(super().forward(z, labels))
try:
    savedmodel.to_savedmodel(Sine(), f"{sys.argv[1]}/sine/1", {})
except export.ExportError as error:
    print("error", error)
savedmodel.OPERATIONS["Relu"] = savedmodel.OPERATIONS["Tanh"]
try:
    savedmodel.to_savedmodel(recipes["colour"].init().G, f"{sys.argv[1]}/wrong/1", {})
except export.ExportError as error:
    print("error", error)
"""
needs_tensorflow = pytest.mark.skipif(not TENSORFLOW.exists(), reason="make tensorflow was not run")


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [str(TENSORFLOW), *map(str, arguments)]
    pipes = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, **pipes)


def export(run_name: str, folder: Path) -> subprocess.CompletedProcess:
    arguments = ("export", run_name, "--format", "savedmodel", "--out", folder)
    return run("-m", "gan_tutorial", *arguments)


def test_without_tensorflow_it_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "gan_tutorial.ship.savedmodel", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["export", "digits", "--format", "savedmodel", "--out", str(tmp_path / "1")])
    assert end.value.code == 1
    line = "error: savedmodel needs TensorFlow; make tensorflow makes an environment with it: run "
    line += ".venv/tensorflow/bin/python in place of this one\n"
    assert capsys.readouterr().err == line
    assert not list(tmp_path.iterdir())


@needs_tensorflow
def test_tensorflow_draws_the_digits_of_pytorch(tmp_path):
    folder = tmp_path / "models" / "1"
    done = export("digits", folder)
    assert done.returncode == 0, done.stderr
    difference = re.search(
        r"^256 samples: largest difference from PyTorch (\S+)$", done.stdout, re.M
    )
    assert float(difference[1]) <= 1e-4
    inputs, outputs = run("-c", READ, folder).stdout.splitlines()
    assert inputs == "labels:int64:(None,) z:float32:(None, 64)"
    assert outputs == "samples:(None, 1, 28, 28)"
    assert [path.name for path in folder.parent.iterdir()] == ["1"]  # nothing else is left
    again = export("digits", folder)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith(f"error: {folder} exists; give a new one")


@needs_tensorflow
def test_other_generators_and_operations_without_a_counterpart(tmp_path):
    done = run("-c", OTHERS, tmp_path)
    assert done.returncode == 0, done.stderr
    *parities, missing, wrong = done.stdout.splitlines()
    assert len(parities) == 3
    for line in parities:
        assert max(map(float, line.split()[1:])) <= 1e-4, line
    assert missing == "error savedmodel has no counterpart of Sin"
    assert wrong.startswith("error TensorFlow's samples differ by")
    left = sorted(tmp_path.glob("*/*"))
    assert left == [tmp_path / name / "1" for name in ("colour", "mlp", "points")]
    assert all((folder / "saved_model.pb").exists() for folder in left)


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "out", "says"),
    [
        ("nowhere", "1", "error: there is no "),
        ("digits", "/proc/nowhere/1", "error: "),
    ],
)
def test_a_bad_input_is_one_line_of_error(name, out, says, tmp_path):
    done = export(name, tmp_path / out)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(says), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
