"""Mixtures of Gaussians in the plane: data whose every mode can be counted."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """An equal mixture of isotropic Gaussians in the plane: the smallest data with modes to lose.

    Attributes:
        centres: float32 (K, 2).
        std: standard deviation of every component, in both directions.
    """

    centres: Tensor
    std: float

    @property
    def shape(self) -> tuple[int]:
        """The shape (2,) of one point."""
        return (2,)

    def to(self, device: str | torch.device) -> Self:
        """Return the mixture with its centres on ``device``."""
        return replace(self, centres=self.centres.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` points: float32 (count, 2), and the component of each, int64 (count,)."""
        modes = torch.randint(len(self.centres), (count,), generator=rng, device=rng.device)
        noise = torch.randn(count, 2, generator=rng, device=rng.device)
        return self.centres[modes] + self.std * noise, modes


def ring(modes: int = 8, radius: float = 1.0, std: float = 0.01) -> Mixture:
    """Return Gaussians on a circle, by default as in PacGAN (Lin et al. 2018, section 4.1)."""
    angles = torch.arange(modes) * (2 * math.pi / modes)
    return Mixture(radius * torch.stack([angles.cos(), angles.sin()], dim=1), std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """Return a square grid of Gaussians, by default as in PacGAN (Lin et al. 2018, section 4.1)."""
    line = (torch.arange(side) - (side - 1) / 2) * spacing
    return Mixture(torch.cartesian_prod(line, line), std)
