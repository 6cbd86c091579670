"""Small images and back, what each network looks at, and what each objective lowers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import data, records, runtime, training
from gan_tutorial.beyond import enlarger
from gan_tutorial.classifier import load_classifier

SHAPE = (1, 8, 8)
CONFIG = enlarger.EnlargerConfig(steps=4, batch_size=8, width=4, latent_dim=3)


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    """Two hundred of the bundled digits, 8×8."""
    return data.load_images("digits", size=8).subset(slice(200))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return uniform noise in [-1, 1]."""
    return torch.rand(shape, generator=rng(seed)) * 2 - 1


def flat(network: torch.nn.Module) -> torch.Tensor:
    """Return all weights as one vector."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def trained(images: data.ImageSet, **changes: object) -> tuple[training.TrainState, list]:
    config = replace(CONFIG, **changes)
    state = config.init(images.shape)
    return state, list(enlarger.train(state, enlarger.Pairs(images), config))


def test_a_small_pixel_is_the_mean_of_sixteen():
    images = noise(3, 2, 8, 12)
    small = enlarger.shrink(images)
    assert small.shape == (3, 2, 2, 3)
    torch.testing.assert_close(small[1, 0, 1, 2], images[1, 0, 4:8, 8:12].mean())


@given(st.integers(1, 3), st.integers(2, 5))
def test_repeated_pixels_shrink_to_what_they_were(channels, side):
    small = noise(2, channels, side, side)
    again = enlarger.shrink(enlarger.enlarge_by_rule(small, "nearest"))
    torch.testing.assert_close(again, small)


@pytest.mark.parametrize("rule", enlarger.RULES)
def test_a_rule_keeps_the_range_and_a_constant(rule):
    large = enlarger.enlarge_by_rule(noise(5, 1, 7, 7).sign(), rule)
    data.require_images(large, (1, 28, 28))
    flat = enlarger.enlarge_by_rule(torch.full((1, 1, 7, 7), 0.3), rule)
    torch.testing.assert_close(flat, torch.full((1, 1, 28, 28), 0.3))


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule must be one of nearest, bilinear, bicubic"):
        enlarger.enlarge_by_rule(noise(1, 1, 2, 2), "cubic")


def test_pairs_belong_together(digits):
    images, small = enlarger.Pairs(digits).batch(5, rng())
    assert torch.equal(small, enlarger.shrink(images))
    again, _ = digits.batch(5, rng())
    assert torch.equal(images, again)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 16)])
@pytest.mark.parametrize("latent_dim", [0, 5])
def test_shapes_and_ranges(shape, latent_dim):
    config = replace(CONFIG, latent_dim=latent_dim)
    state = config.init(shape)
    small = enlarger.shrink(noise(6, *shape))
    images = enlarger.enlarge(state.G_ema, small)
    data.require_images(images, shape)
    assert len(images) == 6
    assert state.D(images, small).shape == (6,)


def test_another_number_of_channels_for_the_condition():
    state = CONFIG.init(SHAPE, channels=16)
    condition = noise(4, 16, 2, 2)
    images = enlarger.enlarge(state.G_ema, condition)
    assert images.shape == (4, *SHAPE)
    assert state.D(images, condition).shape == (4,)


def test_weights_depend_on_the_seed_alone():
    small = noise(2, 1, 2, 2)
    torch.manual_seed(5)
    one, two = (enlarger.enlarge(CONFIG.init(SHAPE).G, small) for _ in range(2))
    other = enlarger.enlarge(replace(CONFIG, seed=1).init(SHAPE).G, small)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_g_listens_to_z_and_to_the_small_image():
    G, small = CONFIG.init(SHAPE).G, noise(2, 1, 2, 2)
    first, second = (enlarger.enlarge(G, small, seed) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, enlarger.enlarge(G, small, 0))
    assert not torch.equal(first, enlarger.enlarge(G, -small, 0))
    silent = replace(CONFIG, latent_dim=0).init(SHAPE).G
    assert torch.equal(*(enlarger.enlarge(silent, small, seed) for seed in (0, 1)))


def test_d_judges_the_pair():
    D, images, small = CONFIG.init(SHAPE).D, noise(4, *SHAPE), noise(4, 1, 2, 2, seed=1)
    logits = D(images, small)
    assert (D(images, small.flip(0)) != logits).all()
    assert (D(images.flip(0), small) != logits).all()
    torch.testing.assert_close(D(images[:1], small[:1]), logits[:1])  # not mixed with the others


@pytest.mark.parametrize(("squared", "adversarial"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.1)])
def test_every_weight_that_should_learn_does(digits, squared, adversarial):
    weights = {"squared": squared, "adversarial": adversarial}
    before = replace(CONFIG, **weights).init(SHAPE)
    state, logs = trained(digits, **weights)
    assert [log.step for log in logs] == [1, 2, 3, 4]
    for old, new in zip(before.G.parameters(), state.G.parameters(), strict=True):
        assert not torch.equal(old, new)
    for old, new in zip(before.D.parameters(), state.D.parameters(), strict=True):
        assert torch.equal(old, new) == (not adversarial)
    assert ("d_loss" in logs[-1].tensors) == bool(adversarial)
    assert math.isfinite(logs[-1]["squared_error"])


def test_g_s_update_leaves_no_gradient_in_d(digits):
    config = replace(CONFIG, adversarial=1.0)
    state = config.init(SHAPE)
    real, small = enlarger.Pairs(digits).batch(8, rng())
    seen = []
    state.opt_D.register_step_post_hook(
        lambda *_: seen.append([p.grad.clone() for p in state.D.parameters()])
    )
    enlarger.one_step(state, real, small, config, rng())
    after = [p.grad for p in state.D.parameters()]
    assert all(torch.equal(*pair) for pair in zip(seen[0], after, strict=True))


def test_the_loss_of_g_is_the_weighted_sum(digits):
    """With plain gradient descent a step of the sum is the sum of the steps."""
    real, small = enlarger.Pairs(digits).batch(8, rng())
    moves = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        config = replace(CONFIG, squared=weights[0], adversarial=weights[1])
        state = config.init(SHAPE)
        state.opt_G = torch.optim.SGD(state.G.parameters(), 0.1)
        state.opt_D = torch.optim.SGD(state.D.parameters(), 1e-30)  # D stays as it is
        before = flat(state.G)
        enlarger.one_step(state, real, small, config, rng())
        moves[weights] = flat(state.G) - before
    expected = 2 * moves[1.0, 0.0] + 3 * moves[0.0, 1.0]
    torch.testing.assert_close(moves[2.0, 3.0], expected, rtol=1e-3, atol=1e-5)
    assert moves[1.0, 0.0].norm() > 1e-4
    assert moves[0.0, 1.0].norm() > 1e-4


def test_the_squared_error_falls(digits, device):
    config = replace(CONFIG, adversarial=0.0, steps=300, batch_size=32, width=8)
    state = config.init(SHAPE, device)
    logs = [log["squared_error"] for log in enlarger.train(state, enlarger.Pairs(digits), config)]
    assert sum(logs[-10:]) < 0.5 * sum(logs[:10])
    images = enlarger.enlarge(state.G_ema, enlarger.shrink(digits.images).to(device))
    rule = enlarger.enlarge_by_rule(enlarger.shrink(digits.images), "nearest")
    errors = [(x - digits.images).square().mean() for x in (images, rule)]
    assert errors[0] < 0.9 * errors[1]


def test_recalibrated_statistics_are_means_over_answers_to_small_images(digits, device):
    """The first BatchNorm follows a convolution, so its statistics are easy to compute by hand."""
    state, pairs = CONFIG.init(SHAPE, device), enlarger.Pairs(digits)
    G = enlarger.recalibrate_batchnorm(state.G_ema, pairs, batches=3, batch_size=40, seed=5)
    means, variances = [], []
    for index in range(3):
        rng = runtime.step_rng(5, index)
        _, small = pairs.batch(40, rng)
        z = torch.randn(40, G.latent_dim, generator=rng)
        inputs = torch.cat([small, z[:, :, None, None].expand(-1, -1, *small.shape[2:])], dim=1)
        first = G.layers[0](inputs.to(device))
        means.append(first.mean((0, 2, 3)))
        variances.append(first.var((0, 2, 3)))
    norm = G.layers[1]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    expected = torch.stack(variances).mean(0)
    torch.testing.assert_close(norm.running_var, expected, rtol=1e-4, atol=1e-5)
    assert not G.training
    assert norm.num_batches_tracked == 3
    assert state.G_ema.layers[1].num_batches_tracked == 0, "a copy"


def test_a_run_that_is_interrupted_gives_the_same_bits(digits):
    whole, _ = trained(digits, adversarial=0.1)
    parts = replace(CONFIG, adversarial=0.1)
    state, pairs = parts.init(SHAPE), enlarger.Pairs(digits)
    for _ in range(2):
        logs = enlarger.train(state, pairs, parts)
        next(logs), next(logs)
    assert state.step == 4
    for one, other in zip(whole.G.parameters(), state.G.parameters(), strict=True):
        assert torch.equal(one, other)


def test_psnr_of_a_known_error():
    assert enlarger.psnr(4.0) == 0  # black for white
    assert enlarger.psnr(4 / 255**2) == pytest.approx(20 * math.log10(255))  # off by one level
    assert enlarger.psnr(0.02) - enlarger.psnr(0.04) == pytest.approx(3.01, abs=0.01)


def test_inconsistency_is_in_grey_levels():
    images = noise(4, *SHAPE) * 0.5
    small = enlarger.shrink(images)
    assert enlarger.inconsistency(images, small) == pytest.approx(0, abs=1e-4)
    assert enlarger.inconsistency(images + 2 / 255, small) == pytest.approx(1, rel=1e-3)


def test_misread_digits_are_counted():
    images = data.load_images("digits", "test").subset(slice(200))
    classifier = load_classifier("digits")
    wrong = enlarger.misread(classifier, images.images, images.labels)
    assert wrong.float().mean() < 0.05
    others = enlarger.misread(classifier, images.images, (images.labels + 1) % 10)
    assert others.float().mean() > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"squared": 0.0, "adversarial": 0.0}, "both 0"),
        ({"squared": -1.0}, r"squared must be a number in \[0, inf\)"),
        ({"adversarial": math.nan}, "adversarial must be a number"),
        ({"latent_dim": -1}, "latent_dim must be an integer of at least 0"),
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"lr_G": 0.0}, "lr_G must be a number"),
        ({"augment": ("translation",)}, "augment would change the large image and not the small"),
    ],
)
def test_a_bad_setting_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_a_frozen_layer_of_g_stays(digits):
    state = CONFIG.init(SHAPE)
    first = state.G.layers[0].requires_grad_(False)
    before = first.weight.clone()
    next(enlarger.train(state, enlarger.Pairs(digits), CONFIG))
    assert torch.equal(first.weight, before)
    assert first.weight.grad is None


def test_pairs_of_another_size_are_refused(digits):
    state = CONFIG.init((1, 28, 28))
    with pytest.raises(ValueError, match=r"G makes samples \(1, 28, 28\), but the data are"):
        next(enlarger.train(state, enlarger.Pairs(digits), CONFIG))


def test_a_nan_in_the_small_images_is_named(digits):
    class Damaged(enlarger.Pairs):
        def batch(self, count, rng):
            large, small = super().batch(count, rng)
            return large, small / 0 * 0

    with pytest.raises(ValueError, match="D returns NaN or infinity for the first batch; check"):
        next(enlarger.train(CONFIG.init(digits.shape), Damaged(digits), CONFIG))


def test_the_record_is_of_the_default_settings():
    record = records.load("enlarger")
    assert enlarger.EnlargerConfig(**record["config"]) == enlarger.EnlargerConfig()
    for measured in record["sets"].values():
        assert {len(runs) for runs in measured["runs"].values()} == {5}
