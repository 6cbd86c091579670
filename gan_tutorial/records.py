"""What the benchmarks measured, as JSON files that come with the package.

A record says on which machine, with which versions and when it was measured, so that a chapter can
show results that take longer than its minute, and say where they come from.
"""

import json
from importlib import resources
from pathlib import Path

import torch

from gan_tutorial import files, runtime

FOLDER = Path(str(resources.files("gan_tutorial") / "assets" / "records"))


def load(name: str) -> dict:
    """Return the record called ``name``, such as ``"speed"``.

    Raises:
        ValueError: there is no such record.
    """
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json")))
        raise ValueError(f"there is no record called {name!r}; there are {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def save(record: dict, path: str | Path, device: torch.device) -> dict:
    """Write ``record`` with its provenance to ``path``; return what was written."""
    record = runtime.provenance(device) | record
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def source(record: dict) -> str:
    """Return one line that says where a record comes from: machine, PyTorch's version, date."""
    return f"{record['machine']}; PyTorch {record['versions']['torch']}; {record['date']}"
