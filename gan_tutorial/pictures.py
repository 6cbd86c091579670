"""Picture files, read as a viewer shows them, and the folders that hold them. No PyTorch."""

import functools
import io
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

BACKGROUND = "white"  # what transparent pictures lie on
FORMATS = (  # not EPS, PDF or WMF, which start other programs
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI",
    "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
ENDINGS = {end: kind for end, kind in Image.registered_extensions().items() if kind in FORMATS}
OPENED = [kind for kind in FORMATS if kind in Image.OPEN]  # older versions of Pillow lack AVIF
RUN = ("checkpoint.safetensors", "best.safetensors")  # what the folder of a run holds
COMMON = (".jpg", ".png", ".gif", ".webp", ".avif", ".tif", ".bmp")  # for messages


class PictureError(ValueError):
    """A file that is not a picture, or that viewers show differently; the message says why."""


class Found(NamedTuple):
    """The picture files of a folder.

    Attributes:
        classes: the files below each subfolder that has some, by its name, sorted; empty if there
            are no such subfolders.
        loose: the files in the folder itself.
        skipped: what else there is, and how many: kinds such as ``.txt`` or ``hidden``.
    """

    classes: dict[str, list[Path]]
    loose: list[Path]
    skipped: Counter[str]


def find(folder: str | Path) -> Found:
    """Return the picture files of a folder; the folders of runs and hidden files are skipped."""
    found = Found({}, [], Counter())
    for place in sorted(Path(folder).iterdir(), key=lambda path: path.name):
        before = found.skipped.total()
        files = sorted(_walk(place, found.skipped), key=Path.as_posix)
        if not place.is_dir():
            found.loose.extend(files)
        elif files:
            found.classes[place.name] = files
        elif found.skipped.total() == before:
            found.skipped["empty subfolders"] += 1
    return found


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, so that its pictures are samples and curves."""
    return any((folder / name).is_file() for name in RUN)


def _walk(place: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield the picture files at or below a place, and count all others."""
    if place.name.startswith("."):
        skipped["hidden"] += 1
    elif place.is_dir():
        if is_run(place):
            skipped["folders of runs"] += 1
            return
        for child in place.iterdir():
            if child.is_dir() and child.is_symlink():  # it may lead to a folder above
                skipped["links to folders"] += 1
            else:
                yield from _walk(child, skipped)
    elif place.exists() and not place.is_file():  # such as a pipe, where a read may block forever
        skipped["special files"] += 1
    elif place.suffix.lower() in ENDINGS:
        yield place
    else:
        skipped[place.suffix.lower() or "files without an extension"] += 1


class Picture(NamedTuple):
    """A picture as a viewer shows it.

    Attributes:
        image: in mode RGB, in sRGB, upright, and opaque: transparent parts lie on white.
        frames: how many pictures the file has; ``image`` is the first.
    """

    image: Image.Image
    frames: int


def read(content: bytes) -> Picture:
    """Return the first picture of a file as a viewer shows it.

    Its orientation (EXIF), depth, palette, transparency and colour profile are applied.

    Raises:
        PictureError: the file is not a picture, is damaged, is larger than Pillow's limit against
            decompression bombs, or has 32-bit values, on which viewers differ.
    """
    try:
        with warnings.catch_warnings():  # about a colour or a tag that Pillow copes with
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=OPENED) as image:
                animated = image.format != "MPO" and getattr(image, "is_animated", False)
                frames = image.n_frames if animated else 1
                image.seek(0)
                return Picture(_as_shown(image), frames)
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        raise PictureError("not a picture that Pillow knows") from error
    except MemoryError as error:
        raise PictureError("too large for this machine's memory") from error
    except Exception as error:  # on a damaged file, Pillow raises whatever its decoder ran into
        raise PictureError(" ".join(str(error).split()) or type(error).__name__) from error


def _as_shown(image: Image.Image) -> Image.Image:
    colour, alpha = _without_alpha(image)
    if profile := image.info.get("icc_profile"):
        colour = _in_srgb(colour, profile)
    shown = colour.convert("RGB")
    if alpha is not None:
        opaque = Image.new("RGB", shown.size, BACKGROUND)
        opaque.paste(shown, mask=alpha)
        shown = opaque
    shown.info = image.info
    try:
        return ImageOps.exif_transpose(shown)
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return shown  # no viewer can read such EXIF data


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours of an image, with 8 bits each, and its alpha if it has any."""
    if image.mode[0] in "IF":
        return _eight_bits(image)
    if image.mode in ("LA", "La"):
        image = image.convert("LA")
        return image.getchannel("L"), image.getchannel("A")
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of a PNG with 16 bits; Pillow reads the upper 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode in ("RGBA", "RGBa", "PA") or key is not None:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    profiled = image.mode in ("L", "RGB", "CMYK", "LAB")  # what colour profiles describe
    return image if profiled else image.convert("RGB"), None


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    sixteen = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    if image.mode == "F" or not sixteen:
        kind = "floats" if image.mode == "F" else "integers"
        raise PictureError(f"has 32-bit {kind}, and does not say which are black and white")
    values = np.asarray(image).astype(np.float64)
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype("u1"))
    tags = getattr(image, "tag_v2", {})
    largest = 2 ** tags.get(258, (16,))[0] - 1  # a TIFF may have 12 bits
    grey = np.rint(255 * values.clip(0, largest) / largest).astype(np.uint8)
    if tags.get(262) == 0:  # TIFF's WhiteIsZero
        grey = 255 - grey
    return Image.fromarray(grey), alpha


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        return ImageCms.applyTransform(image, _to_srgb(profile, image.mode))
    except (ImageCms.PyCMSError, OSError):
        return image  # a profile that is damaged, or for another colour space, is ignored
