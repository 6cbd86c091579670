"""Take the still pictures of the explorers, which readers without JavaScript see.

    python tools/stills.py              all of them
    python tools/stills.py game dirac   only these

For ``cover`` it also packs the bundled generator into live/cover.json, in case it was retrained.
It needs Chromium and Playwright, as the tests do.
"""

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from torch import Tensor

from gan_tutorial import checkpoints, live, sampling, training
from gan_tutorial.beyond import audio, interpretability
from gan_tutorial.live import explore
from gan_tutorial.networks import Generator

WIDTH, SCALE = 720, 1.5
THREE = """
    const list = root.querySelector("select");
    list.value = 3;
    list.dispatchEvent(new Event("change"));
"""
LEAN = """
    const slider = root.querySelector("input[type=range]");
    slider.value = 3;
    slider.dispatchEvent(new Event("input"));
"""
POINTS = """
    const buttons = [...root.querySelectorAll("button")];
    const add = buttons.find((node) => /unheard/.test(node.textContent));
    const list = root.querySelector("select");
    const sounds = (of) => {
        list.value = of;
        list.dispatchEvent(new Event("change"));
    };
    sounds("real");
    add.click();
    const wait = setInterval(() => {
        if (root.explorer.busy) return;
        clearInterval(wait);
        sounds("generated");
        add.click();
    }, 50);
"""
# What is shown: an explorer, and what it does before the picture is taken.
STILLS = {
    "trainer-first": (lambda: live.trainer("first"), "root.explorer.advance(1500)"),
    "trainer-film": (lambda: live.trainer("film"), "root.explorer.advance(500)"),
    "game": (live.game, ""),
    "losses": (live.losses, ""),
    "dirac": (live.dirac, ""),
    "latent": (lambda: explore.latent(bundled()), THREE),
    "classes": (lambda: explore.classes(bundled()), ""),
    "directions": (lambda: explore.directions(bundled(), *shape_directions()), LEAN),
    "cover": (live.cover, ""),
    "notes": (lambda: explore.notes(strings(), audio.NOTES, 4000), POINTS),
}
ONLY_PICTURES = """
.gan-live { border: 0 !important; margin: 0 !important; padding: 0.5rem !important; }
.gan-live :is(.gan-live-hint, .gan-live-bar, .gan-live-slider, .gan-live-status, details,
  .gan-live-above, .gan-live-columns :is(.gan-live-choice, .gan-live-check, button)) {
  display: none !important;
}
"""


def bundled() -> Generator:
    """Return the conditional generator of digits that comes with the package."""
    return checkpoints.load_generator("digits")[0]


def strings() -> Generator:
    """Return a generator of plucked strings, trained as in the chapter on sound (a minute)."""
    torch.manual_seed(0)
    G, D = audio.SoundGenerator(classes=10), audio.SoundDiscriminator(classes=10)
    state = training.TrainState.init(G, D, audio.STRINGS_CONFIG)
    for _ in training.train(state, audio.plucked_strings(), audio.STRINGS_CONFIG):
        pass
    return sampling.recalibrate_batchnorm(state.G_ema)


def shape_directions() -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return directions of slant, thickness and SeFa, and the spread of slant and thickness."""
    G = bundled()
    z, labels = sampling.latents(3000, G.latent_dim, seed=1), sampling.labels(G, 3000)
    images = sampling.sample(G, z, labels)
    vectors, spread = {}, {}
    for name, measure in {
        "slant": interpretability.slant,
        "thickness": interpretability.thickness,
    }.items():
        values = interpretability.centred(measure(images), labels)
        vectors[name] = interpretability.probe(z, values).direction
        spread[name] = values.std().item()
    for rank, direction in enumerate(interpretability.sefa(G, 3), start=1):
        vectors[f"weights {rank}"] = direction
    return vectors, spread


def write_cover() -> None:
    """Write the bundled generator and two directions for the cover."""
    vectors, _ = shape_directions()
    content = {
        "G": explore.pack(bundled()),
        "across": [round(x, 5) for x in vectors["slant"].tolist()],
        "up": [round(x, 5) for x in vectors["thickness"].tolist()],
    }
    (live.FOLDER / "cover.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or list(STILLS)
    if "cover" in names:
        write_cover()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        page.set_default_timeout(600_000)
        for name in names:
            path = Path(folder) / f"{name}.html"
            explorer, script = STILLS[name]
            target = live.FOLDER / "stills" / f"{name}.webp"
            target.touch()  # a new explorer has none yet
            path.write_text(
                f"<meta charset=utf-8><style>{ONLY_PICTURES} body {{ margin: 0 }}</style>"
                + explorer()._repr_html_(),
                encoding="utf-8",
            )
            size = take(page, path, script, target)
            print(f"{name}: {size / 1000:.0f} kB")
        browser.close()


def take(page: Page, path: Path, script: str, target: Path) -> int:
    """Open a page, run a script on its explorer, store the picture; return its size in bytes."""
    page.goto(path.as_uri())
    root = page.locator(".gan-live[data-ready]")
    root.evaluate(f"root => {{ {script} }}")
    page.wait_for_timeout(500)
    page.wait_for_function(
        "root => !root.explorer.busy", arg=root.element_handle()
    )  # has drawn its images
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(root.screenshot())).convert("RGB")
    picture.save(target, quality=60, method=6)
    return target.stat().st_size


if __name__ == "__main__":
    main()
