"""Figures and players in one house style.

Every function returns its figure and leaves nothing open in pyplot, so a notebook cell shows it once, by ending
in it. A player is a row of pictures with a slider and a play button: plain HTML that works with no kernel.
"""

import base64
import html
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gan_tutorial import data, runtime

# Okabe and Ito's palette, which readers with any colour vision can tell apart (yellow left out: too pale on white).
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
_player_numbers = itertools.count()


def use_house_style() -> None:
    """Make the house style matplotlib's default for the rest of the process: one line at the top of a notebook."""
    plt.rcParams.update(STYLE)


def subplots(rows: int = 1, columns: int = 1, **options) -> tuple[Figure, Axes | np.ndarray]:
    """Return ``plt.subplots(rows, columns, **options)`` in the house style, detached from pyplot."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, **options)
    plt.close(figure)
    return figure, axes


def tile(images: Tensor, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Lay images side by side in one picture.

    Args:
        images: (N, C, H, W) in [-1, 1], with C = 1 or 3.
        columns: images in a row; by default the smallest square that holds all.
        padding: pixels of mid-grey between the images.

    Returns:
        uint8 (height, width, 3) in [0, 255].

    Raises:
        DataError: the shape or the range is another.
        ValueError: columns is not an integer of at least 1.
    """
    pixels = data.to_bytes(images).cpu()
    count, _, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    runtime.require_integer("columns", columns, least=1)
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + padding) - padding, columns * (width + padding) - padding, 3), 128, np.uint8)
    for index, image in enumerate(pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        top, left = (index // columns) * (height + padding), (index % columns) * (width + padding)
        canvas[top : top + height, left : left + width] = image
    return canvas


def image_grid(images: Tensor, columns: int | None = None, title: str = "", scale: float = 0.55) -> Figure:
    """Return a figure of images (N, C, H, W) in [-1, 1] in a grid; each is ``scale`` inches wide."""
    picture = tile(images, columns)
    columns = columns or math.ceil(math.sqrt(len(images)))
    width = max(columns * scale, 2.0)
    figure, axes = subplots(figsize=(width, width * picture.shape[0] / picture.shape[1] + (0.35 if title else 0.0)))
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)
    return figure


def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write images (N, C, H, W) in [-1, 1] as one PNG, JPEG or WebP; the file appears complete or not at all.

    Raises:
        DataError: the images have another shape or range.
        ValueError: the path has another ending.
        OSError: the disk refuses; a picture that was there is kept.
    """
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path} must end in .png, .jpg or .webp")
    picture = Image.fromarray(tile(images, columns))
    with runtime.replacing(path) as temporary:
        picture.save(temporary)


def curves(series: Mapping[str, Sequence[float]], x: Sequence[float] | None = None, **labels: str) -> Figure:
    """Return a figure of named curves over ``x`` (default 0, 1, 2…); ``labels`` go to ``Axes.set`` (xlabel, …).

    Raises:
        ValueError: there is no series.
    """
    if not series:
        raise ValueError("curves needs at least one named series, but got none")
    figure, axes = subplots()
    for name, values in series.items():
        axes.plot(range(len(values)) if x is None else x, values, label=name)
    axes.legend()
    axes.set(**labels)
    return figure


def scatter(
    real: Tensor, fake: Tensor, title: str = "", limit: float | None = None, axes: Axes | None = None
) -> Figure:
    """Return a figure of two clouds of points, each (N, 2); the axes reach from -limit to limit."""
    if axes is None:
        _, axes = subplots(figsize=(3.6, 3.6))
    for points, name, colour, size in ((real, "real", GREY, 10), (fake, "generated", ORANGE, 5)):
        points = points.detach().cpu()
        axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=0.6, linewidths=0, label=name)
    limit = limit or 1.15 * real.abs().max().item()
    axes.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.legend(loc="upper right", fontsize="small")
    return axes.figure


class Player:
    """A row of pictures with a slider and a play button, which a notebook shows as HTML.

    Args:
        frames: figures, or images as uint8 arrays (H, W, 3).
        labels: what stands beside the slider for each frame, such as ``step 100``.
        alt: what the pictures show, for readers who cannot see them.
        seconds: how long one pass takes.
        width: pixels; wider ones shrink to the page.

    Raises:
        ValueError: no frame, one that is no picture, no alternative text, or another number of labels than of frames.
    """

    def __init__(
        self,
        frames: Sequence[Figure | np.ndarray],
        labels: Sequence[str],
        alt: str,
        seconds: float = 6.0,
        width: int = 480,
    ) -> None:
        if not frames or len(frames) != len(labels):
            raise ValueError(
                f"a player needs a label for each frame, but got {len(frames)} frames, {len(labels)} labels"
            )
        if not alt.strip():
            raise ValueError("a player needs alt text: say what the pictures show")
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
            f'<div class="gan-player" id="{name}" style="max-width:{self.width}px" data-labels="{labels}">'
            f'<div class="gan-player-frames" style="background:#fff">{hidden}</div>'
            '<div style="display:flex;gap:.6em;align-items:center;margin-top:.3em">'
            '<button type="button" aria-pressed="false" style="min-width:4.5em">Play</button>'
            f'<input type="range" min="0" max="{last}" value="{last}" style="flex:1;min-width:0" '
            f'aria-label="Frame" aria-valuetext="{html.escape(self.labels[-1])}">'
            f"<output>{html.escape(self.labels[-1])}</output></div></div>"
            f"<script>({_PLAYER_SCRIPT})(document.getElementById('{name}'),{delay})</script>"
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
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; button.ariaPressed = "false"; };
  const next = () => { slider.value = +slider.value + 1; show(); if (slider.value == slider.max) stop(); };
  slider.oninput = () => { stop(); show(); };
  button.onclick = () => {
    if (timer) return stop();
    if (slider.value == slider.max) { slider.value = 0; show(); }
    button.textContent = "Pause"; button.ariaPressed = "true"; timer = setInterval(next, delay);
  };
}"""


def _webp(frame: Figure | np.ndarray, width: int) -> str:
    """Return a figure or an image, at twice the given width at most, as a data URI (WebP)."""
    if isinstance(frame, Figure):
        buffer = io.BytesIO()
        frame.savefig(buffer, format="png", dpi=min(2 * width / frame.get_figwidth(), 160))
        picture = Image.open(buffer).convert("RGB")
    else:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            given = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"a frame must be a figure or a uint8 array (H, W, 3), but is {given}; see plotting.tile")
        picture = Image.fromarray(frame)
        factor = max(1, width // picture.width)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", quality=70, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
