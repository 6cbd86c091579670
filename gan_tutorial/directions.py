"""What a generator has learned: measurable shapes, directions in z that change them, single units, a real image's z."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from tqdm import tqdm

from gan_tutorial import data, networks, runtime, sampling


def slant(images: Tensor) -> Tensor:
    """Return the slant (N,) of grey images (N, 1, H, W) in [-1, 1]: pixels to the right for each pixel up.

    Raises:
        ValueError: the images are not grey, or one has no ink; DataError (a ValueError) on another range.
    """
    _, across_up, up = _moments(images)
    return across_up / up


def width(images: Tensor) -> Tensor:
    """Return the width (N,) of grey images (N, 1, H, W) in pixels: the ink's deviation sideways, its slant undone."""
    across, across_up, up = _moments(images)
    return (across - across_up**2 / up).clamp_min(0).sqrt()


def thickness(images: Tensor) -> Tensor:
    """Return the mean thickness (N,) of the strokes in grey images (N, 1, H, W) in pixels: 2 · area / perimeter.

    The perimeter is the sum of the lengths of all gradients, which for ink with soft edges is the length of its edges.
    """
    ink = _ink(images)
    padded = pad(ink, (1, 1, 1, 1))
    across, down = padded.diff(dim=2)[:, :-1], padded.diff(dim=1)[:, :, :-1]
    return 2 * ink.sum((1, 2)) / (across**2 + down**2 + 1e-12).sqrt().sum((1, 2))  # no infinite slope where it is flat


PROPERTIES = {"slant": slant, "thickness": thickness, "width": width}


def _ink(images: Tensor) -> Tensor:
    """Return the ink (N, H, W) in [0, 1] of grey images."""
    data.require_images(images)
    ink = (images.mean(dim=1) + 1) / 2
    if images.shape[1] != 1 or not (ink.sum((1, 2)) > 0.01).all():
        raise ValueError("shapes are measured on grey images (N, 1, H, W) with ink on them; one has none, or colours")
    return ink


def _moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the second central moments of the ink (N,), in pixels squared: sideways, mixed, upwards."""
    ink = _ink(images)
    ink = ink / ink.sum((1, 2), keepdim=True)
    up, across = (torch.arange(size, dtype=ink.dtype, device=ink.device) for size in ink.shape[1:])
    rows, columns = ink.sum(2), ink.sum(1)
    up = (rows @ up).unsqueeze(1) - up  # (N, H); images have their first row on top
    across = across - (columns @ across).unsqueeze(1)  # (N, W)
    return (columns * across**2).sum(1), torch.einsum("nhw,nh,nw->n", ink, up, across), (rows * up**2).sum(1)


def centred(values: Tensor, labels: Tensor) -> Tensor:
    """Return values (N, …) less the mean of their class, for labels (N,): what varies within the classes."""
    if labels.shape != values.shape[:1]:
        raise ValueError(f"values (N, …) need labels (N,), but got {tuple(values.shape)} and {tuple(labels.shape)}")
    result = values.clone()
    for label in labels.unique():
        result[labels == label] -= values[labels == label].mean(dim=0)
    return result


def factorise(G: networks.Generator, count: int | None = None) -> Tensor:
    """Return unit vectors (count, latent_dim), on the CPU, along which a step in z changes G's first layer most.

    They are the right singular vectors of the columns that read z (Shen and Zhou 2021), the largest singular value
    first. A sign is free: the largest number of each vector is positive.

    Raises:
        ValueError: G does not begin with a linear layer, or count is out of range.
    """
    layers = getattr(G, "layers", [G])
    if not isinstance(G, networks.Generator) or not isinstance(layers[0], nn.Linear):
        raise ValueError(f"factorise needs a generator that begins with a linear layer, but got {type(G).__name__}")
    weight = layers[0].weight.detach().cpu().double()[:, : G.latent_dim]
    _require_count(count, min(weight.shape))
    return _signed(torch.linalg.svd(weight, full_matrices=False).Vh[:count]).float()


def principal(z: Tensor, activations: Tensor, count: int) -> Tensor:
    """Return unit vectors (count, F) in the space of z that go with the principal components of activations.

    Each is the least-squares fit of z to the coordinate along one component, as for BigGAN in Härkönen et al. 2020.

    Args:
        z: (N, F), from N(0, 1).
        activations: (N, …) that a layer computed from z; with classes, ``centred`` first.

    Raises:
        ValueError: the sizes do not fit, or count is out of range.
    """
    if z.ndim != 2 or len(activations) != len(z):
        raise ValueError(
            f"z (N, F) needs activations (N, …), but they are {tuple(z.shape)}, {tuple(activations.shape)}"
        )
    _require_count(count, min(z.shape))
    flat = activations.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    coordinates = torch.linalg.eigh(flat @ flat.T).eigenvectors[:, -count:].flip(1)  # (N, count), the largest first
    return _signed(normalize(coordinates.T @ z.double(), dim=1)).float()


def _require_count(count: int | None, most: int) -> None:
    if count is not None:
        runtime.require_integer("count", count, least=1)
        if count > most:
            raise ValueError(f"count must be at most {most}, the number of directions that there are, but is {count}")


def _signed(vectors: Tensor) -> Tensor:
    return vectors * vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()


class Probe(NamedTuple):
    """A linear guess of a property from z: ``z @ slope + intercept``."""

    slope: Tensor
    intercept: Tensor

    @property
    def direction(self) -> Tensor:
        """The unit vector (F,) along which the guess grows fastest."""
        return normalize(self.slope, dim=0)

    def r2(self, z: Tensor, values: Tensor) -> float:
        """Return the share of the variance of values (N,) that the guess explains; on new z it may be negative."""
        residual = values - z.to(self.slope) @ self.slope - self.intercept
        return 1 - (residual.square().mean() / values.var(correction=0)).item()


def probe(z: Tensor, values: Tensor) -> Probe:
    """Return the least-squares fit of values (N,) to latent vectors (N, F), with N above F.

    Raises:
        ValueError: the shapes do not fit, there are too few, or a value is not finite.
    """
    if z.ndim != 2 or values.shape != z.shape[:1] or len(z) <= z.shape[1] + 1:
        raise ValueError(
            f"a probe needs z (N, F), N above F + 1, and values (N,), but got {tuple(z.shape)}, {tuple(values.shape)}"
        )
    if not torch.isfinite(values).all():
        raise ValueError("values must be finite, but hold NaN or infinity; was a property measured on empty images?")
    inputs = torch.cat([z, torch.ones_like(z[:, :1])], dim=1).double()
    solution = torch.linalg.lstsq(inputs, values.double().unsqueeze(1)).solution.squeeze(1).to(z)
    return Probe(solution[:-1], solution[-1])


def walk(z: Tensor, direction: Tensor, steps: Sequence[float]) -> Tensor:
    """Return z (N, F) moved along ``direction`` (F,) by each of ``steps``: (len(steps), N, F)."""
    if z.ndim != 2 or direction.shape != z.shape[1:]:
        raise ValueError(f"z (N, F) and direction (F,) do not fit: {tuple(z.shape)}, {tuple(direction.shape)}")
    return z + torch.as_tensor(steps).to(z)[:, None, None] * direction.to(z)


@contextlib.contextmanager
def switched_off(layer: nn.Module, units: Sequence[int]) -> Iterator[None]:
    """Set the channels ``units`` of what ``layer`` puts out, (N, C, …), to 0 while the block runs (Bau et al. 2019).

    Raises:
        ValueError: a unit is not an integer of at least 0, or, when the layer runs, there is no such channel.
    """
    for unit in units:
        runtime.require_integer("a unit", unit, least=0)

    def silence(_layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        if len(units) and max(units) >= output.shape[1]:
            raise ValueError(f"the layer has {output.shape[1]} channels, so there is no unit {max(units)}")
        output = output.clone()
        output[:, list(units)] = 0
        return output

    handle = layer.register_forward_hook(silence)
    try:
        yield
    finally:
        handle.remove()


class Inversion(NamedTuple):
    """The best z (N, latent_dim) for each image, and the mean squared error per pixel of every start (N, starts)."""

    z: Tensor
    errors: Tensor


def invert(
    G: networks.Generator,
    images: Tensor,
    labels: Tensor | None = None,
    starts: int = 4,
    steps: int = 200,
    rate: float = 0.1,
    seed: int = 0,
) -> Inversion:
    """Search by Adam, from several random starts, for the z whose sample is nearest to each image (N, C, H, W).

    The rate falls to 0 along a cosine. All is returned on the CPU (Zhu et al. 2016, section 3.1, without a network
    that guesses where to start).

    Raises:
        ValueError: the images or labels do not fit G, or a number is out of range; DataError on another range.
    """
    data.require_images(images, G.shape)
    networks.require_labels(labels, len(images), G.classes)
    runtime.require_integer("steps", steps, least=1)
    runtime.require_integer("starts", starts, least=1)
    runtime.require_number("rate", rate, strict=True)
    device, was_training = next(G.parameters()).device, G.training
    z = sampling.latents(len(images) * starts, G.latent_dim, seed).to(device).requires_grad_()
    target = images.to(device).repeat_interleave(starts, dim=0)
    asked = () if labels is None else (labels.to(device).repeat_interleave(starts),)
    optimiser = torch.optim.Adam([z], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    G.eval()
    try:
        for _ in tqdm(range(steps), desc="inversion"):
            error = (G(z, *asked) - target).square().flatten(1).mean(dim=1)
            (z.grad,) = torch.autograd.grad(error.sum(), z)  # z alone: G's own gradients stay as they are
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            error = (G(z, *asked) - target).square().flatten(1).mean(dim=1)
    finally:
        G.train(was_training)
    errors = error.unflatten(0, (-1, starts)).cpu()
    found = z.detach().cpu().unflatten(0, (-1, starts))
    return Inversion(found[torch.arange(len(found)), errors.argmin(dim=1)], errors)
