"""Stacked digits, 1,000 modes: PacGAN's networks with the methods of the book, and our own pair.

The first two tables have the networks of Lin et al. 2018, table 3, which Metz et al. 2017 chose to
be small: the convolutions of D have a quarter or a half of the channels of G's. The published rows
stand beside ours. The last table is the package's own pair, ``quick`` and, seven times as long,
``best``, both without labels and without a minibatch standard deviation (``stacked_groups.py`` has
``quick`` with it), in batches of 64; with 32, ``quick`` was worse, with one seed.

In the rows DCGAN and PacGAN, these are as in the code of Lin et al., github.com/fjxmlzn/PacGAN:
layers, 256 numbers in z, BatchNorm in D on real and generated samples separately, initial weights,
losses, Adam's settings, 25,600 samples. These differ:

- They train for 500,000 steps, and report 50 seeds (± standard errors).
- Their batch has 128 packs, ours 32.
- They draw from the 60,000 training images of MNIST, we from 8,000; both draw anew in every step.
- Their classifier is different. Ours is wrong on one real stack in 42; the row "real stacks"
  shows what that and the number of samples cost.
- Their KL is from equal shares of the modes: our column "uniform". The column "KL" is from the
  products of the digits' shares, as the data have them.
- They sample with the statistics of the batch, we with those of 5,000 samples.
- The BatchNorm of their G sees each part of the packs separately, that of ours all samples at once.
- An odd pixel of padding lies on the other side in TensorFlow's convolutions.

The other rows have no BatchNorm in D, PyTorch's initial weights, packs of 1, the settings of
``METHODS``, and an average of G's weights. Learning rates and the weights of the penalties were
chosen on other seeds; learning rates that fall to 0 were worse there, with one seed.

Seconds are processor time, which depends little on what else the machine does.
"""

import statistics
import time
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from torch import Tensor, nn

from gan_tutorial import data, metrics, networks, recipes, records, runtime, sampling, training

BATCH = 32  # packs in a step
SIZES = {"a quarter": 2, "a half": 4}  # channels of D's first layer
PUBLISHED = {  # Lin et al. 2018, table 3: modes and KL, each ± the standard error where it is given
    "a quarter": {
        "DCGAN": ("78.5 ± 17.6", "5.21"),
        "PacGAN 2": ("484.5", "2.61"),
        "PacGAN 3": ("601.3", "2.00"),
        "PacGAN 4": ("667.4 ± 29.0", "1.81"),
    },
    "a half": {
        "DCGAN": ("487.7 ± 34.6", "2.24"),
        "PacGAN 2": ("840.7", "1.00"),
        "PacGAN 3": ("866.6 ± 12.1", "0.90"),
        "PacGAN 4": ("820.2", "1.15"),
    },
}
DCGAN = training.TrainConfig(
    objective="non_saturating",
    lr_G=1e-4,
    lr_D=2e-4,
    betas=(0.5, 0.99),
    ema=0.0,
)
BOOK = replace(DCGAN, lr_G=5e-4, lr_D=5e-3, betas=(0.0, 0.99), ema=0.998)
METHODS = {
    "DCGAN": {"config": DCGAN, "norm": "batch"},
    "PacGAN 3": {"config": DCGAN, "norm": "batch", "pack": 3},
    "hinge, spectral norm": {"config": replace(BOOK, objective="hinge"), "norm": "spectral"},
    "non-saturating, R1": {"config": replace(BOOK, r1=0.1)},
    "relativistic, R1 + R2": {"config": replace(BOOK, objective="relativistic", r1=0.1, r2=0.1)},
}
STACKS = {"classes": 0, "shape": (3, 28, 28), "batch_size": 64, "minibatch_std": 0}
PAIRS = {  # about one minute and eight minutes on two cores
    "quick, no groups": replace(recipes.preset("quick"), steps=3200, **STACKS),
    "best, no groups": replace(recipes.preset("best"), steps=12_000, **STACKS),
}


class SmallGenerator(networks.Generator):
    """G of Lin et al. 2018, table 3: 4 × 4 × 64 numbers, 3 transposed convolutions, 1 plain."""

    def __init__(self) -> None:
        super().__init__(256, (3, 28, 28))
        self.layers = nn.Sequential(
            nn.Linear(256, 1024),
            nn.Unflatten(1, (64, 4, 4)),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1),  # (N, 32, 7, 7)
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),  # 14 × 14
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),  # 28 × 28
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 3, 3, padding=1),
            nn.Tanh(),
        )


class SmallDiscriminator(networks.Discriminator):
    """D of Lin et al. 2018, table 3: three convolutions, and a linear layer.

    Args:
        width: channels of the first convolution; twice as many in each of the others.
        pack: stacks in a pack; their channels are concatenated.
        norm: ``batch``, ``spectral``, or nothing.
    """

    def __init__(self, width: int, pack: int = 1, norm: str = "") -> None:
        super().__init__((pack, 3, 28, 28), 64 * width)
        self.layers = nn.Sequential(nn.Flatten(1, -3))  # (N, 3 · pack, 28, 28)
        channels = 3 * pack
        for outputs in (width, 2 * width, 4 * width):
            self.layers.append(nn.Conv2d(channels, outputs, 3, stride=2, padding=1))
            if norm == "batch":
                self.layers.append(nn.BatchNorm2d(outputs))
            self.layers.append(nn.LeakyReLU(0.3))
            channels = outputs
        self.layers.append(nn.Flatten())  # (N, 4 · width · 4 · 4)
        if norm == "spectral":
            networks.add_spectral_norm(self)

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (N,) for packs (N, pack, 3, 28, 28)."""
        parts = samples.split(BATCH)  # BatchNorm sees real and generated packs separately
        return torch.cat([super(SmallDiscriminator, self).forward(part) for part in parts])


def configure(method: str, steps: int) -> training.TrainConfig:
    """Return how a method trains the small networks."""
    settings = METHODS[method]
    batch_size = BATCH * settings.get("pack", 1)
    return replace(settings["config"], steps=steps, batch_size=batch_size)


def run_small(
    width: int,
    config: training.TrainConfig,
    samples: int,
    seed: int,
    pack: int = 1,
    norm: str = "",
) -> dict:
    """Train the small networks; return modes, divergences and seconds."""
    config = replace(config, seed=seed)
    with runtime.seeded(seed):
        G, D = SmallGenerator(), SmallDiscriminator(width, pack, norm)
        if norm == "batch":
            networks.initialise(G)
            networks.initialise(D)
    state = training.TrainState.init(G, networks.Packed(D), config, DEVICE)
    return measure(state, config, samples)


def run_pair(recipe: recipes.Recipe, samples: int, seed: int) -> dict:
    """Train the package's own pair; return modes, divergences and seconds."""
    recipe = replace(recipe, seed=seed)
    return measure(recipe.init(DEVICE), recipe, samples)


def measure(state: training.TrainState, config: training.TrainConfig, samples: int) -> dict:
    """Train; return the report of the averaged generator's samples, and the training's seconds."""
    stacks, start = data.StackedDigits(data.load_images("digits")), time.process_time()
    for _ in training.train(state, stacks, config):
        pass
    seconds = round(time.process_time() - start)
    G = sampling.recalibrate_batchnorm(state.G_ema)  # an average has no statistics of its own
    report = metrics.StackEvaluator(DEVICE).report(sampling.generate(G, samples, seed=1))
    return asdict(report) | {"seconds": seconds}


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each row.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Steps of the small networks.", min=1)] = 4000,
    share: Annotated[float, typer.Option(help="Share of our own pair's steps, to try it.")] = 1.0,
    samples: Annotated[int, typer.Option(help="Stacks to judge in each run.")] = 25_600,
    out: Out = records.FOLDER / "stacked.json",
) -> None:
    """Measure, store the record and print the tables."""
    torch.set_num_threads(1)  # as in the runs, so that the record says so
    small = {}
    for size, width in SIZES.items():
        for method, settings in METHODS.items():
            changes = {"width": width, "config": configure(method, steps)}
            small[size, method] = settings | changes | {"samples": samples}
    own = {}
    for name, recipe in PAIRS.items():
        recipe = replace(recipe, steps=round(share * recipe.steps))
        own[name] = {"recipe": recipe, "samples": samples}
    seeds = range(first_seed, first_seed + seeds)
    tables = {size: {} for size in SIZES}
    for (size, method), runs in sweep(run_small, small, seeds, DEVICE).items():
        tables[size][method] = runs
    tables["our own pair"] = sweep(run_pair, own, seeds, DEVICE)
    evaluator = metrics.StackEvaluator(DEVICE)
    record = {
        "methods": {name: asdict(configure(name, steps)) for name in METHODS},
        "pairs": {name: asdict(settings["recipe"]) for name, settings in own.items()},
        "steps": steps,
        "seeds": list(seeds),
        "classifier_error": evaluator.classifier_error,
        "floor": asdict(evaluator.floor(samples)),
        "published": PUBLISHED,
        "tables": tables,
    }
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the means over the seeds ± standard errors, beside the published ones."""
    print(records.source(record))
    floor, error = record["floor"], record["classifier_error"]
    print(f"{len(record['seeds'])} seeds, {floor['count']} samples; the small networks: ", end="")
    print(f"{record['steps']} steps; the classifier is wrong in {error:.1%} of real stacks")
    print(" " * 24 + "        modes          KL     uniform  seconds  published modes, KL")
    print(f"{'real stacks':24}{floor['modes']:13}{floor['kl']:12.3f}{floor['kl_uniform']:12.3f}")
    for name, rows in record["tables"].items():
        print(f"D with {name} of G's channels" if name in SIZES else name)
        for method, runs in rows.items():
            cells = [spread(runs, "modes", 1), spread(runs, "kl", 3), spread(runs, "kl_uniform", 3)]
            seconds = statistics.median(run["seconds"] for run in runs)
            modes, kl = record["published"].get(name, {}).get(method, ("", ""))
            print(f"  {method:22}" + "".join(f"{cell:>15}" for cell in cells), end="")
            print(f"{seconds:7.0f}   {modes:14}{kl}")


def spread(runs: list[dict], key: str, digits: int) -> str:
    """Return the mean over the runs ± its standard error."""
    values = [run[key] for run in runs]
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"
    return text


if __name__ == "__main__":
    typer.run(main)
