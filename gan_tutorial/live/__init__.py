"""Explorers that run in the page: no kernel, no network, no library.

Each function returns an object whose HTML carries the explorer in plain JavaScript, and a still
picture for readers without it. So the same cell works in a page that was opened from disk, in
JupyterLab and on Colab. The scripts lie beside this file and are part of the book: ``numbers.js``
holds layers and their backward passes, ``page.js`` what all explorers share on the page, and each
explorer has a file of its own.
"""

import base64
import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from gan_tutorial import checks

FOLDER = Path(__file__).parent
SHARED = ("numbers", "page")  # the scripts that every explorer needs, in this order


@dataclass(frozen=True)
class Explorer:
    """An explorer that a notebook shows as HTML; nothing is loaded from elsewhere.

    Style and scripts are marked by ``data-gan-live``. Each output has its own, as each cell must
    work alone; the book's extension keeps only the first of each on a page.

    Attributes:
        name: of its script.
        options: what the script is given.
        title: its name for screen readers.
        hint: what to try and what to look for; shown above it.
        alt: what the still picture shows.
        still: name of the still picture, in ``stills/``.
        scripts: others that it needs, before its own.
        data: more options, which are too long to be shown by ``repr``.
    """

    name: str
    options: dict[str, object]
    title: str = field(repr=False)
    hint: str = field(repr=False)
    alt: str = field(repr=False)
    still: str = field(repr=False)
    scripts: tuple[str, ...] = field(default=(), repr=False)
    data: dict[str, object] = field(default_factory=dict, repr=False)

    def _repr_html_(self) -> str:
        scripts = "".join(
            f'<script data-gan-live="{name}">{read(f"{name}.js")}</script>'
            for name in (*SHARED, *self.scripts, self.name)
        )
        return (
            f'<style data-gan-live="style">{read("style.css")}</style>'
            f'<div class="gan-live" role="group" aria-label="{html.escape(self.title)}">'
            f'<p class="gan-live-hint">{html.escape(self.hint)}</p>'
            '<img class="gan-live-still" width="720" '
            f'data-gan-still="{self.still}" src="{still(self.still)}" '
            f'alt="{html.escape(self.alt)}">{scripts}'
            "<script>ganLive.page.mount(document.currentScript.parentElement, "
            f'"{self.name}", {json.dumps(self.options | self.data)})</script></div>'
        )


def read(name: str) -> str:
    """Return the text of a file beside this one."""
    return (FOLDER / name).read_text(encoding="utf-8")


def still(name: str) -> str:
    """Return a still picture as a data URI."""
    picture = (FOLDER / "stills" / f"{name}.webp").read_bytes()
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def refreshed(text: str) -> str:
    """Return the HTML of an explorer with the scripts, style and still that lie beside this file.

    Everything else, such as its options and data, stays.
    """

    def present(part: re.Match[str]) -> str:
        suffix = {"style": "css", "script": "js"}[part["tag"]]
        return part["start"] + read(f"{part['name']}.{suffix}") + part["end"]

    part = (
        r'(?P<start><(?P<tag>style|script) data-gan-live="(?P<name>\w+)">).*?(?P<end></(?P=tag)>)'
    )
    text = re.sub(part, present, text, flags=re.DOTALL)
    picture = r'(data-gan-still="([\w-]+)" src=")[^"]*'
    return re.sub(picture, lambda found: found[1] + still(found[2]), text)


def trainer(preset: str = "first", data: str = "ring") -> Explorer:
    """Return a GAN in the plane that the reader trains in the page.

    Args:
        preset: ``first``, of the chapter on generative models, or ``film`` or ``cured``, of that on
            mode collapse.
        data: ``ring``, ``grid``, ``moons`` or ``draw``.

    Raises:
        ValueError: there is no such preset, or no such data.
    """
    checks.require_choice("preset", preset, ("first", "film", "cured"))
    checks.require_choice("data", data, ("ring", "grid", "moons", "draw"))
    if preset == "first":
        still = "trainer-first"
        hint = (
            "Press Play, and watch the samples find the circles of the data. Then choose other "
            "data, or draw your own. In slow motion, see who moves when."
        )
        alt = (
            "A GAN in the plane after 1500 steps. Most samples lie in the eight circles of the "
            "data, others on thin bridges between them; the plane is orange where D takes points "
            "for generated, and pale at the data. Beside it are the numbers for modes and "
            "quality, and a curve of the Jensen-Shannon divergence that falls from log 2."
        )
    else:
        still = "trainer-film"
        hint = (
            "Press Play, and follow the clump of samples; at times it leaves the picture. Then "
            "choose the preset “cured”: D learns as fast as G, without momentum. Or keep the slow "
            "D, and try packs or a penalty, which are among the settings."
        )
        alt = (
            "A GAN whose D learns at a tenth of G's rate. All samples lie in one streak, from one "
            "of the eight circles of the data to the edge of the picture, and the Jensen-Shannon "
            "divergence stays near its largest value, log 2."
        )
    options = {"preset": preset, "data": data}
    return Explorer("trainer", options, "Train a GAN in the plane", hint, alt, still)


def game() -> Explorer:
    """Return the minimax game on a line: move q over p, and D*, V and JS follow."""
    hint = (
        "Drag the orange bell over the grey one and widen it with its slider, until σ(D*) is level "
        "at one half. Or let G learn. Then move it away, and give D a logit other than the best: "
        "V(D, G) falls below V(D*, G)."
    )
    alt = (
        "A grey bell of data in the middle, a narrow orange bell of samples to its right, and the "
        "blue curve of the best D, which is high over the grey bell and low over the orange one. "
        "Bars show a Jensen-Shannon divergence close to log 2, and a V close to 0."
    )
    return Explorer("game", {}, "The minimax game on a line", hint, alt, "game")


def losses() -> Explorer:
    """Return all objectives on one scale: slide the logit of a sample, and read loss and slope."""
    hint = (
        "Slide the logit of a generated sample to −6, where D is sure, and compare the slopes. "
        "Then slide it to 6. Which losses leave a sample alone, and where?"
    )
    alt = (
        "Two panels of curves over the logit, one for each of six objectives: the losses of G, and "
        "their slopes. At the mark, logit −4, the slope of the minimax loss is nearly 0, those of "
        "non-saturating, hinge, Wasserstein and relativistic are nearly −1, and that of least "
        "squares is −5. A table holds the numbers."
    )
    return Explorer("losses", {}, "Losses and slopes over the logit", hint, alt, "losses")


def dirac() -> Explorer:
    """Return the Dirac-GAN: drag the start, set η and γ, see the path and the eigenvalues."""
    hint = (
        "Drag the red circle, the start. Without a penalty the path closes (far out too slowly to "
        "see); take simultaneous steps, and it spirals outwards. Reset, raise η to 1, and then γ "
        "slowly: the two eigenvalues meet and part."
    )
    alt = (
        "The plane of the two weights with arrows that run in circles about the middle, and a blue "
        "path that closes on itself in a ring. Beside it the two eigenvalues of a step lie on the "
        "unit circle."
    )
    return Explorer("dirac", {}, "The Dirac-GAN", hint, alt, "dirac")


def cover() -> Explorer:
    """Return the cover's map of z: moving over it changes ten digits; its generator is bundled.

    ``cover.json`` holds the generator and two directions, so that the pages are built without
    PyTorch; ``tools/stills.py`` writes it.
    """
    hint = (
        "Nobody wrote these digits: a network draws them in this page while you move over the map "
        "with the pointer (a click holds the place), a finger or the arrow keys. Then ask for "
        "another hand."
    )
    alt = (
        "A map of 25 eights that lean to the right, slightly on its left and strongly on its "
        "right, with thin strokes below and thick ones above. A mark is on it, and beside it the "
        "ten digits in the handwriting at that place."
    )
    data = json.loads(read("cover.json"))
    title = "A map of handwriting"
    return Explorer("cover", {}, title, hint, alt, "cover", scripts=("generator",), data=data)
