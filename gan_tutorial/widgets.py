"""Explorers with sliders for a live notebook; what they draw with also makes the still pictures."""

import math
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import torch
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor, nn

from gan_tutorial import losses, plotting, runtime, sampling


def explorer(draw: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Return controls above the figure ``draw(**values)``, which is drawn again whenever a control moves."""
    output = ipywidgets.interactive_output(lambda **values: display(draw(**values)), controls)
    return ipywidgets.VBox([*controls.values(), output])


def _slider(value: float, low: float, high: float, step: float, name: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value,
        min=low,
        max=high,
        step=step,
        description=name,
        continuous_update=False,
        style={"description_width": "6em"},
    )


def draw_losses(objective: str = "non_saturating", logit: float = 0.0) -> Figure:
    """Return a figure of what a generated sample with logit o costs G, and the slope there, for one objective.

    A loss that pairs samples meets a real logit of 0.
    """
    chosen = losses.objective(objective)
    logits = torch.linspace(-6, 6, 241, requires_grad=True)
    values = torch.stack([chosen.g_loss(torch.zeros(1), o.reshape(1)) for o in logits])
    (slopes,) = torch.autograd.grad(values.sum(), logits)
    figure, axes = plotting.subplots(1, 2, figsize=(8, 3.2), sharex=True)
    here = int((logits - logit).abs().argmin())
    for panel, curve, name in zip(axes, (values, slopes), ("loss of G", "derivative of the loss"), strict=True):
        curve = curve.detach()
        panel.plot(logits.detach(), curve, color=plotting.BLUE)
        panel.plot(logits[here].item(), curve[here].item(), "o", color=plotting.RED)
        panel.set(xlabel="logit o of a generated sample", title=f"{name}: {curve[here]:.3f} at o = {logits[here]:.2f}")
    return figure


def loss_explorer() -> ipywidgets.VBox:
    """Return an explorer of the generator's losses: choose an objective, slide the logit."""
    return explorer(
        draw_losses,
        objective=ipywidgets.Dropdown(options=list(losses.OBJECTIVES), value="non_saturating", description="objective"),
        logit=_slider(0, -6, 6, 0.1, "logit o"),
    )


def draw_game(mean: float = 2.0, std: float = 1.0) -> Figure:
    """Return a figure of p = N(0, 1), q = N(mean, std²), the best discriminator D*, and the game's value in nats.

    Raises:
        ValueError: std is not above 0.
    """
    runtime.require_number("std", std, strict=True)
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    p = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    q = torch.exp(-((x - mean) / std).square() / 2) / (std * math.sqrt(2 * math.pi))
    divergence = max(losses.jensen_shannon(p, q, spacing=x[1] - x[0]).item(), 0.0)  # rounding may fall below
    figure, axes = plotting.subplots(figsize=(6.4, 3.4))
    axes.fill_between(x, p, color=plotting.GREY, alpha=0.35, label="real p(x)")
    axes.fill_between(x, q, color=plotting.ORANGE, alpha=0.45, label="generated q(x)")
    axes.plot(x, losses.optimal_discriminator(p, q), color=plotting.BLUE, label="D*(x)")
    axes.set(xlabel="x", xlim=(-5, 5), ylim=(0, 1.05))
    axes.set_title(f"JS = {divergence:.3f},  V(D*) = 2·JS − log 4 = {2 * divergence - math.log(4):.3f}")
    axes.legend(loc="upper left", fontsize="small")
    return figure


def optimal_discriminator_explorer() -> ipywidgets.VBox:
    """Return an explorer of the best discriminator: slide q over p."""
    return explorer(draw_game, mean=_slider(2, -3, 3, 0.1, "mean of q"), std=_slider(1, 0.3, 2.5, 0.1, "std of q"))


def latent_explorer(G: nn.Module, dimensions: int = 4, seed: int = 0) -> ipywidgets.VBox:
    """Return an explorer of a generator's latent space: a slider for each of the first numbers of z.

    Args:
        G: a generator of images, in evaluation mode.
        dimensions: how many sliders.
        seed: of the start.
    """
    device = next(G.parameters()).device
    start = torch.randn(G.latent_dim, generator=torch.Generator().manual_seed(seed))
    dimensions = min(dimensions, G.latent_dim)

    @torch.no_grad()
    def draw(**values: float) -> Figure:
        z = start.clone()
        z[:dimensions] = torch.tensor([values[f"z{i}"] for i in range(dimensions)])
        return plotting.image_grid(G(z.unsqueeze(0).to(device)), scale=2.5)

    return explorer(draw, **{f"z{i}": _slider(start[i].item(), -3, 3, 0.1, f"z[{i}]") for i in range(dimensions)})


def direction_explorer(
    G: nn.Module, directions: Mapping[str, Tensor], count: int = 8, seed: int = 0
) -> ipywidgets.VBox:
    """Return an explorer of named directions in latent space: a slider for each, and a menu of classes.

    Args:
        G: a generator of images.
        directions: unit vectors (latent_dim,), such as ``gan_tutorial.directions`` finds.
        count: how many samples move together.
        seed: of their latent vectors.

    Raises:
        ValueError: there is no direction, one does not fit G, or a number is out of range.
    """
    start = sampling.latents(count, G.latent_dim, seed)
    sizes = {name: tuple(direction.shape) for name, direction in directions.items()}
    if not sizes or set(sizes.values()) != {(G.latent_dim,)}:
        raise ValueError(f"an explorer of this generator needs directions ({G.latent_dim},), but got {sizes}")

    def draw(label: int | None = None, **steps: float) -> Figure:
        z = start + sum(steps[name] * direction for name, direction in directions.items())
        labels = None if label is None else torch.full((count,), label)
        return plotting.image_grid(sampling.sample(G, z, labels), columns=count, scale=0.9)

    menu = {"label": ipywidgets.Dropdown(options=range(G.classes), description="class")} if G.classes else {}
    return explorer(draw, **menu, **{name: _slider(0, -3, 3, 0.25, name) for name in directions})


def replay(snapshots: Sequence[Tensor], labels: Sequence[str], columns: int = 8) -> ipywidgets.VBox:
    """Return a replay of training: batches of images (N, C, H, W) in [-1, 1], one for each label, with a play button.

    Raises:
        ValueError: there is no snapshot, or another number of labels.
    """
    if not snapshots or len(snapshots) != len(labels):
        raise ValueError(f"a replay needs a label for each snapshot, but got {len(snapshots)} and {len(labels)} labels")
    pictures: list[np.ndarray] = [plotting.tile(images, columns) for images in snapshots]

    def draw(frame: int) -> Figure:
        figure, axes = plotting.subplots(figsize=(4, 4))
        axes.imshow(pictures[frame], interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(labels[frame])
        return figure

    play = ipywidgets.Play(min=0, max=len(pictures) - 1, interval=500)
    slider = ipywidgets.IntSlider(min=0, max=len(pictures) - 1, description="frame")
    ipywidgets.jslink((play, "value"), (slider, "value"))
    return ipywidgets.VBox([play, explorer(draw, frame=slider)])
