"""Stored measurements are in the package, with their provenance."""

import json
import statistics

import pytest
import torch

from gan_tutorial import records

NAMES = sorted(path.stem for path in records.FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_record_names_its_machine_version_and_date(name):
    record = records.load(name)
    machine, version, date = records.source(record).split("; ")
    assert machine == record["machine"]
    assert version == f"PyTorch {record['versions']['torch']}"
    assert date == record["date"]


def test_the_records_of_the_chapters_exist():
    assert {"speed", "presets", "recipe"} <= set(NAMES)


@pytest.mark.skipif("busy" not in NAMES, reason="benchmarks/busy.py has not stored its record yet")
def test_what_the_answers_say_of_busy_machines_was_measured():
    medians = {
        name: [statistics.median(rates) for rates in columns]
        for name, columns in records.load("busy")["steps_per_second"].items()
    }
    one, usual, brief = (
        medians[name] for name in ("1 thread", "2 threads, spin 300,000", "2 threads, spin 3,000")
    )
    assert usual[0] > brief[0] > one[0]  # alone
    assert usual[1] < brief[1] < one[1]  # beside one busy program


def test_an_unknown_record_is_refused():
    with pytest.raises(ValueError, match="no record called 'sped'; there are .*speed"):
        records.load("sped")


def test_a_record_is_saved_with_its_provenance(tmp_path):
    path = tmp_path / "new" / "record.json"
    record = records.save({"seconds": 1.5}, path, torch.device("cpu"))
    assert json.loads(path.read_text()) == record
    assert record["seconds"] == 1.5
    assert {"machine", "versions", "date"} <= record.keys()
