"""Explorers plot again when a control moves, and what they plot is right."""

import math
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gan_tutorial import losses, networks, plotting, sampling, widgets


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


def test_an_explorer_plots_at_once_and_after_each_move(shown):
    calls = []

    def plot(a: int, b: int) -> Figure:
        calls.append((a, b))
        return plotting.subplots()[0]

    explorer = widgets.explorer(plot, a=ipywidgets.IntSlider(1), b=ipywidgets.IntSlider(2))
    assert calls == [(1, 2)]
    explorer.children[0].value = 5
    explorer.children[1].value = 7
    assert calls == [(1, 2), (5, 2), (5, 7)]
    assert len(shown) == 3
    assert isinstance(explorer.children[-1], ipywidgets.Output)


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
@pytest.mark.parametrize("logit", [-6.0, -1.5, 0.0, 4.0])
def test_the_loss_figure_states_value_and_slope(objective, logit):
    figure = widgets.plot_losses(objective, logit)
    o = torch.tensor([logit], requires_grad=True)
    value = losses.OBJECTIVES[objective].g_loss(torch.zeros(1), o)
    value.backward()
    for axes, expected in zip(figure.axes, (value.item(), o.grad.item()), strict=True):
        stated = float(re.search(r": (-?[\d.]+) at o = ", axes.get_title()).group(1))
        assert stated == pytest.approx(expected, abs=6e-4)
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


def test_the_game_figure_states_js_and_value():
    even = widgets.plot_game(0, 1).axes[0]
    assert "JS = 0.000" in even.get_title()
    assert f"= {-math.log(4):.3f}" in even.get_title()
    (d_star,) = even.lines
    inside = np.abs(d_star.get_xdata()) < 5
    np.testing.assert_allclose(np.asarray(d_star.get_ydata())[inside], 0.5)
    apart = widgets.plot_game(3, 0.3).axes[0]
    js = float(re.search(r"JS = ([\d.]+)", apart.get_title()).group(1))
    assert 0.5 < js < math.log(2)
    value = float(re.search(r"= (-?[\d.]+)$", apart.get_title()).group(1))
    assert value == pytest.approx(2 * js - math.log(4), abs=2e-3)


def test_the_optimal_discriminator_explorer_follows_its_controls(shown):
    explorer = widgets.optimal_discriminator_explorer()
    control(explorer, "mean of q").value = 0
    assert "JS = 0.000" in shown[-1].axes[0].get_title()


def test_the_latent_explorer_shows_the_sample_at_its_sliders(shown, device):
    torch.manual_seed(0)
    G = networks.ConvGenerator(6, (1, 8, 8), width=4).to(device)
    explorer = widgets.latent_explorer(G, dimensions=3, seed=1)
    sliders = explorer.children[:-1]
    assert [slider.description for slider in sliders] == ["z[0]", "z[1]", "z[2]"]
    sliders[0].value = 2.5
    z = sampling.latents(1, 6, seed=1)
    z[0, :3] = torch.tensor([slider.value for slider in sliders])
    expected = plotting.tile(sampling.sample(G, z))
    np.testing.assert_array_equal(shown[-1].axes[0].images[0].get_array(), expected)
    before, now = (figure.axes[0].images[0].get_array() for figure in (shown[0], shown[-1]))
    assert not np.array_equal(before, now)
