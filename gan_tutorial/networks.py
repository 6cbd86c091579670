"""Generators and discriminators: the article's MLP pair, and a small convolutional pair.

A generator maps latent vectors z, (N, latent_dim) from N(0, 1), to samples (N, *shape). A discriminator maps samples
to logits (N,): no sigmoid at its end, since the losses take logits. Both take integer labels (N,) where they were built
with ``classes`` > 0. Sizes that do not fit raise ValueError at the door.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from gan_tutorial import runtime

NETWORKS = ("mlp", "conv")
ARTICLE = (256, 512, 1024)  # hidden layers of the article's G; its D has them in reverse


class Generator(nn.Module):
    """What every generator shares: its door.

    Args:
        latent_dim: size of z.
        shape: shape of one sample, such as (1, 28, 28), or (2,) for points in the plane.
        classes: number of classes to choose from; 0 for none. The label's embedding, as wide as z, is put beside z.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        runtime.require_integer("latent_dim", latent_dim, least=1)
        _require_sizes("shape", shape)
        runtime.require_integer("classes", classes, least=0)
        self.latent_dim, self.shape, self.classes = latent_dim, tuple(shape), classes
        self.embedding = nn.Embedding(classes, latent_dim) if classes else None
        self.input_dim = latent_dim * (2 if classes else 1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return samples (N, *shape) for latent vectors (N, latent_dim) and, with classes, labels (N,)."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have the shape (N, {self.latent_dim}), but has {tuple(z.shape)}")
        if not z.is_floating_point():
            raise ValueError(f"z must be floating point, drawn from N(0, 1), but is {z.dtype}")
        require_labels(labels, len(z), self.classes)
        return self.draw(z, labels)

    def draw(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return what ``forward`` returns, without its checks: one path, as an exporter needs it."""
        z = z if self.embedding is None else torch.cat([z, self.embedding(labels)], dim=1)
        return self.layers(z).unflatten(1, self.shape) if self.flat else self.layers(z)

    flat = False


class Discriminator(nn.Module):
    """What every discriminator shares: its door and its last layer.

    Args:
        shape: shape of one sample.
        features: size of what ``layers`` computes from a sample.
        classes: number of classes; 0 for none. The label enters by projection (Miyato and Koyama 2018, equation 3).
    """

    def __init__(self, shape: Sequence[int], features: int, classes: int = 0) -> None:
        super().__init__()
        runtime.require_integer("classes", classes, least=0)
        _require_sizes("shape", shape)
        self.shape, self.classes = tuple(shape), classes
        self.last = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if classes else None

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (N,) for samples (N, *shape) and, with classes, labels (N,)."""
        if tuple(samples.shape[1:]) != self.shape or not samples.is_floating_point():
            expected = ", ".join(map(str, self.shape))
            raise ValueError(
                f"samples must be floating point of shape (N, {expected}), "
                f"but are {samples.dtype} of shape {tuple(samples.shape)}"
            )
        require_labels(labels, len(samples), self.classes)
        features = self.layers(samples)
        logits = self.last(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1)
        return logits


def _require_sizes(name: str, sizes: Sequence[int]) -> None:
    for size in sizes:
        runtime.require_integer(f"each number of {name}", size, least=1)


def require_labels(labels: Tensor | None, count: int, classes: int) -> None:
    """Raise ValueError unless ``labels`` are int64 (count,) in [0, classes); with no classes, anything goes.

    The range is looked at on the CPU only, since on a GPU the look would hold up the loop.
    """
    if not classes:
        return
    if labels is None:
        raise ValueError(f"this network was built with {classes} classes; give labels, int64 of shape ({count},)")
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape ({count},), but are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if count and labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"labels must lie in [0, {classes - 1}], but reach from {int(labels.min())} to {int(labels.max())}"
        )


class MLPGenerator(Generator):
    """Linear layers with ReLU between; by default the article's 100 → 256 → 512 → 1024 → 784 with tanh at the end.

    Points in the plane are not bound to [-1, 1], so for a flat ``shape`` such as (2,) there is no tanh.
    """

    flat = True

    def __init__(
        self,
        latent_dim: int = 100,
        shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = ARTICLE,
        classes: int = 0,
    ) -> None:
        super().__init__(latent_dim, shape, classes)
        _require_sizes("hidden", hidden)
        self.layers = nn.Sequential()
        width = self.input_dim
        for size in hidden:
            self.layers.extend([nn.Linear(width, size), nn.ReLU()])
            width = size
        self.layers.append(nn.Linear(width, math.prod(shape)))
        if len(shape) > 1:
            self.layers.append(nn.Tanh())


class MLPDiscriminator(Discriminator):
    """Linear layers with LeakyReLU(0.2) between; by default the article's 784 → 1024 → 512 → 256 → 1, no sigmoid."""

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = ARTICLE[::-1],
        classes: int = 0,
        spectral: bool = False,
    ) -> None:
        _require_sizes("hidden", hidden)
        super().__init__(shape, [math.prod(shape), *hidden][-1], classes)
        self.layers = nn.Sequential(nn.Flatten())
        width = math.prod(shape)
        for size in hidden:
            self.layers.extend([nn.Linear(width, size), nn.LeakyReLU(0.2)])
            width = size
        if spectral:
            add_spectral_norm(self)


class Packed(nn.Module):
    """A discriminator that judges ``pack`` samples at a time (PacGAN, Lin et al. 2018, section 3).

    Samples that lie together in a batch form a pack, and each gets the pack's logit, so losses stay as they are. Real
    and generated samples never share a pack as long as ``pack`` divides the batch.

    Args:
        D: a discriminator of samples of shape (pack, *shape), such as ``MLPDiscriminator((pack, 2))``.
    """

    def __init__(self, D: Discriminator) -> None:
        super().__init__()
        self.D = D
        self.pack, *self.shape = D.shape

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (N,) for samples (N, *shape), where N is a multiple of ``pack``."""
        if len(samples) % self.pack:
            raise ValueError(f"packs of {self.pack} need a batch that {self.pack} divides, but got {len(samples)}")
        return self.D(samples.unflatten(0, (-1, self.pack))).repeat_interleave(self.pack)


class ConvGenerator(Generator):
    """A linear layer to a quarter of the image's size, a convolution there, then two transposed ones that double it.

    BatchNorm and ReLU stand between, tanh at the end, as in DCGAN (Radford et al. 2016). The kernel, 4, is a multiple
    of the stride, 2, so that every pixel is written equally often (Odena et al. 2016, on checkerboards).

    Args:
        width: channels at half the image's size; twice as many at a quarter.
    """

    def __init__(
        self, latent_dim: int = 64, shape: Sequence[int] = (1, 28, 28), width: int = 24, classes: int = 0
    ) -> None:
        super().__init__(latent_dim, shape, classes)
        channels, quarter = _require_image_shape(shape)
        runtime.require_integer("width", width, least=1)
        self.layers = nn.Sequential(
            nn.Linear(self.input_dim, 2 * width * quarter * quarter, bias=False),
            nn.Unflatten(1, (2 * width, quarter, quarter)),  # (N, 2w, 7, 7)
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),  # (N, 2w, 7, 7)
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),  # (N, w, 14, 14)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),  # (N, C, 28, 28)
            nn.Tanh(),
        )


class ConvDiscriminator(Discriminator):
    """Three convolutions that halve the image, then two linear layers; LeakyReLU between, no BatchNorm.

    Without BatchNorm a logit depends on its own sample alone, so gradient penalties are allowed, and real and
    generated samples may go through in one pass.

    Args:
        width: channels at half the image's size; twice as many at a quarter, four times at an eighth.
        spectral: divide every weight matrix by its largest singular value (Miyato et al. 2018).
    """

    def __init__(
        self, shape: Sequence[int] = (1, 28, 28), width: int = 24, classes: int = 0, spectral: bool = False
    ) -> None:
        channels, quarter = _require_image_shape(shape)
        runtime.require_integer("width", width, least=1)
        super().__init__(shape, 8 * width, classes)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),  # (N, w, 14, 14)
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (N, 2w, 7, 7)
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),  # (N, 4w, 3, 3)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(4 * width * (quarter // 2) ** 2, 8 * width),  # (N, 8w)
            nn.LeakyReLU(0.2),
        )
        if spectral:
            add_spectral_norm(self)


def _require_image_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return channels and a quarter of the side, or raise ValueError where the shape does not fit."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2] or shape[1] % 4 or shape[1] < 8:
        raise ValueError(
            "a convolutional network needs a shape (C, S, S) with C = 1 or 3 and S a multiple of 4 from 8 on, "
            f"such as (1, 28, 28) or (3, 32, 32), but got {tuple(shape)}"
        )
    return shape[0], shape[1] // 4


def add_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide every weight matrix of ``network`` by its largest singular value, and return the network."""
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            spectral_norm(module)
    return network


def initialise(network: nn.Module, std: float = 0.02) -> nn.Module:
    """Draw the weights of linear and (transposed) convolutional layers from N(0, std²), biases 0; return the network.

    This is DCGAN's initialisation (Radford et al. 2016, section 4). The scale of a BatchNorm stays at 1. With spectral
    norm it is the weight before division that is drawn.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            weight = module.parametrizations.weight.original if is_parametrized(module) else module.weight
            nn.init.normal_(weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable numbers in a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """All that is needed to build a pair of networks again.

    Attributes:
        kind: ``mlp`` or ``conv``.
        shape: shape of one sample.
        latent_dim: size of z.
        width: channels of the convolutional pair at half the image's size.
        hidden: sizes of the hidden layers of the MLP pair, in G's order; D has them in reverse. Empty: the article's.
        classes: number of classes to choose from; 0 for none.
        spectral: whether D's layers are spectrally normalised.
    """

    kind: str = "conv"
    shape: tuple[int, ...] = (1, 28, 28)
    latent_dim: int = 64
    width: int = 24
    hidden: tuple[int, ...] = ()
    classes: int = 0
    spectral: bool = True

    def __post_init__(self) -> None:
        for name in ("shape", "hidden"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives a list
        if self.kind not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, but is {self.kind!r}")

    def build(self) -> tuple[Generator, Discriminator]:
        """Return (G, D) with fresh weights."""
        if self.kind == "mlp":
            hidden = self.hidden or ARTICLE
            return (
                MLPGenerator(self.latent_dim, self.shape, hidden, self.classes),
                MLPDiscriminator(self.shape, hidden[::-1], self.classes, self.spectral),
            )
        return (
            ConvGenerator(self.latent_dim, self.shape, self.width, self.classes),
            ConvDiscriminator(self.shape, self.width, self.classes, self.spectral),
        )

    def as_dict(self) -> dict:
        """Return the settings as plain values, for a checkpoint."""
        return asdict(self)
