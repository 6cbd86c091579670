"""Generators and discriminators: the MLPs of the book's source article, and small CNNs.

A generator maps latent vectors z, (N, latent_dim) from N(0, 1), to samples (N, *shape). A
discriminator maps samples to logits (N,), with no sigmoid at its end, since the losses take logits.
Built with ``classes`` > 0, both take int64 labels (N,) in [0, classes) too.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from gan_tutorial import checks

NETWORKS = ("mlp", "conv")  # names for ``recipes.Recipe.network``
ARTICLE = (256, 512, 1024)  # hidden layers of the article's G; its D has them in reverse
# Sides of the images of the convolutional pair: 4, 5, 6 or 7 times a power of two.
SIDES = (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)


class Generator(nn.Module):
    """Base class of generators; they set ``layers``, from (N, input_dim) to (N, *shape).

    Args:
        latent_dim: size of z.
        shape: shape of one sample, such as (1, 28, 28), or (2,) for points in the plane.
        classes: number of classes; 0 for an unconditional generator. The label's embedding, of the
            same size as z, is concatenated to z.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.shape, self.classes = latent_dim, tuple(shape), classes
        self.embedding = nn.Embedding(classes, latent_dim) if classes else None
        self.input_dim = latent_dim * (2 if classes else 1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return samples (N, *shape) for z (N, latent_dim) and, with classes, labels (N,)."""
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], dim=1)  # (N, 2 · latent_dim)
        return self.layers(z)  # (N, *shape)


class Discriminator(nn.Module):
    """Base class of discriminators; they set ``layers``, from (N, *shape) to features (N, F).

    Args:
        shape: shape of one sample.
        features: F, the number of features of a sample.
        classes: number of classes; 0 for an unconditional discriminator. The label enters by
            projection (Miyato and Koyama 2018, equation 3).
    """

    def __init__(self, shape: Sequence[int], features: int, classes: int = 0) -> None:
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.last = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if classes else None

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (N,) for samples (N, *shape) and, with classes, labels (N,)."""
        features = self.layers(samples)  # (N, F)
        logits = self.last(features).squeeze(1)  # (N,)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1)
        return logits


class MLPGenerator(Generator):
    """Linear layers with ReLU in between, by default the article's 100-256-512-1024-784, and tanh.

    Points in the plane are not limited to [-1, 1], so for a ``shape`` of one dimension, such as
    (2,), there is no tanh.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = ARTICLE,
        classes: int = 0,
    ) -> None:
        super().__init__(latent_dim, shape, classes)
        self.layers = nn.Sequential()
        width = self.input_dim
        for size in hidden:
            self.layers.extend([nn.Linear(width, size), nn.ReLU()])
            width = size
        self.layers.append(nn.Linear(width, math.prod(shape)))
        if len(shape) > 1:
            self.layers.extend([nn.Unflatten(1, self.shape), nn.Tanh()])


class MLPDiscriminator(Discriminator):
    """Linear layers with LeakyReLU in between, by default the article's 784-1024-512-256-1."""

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = ARTICLE[::-1],
        classes: int = 0,
        spectral: bool = False,
    ) -> None:
        super().__init__(shape, hidden[-1] if hidden else math.prod(shape), classes)
        self.layers = nn.Sequential(nn.Flatten())
        width = math.prod(shape)
        for size in hidden:
            self.layers.extend([nn.Linear(width, size), nn.LeakyReLU(0.2)])
            width = size
        if spectral:
            add_spectral_norm(self)


class Packed(nn.Module):
    """A discriminator that judges ``pack`` samples at a time (PacGAN, Lin et al. 2018, section 3).

    Neighbouring samples of a batch form a pack with one logit, so the losses are means over packs,
    and the gradient penalties measure the slope with respect to a whole pack. Real and generated
    samples never share a pack if ``pack`` divides the batch size.

    Args:
        D: a discriminator of samples of shape (pack, *shape), such as ``MLPDiscriminator((pack,
            2))``.
    """

    def __init__(self, D: Discriminator) -> None:
        super().__init__()
        self.D = D
        self.pack, self.shape = D.shape[0], D.shape[1:]

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (N / pack,) for samples (N, *shape); N is a multiple of ``pack``."""
        packs = samples.unflatten(0, (-1, self.pack))  # (N / pack, pack, *shape)
        return self.D(packs)


class MinibatchStd(nn.Module):
    """Append to features how much they vary within a group: (N, F) -> (N, F + 1).

    ``group_size`` neighbours of a batch form a group, and all of them get the same number: the
    standard deviation of each feature over the group, averaged over the features. So D can see that
    G's samples are more alike than real ones (Karras et al. 2018, section 3, whose group is the
    whole batch). A logit then depends on all samples of its group. Real and generated samples never
    share a group if ``group_size`` divides the batch size.

    Raises:
        ValueError: ``group_size`` is not an integer of at least 2; when called: N is not a multiple
            of it.
    """

    def __init__(self, group_size: int = 8) -> None:
        super().__init__()
        checks.require_integer("group_size", group_size, least=2)
        self.group_size = group_size

    def extra_repr(self) -> str:
        """Return what ``print`` shows in the brackets."""
        return str(self.group_size)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features (N, F) and their group's mean standard deviation: (N, F + 1)."""
        if len(features) % self.group_size:
            fault = f"D compares groups of {self.group_size} samples"
            raise ValueError(f"{fault}, so it needs a multiple of that, but got {len(features)}")
        groups = features.unflatten(0, (-1, self.group_size))  # (N / group_size, group_size, F)
        deviations = groups - groups.mean(1, keepdim=True)  # torch.var is slow over dimension 1
        std = (deviations.square().mean(1) + 1e-8).sqrt().mean(1)  # (N / group_size,)
        return torch.cat([features, std.repeat_interleave(self.group_size)[:, None]], dim=1)


class ConvGenerator(Generator):
    """A linear layer to a side of 4 to 7 pixels, a convolution, and transposed ones that double it.

    With BatchNorm and ReLU in between and a final tanh, as in DCGAN (Radford et al. 2016). The
    kernel size 4 is a multiple of the stride 2, so that every pixel, except at the borders,
    receives the same number of contributions (Odena et al. 2016, on checkerboards). Its weights may
    still draw a grid.

    Args:
        shape: (C, S, S) with S one of ``SIDES``. The shapes in the code are those for S = 28.
        width: channels of the S/2 × S/2 feature maps; twice as many each time the side halves, up
            to 8 · ``width``.

    Raises:
        ValueError: the shape is any other.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        shape: Sequence[int] = (1, 28, 28),
        width: int = 24,
        classes: int = 0,
    ) -> None:
        super().__init__(latent_dim, shape, classes)
        doublings = count_doublings(shape)
        channels = _channels(width, doublings)[::-1]  # [2w, w]: from the smallest side to S/2
        first, side = channels[0], shape[1] >> doublings
        self.layers = nn.Sequential(
            nn.Linear(self.input_dim, first * side * side, bias=False),
            nn.Unflatten(1, (first, side, side)),  # (N, 2w, 7, 7)
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, first, 3, padding=1, bias=False),  # (N, 2w, 7, 7)
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        for inputs, outputs in itertools.pairwise(channels):
            double = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
            self.layers.extend([double, nn.BatchNorm2d(outputs), nn.ReLU()])  # (N, w, 14, 14)
        last = nn.ConvTranspose2d(width, shape[0], 4, stride=2, padding=1)
        self.layers.extend([last, nn.Tanh()])  # (N, C, 28, 28)


class ConvDiscriminator(Discriminator):
    """Convolutions that each halve the image, to a side of 2 or 3, and a linear layer; LeakyReLU.

    Without BatchNorm a logit depends on its own sample alone, or with ``minibatch_std`` on its
    group, so gradient penalties are allowed (``penalties`` says what those of groups are), and real
    and generated samples may go through in one pass, a whole number of groups of each.

    Args:
        shape: (C, S, S) with S one of ``SIDES``. The shapes in the code are those for S = 28.
        width: channels of the S/2 × S/2 feature maps; twice as many each time the side halves, up
            to 8 · ``width``, the number of features.
        spectral: divide every weight matrix by its largest singular value (Miyato et al. 2018).
        minibatch_std: samples in a group of ``MinibatchStd`` before the linear layer; 0 for none.

    Raises:
        ValueError: the shape is any other, or ``minibatch_std`` is 1, negative or no integer.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        width: int = 24,
        classes: int = 0,
        spectral: bool = False,
        minibatch_std: int = 0,
    ) -> None:
        super().__init__(shape, 8 * width, classes)
        halvings = count_doublings(shape) + 1
        channels = _channels(width, halvings)  # [w, 2w, 4w]
        self.layers = nn.Sequential()
        for inputs, outputs in itertools.pairwise([shape[0], *channels]):
            halve = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
            self.layers.extend([halve, nn.LeakyReLU(0.2)])  # (N, 4w, 3, 3) in the end
        values = channels[-1] * (shape[1] >> halvings) ** 2  # 4w · 3 · 3
        self.layers.append(nn.Flatten())
        if minibatch_std:
            self.layers.append(MinibatchStd(minibatch_std))
            values += 1
        self.layers.extend([nn.Linear(values, 8 * width), nn.LeakyReLU(0.2)])
        if spectral:
            add_spectral_norm(self)


def count_doublings(shape: Sequence[int]) -> int:
    """Return how many times 4, 5, 6 or 7 is doubled to reach the side S of images (C, S, S).

    Raises:
        ValueError: the images are not square, or their side is not one of ``SIDES``.
    """
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] not in SIDES:
        sides = f"{', '.join(map(str, SIDES[:-1]))} or {SIDES[-1]}"
        raise ValueError(
            f"the convolutional networks need images (C, S, S) with S = {sides}, such as "
            f"(1, 28, 28) or (3, 64, 64), but got {tuple(shape)}"
        )
    return (shape[1] // 4).bit_length() - 1


def _channels(width: int, count: int) -> list[int]:
    """Return the channels at S/2, S/4, …: ``width``, doubled each time, up to 8 · ``width``."""
    return [width * 2 ** min(halving, 3) for halving in range(count)]


def add_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide the weights of a discriminator by their largest singular value; return the network.

    Those of linear layers, ``Conv2d`` and embeddings, each as a matrix. Other convolutions, such as
    transposed ones and ``Conv1d``, stay as they are.
    """
    for module in list(network.modules()):  # a list, as spectral_norm adds modules
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            spectral_norm(module)
    return network


def initialise(network: nn.Module, std: float = 0.02) -> nn.Module:
    """Initialise as in DCGAN: weights from N(0, std²), biases 0; return the network.

    Radford et al. 2016, section 4. Only linear layers and (transposed) 2D convolutions: the scale
    of a BatchNorm stays 1. With spectral norm, the weight before the division is initialised.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            original = is_parametrized(module)
            weight = module.parametrizations.weight.original if original else module.weight
            nn.init.normal_(weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
