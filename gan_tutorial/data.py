"""Real data: images as one uint8 tensor, scaled on the way out."""

import gzip
import hashlib
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torchvision
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, default_loader
from torchvision.transforms import v2

from gan_tutorial import runtime

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
BUNDLED = {"digits": DIGITS, "fashion": GARMENTS}
TORCHVISION = {
    "mnist": torchvision.datasets.MNIST,
    "fashion-mnist": torchvision.datasets.FashionMNIST,
    "cifar10": torchvision.datasets.CIFAR10,
}
SPLITS = ("train", "test")


class DataError(ValueError):
    """Data that are missing, damaged or of the wrong kind; the message says what to do."""


@dataclass(frozen=True)
class ImageSet:
    """Images held as one tensor, so that a batch is a single indexing operation on any device.

    Attributes:
        pixels: uint8 (N, C, H, W) in [0, 255].
        labels: int64 (N,) in [0, len(classes)).
        classes: the name of each class.
        name: what the set is called in messages.

    Raises:
        DataError: a dtype, a shape or a label does not fit.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "images"

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] not in (1, 3):
            raise DataError(
                f"pixels of {self.name} must be uint8 (N, C, H, W) with C = 1 or 3, "
                f"but are {self.pixels.dtype} {tuple(self.pixels.shape)}"
            )
        if not self.pixels.numel():
            raise DataError(f"{self.name} holds no image; give at least one")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise DataError(
                f"labels of {self.name} must be int64 ({len(self.pixels)},), one for each image, "
                f"but are {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(
                f"labels of {self.name} must lie in [0, {len(self.classes) - 1}], one for each class name, "
                f"but reach from {self.labels.min()} to {self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        return tuple(self.pixels.shape[1:])

    @property
    def images(self) -> Tensor:
        """All images: float32 (N, C, H, W) in [-1, 1]."""
        return to_unit_range(self.pixels)

    def to(self, device: str | torch.device) -> Self:
        """Return the set with its tensors on ``device``."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | slice) -> Self:
        """Return the set of the images at ``indices``."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` images with replacement: float32 (count, C, H, W) in [-1, 1], and int64 labels (count,).

        With ``rng = runtime.step_rng(seed, step)`` the batch is a pure function of (seed, step).
        """
        chosen = torch.randint(len(self), (count,), generator=rng, device=rng.device)
        return to_unit_range(self.pixels[chosen]), self.labels[chosen]


def to_unit_range(images: Tensor) -> Tensor:
    """Scale images from [0, 255], uint8 or float, to float32 in [-1, 1], the range of tanh.

    Raises:
        DataError: a float value lies outside [0, 255], or is NaN.
    """
    if images.dtype != torch.uint8 and images.numel() and not (images.min() >= 0 and images.max() <= 255):
        raise DataError(
            f"to_unit_range takes images in [0, 255], but these reach from {images.min()} to {images.max()}; "
            "are they scaled already?"
        )
    return images.float() / 127.5 - 1


def require_images(images: Tensor, shape: Sequence[int] | None = None) -> None:
    """Raise DataError unless ``images`` is float (N, C, H, W) in [-1, 1], C = 1 or 3, of ``shape`` (C, H, W)."""
    given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise DataError(f"images must be a tensor (N, C, H, W) with N at least 1 and C = 1 or 3, but got {given}")
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise DataError(f"images must have the shape (N, {', '.join(map(str, shape))}), but got {given}; resize them")
    if not images.is_floating_point():
        raise DataError(
            f"images must be floating point in [-1, 1], but are {images.dtype}; "
            "scale them with gan_tutorial.data.to_unit_range"
        )
    reach = images.detach().abs().max().item()
    if math.isnan(reach):
        raise DataError("images must lie in [-1, 1], but hold NaN; look for the step that produced it")
    if reach > 1 + 1e-4:
        raise DataError(
            f"images must lie in [-1, 1], but reach {reach:.4g}; scale them with gan_tutorial.data.to_unit_range"
        )


def to_bytes(images: Tensor) -> Tensor:
    """Turn images (N, C, H, W) in [-1, 1] into uint8 in [0, 255]: the inverse of ``to_unit_range``.

    Raises:
        DataError: the shape, dtype or range is another.
    """
    require_images(images)
    return ((images.detach() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def load_images(
    name: str | Path,
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    root: str | Path | None = None,
    download: bool = False,
) -> ImageSet:
    """Load a set of images by name, or the images in a folder.

    Args:
        name: ``digits`` or ``fashion`` (bundled with the package); ``mnist``, ``fashion-mnist`` or ``cifar10``
            (through torchvision); else the path of a folder, whose subfolders are the classes.
        split: ``train`` or ``test``; of a folder, every fifth image of a class is held out for the test.
        size: height and width to resize to; of a folder 32 by default, else as stored.
        channels: 1 or 3, to turn colour to grey or back; of a folder 3 by default, else as stored.
        root: where torchvision keeps or puts its files; by default ``~/.cache/gan_tutorial``.
        download: let torchvision download what is missing.

    Raises:
        DataError: an unknown name or split, a missing or damaged file, a folder without images.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, but is {split!r}")
    if size is not None:
        runtime.require_integer("size", size, least=1)
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 or 3, but is {channels!r}")
    if name in BUNDLED:
        images = _load_bundled(name, split)
    elif name in TORCHVISION:
        images = _load_torchvision(name, split, root, download)
    elif str(name) and Path(name).is_dir():
        return _load_folder(Path(name), split, size or 32, channels or 3)
    else:
        known = ", ".join([*BUNDLED, *TORCHVISION])
        raise DataError(f"no data set or folder is called {str(name)!r}; use one of {known}, or the path of a folder")
    return _resize(images, size, channels)


def asset(name: str) -> Path:
    """Return the path of a bundled file, after checking its SHA-256 against assets/SHA256SUMS.

    Raises:
        DataError: the file is missing or damaged.
    """
    folder = Path(str(resources.files("gan_tutorial") / "assets"))
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    if name not in sums:
        raise DataError(f"no bundled file is called {name!r}; there are {', '.join(sums)}")
    path = folder / name
    if not path.is_file():
        raise DataError(f"the bundled file {name} is missing from {folder}; install the package again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
        raise DataError(f"the bundled file {name} is damaged (its SHA-256 differs); install the package again")
    return path


def _load_bundled(name: str, split: str) -> ImageSet:
    with np.load(asset(f"{name}-{split}.npz"), allow_pickle=False) as file:
        pixels, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    return ImageSet(pixels.unsqueeze(1), labels.long(), BUNDLED[name], name)


def _load_torchvision(name: str, split: str, root: str | Path | None, download: bool) -> ImageSet:
    """Load through torchvision, from ``root`` or from a system package of the data."""
    kind = TORCHVISION[name]
    root = Path(root or Path.home() / ".cache" / "gan_tutorial")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            system = _system_folder(name) if not (root / kind.__name__).exists() else None
            if system is not None:
                _unpack(system, Path(scratch) / kind.__name__ / "raw")
            images = kind(scratch if system else root, train=split == "train", download=download and not system)
    except (RuntimeError, OSError, ValueError, EOFError, AssertionError, zlib.error) as error:
        raise DataError(
            f"{name} cannot be read from {root} ({' '.join(str(error).split())}); "
            "give its place with root=, or let torchvision fetch it with download=True"
        ) from error
    pixels = torch.as_tensor(images.data)
    pixels = pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels.unsqueeze(1)
    return ImageSet(pixels, torch.as_tensor(images.targets), tuple(images.classes), name)


def _system_folder(name: str) -> Path | None:
    """Return the folder of a system package such as Debian's dataset-fashion-mnist, if it is there."""
    for share in os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":"):
        folder = Path(share) / "datasets" / name
        if folder.is_dir():
            return folder
    return None


def _unpack(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for packed in source.glob("*.gz"):
        with gzip.open(packed) as read, (target / packed.stem).open("wb") as write:
            shutil.copyfileobj(read, write)


def _load_folder(folder: Path, split: str, size: int, channels: int) -> ImageSet:
    """Read, crop to a square and resize the images below a folder; its subfolders are the classes."""
    below = {p: _images_below(p) for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    homes = {home: paths for home, paths in below.items() if paths} or {folder: _images_below(folder)}
    if not any(homes.values()):
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise DataError(f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)}); it holds {found}")
    chosen = [
        (path, label)
        for label, paths in enumerate(homes.values())
        for index, path in enumerate(paths)
        if (index % 5 == 4) == (split == "test")
    ]
    if not chosen:
        raise DataError(f"{folder} has too few images for a {split} split: every fifth of a class is held out")
    fit = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.Grayscale(channels) if channels == 1 else v2.RGB()])
    pixels = torch.stack([v2.functional.pil_to_tensor(fit(_open(path))) for path, _ in chosen])
    labels = torch.tensor([label for _, label in chosen])
    return ImageSet(pixels, labels, tuple(home.name for home in homes), str(folder))


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and not p.name.startswith("."))


def _open(path: Path):
    """Return the image at ``path`` as PIL has it, in RGB."""
    try:
        return default_loader(str(path))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error}); mend or remove it") from error


def _resize(images: ImageSet, size: int | None, channels: int | None) -> ImageSet:
    pixels = images.pixels
    if size and size != pixels.shape[-1]:
        pixels = v2.functional.resize(pixels, [size, size], antialias=True)
    if channels and channels != pixels.shape[1]:
        pixels = v2.functional.rgb_to_grayscale(pixels) if channels == 1 else pixels.repeat(1, 3, 1, 1)
    return replace(images, pixels=pixels)
