"""Stored measurements are in the package, with their provenance."""

import itertools
import json
import math
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


def test_the_p_value_counts_hands_in_both_directions():
    low, high = [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]
    assert records.p_value(low, high) == records.p_value(high, low) == 2 / math.comb(10, 5)
    assert records.p_value([1, 2, 3], [4, 5, 6]) == 0.1
    assert records.p_value([1, 8], [2, 4]) == 1  # equal means of the logarithms
    assert records.p_value([1, 1], [1, 1, 1]) == 1
    scaled = [100 * value for value in low], [100 * value for value in (4, 5, 6, 7, 8)]
    assert records.p_value(*scaled) == records.p_value(low, (4, 5, 6, 7, 8))  # units do not matter


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_counted_whatever_the_rounding(seed):
    powers = torch.randint(5, (9,), generator=torch.Generator().manual_seed(seed)).tolist()

    def difference(group):  # in integers: 20 times the difference of the means of the powers
        chosen = sum(powers[i] for i in group)
        return abs(5 * chosen - 4 * (sum(powers) - chosen))

    groups = list(itertools.combinations(range(9), 4))
    expected = sum(difference(group) >= difference(range(4)) for group in groups) / len(groups)
    values = [0.003 * 2.0**power for power in powers]
    assert records.p_value(values[:4], values[4:]) == expected


def test_chance_alone_is_below_a_level_as_often_as_the_level_says():
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn(300, 8, generator=rng).exp().tolist()
    below = statistics.fmean(records.p_value(row[:4], row[4:]) <= 0.1 for row in draws)
    assert 0.04 < below < 0.16


def test_holm_corrects_for_the_number_of_tests():
    assert records.holm({"a": 0.02, "b": 0.3, "c": 0.04}) == {"a": 0.06, "c": 0.08, "b": 0.3}
    assert records.holm({"a": 0.5, "b": 0.6}) == {"a": 1, "b": 1}  # capped at 1, never falling
    assert records.holm({1: 0.03}) == {1: 0.03}


def test_the_readme_has_the_speed_record():
    record = records.load("record")
    seconds = [math.inf if second is None else second for second in record["seconds"]]
    median, least, most = statistics.median(seconds), min(seconds), max(seconds)
    readme = (records.FOLDER.parents[2] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith("| the preset `quick`"))
    assert row.split("|")[2:-1] == [
        f" {median:.1f} ({least:.1f} to {most:.1f}) ",
        f" {record['seconds'].count(None)} of {len(seconds)} ",
        f" {record['quick_steps_per_second']:.1f} ",
    ]
    assert len(seconds) >= 20
