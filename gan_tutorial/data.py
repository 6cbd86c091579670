"""Sets of images, each held as one uint8 tensor and scaled on the way out."""

import gzip
import hashlib
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

from gan_tutorial import checks, mixtures

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
BUNDLED = {"digits": DIGITS, "fashion": GARMENTS}
FLOWERS = tuple(f"{count} petals" for count in mixtures.PETALS)
PAIRS = BUNDLED | {"flowers": FLOWERS}  # classes of the sets with bundled networks
TORCHVISION = {
    "mnist": torchvision.datasets.MNIST,
    "fashion-mnist": torchvision.datasets.FashionMNIST,
    "cifar10": torchvision.datasets.CIFAR10,
}
NAMES = (*PAIRS, *TORCHVISION)
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
        name, pixels, labels, classes = self.name, self.pixels, self.labels, len(self.classes)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
            raise DataError(f"{name}: pixels must be uint8 (N, 1 or 3, H, W), not {kind(pixels)}")
        if not pixels.numel():
            raise DataError(f"{name}: there are no images; give at least one")
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise DataError(f"{name}: labels must be int64 ({len(pixels)},), not {kind(labels)}")
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(f"{name}: labels must be in [0, {classes}), not {kind(labels)}")

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

    def hold_out(self, share: float = 0.2) -> tuple[Self, Self]:
        """Return the set without a share of its images, and these, for validation.

        They are drawn at random, but always the same ones from the same set.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        count = round(share * len(self))
        return self.subset(order[count:]), self.subset(order[:count])

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a random batch, drawn with replacement, and its labels.

        Returns:
            float32 (count, C, H, W) in [-1, 1], and int64 (count,). With ``rng = step_rng(seed,
            step)`` the batch is a pure function of (seed, step).
        """
        chosen = torch.randint(len(self), (count,), generator=rng, device=rng.device)
        return to_unit_range(self.pixels[chosen]), self.labels[chosen]


@dataclass(frozen=True)
class StackedDigits:
    """Three digits as red, green and blue, each drawn by itself: data with 1,000 known modes.

    The benchmark of mode collapse of Metz et al. 2017 (section 3.3.2) and of Lin et al. 2018
    (section 4.2). Stacks are made as they are drawn, so nothing but the digits is stored.

    Attributes:
        digits: grey images in ten classes, such as ``load_images("digits")``.
    """

    digits: ImageSet

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (3, H, W) of one stack."""
        return (3, *self.digits.shape[1:])

    @property
    def shares(self) -> Tensor:
        """The share of each mode, float32 (1000,): the product of the shares of its digits."""
        shares = torch.bincount(self.digits.labels, minlength=10) / len(self.digits)
        return torch.einsum("a,b,c->abc", shares, shares, shares).flatten()

    def to(self, device: str | torch.device) -> Self:
        """Return the stacks with their digits on ``device``."""
        return replace(self, digits=self.digits.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random stacks, and their modes: 100 a + 10 b + c for the digits a, b and c.

        Returns:
            float32 (count, 3, H, W) in [-1, 1], and int64 (count,) in [0, 1000).
        """
        chosen = torch.randint(len(self.digits), (count, 3), generator=rng, device=rng.device)
        a, b, c = self.digits.labels[chosen].unbind(1)  # (count,) each
        return to_unit_range(self.digits.pixels[chosen].squeeze(2)), 100 * a + 10 * b + c


def to_unit_range(images: Tensor) -> Tensor:
    """Scale images from [0, 255], uint8 or float, to float32 in [-1, 1], the range of tanh.

    Raises:
        DataError: a float value is outside [0, 255], or NaN.
    """
    if images.dtype != torch.uint8 and images.numel():
        low, high = images.min().item(), images.max().item()
        if not 0 <= low <= high <= 255:  # also NaN
            raise DataError(f"pixels must be in [0, 255], not {low:g} to {high:g}; scaled already?")
    return images.float() / 127.5 - 1


def require_images(images: Tensor, shape: Sequence[int] | None = None) -> None:
    """Raise DataError unless images are float (N, C, H, W) in [-1, 1], with ``shape`` (C, H, W)."""
    expected = f"(N, {', '.join(map(str, shape))})" if shape else "(N, 1 or 3, H, W)"
    channels = images.shape[1] if images.ndim == 4 and len(images) else 0
    if channels not in (1, 3) or (shape and tuple(images.shape[1:]) != tuple(shape)):
        raise DataError(f"images must have the shape {expected}, not {tuple(images.shape)}")
    if not images.is_floating_point() or not images.detach().abs().max() <= 1 + 1e-4:  # also NaN
        raise DataError(f"images must be float in [-1, 1], not {kind(images)}; see to_unit_range")


def kind(tensor: Tensor) -> str:
    """Return dtype, shape and range of a tensor, for messages."""
    text = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    if not tensor.numel():
        return text
    low, high = tensor.detach().aminmax()
    return f"{text} from {low.item():.4g} to {high.item():.4g}"


def to_bytes(images: Tensor) -> Tensor:
    """Scale images (N, C, H, W) from [-1, 1] to uint8 in [0, 255], the inverse of to_unit_range.

    Raises:
        DataError: the images have another shape, dtype or range.
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
        name: ``digits`` or ``fashion`` (bundled with the package); ``flowers`` (drawn by
            ``make_flowers``, 8,000 to train and 2,000 others to test); ``mnist``, ``fashion-mnist``
            or ``cifar10`` (from torchvision); or the path of a folder, whose subfolders are the
            classes.
        split: ``train`` or ``test``; in a folder, every fifth image of a class is in the test
            split.
        size: height and width to draw at or resize to; by default 32 for flowers and for a folder,
            else the stored size.
        channels: 1 for grey or 3 for colour; by default 3 for flowers and for a folder, else as
            stored.
        root: folder of torchvision's files; by default ``~/.cache/gan_tutorial``.
        download: let torchvision download missing files.

    Raises:
        DataError: an unknown name, a missing or damaged file, a folder without images.
        ValueError: another argument is out of range.
    """
    checks.require_choice("split", split, SPLITS)
    if size is not None:
        checks.require_integer("size", size, least=1)
    if channels is not None:
        checks.require_choice("channels", str(channels), ("1", "3"))
    if name in BUNDLED:
        images = _load_bundled(name, split)
    elif name == "flowers":
        count, seed = (8000, 0) if split == "train" else (2000, 1)
        images, _ = make_flowers(count, size or 32, seed)
    elif name in TORCHVISION:
        images = _load_torchvision(name, split, root, download)
    elif str(name) and Path(name).is_dir():
        return _load_folder(Path(name), split, size or 32, channels or 3)
    else:
        known = ", ".join(NAMES)
        raise DataError(f"there is no data set or folder {str(name)!r}; use {known}, or a folder")
    return _resize(images, size, channels)


def make_flowers(count: int, side: int = 32, seed: int = 0) -> tuple[ImageSet, mixtures.Flowers]:
    """Return ``count`` drawn flowers in colour, (3, side, side), and the factors of each.

    The number of petals, 3 to 8, is the class. Sets of different seeds have no flower in common.
    """
    flowers = mixtures.flowers(count, seed)
    labels = flowers.petals - mixtures.PETALS.start
    return ImageSet(flowers.draw(side), labels, FLOWERS, "flowers"), flowers


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
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
        fault = "damaged (its SHA-256 differs)" if path.is_file() else f"missing from {folder}"
        raise DataError(f"the bundled file {name} is {fault}; install the package again")
    return path


def _load_bundled(name: str, split: str) -> ImageSet:
    with np.load(asset(f"{name}-{split}.npz"), allow_pickle=False) as file:
        pixels, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    return ImageSet(pixels.unsqueeze(1), labels.long(), BUNDLED[name], name)


def _load_torchvision(name: str, split: str, root: str | Path | None, download: bool) -> ImageSet:
    """Load through torchvision, from ``root`` or from a system package of the data."""
    subfolder = TORCHVISION[name].__name__
    root = Path(root or Path.home() / ".cache" / "gan_tutorial")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            system = _system_folder(name) if not (root / subfolder).exists() else None
            if system is not None:
                _unpack(system, Path(scratch) / subfolder / "raw")
            place, download = (scratch, False) if system else (root, download)
            images = TORCHVISION[name](place, train=split == "train", download=download)
    except (RuntimeError, OSError, ValueError, EOFError, AssertionError, zlib.error) as error:
        advice = "give its place with root=, or let torchvision fetch it with download=True"
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read from {root} ({reason}); {advice}") from error
    pixels = torch.as_tensor(images.data)
    pixels = pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels.unsqueeze(1)
    return ImageSet(pixels, torch.as_tensor(images.targets), tuple(images.classes), name)


def _system_folder(name: str) -> Path | None:
    """Return the folder of a system package, such as Debian's dataset-fashion-mnist, or None."""
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
    """Read a folder's images, cropped to a square and resized; its subfolders are the classes."""
    folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    homes = {home: paths for home in folders if (paths := _images_below(home))}
    homes = homes or {folder: _images_below(folder)}
    if not any(homes.values()):
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise DataError(f"{folder} has no image ({', '.join(IMG_EXTENSIONS)}), but {found}")
    chosen = [
        (path, label)
        for label, paths in enumerate(homes.values())
        for index, path in enumerate(paths)
        if (index % 5 == 4) == (split == "test")
    ]
    if not chosen:
        raise DataError(f"{folder} has too few images for a {split} split, a fifth of each class")
    colour = v2.Grayscale(1) if channels == 1 else v2.RGB()
    fit = v2.Compose([v2.Resize(size), v2.CenterCrop(size), colour])
    pixels = torch.stack([v2.functional.pil_to_tensor(fit(_open(path))) for path, _ in chosen])
    labels = torch.tensor([label for _, label in chosen])
    return ImageSet(pixels, labels, tuple(home.name for home in homes), str(folder))


def _images_below(folder: Path) -> list[Path]:
    paths = (p for p in folder.rglob("*") if not p.name.startswith("."))
    return sorted(p for p in paths if p.suffix.lower() in IMG_EXTENSIONS)


def _open(path: Path):
    """Return the image at ``path`` as PIL has it, in RGB."""
    try:
        return default_loader(str(path))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read ({error}); repair or delete it") from error


def _resize(images: ImageSet, size: int | None, channels: int | None) -> ImageSet:
    pixels = images.pixels
    if size and size != pixels.shape[-1]:
        pixels = v2.functional.resize(pixels, [size, size], antialias=True)
    if channels and channels != pixels.shape[1]:
        grey = channels == 1
        pixels = v2.functional.rgb_to_grayscale(pixels) if grey else pixels.repeat(1, 3, 1, 1)
    return replace(images, pixels=pixels)
