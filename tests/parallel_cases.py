"""Short runs, made alike by one process and by two: ``torchrun --nproc-per-node 2 tests/parallel_cases.py FILE``."""

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gan_tutorial import data, losses, networks, parallel, training

SMALL = networks.NetworkConfig(shape=(1, 8, 8), width=4, latent_dim=8, spectral=False)
MLP = replace(SMALL, kind="mlp", hidden=(16, 16))
CONFIG = training.TrainConfig(steps=20, batch_size=16, lr_G=1e-3, lr_D=1e-3, betas=(0.5, 0.99))


@dataclass(frozen=True)
class Case:
    """One run: its networks, its losses, its settings, and whether D has BatchNorm, or judges packs.

    ``idle``: a bias has no gradient but that of rounding errors, since its effects on real and generated logits cancel
    or BatchNorm takes it out. Adam makes full steps of it all the same, so in float32 no two programs agree on it.
    """

    pair: networks.NetworkConfig = MLP
    objective: str = "non_saturating"
    config: training.TrainConfig = CONFIG
    batchnorm_in_d: bool = False
    pack: int = 0
    idle: bool = False


CASES = {
    "mlp": Case(),
    "batchnorm": Case(SMALL),
    "spectral norm": Case(replace(SMALL, spectral=True)),
    "R1": Case(SMALL, config=replace(CONFIG, r1=0.5)),
    "R1 and R2, all at once": Case(replace(SMALL, classes=4, spectral=True), config=replace(CONFIG, r1=0.5, r2=0.5)),
    "conditional": Case(replace(SMALL, classes=4), "least_squares"),
    "augmented": Case(SMALL, config=replace(CONFIG, augment=("colour", "translation", "cutout"))),
    "packed": Case(pack=4),
    "hinge": Case(replace(SMALL, spectral=True), "hinge", idle=True),
    "relativistic": Case(MLP, "relativistic", replace(CONFIG, r1=0.5, r2=0.5), idle=True),
    "WGAN-GP": Case(SMALL, "wasserstein", replace(CONFIG, gp=10.0), idle=True),
    "BatchNorm in D, under a penalty": Case(config=replace(CONFIG, r1=0.1), pair=SMALL, batchnorm_in_d=True, idle=True),
}
FLOAT32 = [name for name, case in CASES.items() if not case.idle]


@dataclass(frozen=True)
class Noise:
    """Pictures of noise, in the default dtype, four classes."""

    pictures: data.ImageSet

    shape = (1, 8, 8)

    def to(self, device: torch.device) -> "Noise":
        return self

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = self.pictures.batch(count, rng)
        return images.to(torch.get_default_dtype()), labels


def pictures() -> Noise:
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Noise(data.ImageSet(pixels, torch.arange(40) % 4, ("a", "b", "c", "d"), "noise"))


def fresh(case: Case) -> training.TrainState:
    torch.manual_seed(0)
    G, D = case.pair.build()
    if case.batchnorm_in_d:
        D.layers.insert(1, nn.BatchNorm2d(case.pair.width))
    if case.pack:
        D = networks.Packed(networks.MLPDiscriminator((case.pack, *case.pair.shape), case.pair.hidden))
    return training.TrainState.fresh(G, D, case.config)


def run(case: Case, ranks: parallel.Ranks, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return all weights and statistics after the case's steps, and the losses on the way."""
    torch.set_default_dtype(dtype)
    try:
        state, logs = fresh(case), []
        with parallel.joined(state, case.config, ranks):
            for log in training.train(state, pictures(), losses.objective(case.objective), case.config):
                logs.append([log.d_loss, log.g_loss, log.real_logit, log.fake_logit])
        named = {
            f"{part}.{key}": x for part in ("G", "D", "G_ema") for key, x in getattr(state, part).state_dict().items()
        }
        return named | {"logs": torch.tensor(logs)}
    finally:
        torch.set_default_dtype(torch.float32)


def begin_differently(ranks: parallel.Ranks, change: str) -> str:
    """Return what a rank is told that begins with another step, other weights or other settings than rank 0."""
    state, settings = fresh(CASES["mlp"]), {"seed": ranks.rank if change == "settings" else 0}
    if change == "step":
        state.step = ranks.rank
    if change == "weights" and ranks.rank:
        next(state.D.parameters()).data.add_(1e-3)
    try:
        with parallel.joined(state, CONFIG, ranks, settings):
            return "joined"
    except ValueError as error:
        return str(error)


def main(path: str) -> None:
    ranks = parallel.Ranks.from_environment()
    torch.distributed.init_process_group("gloo")
    found = {name: run(case, ranks) for name, case in CASES.items()}
    found["float32"] = {name: run(CASES[name], ranks, torch.float32) for name in FLOAT32}
    found["refused"] = {change: begin_differently(ranks, change) for change in ("step", "weights", "settings")}
    found["any"] = [ranks.any(ranks.rank == 1), ranks.any(False)]
    torch.save(found, f"{path}.{ranks.rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
