"""The built book in a browser: every page, wide and narrow, light and dark, and offline.

The tests use the system's Chromium. Without one they are skipped, except in CI, where they fail.
"""

import functools
import http.server
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route

ROOT = Path(__file__).resolve().parent.parent
JUPYTER_BOOK = Path(sys.executable).with_name("jupyter-book")
TIMEOUT = 120_000  # milliseconds; for a busy machine
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
A_FILE_NAME = re.compile(r"[0-9a-f]{12,}|\.(png|svg|jpe?g|webp)$")


def pages() -> list[str]:
    """Return the names of all pages of the table of contents, in its order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [
        toc["root"],
        *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"]),
    ]


PAGES = pages()
CHAPTERS = [name for name in PAGES if (ROOT / f"{name}.ipynb").is_file()]


@dataclass
class Visit:
    """An open page, the console's messages, and the requests to other machines."""

    name: str
    page: Page
    messages: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def build(output: Path, *options: str | Path) -> Path:
    """Build the book in ``output``; return the folder of its pages."""
    command = [JUPYTER_BOOK, "build", ROOT, "--path-output", output, "-q", *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return output / "_build" / "html"


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages, freshly built; a warning fails the build."""
    return build(tmp_path_factory.mktemp("book"), "-W", "--keep-going")


@pytest.fixture(scope="session")
def site(html: Path) -> Iterator[str]:
    """The address of a local server for the pages."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def visit(context: BrowserContext, address: str, name: str) -> Visit:
    """Open a page without access to other machines; wait until its equations are typeset."""
    seen = Visit(name, context.new_page())
    seen.page.set_default_timeout(TIMEOUT)

    def local_only(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in ("data", "blob", "file") or url.hostname == "127.0.0.1":
            route.continue_()
        else:
            seen.foreign.append(route.request.url)
            route.abort()

    seen.page.route("**/*", local_only)
    seen.page.on(
        "console",
        lambda m: seen.messages.append(m.text) if m.type in ("error", "warning") else None,
    )
    seen.page.on("pageerror", lambda error: seen.messages.append(str(error)))
    seen.page.goto(address)
    seen.page.evaluate("window.MathJax?.startup?.promise?.then(() => true)")
    return seen


@pytest.fixture(scope="module", params=PAGES)
def wide(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Visit]:
    """Each page at 1280 pixels."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    yield visit(context, f"{site}/{request.param}.html", request.param)
    context.close()


@pytest.fixture(scope="module", params=PAGES)
def narrow(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Visit]:
    """Each page at 360 pixels, as on a small phone."""
    context = browser.new_context(viewport=NARROW, color_scheme="light", has_touch=True)
    yield visit(context, f"{site}/{request.param}.html", request.param)
    context.close()


def unfold(page: Page, theme: str) -> None:
    """Show a page in a theme, with every fold opened and nothing in motion."""
    page.evaluate(
        """async theme => {
            document.documentElement.dataset.theme = theme;
            document.querySelectorAll("details").forEach(box => { box.open = true; });
            document.querySelectorAll(".toggle-hidden").forEach(
                box => box.classList.remove("toggle-hidden"));
            const faster = document.createElement("style");
            faster.textContent = "* { transition: none !important; animation: none !important; }";
            document.head.append(faster);
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        }""",
        theme,
    )


def mark_repeats(page: Page) -> None:
    """Give each element that has the colours of an earlier one the attribute data-repeats.

    Thousands of words of code get it: tags, classes and styles are the same, all the way up.
    """
    page.evaluate(
        """() => {
            const ids = new Map();
            const repeats = (node, above, place) => {
                const odd = node.tagName === "TR" && place % 2;  // rows of a table are striped
                const style = node.getAttribute("style");
                const look = JSON.stringify([above, node.tagName, node.className, style, odd]);
                const known = ids.has(look);
                if (!known) ids.set(look, ids.size);
                const children = [...node.children].map(
                    (child, i) => repeats(child, ids.get(look), i));
                const all = known && children.every(Boolean);
                node.toggleAttribute("data-repeats", all);
                return all;
            };
            repeats(document.body, -1, 0);
        }"""
    )


def violations(page: Page, theme: str, *, colours: bool) -> list[str]:
    """Return axe-core's serious and critical findings in a theme: on contrast, or all others.

    Contrast takes five times as long as all else, so repeated styles are judged once.
    """
    unfold(page, theme)
    mark_repeats(page)
    page.evaluate(Axe().axe_script)
    rules = ["color-contrast", "link-in-text-block"]
    found = page.evaluate(
        """([colours, rules]) => {
            axe.configure({rules: [{id: "color-contrast", selector: "*:not([data-repeats])"}]});
            const others = Object.fromEntries(rules.map(rule => [rule, {enabled: false}]));
            const which = colours ? {runOnly: {type: "rule", values: rules}} : {rules: others};
            return axe.run(document, {resultTypes: ["violations"], ...which});
        }""",
        [colours, rules],
    )["violations"]
    return [
        f"{theme}: {violation['id']}: {node['html'][:160]} ({node['failureSummary']})"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def assert_fits(seen: Visit) -> None:
    """Fail if the page is wider than the window, logged a message or sent a request elsewhere."""
    assert seen.messages == []
    assert seen.foreign == []
    assert seen.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_opens_wide(wide: Visit) -> None:
    assert_fits(wide)


def test_opens_narrow(narrow: Visit) -> None:
    assert_fits(narrow)


def test_states_its_language_and_has_headings_in_order(wide: Visit) -> None:
    assert wide.page.evaluate("document.documentElement.lang") == "en"
    headings = (
        "[...document.querySelectorAll('article :is(h1, h2, h3, h4, h5, h6)')]"
        ".map(heading => +heading.tagName[1])"
    )
    levels = wide.page.evaluate(headings)
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_images_have_alternative_text(wide: Visit) -> None:
    texts = wide.page.evaluate("[...document.images].map(image => image.getAttribute('alt') ?? '')")
    assert texts  # the logo, at least
    assert [text for text in texts if not text.strip() or A_FILE_NAME.search(text)] == []


def test_a_page_with_all_that_it_loads_has_less_than_three_megabytes(wide: Visit) -> None:
    size = wide.page.evaluate(
        """["navigation", "resource"].flatMap(type => performance.getEntriesByType(type))
            .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
    )
    assert 500_000 < size < 3_000_000


def test_images_load(wide: Visit) -> None:
    broken = (
        "[...document.images].filter(image => image.complete && !image.naturalWidth)"
        ".map(image => image.src)"
    )
    assert wide.page.evaluate(broken) == []


def test_equations_are_typeset(wide: Visit) -> None:
    written, typeset, wrong = wide.page.evaluate(
        "['article .math', 'article .math mjx-container', 'mjx-merror, [data-mml-node=merror]']"
        ".map(selector => document.querySelectorAll(selector).length)"
    )
    assert typeset >= written
    assert wrong == 0


def test_links_resolve(wide: Visit, html: Path, site: str) -> None:
    links = wide.page.evaluate("[...document.querySelectorAll('a[href]')].map(link => link.href)")
    dead = []
    for link in {link for link in links if link.startswith(site)}:
        url = urlsplit(link)
        target = html / unquote(url.path).lstrip("/")
        if not target.is_file():
            dead.append(link)
        elif url.fragment and target.suffix == ".html":
            anchor = re.escape(unquote(url.fragment))
            if not re.search(rf'id="{anchor}"', target.read_text(encoding="utf-8")):
                dead.append(link)
    assert dead == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_has_contrast_wide(wide: Visit, theme: str) -> None:
    assert violations(wide.page, theme, colours=True) == []


def test_has_contrast_narrow(narrow: Visit) -> None:
    assert violations(narrow.page, "light", colours=True) == []


def test_is_accessible_wide(wide: Visit) -> None:
    assert violations(wide.page, "light", colours=False) == []


def test_is_accessible_narrow(narrow: Visit) -> None:
    assert violations(narrow.page, "light", colours=False) == []


def test_the_checks_find_pale_text_and_a_button_without_a_name(browser: Browser, site: str) -> None:
    """Controls: two faults added at a page's end, and a colour that words of code share."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    page = visit(context, f"{site}/{PAGES[1]}.html", PAGES[1]).page
    page.evaluate(
        """document.querySelector("article").insertAdjacentHTML(
            "beforeend", "<p style='color: #bbb'>pale</p><button></button>")"""
    )
    found = [violations(page, "light", colours=colours) for colours in (True, False)]
    assert [len(of) for of in found] == [1, 1]
    assert "color-contrast: <p" in found[0][0]
    assert "button-name: <button" in found[1][0]
    rule = ".highlight .n { color: #bbb !important }"
    page.add_style_tag(content=rule)
    assert len(violations(page, "light", colours=True)) > 1
    context.close()


def test_players_play(wide: Visit) -> None:
    shown = (
        "root => [...root.querySelectorAll('img')]"
        ".findIndex(image => image.style.display !== 'none')"
    )
    pause = "button => { if (button.textContent === 'Pause') button.click(); }"
    for player in wide.page.locator(".gan-player").all():
        slider, button = player.locator("input[type=range]"), player.get_by_role("button")
        slider.fill("0")
        first, before = player.evaluate(shown), player.locator("output").inner_text()
        button.click()
        wide.page.wait_for_function("slider => slider.value > 0", arg=slider.element_handle())
        button.evaluate(pause)
        assert player.evaluate(shown) == int(slider.input_value()) != first
        assert player.locator("output").inner_text() != before
        assert button.inner_text() == "Play"


def test_audio_players_have_labels_and_play(wide: Visit) -> None:
    for player in wide.page.locator("audio").all():
        assert player.get_attribute("aria-label").strip()
        wide.page.wait_for_function(
            "audio => audio.readyState > 0 || audio.error", arg=player.element_handle()
        )
        assert player.evaluate("audio => audio.error && audio.error.message") is None
        assert 0.1 < player.evaluate("audio => audio.duration") < 60
        player.evaluate("audio => { audio.muted = true; audio.scrollIntoView(); }")
        player.focus()
        wide.page.keyboard.press("Space")  # starts the player that has the focus
        wide.page.wait_for_function("audio => audio.currentTime > 0", arg=player.element_handle())
        player.evaluate("audio => audio.pause()")


def test_the_chapter_on_audio_has_players(html: Path) -> None:
    page = (html / "book/beyond/audio.html").read_text(encoding="utf-8")
    assert page.count("<audio controls") >= 8


@pytest.mark.parametrize("way", ["server", "folder"])
def test_search_finds_a_word(browser: Browser, html: Path, site: str, way: str) -> None:
    context = browser.new_context(viewport=WIDE)
    address = f"{site}/search.html" if way == "server" else (html / "search.html").as_uri()
    seen = visit(context, f"{address}?q=discriminator", "search")
    seen.page.locator("#search-results li a", has_text="Glossary").first.wait_for()
    assert seen.foreign == []
    assert seen.messages == []
    context.close()


@pytest.mark.parametrize("name", [PAGES[0], *CHAPTERS[-1:]])
def test_opens_from_a_folder(browser: Browser, html: Path, name: str) -> None:
    context = browser.new_context(viewport=WIDE)
    seen = visit(context, (html / f"{name}.html").as_uri(), name)
    assert_fits(seen)
    assert seen.page.evaluate("[...document.images].every(image => image.naturalWidth)")
    errors = "document.fonts.ready.then(() => document.querySelectorAll('mjx-merror').length)"
    assert seen.page.evaluate(errors) == 0
    context.close()


def test_no_page_names_a_path_of_the_machine_that_built_it(html: Path) -> None:
    for name in PAGES:
        text = (html / f"{name}.html").read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert os.environ["PATH"] not in text


def test_without_an_address_of_the_repository_there_are_no_buttons(html: Path) -> None:
    for name in PAGES:
        text = (html / f"{name}.html").read_text(encoding="utf-8")
        assert "colab.research.google.com" not in text
        assert "source-repository-button" not in text


@pytest.mark.skipif(not CHAPTERS, reason="there is no chapter yet")
def test_with_an_address_of_the_repository_there_are_buttons(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = "https://github.com/someone/somewhere"
    config["sphinx"]["local_extensions"] = {
        name: str(ROOT / folder) for name, folder in config["sphinx"]["local_extensions"].items()
    }
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "_toc.yml").write_text(f"format: jb-book\nroot: {CHAPTERS[0]}\n", encoding="utf-8")
    built = build(tmp_path, "--config", tmp_path / "_config.yml", "--toc", tmp_path / "_toc.yml")
    text = (built / f"{CHAPTERS[0]}.html").read_text(encoding="utf-8")
    colab = "https://colab.research.google.com/github/someone/somewhere/blob/main"
    assert f"{colab}/{CHAPTERS[0]}.ipynb" in text
    assert 'href="https://github.com/someone/somewhere"' in text
