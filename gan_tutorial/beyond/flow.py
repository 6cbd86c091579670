"""Flow matching: a network learns the velocity that carries noise to images along straight paths.

At time 0 a point is noise z from N(0, I), at time 1 it is an example x, and in between it is x_t =
(1 - t) z + t x, which moves with the velocity x - z. Many such paths cross at a point; a network
learns the mean of their velocities there, by least squares. To draw, start at noise and follow the
network. In one step that is a generator like any other, which a discriminator may train further.

Lipman et al. 2023 (with their smallest standard deviation 0) and Liu et al. 2023.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gan_tutorial import checks, data, mixtures, training
from gan_tutorial.runtime import has_fused_adam, seeded, step_rng

METHODS = ("euler", "heun")


def path(z: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points (1 - t) z + t x and their velocities x - z, both (N, …).

    Args:
        z, x: the ends, noise and examples, (N, …).
        t: times (N,) in [0, 1].
    """
    t = t.view(-1, *[1] * (x.ndim - 1))  # (N, 1, …)
    return (1 - t) * z + t * x, x - z


def matching_loss(
    velocity: nn.Module, x: Tensor, labels: Tensor | None, rng: torch.Generator
) -> Tensor:
    """Return the mean of ‖velocity(x_t, t) - (x - z)‖² per element, at random times and noise.

    The conditional loss of Lipman et al. 2023 for straight paths, and that of Liu et al. 2023.

    Args:
        velocity: called with points (N, …), times (N,) and, if there are any, labels (N,).
        x: examples (N, …).
    """
    z = torch.randn(x.shape, generator=rng, device=rng.device)
    t = torch.rand(len(x), generator=rng, device=rng.device)
    points, target = path(z, x, t)
    inputs = (points, t) if labels is None else (points, t, labels)
    return (velocity(*inputs) - target).square().mean()


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, steps: int, method: str = "euler"
) -> Tensor:
    """Return where points z (N, …) at time 0 are at time 1, after ``steps`` equal steps.

    Args:
        velocity: called with points (N, …) and times (N,), returns (N, …).
        method: ``euler``, one call per step and an error of the order of 1 / steps; or ``heun``,
            two calls and 1 / steps² (the last step asks for the velocity at time 1 too).

    Raises:
        ValueError: there is no such method, or not a step.
    """
    checks.require_choice("method", method, METHODS)
    checks.require_integer("steps", steps, least=1)
    x, length = z, 1 / steps
    for index in range(steps):
        now = torch.full((len(x),), index * length, dtype=x.dtype, device=x.device)
        start = velocity(x, now)
        if method == "heun":
            end = velocity(x + length * start, now + length)
            start = (start + end) / 2
        x = x + length * start
    return x


def mixture_velocity(x: Tensor, t: Tensor, mixture: mixtures.Mixture) -> Tensor:
    """Return the exact mean velocity at points x (N, 2) and times t (N,), for data from a mixture.

    With weights r_k, the probability that a path through the point ends at component k, it is Σ_k
    r_k (c_k + a (x - t c_k)), where a = (t s² - (1 - t)) / ((1 - t)² + t² s²).
    """
    t = t[:, None, None]  # (N, 1, 1)
    variance = (1 - t) ** 2 + (t * mixture.std) ** 2  # of x_t, given k
    away = x[:, None] - t * mixture.centres  # (N, K, 2)
    weights = (-away.square().sum(2, keepdim=True) / (2 * variance)).softmax(dim=1)  # (N, K, 1)
    slope = (t * mixture.std**2 - (1 - t)) / variance
    return (weights * (mixture.centres + slope * away)).sum(1)


def embed_time(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of times (N,) in [0, 1], (N, width), from slow to fast.

    As for positions in Vaswani et al. 2017, section 3.5, with angular frequencies from π/2 to 50 π.
    """
    frequencies = math.pi / 2 * torch.logspace(0, 2, width // 2, device=t.device)
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """Two convolutions beside a shortcut; time and class scale and shift what lies between them.

    Args:
        channels: of the feature maps (N, channels, H, W).
        condition: length of the vectors that encode time and class, (N, condition).
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(condition, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return feature maps (N, channels, H, W)."""
        scale, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.first(silu(x)) * (1 + scale) + shift
        return x + self.second(silu(h))


class VelocityNet(nn.Module):
    """The velocity of images at a time: a small U-Net (Ronneberger et al. 2015).

    It halves the side twice, like D's start, and doubles it twice, like G's end. Its features at
    S/2 on the way down are added on the way up.

    Args:
        shape: (C, S, S), with S a multiple of 4.
        width: channels at S/2; twice as many at S/4.
        classes: number of classes; 0 for an unconditional network.
    """

    def __init__(
        self, shape: Sequence[int] = (1, 28, 28), width: int = 16, classes: int = 0
    ) -> None:
        super().__init__()
        self.shape, self.classes, condition = tuple(shape), classes, 64
        self.time = nn.Sequential(
            nn.Linear(condition, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.embedding = nn.Embedding(classes, condition) if classes else None
        self.down = nn.ModuleList(
            [
                nn.Conv2d(shape[0], width, 4, stride=2, padding=1),  # to (N, w, 14, 14)
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # to (N, 2w, 7, 7)
            ]
        )
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
                nn.ConvTranspose2d(width, shape[0], 4, stride=2, padding=1),
            ]
        )
        self.blocks = nn.ModuleList(
            Block(channels, condition) for channels in (width, 2 * width, 2 * width, width)
        )
        self.shortcut = nn.Linear(condition, shape[0])

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return velocities (N, C, S, S) for images (N, C, S, S), times (N,) and labels (N,)."""
        condition = self.time(embed_time(t, self.time[0].in_features))
        if self.embedding is not None:
            condition = condition + self.embedding(labels)
        condition = silu(condition)  # (N, 64)
        fine = self.blocks[0](self.down[0](x), condition)  # (N, w, 14, 14)
        h = self.down[1](silu(fine))  # (N, 2w, 7, 7)
        h = self.blocks[2](self.blocks[1](h, condition), condition)
        h = self.blocks[3](fine + self.up[0](silu(h)), condition)  # (N, w, 14, 14)
        return self.up[1](silu(h)) + self.shortcut(condition)[:, :, None, None] * x


class FlowGenerator(nn.Module):
    """A velocity network and an integrator as a generator: what ``sampling`` and ``training`` take.

    Its latent vector is the noise image, flattened. In evaluation mode pixels are clipped to
    [-1, 1]; in training mode they are not, since a clipped pixel has no gradient.

    Args:
        velocity: such as ``VelocityNet``.
        steps: of the integrator; each is a pass through the network, or two with ``heun``.
        method: as for ``integrate``.
    """

    def __init__(self, velocity: VelocityNet, steps: int = 1, method: str = "euler") -> None:
        super().__init__()
        checks.require_integer("steps", steps, least=1)
        checks.require_choice("method", method, METHODS)
        self.velocity, self.steps, self.method = velocity, steps, method
        self.shape, self.classes = velocity.shape, velocity.classes
        self.latent_dim = math.prod(self.shape)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return samples (N, *shape) for z (N, latent_dim) and, with classes, labels (N,)."""
        given = () if labels is None else (labels,)
        x = integrate(
            lambda points, t: self.velocity(points, t, *given),
            z.unflatten(1, self.shape),
            self.steps,
            self.method,
        )
        return x if self.training else x.clamp(-1, 1)


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """How to train a flow.

    Attributes:
        width: of ``VelocityNet``.
        lr: Adam's learning rate at the first step.
        lr_end: what it is multiplied by at the end of the run; it falls linearly.
        steps, batch_size, ema, seed: as in ``training.TrainConfig``.

    Raises:
        ValueError: a setting is out of range.
    """

    width: int = 16
    lr: float = 4e-3
    lr_end: float = 0.1
    steps: int = 2000
    batch_size: int = 128
    ema: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("steps", 1), ("batch_size", 1), ("seed", 0)):
            checks.require_integer(name, getattr(self, name), least)
        checks.require_number("lr", self.lr, strict=True)
        checks.require_number("lr_end", self.lr_end, most=1.0)
        checks.require_number("ema", self.ema, below=1.0)


@dataclass
class FlowState:
    """Everything that changes while a flow is trained.

    Attributes:
        velocity: the network, in training mode.
        average: the moving average of its weights, in evaluation mode: the one to draw with.
        optimiser: Adam.
        step: the number of steps done.
    """

    velocity: VelocityNet
    average: VelocityNet
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def init(
        cls, images: data.ImageSet, config: FlowConfig, device: str | torch.device = "cpu"
    ) -> Self:
        """Return the state before the first step, for the shape and classes of the images."""
        with seeded(config.seed):
            velocity = VelocityNet(images.shape, config.width, len(images.classes))
        velocity = velocity.to(device, memory_format=torch.channels_last).train()
        average = copy.deepcopy(velocity).eval().requires_grad_(False)
        fused = has_fused_adam(device)
        optimiser = torch.optim.Adam(velocity.parameters(), config.lr, fused=fused)
        return cls(velocity, average, optimiser)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.velocity.parameters()).device


def train(state: FlowState, images: data.ImageSet, config: FlowConfig) -> Iterator[training.Log]:
    """Train from ``state.step`` to ``config.steps``; yield the loss of each step in a ``Log``.

    Raises:
        ValueError: the images have another shape, or more classes, than the network.
    """
    data.require_fit("the flow", state.velocity.shape, state.velocity.classes, images)
    images = images.to(state.device)
    while state.step < config.steps:
        share = state.step / config.steps
        for group in state.optimiser.param_groups:
            group["lr"] = config.lr * (1 - (1 - config.lr_end) * share)
        rng = step_rng(config.seed, state.step, state.device)  # all random numbers of this step
        x, labels = images.batch(config.batch_size, rng)
        loss = matching_loss(state.velocity, x, labels, rng)
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        training.update_ema(state.average, state.velocity, config.ema)
        state.step += 1
        yield training.Log(state.step, {"loss": loss.detach()})
