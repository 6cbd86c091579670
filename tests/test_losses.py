"""Losses against references, closed forms and finite differences; theory against quadrature."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch.nn import functional

from gan_tutorial import losses

NAMES = list(losses.OBJECTIVES)
PLAYERS = [(name, player) for name in NAMES for player in ("d_loss", "g_loss")]


def logits(seed: int = 0, count: int = 7, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return real and fake logits in float64."""
    rng = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(2, count, generator=rng, dtype=torch.float64))


def cross_entropy(logits: torch.Tensor, target: float) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def hinge(logits: torch.Tensor) -> torch.Tensor:
    return functional.hinge_embedding_loss(logits, -torch.ones_like(logits), margin=1.0)


def squares(logits: torch.Tensor, target: float) -> torch.Tensor:
    return functional.mse_loss(logits, torch.full_like(logits, target))


REFERENCES = {
    ("minimax", "d_loss"): lambda r, f: cross_entropy(r, 1) + cross_entropy(f, 0),
    ("minimax", "g_loss"): lambda r, f: -cross_entropy(f, 0),
    ("non_saturating", "d_loss"): lambda r, f: cross_entropy(r, 1) + cross_entropy(f, 0),
    ("non_saturating", "g_loss"): lambda r, f: cross_entropy(f, 1),
    ("least_squares", "d_loss"): lambda r, f: (squares(r, 1) + squares(f, 0)) / 2,
    ("least_squares", "g_loss"): lambda r, f: squares(f, 1) / 2,
    ("hinge", "d_loss"): lambda r, f: hinge(r) + hinge(-f),
    ("hinge", "g_loss"): lambda r, f: -f.sum() / len(f),
    ("wasserstein", "d_loss"): lambda r, f: (f - r).sum() / len(f),
    ("wasserstein", "g_loss"): lambda r, f: -f.sum() / len(f),
    ("relativistic", "d_loss"): lambda r, f: cross_entropy(r - f, 1),
    ("relativistic", "g_loss"): lambda r, f: cross_entropy(f - r, 1),
}
# Derivative of G's loss with respect to a single fake logit o, paired with a real logit of 0.
SLOPES = {
    "minimax": lambda o: -torch.sigmoid(o),
    "non_saturating": lambda o: -(1 - torch.sigmoid(o)),
    "least_squares": lambda o: o - 1,
    "hinge": lambda o: -torch.ones_like(o),
    "wasserstein": lambda o: -torch.ones_like(o),
    "relativistic": lambda o: -torch.sigmoid(-o),
}


def test_the_references_cover_every_objective():
    assert set(REFERENCES) == set(PLAYERS)
    assert set(SLOPES) == set(NAMES)


@pytest.mark.parametrize(("name", "player"), PLAYERS)
@given(seed=st.integers(0, 2**32), scale=st.floats(0.01, 20))
def test_losses_equal_their_references(name, player, seed, scale):
    real, fake = logits(seed, scale=scale)
    ours = getattr(losses.OBJECTIVES[name], player)(real, fake)
    assert ours.shape == ()
    torch.testing.assert_close(ours, REFERENCES[name, player](real, fake))


@pytest.mark.parametrize(("name", "player"), PLAYERS)
def test_gradients_equal_finite_differences(name, player):
    real, fake = (x.requires_grad_() for x in logits())
    loss = getattr(losses.OBJECTIVES[name], player)
    uses_real = player == "d_loss" or losses.OBJECTIVES[name].pairs
    function = loss if uses_real else lambda f: loss(real, f)
    assert torch.autograd.gradcheck(function, (real, fake) if uses_real else fake)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_equal_their_closed_forms(name):
    o = torch.linspace(-9, 9, 37, dtype=torch.float64, requires_grad=True)
    total = losses.OBJECTIVES[name].g_loss(torch.zeros_like(o), o) * len(o)
    (slopes,) = torch.autograd.grad(total, o)
    torch.testing.assert_close(slopes, SLOPES[name](o.detach()))


def test_cross_entropy_is_the_games_value():
    """With D = σ(logit), d_loss is -V(D, G), and minimax_g is the part of V that depends on G."""
    real, fake = logits()
    value = torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(losses.cross_entropy_d(real, fake), -value)
    torch.testing.assert_close(losses.minimax_g(real, fake), (1 - torch.sigmoid(fake)).log().mean())


def test_the_loss_of_d_at_the_equilibrium_is_log_four():
    even = torch.zeros(5)
    assert losses.cross_entropy_d(even, even).item() == pytest.approx(math.log(4))
    assert losses.relativistic_d(even, even).item() == pytest.approx(math.log(2))
    assert losses.hinge_d(even, even).item() == 2


def test_minimax_saturates_where_d_is_sure_of_the_fakes_and_non_saturating_does_not():
    for name, expected in (("minimax", 0.0), ("non_saturating", -1.0)):
        o = torch.tensor([-20.0], requires_grad=True)
        losses.OBJECTIVES[name].g_loss(o, o).backward()
        assert o.grad.item() == pytest.approx(expected, abs=1e-8)


def test_hinge_has_no_gradient_beyond_the_margin():
    real = torch.tensor([1.5, 9.0], requires_grad=True)
    fake = torch.tensor([-1.5, -9.0], requires_grad=True)
    loss = losses.hinge_d(real, fake)
    loss.backward()
    assert loss == 0
    assert not real.grad.any()
    assert not fake.grad.any()


@pytest.mark.parametrize(("name", "player"), PLAYERS)
@given(real=st.floats(-(2.0**50), 2.0**50, width=32), fake=st.floats(-(2.0**50), 2.0**50, width=32))
def test_losses_and_gradients_stay_finite_at_huge_logits(name, player, real, fake):
    """In float32, the logarithm of a sigmoid is infinite for logits below -104."""
    pair = [torch.tensor([o], requires_grad=True) for o in (real, fake)]
    loss = getattr(losses.OBJECTIVES[name], player)(*pair)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(o.grad is None or torch.isfinite(o.grad).all() for o in pair)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32), shift=st.floats(-30, 30))
def test_only_relativistic_and_wasserstein_d_losses_ignore_a_shift_of_all_logits(name, seed, shift):
    """These two depend on differences of logits only."""
    real, fake = logits(seed)
    objective = losses.OBJECTIVES[name]
    moved = objective.d_loss(real + shift, fake + shift)
    if name in ("relativistic", "wasserstein"):
        torch.testing.assert_close(moved, objective.d_loss(real, fake))
    elif abs(shift) > 20:
        assert abs(moved - objective.d_loss(real, fake)) > 1
    if name == "relativistic":
        torch.testing.assert_close(
            objective.g_loss(real + shift, fake + shift), objective.g_loss(real, fake)
        )


@pytest.mark.parametrize("name", NAMES)
def test_pairs_says_whether_the_generators_loss_uses_the_real_logits(name):
    real, fake = logits()
    objective = losses.OBJECTIVES[name]
    looks = not torch.equal(objective.g_loss(real, fake), objective.g_loss(real + 1, fake))
    assert looks == objective.pairs


@given(st.integers(0, 2**32))
def test_a_relativistic_loss_pairs_the_samples(seed):
    real, fake = logits(seed)
    order = torch.arange(len(real)).flip(0)
    torch.testing.assert_close(
        losses.relativistic_d(real, fake), losses.relativistic_d(real[order], fake[order])
    )
    assert losses.relativistic_d(real, fake) != losses.relativistic_d(real, fake[order])


@pytest.mark.parametrize("name", NAMES)
def test_logits_may_have_any_shape(name):
    real, fake = logits(count=12)
    for player in ("d_loss", "g_loss"):
        loss = getattr(losses.OBJECTIVES[name], player)
        torch.testing.assert_close(
            loss(real, fake), loss(real.reshape(3, 1, 4), fake.reshape(3, 1, 4))
        )


def test_every_loss_gives_its_formula():
    for name, function in inspect.getmembers(losses, inspect.isfunction):
        if name.endswith(("_d", "_g")):
            assert "E " in function.__doc__, f"{name} does not give its formula"


# The game's theory


def normal(x: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    return torch.exp(-((x - mean) / std).square() / 2) / (std * math.sqrt(2 * math.pi))


X = torch.linspace(-20, 20, 4001, dtype=torch.float64)
STEP = 0.01


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_d_star_minimises_the_cross_entropy_pointwise(p, q):
    """At a point of densities p and q, the loss of D is p·softplus(-o) + q·softplus(o)."""
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    o = torch.logit(losses.optimal_discriminator(p, q)).requires_grad_()
    (slope,) = torch.autograd.grad(p * functional.softplus(-o) + q * functional.softplus(o), o)
    assert abs(slope) < 1e-12


def test_d_star_is_one_half_where_the_densities_are_equal():
    p = torch.tensor([0.0, 0.3, 0.0, 0.2])
    q = torch.tensor([0.0, 0.3, 0.2, 0.0])
    assert losses.optimal_discriminator(p, q).tolist() == [0.5, 0.5, 0.0, 1.0]


def test_the_value_at_d_star_is_twice_js_less_log_four():
    """Goodfellow et al. 2014, equation 6."""
    p, q = normal(X, 0, 1), normal(X, 1.5, 0.7)
    best = losses.optimal_discriminator(p, q)
    worst = losses.optimal_discriminator(q, p)  # 1 - D*, without cancellation where D* is nearly 1
    torch.testing.assert_close(worst, 1 - best)
    value = torch.trapezoid(torch.xlogy(p, best) + torch.xlogy(q, worst), dx=STEP)
    assert value.item() == pytest.approx(
        2 * losses.jensen_shannon(p, q, STEP).item() - math.log(4), abs=1e-10
    )


@given(st.floats(-4, 4), st.floats(0.3, 3))
def test_js_lies_between_0_and_log_2_is_symmetric_and_equals_scipys(mean, std):
    p, q = normal(X, 0, 1), normal(X, mean, std)
    ours = losses.jensen_shannon(p, q, STEP).item()
    assert -1e-12 <= ours <= math.log(2) + 1e-12
    assert ours == pytest.approx(losses.jensen_shannon(q, p, STEP).item(), abs=1e-12)
    assert ours == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)


def test_js_of_equal_and_of_disjoint_densities():
    p = normal(X, 0, 1)
    assert losses.jensen_shannon(p, p, STEP).item() == pytest.approx(0, abs=1e-12)
    left, right = normal(X, -10, 0.5), normal(X, 10, 0.5)
    assert losses.jensen_shannon(left, right, STEP).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("player", ["d_loss", "g_loss"])
def test_a_relativistic_loss_refuses_batches_of_different_shapes(player):
    """Broadcasting (3,) against (3, 1) would silently make nine pairs."""
    with pytest.raises(AssertionError, match="pairs the two batches"):
        getattr(losses.OBJECTIVES["relativistic"], player)(torch.zeros(3), torch.zeros(3, 1))
