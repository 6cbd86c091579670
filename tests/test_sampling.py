"""Latent vectors, samples, interpolation and nearest images."""

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
    """A generator in training mode, with running statistics of BatchNorm."""
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
    """They are not clamped, which would put many of them at the bound."""
    z = sampling.latents(200, 100, 1, truncation).flatten().double().numpy()
    assert kstest(z, truncnorm(-truncation, truncation).cdf).pvalue > 0.001


# Samples


def test_a_sample_depends_on_its_own_z_only(generator):
    z = sampling.latents(7, 6)
    samples = sampling.sample(generator, z)
    assert samples.shape == (7, 1, 8, 8)
    for index in range(7):
        alone = sampling.sample(generator, z[index : index + 1])[0]
        torch.testing.assert_close(alone, samples[index])
    torch.testing.assert_close(sampling.sample(generator, z, batch_size=3), samples)
    in_training = generator(z)
    assert (in_training - samples).abs().max() > 0.01, (
        "the control: batch statistics make a difference"
    )


@pytest.mark.parametrize("training", [True, False])
def test_sampling_does_not_change_the_generator(generator, training):
    generator.train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    samples = sampling.sample(generator, sampling.latents(4, 6))
    assert generator.training == training
    assert not samples.requires_grad
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sampling.sample(generator, sampling.latents(4, 5))
    assert generator.training == training, "even after an error"
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_sampling_leaves_frozen_layers_frozen(generator):
    generator.train()
    norm = next(m for m in generator.modules() if isinstance(m, nn.BatchNorm2d))
    norm.eval()
    sampling.sample(generator, sampling.latents(4, 6))
    assert generator.training
    assert not norm.training
    assert [m for m in generator.modules() if not m.training] == [norm]


def test_samples_are_returned_on_the_cpu(generator, device):
    z = sampling.latents(3, 6)
    expected = sampling.sample(generator, z)
    samples = sampling.sample(generator.to(device), z)
    assert samples.device.type == "cpu"
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)
    generator.to("cpu")


def test_labels_are_split_with_their_latents():
    torch.manual_seed(0)
    G = networks.MLPGenerator(4, (2,), hidden=(8,), classes=3)
    z, labels = sampling.latents(7, 4), torch.arange(7) % 3
    samples = sampling.sample(G, z, labels, batch_size=3)
    torch.testing.assert_close(samples, G(z, labels).detach())
    assert not torch.allclose(samples, sampling.sample(G, z, labels.flip(0)))


def test_samples_of_a_diverged_generator_are_refused():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z / self.weight

    with pytest.raises(ValueError, match="returned NaN or infinity; did its training diverge"):
        sampling.sample(Broken(), torch.ones(2, 2))


# One way to generate


@pytest.fixture(scope="module")
def conditional() -> networks.Generator:
    torch.manual_seed(0)
    return networks.MLPGenerator(4, (2,), hidden=(8,), classes=3).eval()


def test_generate_is_sample_with_latents_and_labels(generator, conditional):
    z = sampling.latents(7, 6, seed=3, truncation=1.0)
    expected = sampling.sample(generator, z)
    assert torch.equal(sampling.generate(generator, 7, seed=3, truncation=1.0), expected)
    z, turns = sampling.latents(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    assert torch.equal(sampling.generate(conditional, 7), sampling.sample(conditional, z, turns))
    twos = sampling.sample(conditional, z, torch.full((7,), 2))
    assert torch.equal(sampling.generate(conditional, 7, label=2), twos)


def test_a_seed_gives_the_same_first_samples_whatever_the_count(conditional):
    few, many = (sampling.generate(conditional, count, seed=5) for count in (3, 10))
    torch.testing.assert_close(many[:3], few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 3}, "label must be an integer from 0 to 2, but is 3"),
        ({"label": -1}, "label must be an integer from 0 to 2"),
        ({"count": 0}, "count must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"truncation": 0}, r"truncation must be a number in \(0, inf\)"),
    ],
)
def test_generate_refuses_what_is_out_of_range(conditional, options, message):
    with pytest.raises(ValueError, match=message):
        sampling.generate(conditional, **{"count": 2} | options)


def test_a_label_for_an_unconditional_generator_is_refused(generator):
    with pytest.raises(ValueError, match="label 1 was given, but the generator has no classes"):
        sampling.generate(generator, 2, label=1)


def test_recalibrated_statistics_are_means_over_generated_batches(generator):
    """The first BatchNorm follows a linear layer, so its statistics are easy to compute by hand."""
    first = sampling.recalibrate_batchnorm(generator, batches=4, batch_size=50, seed=7)
    images = [generator.layers[:2](sampling.latents(50, 6, 7 + i)) for i in range(4)]
    mean = torch.stack([x.mean((0, 2, 3)) for x in images]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in images]).mean(0)
    norm = first.layers[2]
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not first.training
    assert norm.momentum == generator.layers[2].momentum, "so that it can be trained on"
    assert not torch.allclose(generator.layers[2].running_var, norm.running_var), "a copy"


def test_recalibration_from_batches_of_ones_own(generator):
    expected = sampling.recalibrate_batchnorm(generator, batches=4, batch_size=50, seed=7)
    batches = [(sampling.latents(50, 6, 7 + index),) for index in range(4)]
    given = sampling.recalibrate_batchnorm(generator, inputs=iter(batches))
    for ours, theirs in zip(given.buffers(), expected.buffers(), strict=True):
        assert torch.equal(ours, theirs)


# Paths


def two_vectors(seed: int) -> torch.Tensor:
    return torch.randn(2, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


vectors = st.integers(0, 2**32).map(two_vectors)


@given(vectors, st.integers(2, 9))
def test_paths_start_and_end_at_the_given_vectors(pair, steps):
    for path in (sampling.lerp(*pair, steps), sampling.slerp(*pair, steps)):
        assert path.shape == (steps, 12)
        torch.testing.assert_close(path[[0, -1]], pair)


@given(vectors)
def test_lerp_is_straight_with_equal_steps(pair):
    path = sampling.lerp(*pair, 5)
    torch.testing.assert_close(path.diff(dim=0), ((pair[1] - pair[0]) / 4).expand(4, -1))


@given(vectors, st.floats(0.1, 10))
def test_slerp_keeps_the_length_and_has_equal_angles(pair, radius):
    start, end = (radius * v / v.norm() for v in pair)
    path = sampling.slerp(start, end, 9)
    torch.testing.assert_close(path.norm(dim=1), torch.full((9,), radius, dtype=torch.float64))
    turns = torch.linalg.vecdot(path[:-1], path[1:]) / radius**2
    torch.testing.assert_close(turns, turns[:1].expand(8), rtol=1e-6, atol=1e-6)
    whole = torch.acos(start @ end / radius**2)
    torch.testing.assert_close(torch.acos(turns).sum(), whole, rtol=1e-4, atol=1e-4)


@given(vectors)
def test_vectors_between_the_ends_are_shorter_with_lerp_than_with_slerp(pair):
    """Why slerp: the midpoint of lerp is too short to be typical of N(0, I)."""
    start, end = (v / v.norm() for v in pair)
    middle = sampling.lerp(start, end, 3)[1].norm()
    assert middle < 1
    assert sampling.slerp(start, end, 3)[1].norm().item() == pytest.approx(1)


@pytest.mark.parametrize("away", [3e-4, 1e-3, 1e-2])
def test_slerp_keeps_the_length_between_nearly_opposite_vectors(away):
    angle = torch.tensor(torch.pi - away)
    start, end = torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])
    lengths = sampling.slerp(start, end, 9).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(9), rtol=0, atol=2e-3)


@pytest.mark.parametrize("end", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
def test_slerp_of_parallel_vectors_is_lerp(end):
    start, end = torch.tensor([1.0, 0.0]), torch.tensor(end)
    torch.testing.assert_close(sampling.slerp(start, end, 5), sampling.lerp(start, end, 5))
    torch.testing.assert_close(sampling.slerp(end, start, 5), sampling.lerp(end, start, 5))


# Nearest images


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_nearest_equals_a_direct_search(seed, count, others):
    rng = np.random.default_rng(seed)
    samples, images = (torch.from_numpy(rng.normal(size=(n, 1, 3, 3))) for n in (count, others))
    found = sampling.nearest(samples, images)
    distances = ((samples[:, None] - images[None]) ** 2).flatten(2).sum(2).sqrt()
    assert torch.equal(found.indices, distances.argmin(1))
    torch.testing.assert_close(found.distances, distances.amin(1))


def test_a_copy_has_distance_0(held_out_digits):
    images = held_out_digits.images
    found = sampling.nearest(images[100:130], images)
    assert found.indices.tolist() == list(range(100, 130))
    assert not found.distances.any()
