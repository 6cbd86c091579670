"""How good are generated samples? Distances between sets of features, and counts of what was made."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_tutorial import data, features, mixtures


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
    for name, given in (("real", real), ("fake", fake)):
        if given.ndim != 2 or given.shape[1] != real.shape[1]:
            width = real.shape[1] if real.ndim == 2 else "F"
            raise ValueError(f"{name} features must be (N, {width}), but are {tuple(given.shape)}")
        if len(given) <= given.shape[1]:
            raise ValueError(
                f"a covariance of {given.shape[1]} features needs more than as many samples, "
                f"but {name} has {len(given)}; sample more"
            )
        if not torch.isfinite(given).all():
            raise ValueError(f"{name} features must be finite, but hold NaN or infinity")
    metric = FrechetInceptionDistance(_Features(real.shape[1])).to(real.device)
    metric.update(real.double(), real=True)
    metric.update(fake.double().to(real.device), real=False)
    return metric.compute().item()


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


@dataclass(frozen=True)
class ImageReport:
    """How near generated images are to held-out real ones.

    Attributes:
        fd: Fréchet distance of the generated images to the held-out ones, on the bundled classifier's features.
        floor: the same for as many training images: what a perfect generator would score.
        shares: share of each class among the generated images, as the classifier sees them: float (classes,).
    """

    fd: float
    floor: float
    shares: Tensor

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
    classifier = features.load_classifier(name, fake.device)
    train, held_out = (data.load_images(name, split) for split in data.SPLITS)
    fake_features, predicted = classifier.describe(fake)
    count = min(len(fake), len(held_out))
    held_out_features, _ = classifier.describe(held_out.subset(slice(count)).images)
    train_features, _ = classifier.describe(train.subset(slice(count)).images)
    return ImageReport(
        frechet_distance(held_out_features, fake_features),
        frechet_distance(held_out_features, train_features),
        class_histogram(predicted, len(held_out.classes)).cpu(),
    )


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
