"""Settings for ``pytest --nbval book``: a notebook must print what it stores."""

import functools
import re
from pathlib import Path

import pytest

CELL_TIMEOUT = 900  # seconds: for a cell that hangs, not for a machine that is busy
START_TIMEOUT = 300  # seconds until a kernel answers; nbval has 60
OUTPUT_TIMEOUT = 60  # seconds of silence before a cell's last output; nbval has 5

# Not compared: progress bars (the error stream) and players (HTML with pictures), as
# nbval never compares PNG: pixels of trained samples differ between processors. The
# plain text of each picture is compared.
SKIPPED = {"stderr", "text/html"}
RUN_TIME = re.compile(r"\*\*Run time\*\*: about (\d+) s")


def pytest_configure(config: pytest.Config) -> None:
    """Give the bare command the options that it would otherwise need."""
    if config.pluginmanager.hasplugin("nbval"):
        config.option.nbval_current_env = True
        config.option.nbval_cell_timeout = CELL_TIMEOUT
        config.option.nbval_kernel_startup_timeout = START_TIMEOUT
        config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(
            Path(__file__).with_name("nbval-sanitize.cfg")
        )
    config.option.loadscopereorder = False  # pytest -n keeps the order of the items


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Let the longest notebooks start first where some run side by side (pytest -n)."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: stated_seconds(item.path), reverse=True)  # stable


@functools.cache
def stated_seconds(path: Path) -> int:
    """Return the run time that a notebook states; 0 for another file."""
    stated = RUN_TIME.search(path.read_text(encoding="utf-8"))
    return int(stated[1]) if stated else 0


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set what nbval has no option for."""
    if hasattr(item.parent, "skip_compare"):
        item.parent.skip_compare = tuple({*item.parent.skip_compare, *SKIPPED})
        item.output_timeout = OUTPUT_TIMEOUT
