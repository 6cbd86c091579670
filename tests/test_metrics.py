"""Distances against closed forms and other libraries; counts on samples whose answer is known."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from gan_tutorial import data, features, metrics, mixtures, runtime


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


# Kernel distance


def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The similarity (x·y / F + 1)³ of every pair."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def by_torchmetrics(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Torchmetrics' distance on one subset that holds all of two sets of one size."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        metric = KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=len(real)).set_dtype(real.dtype)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()[0].item()


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_kd_equals_torchmetrics_on_the_full_set_and_its_definition(seed):
    real, fake = cloud(seed), cloud(seed + 1)
    ours = metrics.kernel_distance(real, fake)
    assert ours == pytest.approx(by_torchmetrics(real, fake), rel=1e-6)
    pairs = len(real) * (len(real) - 1)
    within = sum((kernel(x, x).sum() - kernel(x, x).trace()).item() / pairs for x in (real, fake))
    assert ours == pytest.approx(within - 2 * kernel(real, fake).mean().item(), rel=1e-9)


def test_kd_of_four_numbers_has_a_closed_form():
    """x = 0, 0 against y = 1, 1: 1 + 2³ - 2·1 = 7; and with y = 1, -1: 1 + 0 - 2·1 = -1, since (-1·1 + 1)³ = 0."""
    zeros = torch.zeros(2, 1)
    assert metrics.kernel_distance(zeros, torch.ones(2, 1)) == pytest.approx(7)
    assert metrics.kernel_distance(zeros, torch.tensor([[1.0], [-1.0]])) == pytest.approx(-1)


def test_kd_is_unbiased_where_fd_is_not():
    """Over many pairs of sets of 12 from N(0, 1), FD is above 0 and KD is 0 within four standard errors.

    Against N(m, 1) KD approaches its closed form: with F = 1, E k(x, y) = Σ (3 choose i) E xⁱ E yⁱ.
    """
    sets = torch.randn(600, 2, 12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kd = torch.tensor([metrics.kernel_distance(*pair) for pair in sets])
    assert abs(kd.mean()) < 4 * kd.std() / len(kd) ** 0.5
    assert metrics.frechet_distance(*sets[0]) > 0
    moved = torch.tensor([metrics.kernel_distance(one, 1 + other) for one, other in sets])
    here, there = (0, 1, 0), (1, 2, 4)  # moments of N(0, 1) and of N(1, 1)
    truth = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), here, there, strict=True))
    assert abs(moved.mean() - truth) < 4 * moved.std() / len(moved) ** 0.5


# Neighbourhoods


def by_prdc(real: torch.Tensor, fake: torch.Tensor, neighbours: int) -> dict[str, float]:
    """The four measures as the authors of density and coverage compute them."""
    return compute_prdc(real.numpy(), fake.numpy(), neighbours)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 7), st.floats(0, 3))
def test_neighbourhoods_equal_prdcs(seed, neighbours, shift):
    """On sets of two sizes, near and far."""
    real, fake = cloud(seed), cloud(seed, 150) + shift
    theirs = by_prdc(real, fake, neighbours)
    precision, recall = metrics.precision_recall(real, fake, neighbours)
    density, coverage = metrics.density_coverage(real, fake, neighbours)
    assert precision == pytest.approx(theirs["precision"], rel=1e-3)
    assert recall == pytest.approx(theirs["recall"], rel=1e-3)
    assert density == pytest.approx(theirs["density"], rel=1e-3)
    assert coverage == pytest.approx(theirs["coverage"], rel=1e-3)


def test_every_score_of_images_equals_that_of_the_other_libraries(held_out_digits):
    """On the features that the book reports on: torch-fidelity for FD, torchmetrics for KD, prdc for the rest."""
    classifier = features.load_classifier("digits")
    real = classifier.describe(held_out_digits.images[:1000])[0]
    noise = torch.randn(1000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    fake = classifier.describe((held_out_digits.images[1000:] + 0.1 * noise).clamp(-1, 1))[0]
    scores = metrics.feature_scores(real, fake)
    assert list(scores) == ["fd", "kd", "precision", "recall", "density", "coverage"]
    statistics = (fid_features_to_statistics(x.double()) for x in (real, fake))
    fd = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    expected = {
        "fd": fd,
        "kd": by_torchmetrics(real.double(), fake.double()),
        "precision": by_prdc(real.double(), fake.double(), 3)["precision"],
        "recall": by_prdc(real.double(), fake.double(), 3)["recall"],
        "density": by_prdc(real.double(), fake.double(), 5)["density"],
        "coverage": by_prdc(real.double(), fake.double(), 5)["coverage"],
    }
    assert scores == pytest.approx(expected, rel=1e-3)


def test_neighbourhoods_on_a_line_have_known_answers():
    """Real points 0, 1, 2, 3 with k = 1: every ball has radius 1.

    Of the generated 0.5, 1.4 and 9 the first two lie in two balls each, and every ball but 3's holds one. Their own
    balls reach 0.9, 0.9 and 7.6: 0 and 1 lie in the first, 1 and 2 in the second, 2 and 3 in the third.
    """
    real = torch.arange(4.0).unsqueeze(1)
    fake = torch.tensor([[0.5], [1.4], [9.0]])
    assert metrics.precision_recall(real, fake, neighbours=1) == pytest.approx((2 / 3, 1))
    assert metrics.density_coverage(real, fake, neighbours=1) == pytest.approx((4 / 3, 3 / 4))
    odd = torch.tensor([[0.5], [1.4]])
    assert metrics.precision_recall(real, odd, neighbours=1) == pytest.approx((1, 3 / 4))


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_the_order_of_samples_does_not_matter(seed):
    real, fake = cloud(seed), cloud(seed + 1)
    rng = torch.Generator().manual_seed(seed)
    shuffled = (x[torch.randperm(len(x), generator=rng)] for x in (real, fake))
    assert metrics.feature_scores(*shuffled) == pytest.approx(metrics.feature_scores(real, fake), rel=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 7))
def test_a_set_against_itself_is_perfect(seed, neighbours):
    """Each ball holds its centre and k - 1 neighbours, the k-th on its edge: density is 1 exactly."""
    real = cloud(seed)
    assert metrics.precision_recall(real, real, neighbours) == (1, 1)
    assert metrics.density_coverage(real, real, neighbours) == (1, 1)
    assert metrics.kernel_distance(real, real) < 0, "the diagonal is left out within, and not across"


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_a_set_far_away_shares_nothing(seed):
    real = cloud(seed)
    fake = cloud(seed + 1) + 1000
    assert metrics.precision_recall(real, fake) == (0, 0)
    assert metrics.density_coverage(real, fake) == (0, 0)
    assert metrics.kernel_distance(real, fake) > 1000
    assert metrics.frechet_distance(real, fake) > 1000


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(0, 199))
def test_one_sample_repeated_is_precise_and_covers_nothing(seed, index):
    real = cloud(seed)
    fake = real[index].repeat(200, 1)
    precision, recall = metrics.precision_recall(real, fake)
    assert precision == 1
    assert recall <= 1 / 200
    assert metrics.density_coverage(real, fake)[1] < 0.25


def test_scores_are_taken_of_float32_on_any_device(device):
    real, fake = cloud(0).float(), cloud(1, 150).float()
    scores = metrics.feature_scores(real.to(device), fake.to(device))
    assert scores == pytest.approx(metrics.feature_scores(real.double(), fake.double()), rel=1e-3)
    assert all(isinstance(score, float) for score in scores.values())


# Classes


def test_divergence_has_closed_forms():
    half, even = torch.tensor([0.5, 0.5, 0.0]), torch.full((3,), 1 / 3)
    assert metrics.histogram_divergence(even, even) == pytest.approx(0, abs=1e-6)
    assert metrics.histogram_divergence(half, even) == pytest.approx(math.log(1.5))
    assert metrics.histogram_divergence(torch.tensor([0.0, 1, 0]), even) == pytest.approx(math.log(3))
    assert metrics.histogram_divergence(half, half) == pytest.approx(0, abs=1e-6), "a class that neither has"


@given(st.lists(st.integers(1, 50), min_size=2, max_size=10), st.randoms(use_true_random=False))
def test_divergence_equals_scipys_and_is_never_negative(counts, random):
    shares, reference = ([c / sum(row) for c in row] for row in (counts, random.sample(counts, len(counts))))
    ours = metrics.histogram_divergence(torch.tensor(shares), torch.tensor(reference))
    assert ours == pytest.approx(scipy.special.rel_entr(shares, reference).sum(), abs=1e-5)
    assert ours > -1e-5


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
