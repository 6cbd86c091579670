"""Whole recipes by name: which networks, which objective, and how to train them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch

from gan_tutorial import losses, networks, training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that is decided before training.

    Attributes:
        network: the pair of networks.
        objective: the name of its losses, one of ``losses.OBJECTIVES``.
        train: the settings of the loop.
    """

    network: networks.NetworkConfig = field(default_factory=networks.NetworkConfig)
    objective: str = "hinge"
    train: training.TrainConfig = field(default_factory=training.TrainConfig)

    def __post_init__(self) -> None:
        losses.objective(self.objective)

    def variant(self, **changes: object) -> Self:
        """Return the recipe with some settings changed: of the networks, of the loop, or the objective.

        Raises:
            ValueError: no setting has that name, or a value does not fit.
        """
        homes = {f.name: home for home in ("network", "train") for f in fields(getattr(self, home))}
        unknown = changes.keys() - homes.keys() - {"objective"}
        if unknown:
            known = ", ".join(["objective", *homes])
            raise ValueError(f"a recipe has no setting {', '.join(sorted(unknown))}; it has {known}")
        parts = {
            home: replace(getattr(self, home), **{k: v for k, v in changes.items() if homes.get(k) == home})
            for home in ("network", "train")
        }
        return replace(self, **parts, objective=changes.get("objective", self.objective))

    def fresh(self, device: str | torch.device = "cpu") -> training.TrainState:
        """Return the state before the first step: weights drawn by the recipe's seed, on ``device``."""
        with torch.random.fork_rng():
            torch.manual_seed(self.train.seed)
            return training.TrainState.fresh(*self.network.build(), self.train, device)

    def run(self, state: training.TrainState, data: training.Data) -> Iterator[training.Log]:
        """Train ``state`` to the recipe's last step: ``training.train`` with the recipe's objective and settings."""
        return training.train(state, data, losses.objective(self.objective), self.train)


MINUTE = training.TrainConfig(steps=1700, batch_size=128, lr_G=4e-3, lr_D=2e-3, betas=(0.0, 0.99), ema=0.99, bf16=True)
PRESETS = {
    "quick": Recipe(network=networks.NetworkConfig(classes=10), train=MINUTE),
    "best": Recipe(network=networks.NetworkConfig(width=32, classes=10), train=replace(MINUTE, steps=6000, ema=0.998)),
    "article": Recipe(
        network=networks.NetworkConfig(kind="mlp", latent_dim=100, spectral=False),
        objective="non_saturating",
        train=training.TrainConfig(batch_size=128, lr_G=2e-4, lr_D=2e-4, betas=(0.5, 0.999), ema=0.0),
    ),
}
PLANE = Recipe(
    network=networks.NetworkConfig(kind="mlp", shape=(2,), latent_dim=2, hidden=(128, 128, 128), spectral=False),
    objective="non_saturating",
    train=training.TrainConfig(steps=12_000, batch_size=128, lr_G=1.5e-3, lr_D=7e-4, ema=0.99),
)


def preset(name: str) -> Recipe:
    """Return the recipe for images called ``name``.

    ``quick`` takes about a minute on two cores and ``best`` five, both for 28×28 or 32×32 images in ten classes (else
    ``variant(classes=…)``; 0 for none); ``article`` is the pair and the settings of the article that this book began
    with. For mixtures of Gaussians there is ``PLANE``.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, but is {name!r}")
    return PRESETS[name]
