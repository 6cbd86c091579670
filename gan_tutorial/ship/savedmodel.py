"""A trained generator as a TensorFlow SavedModel, which TensorFlow Serving takes.

The operations of the generator's ONNX file in TensorFlow, with its weights. TensorFlow is optional:
``make tensorflow`` makes an environment that has it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from gan_tutorial.networks import Generator
from gan_tutorial.ship import export
from gan_tutorial.ship.export import ExportError, Parity

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no warnings: it would say which CPU it found
try:
    import tensorflow as tf
except ImportError:
    tf = None


def to_savedmodel(G: Generator, folder: str | Path, settings: Mapping) -> Parity:
    """Write G as a SavedModel with a dynamic batch size, whose samples match PyTorch's.

    Its signature ``serving_default`` takes ``z`` (N, latent_dim), float32, and ``labels`` (N,),
    int64, if G is conditional; it returns ``samples`` (N, *shape), float32.

    Args:
        G: a generator; it is exported in evaluation mode.
        folder: where to; it must not exist. TensorFlow Serving wants NAME/VERSION, the version a
            number.
        settings: as for ``export.to_onnx``.

    Raises:
        ExportError: TensorFlow is not installed, the folder exists, an operation of G has no
            counterpart here, or TensorFlow's samples differ from PyTorch's.
        ValueError: a sample is not finite.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if tf is None:
        advice = "make tensorflow makes an environment with it: run .venv/tensorflow/bin/python"
        raise ExportError(f"savedmodel needs TensorFlow; {advice} in place of this one")
    if folder.exists():
        raise ExportError(f"{folder} exists; give a new one, NAME/VERSION, the version a number")
    G = export.for_inference(G)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".savedmodel-", dir=folder.parent) as temporary:
        file, written = Path(temporary) / "model.onnx", Path(temporary) / "1"
        export.to_onnx(G, file, settings)
        module = _module(onnx.load(file), G)
        tf.saved_model.save(module, str(written), signatures={"serving_default": module.serve})
        parity = export.compare(G, load(written))
        if not all(difference <= export.TOLERANCE for difference in parity[:2]):
            raise ExportError(
                f"TensorFlow's samples differ by {max(parity[:2]):.1e}; {folder} is not written"
            )
        shutil.move(written, folder)
    return parity


def load(folder: str | Path) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Return the function of a SavedModel: from z and labels, or None, to samples, as arrays."""
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]

    def run(z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        inputs = {"z": z} if labels is None else {"z": z, "labels": labels}
        return serve(**{name: tf.constant(x) for name, x in inputs.items()})["samples"].numpy()

    return run


def _module(model: onnx.ModelProto, G: Generator) -> tf.Module:
    """Return an ONNX model as a module whose function ``serve`` has a dynamic batch size."""
    nodes = model.graph.node
    unknown = sorted({node.op_type for node in nodes} - OPERATIONS.keys())
    if unknown:
        raise ExportError(f"savedmodel has no counterpart of {', '.join(unknown)}")
    weights = {w.name: tf.constant(numpy_helper.to_array(w)) for w in model.graph.initializer}
    signature = [tf.TensorSpec((None, G.latent_dim), tf.float32, "z")]
    if G.classes:
        signature.append(tf.TensorSpec((None,), tf.int64, "labels"))

    def run(z: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        values = weights | {"z": z, "labels": labels}
        for node in nodes:
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = OPERATIONS[node.op_type](node, *inputs)
        return {"samples": values["samples"]}

    module = tf.Module()
    module.serve = tf.function(run, input_signature=signature)
    return module


def _gemm(node: NodeProto, a: tf.Tensor, b: tf.Tensor, c: tf.Tensor | float = 0.0) -> tf.Tensor:
    return tf.matmul(a, b, transpose_b=bool(_attribute(node, "transB", 0))) + c


def _reshape(node: NodeProto, x: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, tf.concat([tf.shape(x, tf.int64)[:1], shape[1:]], 0))


def _batch_norm(node: NodeProto, x: tf.Tensor, *statistics: tf.Tensor) -> tf.Tensor:
    axes = [1, -1] + [1] * (len(x.shape) - 2)
    scale, shift, mean, variance = (tf.reshape(s, axes) for s in statistics)
    epsilon = _attribute(node, "epsilon", 1e-5)
    return (x - mean) * tf.math.rsqrt(variance + epsilon) * scale + shift


def _conv(
    node: NodeProto, x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """A convolution of (N, C, H, W); on CPUs TensorFlow's own needs (N, H, W, C)."""
    pad = _attribute(node, "pads")[0]
    x = tf.pad(tf.transpose(x, (0, 2, 3, 1)), [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    x = tf.nn.conv2d(x, tf.transpose(weight, (2, 3, 1, 0)), _attribute(node, "strides"), "VALID")
    return tf.transpose(x if bias is None else x + bias, (0, 3, 1, 2))


def _conv_transpose(
    node: NodeProto, x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """A transposed convolution without padding, whose result is then cropped by the padding."""
    pad, stride, kernel = (
        _attribute(node, name)[0] for name in ("pads", "strides", "kernel_shape")
    )
    size = (x.shape[2] - 1) * stride + kernel
    x, weight = tf.transpose(x, (0, 2, 3, 1)), tf.transpose(weight, (2, 3, 1, 0))
    shape = (tf.shape(x)[0], size, size, weight.shape[2])
    x = tf.nn.conv2d_transpose(x, weight, shape, stride, "VALID")
    x = x[:, pad : size - pad, pad : size - pad]
    return tf.transpose(x if bias is None else x + bias, (0, 3, 1, 2))


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "BatchNormalization": _batch_norm,
    "Concat": lambda node, *inputs: tf.concat(inputs, _attribute(node, "axis")),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gather": lambda node, table, index: tf.gather(table, index),
    "Gemm": _gemm,
    "Relu": lambda node, x: tf.nn.relu(x),
    "Reshape": _reshape,
    "Tanh": lambda node, x: tf.tanh(x),
}
