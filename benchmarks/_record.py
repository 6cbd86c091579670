"""The record of a benchmark: what was measured, as JSON."""

import json
from pathlib import Path

from gan_tutorial import runtime


def store(record: dict, path: Path) -> None:
    """Write a record to ``path``; the old file stays until the new one is complete."""
    with runtime.replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
