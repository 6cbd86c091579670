"""Scores against their definitions; a classifier on few images."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import data, networks, sampling
from gan_tutorial.beyond import at_work

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=20)  # few values, so there are ties


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_pairs_in_order(positive, negative):
    pairs = list(itertools.product(positive, negative))
    right = sum((a > b) + (a == b) / 2 for a, b in pairs)  # ties count one half
    found = at_work.auroc(torch.tensor(positive).float(), torch.tensor(negative).float())
    assert found == pytest.approx(right / len(pairs), abs=1e-12)


@given(SCORES, SCORES, st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 0.99, 1.0]))
def test_tpr_is_the_best_of_all_thresholds_that_keep_the_rate(positive, negative, fpr):
    positive, negative = (torch.tensor(scores).float() for scores in (positive, negative))
    expected = 0.0
    for threshold in torch.arange(-3.5, 4.0):
        if (negative > threshold).double().mean() <= fpr:
            expected = max(expected, (positive > threshold).double().mean().item())
    assert at_work.tpr_at_fpr(positive, negative, fpr) == pytest.approx(expected)


def test_mahalanobis_counts_in_standard_deviations():
    torch.manual_seed(0)
    stretch = torch.tensor([3.0, 1.0, 0.1])
    normal = torch.randn(20_000, 3) * stretch + 5
    away = torch.diag(stretch) + 5  # one standard deviation along each axis
    distances = at_work.mahalanobis(away, normal, ridge=0.0)
    torch.testing.assert_close(distances, torch.ones(3), rtol=0.05, atol=0.02)
    ridged = at_work.mahalanobis(away, normal, ridge=0.03)
    assert ridged[2] == pytest.approx(0.25, rel=0.1)  # 0.01 of a variance of 0.01 + 0.03


def test_pca_errors_are_0_for_what_the_components_span():
    torch.manual_seed(0)
    normal = torch.randn(500, 1, 2, 2)
    normal[:, 0, 1, 1] = 0.3  # a pixel that never changes
    assert at_work.pca_errors(normal[:20], normal, components=3).max() < 1e-9
    odd = normal[:20].clone()
    odd[:, 0, 1, 1] += 2
    torch.testing.assert_close(at_work.pca_errors(odd, normal, 3), torch.ones(20))  # 2² / 4


@pytest.fixture
def few():
    """Ten digits of each of two classes."""
    digits = at_work.draw_few(data.load_images("digits"), each=10)
    return digits.subset(digits.labels < 2)


def test_few_images_are_as_many_of_each_class_and_differ_by_seed():
    digits = data.load_images("digits")
    first, again, other = (at_work.draw_few(digits, each=3, seed=seed) for seed in (1, 1, 2))
    assert first.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert len(first.pixels.flatten(1).unique(dim=0)) == 30


def test_samples_carry_the_labels_that_were_asked_for():
    torch.manual_seed(0)
    G = networks.ConvGenerator(4, (1, 28, 28), width=4, classes=3).eval()
    images = at_work.labelled_samples(G, ("a", "b", "c"), count=7, seed=5)
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    drawn = sampling.generate(G, 7, seed=5)
    torch.testing.assert_close(images.images, drawn, rtol=0, atol=1.01 / 127.5)


def test_a_classifier_depends_on_its_seed_alone(few):
    first, again, other = (at_work.train_classifier(few, steps=3, seed=s) for s in (1, 1, 2))
    weights = [network.trunk[0].weight for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_distortions_change_what_a_classifier_learns_and_depend_on_its_seed(few):
    plain, distorted, again = (
        at_work.train_classifier(few, steps=3, seed=1, distort=distort)
        for distort in (False, True, True)
    )
    weights = [network.trunk[0].weight for network in (plain, distorted, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_a_classifier_learns_from_few_and_from_extra_images(few):
    test = data.load_images("digits", "test")
    test = test.subset(test.labels < 2)

    def accuracy(**options):
        classifier = at_work.train_classifier(few, steps=40, **options)
        _, predicted = classifier.extract(test.images)
        return (predicted == test.labels).float().mean().item()

    assert accuracy() > 0.9
    assert accuracy(distort=True) > 0.9
    swapped = data.ImageSet(few.pixels, 1 - few.labels, few.classes)
    assert accuracy(extra=swapped) < 0.9  # half of each batch contradicts the other half


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: at_work.tpr_at_fpr(torch.ones(2), torch.ones(2), -0.5), r"fpr must be .*\[0, 1\]"),
        (
            lambda: at_work.pca_errors(torch.ones(1, 4), torch.ones(9, 4), 0),
            "1 to 3, but is 0",
        ),
        (
            lambda: at_work.pca_errors(torch.ones(1, 4), torch.ones(9, 4), 4),
            "1 to 3, but is 4",
        ),
        (
            lambda: at_work.draw_few(data.load_images("digits").subset(slice(20)), each=10),
            "each must be an integer from 1 to",
        ),
    ],
)
def test_a_bad_argument_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()
