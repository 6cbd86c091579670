"""DiffAugment: what each part does to an image, gradients through it, and resumed runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import augment, recipes, training


def rng(seed: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def images(count: int = 64, channels: int = 1, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=rng(seed)) * 2 - 1


def colour_changes(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what was added to each image, and the factors of its contrast and saturation."""
    shift = after.mean((1, 2, 3)) - before.mean((1, 2, 3))
    grey = [x.mean(1) - x.mean((1, 2, 3))[:, None, None] for x in (before, after)]
    contrast = grey[1].flatten(1).norm(dim=1) / grey[0].flatten(1).norm(dim=1)
    tint = [x - x.mean(1, keepdim=True) for x in (before, after)]
    saturation = tint[1].flatten(1).norm(dim=1) / tint[0].flatten(1).norm(dim=1) / contrast
    return shift, contrast, saturation


@given(st.sampled_from([1, 3]), st.integers(0, 100))
def test_colour_changes_brightness_contrast_and_saturation_within_their_ranges(channels, seed):
    before = images(16, channels, seed=seed)
    shift, contrast, saturation = colour_changes(before, augment.colour(before, rng(seed)))
    assert shift.abs().max() <= 0.5 + 1e-5, "only brightness changes the mean"
    assert contrast.min() >= 0.5 - 1e-4
    assert contrast.max() <= 1.5 + 1e-4
    if channels == 3:
        assert saturation.max() <= 2 + 1e-4


def test_colour_reaches_the_ends_of_its_ranges_independently():
    before = images(4000, 3)
    changes = torch.stack(colour_changes(before, augment.colour(before, rng())))
    ends = torch.tensor([[-0.5, 0.5, 0.0], [0.5, 1.5, 2.0]])
    torch.testing.assert_close(torch.stack(changes.aminmax(dim=1)), ends, rtol=0, atol=0.01)
    assert (changes.corrcoef() - torch.eye(3)).abs().max() < 0.1


@given(st.integers(0, 100), st.integers(6, 20), st.integers(6, 20))
def test_translation_shifts_each_image_as_a_whole(seed, height, width):
    before = torch.rand(20, 2, height, width, generator=rng(seed)) + 1  # no 0 in it
    after = augment.translation(before, rng(seed), reach=1 / 4)
    reach = [round(size / 4) for size in (height, width)]
    for one, moved in zip(before, after, strict=True):
        padded = torch.nn.functional.pad(one, [reach[1]] * 2 + [reach[0]] * 2)
        shifts = [
            (y, x)
            for y in range(2 * reach[0] + 1)
            for x in range(2 * reach[1] + 1)
            if torch.equal(padded[:, y : y + height, x : x + width], moved)
        ]
        assert len(shifts) == 1


def test_translations_reach_every_shift_and_no_other():
    after = augment.translation(torch.ones(4000, 1, 8, 8), rng(), reach=1 / 8)
    kept = after.sum((1, 2, 3))
    assert set(kept.tolist()) == {64.0, 56.0, 49.0}  # none, one way, both ways
    assert abs((kept == 64).float().mean() - 1 / 9) < 0.02


@given(st.integers(0, 100))
def test_cutout_removes_one_rectangle(seed):
    after = augment.cutout(torch.ones(32, 3, 12, 10), rng(seed))
    assert torch.equal(after[:, 0], after[:, 2])
    for hole in 1 - after[:, 0]:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns
        assert 3 <= rows <= 6  # half the height, cut off at the border at most by half
        assert 2 <= columns <= 5


def test_cutout_can_remove_any_pixel():
    after = augment.cutout(torch.ones(4000, 1, 8, 8), rng())
    gone = (after == 0).float().mean((0, 1))
    assert gone.min() > 0.02
    assert gone.max() < 0.5


@pytest.mark.parametrize("part", augment.POLICY)
def test_the_gradient_of_each_part_equals_finite_differences(part):
    given = images(3, 3, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment.augment(x, (part,), rng(5)), given)


def test_an_empty_policy_changes_nothing_and_uses_no_random_numbers():
    generator, before = rng(), images()
    assert augment.augment(before, (), generator) is before
    assert torch.equal(torch.rand(2, generator=generator), torch.rand(2, generator=rng()))


def test_the_same_generator_gives_the_same_change(device):
    before = images().to(device)
    one, two, other = (
        augment.augment(before, augment.POLICY, rng(seed, device)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_gradients_reach_the_generator_and_augmentation_changes_the_training(pictures, device):
    """The same two steps give both networks different weights with and without augmentation."""
    states = {}
    for policy in ((), augment.POLICY):
        config = training.TrainConfig(steps=2, batch_size=8, augment=policy)
        torch.manual_seed(0)
        pair = recipes.Recipe(shape=(1, 8, 8), latent_dim=4, width=4).build()
        states[policy] = training.TrainState.init(*pair, config, device)
        list(training.train(states[policy], pictures, config))
        weights = [p for name, p in states[policy].G.named_parameters() if "bias" not in name]
        assert all(p.grad.abs().sum() > 0 for p in weights)
    for name in ("G", "D"):
        plain, changed = (getattr(state, name).layers[0].weight for state in states.values())
        assert not torch.equal(plain, changed)


def test_a_resumed_run_augments_like_an_uninterrupted_one(pictures):
    """Its random numbers depend on seed and step only."""
    config = training.TrainConfig(steps=6, batch_size=4, augment=augment.POLICY)
    ends = []
    for breaks in ((), (2, 3)):
        torch.manual_seed(0)
        pair = recipes.Recipe(shape=(1, 8, 8), latent_dim=4, width=2).build()
        state = training.TrainState.init(*pair, config)
        for stop in (*breaks, 6):
            for log in training.train(state, pictures, config):
                if log.step == stop:
                    break
        ends.append(torch.cat([p.flatten() for p in state.G.parameters()]))
    assert torch.equal(*ends)
