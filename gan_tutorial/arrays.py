"""What the book and the service share, in NumPy: latent vectors, labels, grids of images, PNG.

No PyTorch here, so that the service needs none.
"""

import io
import math
from statistics import NormalDist

import numpy as np
from PIL import Image

PADDING, GREY = 2, 128  # pixels between the images of a grid, and their level


def latents(
    count: int, latent_dim: int, seed: int = 0, truncation: float | None = None
) -> np.ndarray:
    """Return latent vectors from N(0, 1): float32 (count, latent_dim).

    Vector i depends on the seed and the truncation, not on ``count``.

    Args:
        truncation: draw from the part of N(0, 1) within ± this (Brock et al. 2019, section 3.1);
            None for no limit. Smaller means more typical samples, and less varied ones.
    """
    rng = np.random.default_rng(seed)
    if truncation is None:
        return rng.standard_normal((count, latent_dim), dtype=np.float32)
    normal = NormalDist()
    low = normal.cdf(-truncation)
    uniform = low + (1 - 2 * low) * rng.random(count * latent_dim)
    uniform = uniform.clip(1e-16, 1 - 1e-16)
    z = np.fromiter(map(normal.inv_cdf, uniform.tolist()), np.float64, count * latent_dim)
    return z.clip(-truncation, truncation).astype(np.float32).reshape(count, latent_dim)


def labels(count: int, classes: int, label: int | None = None) -> np.ndarray | None:
    """Return int64 labels (count,): all ``label``, or each class in turn; None without classes."""
    if not classes:
        return None
    if label is None:
        return np.arange(count, dtype=np.int64) % classes
    return np.full(count, label, np.int64)


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Scale images (N, C, H, W) from [-1, 1] to pixels, uint8 (N, H, W, C) in [0, 255]."""
    levels = np.rint((images.clip(-1, 1) + 1) * 127.5)
    return levels.astype(np.uint8).transpose(0, 2, 3, 1)


def tile(pixels: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange pixels, uint8 (N, H, W, C), in a grid: uint8 (height, width, C).

    Args:
        columns: images in a row; by default the smallest square that holds all.
    """
    count, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (rows * columns, height + PADDING, width + PADDING, channels)
    padded = np.full(shape, GREY, np.uint8)
    padded[:count, :height, :width] = pixels
    grid = padded.reshape(rows, columns, *shape[1:]).swapaxes(1, 2)  # (rows, H, columns, W, C)
    grid = grid.reshape(rows * (height + PADDING), columns * (width + PADDING), channels)
    return grid[:-PADDING, :-PADDING]


def png(picture: np.ndarray) -> bytes:
    """Return a picture, uint8 (height, width, C) with C = 1 or 3, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
        buffer, "png", compress_level=1
    )
    return buffer.getvalue()
