"""Mixtures in the plane, and flowers: their geometry, their distribution, and what is measured."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import data, mixtures, runtime


def test_the_ring_has_pacgans_geometry():
    mixture = mixtures.ring()
    assert mixture.centres.shape == (8, 2)
    assert mixture.std == 0.01
    torch.testing.assert_close(mixture.centres.norm(dim=1), torch.ones(8))
    neighbours = (mixture.centres - mixture.centres.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full((8,), 2 * math.sin(math.pi / 8)))


def test_the_grid_has_pacgans_geometry():
    mixture = mixtures.grid()
    expected = {(x, y) for x in (-4.0, -2.0, 0.0, 2.0, 4.0) for y in (-4.0, -2.0, 0.0, 2.0, 4.0)}
    assert set(map(tuple, mixture.centres.tolist())) == expected
    assert mixture.std == 0.05


@given(st.integers(1, 12), st.floats(0.1, 10))
def test_mixtures_are_centred_and_scaled(size, scale):
    ring, grid = mixtures.ring(size, radius=scale), mixtures.grid(size, spacing=scale)
    for mixture, reach in ((ring, 1), (grid, (size - 1) / 2)):
        if size > 1:
            assert mixture.centres.mean(0).abs().max() < 1e-5 * scale
        assert mixture.centres.abs().max().item() == pytest.approx(scale * reach)


def test_points_are_isotropic_gaussians_with_equal_shares(device):
    mixture = mixtures.ring(std=0.1).to(device)
    points, modes = mixture.batch(40_000, runtime.step_rng(1, 2, device))
    assert points.shape == (40_000, 2)
    offsets = points - mixture.centres[modes]
    share = torch.bincount(modes, minlength=8) / 40_000
    assert (share - 1 / 8).abs().max() < 0.008  # five standard deviations
    assert offsets.mean(0).abs().max() < 0.0025
    assert (offsets.std(0) - 0.1).abs().max() < 0.002
    assert abs(torch.corrcoef(offsets.T)[0, 1]) < 0.025


# Flowers


def drawn(flowers: mixtures.Flowers, side: int = 32) -> torch.Tensor:
    """Return the pixels of flowers as float (N, 3, side, side) in [0, 255]."""
    return flowers.draw(side).float()


def around(difference: torch.Tensor, period: float | torch.Tensor = 360.0) -> torch.Tensor:
    """Return the size of differences of angles, the shorter way round."""
    return ((difference + period / 2) % period - period / 2).abs()


def test_factors_are_uniform_in_their_ranges_and_independent():
    flowers = mixtures.flowers(20_000, seed=5)
    shares = torch.bincount(flowers.petals, minlength=9) / len(flowers)
    assert (shares[:3] == 0).all()
    assert (shares[3:] - 1 / 6).abs().max() < 0.014  # five standard deviations
    turn = 360 / flowers.petals
    shares_of_range = {
        "petals": (flowers.petals - 3) / 5,
        "hue": flowers.hue / 360,
        "size": (flowers.size - 0.55) / 0.4,
        "background": (flowers.background - 0.05) / 0.9,
        "angle": flowers.angle / turn,
    }
    for name, values in shares_of_range.items():
        assert values.min() >= 0, name
        assert values.max() <= 1, name
        assert abs(values.mean() - 0.5) < 0.013, name
    correlations = torch.corrcoef(torch.stack([*shares_of_range.values()])) - torch.eye(5)
    assert correlations.abs().max() < 0.035


def test_the_same_seed_draws_the_same_flowers_and_another_seed_others():
    one, same, other = (mixtures.flowers(50, seed).draw(16) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    seen = {image.numpy().tobytes() for image in one}
    assert len(seen) == 50
    assert not seen & {image.numpy().tobytes() for image in other}


def test_flowers_are_drawn_alone_as_in_company():
    flowers = mixtures.flowers(7, seed=1)
    assert torch.equal(flowers.draw(20, batch_size=3), flowers.draw(20))
    assert torch.equal(flowers[2:4].draw(20), flowers.draw(20)[2:4])


def test_a_turn_by_one_petal_changes_nothing_and_by_half_a_petal_much():
    flowers = mixtures.flowers(60, seed=2)
    turn = 360 / flowers.petals
    same, between = (replace(flowers, angle=flowers.angle + part * turn) for part in (1, 0.5))
    assert (drawn(same) - drawn(flowers)).abs().max() <= 1
    changed = (drawn(between) - drawn(flowers)).abs().amax((1, 2, 3))
    assert changed.min() > 50


def test_an_angle_turns_the_picture_against_the_clock():
    flowers = mixtures.flowers(20, seed=4)
    quarter = replace(flowers, angle=flowers.angle + 90)
    assert (drawn(quarter) - drawn(flowers).rot90(1, (2, 3))).abs().max() <= 1


def test_a_third_of_the_hues_circle_exchanges_the_channels():
    flowers = mixtures.flowers(20, seed=6)
    third = replace(flowers, hue=flowers.hue + 120)
    assert (drawn(third) - drawn(flowers).roll(1, dims=1)).abs().max() <= 1
    red = replace(flowers[:1], hue=torch.zeros(1))
    levels = drawn(red)[0].mean((1, 2))
    assert levels[0] > levels[1] + 10
    assert levels[1] == pytest.approx(levels[2].item(), abs=0.1)


def test_the_background_is_grey_and_its_level_is_the_factor():
    flowers = mixtures.flowers(20, seed=7)
    corner = drawn(flowers)[:, :, 0, 0]
    assert (corner - 255 * flowers.background[:, None]).abs().max() <= 0.51


def test_the_size_is_where_the_petals_end():
    flowers = replace(mixtures.flowers(30, seed=8), background=torch.full((30,), 0.05))
    pixels = drawn(flowers, 128).amax(1)
    radius, _ = mixtures._polar(128)
    for image, size in zip(pixels, flowers.size, strict=True):
        assert radius[image > 50].max() == pytest.approx(size.item(), abs=0.02)


@pytest.mark.parametrize(("side", "smaller"), [(64, 32), (128, 32), (56, 28)])
def test_a_flower_looks_the_same_at_every_size(side, smaller):
    """Edges are smooth: shrinking the large picture gives nearly the small one."""
    flowers = mixtures.flowers(40, seed=9)
    shrunk = torch.nn.functional.avg_pool2d(drawn(flowers, side), side // smaller)
    difference = (shrunk - drawn(flowers, smaller)).square().mean((1, 2, 3)).sqrt()
    assert difference.max() < 4
    jagged = drawn(flowers, side)[:, :, :: side // smaller, :: side // smaller]
    control = (shrunk - jagged).square().mean((1, 2, 3)).sqrt()
    assert (difference < 0.5 * control).all()


@pytest.mark.parametrize("side", [16, 28, 32, 64])
def test_the_factors_of_a_drawn_flower_are_measured(side):
    flowers = mixtures.flowers(600, seed=10)
    found = mixtures.measure_flowers(data.to_unit_range(flowers.draw(side)))
    assert torch.equal(found.petals, flowers.petals)
    assert around(found.hue - flowers.hue).max() < 0.5
    assert around(found.angle - flowers.angle, 360 / flowers.petals).max() < (
        4 if side == 16 else 2
    )
    assert (found.size / flowers.size - 1).abs().max() < (0.06 if side == 16 else 0.03)
    assert (found.background - flowers.background).abs().max() < 0.003


def test_measured_angles_are_less_than_a_whole_turn():
    """Also where rounding makes them a little less than 0."""
    zeros = torch.zeros(50)
    flowers = replace(mixtures.flowers(50, seed=12), hue=zeros, angle=zeros)
    found = mixtures.measure_flowers(data.to_unit_range(flowers.draw(64)))
    assert torch.equal(found.petals, flowers.petals)
    for name, turn in (("hue", 360), ("angle", 360 / flowers.petals)):
        measured = getattr(found, name)
        assert ((measured >= 0) & (measured < turn)).all(), name


def test_the_factors_are_measured_in_spite_of_noise():
    flowers = mixtures.flowers(600, seed=11)
    images = data.to_unit_range(flowers.draw(32))
    rng = torch.Generator().manual_seed(0)
    noisy = (images + 0.1 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)
    found = mixtures.measure_flowers(noisy)
    assert (found.petals == flowers.petals).float().mean() > 0.99
    assert around(found.hue - flowers.hue).mean() < 2
    assert (found.size - flowers.size).abs().mean() < 0.03


def test_any_image_gets_factors_that_can_be_drawn():
    rng = torch.Generator().manual_seed(0)
    grey, noise = torch.zeros(2, 3, 16, 16), torch.rand(50, 3, 16, 16, generator=rng) * 2 - 1
    found = mixtures.measure_flowers(torch.cat([grey, noise]))
    for name in ("hue", "size", "background", "angle"):
        assert getattr(found, name).isfinite().all(), name
    assert found.draw(16).shape == (52, 3, 16, 16)
