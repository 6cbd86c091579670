"""Short runs for one process or several: torchrun --nproc-per-node 2 distributed_cases.py FILE."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gan_tutorial import augment, data, networks, recipes, training
from gan_tutorial.ship import distributed

CONV = recipes.Recipe(
    shape=(1, 8, 8),
    width=4,
    latent_dim=8,
    spectral=False,
    objective="non_saturating",
    steps=20,
    batch_size=16,
    lr_G=1e-3,
    lr_D=1e-3,
    betas=(0.5, 0.99),
)
MLP = replace(CONV, network="mlp", hidden=(16, 16))


@dataclass(frozen=True)
class Case:
    """One run: its recipe, and whether D has BatchNorm or sees packs.

    ``idle``: the gradient of some bias is only rounding errors, since its effects on real and
    generated logits cancel, or BatchNorm removes it. Adam takes full steps of it all the same, so
    in float32 no two programs agree on it.
    """

    recipe: recipes.Recipe = MLP
    batchnorm_in_d: bool = False
    pack: int = 0
    idle: bool = False


CASES = {
    "mlp": Case(),
    "batchnorm": Case(CONV),
    "spectral norm": Case(replace(CONV, spectral=True)),
    "R1": Case(replace(CONV, r1=0.5)),
    "R1 and R2, all at once": Case(replace(CONV, classes=4, spectral=True, r1=0.5, r2=0.5)),
    "conditional": Case(replace(CONV, classes=4, objective="least_squares")),
    "augmented": Case(replace(CONV, augment=augment.POLICY)),
    "packed": Case(pack=4),
    "groups": Case(replace(CONV, minibatch_std=4, r1=0.5, r2=0.5, penalty_noise=0.1)),
    "hinge": Case(replace(CONV, spectral=True, objective="hinge"), idle=True),
    "relativistic": Case(replace(MLP, objective="relativistic", r1=0.5, r2=0.5), idle=True),
    "WGAN-GP": Case(replace(CONV, objective="wasserstein", gp=10.0), idle=True),
    "BatchNorm in D, under a penalty": Case(replace(CONV, r1=0.1), batchnorm_in_d=True, idle=True),
}
FLOAT32 = [name for name, case in CASES.items() if not case.idle]
SENSITIVE = "R1 and R2, all at once"  # here, too, the smallest gradients are mostly rounding


@dataclass(frozen=True)
class Noise:
    """Images of noise in four classes, in the default dtype."""

    images: data.ImageSet

    shape = (1, 8, 8)

    def to(self, device: torch.device) -> "Noise":
        return self

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = self.images.batch(count, rng)
        return images.to(torch.get_default_dtype()), labels


def noise() -> Noise:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=rng).to(torch.uint8)
    return Noise(data.ImageSet(pixels, torch.arange(40) % 4, ("a", "b", "c", "d"), "noise"))


def init(case: Case) -> training.TrainState:
    torch.manual_seed(0)
    G, D = case.recipe.build()
    if case.batchnorm_in_d:
        D.layers.insert(1, nn.BatchNorm2d(case.recipe.width))
    if case.pack:
        shape = (case.pack, *case.recipe.shape)
        D = networks.Packed(networks.MLPDiscriminator(shape, case.recipe.hidden))
    return training.TrainState.init(G, D, case.recipe)


def named(state: training.TrainState) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights and statistics of the three networks by name."""
    for part in ("G", "D", "G_ema"):
        for key, value in getattr(state, part).state_dict().items():
            yield f"{part}.{key}", value


def run(
    case: Case, ranks: distributed.Ranks, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Return weights and statistics after the case's steps, and the logs of all steps."""
    torch.set_default_dtype(dtype)
    try:
        state = init(case)
        logs = [
            torch.stack(list(log.tensors.values()))
            for log in distributed.train(state, noise(), case.recipe, ranks)
        ]
        return dict(named(state)) | {"logs": torch.stack(logs)}
    finally:
        torch.set_default_dtype(torch.float32)


def start_differently(ranks: distributed.Ranks, change: str) -> str:
    """Return the message if rank 1 starts with another step, weights or settings than rank 0."""
    state, settings = init(CASES["mlp"]), {"seed": ranks.rank if change == "settings" else 0}
    if change == "step":
        state.step = ranks.rank
    if change == "weights" and ranks.rank:
        next(state.D.parameters()).data.add_(1e-3)
    try:
        distributed.check_same_start(ranks, distributed.fingerprint(state, settings))
    except ValueError as error:
        return str(error)
    return "the same start"


def main(path: str) -> None:
    ranks = distributed.Ranks.from_environment()
    with distributed.process_group(ranks, init(CASES["mlp"]), MLP):
        found = {name: run(case, ranks) for name, case in CASES.items()}
        found["float32"] = {name: run(CASES[name], ranks, torch.float32) for name in FLOAT32}
        changes = ("step", "weights", "settings")
        found["refused"] = {change: start_differently(ranks, change) for change in changes}
        found["any"] = [ranks.any(ranks.rank == 1), ranks.any(False)]
    torch.save(found, f"{path}.{ranks.rank}")


if __name__ == "__main__":
    main(sys.argv[1])
