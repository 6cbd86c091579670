"""How good are generated samples? Distances between sets of features, and counts of modes."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import kstest
from torch import Tensor, nn
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_tutorial import data, mixtures
from gan_tutorial.classifier import Classifier, load_classifier

DRAWS = 20  # of real images for the floor of FD


class _Features(nn.Module):
    """Lets torchmetrics take features where it expects images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance between Gaussians fitted to two sets of features, each (N, F).

    ‖μ_r - μ_f‖² + tr(Σ_r + Σ_f - 2 (Σ_r Σ_f)^½) (Heusel et al. 2017, equation 6), in float64, by
    torchmetrics.

    Raises:
        ValueError: the widths differ, a value is not finite, or a set has no more samples than
            features.
    """
    _require_features(real, fake, least=real.shape[-1] + 1)  # else a covariance is singular
    real, fake = _double(real), _double(fake)
    metric = FrechetInceptionDistance(_Features(real.shape[1])).to(real.device)
    metric.update(real, real=True)
    metric.update(fake.to(real.device), real=False)
    return metric.compute().item()


def _require_features(real: Tensor, fake: Tensor, least: int) -> None:
    """Raise ValueError unless both are finite (N, F) with N at least ``least``."""
    expected = f"finite (N, {real.shape[-1]}) with N at least {least}"
    for name, given in (("real", real), ("fake", fake)):
        fits = given.ndim == 2 and given.shape[1] == real.shape[-1] and len(given) >= least
        if not fits or not given.isfinite().all():
            raise ValueError(f"{name} features must be {expected}, not {data.kind(given)}")


def _double(features: Tensor) -> Tensor:
    """Return features in float64; on the CPU if they are on Apple's MPS, which has no float64."""
    return (features.cpu() if features.device.type == "mps" else features).double()


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the kernel distance between two sets of features, each (N, F): KID's estimator.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel (u·v / F + 1)³
    (Bińkowski et al. 2018, section 4), by torch-fidelity. It is 0 on average for two sets from the
    same distribution, so it can be negative. The larger set is cut to the size of the smaller one.

    Raises:
        ValueError: the widths differ, a value is not finite, or a set has fewer than 2 samples.
    """
    _require_features(real, fake, least=2)
    count = min(len(real), len(fake))
    figures = kid_features_to_metric(
        _double(fake),
        _double(real),
        kid_subsets=1,
        kid_subset_size=count,
        rng_seed=0,
        verbose=False,
    )
    return figures["kernel_inception_distance_mean"]


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Return precision and recall of generated features against real ones, each (N, F).

    Precision is the fraction of generated samples inside a ball around a real one that reaches to
    its k-th real neighbour; recall is the same with real and generated samples exchanged
    (Kynkäänniemi et al. 2019, equations 1 and 2), by torch-fidelity.

    Raises:
        ValueError: the widths differ, a value is not finite, or a set has too few samples.
    """
    assert neighbours > 0, "a radius reaches at least to the first neighbour"
    _require_features(real, fake, least=neighbours + 1)
    figures = prc_features_to_metric(
        _double(fake),
        _double(real),
        prc_neighborhood=neighbours,
        prc_batch_size=10_000,
        save_cpu_ram=False,
        verbose=False,
    )
    return figures["precision"], figures["recall"]


def density_coverage(real: Tensor, fake: Tensor, neighbours: int = 5) -> tuple[float, float]:
    """Return density and coverage of generated features against real ones, each (N, F).

    Density is the number of real balls that contain a generated sample, over k, on average;
    coverage is the fraction of real balls that contain a generated sample (Naeem et al. 2020; as in
    their package prdc). The balls are around real samples only, so generated outliers change
    neither much. Density may exceed 1.

    Raises:
        ValueError: the widths differ, a value is not finite, or a set has too few samples.
    """
    _require_features(real, fake, least=neighbours + 1)
    real, fake = _double(real), _double(fake)
    fake = fake.to(real.device)
    exact = "donot_use_mm_for_euclid_dist"  # the fast way rounds: a sample may leave its own ball
    between = torch.cdist(real, real, compute_mode=exact)  # (N, N)
    radii = between.kthvalue(neighbours + 1).values  # (N,); the nearest is the sample itself
    inside = torch.cdist(real, fake, compute_mode=exact) < radii.unsqueeze(1)  # (real, fake)
    density = inside.sum(0).double().mean().item() / neighbours
    return density, inside.any(1).double().mean().item()


def feature_scores(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Return every score of generated features against real ones, each (N, F), by name."""
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    return {
        "fd": frechet_distance(real, fake),
        "kd": kernel_distance(real, fake),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class, (classes,), for int64 labels (N,) in [0, classes)."""
    assert labels.max() < classes, f"labels must be in [0, {classes})"
    return torch.bincount(labels, minlength=classes) / len(labels)


def histogram_divergence(shares: Tensor, reference: Tensor) -> float:
    """Return the Kullback-Leibler divergence of class histograms (C,), Σ s log(s / r), in nats.

    It is infinite if a class has a share, but none in the reference.
    """
    assert shares.shape == reference.shape == (shares.numel(),), "both must be (C,)"
    for histogram in (shares, reference):
        assert abs(histogram.sum() - 1) < 1e-4, "a histogram must sum to 1; divide by the sum"
    terms = shares * (shares / reference).log()
    return torch.where(shares > 0, terms, 0).sum().item()


@dataclass(frozen=True)
class ImageReport:
    """How close generated images are to held-out real ones.

    Attributes:
        scores: ``feature_scores`` of the generated images against the held-out ones.
        floors: the same for as many real images in place of the generated ones: the mean over
            draws, of which FD has ``DRAWS`` and the others three.
        fd_floor: the draws of the Fréchet distance.
        shares: share of each class among the generated images, as the classifier sees them,
            (classes,).
        class_divergence: of these shares from those of the held-out images, in nats.
    """

    scores: dict[str, float]
    floors: dict[str, float]
    fd_floor: "Floor"
    shares: Tensor
    class_divergence: float

    @property
    def ratio(self) -> float:
        """The Fréchet distance in floors."""
        return self.scores["fd"] / self.fd_floor.mean


@dataclass(frozen=True)
class Floor:
    """The real-against-real floor: what real images score in place of generated ones.

    Attributes:
        values: the Fréchet distance of each draw.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the draws: the unit of ``Evaluator.ratio``."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """The standard deviation of a single draw; too small for large draws, which overlap."""
        return statistics.stdev(self.values)


class Evaluator:
    """Judges generated images by a classifier's features, against held-out real images.

    Scores depend on how many images, N, are judged, so each is given beside its floor: the score
    of as many real images, averaged over random draws from the training images, ``DRAWS`` for FD,
    three for the others. If N exceeds the number of training images, all are drawn, and
    only FD's floor is extrapolated, roughly, in proportion to 1/N + 1/M for M held-out images. The
    draws have random class shares, so images with exactly the held-out set's shares can score
    below 1. The scores are not FID and KID, which rest on Inception's features.

    Args:
        name: a bundled set, ``digits`` or ``fashion``, or another set with a bundled classifier.
        device: where to compute.
        train: real images for the floor; by default the set's training images.
        held_out: real images to compare with; by default the set's test images.
        classifier: gives the features; by default the bundled one. With ``classifier.untrained``
            all images are of one class.

    Attributes:
        classifier: gives the features.
        held_out: features of the held-out images, (M, 64).
        train: features of the training images.
        shares: share of each class among the held-out images, (classes,).

    Raises:
        DataError: there is no such set, or no bundled classifier for it.
    """

    def __init__(
        self,
        name: str = "digits",
        device: str | torch.device = "cpu",
        train: data.ImageSet | None = None,
        held_out: data.ImageSet | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        self.classifier = load_classifier(name, device) if classifier is None else classifier
        train = data.load_images(name, "train") if train is None else train
        held_out = data.load_images(name, "test") if held_out is None else held_out
        self.train, self.held_out = map(self._features_of, (train, held_out))
        classes = self.classifier.head[-1].out_features
        labels = held_out.labels if classes > 1 else torch.zeros_like(held_out.labels)
        self.shares = class_histogram(labels, classes).cpu()
        self._floors: dict[int, Floor] = {}
        self._score_floors: dict[int, dict[str, float]] = {}

    def _features_of(self, images: data.ImageSet) -> Tensor:
        """Return the features of a set, (N, 64), with few images held as floats at a time."""
        parts = (slice(i, i + 1000) for i in range(0, len(images), 1000))
        return torch.cat([self.features(images.subset(part).images) for part in parts])

    def features(self, images: Tensor) -> Tensor:
        """Return the features (N, 64) of images (N, 1, 28, 28) in [-1, 1]."""
        return self.classifier.extract(images)[0]

    def classes(self, images: Tensor) -> Tensor:
        """Return the class (N,) that the classifier sees in each image, on the CPU."""
        return self.classifier.extract(images)[1].cpu()

    def floor(self, count: int) -> Floor:
        """Return the floor for ``count`` images."""
        if count not in self._floors:
            scale = self._scale(count)
            values = [frechet_distance(self.held_out, real) for real in self._draws(count)]
            if max(values) < 1e-9:  # rounding, perhaps below 0
                raise data.DataError("the real images are all alike, so nothing can be compared")
            self._floors[count] = Floor(tuple(scale * value for value in values))
        return self._floors[count]

    def fd(self, images: Tensor) -> float:
        """Return the Fréchet distance of images (N, 1, 28, 28) in [-1, 1] to the held-out ones."""
        return frechet_distance(self.held_out, self.features(images))

    def ratio(self, images: Tensor) -> float:
        """Return ``fd`` in floors: 1 on average for real images."""
        return self.fd(images) / self.floor(len(images)).mean

    def report(self, images: Tensor) -> ImageReport:
        """Return all scores of images (N, 1, 28, 28) in [-1, 1], each with its floor."""
        features, classes = self.classifier.extract(images)
        shares = class_histogram(classes, len(self.shares)).cpu()
        return ImageReport(
            feature_scores(self.held_out, features),
            self._floors_of_scores(len(images)),
            self.floor(len(images)),
            shares,
            histogram_divergence(shares, self.shares),
        )

    def _draws(self, count: int) -> Iterator[Tensor]:
        for seed in range(DRAWS):
            order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
            yield self.train[order[:count].to(self.train.device)]

    def _scale(self, count: int) -> float:
        most, held_out = len(self.train), len(self.held_out)
        return (1 / max(count, most) + 1 / held_out) / (1 / most + 1 / held_out)

    def _floors_of_scores(self, count: int) -> dict[str, float]:
        if count not in self._score_floors:
            draws = [
                feature_scores(self.held_out, real)
                for real in itertools.islice(self._draws(count), 3)
            ]
            floors = {key: statistics.fmean(scores[key] for scores in draws) for key in draws[0]}
            self._score_floors[count] = floors | {"fd": self.floor(count).mean}
        return self._score_floors[count]


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

    @property
    def reverse_kl(self) -> float:
        """Divergence of the components' shares among the samples from the true, equal ones.

        KL(generated ‖ data), in nats, between 0 and log K; of high-quality samples only, as in the
        code of Lin et al. 2018. It is NaN if there are none.
        """
        shares = self.counts.double() / self.counts.sum()
        return torch.xlogy(shares, len(shares) * shares).sum().item()


def mode_report(points: Tensor, mixture: mixtures.Mixture) -> ModeReport:
    """Count modes and high-quality samples of points (N, 2), as PacGAN does.

    Lin et al. 2018, section 4.1.

    Raises:
        ValueError: a point is not finite.
    """
    if not points.isfinite().all():
        raise ValueError(f"points must be finite, not {data.kind(points)}")
    points = points.detach().cpu().double()  # (N, 2)
    centres = mixture.centres.cpu().double()  # (K, 2)
    assert points.shape[1:] == centres.shape[1:], "points must be (N, 2), as the centres are"
    distance, nearest = (points.unsqueeze(1) - centres).norm(dim=2).min(dim=1)  # (N,), (N,)
    good = nearest[distance <= 3 * mixture.std]
    counts = torch.bincount(good, minlength=len(centres))
    return ModeReport(int((counts > 0).sum()), len(good) / len(points), counts)


FLOWER_LIMIT = 30.0  # grey levels: the median change when a drawn flower gains or loses a petal


@dataclass(frozen=True)
class FlowerReport:
    """How generated flowers compare with the formula by which real ones are drawn.

    Attributes:
        error: of each sample, the root mean square difference from the flower drawn from its
            measured factors, in grey levels out of 255, (N,).
        asked: share of samples with the number of petals asked for.
        covered: of the 72 kinds, 6 numbers of petals by 12 ranges of hue, how many have a sample
            with an error below ``FLOWER_LIMIT``.
        distances: by factor (hue, size, background), the largest difference between the shares of
            samples and of real flowers below a value (Kolmogorov-Smirnov): 0 to 1.
    """

    error: Tensor
    asked: float
    covered: int
    distances: dict[str, float]


def flower_report(images: Tensor, labels: Tensor) -> FlowerReport:
    """Judge flowers (N, 3, S, S) in [-1, 1] that were asked for as the classes ``labels`` (N,).

    Raises:
        DataError: the images have another shape or range.
    """
    data.require_images(images, (3, *images.shape[2:]))
    images = images.detach().cpu()
    found = mixtures.measure_flowers(images)
    drawn = data.to_unit_range(found.draw(images.shape[-1]))
    error = 127.5 * (drawn - images).square().mean((1, 2, 3)).sqrt()  # (N,)
    kinds = (found.petals - mixtures.PETALS.start) * 12 + (found.hue // 30).long()
    asked = (found.petals == labels.cpu() + mixtures.PETALS.start).float().mean().item()
    ranges = {"hue": (0.0, 360.0), "size": mixtures.SIZES, "background": mixtures.BACKGROUNDS}
    distances = {}
    for name, (low, high) in ranges.items():
        scaled = (getattr(found, name) - low) / (high - low)
        distances[name] = float(kstest(scaled.numpy(), "uniform").statistic)
    return FlowerReport(error, asked, kinds[error < FLOWER_LIMIT].unique().numel(), distances)


@dataclass(frozen=True)
class StackReport:
    """Which of the 1,000 modes of stacked digits were found.

    Attributes:
        modes: how many modes have at least one sample.
        kl: KL(generated ‖ data) of the modes' shares, in nats, where the data's shares are the
            products of the shares of the digits. For real stacks about 500 / count is expected.
        kl_uniform: the same with equal shares in place of the data's, as in PacGAN's code.
        count: the number of samples, which limits both.
    """

    modes: int
    kl: float
    kl_uniform: float
    count: int


class StackEvaluator:
    """Counts the modes of generated stacks of digits by the bundled classifier.

    The classifier sees each channel by itself (Lin et al. 2018, section 4.2).

    Args:
        device: where to compute.

    Attributes:
        train: stacks of the bundled training images, to compare with.
        held_out: stacks of the bundled test images, for the floor.
        classifier_error: the share of held-out stacks in which the classifier takes a digit for
            another one.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        layout = torch.channels_last  # half the time on a CPU
        self.classifier = load_classifier("digits", device).to(memory_format=layout)
        self.train = data.StackedDigits(data.load_images("digits", "train"))
        self.held_out = data.StackedDigits(data.load_images("digits", "test"))
        digits = self.held_out.digits
        seen = self.classifier.extract(digits.images)[1].cpu()
        right = (seen == digits.labels.cpu()).double().mean().item()
        self.classifier_error = 1 - right**3  # the three are drawn independently

    def modes(self, stacks: Tensor) -> Tensor:
        """Return the mode, int64 (N,) on the CPU, of stacks (N, 3, 28, 28) in [-1, 1].

        Raises:
            DataError: the stacks have another shape or range.
        """
        data.require_images(stacks, self.train.shape)
        channels = stacks.flatten(0, 1).unsqueeze(1)  # (3 N, 1, 28, 28)
        _, digits = self.classifier.extract(channels, batch_size=50)
        return digits.cpu().unflatten(0, (-1, 3)) @ torch.tensor([100, 10, 1])

    def report(self, stacks: Tensor) -> StackReport:
        """Return modes and divergences of stacks (N, 3, 28, 28) in [-1, 1]."""
        shares = class_histogram(self.modes(stacks), 1000)
        return StackReport(
            int((shares > 0).sum()),
            histogram_divergence(shares, self.train.shares.cpu()),
            histogram_divergence(shares, torch.full((1000,), 1 / 1000)),
            len(stacks),
        )

    def floor(self, count: int) -> StackReport:
        """Return the report of ``count`` real stacks, drawn from the held-out digits."""
        stacks, _ = self.held_out.batch(count, torch.Generator().manual_seed(0))
        return self.report(stacks)
