"""A trained generator as a file for others: ONNX, which needs no PyTorch, or its weights alone as safetensors.

A file appears only after it was read back and drew what PyTorch draws.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from onnx import ModelProto
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from gan_tutorial import data, drawing, networks, runtime, sampling
from gan_tutorial.directions import factorise

OPSET = 18  # the one that PyTorch's exporter writes itself; the others it converts to
FORMATS = ("onnx", "safetensors")
LARGEST_DIFFERENCE = 1e-4  # in units of the range [-1, 1]; a grey level is 1/127.5
PROBES, DIRECTIONS = 20, 4


class ExportError(ValueError):
    """A generator that cannot be exported, or whose file draws something else; the message says what was found."""


class Parity(NamedTuple):
    """What reading a file back showed: the largest differences of any number of a sample, and how many samples.

    Attributes:
        from_pytorch: from what PyTorch draws for the same z.
        from_crowd: between a sample that was drawn alone and the same one in a full batch.
        samples: how many samples were compared.
    """

    from_pytorch: float
    from_crowd: float
    samples: int


class _Doorless(nn.Module):
    """G without its checks, which depend on values that a traced program does not have."""

    def __init__(self, G: networks.Generator) -> None:
        super().__init__()
        self.G = G

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.G.draw(z, labels)


def to_onnx(G: networks.Generator, path: str | Path, settings: Mapping) -> Parity:
    """Write G as one ONNX file with a free batch size, inputs ``z`` and ``labels``, output ``samples``.

    Args:
        G: a generator, such as ``checkpoints.load_generator`` returns; it is exported in evaluation mode.
        path: where to; by custom it ends in ``.onnx``. The file that is there stays until the new one is checked.
        settings: plain values that say how G was made, as ``checkpoints.load_generator`` returns them: ``data``,
            ``step``, and ``network``, ``objective`` and ``train``, which make up the recipe.

    Raises:
        ExportError: a weight is not finite, or onnxruntime draws something else than PyTorch.
        OSError: the disk refuses.
    """
    G = _ready(G)
    model = _trace(G)
    for key, value in card(G, settings).as_metadata().items():
        model.metadata_props.add(key=key, value=value)
    with runtime.replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        parity = compare(G, temporary)
        if not max(parity.from_pytorch, parity.from_crowd) <= LARGEST_DIFFERENCE:
            raise ExportError(
                f"the file differs by {parity.from_pytorch:.1e} from PyTorch and by {parity.from_crowd:.1e} from "
                f"batch to batch, where {LARGEST_DIFFERENCE:g} is allowed; {path} is not written"
            )
    return parity


def to_safetensors(G: networks.Generator, path: str | Path, settings: Mapping) -> Parity:
    """Write the weights of G as one safetensors file, with the settings from which to build G in its header.

    Args:
        G, path, settings: as in ``to_onnx``; under ``network`` the ``NetworkConfig.as_dict()`` that G was built from.

    Raises:
        ExportError: a weight is not finite, or the weights read back are others.
        OSError: the disk refuses.
    """
    G = _ready(G)
    entries = replace(card(G, settings), opset=0).as_metadata()
    with runtime.replacing(path) as temporary:
        temporary.write_bytes(to_bytes(_weights(G), entries))
        back, _ = load_safetensors(temporary)
        z, labels = sampling.latents(64, G.latent_dim), torch.arange(64) % G.classes if G.classes else None
        difference = (sampling.sample(back, z, labels) - sampling.sample(G, z, labels)).abs().max().item()
        if difference:
            raise ExportError(f"the weights read back draw something else, by {difference:.1e}; {path} is not written")
    return Parity(difference, 0.0, len(z))


def load_safetensors(path: str | Path) -> tuple[networks.Generator, drawing.Card]:
    """Return the generator that ``to_safetensors`` wrote, in evaluation mode, and its card.

    Raises:
        ExportError: it is no such file, or its weights do not match their SHA-256.
    """
    try:
        with safe_open(path, "pt") as file:
            about = drawing.Card.from_metadata(file.metadata() or {})
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
        G, _ = networks.NetworkConfig(**about.recipe["network"]).build()
        G.load_state_dict(weights)
    except Exception as error:  # safetensors, JSON, the networks and torch each have their own
        raise ExportError(f"{path} is not a generator that was exported ({error}); export it again") from error
    if weights_digest(G) != about.weights_sha256:
        raise ExportError(f"{path} is damaged: its weights do not match their SHA-256; export it again")
    return G.eval().requires_grad_(False), about


def card(G: networks.Generator, settings: Mapping) -> drawing.Card:
    """Return what an exported file says about itself."""
    name = Path(settings.get("data") or "unnamed").name  # of a folder only its name, not where it lies
    names = data.BUNDLED.get(name, ())
    inputs = drawing.probe_inputs(PROBES, G.latent_dim, G.classes)
    drawn = sampling.sample(G, *(None if x is None else torch.from_numpy(x) for x in inputs))
    return drawing.Card(
        name=name,
        latent_dim=G.latent_dim,
        shape=G.shape,
        range=(-1.0, 1.0) if len(G.shape) > 1 else None,
        classes=names if len(names) == G.classes else tuple(map(str, range(G.classes))),
        recipe={key: settings[key] for key in ("network", "objective", "train") if key in settings},
        step=settings.get("step", 0),
        opset=OPSET,
        weights_sha256=weights_digest(G),
        directions=directions(G),
        probe=tuple(drawn.flatten(1).mean(dim=1).tolist()),
    )


def weights_digest(G: nn.Module) -> str:
    """Return the SHA-256 of a network's weights, as 64 hexadecimal digits: of the safetensors file of them alone."""
    return hashlib.sha256(to_bytes(_weights(G))).hexdigest()


def directions(G: networks.Generator, count: int = DIRECTIONS) -> tuple[tuple[float, ...], ...]:
    """Return the first ``count`` of ``directions.factorise(G)``, or all where there are fewer, as plain numbers."""
    return tuple(tuple(round(x, 6) for x in row) for row in factorise(G)[:count].tolist())


def compare(G: networks.Generator, path: str | Path, samples: int = 256, seed: int = 0) -> Parity:
    """Draw with G and with the ONNX file at ``path`` from the same z, and return the largest differences.

    Raises:
        ValueError: samples or seed is out of range; ``drawing.ModelError`` where the file cannot be read.
    """
    generator = drawing.OnnxGenerator(path)
    z = drawing.latents(samples, G.latent_dim, seed)
    labels = generator.labels(samples)
    here = sampling.sample(G, torch.from_numpy(z), None if labels is None else torch.from_numpy(labels)).numpy()
    there = generator.draw(z, labels)
    alone = [
        abs(generator.draw(z[i : i + 1], None if labels is None else labels[i : i + 1])[0] - there[i]).max()
        for i in range(min(samples, 32))
    ]
    return Parity(float(abs(here - there).max()), float(max(alone)), samples)


def _ready(G: networks.Generator) -> networks.Generator:
    """Return G on the CPU and in evaluation mode, if its weights are finite: a copy, so that the caller's stays."""
    for key, value in G.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ExportError(f"{key} holds NaN or infinity; export a checkpoint from before training diverged")
    return copy.deepcopy(G).cpu().eval().requires_grad_(False)


def _weights(G: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in G.state_dict().items()}


def _trace(G: networks.Generator) -> ModelProto:
    """Return G as an ONNX graph with a free batch size, with nothing in it that tells of this machine."""
    count = torch.export.Dim("N", min=1)
    inputs = {"z": torch.zeros(2, G.latent_dim)}
    if G.classes:
        inputs["labels"] = torch.zeros(2, dtype=torch.int64)
    traced = torch.export.export(
        _Doorless(G), tuple(inputs.values()), dynamic_shapes=({0: count},) * len(inputs), strict=False
    )
    program = torch.onnx.export(
        traced, dynamo=True, input_names=list(inputs), output_names=["samples"], opset_version=OPSET, verbose=False
    )
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with folders of this machine
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        if len(value.type.tensor_type.shape.dim) and value.type.tensor_type.shape.dim[0].dim_param:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model, full_check=True)
    return model
