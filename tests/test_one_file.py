"""The program to take away: what it prints, and that it is the preset ``quick``."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from gan_tutorial import data, recipes, runtime, training

PROGRAM = Path(__file__).parent.parent / "book" / "first-gan" / "one_file.py"
DIGITS = data.asset("digits-train.npz")


def test_its_weights_are_those_of_the_preset():
    spec = importlib.util.spec_from_file_location("one_file", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    with runtime.seeded(0):
        ours = program.train(DIGITS, steps=4)
    recipe = recipes.preset("quick")
    state = recipe.init()
    assert recipe.steps == program.STEPS
    for log in training.train(state, data.load_images("digits"), recipe):
        if log.step == 4:
            break
    for network, packaged in zip(ours, (state.G, state.D, state.G_ema), strict=True):
        for name, value in packaged.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)


def test_it_runs_by_itself_and_writes_a_picture(tmp_path):
    source = PROGRAM.read_text(encoding="utf-8")
    short = tmp_path / "short.py"
    short.write_text(source.replace("= 2200, 128,", "= 3, 16,", 1), encoding="utf-8")
    command = [sys.executable, str(short), str(DIGITS), "samples.png"]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "step 0: losses" in output.stdout
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (280, 280)


def test_it_needs_nothing_of_the_package():
    imports = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(PROGRAM.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert {name.split(".")[0] for name in imports} <= {"copy", "sys", "numpy", "torch", "PIL"}
