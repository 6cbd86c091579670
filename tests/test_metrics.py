"""Scores against closed forms and other libraries; modes and classes against known counts."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from gan_tutorial import data, metrics, mixtures, runtime
from gan_tutorial.classifier import load_classifier, untrained


def cloud(seed: int, count: int = 200, width: int = 5) -> torch.Tensor:
    """Return correlated features (count, width) in float64."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=rng, dtype=torch.float64)
    return torch.randn(count, width, generator=rng, dtype=torch.float64) @ mix + torch.arange(width)


def by_scipy(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Return the FD by its definition, with SciPy's matrix square root."""
    S, C = (np.cov(x.numpy(), rowvar=False) for x in (real, fake))
    root = scipy.linalg.sqrtm(S @ C)
    return float(((real - fake[: len(real)]).mean(0) ** 2).sum() + np.trace(S + C - 2 * root.real))


# Fréchet distance


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_fd_equals_torch_fidelitys_and_scipys(seed):
    real, fake = cloud(seed), cloud(seed + 1)
    ours = metrics.frechet_distance(real, fake)
    reference = fid_statistics_to_metric(
        *(fid_features_to_statistics(x) for x in (real, fake)), verbose=False
    )
    assert ours == pytest.approx(reference["frechet_inception_distance"], rel=1e-8, abs=1e-8)
    assert ours == pytest.approx(by_scipy(real, fake), rel=1e-6, abs=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.2, 4))
def test_fd_of_a_shifted_and_scaled_set_has_a_closed_form(seed, shift, scale):
    """The same samples shifted by t: ‖t‖²; scaled by s about their mean: (1 - s)² tr S."""
    real = cloud(seed)
    assert metrics.frechet_distance(real, real + shift) == pytest.approx(5 * shift**2, abs=1e-6)
    mean = real.mean(0)
    trace = real.var(0).sum().item()
    scaled = mean + scale * (real - mean)
    assert metrics.frechet_distance(real, scaled) == pytest.approx(
        (1 - scale) ** 2 * trace, rel=1e-6, abs=1e-6
    )


def test_fd_of_two_gaussians_approaches_its_closed_form():
    """N(0, I) against N(m, diag(s²)): ‖m‖² + Σ (1 - s)²."""
    rng = torch.Generator().manual_seed(0)
    real, noise = torch.randn(2, 100_000, 3, generator=rng)
    fake = torch.tensor([1.0, 0.0, -2.0]) + torch.tensor([1.0, 3.0, 0.5]) * noise
    assert metrics.frechet_distance(real, fake) == pytest.approx(5 + 4 + 0.25, rel=0.02)


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_fd_is_a_distance_and_invariant_under_rotation(seed):
    real, fake = cloud(seed), cloud(seed + 1)
    there = metrics.frechet_distance(real, fake)
    assert there > 0
    assert metrics.frechet_distance(fake, real) == pytest.approx(there, rel=1e-8)
    assert metrics.frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    turn, _ = torch.linalg.qr(cloud(seed + 2, 5, 5))
    assert metrics.frechet_distance(real @ turn, fake @ turn) == pytest.approx(there, rel=1e-6)


def test_fd_works_for_sets_of_different_sizes_on_any_device(device):
    real, fake = cloud(0, 300).float(), cloud(0, 100).float()
    apart = metrics.frechet_distance(real.to(device), fake)
    assert apart == pytest.approx(metrics.frechet_distance(real.double(), fake.double()), rel=1e-4)


# Kernel distance


def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return (x·y / F + 1)³ of every pair."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def by_torchmetrics(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Return torchmetrics' KID of two sets of one size, with the whole set as the only subset."""
    with warnings.catch_warnings():
        message = "Metric `Kernel Inception Distance` will save all"
        warnings.filterwarnings("ignore", message=message)
        metric = KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=len(real))
    metric.set_dtype(real.dtype)
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
    """x = 0, 0 and y = 1, 1: 1 + 2³ - 2·1 = 7. With y = 1, -1 it is 1 + (-1·1 + 1)³ - 2·1 = -1."""
    zeros = torch.zeros(2, 1)
    assert metrics.kernel_distance(zeros, torch.ones(2, 1)) == pytest.approx(7)
    assert metrics.kernel_distance(zeros, torch.tensor([[1.0], [-1.0]])) == pytest.approx(-1)


def test_kd_is_unbiased_where_fd_is_not():
    """Between sets of 12 samples from N(0, 1), FD is positive, and the mean of KD is about 0.

    Between N(0, 1) and N(1, 1) it is near its closed form: E k(x, y) = Σ (3 choose i) E xⁱ E yⁱ
    for F = 1. Both within four standard errors.
    """
    rng = torch.Generator().manual_seed(0)
    sets = torch.randn(600, 2, 12, 1, generator=rng, dtype=torch.float64)
    kd = torch.tensor([metrics.kernel_distance(*pair) for pair in sets])
    assert abs(kd.mean()) < 4 * kd.std() / len(kd) ** 0.5
    assert metrics.frechet_distance(*sets[0]) > 0
    moved = torch.tensor([metrics.kernel_distance(one, 1 + other) for one, other in sets])
    here, there = (0, 1, 0), (1, 2, 4)  # moments of N(0, 1) and of N(1, 1)
    truth = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), here, there, strict=True))
    assert abs(moved.mean() - truth) < 4 * moved.std() / len(moved) ** 0.5


# Neighbourhoods


def by_prdc(real: torch.Tensor, fake: torch.Tensor, neighbours: int) -> dict[str, float]:
    """Return the four scores from prdc, by the authors of density and coverage."""
    return compute_prdc(real.numpy(), fake.numpy(), neighbours)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 7), st.floats(0, 3))
def test_precision_recall_density_and_coverage_equal_prdcs(seed, neighbours, shift):
    """For sets of different sizes, near and far."""
    real, fake = cloud(seed), cloud(seed, 150) + shift
    theirs = by_prdc(real, fake, neighbours)
    precision, recall = metrics.precision_recall(real, fake, neighbours)
    density, coverage = metrics.density_coverage(real, fake, neighbours)
    assert precision == pytest.approx(theirs["precision"], rel=1e-3)
    assert recall == pytest.approx(theirs["recall"], rel=1e-3)
    assert density == pytest.approx(theirs["density"], rel=1e-3)
    assert coverage == pytest.approx(theirs["coverage"], rel=1e-3)


def test_every_score_of_images_equals_that_of_the_other_libraries(held_out_digits):
    """On the book's features: torch-fidelity for FD, torchmetrics for KD, prdc for the rest."""
    classifier = load_classifier("digits")
    real = classifier.extract(held_out_digits.images[:1000])[0]
    noise = torch.randn(1000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    fake = classifier.extract((held_out_digits.images[1000:] + 0.1 * noise).clamp(-1, 1))[0]
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

    Of the generated 0.5, 1.4 and 9, the first two are in two balls each, and every ball but that
    of 3 contains one of them. The generated points' own balls have radii 0.9, 0.9 and 7.6: the
    first contains 0 and 1, the second 1 and 2, the third 2 and 3.
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
    assert metrics.feature_scores(*shuffled) == pytest.approx(
        metrics.feature_scores(real, fake), rel=1e-6
    )


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 7))
def test_a_set_against_itself_is_perfect(seed, neighbours):
    """A ball contains its centre and k - 1 neighbours; the k-th is on its edge. So density is 1."""
    real = cloud(seed)
    assert metrics.precision_recall(real, real, neighbours) == (1, 1)
    assert metrics.density_coverage(real, real, neighbours) == (1, 1)
    assert metrics.kernel_distance(real, real) < 0, "only the sums within a set skip the diagonal"


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_a_distant_set_scores_0_and_has_large_distances(seed):
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


def test_scores_in_float32_on_any_device_agree_with_float64(device):
    real, fake = cloud(0).float(), cloud(1, 150).float()
    scores = metrics.feature_scores(real.to(device), fake.to(device))
    assert scores == pytest.approx(metrics.feature_scores(real.double(), fake.double()), rel=1e-3)
    assert all(isinstance(score, float) for score in scores.values())


# Classes


def test_divergence_has_closed_forms():
    half, even = torch.tensor([0.5, 0.5, 0.0]), torch.full((3,), 1 / 3)
    assert metrics.histogram_divergence(even, even) == pytest.approx(0, abs=1e-6)
    assert metrics.histogram_divergence(half, even) == pytest.approx(math.log(1.5))
    one = torch.tensor([0.0, 1, 0])
    assert metrics.histogram_divergence(one, even) == pytest.approx(math.log(3))
    assert metrics.histogram_divergence(even, half) == math.inf, "a class without reference"
    assert metrics.histogram_divergence(half, half) == pytest.approx(0, abs=1e-6), "both lack one"


@given(st.lists(st.integers(1, 50), min_size=2, max_size=10), st.randoms(use_true_random=False))
def test_divergence_equals_scipys_and_is_never_negative(counts, random):
    shares, reference = (
        [c / sum(row) for c in row] for row in (counts, random.sample(counts, len(counts)))
    )
    ours = metrics.histogram_divergence(torch.tensor(shares), torch.tensor(reference))
    assert ours == pytest.approx(scipy.special.rel_entr(shares, reference).sum(), abs=1e-5)
    assert ours > -1e-5


def test_a_histogram_has_a_share_for_every_class():
    shares = metrics.class_histogram(torch.tensor([0, 2, 2, 2]), 5)
    assert shares.tolist() == [0.25, 0, 0.75, 0, 0]


# Images


@pytest.fixture(scope="module")
def evaluator() -> metrics.Evaluator:
    return metrics.Evaluator("digits")


def test_the_floor_is_the_mean_fd_of_training_images_to_the_held_out_ones(
    evaluator, held_out_digits
):
    classifier = load_classifier("digits")
    train = data.load_images("digits")
    held_out, _ = classifier.extract(held_out_digits.images)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(3))
    real, _ = classifier.extract(train.subset(order[:500]).images)
    floor = evaluator.floor(500)
    assert len(floor.values) == 20
    expected = metrics.frechet_distance(held_out, real)
    assert floor.values[3] == pytest.approx(expected, rel=1e-4)
    assert floor.mean == pytest.approx(sum(floor.values) / 20)
    assert 0.1 * floor.mean < floor.std < floor.mean


@pytest.mark.parametrize("count", [300, 2000, 6000])
def test_real_images_are_at_one_floor_for_any_count(evaluator, count):
    """The mean over five random subsets; their seeds differ from the floor's."""
    train = data.load_images("digits")
    ratios = []
    for seed in range(100, 105):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        ratios.append(evaluator.ratio(train.subset(order[:count]).images))
    assert sum(ratios) / 5 == pytest.approx(1, abs=0.35)


def test_the_floor_of_more_images_than_there_are_is_extrapolated(evaluator):
    """Pretend that half of the images are all there are: the floor of twice as many is known, and
    the rule is nearer to it than the half's floor."""
    half = data.load_images("digits").subset(slice(4000))
    few = metrics.Evaluator("digits", train=half)
    known, extrapolated = evaluator.floor(8000).mean, few.floor(8000).mean
    assert known < extrapolated < few.floor(4000).mean
    assert extrapolated < 2 * known, "the rule is rough: 1.57 here"


def test_an_untrained_network_tells_bad_images_from_good_ones(held_out_digits):
    """Real images are at one floor, noisy ones and those of a single class far above it."""
    train, held_out = data.load_images("digits").subset(slice(1000)), held_out_digits
    network = untrained(train)
    judge = metrics.Evaluator(
        "any", train=train, held_out=held_out.subset(slice(600)), classifier=network
    )
    real = data.load_images("digits").subset(slice(2000, 2400))
    images = {"real": real.images}
    noise = torch.randn(real.images.shape, generator=torch.Generator().manual_seed(0))
    images["noisy"] = (real.images + 0.4 * noise).clamp(-1, 1)
    images["ones"] = real.images[real.labels == 1].repeat(12, 1, 1, 1)[:400]
    ratios = {name: judge.ratio(batch) for name, batch in images.items()}
    assert ratios["real"] == pytest.approx(1, abs=0.35)
    assert min(ratios["noisy"], ratios["ones"]) > 3
    report = judge.report(real.images)
    assert report.shares.tolist() == [1.0]
    assert report.class_divergence == 0
    assert torch.equal(untrained(train).trunk[-1].weight, network.trunk[-1].weight)


def test_real_images_that_are_all_alike_judge_nothing():
    """Their floor is rounding, perhaps below 0."""
    alike = data.load_images("digits").subset(torch.zeros(360, dtype=torch.int64))
    judge = metrics.Evaluator("digits", train=alike, held_out=alike.subset(slice(90)))
    with pytest.raises(data.DataError, match="the real images are all alike"):
        judge.ratio(alike.images[:100])


def test_a_report_has_every_score_with_its_floor(evaluator):
    images = data.load_images("digits").images[4000:4600]
    report = evaluator.report(images)
    assert report.scores.keys() == report.floors.keys()
    assert report.ratio == evaluator.ratio(images)
    assert report.scores["fd"] == evaluator.fd(images)
    assert report.floors["fd"] == report.fd_floor.mean == evaluator.floor(600).mean
    assert report.floors["precision"] == pytest.approx(report.scores["precision"], abs=0.05)
    assert report.shares.sum().item() == pytest.approx(1)
    assert report.shares.min() > 0.05
    assert report.class_divergence < 0.02


def test_noise_is_far_above_the_floor_and_classes_are_recognised(evaluator, held_out_digits):
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(200, 1, 28, 28, generator=rng) * 2 - 1
    assert evaluator.ratio(noise) > 30
    ones = held_out_digits.images[held_out_digits.labels == 1]
    assert evaluator.report(ones).shares[1] > 0.95
    assert (evaluator.classes(ones) == 1).float().mean() > 0.95
    assert torch.equal(evaluator.features(ones), evaluator.classifier.extract(ones)[0])


def test_an_evaluator_can_use_other_images():
    """With a validation split, the test images are not used."""
    images = data.load_images("digits")
    train, validation = images.subset(slice(6000)), images.subset(slice(6000, 8000))
    evaluator = metrics.Evaluator("digits", train=train, held_out=validation)
    assert len(evaluator.train) == 6000
    expected, _ = evaluator.classifier.extract(validation.images)
    assert torch.equal(evaluator.held_out, expected)
    assert len(evaluator.floor(500).values) == metrics.DRAWS
    assert evaluator.fd(validation.images) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (
            torch.zeros(5, 5),
            torch.zeros(9, 5),
            r"real features must be finite \(N, 5\) with N at least 6, not float32 \(5, 5\)",
        ),
        (
            torch.zeros(9, 5),
            torch.zeros(9, 4),
            r"fake features must be finite \(N, 5\) .*, not float32 \(9, 4\)",
        ),
        (
            torch.zeros(9, 5),
            torch.full((9, 5), math.nan),
            "fake features must be finite .* from nan to nan",
        ),
    ],
)
def test_features_of_no_defined_distance_are_refused(real, fake, message):
    """Unchecked, each would silently give a number or NaN."""
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance(real, fake)


# Modes


def test_modes_are_counted_right_on_points_with_a_known_answer():
    mixture = mixtures.ring()
    step = mixture.std * mixture.centres / mixture.centres.norm(dim=1, keepdim=True)
    inside, outside = mixture.centres + 2.9 * step, mixture.centres + 3.1 * step
    parts = [
        mixture.centres[:3],  # three modes hit exactly
        inside[3:4],  # one point within three standard deviations
        outside[4:5],  # one just outside
        mixture.centres[:1],
        torch.zeros(4, 2),  # far from every mode
    ]
    points = torch.cat(parts)
    report = metrics.mode_report(points, mixture)
    assert report.covered == 4
    assert report.high_quality == 0.5
    assert report.counts.tolist() == [2, 1, 1, 1, 0, 0, 0, 0]
    entropy = scipy.stats.entropy([2 / 5, 1 / 5, 1 / 5, 1 / 5])
    assert report.reverse_kl == pytest.approx(math.log(8) - entropy)  # the poor points do not count


def test_reverse_kl_is_0_for_equal_shares_largest_for_one_mode_and_nan_without_a_good_sample():
    mixture = mixtures.grid()
    assert metrics.mode_report(mixture.centres.repeat(3, 1), mixture).reverse_kl == 0
    one = metrics.mode_report(mixture.centres[:1].repeat(9, 1), mixture)
    assert one.reverse_kl == pytest.approx(math.log(25))
    assert math.isnan(metrics.mode_report(torch.full((4, 2), 1.0), mixture).reverse_kl)


@pytest.mark.parametrize("std", [1e-5, 1e-3, 0.05])
def test_the_bound_of_three_deviations_is_sharp_for_narrow_modes_far_from_0(std):
    mixture = mixtures.grid(std=std)
    angle = torch.tensor([math.cos(0.3), math.sin(0.3)], dtype=torch.float64)
    for distance, share in ((2.95, 1.0), (3.05, 0.0)):
        points = (mixture.centres.double() + distance * std * angle).repeat(4, 1)
        report = metrics.mode_report(points, mixture)
        assert report.high_quality == share
        assert report.covered == 25 * share


@pytest.mark.parametrize("mixture", [mixtures.ring(), mixtures.grid()], ids=["ring", "grid"])
def test_samples_of_the_mixture_cover_all_modes_and_have_a_gaussians_quality(mixture, device):
    points, modes = mixture.to(device).batch(20_000, runtime.step_rng(0, 0, device))
    report = metrics.mode_report(points, mixture)
    assert report.covered == len(mixture.centres)
    within = 1 - math.exp(-4.5)  # P(|x| ≤ 3σ) in the plane
    assert report.high_quality == pytest.approx(within, abs=0.004)
    assert report.counts.device.type == "cpu"
    assert (report.counts <= modes.bincount().cpu()).all()


def test_points_may_require_gradients():
    points = torch.zeros(3, 2, requires_grad=True)
    assert metrics.mode_report(points, mixtures.ring()).high_quality == 0


def test_real_flowers_are_found_to_be_flowers_of_every_kind():
    images, _ = data.make_flowers(1000, 32, seed=7)
    report = metrics.flower_report(images.images, images.labels)
    assert report.error.max() < 5
    assert (report.asked, report.covered) == (1, 72)
    assert max(report.distances.values()) < 0.06  # 1.36 / √1000 = 0.043 is passed by one in twenty
    assert report.distances.keys() == {"hue", "size", "background"}


def test_a_generator_of_few_kinds_of_flowers_is_found_out():
    flowers = mixtures.flowers(1000, seed=8)
    half = flowers[(flowers.hue < 180) & (flowers.size > 0.75)]
    pixels = half.draw(32)
    report = metrics.flower_report(data.to_unit_range(pixels), half.petals - 3)
    assert report.covered == 36
    assert report.distances["hue"] == pytest.approx(0.5, abs=0.06)
    assert report.distances["size"] == pytest.approx(0.5, abs=0.06)
    assert report.distances["background"] < 0.12
    other = metrics.flower_report(data.to_unit_range(pixels), (half.petals - 2) % 6)
    assert other.asked == 0


def test_what_is_no_flower_covers_nothing():
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(300, 3, 32, 32, generator=rng) * 2 - 1
    report = metrics.flower_report(noise, torch.zeros(300, dtype=torch.int64))
    assert report.covered == 0
    assert report.error.min() > 50
    blank = metrics.flower_report(noise * 0, torch.zeros(300, dtype=torch.int64))
    assert blank.covered == 0


def test_the_error_of_a_flower_is_less_than_a_petal_more_or_less_makes():
    flowers = mixtures.flowers(300, seed=9)
    more = replace(flowers, petals=(flowers.petals - 2) % 6 + 3)
    images, others = (data.to_unit_range(f.draw(32)) for f in (flowers, more))
    change = 127.5 * (images - others).square().mean((1, 2, 3)).sqrt()
    assert change.median() == pytest.approx(metrics.FLOWER_LIMIT, rel=0.1)
    rng = torch.Generator().manual_seed(0)
    noisy = (images + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)
    assert metrics.flower_report(noisy, flowers.petals - 3).error.max() < metrics.FLOWER_LIMIT


# Stacked digits


@pytest.fixture(scope="module")
def stack_evaluator() -> metrics.StackEvaluator:
    return metrics.StackEvaluator()


def test_the_classifier_names_the_modes_of_held_out_stacks_up_to_its_stated_error(stack_evaluator):
    stacks, modes = stack_evaluator.held_out.batch(2000, runtime.step_rng(0, 0))
    wrong = (stack_evaluator.modes(stacks) != modes).double().mean().item()
    error = stack_evaluator.classifier_error
    assert 0 < error < 0.03
    assert abs(wrong - error) < 5 * math.sqrt(error / 2000)


def test_every_channel_is_classified_by_itself(stack_evaluator):
    stacks, _ = stack_evaluator.held_out.batch(20, runtime.step_rng(0, 1))
    backwards = [int(f"{mode:03}"[::-1]) for mode in stack_evaluator.modes(stacks).tolist()]
    assert stack_evaluator.modes(stacks.flip(1)).tolist() == backwards


def test_modes_and_divergences_of_stacks_have_known_values(stack_evaluator, monkeypatch):
    seen = torch.tensor([0] * 6 + [999] * 2)
    monkeypatch.setattr(stack_evaluator, "modes", lambda stacks: seen)
    report = stack_evaluator.report(torch.zeros(8, 3, 28, 28))
    assert (report.modes, report.count) == (2, 8)
    shares = stack_evaluator.train.shares[[0, 999]].tolist()
    kl = 0.75 * math.log(0.75 / shares[0]) + 0.25 * math.log(0.25 / shares[1])
    assert report.kl == pytest.approx(kl, rel=1e-5)
    kl = 0.75 * math.log(750) + 0.25 * math.log(250)
    assert report.kl_uniform == pytest.approx(kl, rel=1e-5)


def test_the_floor_of_stacks_is_near_its_expectation(stack_evaluator):
    report = stack_evaluator.floor(6000)
    assert report.count == 6000
    assert report.modes > 980  # of 1000; each is missed with a probability of about e ** -6
    assert report.kl == pytest.approx(500 / 6000, rel=0.2)
    assert report.kl < report.kl_uniform < report.kl + 0.03
