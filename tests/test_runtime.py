"""Devices, the random numbers of a step, checks of numbers, and files that are never half written."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import runtime

counts = st.integers(0, 2**40)


def draws(seed: int, step: int) -> list[float]:
    return torch.rand(4, generator=runtime.step_rng(seed, step), dtype=torch.float64).tolist()


def test_a_device_is_found_by_name(device):
    assert runtime.choose_device(device.type).type == device.type
    assert runtime.choose_device(device) == device


def test_auto_prefers_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.choose_device() == torch.device("cpu")


@given(counts, counts)
def test_a_step_draws_the_same_each_time(seed, step):
    assert draws(seed, step) == draws(seed, step)


@given(counts, counts, counts, counts)
def test_other_steps_draw_other_numbers(seed, step, other_seed, other_step):
    if (seed, step) != (other_seed, other_step):
        assert draws(seed, step) != draws(other_seed, other_step)


def test_neighbouring_seeds_and_steps_share_nothing():
    """Seed and step are mixed, not added: (0, 1) and (1, 0) differ, and neighbours are not correlated."""
    numbers = torch.tensor([[draws(seed, step)[0] for step in range(40)] for seed in range(40)])
    assert numbers.unique().numel() == 1600
    assert abs(numbers.mean().item() - 0.5) < 0.04
    along = [torch.corrcoef(torch.stack([m[:-1].flatten(), m[1:].flatten()]))[0, 1] for m in (numbers, numbers.T)]
    assert max(abs(c) for c in along) < 0.1  # four standard deviations


def test_a_step_rng_lives_on_the_device_and_takes_numpy_integers(device):
    rng = runtime.step_rng(np.int64(3), np.int32(4), device)
    assert rng.device.type == device.type
    assert rng.initial_seed() == runtime.step_rng(3, 4).initial_seed()


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draws(1, 2)
    assert torch.equal(before, torch.get_rng_state())


@given(st.integers(-100, 100), st.integers(-100, 100))
def test_require_integer_keeps_its_bound(value, least):
    if value >= least:
        runtime.require_integer("n", value, least)
    else:
        with pytest.raises(ValueError, match=f"n must be an integer of at least {least}, but is {value}"):
            runtime.require_integer("n", value, least)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, math.nan, torch.tensor(1)])
def test_require_integer_takes_integers_only(value):
    with pytest.raises(ValueError, match="n must be an integer"):
        runtime.require_integer("n", value, 0)


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 10), st.floats(10, 20), st.booleans())
def test_require_number_keeps_its_interval(value, least, below, strict):
    inside = least < value < below or (value == least and least < below and not strict)
    if inside:
        runtime.require_number("x", value, least, below, strict)
    else:
        with pytest.raises(ValueError, match=r"x must be a number in [\[(].*\), but is"):
            runtime.require_number("x", value, least, below, strict)


@pytest.mark.parametrize("value", [True, "1", None, math.inf, -math.inf, math.nan, 1j])
def test_require_number_takes_finite_real_numbers_only(value):
    with pytest.raises(ValueError, match=r"x must be a number in \[0, inf\)"):
        runtime.require_number("x", value)


def test_replacing_shows_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with runtime.replacing(path) as temporary:
        temporary.write_text("first")
        assert temporary.parent == path.parent, "another disk could not be renamed onto"
        assert temporary.suffix == path.suffix, "writers choose the format by the suffix"
        assert not path.exists()
    with runtime.replacing(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), runtime.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_overwrites_what_a_killed_process_left(tmp_path):
    path = tmp_path / "file.txt"
    block = runtime.replacing(path)
    block.__enter__().write_text("left behind by a process that was killed here")
    with runtime.replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):  # the first writer never came back; now it may end
        block.__exit__(None, None, None)


def test_replacing_wants_something_written(tmp_path):
    with pytest.raises(FileNotFoundError), runtime.replacing(tmp_path / "file.txt"):
        pass


def test_fused_adam_is_for_cpu_and_cuda():
    assert runtime.has_fused_adam("cpu")
    assert runtime.has_fused_adam("cuda:1")
    assert not runtime.has_fused_adam("meta")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx2": True}, True), ({"avx2": True}, False), ({}, False)],
)
def test_bfloat16_is_for_processors_with_instructions_for_it(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert runtime.has_bf16.__wrapped__(torch.device("cpu")) is expected


def test_an_origin_can_be_stored(device):
    origin = runtime.origin(device)
    assert json.loads(json.dumps(origin)) == origin
    assert origin["versions"]["torch"] == torch.__version__
