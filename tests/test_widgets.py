"""Explorers plot again when a control moves, and what they plot is right."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gan_tutorial import networks, plotting, sampling, widgets


@pytest.fixture(autouse=True)
def shown(monkeypatch) -> list[Figure]:
    """The figures that explorers display, in the place of a notebook's page."""
    figures = []
    monkeypatch.setattr(widgets, "display", figures.append)
    yield figures
    assert plt.get_fignums() == []


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
