"""A variational autoencoder around a GAN's own pair: its generator decodes, the body of its discriminator encodes.

Images lie in [-1, 1], as everywhere in the package, and the decoder ends with the generator's tanh. A Bernoulli
likelihood needs probabilities, so pixels are mapped to [0, 1] inside it; with tanh(o) = 2 sigmoid(2 o) - 1 the logit of
a pixel is 2 o, and no logarithm of a sigmoid is ever taken.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gan_tutorial import data, networks, runtime, training

LIKELIHOODS = ("bernoulli", "gaussian")


class Gaussian(NamedTuple):
    """Independent normal variables, such as q(z | x): means and logarithms of variances, each (N, F)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, rng: torch.Generator | None = None) -> Tensor:
        """Return mean + std · noise, (N, F), through which gradients flow (Kingma and Welling 2014, section 2.4)."""
        noise = torch.randn(self.mean.shape, generator=rng, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + (self.log_variance / 2).exp() * noise

    def kl(self) -> Tensor:
        """Return the divergence from N(0, 1) of each variable in nats, (N, F) (Kingma and Welling 2014, appendix B)."""
        return (self.mean**2 + self.log_variance.expm1() - self.log_variance) / 2


def bernoulli(logits: Tensor, images: Tensor) -> Tensor:
    """Return log p(x | z) in nats, (N,), for logits and images in [-1, 1], both (N, C, H, W).

    A grey pixel counts as the mean over black and white pixels, drawn with its grey value as the probability of white.
    """
    return -binary_cross_entropy_with_logits(logits, (images + 1) / 2, reduction="none").flatten(1).sum(1)


def gaussian(logits: Tensor, images: Tensor, std: float) -> Tensor:
    """Return log p(x | z) in nats, (N,), of pixels from N(tanh(logits / 2), std²); shapes as for ``bernoulli``.

    It is the logarithm of a density, over pixels in [-1, 1], so it may be positive.
    """
    squares = (images - (logits / 2).tanh()).square().flatten(1)
    return -squares.sum(1) / (2 * std**2) - squares.shape[1] * (math.log(std) + math.log(2 * math.pi) / 2)


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """How to train a VAE.

    Attributes:
        likelihood: ``bernoulli`` or ``gaussian``.
        std: of each pixel under the Gaussian likelihood, on the scale of [-1, 1].
        beta: weight of the KL divergence; with 1 the objective is the ELBO (Higgins et al. 2017, equation 4).
        steps, batch_size, ema, bf16, seed: as in ``training.TrainConfig``.
        lr: Adam's learning rate.
    """

    likelihood: str = "bernoulli"
    std: float = 0.3
    beta: float = 1.0
    steps: int = 2000
    batch_size: int = 128
    lr: float = 2e-3
    ema: float = 0.99
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, but is {self.likelihood!r}")
        for name in ("steps", "batch_size"):
            runtime.require_integer(name, getattr(self, name), least=1)
        runtime.require_integer("seed", self.seed, least=0)
        for name in ("std", "lr"):
            runtime.require_number(name, getattr(self, name), strict=True)
        runtime.require_number("beta", self.beta)
        runtime.require_number("ema", self.ema, below=1.0)

    def log_likelihood(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return log p(x | z) in nats, (N,), for logits and images (N, C, H, W)."""
        return bernoulli(logits, images) if self.likelihood == "bernoulli" else gaussian(logits, images, self.std)


class VAE(nn.Module):
    """A generator as decoder, and the body of a discriminator with two other last layers as encoder.

    Where G has classes, both read the label (Sohn et al. 2015): so the encoder can spread each class over all of the
    prior, from which the samples of each class are drawn.

    Args:
        G: a generator of images, with tanh at its end.
        D: a discriminator of the same images, without spectral norm, which would bind the encoder. G and D become parts
            of the VAE.

    Raises:
        ValueError: G or D is of another kind, or the shapes differ.
    """

    def __init__(self, G: networks.Generator, D: networks.Discriminator) -> None:
        super().__init__()
        if not isinstance(G, networks.Generator) or not isinstance(list(G.layers)[-1], nn.Tanh):
            raise ValueError(f"the decoder must be a generator of images, with tanh at its end, but is {_kind(G)}")
        if not isinstance(D, networks.Discriminator) or any("parametrizations" in key for key in D.state_dict()):
            raise ValueError(f"the encoder needs a discriminator without spectral norm, but got {_kind(D)}")
        if G.shape != D.shape:
            raise ValueError(f"G makes images of shape {G.shape}, but D reads {D.shape}; build both with one shape")
        self.decoder, self.body, width = G, D.layers, D.last.in_features
        self.embedding = nn.Embedding(G.classes, G.latent_dim) if G.classes else None
        self.head = nn.Sequential(
            nn.Linear(width + (G.latent_dim if G.classes else 0), width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 2 * G.latent_dim),
        )

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        """Return q(z | x) for images (N, C, H, W) in [-1, 1] and, with classes, labels (N,)."""
        networks.require_labels(labels, len(images), self.decoder.classes)
        inputs = self.body(images)
        if self.embedding is not None:
            inputs = torch.cat([inputs, self.embedding(labels)], dim=1)
        return Gaussian(*self.head(inputs).float().chunk(2, dim=1))

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits of pixels (N, C, H, W), before the tanh, for z (N, latent_dim)."""
        if self.decoder.embedding is not None:
            z = torch.cat([z, self.decoder.embedding(labels)], dim=1)
        return 2 * self.decoder.layers[:-1](z).reshape(-1, *self.decoder.shape).float()


def _kind(network: object) -> str:
    return type(network).__name__


class Terms(NamedTuple):
    """The two parts of the ELBO of each image, in nats: log p(x | z) (N,), and the KL of each coordinate (N, F)."""

    log_likelihood: Tensor
    kl: Tensor

    def objective(self, beta: float = 1.0) -> Tensor:
        """Return log p(x | z) - beta · KL of each image, (N,); with beta 1, one-sample estimates of the ELBO."""
        return self.log_likelihood - beta * self.kl.sum(1)


def terms(
    model: VAE, images: Tensor, labels: Tensor | None, config: VAEConfig, rng: torch.Generator | None = None
) -> Terms:
    """Encode images (N, C, H, W), draw one z for each, decode, and return both parts of the ELBO."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.bf16 and runtime.has_bf16(images.device)):
        q = model.encode(images, labels)
        logits = model.logits(q.sample(rng), labels)
    return Terms(config.log_likelihood(logits, images), q.kl())


@dataclass
class VAEState:
    """All that changes while a VAE is trained.

    Attributes:
        model: the VAE, in training mode.
        average: the running average of its weights, in evaluation mode: the one to sample from.
        optimiser: Adam.
        step: the number of steps made.
    """

    model: VAE
    average: VAE
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def fresh(cls, network: networks.NetworkConfig, config: VAEConfig, device: str | torch.device = "cpu") -> Self:
        """Return the state before the first step: weights drawn by the configuration's seed, on ``device``.

        Raises:
            ValueError: the networks are of a kind that a ``VAE`` cannot use.
        """
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = VAE(*network.build()).to(device, memory_format=torch.channels_last).train()
        optimiser = torch.optim.Adam(model.parameters(), config.lr, fused=runtime.has_fused_adam(device))
        return cls(model, copy.deepcopy(model).eval().requires_grad_(False), optimiser)


def train(state: VAEState, images: training.Data, config: VAEConfig) -> Iterator[training.Log]:
    """Train from ``state.step`` to ``config.steps``; yield a log of elbo, log_likelihood and kl, in nats, at each step.

    Raises:
        ValueError: images or labels do not fit the networks.
        DivergedError: the ELBO became NaN or infinite. It is looked at every 50 steps, and nothing is put back.
    """
    decoder, device = state.model.decoder, next(state.model.parameters()).device
    images = images.to(device)
    if tuple(images.shape) != decoder.shape:
        raise ValueError(f"the VAE makes images of shape {decoder.shape}, but the data are {tuple(images.shape)}")
    if decoder.classes and (highest := int(images.labels.max())) >= decoder.classes:
        raise ValueError(f"the decoder knows {decoder.classes} classes, but the data hold the label {highest}")
    while state.step < config.steps:
        rng = runtime.step_rng(config.seed, state.step, device)
        batch, labels = images.batch(config.batch_size, rng)
        parts = terms(state.model, batch, labels, config, rng)
        loss = -parts.objective(config.beta).mean()
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        training.update_average(state.average, state.model, config.ema)
        state.step += 1
        if (state.step % 50 == 0 or state.step == config.steps) and not loss.isfinite():
            raise training.DivergedError(
                f"the loss is {loss.item()} at step {state.step}; lower lr, or look at the data"
            )
        measured = {"elbo": parts.objective().mean(), "log_likelihood": parts.log_likelihood.mean()}
        measured["kl"] = parts.kl.sum(1).mean()
        yield training.Log(state.step, {name: value.detach() for name, value in measured.items()})


@torch.no_grad()
def encode(model: VAE, images: Tensor, labels: Tensor | None = None, batch_size: int = 500) -> Gaussian:
    """Return q(z | x), on the CPU, of images (N, C, H, W) in [-1, 1] and, with classes, labels (N,).

    Raises:
        ValueError: labels do not fit, or batch_size is below 1; DataError (a ValueError) for images of another shape
            or range.
    """
    data.require_images(images, model.decoder.shape)
    networks.require_labels(labels, len(images), model.decoder.classes)
    runtime.require_integer("batch_size", batch_size, least=1)
    device = next(model.parameters()).device
    inputs = (images,) if labels is None else (images, labels)
    batches = zip(*(x.split(batch_size) for x in inputs), strict=True)
    parts = [model.encode(*(x.to(device) for x in batch)) for batch in batches]  # no BatchNorm here: any mode will do
    return Gaussian(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def draw_pixels(means: Tensor, config: VAEConfig, seed: int = 0) -> Tensor:
    """Draw images from p(x | z), on the CPU, given the decoder's output: their means (N, C, H, W) in [-1, 1].

    Bernoulli pixels are -1 or 1; Gaussian ones are cut off at both.
    """
    data.require_images(means)
    runtime.require_integer("seed", seed, least=0)
    means, rng = means.detach().cpu(), torch.Generator().manual_seed(seed)
    if config.likelihood == "bernoulli":
        return 2 * torch.bernoulli(((means + 1) / 2).clamp(0, 1), generator=rng) - 1
    return (means + config.std * torch.randn(means.shape, generator=rng)).clamp(-1, 1)


def greyness(images: Tensor) -> Tensor:
    """Return how undecided the pixels of each image (N, C, H, W) in [-1, 1] are: the mean of 1 - x², (N,), from 0 to 1.

    It is the variance of a black-or-white pixel whose mean is x. Black and white score 0, mid-grey 1; blur raises it.
    """
    data.require_images(images)
    return (1 - images.square()).flatten(1).mean(dim=1)
