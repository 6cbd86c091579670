"""Image to image: a pair of networks that see a small image and make, or judge, its large version.

The small image takes the place of the label in the package's loop. G may lower a squared error, an
adversarial loss, or a weighted sum of both.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, mse_loss

from gan_tutorial import checks, data, networks, runtime, sampling, training

FACTOR = 4  # side of a large image in sides of its small one
RULES = ("nearest", "bilinear", "bicubic")


def shrink(images: Tensor) -> Tensor:
    """Return small images (N, C, H / 4, W / 4): the mean of each square of 4×4 pixels."""
    return avg_pool2d(images, FACTOR)


def enlarge_by_rule(small: Tensor, rule: str) -> Tensor:
    """Return small images (N, C, H, W) four times as large by a rule that needs no training.

    Args:
        small: in [-1, 1], as is the result; bicubic interpolation may overshoot and is clipped.
        rule: ``nearest``, ``bilinear`` or ``bicubic``.

    Raises:
        ValueError: there is no such rule.
    """
    checks.require_choice("rule", rule, RULES)
    options = {} if rule == "nearest" else {"align_corners": False}
    return interpolate(small, scale_factor=FACTOR, mode=rule, **options).clamp(-1, 1)


@dataclass(frozen=True)
class Pairs:
    """Images, each drawn with its small version, which the loop takes in place of a label.

    Attributes:
        large: the images.
    """

    large: data.ImageSet

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one large image."""
        return self.large.shape

    def to(self, device: str | torch.device) -> Self:
        """Return the pairs with their images on ``device``."""
        return replace(self, large=self.large.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random images (count, C, H, W) and small ones (count, C, H / 4, W / 4)."""
        images, _ = self.large.batch(count, rng)
        return images, shrink(images)


class Enlarger(nn.Module):
    """G: convolutions on the small image, and two transposed ones that double it.

    With BatchNorm and ReLU in between and a final tanh, as in ``networks.ConvGenerator``.

    Args:
        shape: (C, H, W) of a large image; H and W multiples of 4. Shapes in the code are for
            (1, 28, 28).
        latent_dim: size of z, which is put beside each pixel of the small image; 0 for no noise.
        width: channels at half the size; twice as many at a quarter of it.
        channels: of the small image; by default C.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        latent_dim: int = 8,
        width: int = 16,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.latent_dim, w = tuple(shape), latent_dim, width
        inputs = (channels or shape[0]) + latent_dim
        self.layers = nn.Sequential(
            *_block(nn.Conv2d(inputs, 2 * w, 3, padding=1, bias=False)),  # (N, 2w, 7, 7)
            *_block(nn.Conv2d(2 * w, 2 * w, 3, padding=1, bias=False)),
            *_block(nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1, bias=False)),
            *_block(nn.Conv2d(w, w, 3, padding=1, bias=False)),  # (N, w, 14, 14)
            nn.ConvTranspose2d(w, shape[0], 4, stride=2, padding=1),
            nn.Tanh(),  # (N, C, 28, 28)
        )

    def forward(self, z: Tensor, small: Tensor) -> Tensor:
        """Return images (N, C, H, W) for z (N, latent_dim) and small (N, channels, H/4, W/4)."""
        everywhere = z[:, :, None, None].expand(-1, -1, *small.shape[2:])  # (N, latent_dim, 7, 7)
        return self.layers(torch.cat([small, everywhere], dim=1))


def _block(convolution: nn.Module) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class PairDiscriminator(nn.Module):
    """D: judges whether a large image is real *and* goes with the small one beside it.

    Both go into the first convolution as one stack of channels (Isola et al. 2017, section 3.1).

    Args:
        shape: (C, S, S) of a large image, with S one of ``networks.SIDES``.
        width: as for ``networks.ConvDiscriminator``.
        channels: of the small image; by default C.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 16,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        stacked = (shape[0] + (channels or shape[0]), *shape[1:])
        self.shape, self.D = tuple(shape), networks.ConvDiscriminator(stacked, width)

    def forward(self, images: Tensor, small: Tensor) -> Tensor:
        """Return logits (N,) for images (N, C, S, S) and small (N, channels, S/4, S/4)."""
        beside = interpolate(small, scale_factor=FACTOR, mode="nearest")
        return self.D(torch.cat([images, beside], dim=1))


@dataclass(frozen=True, kw_only=True)
class EnlargerConfig(training.TrainConfig):
    """How to train an enlarger; G's loss is ``squared`` · MSE + ``adversarial`` · L_G.

    Attributes:
        squared: weight of the squared error, the mean over pixels and images.
        adversarial: weight of the objective's loss of G; with 0, D is not trained.
        latent_dim, width: of the networks.

    Raises:
        ValueError: a setting is out of range, both weights are 0, or ``augment`` is set: the small
            image would stay as it is, and no longer go with the large one.
    """

    squared: float = 1.0
    adversarial: float = 0.05
    latent_dim: int = 8
    width: int = 16
    objective: str = "relativistic"
    steps: int = 300
    lr_G: float = 6e-3
    lr_D: float = 4e-3
    lr_end: float = 0.2
    r1: float = 0.2
    r2: float = 0.2
    penalty_noise: float = 0.1
    ema: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("squared", "adversarial"):
            checks.require_number(name, getattr(self, name))
        if not self.squared and not self.adversarial:
            raise ValueError(
                "squared and adversarial are both 0; G needs one of them to learn from"
            )
        if self.augment:
            raise ValueError(
                "augment would change the large image and not the small one; leave it ()"
            )
        checks.require_integer("latent_dim", self.latent_dim, least=0)
        checks.require_integer("width", self.width, least=1)

    def init(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        device: str | torch.device = "cpu",
        channels: int | None = None,
    ) -> training.TrainState:
        """Return the state before the first step; its weights depend on the seed alone."""
        with runtime.seeded(self.seed):
            G = Enlarger(shape, self.latent_dim, self.width, channels)
            D = PairDiscriminator(shape, self.width, channels)
        return training.TrainState.init(G, D, self, device)


def train(
    state: training.TrainState, pairs: training.Data, config: EnlargerConfig
) -> Iterator[training.Log]:
    """Train from ``state.step`` to ``config.steps``; yield a ``Log`` after each step.

    A log has squared_error, the mean over the batch, and with an adversarial loss also what
    ``training.train`` logs.

    Raises:
        ValueError: the pairs do not fit the networks.
    """
    pairs = training.prepare(state, pairs, config)
    while state.step < config.steps:
        training.set_learning_rates(state, config)
        rng = runtime.step_rng(config.seed, state.step, state.device)
        real, small = pairs.batch(config.batch_size, rng)  # (N, C, H, W), (N, C, H/4, W/4)
        log = one_step(state, real, small, config, rng)
        state.step += 1
        yield training.Log(state.step, log)


def one_step(
    state: training.TrainState,
    real: Tensor,
    small: Tensor,
    config: EnlargerConfig,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Update D, G and the average once; return measurements by name."""
    z = torch.randn(len(real), state.G.latent_dim, generator=rng, device=rng.device)
    fake = training.forward(state.G, z, small, config)  # (N, C, H, W), for both updates
    log = {"squared_error": mse_loss(fake, real)}
    loss = config.squared * log["squared_error"]
    if config.adversarial:
        log |= training.update_discriminator(state, real, fake, small, config, rng)
        g_loss, g_log = training.generator_loss(state, real, fake, small, config, rng)
        loss, log = loss + config.adversarial * g_loss, log | g_log
    state.opt_G.zero_grad()
    learned = [parameter for parameter in state.G.parameters() if parameter.requires_grad]
    loss.backward(inputs=learned)  # through D, but not into its gradients
    state.opt_G.step()
    training.update_ema(state.G_ema, state.G, config.ema)
    return {name: value.detach() for name, value in log.items()}


def recalibrate_batchnorm(
    G: Enlarger,
    pairs: training.Data,
    batches: int = 50,
    batch_size: int = 100,
    seed: int = 10_000,
) -> nn.Module:
    """Return a copy of G with BatchNorm statistics from its answers to small images of ``pairs``.

    An average of weights needs it; see ``sampling.recalibrate_batchnorm``.

    Args:
        pairs: on the CPU.
    """

    def inputs() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(batches):
            rng = runtime.step_rng(seed, index)
            _, small = pairs.batch(batch_size, rng)
            yield torch.randn(batch_size, G.latent_dim, generator=rng), small

    return sampling.recalibrate_batchnorm(G, inputs=inputs())


def enlarge(G: Enlarger, small: Tensor, seed: int = 0) -> Tensor:
    """Return images (N, C, H, W), on the CPU, for small ones (N, channels, H/4, W/4).

    Args:
        seed: of the noise; another one gives another answer, if G listens to z.
    """
    return sampling.sample(G, sampling.latents(len(small), G.latent_dim, seed), small)


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio in decibels of a mean squared error, on [-1, 1]."""
    return 10 * math.log10(4 / error)


def inconsistency(images: Tensor, small: Tensor) -> float:
    """Return the root mean square of shrink(images) - small, in grey levels out of 255."""
    return 127.5 * mse_loss(shrink(images), small).sqrt().item()


def misread(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether the classifier sees a class other than the label in each image, bool (N,)."""
    return classifier.extract(images)[1].cpu() != labels.cpu()
