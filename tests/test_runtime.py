"""Devices, the random numbers of a step, capabilities of a machine, provenance."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import runtime

counts = st.integers(0, 2**40)


def test_tests_have_one_thread_also_in_the_programs_that_they_start():
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"


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


def test_the_devices_of_a_mac_are_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match="no device 'gpu' here; use one of auto, cpu.*, mps$"):
        runtime.choose_device("gpu")


@given(counts, counts)
def test_a_step_has_the_same_random_numbers_each_time(seed, step):
    assert draws(seed, step) == draws(seed, step)


@given(counts, counts, counts, counts)
def test_other_steps_have_other_random_numbers(seed, step, other_seed, other_step):
    if (seed, step) != (other_seed, other_step):
        assert draws(seed, step) != draws(other_seed, other_step)


def test_neighbouring_seeds_and_steps_are_not_correlated():
    """Seed and step are hashed, not added: (0, 1) and (1, 0) differ."""
    numbers = torch.tensor([[draws(seed, step)[0] for step in range(40)] for seed in range(40)])
    assert numbers.unique().numel() == 1600
    assert abs(numbers.mean().item() - 0.5) < 0.04
    along = [
        torch.corrcoef(torch.stack([m[:-1].flatten(), m[1:].flatten()]))[0, 1]
        for m in (numbers, numbers.T)
    ]
    assert max(abs(c) for c in along) < 0.1  # four standard deviations


def test_a_step_rng_is_on_its_device_and_takes_numpy_integers(device):
    rng = runtime.step_rng(np.int64(3), np.int32(4), device)
    assert rng.device.type == device.type
    assert rng.initial_seed() == runtime.step_rng(3, 4).initial_seed()


def test_step_rng_does_not_use_the_global_generator():
    before = torch.get_rng_state()
    draws(1, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_fused_adam_is_for_cpu_and_cuda():
    assert runtime.has_fused_adam("cpu")
    assert runtime.has_fused_adam("cuda:1")
    assert not runtime.has_fused_adam("meta")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, False),
        ({"bf16": True, "neon": True}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_used_on_processors_with_matrix_units_only(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert runtime.has_bf16.__wrapped__(torch.device("cpu")) is expected


def test_only_a_gpu_replays_a_step():
    assert runtime.has_graphs("cuda:1")
    assert not runtime.has_graphs("cpu")


def test_provenance_can_be_stored(device):
    found = runtime.provenance(device)
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"] == torch.__version__
