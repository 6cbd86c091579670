"""Gradient penalties against closed forms for linear and quadratic discriminators."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_tutorial import networks, penalties

ALL = [penalties.r1, penalties.r2, penalties.gradient_penalty]


def points(seed: int = 0, count: int = 6, size: int = 3) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(w: torch.Tensor):
    """D(x) = wᵀx, whose gradient is w everywhere."""
    return lambda x: x @ w


def quadratic(A: torch.Tensor):
    """D(x) = ½ xᵀAx with a symmetric A, whose gradient is Ax."""
    return lambda x: ((x @ A) * x).sum(1) / 2


A = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -1.0], [0.0, -1.0, 3.0]], dtype=torch.float64)


@given(st.integers(0, 2**32))
def test_of_a_linear_d_only_the_slope_counts(seed):
    w, real, fake = points(seed, 1)[0], points(seed + 1), points(seed + 2)
    torch.testing.assert_close(penalties.r1(linear(w), real, fake), w.square().sum())
    torch.testing.assert_close(penalties.r2(linear(w), real, fake), w.square().sum())
    torch.testing.assert_close(penalties.gradient_penalty(linear(w), real, fake), (w.norm() - 1).square())


@given(st.integers(0, 2**32))
def test_of_a_quadratic_d_the_points_count(seed):
    real, fake = points(seed), points(seed + 1)
    torch.testing.assert_close(penalties.squared_gradient_norm(quadratic(A), real), (real @ A).square().sum(1))
    torch.testing.assert_close(penalties.r1(quadratic(A), real, fake), (real @ A).square().sum(1).mean())
    torch.testing.assert_close(penalties.r2(quadratic(A), real, fake), (fake @ A).square().sum(1).mean())
    same = penalties.gradient_penalty(quadratic(A), real, real)
    torch.testing.assert_close(same, ((real @ A).norm(dim=1) - 1).square().mean())


@pytest.mark.parametrize("shape", [(200, 2), (200, 1, 4, 4)])
def test_wgan_gp_looks_between_the_pairs(shape):
    """Each point lies on the segment from its fake to its real sample, one share for all numbers of a sample."""
    seen = []

    def spy(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    penalties.gradient_penalty(spy, torch.ones(shape), torch.zeros(shape))
    shares = seen[0].flatten(1)
    assert torch.equal(shares, shares[:, :1].expand_as(shares))
    assert 0 <= shares.min() < 0.1
    assert 0.9 < shares.max() <= 1
    assert abs(shares[:, 0].mean() - 0.5) < 0.08  # uniform: four standard deviations
    assert abs(shares[:, 0].var() - 1 / 12) < 0.02


def test_the_generator_of_random_numbers_decides_the_points(device):
    D, real, fake = quadratic(A.to(device)), points().to(device), points(1).to(device)
    first, again, other = (
        penalties.gradient_penalty(D, real, fake, torch.Generator(device).manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("penalty", ALL)
def test_penalties_reach_d_and_nothing_else(penalty):
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

    def of_weights(B: torch.Tensor) -> torch.Tensor:
        return penalty(quadratic(B), real, fake, *([torch.Generator().manual_seed(0)] * (penalty is ALL[2])))

    assert torch.autograd.gradcheck(lambda half: of_weights(half + half.T), A.clone().requires_grad_())


@pytest.mark.parametrize("penalty", ALL)
def test_derivatives_stay_finite_where_the_gradient_vanishes(penalty):
    """A bare square root has an infinite derivative at 0; D starts there when its weights do."""
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value = penalty(linear(w), points(), points(1))
    value.backward()
    assert value.item() == pytest.approx(1 if penalty is penalties.gradient_penalty else 0, abs=1e-5)
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
    assert "layers.0.parametrizations.weight.original" in reached if spectral else "layers.0.weight" in reached


def test_batch_norm_in_d_would_mix_the_samples():
    """What the module's text warns of: with BatchNorm the gradient of one logit's sum is not one sample's alone."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).double()
    mixed = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).double()
    x = points(count=4)
    for D, apart in ((plain, True), (mixed, False)):
        whole = penalties.squared_gradient_norm(D, x)[:2]
        part = penalties.squared_gradient_norm(D, x[:2])
        assert torch.allclose(whole, part) == apart
