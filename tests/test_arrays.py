"""NumPy functions of the book and the service: latent vectors, labels, bytes, PNG."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gan_tutorial import arrays, data


@given(st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, 0.5]))
def test_a_latent_vector_does_not_depend_on_the_count(seed, count, more, truncation):
    few = arrays.latents(count, 3, seed, truncation)
    many = arrays.latents(count + more, 3, seed, truncation)
    assert few.dtype == np.float32
    np.testing.assert_array_equal(many[:count], few)


def test_latents_of_a_tight_truncation_are_finite_and_within_it():
    z = arrays.latents(100, 100, 0, 1e-3)
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= 1e-3
    assert np.unique(z).size > 5000


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [(0, None, None), (3, None, [0, 1, 2, 0, 1]), (3, 2, [2] * 5)],
)
def test_labels_are_each_class_in_turn_or_one_class(classes, label, expected):
    labels = arrays.labels(5, classes, label)
    assert labels is None if expected is None else labels.tolist() == expected
    assert labels is None or labels.dtype == np.int64


@given(st.integers(0, 2**32), st.sampled_from([1, 3]))
def test_to_bytes_equals_that_for_tensors(seed, channels):
    images = torch.rand(2, channels, 3, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    expected = data.to_bytes(images).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(arrays.to_bytes(images.numpy()), expected.numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_can_be_read_back(channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(io.BytesIO(arrays.png(picture))) as image:
        assert image.format == "PNG"
        assert image.mode == {1: "L", 3: "RGB"}[channels]
        np.testing.assert_array_equal(np.asarray(image), picture.squeeze())
