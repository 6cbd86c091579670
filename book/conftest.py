"""Settings for ``pytest --nbval book``: a notebook must print what it stores."""

from pathlib import Path

import pytest

CELL_TIMEOUT = 300  # seconds
OUTPUT_TIMEOUT = 60  # seconds of silence before a cell's last output; nbval has 5

# Not compared: progress bars (the error stream) and players (HTML with pictures), as
# nbval never compares PNG: pixels of trained samples differ between processors. The
# plain text of each picture is compared.
SKIPPED = {"stderr", "text/html"}


def pytest_configure(config: pytest.Config) -> None:
    """Give the bare command the options that it would otherwise need."""
    if config.pluginmanager.hasplugin("nbval"):
        config.option.nbval_current_env = True
        config.option.nbval_cell_timeout = CELL_TIMEOUT
        config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(
            Path(__file__).with_name("nbval-sanitize.cfg")
        )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set what nbval has no option for."""
    if hasattr(item.parent, "skip_compare"):
        item.parent.skip_compare = tuple({*item.parent.skip_compare, *SKIPPED})
        item.output_timeout = OUTPUT_TIMEOUT
