"""Take the still pictures of the explorers, which readers without JavaScript see.

    python tools/stills.py              all of them
    python tools/stills.py game dirac   only these

It needs Chromium and Playwright, as the tests do.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from gan_tutorial import live

WIDTH, SCALE = 720, 1.5
# What is shown: an explorer, and what it does before the picture is taken.
STILLS = {
    "trainer-first": (lambda: live.trainer("first"), "root.explorer.advance(1500)"),
    "trainer-film": (lambda: live.trainer("film"), "root.explorer.advance(500)"),
    "game": (live.game, ""),
    "losses": (live.losses, ""),
    "dirac": (live.dirac, ""),
}
ONLY_PICTURES = """
.gan-live { border: 0 !important; margin: 0 !important; padding: 0.5rem !important; }
.gan-live :is(.gan-live-hint, .gan-live-bar, .gan-live-slider, .gan-live-status, details,
  .gan-live-above) { display: none !important; }
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or list(STILLS)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        page.set_default_timeout(600_000)
        for name in names:
            path = Path(folder) / f"{name}.html"
            explorer, script = STILLS[name]
            path.write_text(
                f"<meta charset=utf-8><style>{ONLY_PICTURES} body {{ margin: 0 }}</style>"
                + explorer()._repr_html_(),
                encoding="utf-8",
            )
            size = take(page, path, script, live.FOLDER / "stills" / f"{name}.webp")
            print(f"{name}: {size / 1000:.0f} kB")
        browser.close()


def take(page: Page, path: Path, script: str, target: Path) -> int:
    """Open a page, run a script on its explorer, store the picture; return its size in bytes."""
    page.goto(path.as_uri())
    root = page.locator(".gan-live[data-ready]")
    root.evaluate(f"root => {{ {script} }}")
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(root.screenshot())).convert("RGB")
    picture.save(target, quality=60, method=6)
    return target.stat().st_size


if __name__ == "__main__":
    main()
