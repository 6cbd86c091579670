"""The Sphinx extension of this book: what depends on whether the repository has a public address."""

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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", offer_repository_buttons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
