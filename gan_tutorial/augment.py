"""Differentiable augmentation: the same kinds of random change for real and generated images."""

from collections.abc import Sequence

import torch
from torch import Tensor


def augment(
    images: Tensor, policy: Sequence[str], rng: torch.Generator, part: tuple[int, int] = (0, 1)
) -> Tensor:
    """Change every image at random, by each augmentation in ``policy``.

    DiffAugment, Zhao et al. 2020, section 3.2.

    The result is differentiable in ``images``, so G learns through it. Pixels may leave [-1, 1].

    Args:
        images: (N, C, H, W), real or generated, about [-1, 1].
        policy: any of ``colour``, ``translation`` and ``cutout``; empty for no change.
        rng: the source of the changes, which differ from image to image.
        part: (k, n) if the images are part k of a batch split across n processes: the random
            numbers are drawn for the whole batch, so they do not depend on n.
    """
    assert images.ndim == 4 or not policy, "images must be (N, C, H, W)"
    for name in policy:
        images = AUGMENTATIONS[name](images, rng, part=part)
    return images


def colour(images: Tensor, rng: torch.Generator, part: tuple[int, int] = (0, 1)) -> Tensor:
    """Add up to ± 0.5 of brightness, then scale saturation by 0 to 2 and contrast by 0.5 to 1.5."""
    k, n = part
    numbers = torch.rand(3, n * len(images), 1, 1, 1, generator=rng, device=images.device)
    brightness, saturation, contrast = numbers.chunk(n, dim=1)[k]
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + 2 * saturation * (images - grey)  # leaves a grey image as it is
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (0.5 + contrast) * (images - mean)


def translation(
    images: Tensor, rng: torch.Generator, reach: float = 1 / 8, part: tuple[int, int] = (0, 1)
) -> Tensor:
    """Shift by up to ``reach`` of the size in each direction; new pixels are 0, mid-grey."""
    chosen = []  # which old row, or column, goes to each place: (N, size, size) of 0s and 1s
    for size in images.shape[2:]:
        most = round(size * reach)
        shift = _integers(len(images), -most, most + 1, rng, part)
        place = torch.arange(size, device=images.device)
        source = (place + shift).unsqueeze(2)  # (N, size, 1)
        chosen.append((source == place).to(images.dtype).unsqueeze(1))
    rows, columns = chosen
    return rows @ images @ columns.mT  # products: indexing's backward pass sums in no fixed order


def cutout(
    images: Tensor, rng: torch.Generator, side: float = 1 / 2, part: tuple[int, int] = (0, 1)
) -> Tensor:
    """Set a rectangle of ``side`` of the size, centred anywhere in the image, to 0, mid-grey."""
    keep = []
    for size in images.shape[2:]:
        start = _integers(len(images), 0, size, rng, part) - round(size * side) // 2
        place = torch.arange(size, device=images.device)
        keep.append((place < start) | (place >= start + round(size * side)))  # (N, size)
    return images * (keep[0].unsqueeze(2) | keep[1].unsqueeze(1)).unsqueeze(1)


AUGMENTATIONS = {"colour": colour, "translation": translation, "cutout": cutout}
POLICY = tuple(AUGMENTATIONS)  # the paper's choice for little data


def _integers(
    count: int, low: int, high: int, rng: torch.Generator, part: tuple[int, int]
) -> Tensor:
    """Return random integers (count, 1) in [low, high): those of part k of a batch of n parts."""
    k, n = part
    numbers = torch.randint(low, high, (n * count, 1), generator=rng, device=rng.device)
    return numbers.chunk(n)[k]
