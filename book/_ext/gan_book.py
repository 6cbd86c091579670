"""The Sphinx extension of this book: buttons that depend on an address, pages that ask nothing of other machines."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

COLAB = "https://colab.research.google.com"


def offer_repository_buttons(app: Sphinx, config: Config) -> None:
    """Show the repository's and Colab's buttons where ``repository.url`` is set in ``_config.yml``, and only there."""
    options = config.html_theme_options
    public = bool(options.get("repository_url"))
    options["use_repository_button"] = public
    options["use_issues_button"] = public
    options["launch_buttons"] = options.get("launch_buttons", {}) | {"colab_url": COLAB if public else ""}


def leave_out_thebe(app: Sphinx) -> None:
    """Take out sphinx-thebe, which Jupyter Book always loads: it puts the address of a remote script on each page."""
    for listeners in app.events.listeners.values():
        listeners[:] = [listener for listener in listeners if listener.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files[:] = [file for file in app.registry.css_files if file[0] != "sphinx-thebe.css"]


def mend_markup(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Mend what is not valid in a page: ids that exercises share, and a list role whose items are no list items."""
    if body := context.get("body"):
        for shared in ("exercise-content", "solution-content"):
            body = body.replace(f'<section id="{shared}">', "<section>")
        context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def keep_asterisks(
    app: Sphinx, what: str, name: str, documented: object, options: dict[str, Any], lines: list[str]
) -> None:
    """Show a shape such as (N, *shape) as it is written; reStructuredText would take the asterisk for emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("``")  # what stands between them is code already
        parts[::2] = [re.sub(r"(?<=[(\s])\*(?=\w+[,)])", r"\*", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    leave_out_thebe(app)
    app.connect("config-inited", offer_repository_buttons)
    app.connect("autodoc-process-docstring", keep_asterisks)
    app.connect("html-page-context", mend_markup)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
