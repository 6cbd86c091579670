"""Samples from a trained generator, paths between them, and the training images nearest to them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan_tutorial import networks, runtime


def latents(count: int, latent_dim: int, seed: int = 0, truncation: float | None = None) -> Tensor:
    """Draw latent vectors (count, latent_dim) from N(0, 1), on the CPU, so that a seed means the same on every device.

    Args:
        truncation: draw again every number beyond ± this (Brock et al. 2019, section 3.1); None for no limit. Smaller
            means more typical samples, and less varied ones.

    Raises:
        ValueError: a count, size, seed or truncation out of range.
    """
    runtime.require_integer("count", count, least=1)
    runtime.require_integer("latent_dim", latent_dim, least=1)
    runtime.require_integer("seed", seed, least=0)
    rng = torch.Generator().manual_seed(seed)
    if truncation is None:
        return torch.randn(count, latent_dim, generator=rng)
    runtime.require_number("truncation", truncation, strict=True)
    return nn.init.trunc_normal_(torch.empty(count, latent_dim), a=-truncation, b=truncation, generator=rng)


@torch.no_grad()
def sample(G: nn.Module, z: Tensor, labels: Tensor | None = None, batch_size: int = 500) -> Tensor:
    """Return G's samples (N, *shape), on the CPU, for latent vectors (N, latent_dim).

    G is put in evaluation mode for the purpose, so that a sample depends on its own z alone, and then back.

    Raises:
        ValueError: z or labels do not fit G, batch_size is below 1, or a sample is not finite.
    """
    runtime.require_integer("batch_size", batch_size, least=1)
    device, was_training = next(G.parameters()).device, G.training
    networks.require_labels(labels, len(z), getattr(G, "classes", 0))
    inputs = (z,) if labels is None else (z, labels)
    parts = zip(*(x.split(batch_size) for x in inputs), strict=True)
    G.eval()
    try:
        samples = [G(*(x.to(device) for x in part)) for part in parts]
    finally:
        G.train(was_training)
    samples = torch.cat(samples).cpu()
    if not torch.isfinite(samples).all():
        raise ValueError("the generator made NaN or infinity; were its weights saved after training diverged?")
    return samples


def lerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return ``steps`` points on the straight line from ``start`` to ``end``, both (F,): (steps, F)."""
    share = _shares(start, end, steps)
    return (1 - share) * start + share * end


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return ``steps`` points on the great arc from ``start`` to ``end``, both (F,): (steps, F).

    White 2016, section 2.1.

    Between vectors of one length the length stays the same on the way, and in many dimensions nearly all vectors from
    N(0, 1) have nearly one length. For parallel vectors, and from or to 0, it is the straight line.
    """
    share = _shares(start, end, steps)
    cosine = torch.dot(start / start.norm(), end / end.norm()).clamp(-1, 1)
    angle = torch.acos(cosine)
    if not 1e-4 <= angle <= torch.pi - 1e-4:  # NaN too
        return lerp(start, end, steps)
    return (torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end) / torch.sin(angle)


def _shares(start: Tensor, end: Tensor, steps: int) -> Tensor:
    runtime.require_integer("steps", steps, least=2)
    if start.ndim != 1 or start.shape != end.shape:
        raise ValueError(f"start and end must be vectors of one size, but are {tuple(start.shape)}, {tuple(end.shape)}")
    return torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device).unsqueeze(1)


class Nearest(NamedTuple):
    """The nearest images: their indices (N,), and the distances (N,)."""

    indices: Tensor
    distances: Tensor


def nearest(samples: Tensor, images: Tensor) -> Nearest:
    """Return for each sample the image nearest to it: Euclidean distance over all numbers of an image.

    Args:
        samples: (N, …); pixels or features.
        images: (M, …) of the same kind.

    Raises:
        ValueError: the shapes differ, there is nothing to compare with, or the numbers are integers.
    """
    if samples.shape[1:] != images.shape[1:] or not len(images):
        raise ValueError(
            f"samples and images must have one shape, but are {tuple(samples.shape)} and {tuple(images.shape)}"
        )
    if not samples.is_floating_point() or samples.dtype != images.dtype:
        raise ValueError(
            f"samples and images must have one floating-point dtype, but are {samples.dtype} and {images.dtype}; "
            "scale pixels with gan_tutorial.data.to_unit_range"
        )
    indices = torch.cdist(samples.flatten(1), images.flatten(1)).argmin(dim=1)
    distances = (samples - images[indices]).flatten(1).norm(dim=1)  # cdist's own are off by 0.03 where 0 is right
    return Nearest(indices, distances)
