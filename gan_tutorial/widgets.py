"""Figures with sliders for a running notebook, for what needs a kernel."""

from collections.abc import Callable

import ipywidgets
import torch
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

from gan_tutorial import plotting, sampling


def explorer(plot: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Return controls above the figure ``plot(**values)``, updated when a control moves."""
    output = ipywidgets.interactive_output(lambda **values: display(plot(**values)), controls)
    return ipywidgets.VBox([*controls.values(), output])


def _slider(
    value: float, low: float, high: float, step: float, name: str
) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value,
        min=low,
        max=high,
        step=step,
        description=name,
        continuous_update=False,
        style={"description_width": "6em"},
    )


def latent_explorer(G: nn.Module, dimensions: int = 4, seed: int = 0) -> ipywidgets.VBox:
    """Return an explorer of a latent space: a slider for each of the first numbers of z.

    Args:
        G: an unconditional generator of images.
        dimensions: number of sliders.
        seed: of the initial z.
    """
    start = sampling.latents(1, G.latent_dim, seed)  # (1, latent_dim)

    def plot(**values: float) -> Figure:
        z = start.clone()
        z[0, :dimensions] = torch.tensor(list(values.values()))
        return plotting.image_grid(sampling.sample(G, z), scale=2.5)

    sliders = [_slider(start[0, i].item(), -3, 3, 0.1, f"z[{i}]") for i in range(dimensions)]
    return explorer(plot, **{f"z{i}": slider for i, slider in enumerate(sliders)})
