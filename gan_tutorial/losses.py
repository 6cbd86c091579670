"""The objectives of the two players, as pure functions on logits.

D(x) is a logit o, the discriminator's raw output; its verdict "real" has the probability σ(o) = 1 /
(1 + e^(-o)). Then -log σ(o) = softplus(-o) and -log(1 - σ(o)) = softplus(o), which neither overflow
nor take the logarithm of 0.

Every loss has the signature ``(real_logits, fake_logits) -> scalar`` and is to be minimised. It
sees both batches, because a relativistic loss compares them; logits may have any shape, and where a
loss pairs them, the same shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """What each player minimises.

    Attributes:
        d_loss: the discriminator's loss.
        g_loss: the generator's loss.
        pairs: whether g_loss looks at the real logits, which cost the loop one more pass of D.
    """

    d_loss: Loss
    g_loss: Loss
    pairs: bool = False


def cross_entropy_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-E log σ(D(x)) - E log(1 - σ(D(G(z)))), D's loss (Goodfellow et al. 2014, equation 1)."""
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def minimax_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E log(1 - σ(D(G(z)))), G's loss in the same game; it saturates where D is sure of fakes."""
    return -softplus(fake_logits).mean()


def non_saturating_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-E log σ(D(G(z))), G's loss in practice (Goodfellow et al. 2014, end of section 3)."""
    return softplus(-fake_logits).mean()


def least_squares_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """½ E (D(x) - 1)² + ½ E D(G(z))² (Mao et al. 2017, equation 9, with a = 0 and b = c = 1)."""
    return ((real_logits - 1).square().mean() + fake_logits.square().mean()) / 2


def least_squares_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """½ E (D(G(z)) - 1)² (Mao et al. 2017, equation 9)."""
    return (fake_logits - 1).square().mean() / 2


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))).

    Lim and Ye 2017; Miyato et al. 2018, equation 16.
    """
    return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


def wasserstein_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E D(G(z)) - E D(x), for a critic D kept 1-Lipschitz by other means.

    Arjovsky et al. 2017, equation 2.
    """
    return fake_logits.mean() - real_logits.mean()


def wasserstein_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-E D(G(z)), G's loss against a critic, or a discriminator trained with the hinge loss."""
    return -fake_logits.mean()


def relativistic_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E softplus(-(D(x) - D(G(z)))) over pairs.

    Jolicoeur-Martineau 2019; Huang et al. 2024, equation 2.
    """
    return softplus(-_gap(real_logits, fake_logits)).mean()


def relativistic_g(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E softplus(D(x) - D(G(z))) over pairs: the generator's side of the relativistic game."""
    return softplus(_gap(real_logits, fake_logits)).mean()


def _gap(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    assert real_logits.shape == fake_logits.shape, "a relativistic loss pairs the two batches"
    return real_logits - fake_logits


OBJECTIVES = {
    "minimax": Objective(cross_entropy_d, minimax_g),
    "non_saturating": Objective(cross_entropy_d, non_saturating_g),
    "least_squares": Objective(least_squares_d, least_squares_g),
    "hinge": Objective(hinge_d, wasserstein_g),
    "wasserstein": Objective(wasserstein_d, wasserstein_g),
    "relativistic": Objective(relativistic_d, relativistic_g, pairs=True),
}


def optimal_discriminator(p: Tensor, q: Tensor) -> Tensor:
    """Return σ(D*(x)) = p(x) / (p(x) + q(x)), the probability of "real" by the best D against q.

    Goodfellow et al. 2014, equation 2.

    Args:
        p, q: densities of real and of generated samples at the same points; where both are 0,
            the result is ½.
    """
    both = p + q
    return torch.where(both > 0, p / both, 0.5)


def jensen_shannon(p: Tensor, q: Tensor, spacing: float) -> Tensor:
    """Return the Jensen-Shannon divergence of two densities, in nats.

    By the trapezoidal rule: it lies in [0, log 2] up to rounding, which may leave it just below 0.

    Args:
        p, q: densities (N,) at evenly spaced points that hold nearly all of their mass.
        spacing: the distance between neighbouring points.
    """
    middle = (p + q) / 2
    terms = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(middle, middle)
    return torch.trapezoid(terms / 2, dx=spacing)
