"""Mixtures in the plane: their geometry and the distribution of their points."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import mixtures, runtime


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
    assert points.shape == (40_000, *mixture.shape)
    offsets = points - mixture.centres[modes]
    share = torch.bincount(modes, minlength=8) / 40_000
    assert (share - 1 / 8).abs().max() < 0.008  # five standard deviations
    assert offsets.mean(0).abs().max() < 0.0025
    assert (offsets.std(0) - 0.1).abs().max() < 0.002
    assert abs(torch.corrcoef(offsets.T)[0, 1]) < 0.025
