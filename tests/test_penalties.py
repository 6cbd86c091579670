"""Gradient penalties against closed forms for linear and quadratic discriminators."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_tutorial import networks, penalties

ALL = [penalties.r1, penalties.r2, penalties.gradient_penalty]


def points(seed: int = 0, count: int = 6, size: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=rng, dtype=torch.float64)


def linear(w: torch.Tensor):
    """D(x) = wᵀx, whose gradient is w everywhere."""
    return lambda x: x @ w


def quadratic(A: torch.Tensor):
    """D(x) = ½ xᵀAx with a symmetric A, whose gradient is Ax."""
    return lambda x: ((x @ A) * x).sum(1) / 2


A = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -1.0], [0.0, -1.0, 3.0]], dtype=torch.float64)


@given(st.integers(0, 2**32))
def test_penalties_of_a_linear_d_depend_on_its_slope_only(seed):
    w, real, fake = points(seed, 1)[0], points(seed + 1), points(seed + 2)
    torch.testing.assert_close(penalties.r1(linear(w), real, fake), w.square().sum())
    torch.testing.assert_close(penalties.r2(linear(w), real, fake), w.square().sum())
    gp = penalties.gradient_penalty(linear(w), real, fake)
    torch.testing.assert_close(gp, (w.norm() - 1).square())


@given(st.integers(0, 2**32))
def test_penalties_of_a_quadratic_d_are_taken_at_the_right_points(seed):
    D, real, fake = quadratic(A), points(seed), points(seed + 1)
    at_real, at_fake = ((x @ A).square().sum(1) for x in (real, fake))
    torch.testing.assert_close(penalties.squared_gradient_norm(D, real), at_real)
    torch.testing.assert_close(penalties.r1(D, real, fake), at_real.mean())
    torch.testing.assert_close(penalties.r2(D, real, fake), at_fake.mean())
    same = penalties.gradient_penalty(D, real, real)
    torch.testing.assert_close(same, ((real @ A).norm(dim=1) - 1).square().mean())


def test_the_finite_difference_has_the_squared_norm_as_its_mean():
    """Exactly so for a linear D; for a quadratic one as σ tends to 0, with an error of order σ²."""
    w, x = points(3, 1)[0], points(4, 1)
    many, rng = x.expand(200_000, -1), torch.Generator().manual_seed(0)
    for sigma in (0.01, 1.0):
        D = linear(w)
        slopes = penalties.approximate_gradient_norm(D, many, D(many), sigma, rng)
        error = slopes.std() / len(slopes) ** 0.5
        assert abs(slopes.mean() - w.square().sum()) < 4 * error
    D, exact = quadratic(A), penalties.squared_gradient_norm(quadratic(A), x)
    bias = (A.trace() ** 2 + 2 * (A @ A).trace()) / 4  # E (½ εᵀAε)²
    for sigma in (0.1, 1.0):
        slopes = penalties.approximate_gradient_norm(D, many, D(many), sigma, rng)
        error = slopes.std() / len(slopes) ** 0.5
        assert abs(slopes.mean() - exact - sigma**2 * bias) < 4 * error


def test_the_finite_difference_trains_d_through_both_of_its_passes():
    """The gradient is that of ((D(x + σε) - D(x)) / σ)² with both terms attached."""
    torch.manual_seed(0)
    D, x = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)),
        torch.ones(5, 3),
    )
    rngs = [torch.Generator().manual_seed(1) for _ in range(2)]
    penalties.approximate_gradient_norm(D, x, D(x), 0.5, rngs[0]).mean().backward()
    ours = [p.grad.clone() for p in D.parameters()]
    noise = torch.randn(5, 3, generator=rngs[1])
    by_hand = (((D(x + 0.5 * noise) - D(x)) / 0.5) ** 2).mean()
    for grad, expected in zip(ours, torch.autograd.grad(by_hand, D.parameters()), strict=True):
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("n", [2, 4])
def test_parts_of_the_finite_difference_are_those_of_the_whole_batch(n):
    D, x = quadratic(A), points(count=8)
    whole = penalties.approximate_gradient_norm(D, x, D(x), 0.1, torch.Generator().manual_seed(0))
    parts = []
    for k, part in enumerate(x.chunk(n)):
        rng = torch.Generator().manual_seed(0)
        parts.append(penalties.approximate_gradient_norm(D, part, D(part), 0.1, rng, (k, n)))
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("shape", [(200, 2), (200, 1, 4, 4)])
def test_wgan_gp_is_taken_between_the_pairs(shape):
    """At a uniform point of the segment from a fake to its real sample, one weight per sample."""
    seen = []

    def spy(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    penalties.gradient_penalty(spy, torch.ones(shape), torch.zeros(shape))
    weights = seen[0].flatten(1)
    assert torch.equal(weights, weights[:, :1].expand_as(weights))
    assert 0 <= weights.min() < 0.1
    assert 0.9 < weights.max() <= 1
    assert abs(weights[:, 0].mean() - 0.5) < 0.08  # uniform: four standard deviations
    assert abs(weights[:, 0].var() - 1 / 12) < 0.02


def test_the_points_depend_on_the_random_generator_only(device):
    D, real, fake = quadratic(A.to(device)), points().to(device), points(1).to(device)
    first, again, other = (
        penalties.gradient_penalty(D, real, fake, torch.Generator(device).manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("penalty", ALL)
def test_penalties_give_gradients_to_d_only(penalty):
    w = points(3, 1)[0].requires_grad_()
    real, fake = points().requires_grad_(), points(1).requires_grad_()
    penalty(linear(w), real, fake).backward()
    norm = w.detach().norm()
    expected = 2 * (norm - 1) / norm * w if penalty is penalties.gradient_penalty else 2 * w
    torch.testing.assert_close(w.grad, expected.detach())
    assert real.grad is None
    assert fake.grad is None


@pytest.mark.parametrize("penalty", ALL)
def test_the_gradient_for_d_equals_finite_differences(penalty):
    real, fake = points(), points(1)

    def of_weights(half: torch.Tensor) -> torch.Tensor:
        rng = [torch.Generator().manual_seed(0)] if penalty is penalties.gradient_penalty else []
        return penalty(quadratic(half + half.T), real, fake, *rng)

    assert torch.autograd.gradcheck(of_weights, A.clone().requires_grad_())


@pytest.mark.parametrize("penalty", ALL)
def test_derivatives_stay_finite_where_the_gradient_vanishes(penalty):
    """A bare square root has an infinite derivative at 0, where a D with weights of 0 starts."""
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value = penalty(linear(w), points(), points(1))
    value.backward()
    expected = 1 if penalty is penalties.gradient_penalty else 0
    assert value.item() == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(w.grad).all()


@pytest.mark.parametrize("penalty", ALL)
@pytest.mark.parametrize("spectral", [False, True])
def test_penalties_of_a_network_have_gradients_for_its_weights(penalty, spectral):
    D = networks.ConvDiscriminator((1, 8, 8), width=2, spectral=spectral)
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    value = penalty(D, images, images.flip(0))
    value.backward()
    assert value.shape == ()
    assert value > 0
    reached = [name for name, p in D.named_parameters() if p.grad is not None and p.grad.any()]
    weight = "parametrizations.weight.original" if spectral else "weight"
    assert f"layers.0.{weight}" in reached


def test_batch_norm_in_d_mixes_the_gradients_of_samples():
    """With BatchNorm, the gradient at one sample depends on the other samples of the batch."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).double()
    mixed = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)
    ).double()
    x = points(count=4)
    for D, apart in ((plain, True), (mixed, False)):
        whole = penalties.squared_gradient_norm(D, x)[:2]
        part = penalties.squared_gradient_norm(D, x[:2])
        assert torch.allclose(whole, part) == apart


def test_of_a_d_that_compares_samples_the_exact_and_the_approximate_norm_differ():
    """What the docstrings say: the gradient of the sum, and one logit's by the whole group."""
    torch.manual_seed(0)
    D = networks.ConvDiscriminator((1, 8, 8), width=2, minibatch_std=4).double()
    x = torch.rand(8, 1, 8, 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(D, x).flatten(2)  # (logits, samples, pixels)
    exact = penalties.squared_gradient_norm(D, x)
    torch.testing.assert_close(exact, jacobian.sum(0).square().sum(1))
    rng = torch.Generator().manual_seed(0)
    draws = [
        penalties.approximate_gradient_norm(D, x, D(x), 1e-4, rng).detach() for _ in range(4000)
    ]
    expected = jacobian.square().sum((1, 2))
    torch.testing.assert_close(torch.stack(draws).mean(0), expected, rtol=0.15, atol=0)
    own = jacobian.diagonal().square().sum(0)
    assert (expected > own).all()
