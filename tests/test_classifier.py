"""The bundled classifiers: accuracy, features of single images, and training."""

import pytest
import torch

from gan_tutorial import classifier as classifiers
from gan_tutorial import data


@pytest.mark.parametrize(("name", "accuracy"), [("digits", 0.98), ("fashion", 0.88)])
def test_the_bundled_classifiers_classify_held_out_images(name, accuracy):
    images = data.load_images(name, "test")
    classifier = classifiers.load_classifier(name)
    features, predicted = classifier.extract(images.images)
    assert features.shape == (2000, classifiers.FEATURES)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert (predicted == images.labels).float().mean() > accuracy
    covariance = torch.cov(features.double().T)
    assert torch.linalg.matrix_rank(covariance) == classifiers.FEATURES


@pytest.mark.parametrize(("name", "bundled"), [("mnist", "digits"), ("fashion-mnist", "fashion")])
def test_the_full_sets_have_the_classifiers_of_the_bundled_ones(name, bundled):
    pair = [classifiers.load_classifier(n).state_dict() for n in (name, bundled)]
    assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0])


def test_features_depend_on_one_image_only(held_out_digits, device):
    classifier = classifiers.load_classifier("digits", device)
    images = held_out_digits.images[:40]
    features, predicted = classifier.extract(images)
    assert features.device.type == device.type
    in_parts, predicted_in_parts = classifier.train().extract(images, batch_size=7)
    torch.testing.assert_close(in_parts, features, rtol=1e-3, atol=1e-3)
    assert torch.equal(predicted, predicted_in_parts)
    assert not classifier.training, "batch statistics are frozen"
    torch.testing.assert_close(classifier(images.to(device)).argmax(1), predicted)


def test_training_learns_two_digits(held_out_digits):
    images = held_out_digits.subset(held_out_digits.labels < 2).subset(slice(300))
    classifier = classifiers.train_classifier(images, epochs=4, batch_size=40)
    _, predicted = classifier.extract(images.images)
    assert (predicted == images.labels).float().mean() > 0.9, "chance is one half"


def test_training_is_reproducible_and_does_not_use_the_global_generator(held_out_digits):
    images = held_out_digits.subset(slice(50))
    before = torch.get_rng_state()
    first, again, other = (
        classifiers.train_classifier(images, epochs=1, batch_size=20, seed=s) for s in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    weights = [network.state_dict()["trunk.0.weight"] for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not first.training


def test_training_accepts_fewer_images_than_a_batch(held_out_digits):
    classifier = classifiers.train_classifier(
        held_out_digits.subset(slice(0, 12)), epochs=2, batch_size=25
    )
    assert classifier.head[-1].out_features == 10


@pytest.mark.parametrize(("name", "percent"), [("digits", "99.2 %"), ("fashion", "90.5 %")])
def test_the_accuracy_is_the_one_in_the_readme_of_the_assets(name, percent):
    held_out = data.load_images(name, "test")
    _, predicted = classifiers.load_classifier(name).extract(held_out.images)
    accuracy = (predicted == held_out.labels).double().mean().item()
    stated = float(percent.removesuffix(" %")) / 100
    assert accuracy == pytest.approx(stated, abs=0.001)
    readme = data.asset(f"{name}-classifier.safetensors").with_name("README.md")
    assert percent in readme.read_text()
