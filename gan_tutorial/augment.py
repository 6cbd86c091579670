"""Differentiable augmentation: D sees real and generated images only through the same kinds of random change."""

from collections.abc import Sequence

import torch
from torch import Tensor


def augment(images: Tensor, policy: Sequence[str], rng: torch.Generator) -> Tensor:
    """Change every image at random by each part of ``policy`` in turn (Zhao et al. 2020, DiffAugment, section 3.2).

    The result is differentiable in ``images``, so G learns through it. Pixels may leave [-1, 1].

    Args:
        images: (N, C, H, W), real or generated, about [-1, 1].
        policy: any of ``colour``, ``translation`` and ``cutout``; empty for no change.
        rng: draws the changes, each image its own.

    Raises:
        ValueError: a part is unknown, or images have another shape.
    """
    require_policy(policy)
    if policy and (images.ndim != 4 or not images.is_floating_point()):
        raise ValueError(
            f"augmentation takes images, floating point (N, C, H, W), but got {images.dtype} of {tuple(images.shape)}"
        )
    for part in policy:
        images = AUGMENTATIONS[part](images, rng)
    return images


def require_policy(policy: Sequence[str]) -> None:
    """Raise ValueError unless every part of ``policy`` is known."""
    if isinstance(policy, str) or not set(policy) <= set(AUGMENTATIONS):
        raise ValueError(f"augment must be a sequence of {', '.join(AUGMENTATIONS)}, but is {policy!r}")


def colour(images: Tensor, rng: torch.Generator) -> Tensor:
    """Add up to ± 0.5 of brightness, then scale saturation by up to 2 and contrast by 0.5 to 1.5."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, generator=rng, device=images.device)
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + 2 * saturation * (images - grey)  # leaves a grey image as it is
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (0.5 + contrast) * (images - mean)


def translation(images: Tensor, rng: torch.Generator, reach: float = 1 / 8) -> Tensor:
    """Shift by up to ``reach`` of the size in each direction; what comes into view is 0, mid-grey."""
    count, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) + _integers(count, round(height * reach), rng)  # (N, H)
    columns = torch.arange(width, device=images.device) + _integers(count, round(width * reach), rng)  # (N, W)
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    source = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)  # (N, H, W)
    moved = images.flatten(2).gather(2, source.flatten(1).unsqueeze(1).expand(-1, channels, -1))
    return moved.unflatten(2, (height, width)) * inside.unsqueeze(1)


def cutout(images: Tensor, rng: torch.Generator, side: float = 1 / 2) -> Tensor:
    """Set a rectangle of ``side`` of the size, with its centre anywhere in the image, to 0, mid-grey."""
    keep = []
    for size in images.shape[2:]:
        centre = torch.randint(size, (len(images), 1), generator=rng, device=images.device)
        start = centre - round(size * side) // 2
        place = torch.arange(size, device=images.device)
        keep.append((place < start) | (place >= start + round(size * side)))  # (N, size)
    return images * (keep[0].unsqueeze(2) | keep[1].unsqueeze(1)).unsqueeze(1)


AUGMENTATIONS = {"colour": colour, "translation": translation, "cutout": cutout}
POLICY = tuple(AUGMENTATIONS)  # the paper's choice for little data


def _integers(count: int, reach: int, rng: torch.Generator) -> Tensor:
    """Return integers (count, 1) in [-reach, reach]."""
    return torch.randint(-reach, reach + 1, (count, 1), generator=rng, device=rng.device)
