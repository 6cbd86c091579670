"""An exported generator without PyTorch: read the file, draw latent vectors, run the network, make a picture.

This is what a service needs of the book: NumPy, Pillow and onnxruntime, and of a trained pair nothing but G.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Self

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native
from PIL import Image

FORMAT = "gan_tutorial onnx 1"
PADDING, MIDDLE = 2, 128  # pixels between the pictures of a grid, and their grey
_NORMAL = NormalDist()
_UNREADABLE = (native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented)


class ModelError(ValueError):
    """An exported file that cannot be read or trusted; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What an exported file says about itself; each field is a metadata entry of the file, in JSON.

    Attributes:
        name: the data that it was trained on.
        latent_dim: size of z, which is drawn from N(0, 1).
        shape: shape of one sample, such as (1, 28, 28).
        range: least and greatest value that a sample can have; None for points, which have no bounds.
        classes: the name of each class; empty where the network was told none.
        recipe: the settings of the training: networks, objective, loop.
        step: how many steps were made.
        opset: version of the ONNX operators.
        weights_sha256: of the generator's weights, as ``export.weights_digest`` computes it.
        directions: unit vectors (K, latent_dim) along which the first layer changes most.
        probe: mean of each of the pictures that ``probe_inputs`` asks for, as PyTorch drew them.
    """

    name: str
    latent_dim: int
    shape: tuple[int, ...]
    range: tuple[float, float] | None
    classes: tuple[str, ...]
    recipe: dict
    step: int
    opset: int
    weights_sha256: str
    directions: tuple[tuple[float, ...], ...]
    probe: tuple[float, ...]

    def as_metadata(self) -> dict[str, str]:
        """Return the card as texts to store in a file."""
        return {"format": FORMAT} | {field.name: json.dumps(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_metadata(cls, entries: dict[str, str]) -> Self:
        """Return the card that ``as_metadata`` stored.

        Raises:
            ModelError: it is no such card, or not whole.
        """
        if entries.get("format") != FORMAT:
            raise ModelError(f"its metadata do not say {FORMAT!r}; give a file that gan_tutorial export wrote")
        try:
            values = {field.name: json.loads(entries[field.name]) for field in fields(cls)}
        except (KeyError, json.JSONDecodeError) as error:
            raise ModelError(f"its metadata are not whole ({error}); export it again") from error
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


class OnnxGenerator:
    """A generator from an exported file, on the CPU.

    Args:
        path: a file that ``export.to_onnx`` wrote.
        threads: how many the network may use.

    Raises:
        ModelError: there is no such file, it is damaged, or it draws something else than when it was exported.
        ValueError: threads is not an integer of at least 1.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        _require_integer("threads", threads, 1, 1024)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = False  # batches differ in size, and an arena keeps room for the largest of each
        options.log_severity_level = 4  # what goes wrong is raised, and told once
        try:
            self._session = onnxruntime.InferenceSession(Path(path).read_bytes(), options, ["CPUExecutionProvider"])
        except FileNotFoundError as error:
            raise ModelError(f"there is no model at {path}; write one with gan_tutorial export") from error
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}); give the file of a model") from error
        except _UNREADABLE as error:
            raise ModelError(f"{path} is not a whole ONNX file ({error}); export it again") from error
        try:
            self.card = Card.from_metadata(self._session.get_modelmeta().custom_metadata_map)
        except ModelError as error:
            raise ModelError(f"{path} cannot be used: {error}") from error
        self._probe(path)

    def draw(self, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Return samples float32 (N, *shape) for z, float32 (N, latent_dim), and, with classes, labels, int64 (N,).

        Raises:
            ValueError: a shape, a dtype or a label does not fit.
        """
        size, classes = self.card.latent_dim, len(self.card.classes)
        if not isinstance(z, np.ndarray) or z.shape != (len(z), size) or z.dtype != np.float32 or not len(z):
            given = f"{z.dtype} {z.shape}" if isinstance(z, np.ndarray) else type(z).__name__
            raise ValueError(f"z must be float32 of shape (N, {size}), but is {given}")
        if not np.isfinite(z).all():
            raise ValueError("z must be finite, but holds NaN or infinity")
        if not classes:
            return self._session.run(None, {"z": z})[0]
        if not isinstance(labels, np.ndarray) or labels.shape != (len(z),) or labels.dtype != np.int64:
            given = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise ValueError(f"labels must be int64 of shape ({len(z)},), but are {given}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must lie in [0, {classes - 1}], but reach from {labels.min()} to {labels.max()}")
        return self._session.run(None, {"z": z, "labels": labels})[0]

    def labels(self, count: int, label: int | None = None) -> np.ndarray | None:
        """Return labels (count,) of one class, or of all in turn; None where there are no classes.

        Raises:
            ValueError: there is no such class.
        """
        classes = len(self.card.classes)
        if label is not None:
            if not classes:
                raise ValueError("class must be left out: this generator was not told any")
            _require_integer("class", label, 0, classes - 1)
            return np.full(count, label, np.int64)
        return np.arange(count, dtype=np.int64) % classes if classes else None

    def _probe(self, path: str | Path) -> None:
        """Draw what the exporter drew; a file that was damaged in its weights draws something else."""
        drawn = self.draw(*probe_inputs(len(self.card.probe), self.card.latent_dim, len(self.card.classes)))
        means = drawn.reshape(len(drawn), -1).mean(axis=1)
        if not np.allclose(means, self.card.probe, rtol=1e-3, atol=1e-3):
            raise ModelError(f"{path} draws something else than when it was exported: it is damaged; export it again")


def probe_inputs(count: int, latent_dim: int, classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return z (count, latent_dim), of variance 1, and labels, by a formula: the same with every version of NumPy."""
    z = math.sqrt(2) * np.sin(np.arange(1, count * latent_dim + 1, dtype=np.float64)).reshape(count, latent_dim)
    return z.astype(np.float32), np.arange(count, dtype=np.int64) % classes if classes else None


def latents(count: int, latent_dim: int, seed: int = 0, truncation: float | None = None) -> np.ndarray:
    """Draw latent vectors, float32 (count, latent_dim), from N(0, 1), or from its part within ± truncation.

    Vector i depends on seed and truncation alone, not on ``count``. The numbers are NumPy's, so a seed means something
    else here than in ``sampling.latents``.

    Raises:
        ValueError: a count, size, seed or truncation out of range.
    """
    _require_integer("count", count, 1)
    _require_integer("latent_dim", latent_dim, 1)
    _require_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    if truncation is None:
        return rng.standard_normal((count, latent_dim), dtype=np.float32)
    if isinstance(truncation, bool) or not isinstance(truncation, int | float) or not 0 < truncation < math.inf:
        raise ValueError(f"truncation must be a number in (0, inf), but is {truncation!r}")
    low = _NORMAL.cdf(-truncation)
    share = np.clip(low + (1 - 2 * low) * rng.random(count * latent_dim), 1e-16, 1 - 1e-16)
    z = np.fromiter(map(_NORMAL.inv_cdf, share.tolist()), np.float64, count * latent_dim)
    return z.clip(-truncation, truncation).astype(np.float32).reshape(count, latent_dim)


def moved(z: np.ndarray, directions: Sequence[Sequence[float]], shift: Sequence[float]) -> np.ndarray:
    """Return z (N, latent_dim) after ``shift[k]`` units along ``directions[k]``, for each k that is given."""
    if not len(shift):
        return z
    return z + np.asarray(shift, np.float32) @ np.asarray(directions[: len(shift)], np.float32)


def tile(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lay images (N, C, H, W) in [-1, 1] side by side, as ``plotting.tile`` does.

    Returns:
        uint8 (height, width) for C = 1, (height, width, 3) for C = 3.

    Raises:
        ValueError: they are no images, or columns is not an integer of at least 1.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images must have the shape (N, C, H, W) with C = 1 or 3, but have {images.shape}")
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    _require_integer("columns", columns, 1)
    pixels = np.rint((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    rows = math.ceil(count / columns)
    padded = np.full((rows * columns, height + PADDING, width + PADDING, channels), MIDDLE, np.uint8)
    padded[:count, :height, :width] = pixels.transpose(0, 2, 3, 1)
    grid = padded.reshape(rows, columns, height + PADDING, width + PADDING, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + PADDING), columns * (width + PADDING), channels)[:-PADDING, :-PADDING]
    return grid[..., 0] if channels == 1 else grid


def png(images: np.ndarray, columns: int | None = None) -> bytes:
    """Return images (N, C, H, W) in [-1, 1] as one PNG."""
    buffer = io.BytesIO()
    Image.fromarray(tile(images, columns)).save(buffer, "png", compress_level=1)  # small already, and in a hurry
    return buffer.getvalue()


def _require_integer(name: str, value: object, least: int, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        interval = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {interval}, but is {value!r}")
