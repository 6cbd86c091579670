"""Figures and players in one house style.

Every function returns its figure and leaves nothing open in pyplot, so a notebook cell that
ends in it shows it once. A player is a row of pictures with a slider and a play button: plain HTML
that works with no kernel.
"""

import base64
import html
import io
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gan_tutorial import arrays, checks, data, files

# Okabe and Ito's palette for any colour vision, without its yellow, which is pale on white.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#5F6368",
)  # fmt: skip

STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "figure.facecolor": "white",  # opaque, so that black labels stay readable in the dark theme
    "figure.figsize": (6.4, 3.6),
    "font.size": 11,
    "grid.alpha": 0.25,
    "image.cmap": "gray",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.facecolor": "white",
}
PIXELS = 80_000_000  # of a picture; Pillow warns of larger ones
LONGEST = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}  # sides of a picture in pixels
_player_numbers = itertools.count()


def use_house_style() -> None:
    """Make the house style matplotlib's default, by one line at the top of a notebook."""
    plt.rcParams.update(STYLE)


def subplots(rows: int = 1, columns: int = 1, **options) -> tuple[Figure, Axes | np.ndarray]:
    """Return ``plt.subplots(rows, columns, **options)`` in the house style, closed in pyplot."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, **options)
    plt.close(figure)
    return figure, axes


def tile(images: Tensor, columns: int | None = None) -> np.ndarray:
    """Arrange images in a grid, with two pixels of grey between them.

    Args:
        images: (N, C, H, W) in [-1, 1], with C = 1 or 3.
        columns: images in a row; by default the smallest square that holds all.

    Returns:
        uint8 (height, width, 3) in [0, 255].

    Raises:
        DataError: the images have another shape or range.
    """
    pixels = data.to_bytes(images).expand(-1, 3, -1, -1)  # (N, 3, H, W)
    return arrays.tile(pixels.permute(0, 2, 3, 1).cpu().numpy(), columns)


def image_grid(images: Tensor, columns: int, scale: float = 0.55) -> Figure:
    """Return a figure of a grid of images (N, C, H, W) in [-1, 1], each ``scale`` inches wide."""
    picture = tile(images, columns)
    width = max(columns * scale, 2.0)
    figure, axes = subplots(figsize=(width, width * picture.shape[0] / picture.shape[1]))
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    return figure


def require_grid(
    count: int, shape: Sequence[int], path: str | Path, columns: int | None = None
) -> None:
    """Raise ValueError unless a grid of images fits into a picture that viewers open.

    Args:
        count: number of images.
        shape: of one image, (C, H, W).
        path: of the picture; WebP and JPEG have limits of their own.
        columns: images in a row; by default the smallest square that holds all.
    """
    checks.require_integer("count", count, least=1)
    if len(shape) != 3:
        raise ValueError(f"samples {tuple(shape)} are not images (C, H, W), and make no picture")
    columns = columns or math.ceil(math.sqrt(count))
    sides = (math.ceil(count / columns), columns)
    height, width = (
        n * (side + arrays.PADDING) - arrays.PADDING
        for n, side in zip(sides, shape[-2:], strict=True)
    )
    longest = LONGEST.get(Path(path).suffix.lower(), PIXELS)
    if width * height > PIXELS or max(width, height) > longest:
        limit = f"a picture has at most {PIXELS:,} pixels, {longest:,} a side"
        grid = f"{count} images in {columns} columns make {width:,}×{height:,}"
        raise ValueError(f"{grid}, but {limit}, in {path}; lower --count or change --columns")


def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write a grid of images (N, C, H, W) in [-1, 1] as a PNG, JPEG or WebP file.

    Raises:
        DataError: the images have another shape or range.
        ValueError: the path has another extension.
        OSError: the file cannot be written; an existing picture is kept.
    """
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path} must end in .png, .jpg or .webp")
    picture = Image.fromarray(tile(images, columns))
    with files.replacing(path) as temporary:
        picture.save(temporary)


def curves(series: Mapping[str, Sequence[float]], x: Sequence[float], **labels: str) -> Figure:
    """Return a figure of named curves over ``x``; ``labels`` are for ``Axes.set`` (xlabel, …)."""
    figure, axes = subplots()
    for name, values in series.items():
        axes.plot(x, values, label=name)
    axes.legend()
    axes.set(**labels)
    return figure


def image_rows(
    rows: Mapping[str, Tensor], columns: Sequence[str] = (), title: str = "", scale: float = 0.55
) -> Figure:
    """Return a figure with one labelled row of images for each entry.

    Args:
        rows: images (N, C, H, W) in [-1, 1] by the name of their row; the same N for all.
        columns: a label above each column; none by default.
        title: of the figure.
        scale: width of an image in inches.
    """
    count, _, height, width = next(iter(rows.values())).shape
    assert all(len(images) == count for images in rows.values()), "rows must be equally long"
    picture = tile(torch.cat([images.cpu() for images in rows.values()]), columns=count)
    size = count * scale
    extra = 0.3 * bool(title) + 0.3 * bool(len(columns))
    figure, axes = subplots(
        figsize=(
            size + 0.1 * max(map(len, rows)),
            size * picture.shape[0] / picture.shape[1] + extra,
        )
    )
    axes.imshow(picture, interpolation="nearest")
    step = arrays.PADDING
    axes.set_yticks([height / 2 + (height + step) * i for i in range(len(rows))], list(rows))
    axes.set_xticks([width / 2 + (width + step) * i for i in range(len(columns))], columns)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return figure


class Player:
    """A row of pictures with a slider and a play button, which a notebook shows as HTML.

    Args:
        frames: figures, or images as uint8 arrays (H, W, 3).
        labels: the text next to the slider for each frame, such as ``step 100``.
        alt: what the pictures show, for readers who cannot see them.
        seconds: how long one pass takes.
        width: in pixels; wider pictures shrink to the page.

    Raises:
        ValueError: there are no frames, or not a label for each.
    """

    def __init__(
        self,
        frames: Sequence[Figure | np.ndarray],
        labels: Sequence[str],
        alt: str,
        seconds: float = 6.0,
        width: int = 480,
    ) -> None:
        if not len(frames) == len(labels) > 0:
            counts = f"{len(frames)} frames and {len(labels)} labels"
            raise ValueError(f"a player needs frames and a label for each, not {counts}")
        self.pictures = [_webp(frame, width) for frame in frames]
        self.labels, self.alt, self.seconds, self.width = list(labels), alt, seconds, width

    def _repr_html_(self) -> str:
        """Return the player as HTML with its own script: nothing is loaded from elsewhere."""
        last = len(self.pictures) - 1
        name = f"gan-player-{next(_player_numbers)}"
        hidden = "".join(
            f'<img src="{src}" alt="{html.escape(self.alt)} ({html.escape(label)})" '
            f'style="width:100%;display:{"block" if i == last else "none"}">'
            for i, (src, label) in enumerate(zip(self.pictures, self.labels, strict=True))
        )
        labels = html.escape(json.dumps(self.labels))
        delay = round(1000 * self.seconds / len(self.pictures))
        return (
            f'<div class="gan-player" id="{name}" style="max-width:{self.width}px" '
            f'data-labels="{labels}">'
            f'<div class="gan-player-frames" style="background:#fff">{hidden}</div>'
            '<div style="display:flex;gap:.6em;align-items:center;margin-top:.3em">'
            '<button type="button" aria-pressed="false" style="min-width:4.5em">Play</button>'
            f'<input type="range" min="0" max="{last}" value="{last}" style="flex:1;min-width:0" '
            f'aria-label="Frame" aria-valuetext="{html.escape(self.labels[-1])}">'
            f"<output>{html.escape(self.labels[-1])}</output></div></div>" + _script(name, delay)
        )


def refreshed(text: str) -> str:
    """Return the HTML of a player with the present script; its pictures and labels stay."""
    stored = r"<script>\(\(root, delay\) => .*?'(gan-player-\d+)'.*?,(\d+)\)</script>"
    return re.sub(stored, lambda found: _script(*found.groups()), text, flags=re.DOTALL)


def _script(name: str, delay: int | str) -> str:
    return (
        f"<script>({_PLAYER_SCRIPT})([document.currentScript?.previousElementSibling,"
        f"document.getElementById('{name}')].find((root) => root?.id === '{name}'),"
        f"{delay})</script>"
    )


_PLAYER_SCRIPT = """(root, delay) => {
  const [images, slider] = [root.querySelectorAll("img"), root.querySelector("input")];
  const [button, output] = [root.querySelector("button"), root.querySelector("output")];
  const labels = JSON.parse(root.dataset.labels);
  let timer = null;
  const show = () => {
    images.forEach((image, i) => { image.style.display = i == slider.value ? "block" : "none"; });
    output.textContent = labels[slider.value];
    slider.setAttribute("aria-valuetext", labels[slider.value]);
  };
  const stop = () => {
    clearInterval(timer); timer = null;
    button.textContent = "Play"; button.ariaPressed = "false";
  };
  const next = () => {
    slider.value = +slider.value + 1; show();
    if (slider.value == slider.max) stop();
  };
  slider.oninput = () => { stop(); show(); };
  button.onclick = () => {
    if (timer) return stop();
    if (slider.value == slider.max) { slider.value = 0; show(); }
    button.textContent = "Pause"; button.ariaPressed = "true"; timer = setInterval(next, delay);
  };
}"""


def _webp(frame: Figure | np.ndarray, width: int) -> str:
    """Return a figure or an image as a data URI (WebP).

    A figure has at most twice the given width; a smaller image is enlarged by a whole factor.
    """
    if isinstance(frame, Figure):
        buffer = io.BytesIO()
        frame.savefig(buffer, format="png", dpi=min(2 * width / frame.get_figwidth(), 160))
        picture = Image.open(buffer).convert("RGB")
    else:
        picture = Image.fromarray(frame)
        factor = max(1, width // picture.width)
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", quality=70, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
