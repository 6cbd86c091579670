"""Sphinx extension: light pages without remote scripts, API pages without PyTorch."""

import re
import sys
from pathlib import Path
from typing import Any, Union

from docutils import nodes
from docutils.parsers.rst import Directive
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.autodoc.mock import _MockObject

sys.path.insert(0, str(Path(__file__).parents[2]))  # the package need not be installed
from gan_tutorial import live

COLAB = "https://colab.research.google.com"


def offer_repository_buttons(app: Sphinx, config: Config) -> None:
    """Show the repository's and Colab's buttons if ``_config.yml`` has its URL."""
    options = config.html_theme_options
    public = bool(options.get("repository_url"))
    options["use_repository_button"] = public
    options["use_issues_button"] = public
    options["launch_buttons"] = options.get("launch_buttons", {}) | {
        "colab_url": COLAB if public else ""
    }


def load_mathjax_in_parts(app: Sphinx, config: Config) -> None:
    """Load MathJax's start, which loads the parts that ``_config.yml`` names."""
    config.mathjax_path = "mathjax/startup.js"


def leave_out_thebe(app: Sphinx) -> None:
    """Remove sphinx-thebe, which Jupyter Book always loads, with its remote script."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            listener
            for listener in listeners
            if listener.handler.__module__ != "sphinx_thebe"
        ]
    app.registry.css_files[:] = [
        file for file in app.registry.css_files if file[0] != "sphinx-thebe.css"
    ]


def keep_first_of_live(body: str) -> str:
    """Keep the first of each style and script of ``gan_tutorial.live`` on a page.

    Each output brings its own, so that its cell works alone.
    """
    seen = set()

    def keep(found: re.Match[str]) -> str:
        if found["name"] in seen:
            return ""
        seen.add(found["name"])
        return found[0]

    part = r'<(style|script) data-gan-live="(?P<name>\w+)">.*?</\1>'
    return re.sub(part, keep, body, flags=re.DOTALL)


class LiveExplorer(Directive):
    """An explorer of ``gan_tutorial.live`` on a page that is no notebook."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what a cell with the explorer would show."""
        explorer = getattr(live, self.arguments[0])()
        return [nodes.raw("", explorer._repr_html_(), format="html")]


def fix_markup(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Fix invalid HTML: ids that exercises share, roles, scripts not needed."""
    if body := context.get("body"):
        for shared in ("exercise-content", "solution-content"):
            body = body.replace(f'<section id="{shared}">', "<section>")
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')
        context["body"] = keep_first_of_live(body)
        if 'class="math' not in body:  # the cover has none, but its chapters do
            scripts = context["script_files"]
            scripts[:] = [s for s in scripts if "mathjax" not in (s.filename or "")]


def leave_out_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Remove what the theme loads without need, 1.8 MB before anything is painted.

    Its script for icons, which its fonts draw too; on all pages but that of the search
    the index, which is for a search while one types; and where there are none, the
    style and script of cards and tabs.
    """
    if exception or app.builder.format != "html":
        return
    icons, search = "fontawesome", "searchtools|language_data|searchindex"
    for page in Path(app.outdir).rglob("*.html"):
        names = icons if page.name == "search.html" else f"{icons}|{search}"
        script = rf'<script [^>]*src="(?:[^"]*/)?({names})\.js[^"]*"></script>\n?'
        text = re.sub(script, "", page.read_text("utf-8"))
        if not re.search(r'class="([^"]* )?sd-', text):
            text = re.sub(r"<link [^>]*sphinx-design[^>]*>\n?", "", text)
            text = re.sub(r"<script [^>]*design-tabs[^>]*></script>\n?", "", text)
        page.write_text(text, "utf-8")
    for file in Path(app.outdir, "_static", "scripts").glob("fontawesome.js*"):
        file.unlink()


def store_figures_as_webp(app: Sphinx, exception: Exception | None) -> None:
    """Store the figures of the pages without loss in half the bytes of PNG."""
    if exception or app.builder.format != "html":
        return
    for file in Path(app.outdir, "_images").glob("*.png"):
        with Image.open(file) as figure:
            figure.save(file.with_suffix(".webp"), lossless=True, method=2)
        file.unlink()
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf-8")
        text = re.sub(r'(="(?:\.\./)*_images/[^"]+\.)png"', r'\1webp"', text)
        page.write_text(text, "utf-8")


def keep_asterisks(
    app: Sphinx,
    what: str,
    name: str,
    documented: object,
    options: dict[str, Any],
    lines: list[str],
) -> None:
    """Escape the asterisk of a shape such as (N, *shape), which is no emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("``")  # what stands between them is code already
        parts[::2] = [
            re.sub(r"(?<=[(\s])\*(?=[\w.]+[,)])", r"\*", part) for part in parts[::2]
        ]
        lines[number] = "``".join(parts)


def complete_mocks() -> None:
    """Add to Sphinx's mocks, for ``autodoc_mock_imports``, what the package needs.

    Annotations need ``Tensor | None``. Without ``__new__``, the signature of a
    subclass of ``nn.Module`` is that of its ``__init__``.
    """
    _MockObject.__or__ = lambda self, other: Union[self, other]  # noqa: UP007 (this defines |)
    _MockObject.__ror__ = lambda self, other: Union[other, self]  # noqa: UP007
    del _MockObject.__new__


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    complete_mocks()
    leave_out_thebe(app)
    app.add_directive("explorer", LiveExplorer)
    app.connect("config-inited", offer_repository_buttons)
    app.connect("config-inited", load_mathjax_in_parts)
    app.connect("autodoc-process-docstring", keep_asterisks)
    app.connect("html-page-context", fix_markup, priority=900)  # after MathJax's
    app.connect("build-finished", leave_out_scripts)
    app.connect("build-finished", store_figures_as_webp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
