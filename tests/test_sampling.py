"""Latent vectors, samples, paths between them, and nearest images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, truncnorm
from torch import nn

from gan_tutorial import networks, sampling


@pytest.fixture(scope="module")
def generator() -> networks.Generator:
    """A generator with batch statistics of its own, left in training mode."""
    torch.manual_seed(0)
    G = networks.ConvGenerator(6, (1, 8, 8), width=4)
    for _ in range(5):
        G(3 * torch.randn(16, 6))
    return G


# Latent vectors


@given(st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 9))
def test_latents_are_a_pure_function_of_their_seed(seed, count, size):
    z = sampling.latents(count, size, seed)
    assert z.shape == (count, size)
    assert z.device.type == "cpu"
    assert torch.equal(z, sampling.latents(count, size, seed))
    assert not torch.equal(z, sampling.latents(count, size, seed + 1))


def test_latents_are_standard_normal():
    z = sampling.latents(200, 100).flatten().numpy()
    assert kstest(z, "norm").pvalue > 0.001


@given(st.integers(0, 2**32), st.floats(0.01, 6))
def test_truncation_is_a_bound(seed, truncation):
    assert sampling.latents(50, 10, seed, truncation).abs().max() <= truncation


@pytest.mark.parametrize("truncation", [0.3, 1.0, 2.0])
def test_truncated_latents_follow_the_truncated_normal(truncation):
    """Not a clamped one: nothing heaps up at the bound."""
    z = sampling.latents(200, 100, 1, truncation).flatten().double().numpy()
    assert kstest(z, truncnorm(-truncation, truncation).cdf).pvalue > 0.001


# Samples


def test_a_sample_depends_on_its_own_z_alone(generator):
    z = sampling.latents(7, 6)
    samples = sampling.sample(generator, z)
    assert samples.shape == (7, 1, 8, 8)
    for index in range(7):
        torch.testing.assert_close(sampling.sample(generator, z[index : index + 1])[0], samples[index])
    torch.testing.assert_close(sampling.sample(generator, z, batch_size=3), samples)
    in_training = generator(z)
    assert (in_training - samples).abs().max() > 0.01, "batch statistics would show"


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_the_generator_as_it_was(generator, training):
    generator.train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    samples = sampling.sample(generator, sampling.latents(4, 6))
    assert generator.training == training
    assert not samples.requires_grad
    with pytest.raises(ValueError, match="z must have the shape"):
        sampling.sample(generator, sampling.latents(4, 5))
    assert generator.training == training, "even after an error"
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_samples_come_to_the_cpu(generator, device):
    z = sampling.latents(3, 6)
    expected = sampling.sample(generator, z)
    samples = sampling.sample(generator.to(device), z)
    assert samples.device.type == "cpu"
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)
    generator.to("cpu")


def test_labels_go_with_their_latents():
    torch.manual_seed(0)
    G = networks.MLPGenerator(4, (2,), hidden=(8,), classes=3)
    z, labels = sampling.latents(7, 4), torch.arange(7) % 3
    samples = sampling.sample(G, z, labels, batch_size=3)
    torch.testing.assert_close(samples, G(z, labels).detach())
    assert not torch.allclose(samples, sampling.sample(G, z, labels.flip(0)))


def test_a_generator_that_diverged_is_told_of():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z / self.weight

    with pytest.raises(ValueError, match="made NaN or infinity; were its weights saved after training diverged"):
        sampling.sample(Broken(), torch.ones(2, 2))


# Paths


vectors = st.integers(0, 2**32).map(
    lambda seed: torch.randn(2, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)


@given(vectors, st.integers(2, 9))
def test_paths_begin_and_end_at_their_ends(pair, steps):
    for path in (sampling.lerp(*pair, steps), sampling.slerp(*pair, steps)):
        assert path.shape == (steps, 12)
        torch.testing.assert_close(path[[0, -1]], pair)


@given(vectors)
def test_lerp_goes_straight_in_even_steps(pair):
    path = sampling.lerp(*pair, 5)
    torch.testing.assert_close(path.diff(dim=0), ((pair[1] - pair[0]) / 4).expand(4, -1))


@given(vectors, st.floats(0.1, 10))
def test_slerp_keeps_the_length_and_turns_evenly(pair, radius):
    start, end = (radius * v / v.norm() for v in pair)
    path = sampling.slerp(start, end, 9)
    torch.testing.assert_close(path.norm(dim=1), torch.full((9,), radius, dtype=torch.float64))
    turns = torch.linalg.vecdot(path[:-1], path[1:]) / radius**2
    torch.testing.assert_close(turns, turns[:1].expand(8), rtol=1e-6, atol=1e-6)
    whole = torch.acos(start @ end / radius**2)
    torch.testing.assert_close(torch.acos(turns).sum(), whole, rtol=1e-4, atol=1e-4)


@given(vectors)
def test_the_straight_line_is_shorter_on_the_way(pair):
    """Why slerp: half-way between two normal vectors, lerp is where the generator saw next to nothing."""
    start, end = (v / v.norm() for v in pair)
    middle = sampling.lerp(start, end, 3)[1].norm()
    assert middle < 1
    assert sampling.slerp(start, end, 3)[1].norm().item() == pytest.approx(1)


@pytest.mark.parametrize("end", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
def test_slerp_of_vectors_on_one_line_is_the_straight_line(end):
    start, end = torch.tensor([1.0, 0.0]), torch.tensor(end)
    torch.testing.assert_close(sampling.slerp(start, end, 5), sampling.lerp(start, end, 5))
    torch.testing.assert_close(sampling.slerp(end, start, 5), sampling.lerp(end, start, 5))


# Nearest images


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_nearest_equals_a_search_one_by_one(seed, count, others):
    rng = np.random.default_rng(seed)
    samples, images = (torch.from_numpy(rng.normal(size=(n, 1, 3, 3))) for n in (count, others))
    found = sampling.nearest(samples, images)
    distances = ((samples[:, None] - images[None]) ** 2).flatten(2).sum(2).sqrt()
    assert torch.equal(found.indices, distances.argmin(1))
    torch.testing.assert_close(found.distances, distances.amin(1))


def test_a_copy_is_at_distance_0(held_out_digits):
    images = held_out_digits.images
    found = sampling.nearest(images[100:130], images)
    assert found.indices.tolist() == list(range(100, 130))
    assert not found.distances.any()
