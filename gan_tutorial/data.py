"""Sets of images, each held as one uint8 tensor and scaled on the way out."""

import gzip
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Self

import filelock
import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

from gan_tutorial import checks, mixtures, pictures

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
TORCHVISION_ADVICE = " You can use download=True to download it"
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
        fingerprint: SHA-256 of what the images were read from, wherever that lies, before they were
            resized; empty if they were not read.

    Raises:
        DataError: a dtype, a shape or a label does not fit.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "images"
    fingerprint: str = ""

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
    def summary(self) -> str:
        """One line: how many images there are, of which shape, and in which classes."""
        count, height, width = len(self), *self.shape[1:]
        colour = "grey" if self.shape[0] == 1 else "colour"
        counts = self.labels.bincount(minlength=len(self.classes)).tolist()
        classes = [f"{name} {n}" for name, n in zip(self.classes, counts, strict=True)]
        name = Path(self.name).name or self.name  # without the path of a folder
        images = "1 image" if count == 1 else f"{count} images"
        of = listed(classes, 12) if len(classes) > 1 else "one class"
        return f"{name}: {images}, {height}×{width}, {colour}; {of}"

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

    def hold_out(self) -> tuple[Self, Self]:
        """Return the set without a fifth of its images, and that fifth, for validation.

        They are drawn at random, but always the same ones from the same set.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        count = round(0.2 * len(self))
        return self.subset(order[count:]), self.subset(order[:count])

    def draw_labels(self, count: int, seed: int = 0) -> Tensor:
        """Return int64 labels (count,) of images drawn at random, none twice before all are drawn.

        These are for judging a conditional generator, which learnt each class as often as it occurs
        here. The images of ``metrics.Evaluator``'s floor are drawn this way too, as long as
        there are enough; with equal or exact class shares even real images do not score one floor.
        """
        rng = torch.Generator().manual_seed(seed)
        rounds = -(-count // len(self))
        chosen = torch.cat([torch.randperm(len(self), generator=rng) for _ in range(rounds)])
        return self.labels.cpu()[chosen[:count]]

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
    """Three digits as red, green and blue, each drawn independently: data with 1,000 known modes.

    The mode-collapse benchmark of Metz et al. 2017 (section 3.3.1) and of Lin et al. 2018
    (section 4.2). Stacks are made as they are drawn, so nothing but the digits is stored.

    Attributes:
        digits: grey images in ten classes, such as ``load_images("digits")``.

    Raises:
        DataError: the images are not grey, or not in ten classes.
    """

    digits: ImageSet

    def __post_init__(self) -> None:
        channels, classes = self.digits.shape[0], len(self.digits.classes)
        if (channels, classes) != (1, 10):
            found = f"{channels} channels and {classes} classes"
            raise DataError(f"stacks need grey digits in ten classes, not images with {found}")

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
        DataError: a float value is outside [0, 255], or NaN; or all are in [0, 1], but not equal.
    """
    if images.dtype != torch.uint8 and images.numel():
        low, high = images.min().item(), images.max().item()
        if images.is_floating_point() and 0 <= low < high <= 1:  # as torchvision's ToTensor scales
            found = f"all are in [0, 1], {low:g} to {high:g}"
            raise DataError(f"pixels must be in [0, 255], but {found}; scaled already?")
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


def require_fit(name: str, shape: Sequence[int], classes: int, images: ImageSet) -> None:
    """Raise ValueError unless a model of ``shape`` and ``classes`` (0: none) fits the images."""
    if images.shape != tuple(shape) or 0 < classes < len(images.classes):
        made, given = (tuple(shape), classes), (images.shape, len(images.classes))
        raise ValueError(f"{name} has shape and classes {made}, but the data have {given}")


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
    verbose: bool = True,
) -> ImageSet:
    """Load a set of images by name, or the images in a folder.

    Images in a folder look as a viewer shows them: upright, transparent parts on white, in sRGB,
    and only the first of an animation. Each is cropped to its central square, and resized.

    Args:
        name: ``digits`` or ``fashion`` (bundled with the package); ``flowers`` (drawn by
            ``make_flowers``, 8,000 to train and 2,000 others to test); ``mnist``, ``fashion-mnist``
            or ``cifar10`` (from torchvision); or the path of a folder, whose subfolders are the
            classes. ``Path("digits")`` or ``"./digits"`` is a folder in any case.
        split: ``train`` or ``test``; in a folder, every fifth image of a class is in the test
            split.
        size: height and width to draw at or resize to; by default 32 for flowers and for a folder,
            else the stored size.
        channels: 1 for grey or 3 for colour; by default 3 for flowers and for a folder, else as
            stored.
        root: folder of torchvision's files; by default ``~/.cache/gan_tutorial``.
        download: let torchvision download missing files.
        verbose: for a folder, print one line on what was read and what was not, and show a progress
            bar if it takes long.

    Raises:
        DataError: an unknown name, missing or damaged files; or a folder that has no images, is a
            run's, has images beside its classes, or has more images than fit into memory.
        ValueError: another argument is out of range.
    """
    checks.require_choice("split", split, SPLITS)
    if size is not None:
        checks.require_integer("size", size, least=1)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1, grey, or 3, colour, but is {channels!r}")
    if name in NAMES and Path(name).is_dir() and not pictures.is_run(Path(name)):
        here = f"{name} is this package's set; for the folder of that name write ./{name}"
        warnings.warn(here, stacklevel=2)
    if name in BUNDLED:
        images = _load_bundled(name, split)
    elif name == "flowers":
        count, seed = (8000, 0) if split == "train" else (2000, 1)
        images, _ = make_flowers(count, size or 32, seed)
        drawn = f"flowers, {count}, seed {seed}"  # the last bit of a pixel may differ by machine
        images = replace(images, fingerprint=hashlib.sha256(drawn.encode()).hexdigest())
    elif name in TORCHVISION:
        images = _load_torchvision(name, split, root, download)
    elif str(name) and Path(name).is_dir():
        return _load_folder(Path(name), split, size or 32, channels or 3, verbose)
    else:
        known = ", ".join(NAMES)
        raise DataError(f"there is no data set or folder {str(name)!r}; use {known}, or a folder")
    if not images.fingerprint:
        images = replace(images, fingerprint=_fingerprint(images))
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
    try:
        root = Path(root or Path.home() / ".cache" / "gan_tutorial")
        with tempfile.TemporaryDirectory() as scratch:
            system = _system_folder(name) if not (root / subfolder).exists() else None
            if system is not None:
                _unpack(system, Path(scratch) / subfolder / "raw")
            place, download = (scratch, False) if system else (root, download)
            load = partial(TORCHVISION[name], place, train=split == "train")
            try:
                images = load()
            except RuntimeError:
                if not download:
                    raise
                with _alone(root):
                    images = load(download=True)
    except (RuntimeError, OSError, ValueError, EOFError, AssertionError, zlib.error) as error:
        place = "give its place with root= (--root FOLDER)"
        advice = f"{place}, or let torchvision fetch it with download=True (--download)"
        reason = " ".join(str(error).split()).removesuffix(TORCHVISION_ADVICE)
        where = f"{root}" if root else "the home folder"
        raise DataError(f"{name} cannot be read from {where} ({reason}); {advice}") from error
    pixels = torch.as_tensor(images.data)
    pixels = pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels.unsqueeze(1)
    return ImageSet(pixels, torch.as_tensor(images.targets), tuple(images.classes), name)


def _alone(folder: Path) -> filelock.BaseFileLock:
    """Return a lock on a folder: of several ranks one downloads, and the others find its files."""
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / ".download.lock")


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


def _load_folder(
    folder: Path, split: str, size: int, channels: int, verbose: bool = True
) -> ImageSet:
    """Read a folder's images, cropped to a square and resized; its subfolders are the classes."""
    found = _find(folder)
    homes = found.classes or {folder.resolve().name: found.loose}
    chosen = [
        (path, label)
        for label, paths in enumerate(homes.values())
        for index, path in enumerate(paths)
        if (index % 5 == 4) == (split == "test")
    ]
    if not chosen:
        raise DataError(f"{folder} has too few images for a {split} split, a fifth of each class")
    shape = (len(chosen), channels, size, size)
    try:
        pixels = torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{folder}: {len(chosen)} images of {channels}×{size}×{size} bytes do not fit into "
            "memory; give a smaller size, or fewer images"
        ) from error
    sizes, faults, frames, digest = [], [], 0, hashlib.sha256()
    bar = tqdm(chosen, "reading", unit=" images", delay=1, leave=False, disable=not verbose)
    for index, (path, _) in enumerate(bar):
        try:
            content = path.read_bytes()
            picture = pictures.read(content)
        except (OSError, pictures.PictureError) as error:
            reason = getattr(error, "strerror", None) or error
            faults.append(f"{path.relative_to(folder)} ({reason})")
            continue
        square = ImageOps.fit(picture.image, (size, size), Image.Resampling.BILINEAR)
        square = square.convert("L") if channels == 1 else square
        pixels[index] = v2.functional.pil_to_tensor(square)
        sizes.append(picture.image.size)
        frames += picture.frames > 1
        digest.update(os.fsencode(path.relative_to(folder).as_posix()) + b"\0")
        digest.update(hashlib.sha256(content).digest())
    if faults:
        unread = f"{len(faults)} of {len(chosen)} images cannot be read: {listed(faults, 4)}"
        raise DataError(f"{folder}: {unread}; repair, convert or delete them")
    labels = torch.tensor([label for _, label in chosen])
    names = tuple(map(_printable, homes))
    images = ImageSet(pixels, labels, names, str(folder), digest.hexdigest())
    if verbose:
        line = [images.summary, _spread(sizes)]
        rest = sum(map(len, homes.values())) - len(chosen)
        line += [f"{rest} more are in the other split"] if rest else []
        line += [f"of {frames} with several pictures, only the first"] if frames else []
        skipped = [f"{kind} {n}" for kind, n in sorted(found.skipped.items())]
        line += [f"skipped: {listed(skipped, 12)}"] if skipped else []
        tqdm.write(_printable("; ".join(line)))
    return images


def _find(folder: Path) -> pictures.Found:
    """Return the image files of a folder to learn from.

    Raises:
        DataError: there are none, it is the folder of a run, or there are some beside the classes.
    """
    if pictures.is_run(folder):
        fault = "holds a run, whose samples and curves are not data"
        raise DataError(f"{folder} {fault}; move the images to another folder")
    found = pictures.find(folder)
    if found.classes and found.loose:
        beside = listed([f"{name}: {len(paths)}" for name, paths in found.classes.items()], 4)
        fault = f"{len(found.loose)} images beside subfolders with images ({beside})"
        advice = "move them into a subfolder too, or all images into one place"
        raise DataError(f"{folder} has {fault}, which would be classes; {advice}")
    if not found.classes and not found.loose:
        there = listed([f"{kind} {n}" for kind, n in sorted(found.skipped.items())], 5)
        known = ", ".join(pictures.COMMON)
        raise DataError(f"{folder} has no image ({known}, …), but {there or 'nothing'}")
    return found


def _fingerprint(images: ImageSet) -> str:
    digest = hashlib.sha256(json.dumps([images.classes, images.shape]).encode())
    for tensor in (images.pixels, images.labels):
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def listed(items: Sequence[str], most: int) -> str:
    """Return up to ``most`` items, comma-separated, and how many more there are."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *more])


def _printable(name: str) -> str:
    """Return a name with escapes in place of what UTF-8 cannot encode."""
    return name.encode("utf-8", "backslashreplace").decode()


def _spread(sizes: Sequence[tuple[int, int]]) -> str:
    """Return the range of the widths and of the heights of images, in words."""
    width, height = zip(*sizes, strict=True)
    low, high = f"{min(width)}×{min(height)}", f"{max(width)}×{max(height)}"
    return f"files of {low} pixels" if low == high else f"files of {low} to {high} pixels"


def _resize(images: ImageSet, size: int | None, channels: int | None) -> ImageSet:
    pixels = images.pixels
    if size and size != pixels.shape[-1]:
        pixels = v2.functional.resize(pixels, [size, size], antialias=True)
    if channels and channels != pixels.shape[1]:
        grey = channels == 1
        pixels = v2.functional.rgb_to_grayscale(pixels) if grey else pixels.repeat(1, 3, 1, 1)
    return replace(images, pixels=pixels)
