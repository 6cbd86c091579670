"""How good are generated samples? Distances between sets of features, and counts of what was made."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_tutorial import data, features, mixtures, runtime


class _Features(nn.Module):
    """Lets torchmetrics take features where it expects images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance between Gaussians fitted to two sets of features, each (N, F).

    ‖μ - m‖² + tr(S + C - 2 (S C)^½) (Heusel et al. 2017, equation 6), in float64, by torchmetrics.

    Raises:
        ValueError: the widths differ, a value is not finite, or a set has no more samples than features.
    """
    _require_features(real, fake)
    metric = FrechetInceptionDistance(_Features(real.shape[1])).to(real.device)
    metric.update(real.double(), real=True)
    metric.update(fake.double().to(real.device), real=False)
    return metric.compute().item()


def _require_features(real: Tensor, fake: Tensor, least: int | None = None) -> None:
    """Raise ValueError unless both are finite (N, F), of one F, with N at least ``least``, by default F + 1."""
    for name, given in (("real", real), ("fake", fake)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name} features must be a floating-point tensor (N, F), but are {kind}")
    width = real.shape[1] if real.ndim == 2 else "F"
    for name, given in (("real", real), ("fake", fake)):
        if given.ndim != 2 or given.shape[1] != width:
            raise ValueError(f"{name} features must be (N, {width}), but are {tuple(given.shape)}")
        if len(given) < (least or width + 1):
            raise ValueError(
                f"this measure needs at least {least or width + 1} samples of {width} features, "
                f"but {name} has {len(given)}; sample more"
            )
        if not torch.isfinite(given).all():
            raise ValueError(f"{name} features must be finite, but hold NaN or infinity")


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the kernel distance between two sets of features, each (N, F): KID's estimate on all of them at once.

    The unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x·y / F + 1)³ (Bińkowski et al. 2018,
    section 4), by torch-fidelity. It is 0 on average for two sets from one distribution, so it can be negative. Of the
    larger set, as many as the smaller has are taken.

    Raises:
        ValueError: the widths differ, a value is not finite, or a set has fewer than 2 samples.
    """
    _require_features(real, fake, least=2)
    count = min(len(real), len(fake))
    figures = kid_features_to_metric(
        fake.double(), real.double(), kid_subsets=1, kid_subset_size=count, rng_seed=0, verbose=False
    )
    return figures["kernel_inception_distance_mean"]


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Return precision and recall of generated features against real ones, each (N, F).

    Precision is the share of generated samples inside a ball about a real one that reaches to its k-th real neighbour;
    recall the same with the parts exchanged (Kynkäänniemi et al. 2019, equations 1 and 2), by torch-fidelity.

    Raises:
        ValueError: the widths differ, a value is not finite, a set has no more than ``neighbours`` samples, or
            ``neighbours`` is not an integer of at least 1.
    """
    runtime.require_integer("neighbours", neighbours, least=1)
    _require_features(real, fake, least=neighbours + 1)
    figures = prc_features_to_metric(
        fake.double(),
        real.double(),
        prc_neighborhood=neighbours,
        prc_batch_size=10_000,
        save_cpu_ram=False,
        verbose=False,
    )
    return figures["precision"], figures["recall"]


def density_coverage(real: Tensor, fake: Tensor, neighbours: int = 5) -> tuple[float, float]:
    """Return density and coverage of generated features against real ones, each (N, F).

    Density counts in how many real balls a generated sample lies, over k; coverage is the share of real balls that hold
    a generated sample (Naeem et al. 2020; the same as their package prdc). Balls stand about real samples only, so one
    odd generated sample spoils neither. Density may exceed 1.

    Raises:
        ValueError: the widths differ, a value is not finite, a set has no more than ``neighbours`` samples, or
            ``neighbours`` is not an integer of at least 1.
    """
    runtime.require_integer("neighbours", neighbours, least=1)
    _require_features(real, fake, least=neighbours + 1)
    real, fake = real.double(), fake.double().to(real.device)
    exact = "donot_use_mm_for_euclid_dist"  # the quick way rounds, and a sample would lie outside its own ball
    radii = torch.cdist(real, real, compute_mode=exact).kthvalue(neighbours + 1).values  # the nearest is itself
    distances = torch.cdist(real, fake, compute_mode=exact)  # (real, fake)
    inside = distances < radii.unsqueeze(1)
    return inside.sum(0).double().mean().item() / neighbours, inside.any(1).double().mean().item()


def feature_scores(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Return every measure of generated features against real ones, each (N, F), by name.

    Raises:
        ValueError: as ``frechet_distance``.
    """
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    return {
        "fd": frechet_distance(real, fake), "kd": kernel_distance(real, fake),
        "precision": precision, "recall": recall, "density": density, "coverage": coverage,
    }  # fmt: skip


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class: float (classes,), summing to 1, for integer labels (N,).

    Raises:
        ValueError: there is no label, one lies outside [0, classes), or they are no integers.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels must be integers (N,), but are {labels.dtype} of shape {tuple(labels.shape)}")
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be at least one integer in [0, {classes - 1}], but are {labels.tolist()[:10]}")
    return torch.bincount(labels, minlength=classes) / len(labels)


def histogram_divergence(shares: Tensor, reference: Tensor) -> float:
    """Return the Kullback-Leibler divergence, in nats, of one class histogram (C,) from another: Σ s log(s / r).

    Raises:
        ValueError: the shapes differ, the shares of either are negative or do not sum to 1, or a class with a share has
            none in the reference.
    """
    if shares.ndim != 1 or shares.shape != reference.shape:
        raise ValueError(
            f"histograms must have one shape (C,), but are {tuple(shares.shape)} and {tuple(reference.shape)}"
        )
    for name, given in (("shares", shares), ("reference shares", reference)):
        if (given < 0).any():
            raise ValueError(f"{name} must not be negative, but one is {given.min():g}")
        if not abs(given.sum() - 1) < 1e-4:  # NaN too
            raise ValueError(f"{name} must sum to 1, but sum to {given.sum():g}; divide counts by their sum")
    missing = ((reference == 0) & (shares > 0)).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"class {missing[0]} has a share of {shares[missing[0]]:g}, but none in the reference")
    return torch.special.xlogy(shares, shares / reference.clamp_min(1e-30)).sum().item()


@dataclass(frozen=True)
class ImageReport:
    """How near generated images are to held-out real ones.

    Attributes:
        scores: ``feature_scores`` of the generated images against the held-out ones, by name.
        floors: the same of as many training images, in place of the generated: what a perfect generator would score.
        shares: share of each class among the generated images, as the classifier sees them: float (classes,).
        class_divergence: of these shares from those of the held-out images, in nats.
    """

    scores: dict[str, float]
    floors: dict[str, float]
    shares: Tensor
    class_divergence: float

    @property
    def fd(self) -> float:
        """Fréchet distance of the generated images to the held-out ones, on the bundled classifier's features."""
        return self.scores["fd"]

    @property
    def floor(self) -> float:
        """Fréchet distance of training images to the held-out ones."""
        return self.floors["fd"]

    @property
    def ratio(self) -> float:
        """``fd`` in units of the floor."""
        return self.fd / self.floor


def image_report(fake: Tensor, name: str = "digits") -> ImageReport:
    """Compare generated images (N, 1, 28, 28) in [-1, 1] with the held-out images of a bundled set.

    Compare only figures of the same N, best 2,000: the distance has a bias that falls with N. They are not FID, which
    rests on Inception's features.

    Raises:
        DataError: there is no such set, or the images have another shape or range.
        ValueError: there are too few images for a covariance.
    """
    described, predicted = features.load_classifier(name, fake.device).describe(fake)
    held_out, real_shares, floors = _reference(name, len(fake), str(fake.device))
    shares = class_histogram(predicted, len(real_shares)).cpu()
    return ImageReport(
        feature_scores(held_out, described),
        dict(floors),
        shares,
        histogram_divergence(shares, real_shares),
    )


@functools.lru_cache(maxsize=4)
def _reference(name: str, count: int, device: str) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return held-out features of at most ``count`` images, all classes' shares, and the scores of training images."""
    classifier = features.load_classifier(name, device)
    train, held_out = (data.load_images(name, split) for split in data.SPLITS)
    few = slice(min(count, len(held_out)))
    real, stand_in = (classifier.describe(images.subset(few).images)[0] for images in (held_out, train))
    return real, class_histogram(held_out.labels, len(held_out.classes)), feature_scores(real, stand_in)


@dataclass(frozen=True)
class ModeReport:
    """Which components of a mixture were found.

    Attributes:
        covered: components with at least one high-quality sample.
        high_quality: share of the samples within three standard deviations of the nearest centre.
        counts: high-quality samples at each centre, int64 (K,).
    """

    covered: int
    high_quality: float
    counts: Tensor


def mode_report(points: Tensor, mixture: mixtures.Mixture) -> ModeReport:
    """Count modes and high-quality samples among points (N, 2), as PacGAN does (Lin et al. 2018, section 4.1).

    Raises:
        ValueError: the points have another shape, or one is not finite.
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be (N, 2) with N at least 1, but are {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite, but hold NaN or infinity")
    between = points.detach().cpu().double().unsqueeze(1) - mixture.centres.cpu().double()  # (N, K, 2)
    distance, nearest = between.norm(dim=2).min(dim=1)
    good = nearest[distance <= 3 * mixture.std]
    counts = torch.bincount(good, minlength=len(mixture.centres))
    return ModeReport(int((counts > 0).sum()), len(good) / len(points), counts)
