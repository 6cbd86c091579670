"""The SavedModel: TensorFlow, in an environment of its own, draws what onnxruntime draws."""

import os
import re
import subprocess

import pytest
from test_repository import ROOT

TENSORFLOW = ROOT / ".venv" / "tensorflow" / "bin" / "python"
READ = """
import sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
_, inputs = serve.structured_input_signature
print(*(f"{name}:{spec.dtype.name}:{spec.shape}" for name, spec in sorted(inputs.items())))
print(*(f"{name}:{tensor.shape}" for name, tensor in serve.structured_outputs.items()))
"""

pytestmark = pytest.mark.skipif(not TENSORFLOW.exists(), reason="make tensorflow was not run")


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [TENSORFLOW, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.mark.parametrize("name", ["digits_onnx", "small_onnx"])
def test_tensorflow_gives_the_samples_of_the_onnx_file(name, request, tmp_path):
    path, folder = request.getfixturevalue(name), tmp_path / "models" / "1"
    done = run("tools/savedmodel.py", path, folder)
    assert done.returncode == 0, done.stderr
    difference = float(re.search(r"largest difference from \S+: (\S+)$", done.stdout)[1])
    assert difference <= 1e-4
    inputs, outputs = run("-c", READ, folder).stdout.splitlines()
    if name == "digits_onnx":
        assert inputs == "labels:int64:(None,) z:float32:(None, 64)"
        assert outputs == "samples:(None, 1, 28, 28)"
    else:
        assert inputs == "z:float32:(None, 4)"
        assert outputs == "samples:(None, 1, 8, 8)"


def test_a_file_that_is_no_model_is_one_line_of_error(tmp_path):
    done = run("tools/savedmodel.py", "nowhere.onnx", tmp_path / "1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: there is no model at nowhere.onnx")
    assert not (tmp_path / "1").exists()
