"""What a generator has learned: shape measurements, latent directions, single units, inversion."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from tqdm import tqdm

from gan_tutorial import data, networks, sampling


def slant(images: Tensor) -> Tensor:
    """Return the slant (N,) of grey images (N, 1, H, W) in [-1, 1].

    Pixels to the right per pixel up, so that a positive slant leans to the right, like italics.

    Raises:
        DataError: the images have another shape or range.
    """
    _, across_up, up = _moments(images)
    return across_up / up


def width(images: Tensor) -> Tensor:
    """Return the width (N,) of grey images (N, 1, H, W) in [-1, 1], in pixels.

    The horizontal standard deviation of the ink, after the slant is undone.

    Raises:
        DataError: the images have another shape or range.
    """
    across, across_up, up = _moments(images)
    return (across - across_up**2 / up).clamp_min(0).sqrt()


def thickness(images: Tensor) -> Tensor:
    """Return the mean stroke thickness (N,) of grey images (N, 1, H, W) in [-1, 1], in pixels.

    2 · area / perimeter. The perimeter is the sum of the lengths of all gradients, which for ink
    with soft edges is the length of the edges.

    Raises:
        DataError: the images have another shape or range.
    """
    ink = _ink(images)
    padded = pad(ink, (1, 1, 1, 1))
    across, down = padded.diff(dim=2)[:, :-1], padded.diff(dim=1)[:, :, :-1]
    perimeter = (across**2 + down**2 + 1e-12).sqrt().sum((1, 2))  # sqrt has no gradient at 0
    return 2 * ink.sum((1, 2)) / perimeter


def _ink(images: Tensor) -> Tensor:
    """Return the ink (N, H, W) in [0, 1] of grey images."""
    data.require_images(images, (1, *images.shape[2:]))
    ink = (images.mean(dim=1) + 1) / 2
    assert (ink.sum((1, 2)) > 0.01).all(), "an image has no ink, so it has no shape to measure"
    return ink


def _moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the second central moments of the ink, each (N,), in pixels²: aa, ar, rr.

    a is the distance to the right of the mean, r the distance above it.
    """
    ink = _ink(images)
    ink = ink / ink.sum((1, 2), keepdim=True)
    up, across = (torch.arange(size, dtype=ink.dtype, device=ink.device) for size in ink.shape[1:])
    rows, columns = ink.sum(2), ink.sum(1)
    several = (rows > 0).sum(1) > 1
    assert several.all(), "an image has ink in one row alone, so its slant is not defined"
    up = (rows @ up).unsqueeze(1) - up  # (N, H); the first row of an image is at the top
    across = across - (columns @ across).unsqueeze(1)  # (N, W)
    return (
        (columns * across**2).sum(1),
        torch.einsum("nhw,nh,nw->n", ink, up, across),
        (rows * up**2).sum(1),
    )


def centred(values: Tensor, labels: Tensor) -> Tensor:
    """Return values (N, …) minus the mean of their class, for labels (N,)."""
    result = values.clone()
    for label in labels.unique():
        result[labels == label] -= values[labels == label].mean(dim=0)
    return result


def sefa(G: networks.Generator, count: int | None = None) -> Tensor:
    """Return unit vectors (count, latent_dim) in z that change G's first layer most, on the CPU.

    SeFa (Shen and Zhou 2021): the right singular vectors of the columns of the first weight matrix
    that multiply z, largest singular value first. There may be fewer than ``count``. The sign is
    arbitrary: the largest component of each vector is made positive.
    """
    weight = G.layers[0].weight.detach().cpu().double()[:, : G.latent_dim]
    return _fix_signs(torch.linalg.svd(weight, full_matrices=False).Vh[:count]).float()


def ganspace(z: Tensor, activations: Tensor, count: int) -> Tensor:
    """Return unit vectors (count, F) in z that follow the principal components of activations.

    GANSpace (Härkönen et al. 2020), as for BigGAN: each vector is the least-squares fit of z to the
    coordinate along one component.

    Args:
        z: (N, F) from N(0, 1).
        activations: (N, …) of a layer for these z; of a conditional G, ``centred`` by class.
    """
    flat = activations.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    eigenvectors = torch.linalg.eigh(flat @ flat.T).eigenvectors  # (N, N), the largest last
    coordinates = eigenvectors.flip(1)[:, :count]
    return _fix_signs(normalize(coordinates.T @ z.double(), dim=1)).float()


def _fix_signs(vectors: Tensor) -> Tensor:
    return vectors * vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()


class Probe(NamedTuple):
    """A linear prediction of a property from z: ``z @ slope + intercept``."""

    slope: Tensor
    intercept: Tensor

    @property
    def direction(self) -> Tensor:
        """The unit vector (F,) along which the prediction grows fastest."""
        return normalize(self.slope, dim=0)

    def r2(self, z: Tensor, values: Tensor) -> float:
        """Return R² of values (N,): the share of their variance that is explained.

        Negative if the mean of the values would be the better prediction.
        """
        assert values.shape == (len(z),), f"values must be ({len(z)},), not {tuple(values.shape)}"
        residual = values - z.to(self.slope) @ self.slope - self.intercept
        return 1 - (residual.square().mean() / values.var(correction=0)).item()


def probe(z: Tensor, values: Tensor) -> Probe:
    """Return the least-squares fit of values (N,) to latent vectors (N, F)."""
    assert len(z) > z.shape[1] + 1, "a probe needs more samples than coefficients"
    inputs = torch.cat([z, torch.ones_like(z[:, :1])], dim=1).double()
    solution = torch.linalg.lstsq(inputs, values.double().unsqueeze(1)).solution.squeeze(1).to(z)
    return Probe(solution[:-1], solution[-1])


def walk(z: Tensor, direction: Tensor, steps: Sequence[float]) -> Tensor:
    """Return z (N, F) moved along ``direction`` (F,) by each of ``steps``: (len(steps), N, F)."""
    return z + torch.as_tensor(steps).to(z)[:, None, None] * direction.to(z)


@contextlib.contextmanager
def ablate(layer: nn.Module, units: Sequence[int]) -> Iterator[None]:
    """Set channels of the output (N, C, …) of ``layer`` to 0 inside the block (Bau et al. 2019)."""

    def zero(_layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, list(units)] = 0
        return output

    handle = layer.register_forward_hook(zero)
    try:
        yield
    finally:
        handle.remove()


class Inversion(NamedTuple):
    """The best z of each image (N, latent_dim), and the mean squared errors (N, starts)."""

    z: Tensor
    errors: Tensor


def invert(
    G: networks.Generator,
    images: Tensor,
    labels: Tensor | None = None,
    starts: int = 4,
    steps: int = 200,
    seed: int = 0,
) -> Inversion:
    """Search, by Adam, for the z whose sample has the least mean squared error to each image.

    By optimisation alone, without an encoder to start from (Zhu et al. 2016, section 3.1). The
    result is on the CPU.

    Args:
        G: the generator; its weights do not change.
        images: (N, *G.shape) in [-1, 1].
        labels: (N,) if G is conditional.
        starts: how many random initial z for each image.
        steps: of Adam, with a learning rate that falls from 0.1 to 0 along a cosine.

    Raises:
        DataError: the images have another shape or range.
    """
    data.require_images(images, G.shape)
    device = next(G.parameters()).device
    z = sampling.latents(len(images) * starts, G.latent_dim, seed).to(device).requires_grad_()
    target = images.to(device).repeat_interleave(starts, dim=0)  # (N · starts, *shape)
    if labels is not None:
        labels = labels.to(device).repeat_interleave(starts)
    optimiser = torch.optim.Adam([z], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def errors() -> Tensor:
        return (G(z, labels) - target).square().flatten(1).mean(dim=1)  # (N · starts,)

    with sampling.evaluating(G):
        for _ in tqdm(range(steps), desc="inversion"):
            z.grad = torch.autograd.grad(errors().sum(), z)[0]  # not the gradients of G's weights
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            final = errors().unflatten(0, (-1, starts)).cpu()
    found = z.detach().cpu().unflatten(0, (-1, starts))
    return Inversion(found[torch.arange(len(found)), final.argmin(dim=1)], final)
