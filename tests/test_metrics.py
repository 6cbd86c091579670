"""Distances against closed forms and other libraries; counts on samples whose answer is known."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from gan_tutorial import data, metrics, mixtures, runtime


def cloud(seed: int, count: int = 200, width: int = 5) -> torch.Tensor:
    """Return correlated features (count, width) in float64."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=rng, dtype=torch.float64)
    return torch.randn(count, width, generator=rng, dtype=torch.float64) @ mix + torch.arange(width)


def by_scipy(real: torch.Tensor, fake: torch.Tensor) -> float:
    """The distance from its definition, with SciPy's matrix square root."""
    S, C = (np.cov(x.numpy(), rowvar=False) for x in (real, fake))
    root = scipy.linalg.sqrtm(S @ C)
    return float(((real - fake[: len(real)]).mean(0) ** 2).sum() + np.trace(S + C - 2 * root.real))


# Fréchet distance


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_fd_equals_torch_fidelitys_and_scipys(seed):
    real, fake = cloud(seed), cloud(seed + 1)
    ours = metrics.frechet_distance(real, fake)
    reference = fid_statistics_to_metric(*(fid_features_to_statistics(x) for x in (real, fake)), verbose=False)
    assert ours == pytest.approx(reference["frechet_inception_distance"], rel=1e-8, abs=1e-8)
    assert ours == pytest.approx(by_scipy(real, fake), rel=1e-6, abs=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.2, 4))
def test_fd_of_a_shifted_and_scaled_set_has_a_closed_form(seed, shift, scale):
    """The same samples moved by t: ‖t‖². Scaled by s about their mean: (1 - s)² tr S."""
    real = cloud(seed)
    assert metrics.frechet_distance(real, real + shift) == pytest.approx(5 * shift**2, abs=1e-6)
    mean = real.mean(0)
    trace = real.var(0).sum().item()
    scaled = mean + scale * (real - mean)
    assert metrics.frechet_distance(real, scaled) == pytest.approx((1 - scale) ** 2 * trace, rel=1e-6, abs=1e-6)


def test_fd_of_two_gaussians_approaches_its_closed_form():
    """N(0, I) against N(m, diag(s²)): ‖m‖² + Σ (1 - s)²."""
    rng = torch.Generator().manual_seed(0)
    real, noise = torch.randn(2, 100_000, 3, generator=rng)
    fake = torch.tensor([1.0, 0.0, -2.0]) + torch.tensor([1.0, 3.0, 0.5]) * noise
    assert metrics.frechet_distance(real, fake) == pytest.approx(5 + 4 + 0.25, rel=0.02)


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_fd_is_a_distance_that_turning_does_not_change(seed):
    real, fake = cloud(seed), cloud(seed + 1)
    there = metrics.frechet_distance(real, fake)
    assert there > 0
    assert metrics.frechet_distance(fake, real) == pytest.approx(there, rel=1e-8)
    assert metrics.frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    turn, _ = torch.linalg.qr(cloud(seed + 2, 5, 5))
    assert metrics.frechet_distance(real @ turn, fake @ turn) == pytest.approx(there, rel=1e-6)


def test_fd_takes_sets_of_two_sizes_on_any_device(device):
    real, fake = cloud(0, 300).float(), cloud(0, 100).float()
    apart = metrics.frechet_distance(real.to(device), fake)
    assert apart == pytest.approx(metrics.frechet_distance(real.double(), fake.double()), rel=1e-4)


# Classes


def test_a_histogram_counts_every_class():
    shares = metrics.class_histogram(torch.tensor([0, 2, 2, 2]), 5)
    assert shares.tolist() == [0.25, 0, 0.75, 0, 0]


# Images


def test_real_images_reach_the_floor_and_noise_does_not(held_out_digits):
    """Other training images than those of the floor score about like the floor."""
    train = data.load_images("digits")
    others = metrics.image_report(train.subset(slice(4000, 4600)).images)
    assert 0.5 < others.ratio < 2
    assert others.ratio == others.fd / others.floor
    assert others.shares.min() > 0.05
    assert others.shares.sum().item() == pytest.approx(1)
    noise = metrics.image_report(torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert noise.ratio > 30
    ones = held_out_digits.images[held_out_digits.labels == 1]
    assert metrics.image_report(ones).shares[1] > 0.95


# Modes


def test_modes_are_counted_on_points_whose_answer_is_known():
    mixture = mixtures.ring()
    towards = mixture.centres / mixture.centres.norm(dim=1, keepdim=True)
    points = torch.cat(
        [
            mixture.centres[:3],  # three modes hit exactly
            mixture.centres[3:4] + 2.9 * mixture.std * towards[3:4],  # one within three standard deviations
            mixture.centres[4:5] + 3.1 * mixture.std * towards[4:5],  # one just outside
            mixture.centres[:1],
            torch.zeros(4, 2),  # far from all
        ]
    )
    report = metrics.mode_report(points, mixture)
    assert report.covered == 4
    assert report.high_quality == 0.5
    assert report.counts.tolist() == [2, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("std", [1e-5, 1e-3, 0.05])
def test_the_bound_is_sharp_for_narrow_modes_far_from_0(std):
    mixture = mixtures.grid(std=std)
    angle = torch.tensor([math.cos(0.3), math.sin(0.3)], dtype=torch.float64)
    for distance, share in ((2.95, 1.0), (3.05, 0.0)):
        points = (mixture.centres.double() + distance * std * angle).repeat(4, 1)
        report = metrics.mode_report(points, mixture)
        assert report.high_quality == share
        assert report.covered == 25 * share


@pytest.mark.parametrize("mixture", [mixtures.ring(), mixtures.grid()], ids=["ring", "grid"])
def test_the_mixture_itself_has_all_modes_and_the_share_of_a_gaussian(mixture, device):
    points, modes = mixture.to(device).batch(20_000, runtime.step_rng(0, 0, device))
    report = metrics.mode_report(points, mixture)
    assert report.covered == len(mixture.centres)
    assert report.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.004)  # |x| ≤ 3σ in the plane
    assert report.counts.device.type == "cpu"
    assert (report.counts <= modes.bincount().cpu()).all()


def test_points_with_a_graph_are_taken():
    assert metrics.mode_report(torch.zeros(3, 2, requires_grad=True), mixtures.ring()).high_quality == 0
