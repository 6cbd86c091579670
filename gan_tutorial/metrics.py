"""How good are generated samples? Distances between sets of features, and counts of what was made."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_tutorial.data import Mixture


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
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or features.shape[1] != real.shape[1]:
            raise ValueError(f"{name} features must be (N, {real.shape[-1]}), but are {tuple(features.shape)}")
        if len(features) <= features.shape[1]:
            raise ValueError(
                f"a covariance of {features.shape[1]} features needs more than as many samples, "
                f"but {name} has {len(features)}; sample more"
            )
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} features must be finite, but hold NaN or infinity")
    metric = FrechetInceptionDistance(_Features(real.shape[1])).to(real.device)
    metric.update(real.double(), real=True)
    metric.update(fake.double().to(real.device), real=False)
    return metric.compute().item()


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class: float (classes,), summing to 1, for integer labels (N,).

    Raises:
        ValueError: there is no label, or one lies outside [0, classes).
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be at least one integer in [0, {classes - 1}], but are {labels.tolist()[:10]}")
    return torch.bincount(labels, minlength=classes) / len(labels)


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


def mode_report(points: Tensor, mixture: Mixture) -> ModeReport:
    """Count modes and high-quality samples among points (N, 2), as PacGAN does (Lin et al. 2018, section 4.1).

    Raises:
        ValueError: the points have another shape, or one is not finite.
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be (N, 2) with N at least 1, but are {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite, but hold NaN or infinity")
    distance, nearest = torch.cdist(points.detach(), mixture.centres.to(points.device)).min(dim=1)
    good = nearest[distance <= 3 * mixture.std]
    counts = torch.bincount(good, minlength=len(mixture.centres)).cpu()
    return ModeReport(int((counts > 0).sum()), len(good) / len(points), counts)
