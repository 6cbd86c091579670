"""Explorers of a generator, which draws or plays in the page: its weights travel in the output.

The page needs none of PyTorch's layers but linear and convolutional ones: BatchNorm in evaluation
mode is a scale and a shift, and the label's embedding a bias, so both are folded into the weights.
``generator.js`` computes the same images and sounds from the folded ones.
"""

import base64
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gan_tutorial.live import Explorer
from gan_tutorial.networks import Generator

BITS = 14  # of a weight in the page: as exact as float16, an eighth smaller
SOUND_BITS = 8  # for sounds: the error is some 39 dB below them, their own noise is louder


class Layer(NamedTuple):
    """A linear layer with its BatchNorm folded in: what it is, and its numbers.

    Attributes:
        kind: ``Dense``, ``Convolution`` or ``TransposedConvolution``, as in ``numbers.js``.
        weight: as PyTorch stores it.
        bias: (outputs,), or (classes, outputs) of the first layer of a conditional generator.
        stride: of a convolution.
        padding: of a convolution.
    """

    kind: str
    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0


KINDS = {
    nn.Linear: "Dense",
    nn.Conv1d: "Convolution",
    nn.Conv2d: "Convolution",
    nn.ConvTranspose1d: "TransposedConvolution",
    nn.ConvTranspose2d: "TransposedConvolution",
}


@torch.no_grad()
def fold(G: Generator) -> list[Layer]:
    """Return a generator's layers with BatchNorm and embedding folded in, on the CPU in float64.

    ReLU is between them, tanh after the last. The first layer's bias, plus its columns for the
    label times the label's embedding, is a bias for each class.

    Args:
        G: with ``layers`` like those of ``MLPGenerator`` or ``ConvGenerator`` for images, or of
            ``SoundGenerator``.
    """
    found = []
    for module in G.layers:
        if type(module) in KINDS:
            weight = module.weight.cpu().double()
            outputs = weight.shape[1 if KINDS[type(module)].startswith("T") else 0]
            bias = torch.zeros(outputs) if module.bias is None else module.bias.cpu()
            options = [] if isinstance(module, nn.Linear) else [module.stride[0], module.padding[0]]
            found.append(Layer(KINDS[type(module)], weight, bias.double(), *options))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            found[-1] = _fold_norm(found[-1], module)
        else:
            assert isinstance(module, nn.Unflatten | nn.ReLU | nn.Tanh), f"unknown: {module}"
        if len(found) == 1 and G.embedding is not None and found[0].bias.ndim == 1:
            first, table = found[0], G.embedding.weight.cpu().double()
            of_z, of_label = first.weight.split(G.latent_dim, dim=1)
            found[0] = first._replace(weight=of_z, bias=first.bias + table @ of_label.T)
    return found


def _fold_norm(layer: Layer, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Layer:
    """Return a layer that also scales and shifts each channel, as BatchNorm in evaluation mode."""
    scale = norm.weight.cpu().double() / (norm.running_var.cpu().double() + norm.eps).sqrt()
    shift = norm.bias.cpu().double() - norm.running_mean.cpu().double() * scale
    pixels = layer.bias.shape[-1] // len(scale)  # a dense layer has several outputs in a channel
    scale, shift = scale.repeat_interleave(pixels), shift.repeat_interleave(pixels)
    sides = [1] * (layer.weight.ndim - 2)
    rows = (1, -1) if layer.kind == "TransposedConvolution" else (-1, 1)  # inputs come first there
    weight = layer.weight * scale.reshape(*rows, *sides)
    return layer._replace(weight=weight, bias=layer.bias * scale + shift)


def pack(G: Generator, bits: int = BITS) -> dict[str, object]:
    """Return a generator of square grey images or of sounds as ``generator.js`` takes it, for JSON.

    ``weights`` holds all numbers in base64, ``bits`` bits each: whole multiples of the step of
    their tensor, layer after layer, weights before biases.
    """
    layers, steps, numbers = [], [], []
    for layer in fold(G):
        options = {"outputs": layer.bias.shape[-1], "stride": layer.stride}
        options["padding"] = layer.padding
        options["inputs"] = layer.weight.shape[0 if layer.kind.startswith("T") else 1]
        options["kernel"] = layer.weight.shape[-1]
        if layer.weight.ndim == 3:  # of sounds
            options["dims"] = 1
        layers.append([layer.kind, options])
        for tensor in (layer.weight, layer.bias):
            step = max(tensor.abs().max().item(), 1e-12) / (2 ** (bits - 1) - 1)
            steps.append(float(f"{step:.9g}"))
            numbers.append((tensor.flatten() / steps[-1]).round().long().numpy())
    numbers = np.concatenate(numbers) + 2 ** (bits - 1)
    rows = (numbers[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    weights = base64.b64encode(np.packbits(rows.astype(np.uint8)).tobytes()).decode()
    return {
        "latent": G.latent_dim,
        "classes": G.classes,
        "side": G.shape[-1],
        "bits": bits,
        "layers": layers,
        "steps": steps,
        "weights": weights,
    }


def _require(G: Generator, dimensions: int = 3, classes: int = 0) -> None:
    """Raise ValueError unless G makes grey squares (or sounds, 2), in so many classes at least."""
    kind = {3: "square grey images (1, S, S)", 2: "sounds (1, L)"}[dimensions]
    if len(G.shape) != dimensions or G.shape[0] != 1 or len(set(G.shape[1:])) != 1:
        raise ValueError(f"the explorer needs a generator of {kind}, not of {tuple(G.shape)}")
    if G.classes < classes:
        raise ValueError(f"the explorer needs at least {classes} classes, but G has {G.classes}")


def _explorer(G: Generator, name: str, title: str, hint: str, alt: str, **data: object) -> Explorer:
    data["G"] = pack(G)
    return Explorer(name, {}, title, hint, alt, name, scripts=("generator",), data=data)


def latent(G: Generator) -> Explorer:
    """Return a walk between two latent vectors of G, and samples with z within a limit.

    Args:
        G: a generator of square grey images.

    Raises:
        ValueError: G makes something else.
    """
    _require(G)
    hint = (
        "Walk from a to b. In the middle of the line z is short, and on average the image is "
        "fainter: try several ends. Then lower the limit c: the samples grow alike and fade to "
        "black, as their z grow short. Stretch z again, and see what is left of that."
    )
    alt = (
        "Two rows of nine threes, by the generator that comes with the book, lead from one "
        "handwriting to another, on a straight line above and on an arc below. A curve shows that "
        "z is shorter in the middle of the line and keeps its length on the arc. Below are "
        "twenty samples."
    )
    return _explorer(G, "latent", "Walk in the latent space", hint, alt)


def classes(G: Generator) -> Explorer:
    """Return the digits that a conditional G draws when it is asked for them.

    Args:
        G: a conditional generator of square grey images.

    Raises:
        ValueError: G makes something else, or has fewer than two classes.
    """
    _require(G, classes=2)
    hint = (
        "Ask for a digit. Click one of its twelve samples, and all ten digits above take its z, "
        "and with it slant and stroke. Then lower the limit of z, or mix in another label."
    )
    alt = (
        "Ten buttons with the digits from 0 to 9, all drawn with one z and in one handwriting, by "
        "the generator that comes with the book. Below, twelve samples of the digit 3, each in "
        "another handwriting, and beside them the mean distance between two images."
    )
    return _explorer(G, "classes", "Ask for a digit", hint, alt)


def directions(
    G: Generator, vectors: Mapping[str, Tensor], spread: Mapping[str, float]
) -> Explorer:
    """Return ten digits of a conditional G that move along directions, and their measured shape.

    Args:
        G: a conditional generator of square grey images.
        vectors: directions (latent_dim,) in z by name; one slider for each.
        spread: of ``slant`` and ``thickness``, the standard deviation within the classes.

    Raises:
        ValueError: G makes something else, or has no classes.
    """
    _require(G, classes=1)
    hint = (
        "Move each slider on its own, and see which bar it moves. Which direction found from the "
        "weights slants the digits? Does the random one do nothing? Then undo one with another."
    )
    alt = (
        "Two rows of ten digits: above as drawn, below moved three steps along the direction of "
        "the slant, so that all lean to the right. Below, bars show "
        "the mean change in slant and in thickness, in standard deviations."
    )
    rounded = {name: [round(x, 5) for x in vector.tolist()] for name, vector in vectors.items()}
    spread = {name: float(value) for name, value in spread.items()}
    options = {"directions": rounded, "spread": spread}
    return _explorer(G, "directions", "Directions in the latent space", hint, alt, **options)


def notes(G: Generator, pitches: Mapping[str, float], rate: int) -> Explorer:
    """Return a keyboard that plays the sounds of G, and real strings beside them.

    Args:
        G: a conditional generator of sounds (1, length), such as a ``SoundGenerator``.
        pitches: in hertz, of each label, by the name of its note.
        rate: samples per second.

    Raises:
        ValueError: G makes something else, or there is not a pitch for each of its classes.
    """
    _require(G, dimensions=2, classes=1)
    if len(pitches) != G.classes:
        raise ValueError(f"G has {G.classes} classes, but there are {len(pitches)} pitches")
    hint = (
        "Play the scale, or click a note and go on with the keys from 1 to 0; nothing sounds by "
        "itself. Add thirty unheard sounds of the generator, then thirty of real strings: whose "
        "points vary more? Then raise the share of the next note: real strings glide evenly. Does "
        "the generator?"
    )
    alt = (
        "A keyboard of ten notes from D3 to C5, with A3 pressed. Below, the wave of the sound, "
        "which sinks below half in a quarter of a second, and its spectrum, with peaks at the "
        "multiples of 220 Hz. In a plane of decay and brightness, orange points of generated "
        "sounds lie close to one line; blue ones of real strings are scattered on both its sides."
    )
    data = {"G": pack(G, SOUND_BITS), "notes": dict(pitches), "rate": rate}
    title = "A keyboard for the generator"
    return Explorer("notes", {}, title, hint, alt, "notes", scripts=("generator",), data=data)
