"""A variational autoencoder from a GAN's networks: G is the decoder, the body of D the encoder.

Images are in [-1, 1], as everywhere in the package, and the decoder ends with G's tanh. A Bernoulli
likelihood needs probabilities, so it maps pixels to [0, 1]; as tanh(o) = 2 sigmoid(2 o) - 1, the
logit of a pixel is 2 o, and no logarithm of a sigmoid is ever taken.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gan_tutorial import checks, data, networks, training
from gan_tutorial.recipes import Recipe
from gan_tutorial.runtime import has_bf16, has_fused_adam, seeded, step_rng

LIKELIHOODS = ("bernoulli", "gaussian")


class Gaussian(NamedTuple):
    """Independent normal variables, such as q(z | x): means and log-variances, each (N, F)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, rng: torch.Generator | None = None) -> Tensor:
        """Return mean + std · noise, (N, F), through which gradients flow.

        The reparameterisation trick (Kingma and Welling 2014, section 2.4).
        """
        shape, dtype, device = self.mean.shape, self.mean.dtype, self.mean.device
        noise = torch.randn(shape, generator=rng, dtype=dtype, device=device)
        return self.mean + (self.log_variance / 2).exp() * noise

    def kl(self) -> Tensor:
        """Return the KL divergence of each variable from N(0, 1) in nats, (N, F).

        Kingma and Welling 2014, appendix B.
        """
        return (self.mean**2 + self.log_variance.expm1() - self.log_variance) / 2


def bernoulli_log_likelihood(logits: Tensor, images: Tensor) -> Tensor:
    """Return log p(x | z) in nats, (N,), for logits and images in [-1, 1], both (N, C, H, W).

    A grey pixel counts as the mean over black and white ones, its grey value being the probability
    of white.
    """
    white = (images + 1) / 2  # [-1, 1] to [0, 1]
    return -binary_cross_entropy_with_logits(logits, white, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(logits: Tensor, images: Tensor, std: float) -> Tensor:
    """Return log p(x | z) in nats, (N,), of pixels from N(tanh(logits / 2), std²).

    A log-density over pixels in [-1, 1], so it may be positive. Shapes as for Bernoulli pixels.
    """
    errors = (images - (logits / 2).tanh()).flatten(1)  # (N, C · H · W)
    constant = errors.shape[1] * (math.log(std) + math.log(2 * math.pi) / 2)
    return -errors.square().sum(1) / (2 * std**2) - constant


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """How to train a VAE.

    Attributes:
        likelihood: ``bernoulli`` or ``gaussian``.
        std: of a pixel under the Gaussian likelihood, on the scale of [-1, 1].
        beta: weight of the KL divergence; with 1 the objective is the ELBO (Higgins et al. 2017,
            equation 4).
        lr: Adam's learning rate.
        steps, batch_size, ema, bf16, seed: as in ``training.TrainConfig``.

    Raises:
        ValueError: a setting is out of range.
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
        checks.require_choice("likelihood", self.likelihood, LIKELIHOODS)
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            checks.require_integer(name, getattr(self, name), least)
        for name in ("std", "beta", "lr"):
            checks.require_number(name, getattr(self, name), strict=name != "beta")
        checks.require_number("ema", self.ema, below=1.0)

    def log_likelihood(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return log p(x | z) in nats, (N,), for logits and images (N, C, H, W)."""
        if self.likelihood == "bernoulli":
            return bernoulli_log_likelihood(logits, images)
        return gaussian_log_likelihood(logits, images, self.std)


class VAE(nn.Module):
    """G as the decoder, and D without its last layer, under a new head, as the encoder.

    If G is conditional, both read the label (Sohn et al. 2015). The encoder can then spread each
    class over the whole prior, from which the samples of each class are drawn.

    Args:
        G: a generator of images, with tanh at its end.
        D: a discriminator of the same images, without spectral norm, which would limit the encoder,
            and without ``networks.MinibatchStd``, since a code must not depend on other images.
            G and D become parts of the VAE.

    Raises:
        ValueError: G has no tanh, or D has spectral norm or groups.
    """

    def __init__(self, G: networks.Generator, D: networks.Discriminator) -> None:
        super().__init__()
        if not isinstance(G.layers[-1], nn.Tanh):
            raise ValueError("the decoder must be a generator of images, with tanh at its end")
        if any("parametrizations" in key for key in D.state_dict()):
            raise ValueError("the encoder must not have spectral norm; give D spectral=False")
        if any(isinstance(module, networks.MinibatchStd) for module in D.modules()):
            raise ValueError("the encoder must not compare images; give D minibatch_std=0")
        self.decoder, self.body, width = G, D.layers, D.last.in_features
        self.embedding = nn.Embedding(G.classes, G.latent_dim) if G.classes else None
        self.head = nn.Sequential(
            nn.Linear(width + (G.latent_dim if G.classes else 0), width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 2 * G.latent_dim),
        )

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        """Return q(z | x) for images (N, C, H, W) in [-1, 1] and, with classes, labels (N,)."""
        features = self.body(images)  # (N, width)
        if self.embedding is not None:
            features = torch.cat([features, self.embedding(labels)], dim=1)
        mean, log_variance = self.head(features).float().chunk(2, dim=1)  # (N, latent_dim) each
        return Gaussian(mean, log_variance)

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits of the pixels, (N, C, H, W), for z (N, latent_dim) and labels (N,)."""
        if self.decoder.embedding is not None:
            z = torch.cat([z, self.decoder.embedding(labels)], dim=1)
        return 2 * self.decoder.layers[:-1](z).float()  # without the tanh


class Terms(NamedTuple):
    """The terms of the ELBO in nats: log p(x | z), (N,), and the KL of each coordinate, (N, F)."""

    log_likelihood: Tensor
    kl: Tensor

    def objective(self, beta: float = 1.0) -> Tensor:
        """Return log p(x | z) - beta · KL of each image, (N,); for beta 1 an ELBO estimate."""
        return self.log_likelihood - beta * self.kl.sum(1)


def terms(
    model: VAE,
    images: Tensor,
    labels: Tensor | None,
    config: VAEConfig,
    rng: torch.Generator | None = None,
) -> Terms:
    """Return the terms of the ELBO of images (N, C, H, W), estimated from one z for each image."""
    bf16 = config.bf16 and has_bf16(images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        q = model.encode(images, labels)
        logits = model.logits(q.sample(rng), labels)
    return Terms(config.log_likelihood(logits, images), q.kl())


@dataclass
class VAEState:
    """Everything that changes while a VAE is trained.

    Attributes:
        model: the VAE, in training mode.
        average: the moving average of its weights, in evaluation mode: the one to sample from.
        optimiser: Adam.
        step: the number of steps done.
    """

    model: VAE
    average: VAE
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def init(cls, recipe: Recipe, config: VAEConfig, device: str | torch.device = "cpu") -> Self:
        """Return the state before the first step: the recipe's networks, seeded by ``config``.

        Raises:
            ValueError: a ``VAE`` cannot be made of the recipe's networks.
        """
        with seeded(config.seed):
            model = VAE(*recipe.build()).to(device, memory_format=torch.channels_last).train()
        average = copy.deepcopy(model).eval().requires_grad_(False)
        fused = has_fused_adam(device)
        return cls(model, average, torch.optim.Adam(model.parameters(), config.lr, fused=fused))

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.model.parameters()).device


def train(state: VAEState, images: data.ImageSet, config: VAEConfig) -> Iterator[training.Log]:
    """Train from ``state.step`` to ``config.steps``; yield a ``Log`` after each step.

    A log has elbo, log_likelihood and kl: means over the batch, in nats.

    Raises:
        ValueError: the images do not fit the networks.
    """
    data.require_fit("the VAE", state.model.decoder.shape, state.model.decoder.classes, images)
    images = images.to(state.device)
    while state.step < config.steps:
        rng = step_rng(config.seed, state.step, state.device)  # all random numbers of this step
        real, labels = images.batch(config.batch_size, rng)  # (N, *shape), (N,)
        log = update(state, real, labels, config, rng)
        training.update_ema(state.average, state.model, config.ema)
        state.step += 1
        yield training.Log(state.step, log)


def update(
    state: VAEState, real: Tensor, labels: Tensor, config: VAEConfig, rng: torch.Generator
) -> dict[str, Tensor]:
    """Take one step of both networks on a batch; return its measurements by name."""
    parts = terms(state.model, real, labels, config, rng)
    loss = -parts.objective(config.beta).mean()
    state.optimiser.zero_grad()
    loss.backward()
    state.optimiser.step()
    log = {
        "elbo": parts.objective().mean(),
        "log_likelihood": parts.log_likelihood.mean(),
        "kl": parts.kl.sum(1).mean(),
    }
    return {name: value.detach() for name, value in log.items()}


@torch.no_grad()
def encode(
    model: VAE, images: Tensor, labels: Tensor | None = None, batch_size: int = 500
) -> Gaussian:
    """Return q(z | x), on the CPU, of images (N, C, H, W) in [-1, 1]; with classes, labels (N,).

    Raises:
        DataError: the images have another shape or range.
    """
    data.require_images(images, model.decoder.shape)
    device = next(model.parameters()).device
    inputs = (images,) if labels is None else (images, labels)
    batches = zip(*(x.split(batch_size) for x in inputs), strict=True)
    parts = [model.encode(*(x.to(device) for x in batch)) for batch in batches]
    means, log_variances = zip(*parts, strict=True)
    return Gaussian(torch.cat(means).cpu(), torch.cat(log_variances).cpu())


def sample_pixels(means: Tensor, config: VAEConfig, seed: int = 0) -> Tensor:
    """Return images sampled from p(x | z), on the CPU, for its means (N, C, H, W) in [-1, 1].

    ``means`` is what the decoder returns. Bernoulli pixels are -1 or 1; Gaussian ones are clipped.
    """
    means, rng = means.detach().cpu(), torch.Generator().manual_seed(seed)
    if config.likelihood == "bernoulli":
        return 2 * torch.bernoulli((means + 1) / 2, generator=rng) - 1
    return (means + config.std * torch.randn(means.shape, generator=rng)).clamp(-1, 1)


def greyness(images: Tensor) -> Tensor:
    """Return the mean of 1 - x² over the pixels of each image (N, C, H, W) in [-1, 1]: (N,).

    The variance of a black or white pixel with mean x: 0 for black and white, 1 for mid-grey. Blur
    raises it.
    """
    return (1 - images.square()).flatten(1).mean(dim=1)
