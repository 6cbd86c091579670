"""Figures with sliders for a live notebook, and the plots that they show."""

import math
from collections.abc import Callable

import ipywidgets
import torch
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

from gan_tutorial import losses, plotting, sampling


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


def plot_losses(objective: str, logit: float) -> Figure:
    """Return a figure of G's loss and its derivative over the logit o of a generated sample.

    Args:
        objective: one of ``losses.OBJECTIVES``; for a loss on pairs, the real logit is 0.
        logit: where to mark both curves, in [-6, 6].
    """
    g_loss = losses.OBJECTIVES[objective].g_loss
    logits = torch.linspace(-6, 6, 241, requires_grad=True)
    values = torch.stack([g_loss(torch.zeros(1), o.reshape(1)) for o in logits])
    (slopes,) = torch.autograd.grad(values.sum(), logits)
    o, marked = logits.detach(), int((logits - logit).abs().argmin())
    figure, axes = plotting.subplots(1, 2, figsize=(8, 3.2), sharex=True)
    names = ("loss of G", "derivative of the loss")
    for panel, curve, name in zip(axes, (values.detach(), slopes), names, strict=True):
        panel.plot(o, curve, color=plotting.BLUE)
        panel.plot(o[marked], curve[marked], "o", color=plotting.RED)
        panel.set(
            xlabel="logit o of a generated sample",
            title=f"{name}: {curve[marked]:.3f} at o = {o[marked]:.2f}",
        )
    return figure


def loss_explorer() -> ipywidgets.VBox:
    """Return an explorer of the generator's losses: choose an objective, move the logit."""
    return explorer(
        plot_losses,
        objective=ipywidgets.Dropdown(
            options=list(losses.OBJECTIVES), value="non_saturating", description="objective"
        ),
        logit=_slider(0, -6, 6, 0.1, "logit o"),
    )


def plot_game(mean: float, std: float) -> Figure:
    """Return a figure of p = N(0, 1), q = N(mean, std²) and D*; its title states V(D*) in nats."""
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    p = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    q = torch.exp(-((x - mean) / std).square() / 2) / (std * math.sqrt(2 * math.pi))
    js = losses.jensen_shannon(p, q, spacing=x[1] - x[0]).clamp(min=0).item()  # not -1e-17
    figure, axes = plotting.subplots(figsize=(6.4, 3.4))
    axes.fill_between(x, p, color=plotting.GREY, alpha=0.35, label="real p(x)")
    axes.fill_between(x, q, color=plotting.ORANGE, alpha=0.45, label="generated q(x)")
    axes.plot(x, losses.optimal_discriminator(p, q), color=plotting.BLUE, label="D*(x)")
    axes.set(xlabel="x", xlim=(-5, 5), ylim=(0, 1.05))
    axes.set_title(f"JS = {js:.3f},  V(D*) = 2·JS − log 4 = {2 * js - math.log(4):.3f}")
    axes.legend(loc="upper left", fontsize="small")
    return figure


def optimal_discriminator_explorer() -> ipywidgets.VBox:
    """Return an explorer of the optimal discriminator: move q relative to p."""
    return explorer(
        plot_game,
        mean=_slider(2, -3, 3, 0.1, "mean of q"),
        std=_slider(1, 0.3, 2.5, 0.1, "std of q"),
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
