"""Gradient penalties that keep the discriminator smooth.

Each has the signature ``(D, real, fake) -> scalar``, where D maps a batch to its logits (N,). Each
keeps the graph, so that the result can be added to the discriminator's loss. A penalty is a mean
over samples of a function of one sample's gradient, so D must not mix the samples of a batch: no
BatchNorm in D. With ``networks.Packed`` a sample is a pack. ``networks.MinibatchStd`` mixes the
samples of a group; the two norms below say what they then are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Discriminator = Callable[[Tensor], Tensor]


def squared_gradient_norm(D: Discriminator, points: Tensor) -> Tensor:
    """Return ‖∇D(x)‖² at each point x: (N,) for points (N, …).

    With ``networks.Packed`` x is a pack, so it is (N / pack,). If D mixes samples, as with
    ``networks.MinibatchStd``, the gradient at x is that of the sum of all logits.
    """
    points = points.detach().requires_grad_()
    logits = D(points)
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    return gradient.reshape(len(logits), -1).square().sum(1)


def r1(D: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
    """E ‖∇D(x)‖² at real samples; weighted by γ/2 (Mescheder et al. 2018, equation 9)."""
    return squared_gradient_norm(D, real).mean()


def r2(D: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
    """E ‖∇D(G(z))‖² at generated samples; weighted by γ/2 (Mescheder et al. 2018, equation 10)."""
    return squared_gradient_norm(D, fake).mean()


def approximate_gradient_norm(
    D: Discriminator,
    points: Tensor,
    logits: Tensor,
    scale: float,
    rng: torch.Generator | None = None,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Return ((D(x + sξ) - D(x)) / s)², with ξ from N(0, I), at each point x: (N,).

    Its mean over ξ tends to ‖∇D(x)‖² as s tends to 0; it takes one more pass of D instead of a
    second derivative. Lin et al. 2025 (arXiv 2501.08316) approximate R1 like this, with another
    factor; at generated samples it approximates R2. If D mixes the samples of a group, as with
    ``networks.MinibatchStd``, all of them move, and the mean tends to the squared norm of one
    logit's gradient with respect to the whole group. D must be the same in both passes: no dropout,
    and no spectral norm, whose power iteration changes the weights in each.

    Args:
        D: the discriminator.
        points: (N, …).
        logits: D(points), (N,), with their graph, and not in half precision.
        scale: s; with a larger one D is also smooth at a distance from the points.
        rng: of ξ.
        part: (k, n) for part k of a batch split across n processes, as for ``augment``.
    """
    k, n = part
    size = (n * len(points), *points.shape[1:])
    xi = torch.randn(size, generator=rng, device=points.device).chunk(n)[k]
    return ((D(points + scale * xi) - logits) / scale).square()


def gradient_penalty(
    D: Discriminator,
    real: Tensor,
    fake: Tensor,
    rng: torch.Generator | None = None,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """E (‖∇D(x̂)‖ - 1)² at points x̂ drawn uniformly between pairs; weighted by γ = 10.

    Gulrajani et al. 2017, equation 3.

    The small number under the root keeps its derivative finite where the gradient vanishes.
    ``part`` is (k, n) for part k of a batch split across n processes, as for ``augment``.
    """
    assert real.shape == fake.shape, "the penalty pairs the two batches"
    k, n = part
    size = (n * len(real), *[1] * (real.ndim - 1))
    t = torch.rand(size, generator=rng, device=real.device).chunk(n)[k]
    between = t * real.detach() + (1 - t) * fake.detach()
    return ((squared_gradient_norm(D, between) + 1e-12).sqrt() - 1).square().mean()
