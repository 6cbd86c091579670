"""Data made by formula, in which everything can be counted: Gaussians in the plane, and flowers."""

import math
from dataclasses import dataclass, fields, replace
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


PETALS = range(3, 9)  # numbers of petals
SIZES, BACKGROUNDS = (0.55, 0.95), (0.05, 0.95)  # ranges of the factors
NOTCH = 0.42  # where two petals meet, as a share of the flower's radius
PRIMARIES = torch.tensor([0.0, 120.0, 240.0]).deg2rad()  # hues of red, green and blue
PALE = 0.12  # chroma up to which a pixel counts as grey; petals have 0.24 to 0.38
MEAN_RADIUS = 0.6474  # of a flower's colour, as a share of its radius; see ``measure_flowers``


@dataclass(frozen=True)
class Flowers:
    """N flowers, each described by five numbers, its factors.

    Attributes:
        petals: int64 (N,), 3 to 8.
        hue: of the petals, float32 (N,) in [0, 360) degrees; 0 is red, 120 green, 240 blue.
        size: from the centre to the tip of a petal, float32 (N,), as a share of half the image's
            side: 0.55 to 0.95.
        background: its grey level, float32 (N,) from 0.05 to 0.95; 0 would be black, 1 white.
        angle: of the first petal, float32 (N,) in [0, 360 / petals) degrees, anticlockwise from the
            right.
    """

    petals: Tensor
    hue: Tensor
    size: Tensor
    background: Tensor
    angle: Tensor

    def __len__(self) -> int:
        return len(self.petals)

    def __getitem__(self, indices: Tensor | slice) -> Self:
        """Return the flowers at ``indices``."""
        return type(self)(*(getattr(self, field.name)[indices] for field in fields(self)))

    def draw(self, side: int, batch_size: int = 250) -> Tensor:
        """Return the flowers as images, uint8 (N, 3, side, side), with smooth edges."""
        parts = range(0, len(self), batch_size)
        return torch.cat([_draw(self[start : start + batch_size], side) for start in parts])


def flowers(count: int, seed: int = 0) -> Flowers:
    """Return ``count`` random flowers, whose factors are uniform.

    They are independent, except for the angle, whose range ends at 360° / petals. The first flowers
    of a seed depend on ``count`` too: draw all that you need at once.
    """
    rng = torch.Generator().manual_seed(seed)
    petals = torch.randint(PETALS.start, PETALS.stop, (count,), generator=rng)
    hue, size, background, angle = torch.rand(4, count, generator=rng)
    return Flowers(
        petals,
        360 * hue,
        torch.lerp(*torch.tensor(SIZES), size),
        torch.lerp(*torch.tensor(BACKGROUNDS), background),
        angle * 360 / petals,
    )


def measure_flowers(images: Tensor) -> Flowers:
    """Return the factors of images of flowers, drawn or generated, float (N, 3, S, S) in [-1, 1].

    Each by a formula, from the pixels with some colour. The hue is that of their sum. The size is
    their mean distance from the centre, divided by that of a flower of size 1. The background is
    the mean outside the circle that touches the image's sides. The number of petals is the angular
    frequency that is strongest beyond the notches, and the angle is its phase. Any image gets five
    numbers, with a size from 0.5 to 1; to see whether it is a flower at all, draw them and compare.
    """
    radius, theta = _polar(images.shape[-1])  # (S, S)
    levels = (images.detach().cpu() + 1) / 2
    primaries = torch.polar(torch.ones(3), PRIMARIES)  # on the complex unit circle
    colour = torch.einsum("nchw,c->nhw", levels.to(primaries), primaries) * 2 / 3
    colour = torch.where(colour.abs() > PALE, colour, 0)
    hue = colour.sum((1, 2)).angle()  # (N,)
    chroma = (colour * torch.polar(torch.ones_like(hue), -hue)[:, None, None]).real  # (N, S, S)
    size = (chroma * radius).sum((1, 2)) / chroma.sum((1, 2)) / MEAN_RADIUS
    size = size.nan_to_num(1.0).clamp(0.5, 1.0)  # a grey image has none
    outside = (radius / size[:, None, None] - NOTCH).clamp_min(0)
    petals = torch.tensor(PETALS)
    waves = torch.exp(1j * petals[:, None, None] * theta)  # (6, S, S)
    strengths = torch.einsum("nhw,khw->nk", (chroma * outside).to(waves), waves)  # (N, 6)
    best = strengths.abs().argmax(1)
    angle = strengths.gather(1, best[:, None])[:, 0].angle()
    background = levels.mean(1)[:, radius > 1].mean(1)
    angle = _degrees(angle) / petals[best]
    return Flowers(petals[best], _degrees(hue), size, background, angle)


def _degrees(radians: Tensor) -> Tensor:
    """Return angles in degrees, in [0, 360); in float32 -1e-6 % 360 is 360."""
    degrees = radians.rad2deg() % 360
    return torch.where(degrees < 360, degrees, 0)


def _polar(side: int) -> tuple[Tensor, Tensor]:
    """Return radius and angle of each pixel, (side, side): 1 is half a side, 0 is to the right."""
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    up, right = torch.meshgrid(-line, line, indexing="ij")
    return torch.hypot(up, right), torch.atan2(up, right)


def _draw(chosen: Flowers, side: int) -> Tensor:
    """Return a few flowers as images: every pixel is a grey level plus an amount of the hue.

    Seen from the centre, the petals reach to R = size · (NOTCH + (1 - NOTCH) · |cos(ψ / 2)|), where
    ψ makes one turn per petal. To first order the distance of a point from that edge is its
    excess radius divided by √(1 + (R' / radius)²). The petal fades over one pixel across the edge.
    """
    pixel = 2 / side
    petals, hue, size, background, angle = (
        getattr(chosen, field.name).float()[:, None, None] for field in fields(chosen)
    )
    radius, theta = _polar(side)  # (S, S)
    half_turn = petals * (theta - angle.deg2rad()) / 2  # (N, S, S): ψ / 2
    wave = half_turn.cos().abs()  # 1 on the axis of a petal, 0 between two
    share = radius / size  # 1 at the tips
    slope = (1 - NOTCH) * petals / 2 * half_turn.sin() / share.clamp_min(0.2)
    excess = (share - NOTCH - (1 - NOTCH) * wave) * size / (1 + slope**2).sqrt()
    petal = (0.5 - excess / pixel).clamp(0, 1)
    ring, heart = ((limit - share) * size / pixel + 0.5 for limit in (0.30, 0.20))

    outward = ((share - 0.2) / 0.8).clamp(0, 1)
    groove = (1 - wave) * outward.clamp_min(0.3)  # shade towards the next petal
    grey = torch.lerp(background, 0.30 + 0.26 * outward - 0.10 * groove, petal)
    grey = torch.lerp(grey, torch.tensor(0.93), ring.clamp(0, 1))
    grey = torch.lerp(grey, torch.tensor(0.12), heart.clamp(0, 1))
    chroma = (0.28 + 0.10 * outward - 0.04 * groove) * petal * (1 - ring.clamp(0, 1))
    primaries = (hue - PRIMARIES.rad2deg()).deg2rad().cos().movedim(-1, 1)[..., None]  # (N,3,1,1)
    colours = grey.unsqueeze(1) + chroma.unsqueeze(1) * primaries  # (N, 3, S, S)
    return (255 * colours.clamp(0, 1)).round().to(torch.uint8)
