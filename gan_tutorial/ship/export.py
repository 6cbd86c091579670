"""A trained generator as a file: ONNX, which runs without PyTorch, or its weights as safetensors.

A file is written only if its samples match PyTorch's. For TensorFlow's format see ``savedmodel``.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import ModelProto
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from gan_tutorial import arrays, checkpoints, data, files, sampling
from gan_tutorial.beyond.interpretability import sefa
from gan_tutorial.networks import Generator
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship.serving.model import DIGEST, Card, OnnxGenerator, digest, probe_inputs

OPSET = 18  # PyTorch's exporter writes this one; it converts to any other
FORMATS = ("onnx", "safetensors", "savedmodel")
TOLERANCE = 1e-4  # in units of the range [-1, 1]; a grey level is 1/127.5
PROBES, DIRECTIONS = 20, 4
COMPARED = 256  # samples of the file and of PyTorch


class ExportError(ValueError):
    """A file that does not reproduce its generator; the message says what was found."""


class Parity(NamedTuple):
    """The largest differences of any value between samples, and the number of samples compared.

    Attributes:
        from_pytorch: between the file's samples and PyTorch's.
        across_batches: between a sample generated alone and the same one in a batch, for the first
            32; 0, not measured, for safetensors.
        samples: number of samples.
    """

    from_pytorch: float
    across_batches: float
    samples: int


def to_onnx(G: Generator, path: str | Path, settings: Mapping) -> Parity:
    """Write G as an ONNX file: dynamic batch size, inputs ``z`` and ``labels``, output ``samples``.

    Args:
        G: a generator; it is exported in evaluation mode.
        path: where to; by convention it ends in ``.onnx``. The old file is kept if the check
            fails.
        settings: as ``checkpoints.load_generator`` returns them: ``data``, ``class_names``,
            ``step`` and ``recipe``.

    Raises:
        ExportError: onnxruntime's samples differ from PyTorch's; ``ModelError`` if grossly.
        ValueError: a sample is not finite.
        OSError: the file cannot be written.
    """
    G = for_inference(G)
    model = _trace(G)
    for key, value in card(G, settings).as_metadata().items():
        model.metadata_props.add(key=key, value=value)
    with files.replacing(path) as temporary:
        temporary.write_bytes(seal(model))
        parity = compare(G, OnnxGenerator(temporary))
        if not all(difference <= TOLERANCE for difference in parity[:2]):  # NaN is refused too
            found = f"{parity.from_pytorch:.1e} from PyTorch, {parity.across_batches:.1e} by batch"
            raise ExportError(
                f"samples differ: {found}, above {TOLERANCE:g}; {path} is not written"
            )
    return parity


def seal(model: ModelProto) -> bytes:
    """Return the bytes of an ONNX model, with their own ``digest`` in the metadata."""
    zeros = "0" * 64
    entries = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, entries | {DIGEST: zeros})
    content = model.SerializeToString(deterministic=True)
    return content.replace(zeros.encode(), digest(content, zeros).encode())


def to_safetensors(G: Generator, path: str | Path, settings: Mapping) -> Parity:
    """Write the weights of G as one safetensors file, whose header says how to build G.

    Args:
        G, path, settings: as for ``to_onnx``; ``recipe`` is the ``asdict`` of G's ``Recipe``.

    Raises:
        ExportError: the weights that were read back give other samples.
        ValueError: a sample is not finite.
        OSError: the file cannot be written.
    """
    G = for_inference(G)
    entries = replace(card(G, settings), opset=0).as_metadata()
    with files.replacing(path) as temporary:
        temporary.write_bytes(checkpoints.safetensors_file(_weights(G), entries))
        loaded, _ = load_safetensors(temporary)
        samples, expected = sampling.generate(loaded, 64), sampling.generate(G, 64)
        difference = (samples - expected).abs().max().item()
        if difference:
            raise ExportError(f"samples differ by {difference:.1e} from G's; {path} is not written")
    return Parity(difference, 0.0, len(samples))


def load_safetensors(path: str | Path) -> tuple[Generator, Card]:
    """Return the generator that ``to_safetensors`` wrote, in evaluation mode, and its card.

    Raises:
        ExportError: it is not such a file, or its weights do not match their SHA-256.
    """
    try:
        metadata, weights = checkpoints.parse_safetensors(Path(path).read_bytes())
        card = Card.from_metadata(metadata)
        recipe = Recipe(**card.recipe)
        with torch.device("meta"):  # allocates nothing, whatever a wrong recipe asks for
            G, _ = recipe.build()
        G.load_state_dict(weights, assign=True)  # refuses other shapes
        G.float()  # of a file in another precision the digest below differs
    except Exception as error:  # safetensors, JSON, the networks and torch each have their own
        fault = f"{path} is not an exported generator ({error}); export it again"
        raise ExportError(fault) from error
    if weights_digest(G) != card.weights_sha256:
        raise ExportError(f"{path} is damaged (its weights' SHA-256 differs); export it again")
    return G.eval().requires_grad_(False), card


def card(G: Generator, settings: Mapping) -> Card:
    """Return the description of G to store in an exported file."""
    name = Path(settings.get("data") or "").name  # without the path of a folder of images
    name = name if name.strip(".") else "unnamed"  # of "." or ".."; without a name PNGs say nothing
    samples = _sample(G, *probe_inputs(PROBES, G.latent_dim, G.classes))  # refuses NaN
    return Card(
        name=name,
        latent_dim=G.latent_dim,
        shape=G.shape,
        range=(-1.0, 1.0) if len(G.shape) > 1 else None,
        classes=class_names(G, settings),
        recipe=settings.get("recipe", {}),
        step=settings.get("step", 0),
        opset=OPSET,
        weights_sha256=weights_digest(G),
        directions=directions(G),
        probe=tuple(samples.flatten(1).mean(dim=1).tolist()),
    )


def class_names(G: Generator, settings: Mapping) -> tuple[str, ...]:
    """Return the name of each class of G, from its settings; numbers if they have none."""
    known = data.PAIRS.get(settings.get("data"), ())  # what the bundled networks have learnt
    names = tuple(settings.get("class_names") or known)
    return names if len(names) == G.classes else tuple(map(str, range(G.classes)))


def weights_digest(G: nn.Module) -> str:
    """Return the SHA-256 of the weights of G, stored as safetensors: 64 hexadecimal digits."""
    return hashlib.sha256(to_bytes(_weights(G))).hexdigest()


def directions(G: Generator) -> tuple[tuple[float, ...], ...]:
    """Return the first directions of ``interpretability.sefa(G)`` as plain numbers."""
    return tuple(tuple(round(x, 6) for x in row) for row in sefa(G, DIRECTIONS).tolist())


def compare(
    G: Generator,
    run: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
) -> Parity:
    """Generate samples with G and with its exported twin from the same z; return the differences.

    Args:
        G: a generator.
        run: the twin: takes z, float32 (N, latent_dim), and labels, int64 (N,) or None; returns
            samples, float32 (N, *shape).
    """
    z, labels = arrays.latents(COMPARED, G.latent_dim), arrays.labels(COMPARED, G.classes)
    expected, found = _sample(G, z, labels).numpy(), run(z, labels)
    alone = [run(z[i : i + 1], None if labels is None else labels[i : i + 1]) for i in range(32)]
    across_batches = abs(np.concatenate(alone) - found[: len(alone)]).max()
    return Parity(float(abs(expected - found).max()), float(across_batches), COMPARED)


def _sample(G: Generator, *inputs: object) -> Tensor:
    return sampling.sample(G, *(None if x is None else torch.from_numpy(x) for x in inputs))


def for_inference(G: Generator) -> Generator:
    """Return a copy of G as a reader of its file will build it: on the CPU, in contiguous layout.

    Weights in another layout (channels last) go to other convolutions, which round differently.
    """
    G = copy.deepcopy(G).to("cpu", memory_format=torch.contiguous_format)
    return G.eval().requires_grad_(False)


def _weights(G: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in G.state_dict().items()}


def _trace(G: Generator) -> ModelProto:
    """Return G as an ONNX graph with a dynamic batch size and no trace of this machine."""
    inputs = {"z": torch.zeros(2, G.latent_dim)}
    if G.classes:
        inputs["labels"] = torch.zeros(2, dtype=torch.int64)
    count = torch.export.Dim("N", min=1)
    traced = torch.export.export(
        G, tuple(inputs.values()), dynamic_shapes=({0: count},) * len(inputs), strict=False
    )
    program = torch.onnx.export(
        traced,
        dynamo=True,
        input_names=list(inputs),
        output_names=["samples"],
        opset_version=OPSET,
        verbose=False,
    )
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with paths of this machine
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        if len(value.type.tensor_type.shape.dim) and value.type.tensor_type.shape.dim[0].dim_param:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model, full_check=True)
    return model
