"""Flow matching against the exact velocity of Gaussians, and its integrator against its order."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gan_tutorial import data, mixtures, sampling, training
from gan_tutorial.beyond import flow
from gan_tutorial.recipes import Recipe

CONFIG = flow.FlowConfig(width=8, steps=150, batch_size=32, lr=5e-3, ema=0.9)


@pytest.fixture(scope="module")
def small_digits() -> data.ImageSet:
    """Five hundred of the bundled digits, 8×8."""
    return data.load_images("digits", size=8).subset(slice(500))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(images: data.ImageSet, device: str = "cpu", **changes: object):
    config = replace(CONFIG, **changes)
    state = flow.FlowState.init(images, config, device)
    return state, list(flow.train(state, images, config))


def network(classes: int = 0, shape: tuple[int, ...] = (1, 8, 8)) -> flow.VelocityNet:
    torch.manual_seed(0)
    return flow.VelocityNet(shape, 4, classes).eval()


def test_a_path_is_straight_from_the_noise_to_the_example():
    z, x = torch.randn(2, 3, 1, 4, 4, generator=rng())
    start, speed = flow.path(z, x, torch.zeros(3))
    assert torch.equal(start, z)
    torch.testing.assert_close(flow.path(z, x, torch.ones(3))[0], x)
    t = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(flow.path(z, x, t)[0], z + t[:, None, None, None] * speed)


class Fixed(nn.Module):
    """A velocity (a + Δa) (x - t μ) + μ + Δb: the exact one of a Gaussian, and others near it."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.change = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t[:, None]
        exact = (t * self.std**2 - (1 - t)) / ((1 - t) ** 2 + (t * self.std) ** 2)
        return self.mean + self.change[0] + (exact + self.change[1]) * (x - t * self.mean)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_least_at_the_exact_velocity_of_a_gaussian(seed):
    """From N(0, 1) to N(2, s²), x_t is normal, and the mean velocity is linear in it."""
    x = 2 + 0.5 * torch.randn(200_000, 1, generator=rng(seed + 100))
    velocity = Fixed(2.0, 0.5)
    exact = flow.matching_loss(velocity, x, None, rng(seed))
    (slope,) = torch.autograd.grad(exact, velocity.change)
    assert slope.abs().max() < 0.02
    for change in ([0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [0.0, -0.1]):
        velocity.change.data = torch.tensor(change, dtype=torch.float64)
        other = flow.matching_loss(velocity, x, None, rng(seed))
        assert other > exact + 0.001
    # s² / ((1 - t)² + t² s²) is what no velocity can explain; its mean over t is π s / 2
    assert exact.item() == pytest.approx(math.pi * 0.5 / 2, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_the_velocity_of_a_mixture_is_the_mean_over_the_paths_through_a_point(seed):
    ring, t = mixtures.ring(std=0.3), 0.6
    x, _ = ring.batch(400_000, rng(seed))
    z = torch.randn(x.shape, generator=rng(seed + 100))
    points, speeds = flow.path(z, x, torch.full((len(x),), t))
    for place in torch.tensor([[0.5, 0.1], [-0.3, 0.6], [0.0, 0.0]]):
        near = (points - place).norm(dim=1) < 0.05
        exact = flow.mixture_velocity(place[None], torch.tensor([t]), ring)[0]
        error = speeds[near].std(0) / math.sqrt(int(near.sum()))
        assert near.sum() > 500
        assert ((speeds[near].mean(0) - exact).abs() < 5 * error + 0.03).all()


def test_the_exact_velocity_carries_noise_to_the_mixture():
    ring, z = mixtures.ring(std=0.1), torch.randn(4000, 2, generator=rng())
    x = flow.integrate(lambda x, t: flow.mixture_velocity(x, t, ring), z, 200)
    distances = torch.cdist(x, ring.centres).min(1)
    assert (distances.values < 0.3).float().mean() > 0.97
    assert torch.bincount(distances.indices, minlength=8).min() > 400  # of 500
    residual = x - ring.centres[distances.indices]
    assert residual[distances.values < 0.4].std().item() == pytest.approx(0.1, rel=0.1)


def test_one_step_of_the_exact_velocity_ends_at_the_mean_of_the_data():
    centres = mixtures.Mixture(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 0.2)
    z = torch.randn(50, 2, generator=rng())
    x = flow.integrate(lambda x, t: flow.mixture_velocity(x, t, centres), z, 1)
    torch.testing.assert_close(x, torch.tensor([[2.0, 1.5]]).expand(50, 2))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_falls_with_the_order_of_the_method(method, order):
    """For the velocity (1 + t) x the end is known, z exp(3 / 2)."""
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]

    def velocity(x, t):
        return (1 + t)[:, None] * x

    errors = [
        (flow.integrate(velocity, z, steps, method) - z * math.exp(1.5)).norm().item()
        for steps in (32, 64, 128)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("steps", [1, 7])
def test_the_steps_go_from_0_to_1(steps):
    times = []

    def velocity(x, t):
        times.append(t[0].item())
        return torch.ones_like(x)

    torch.testing.assert_close(flow.integrate(velocity, torch.zeros(2, 1), steps), torch.ones(2, 1))
    assert times == pytest.approx([index / steps for index in range(steps)])


def test_times_are_told_apart():
    codes = flow.embed_time(torch.linspace(0, 1, 101), 64)
    assert codes.shape == (101, 64)
    distances = torch.cdist(codes, codes) + 1e9 * torch.eye(101)
    assert distances.min() > 0.3


@pytest.mark.parametrize("classes", [0, 4])
def test_a_velocity_has_the_shape_of_the_images_and_depends_on_all_inputs(classes):
    net, x = network(classes, (3, 12, 12)), torch.randn(5, 3, 12, 12, generator=rng())
    t, labels = torch.full((5,), 0.3), (torch.arange(5) % 4,) if classes else ()
    velocity = net(x, t, *labels)
    assert velocity.shape == x.shape
    assert not torch.allclose(velocity, net(x, t + 0.1, *labels))
    if classes:
        assert not torch.allclose(velocity, net(x, t, (labels[0] + 1) % 4))
    torch.testing.assert_close(
        net(x[:2], t[:2], *(y[:2] for y in labels)), velocity[:2], rtol=1e-4, atol=1e-5
    )


def test_a_flow_is_a_generator():
    net = network(classes=10)
    G = flow.FlowGenerator(net, steps=3).eval()
    samples = sampling.generate(G, 20, seed=1)
    data.require_images(samples, (1, 8, 8))
    z, labels = sampling.latents(20, 64, seed=1).view(20, 1, 8, 8), torch.arange(20) % 10
    with torch.no_grad():
        end = flow.integrate(lambda x, t: net(x, t, labels), z, 3)
    torch.testing.assert_close(samples, end.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    G.train()
    assert G(z.flatten(1), labels).abs().max() > 1  # not clipped while it is trained


def test_the_loss_falls(small_digits, device):
    state, logs = trained(small_digits, device)
    assert [log.step for log in logs] == list(range(1, 151))
    first, last = (sum(log["loss"] for log in part) / 20 for part in (logs[:20], logs[-20:]))
    assert last < 0.7 * first


def test_one_step_draws_the_mean_of_a_class(small_digits):
    """So a flow that is learnt needs more steps than one, however straight its paths are."""
    state, _ = trained(small_digits, steps=400)
    G = flow.FlowGenerator(state.average)
    of_zero, of_one = (sampling.generate(G, 100, seed=1, label=label) for label in (0, 1))
    means = [small_digits.images[small_digits.labels == label].mean(0) for label in (0, 1)]
    for drawn, own, other in ((of_zero, *means), (of_one, *means[::-1])):
        assert (drawn.mean(0) - own).norm() < 0.5 * (drawn.mean(0) - other).norm()
    assert of_zero.std(0).mean() < 0.5 * small_digits.images.std(0).mean()


def test_a_discriminator_can_train_a_flow_of_one_step(small_digits):
    state, _ = trained(small_digits, steps=5)
    recipe = Recipe(shape=(1, 8, 8), width=4, classes=10, spectral=False, steps=3)
    G = flow.FlowGenerator(state.velocity)
    game = training.TrainState.init(G, recipe.build()[1], recipe)
    before = [weight.clone() for weight in game.G.parameters()]
    for log in training.train(game, small_digits, recipe):
        assert math.isfinite(log["g_loss"])
    for old, new in zip(before, game.G.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_a_seed_gives_the_same_bits_also_when_interrupted(small_digits):
    config = replace(CONFIG, steps=6)
    first, _ = trained(small_digits, steps=6)
    second = flow.FlowState.init(small_digits, config)
    for log in flow.train(second, small_digits, config):
        if log.step == 3:
            break
    list(flow.train(second, small_digits, config))
    other, _ = trained(small_digits, steps=6, seed=1)
    first, second, other = (
        torch.cat([weight.flatten() for weight in state.velocity.parameters()])
        for state in (first, second, other)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_average_follows_the_network(small_digits):
    before = flow.FlowState.init(small_digits, CONFIG).velocity
    state, _ = trained(small_digits, steps=1, ema=0.25)
    for old, slow, now in zip(
        before.parameters(), state.average.parameters(), state.velocity.parameters(), strict=True
    ):
        assert not torch.equal(old, now)
        torch.testing.assert_close(slow, 0.25 * old + 0.75 * now)


def test_the_rate_falls(small_digits):
    state, _ = trained(small_digits, steps=4)
    rate = state.optimiser.param_groups[0]["lr"]
    assert rate == pytest.approx(CONFIG.lr * (1 - 0.9 * 3 / 4))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: flow.FlowConfig(steps=0), "steps must be an integer of at least 1, but is 0"),
        (lambda: flow.FlowConfig(lr=0), r"lr must be a number in \(0, inf\), but is 0"),
        (lambda: flow.FlowConfig(lr_end=2), r"lr_end must be a number in \[0, 1\], but is 2"),
        (lambda: flow.FlowConfig(ema=1.0), r"ema must be a number in \[0, 1\), but is 1.0"),
        (lambda: flow.FlowGenerator(network(), steps=0), "steps must be an integer"),
        (lambda: flow.FlowGenerator(network(), method="rk4"), "one of euler, heun, but is 'rk4'"),
        (
            lambda: flow.integrate(None, torch.ones(1, 2), -2),
            "steps must be an integer",
        ),
        (
            lambda: flow.integrate(None, torch.ones(1, 2), 4, "Heun"),
            "of euler, heun, but is 'Heun'",
        ),
    ],
)
def test_a_bad_setting_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_images_of_another_size_or_with_more_classes_are_refused(small_digits):
    state = flow.FlowState.init(small_digits, CONFIG)
    state.velocity = flow.VelocityNet((1, 28, 28), 4, 10)
    with pytest.raises(ValueError, match=r"flow has shape and classes \(\(1, 28, 28\), 10\), but"):
        next(flow.train(state, small_digits, CONFIG))
    state.velocity = flow.VelocityNet(small_digits.shape, 4, 3)
    with pytest.raises(ValueError, match="the flow has shape and classes .* 3.*10"):
        next(flow.train(state, small_digits, CONFIG))
