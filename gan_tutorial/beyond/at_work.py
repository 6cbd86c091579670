"""GANs at work: a classifier fed with samples, and how well a score sorts images.

A score is any number that should be higher for the images that are looked for, the positives: for
anomalies, or for images that a generator was trained on.
"""

from collections.abc import Sequence

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from gan_tutorial import checks, data, runtime, sampling
from gan_tutorial.classifier import Classifier


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve of the scores (N,) and (M,) of positives and negatives.

    The probability that a positive has a higher score than a negative, where ties count one half
    (Hanley and McNeil 1982): 0.5 for scores that know nothing.
    """
    pairs = len(positive) * len(negative)
    return mannwhitneyu(positive.double().numpy(), negative.double().numpy()).statistic / pairs


def tpr_at_fpr(positive: Tensor, negative: Tensor, fpr: float) -> float:
    """Return the share of positives with a score above all but a share ``fpr`` of the negatives.

    The true-positive rate at a given false-positive rate. With M negatives a rate is rounded down
    to a multiple of 1/M, so ``fpr`` below 1/M allows no false alarm.

    Raises:
        ValueError: ``fpr`` is not in [0, 1].
    """
    checks.require_number("fpr", fpr, most=1.0)
    allowed = int(fpr * len(negative) + 1e-9)
    if allowed >= len(negative):
        return 1.0
    threshold = negative.sort(descending=True).values[allowed]
    return (positive > threshold).double().mean().item()


def mahalanobis(images: Tensor, normal: Tensor, ridge: float = 0.01) -> Tensor:
    """Return the squared Mahalanobis distances (N,) of images (N, …) from normal ones (M, …).

    Under a normal distribution of the pixels with the mean and covariance of ``normal``, it is the
    negative log density, doubled, up to a constant.

    Args:
        ridge: added to the variances, as the covariance of images is nearly singular; in units of
            squared pixels in [-1, 1].
    """
    mean = normal.flatten(1).double().mean(dim=0)
    covariance = normal.flatten(1).double().T.cov()
    covariance.diagonal().add_(ridge)
    away = images.flatten(1).double() - mean  # (N, F)
    return (torch.linalg.solve(covariance, away.T).T * away).sum(1).float()


def pca_errors(images: Tensor, normal: Tensor, components: int = 64) -> Tensor:
    """Return the mean squared errors (N,) of images (N, …) rebuilt from principal components.

    The linear counterpart of inverting a generator: the components are those of ``normal`` (M, …).

    Raises:
        ValueError: ``components`` is 0, or as many as the numbers of an image, which lose nothing.
    """
    checks.require_integer("components", components, 1, normal[0].numel() - 1)
    mean = normal.flatten(1).double().mean(dim=0)
    directions = torch.linalg.eigh(normal.flatten(1).double().T.cov()).eigenvectors
    kept = directions[:, -components:]  # (F, components), the largest last
    away = images.flatten(1).double() - mean
    return (away - away @ kept @ kept.T).square().mean(dim=1).float()


def draw_few(images: data.ImageSet, each: int, seed: int = 0) -> data.ImageSet:
    """Return ``each`` images of every class, drawn at random, in the order of the classes.

    Raises:
        ValueError: a class has fewer.
    """
    fewest = int(images.labels.bincount(minlength=len(images.classes)).min())
    checks.require_integer("each", each, 1, fewest)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels[order]
    chosen = [order[labels == label][:each] for label in range(len(images.classes))]
    return images.subset(torch.cat(chosen))


def labelled_samples(
    G: nn.Module, classes: Sequence[str], count: int = 2000, seed: int = 1
) -> data.ImageSet:
    """Return samples of a conditional G, each class in turn, as a data set with its labels."""
    pixels = data.to_bytes(sampling.generate(G, count, seed=seed))
    return data.ImageSet(pixels, sampling.labels(G, count), tuple(classes), name="samples")


def train_classifier(
    few: data.ImageSet,
    extra: data.ImageSet | None = None,
    distort: bool = False,
    steps: int = 200,
    batch_size: int = 50,
    seed: int = 0,
) -> Classifier:
    """Train a small classifier on few 28×28 grey images, on the CPU, for a fixed number of steps.

    Args:
        few: real images with labels.
        extra: more images, such as generated ones; half of each batch is then drawn from them.
        distort: shift, turn and scale all images at random, one random transform per ten, as
            ``classifier.train_classifier`` does.
        steps: of AdamW.
        batch_size: images in a step.
        seed: of the initial weights, the batches, the dropout and the distortions.
    """
    change = v2.RandomAffine(
        degrees=10,
        translate=(0.07, 0.07),
        scale=(0.9, 1.1),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=-1.0,
    )
    sets = [few] if extra is None else [few, extra]
    with runtime.seeded(seed):
        classifier = Classifier(len(few.classes), width=16).train()
        optimiser = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
        rng = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            parts = [images.batch(batch_size // len(sets), rng) for images in sets]
            batch, labels = (torch.cat(part) for part in zip(*parts, strict=True))
            if distort:
                batch = torch.cat([change(part) for part in batch.split(10)])
            loss = cross_entropy(classifier(batch), labels, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval()
