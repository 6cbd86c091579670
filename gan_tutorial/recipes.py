"""Named recipes: the networks, the objective and the settings of the loop."""

import dataclasses
from dataclasses import dataclass

import torch

from gan_tutorial import checks, networks, runtime, training


@dataclass(frozen=True, kw_only=True)
class Recipe(training.TrainConfig):
    """Everything that is decided before training; ``dataclasses.replace`` makes variants.

    Attributes:
        network: kind of the networks, ``mlp`` or ``conv``.
        shape: shape of one sample.
        latent_dim: size of z.
        width: channels of the convolutional pair at half the image's side.
        hidden: sizes of the hidden layers of the MLP pair, in G's order; D has them in reverse.
        classes: number of classes; 0 for unconditional networks.
        spectral: whether D's layers are spectrally normalised.
        minibatch_std: number of samples in a group whose standard deviation the convolutional D
            sees (``networks.MinibatchStd``), a divisor of the batch size; 0 for none. An MLP has
            no groups.
    """

    network: str = "conv"
    shape: tuple[int, ...] = (1, 28, 28)
    latent_dim: int = 64
    width: int = 24
    hidden: tuple[int, ...] = networks.ARTICLE
    classes: int = 0
    spectral: bool = True
    minibatch_std: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_choice("network", self.network, networks.NETWORKS)
        for name in ("shape", "hidden"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {"latent_dim": self.latent_dim, "width": self.width, "classes": self.classes}
        for name, value in sizes.items():
            checks.require_integer(name, value, least=0 if name == "classes" else 1)
        for size in (*self.shape, *self.hidden):
            checks.require_integer("each number of shape and hidden", size, least=1)
        checks.require_integer("minibatch_std", self.minibatch_std, least=0)
        if self.minibatch_std == 1:
            raise ValueError("minibatch_std must be 0 or at least 2: one sample does not vary")
        group = self.minibatch_std if self.network == "conv" else 0
        if group and self.batch_size % group:
            given = f"a multiple of minibatch_std, {group}, but is {self.batch_size}"
            near = max(self.batch_size // group, 1) * group
            raise ValueError(f"batch_size must be {given}; use {near}, or minibatch_std 0")

    def build(self) -> tuple[networks.Generator, networks.Discriminator]:
        """Return new networks (G, D), with weights from PyTorch's global random generator."""
        if self.network == "mlp":
            G = networks.MLPGenerator(self.latent_dim, self.shape, self.hidden, self.classes)
            D = networks.MLPDiscriminator(
                self.shape, self.hidden[::-1], self.classes, self.spectral
            )
        else:
            G = networks.ConvGenerator(self.latent_dim, self.shape, self.width, self.classes)
            D = networks.ConvDiscriminator(
                self.shape, self.width, self.classes, self.spectral, self.minibatch_std
            )
        return G, D

    def init(self, device: str | torch.device = "cpu") -> training.TrainState:
        """Return the state before the first step, with weights that depend on the seed alone.

        Raises:
            ValueError: spectral norm would spoil the finite differences of ``penalty_noise``.
        """
        if self.spectral and self.penalty_noise and (self.r1 or self.r2):
            raise ValueError(training.CHANGING)
        with runtime.seeded(self.seed):
            G, D = self.build()
        return training.TrainState.init(G, D, self, device)


QUICK = Recipe(
    objective="relativistic",
    width=16,
    classes=10,
    spectral=False,
    steps=2200,
    batch_size=128,
    lr_G=6e-3,
    lr_D=4e-3,
    lr_end=0.2,
    r1=0.2,
    r2=0.2,
    penalty_noise=0.1,
    ema=0.99,
    minibatch_std=8,
)
HINGE = Recipe(
    objective="hinge",
    width=24,
    classes=10,
    spectral=True,
    steps=1700,
    batch_size=128,
    lr_G=4e-3,
    lr_D=2e-3,
    ema=0.99,
    bf16=True,
)
PRESETS = {
    "quick": QUICK,
    "best": dataclasses.replace(
        QUICK, width=24, steps=6000, lr_G=4e-3, lr_D=2.6e-3, ema=0.998, minibatch_std=0
    ),
    "hinge": HINGE,
    "article": Recipe(
        network="mlp",
        latent_dim=100,
        spectral=False,
        objective="non_saturating",
        batch_size=128,
        lr_G=2e-4,
        lr_D=2e-4,
        betas=(0.5, 0.999),
        ema=0.0,
    ),
    "flowers": Recipe(
        shape=(3, 64, 64),
        latent_dim=16,
        width=12,
        classes=6,
        spectral=False,
        objective="relativistic",
        steps=8000,
        batch_size=32,
        lr_G=2e-3,
        lr_D=2e-3,
        r1=3.0,
        r2=3.0,
        ema=0.999,
        bf16=True,
    ),
    "plane": Recipe(
        network="mlp",
        shape=(2,),
        latent_dim=2,
        hidden=(128, 128, 128),
        spectral=False,
        objective="least_squares",
        steps=12_000,
        batch_size=128,
        lr_G=4e-3,
        lr_D=7e-4,
        lr_end=0.0,
        betas=(0.0, 0.9),
        r1=0.01,
        penalty_noise=0.01,
        ema=0.99,
    ),
}


def preset(name: str) -> Recipe:
    """Return the recipe called ``name``.

    ``quick`` takes about two minutes on two cores and ``best`` about ten, both for images in ten
    classes (else ``dataclasses.replace(recipe, classes=…)``, 0 for none). ``quick`` alone has a
    minibatch standard deviation. ``hinge`` takes as long
    as ``quick``, and has the hinge loss and spectral norm. ``article`` has the networks and the
    settings of the article that this book began with; ``flowers`` is for colour at 64×64, and
    ``plane`` for mixtures of Gaussians.

    Raises:
        ValueError: there is no such recipe.
    """
    checks.require_choice("preset", name, PRESETS)
    return PRESETS[name]


def init_packed(
    recipe: Recipe, pack: int, device: str | torch.device = "cpu"
) -> training.TrainState:
    """Return ``recipe.init``'s state, with an MLP for D that judges ``pack`` samples at a time.

    PacGAN (Lin et al. 2018, section 3).

    Raises:
        ValueError: ``pack`` does not divide the batch size, or the recipe has classes, which this D
            would not see.
    """
    checks.require_integer("pack", pack, least=1)
    if recipe.batch_size % pack:
        raise ValueError(f"pack must divide batch_size, {recipe.batch_size}, but is {pack}")
    if recipe.classes:
        raise ValueError(f"a packed D sees no labels; set classes to 0, not {recipe.classes}")
    with runtime.seeded(recipe.seed):
        shape = (pack, *recipe.shape)
        D = networks.MLPDiscriminator(shape, recipe.hidden[::-1], spectral=recipe.spectral)
    return training.TrainState.init(recipe.init().G, networks.Packed(D), recipe, device)
