"""An exported generator as a TensorFlow SavedModel, for TensorFlow Serving.

    PYTHONPATH=. python tools/savedmodel.py model.onnx models/digits/1

It needs TensorFlow, and no PyTorch: `make tensorflow` gives it an environment of its own.
"""

import argparse
import sys
from pathlib import Path

import onnx
import tensorflow as tf
from onnx import NodeProto, numpy_helper

from gan_tutorial import arrays
from gan_tutorial.ship.serving.model import OnnxGenerator

TOLERANCE = 1e-4  # in units of the range [-1, 1]


class TensorFlowGenerator(tf.Module):
    """The operations of an ONNX file in TensorFlow, with its weights.

    Args:
        path: a file that ``export.to_onnx`` wrote.

    Raises:
        ModelError: the file cannot be used.
        ValueError: an operation has no counterpart here.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.reference = OnnxGenerator(path)  # checks the file
        graph = onnx.load(path).graph
        self.nodes = graph.node
        unknown = {node.op_type for node in self.nodes} - OPERATIONS.keys()
        if unknown:
            raise ValueError(f"{path} has operations without a counterpart: {', '.join(unknown)}")
        self.weights = {w.name: tf.constant(numpy_helper.to_array(w)) for w in graph.initializer}
        card = self.reference.card
        signature = [tf.TensorSpec((None, card.latent_dim), tf.float32, "z")]
        if card.classes:
            signature.append(tf.TensorSpec((None,), tf.int64, "labels"))
        self.serve = tf.function(self._run, input_signature=signature)

    def _run(self, z: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        values = self.weights | {"z": z, "labels": labels}
        for node in self.nodes:
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = OPERATIONS[node.op_type](node, *inputs)
        return {"samples": values["samples"]}


def save(path: str | Path, folder: str | Path) -> float:
    """Write a SavedModel, read it back, and return its largest difference from the ONNX file.

    Args:
        path: a file that ``export.to_onnx`` wrote.
        folder: where to. TensorFlow Serving wants NAME/VERSION, the version a number.

    Raises:
        ValueError: the samples differ by more than ``TOLERANCE``; or as ``TensorFlowGenerator``.
    """
    model = TensorFlowGenerator(path)
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})
    card, difference = model.reference.card, 0.0
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    for count in (1, 64):
        z = arrays.latents(count, card.latent_dim)
        labels = arrays.labels(count, len(card.classes))
        inputs = {"z": tf.constant(z)} | ({"labels": tf.constant(labels)} if card.classes else {})
        samples = serve(**inputs)["samples"].numpy()
        difference = max(difference, float(abs(samples - model.reference(z, labels)).max()))
    if not difference <= TOLERANCE:
        raise ValueError(f"{folder} differs from {path} by {difference:.1e}")
    return difference


def _gemm(node: NodeProto, a: tf.Tensor, b: tf.Tensor, c: tf.Tensor | float = 0.0) -> tf.Tensor:
    return tf.matmul(a, b, transpose_b=bool(_attribute(node, "transB", 0))) + c


def _reshape(node: NodeProto, x: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, tf.concat([tf.shape(x, tf.int64)[:1], shape[1:]], 0))


def _batch_norm(node: NodeProto, x: tf.Tensor, *statistics: tf.Tensor) -> tf.Tensor:
    axes = [1, -1] + [1] * (len(x.shape) - 2)
    scale, shift, mean, variance = (tf.reshape(s, axes) for s in statistics)
    epsilon = _attribute(node, "epsilon", 1e-5)
    return (x - mean) * tf.math.rsqrt(variance + epsilon) * scale + shift


def _conv(node: NodeProto, x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None = None):
    """A convolution of (N, C, H, W); on CPUs TensorFlow's own want (N, H, W, C)."""
    pad = _attribute(node, "pads")[0]
    x = tf.pad(tf.transpose(x, (0, 2, 3, 1)), [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    x = tf.nn.conv2d(x, tf.transpose(weight, (2, 3, 1, 0)), _attribute(node, "strides"), "VALID")
    return tf.transpose(x if bias is None else x + bias, (0, 3, 1, 2))


def _conv_transpose(
    node: NodeProto, x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """A transposed convolution without padding, of which the padding is then cut off."""
    pad, stride, kernel = (
        _attribute(node, name)[0] for name in ("pads", "strides", "kernel_shape")
    )
    size = (x.shape[2] - 1) * stride + kernel
    x, weight = tf.transpose(x, (0, 2, 3, 1)), tf.transpose(weight, (2, 3, 1, 0))
    shape = (tf.shape(x)[0], size, size, weight.shape[2])
    x = tf.nn.conv2d_transpose(x, weight, shape, stride, "VALID")
    x = x[:, pad : size - pad, pad : size - pad]
    return tf.transpose(x if bias is None else x + bias, (0, 3, 1, 2))


def _attribute(node: NodeProto, name: str, default: object = None) -> object:
    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


OPERATIONS = {
    "BatchNormalization": _batch_norm,
    "Concat": lambda node, *inputs: tf.concat(inputs, _attribute(node, "axis")),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gather": lambda node, table, index: tf.gather(table, index),
    "Gemm": _gemm,
    "LeakyRelu": lambda node, x: tf.nn.leaky_relu(x, _attribute(node, "alpha", 0.01)),
    "Relu": lambda node, x: tf.nn.relu(x),
    "Reshape": _reshape,
    "Tanh": lambda node, x: tf.tanh(x),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; print an error as one line, with a status that is not 0."""
    parser = argparse.ArgumentParser(
        "python tools/savedmodel.py",
        description="Write an exported generator as a TensorFlow SavedModel.",
    )
    parser.add_argument("model", help="a file that gan_tutorial export wrote")
    parser.add_argument("folder", help="where to: NAME/VERSION, the version a number")
    options = parser.parse_args(arguments)
    try:
        difference = save(options.model, options.folder)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    print(f"{options.folder} holds G; largest difference from {options.model}: {difference:.1e}")


if __name__ == "__main__":
    main()
