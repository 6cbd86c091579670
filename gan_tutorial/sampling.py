"""Samples of a trained generator, paths between them, and the training images nearest to them."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan_tutorial import arrays, checks


def latents(count: int, latent_dim: int, seed: int = 0, truncation: float | None = None) -> Tensor:
    """Return latent vectors from N(0, 1): float32 (count, latent_dim), on the CPU.

    A seed gives the same numbers on every device, in the book and in the service.

    Args:
        truncation: draw from the part of N(0, 1) within ± this (Brock et al. 2019, section 3.1);
            None for no limit. Smaller means less varied samples, and not always better ones.

    Raises:
        ValueError: a count, seed or truncation is out of range.
    """
    checks.require_integer("count", count, least=1)
    checks.require_integer("seed", seed, least=0)
    if truncation is not None:
        checks.require_number("truncation", truncation, strict=True)
    return torch.from_numpy(arrays.latents(count, latent_dim, seed, truncation))


def generate(
    G: nn.Module,
    count: int,
    seed: int = 0,
    label: int | None = None,
    truncation: float | None = None,
) -> Tensor:
    """Return ``count`` samples of G, (count, *shape), on the CPU.

    Args:
        G: a generator.
        seed: of the latent vectors.
        label: the class of all samples; if not given, a conditional G makes each class in turn.
        truncation: as for ``latents``.

    Raises:
        ValueError: a number is out of range, or G has no such class.
    """
    classes = getattr(G, "classes", 0)
    if label is not None:
        if not classes:
            raise ValueError(f"label {label} was given, but the generator has no classes")
        checks.require_integer("label", label, 0, classes - 1)
    return sample(G, latents(count, G.latent_dim, seed, truncation), labels(G, count, label))


def labels(G: nn.Module, count: int, label: int | None = None) -> Tensor | None:
    """Return int64 labels (count,), all ``label`` or each class in turn; None without classes."""
    chosen = arrays.labels(count, getattr(G, "classes", 0), label)
    return None if chosen is None else torch.from_numpy(chosen)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; layers that were frozen in it stay so."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def sample(G: nn.Module, z: Tensor, labels: Tensor | None = None, batch_size: int = 500) -> Tensor:
    """Return G's samples (N, *shape), on the CPU, for z (N, latent_dim) and labels (N,).

    G is temporarily put into evaluation mode, so that a sample depends on its own z alone.

    Raises:
        ValueError: a sample is not finite.
    """
    device = next(G.parameters()).device
    inputs = (z,) if labels is None else (z, labels)
    batches = zip(*(x.split(batch_size) for x in inputs), strict=True)
    with evaluating(G):
        samples = torch.cat([G(*(x.to(device) for x in batch)).cpu() for batch in batches])
    if not torch.isfinite(samples).all():
        raise ValueError("the generator returned NaN or infinity; did its training diverge?")
    return samples


@torch.no_grad()
def recalibrate_batchnorm(
    G: nn.Module,
    batches: int = 50,
    batch_size: int = 100,
    seed: int = 10_000,
    inputs: Iterable[tuple[Tensor, ...]] | None = None,
) -> nn.Module:
    """Return a copy of G, in evaluation mode, with the BatchNorm statistics of its own samples.

    An average of weights, such as G_ema, has no statistics of its own until it has been run; here
    they are the mean over some batches.

    Args:
        inputs: the batches, each a tuple of all that G takes; by default ``batches`` batches of z,
            with all classes in turn if G has classes.
    """
    G = copy.deepcopy(G).train()
    device = next(G.parameters()).device
    norms = [module for module in G.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches that follow
    for batch in _batches(G, batches, batch_size, seed) if inputs is None else inputs:
        G(*(x.to(device) for x in batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return G.eval()


def _batches(
    G: nn.Module, batches: int, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of z and, if G has classes, labels."""
    asked = labels(G, batch_size)
    for index in range(batches):
        z = latents(batch_size, G.latent_dim, seed + index)
        yield (z,) if asked is None else (z, asked)


def lerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points (steps, F) on the straight line from ``start`` to ``end``, both (F,)."""
    assert start.shape == end.shape == (start.numel(),), "both ends must be vectors (F,)"
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device).unsqueeze(1)
    return (1 - t) * start + t * end


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points (steps, F) on the great arc from ``start`` to ``end``, both (F,).

    Spherical interpolation (White 2016, section 2.1). Between vectors of equal length the length is
    constant along the way, and in many dimensions nearly all vectors from N(0, 1) have nearly the
    same length. For parallel or opposite vectors, and from or to 0, it is the straight line.
    """
    u, v = start / start.norm(), end / end.norm()
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if not 1e-4 <= angle <= torch.pi - 1e-4:  # also NaN
        return lerp(start, end, steps)
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device).unsqueeze(1)
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)


class Nearest(NamedTuple):
    """The nearest images: their indices (N,), and the distances (N,)."""

    indices: Tensor
    distances: Tensor


def nearest(samples: Tensor, images: Tensor) -> Nearest:
    """Return the image nearest to each sample, by Euclidean distance over all values of an image.

    Of images that are nearer than about 0.03 any may be returned, not only the nearest.

    Args:
        samples: (N, …); pixels or features.
        images: (M, …) of the same kind.
    """
    indices = torch.cdist(samples.flatten(1), images.flatten(1)).argmin(dim=1)
    distances = (
        (samples - images[indices]).flatten(1).norm(dim=1)
    )  # cdist's own are off by 0.03 near 0
    return Nearest(indices, distances)
