"""What the benchmarks measured, as JSON files that come with the package.

A record says on which machine, with which versions and when it was measured, so that a chapter can
show results that take longer than the minute it has, and say where they come from. There is also
a rule for comparing unpaired runs: an exact two-sided test, and a correction for several tests.
"""

import itertools
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch

from gan_tutorial import files, runtime

Name = TypeVar("Name", bound=Hashable)

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
    """Return one line that says where a record comes from: machine, PyTorch's version, date.

    The threads are those of the process that stored it; runs side by side had one each.
    """
    return f"{record['machine']}; PyTorch {record['versions']['torch']}; {record['date']}"


def p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the p-value of an exact permutation test, two-sided, on the mean logarithm.

    It is the share of all ways to split the results into two groups of these sizes whose mean
    logarithms differ at least as much, in either direction. Five against five give at least
    2 / 252 = 0.008.

    Args:
        ours: results of the runs of one kind, each above 0, such as FDs.
        theirs: results of the runs of the other kind.
    """
    logs = [math.log(value) for value in (*ours, *theirs)]

    def difference(group: Sequence[int]) -> float:
        chosen = sum(logs[i] for i in group)
        return abs(chosen / len(ours) - (sum(logs) - chosen) / len(theirs))

    seen = difference(range(len(ours)))
    groups = list(itertools.combinations(range(len(logs)), len(ours)))
    # SciPy's permutation_test has too small a tolerance for ties of means of logarithms.
    return sum(difference(group) >= seen - 1e-9 for group in groups) / len(groups)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Return Holm's corrected p-values of several tests, from smallest to largest.

    The chance of any false alarm below a level, such as 0.05, is at most that level
    (Holm, "A simple sequentially rejective multiple test procedure", 1979).
    """
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.get)):
        largest = max(largest, min((len(p_values) - rank) * p_values[name], 1.0))
        corrected[name] = largest
    return corrected
