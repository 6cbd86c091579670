"""Explorers draw again when a control moves, and what they draw is right."""

import math
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gan_tutorial import data, losses, networks, plotting, sampling, widgets


@pytest.fixture(autouse=True)
def shown(monkeypatch) -> list[Figure]:
    """The figures that explorers display, in the place of a notebook's page."""
    figures = []
    monkeypatch.setattr(widgets, "display", figures.append)
    yield figures
    assert plt.get_fignums() == []


def control(explorer: ipywidgets.VBox, name: str) -> ipywidgets.Widget:
    found = [w for w in explorer.children if getattr(w, "description", None) == name]
    assert len(found) == 1, f"no control is called {name}"
    return found[0]


def test_an_explorer_draws_at_once_and_after_each_move(shown):
    calls = []

    def draw(a: int, b: int) -> Figure:
        calls.append((a, b))
        return plotting.subplots()[0]

    explorer = widgets.explorer(draw, a=ipywidgets.IntSlider(1), b=ipywidgets.IntSlider(2))
    assert calls == [(1, 2)]
    explorer.children[0].value = 5
    explorer.children[1].value = 7
    assert calls == [(1, 2), (5, 2), (5, 7)]
    assert len(shown) == 3
    assert isinstance(explorer.children[-1], ipywidgets.Output)


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
@pytest.mark.parametrize("logit", [-6.0, -1.5, 0.0, 4.0])
def test_the_loss_figure_tells_value_and_slope(objective, logit):
    figure = widgets.draw_losses(objective, logit)
    o = torch.tensor([logit], requires_grad=True)
    value = losses.objective(objective).g_loss(torch.zeros(1), o)
    value.backward()
    for axes, expected in zip(figure.axes, (value.item(), o.grad.item()), strict=True):
        told = float(re.search(r": (-?[\d.]+) at o = ", axes.get_title()).group(1))
        assert told == pytest.approx(expected, abs=6e-4)
        curve, dot = axes.lines
        assert dot.get_xdata()[0] == pytest.approx(logit, abs=0.026)
        assert dot.get_ydata()[0] == pytest.approx(expected, abs=1e-5)
        assert len(curve.get_xdata()) == 241


def test_the_loss_explorer_follows_its_controls(shown):
    explorer = widgets.loss_explorer()
    control(explorer, "objective").value = "minimax"
    control(explorer, "logit o").value = 2
    assert len(shown) == 3
    softplus = math.log1p(math.exp(2))
    assert f"{-softplus:.3f} at o = 2.00" in shown[-1].axes[0].get_title()


def test_the_game_figure_tells_js_and_value():
    even = widgets.draw_game(0, 1).axes[0]
    assert "JS = 0.000" in even.get_title()
    assert f"= {-math.log(4):.3f}" in even.get_title()
    (d_star,) = even.lines
    inside = np.abs(d_star.get_xdata()) < 5
    np.testing.assert_allclose(np.asarray(d_star.get_ydata())[inside], 0.5)
    apart = widgets.draw_game(3, 0.3).axes[0]
    told = float(re.search(r"JS = ([\d.]+)", apart.get_title()).group(1))
    assert 0.5 < told < math.log(2)
    value = float(re.search(r"= (-?[\d.]+)$", apart.get_title()).group(1))
    assert value == pytest.approx(2 * told - math.log(4), abs=2e-3)


def test_the_best_discriminator_follows_its_controls(shown):
    explorer = widgets.optimal_discriminator_explorer()
    control(explorer, "mean of q").value = 0
    assert "JS = 0.000" in shown[-1].axes[0].get_title()


@pytest.mark.parametrize("latent_dim", [2, 6])
def test_the_latent_explorer_shows_the_sample_at_its_sliders(shown, latent_dim, device):
    torch.manual_seed(0)
    G = networks.ConvGenerator(latent_dim, (1, 8, 8), width=4).eval().to(device)
    explorer = widgets.latent_explorer(G, dimensions=3, seed=1)
    sliders = explorer.children[:-1]
    assert [s.description for s in sliders] == ["z[0]", "z[1]", "z[2]"][:latent_dim]
    sliders[0].value = 2.5
    z = torch.randn(latent_dim, generator=torch.Generator().manual_seed(1))
    z[: len(sliders)] = torch.tensor([s.value for s in sliders])
    expected = plotting.tile(G(z.unsqueeze(0).to(device)).detach())
    np.testing.assert_array_equal(shown[-1].axes[0].images[0].get_array(), expected)
    before, now = (figure.axes[0].images[0].get_array() for figure in (shown[0], shown[-1]))
    assert not np.array_equal(before, now)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_direction_explorer_moves_z_along_its_sliders(shown, classes):
    torch.manual_seed(0)
    G = networks.ConvGenerator(4, (1, 8, 8), width=4, classes=classes).eval()
    slant, other = torch.eye(4)[1], torch.eye(4)[3]
    explorer = widgets.direction_explorer(G, {"slant": slant, "SeFa 3": other}, count=2, seed=5)
    control(explorer, "slant").value = -2
    control(explorer, "SeFa 3").value = 1.5
    labels = None
    if classes:
        control(explorer, "class").value = 2
        labels = torch.full((2,), 2)
    z = sampling.latents(2, 4, 5) - 2 * slant + 1.5 * other
    expected = plotting.tile(sampling.sample(G, z, labels), columns=2)
    np.testing.assert_array_equal(shown[-1].axes[0].images[0].get_array(), expected)
    assert len(explorer.children) == 3 + bool(classes)


def test_a_replay_shows_each_snapshot_with_its_label(shown):
    snapshots = [data.to_unit_range(torch.full((4, 1, 3, 3), 60 * i, dtype=torch.uint8)) for i in range(3)]
    player = widgets.replay(snapshots, ["step 0", "step 10", "step 20"], columns=2)
    play, inner = player.children
    slider = control(inner, "frame")
    assert (play.min, play.max) == (slider.min, slider.max) == (0, 2)
    slider.value = 2
    assert [figure.axes[0].get_title() for figure in shown] == ["step 0", "step 20"]
    np.testing.assert_array_equal(shown[-1].axes[0].images[0].get_array(), plotting.tile(snapshots[2], 2))
