"""Few images: what differentiable augmentation changes, and what a warm start does.

A narrow pair learns the first 100 or 500 training digits, with no augmentation, with translations,
and with all of DiffAugment. On the way two numbers are measured: FD to the held-out digits, and the
memorisation gap, D's mean logit of its training images minus that of held-out ones. Then the large
pair learns the 100 digits, from new weights and from those of the pair that generates clothes.
"""

import statistics
from dataclasses import replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep

from gan_tutorial import augment, checkpoints, data, metrics, recipes, records, sampling, training

POLICIES = {"none": (), "translation": ("translation",), "all of DiffAugment": augment.POLICY}
COUNTS = (100, 500)
NARROW = replace(recipes.preset("hinge"), classes=0, width=16, batch_size=32)
LARGE = replace(recipes.preset("best"), batch_size=32, steps=300, ema=0.98)
SHIFTED = replace(LARGE, augment=("translation",))
STARTS = {  # ``frozen`` counts layers of D, of which every other is a convolution
    "from scratch": {"recipe": LARGE},
    "warm start": {"recipe": LARGE, "start": "fashion"},
    "warm start, freeze-D": {"recipe": LARGE, "start": "fashion", "frozen": 3},
    "warm start, freeze-D, shifts": {"recipe": SHIFTED, "start": "fashion", "frozen": 3},
}


def run(
    recipe: recipes.Recipe,
    seed: int,
    count: int = 100,
    stops: int = 1,
    start: str | None = None,
    frozen: int = 0,
) -> list[tuple[int, float, float]]:
    """Train on ``count`` digits; return (step, FD of 2,000 samples, gap) at ``stops`` steps."""
    recipe = replace(recipe, seed=seed)
    evaluator = metrics.Evaluator("digits", DEVICE)
    few = data.load_images("digits").subset(slice(count)).to(DEVICE)
    new = data.load_images("digits", "test").subset(slice(500)).to(DEVICE)
    state, curve = recipe.init(DEVICE), []
    if start:
        checkpoints.warm_start(state, checkpoints.find(start))
    state.D.layers[:frozen].requires_grad_(False)
    for log in training.train(state, few, recipe):
        if log.step % (recipe.steps // stops) == 0:
            G = sampling.recalibrate_batchnorm(state.G_ema)
            fd = evaluator.fd(sampling.generate(G, 2000, seed=2))
            curve.append((log.step, fd, mean_logit(state.D, few) - mean_logit(state.D, new)))
    return curve


@torch.no_grad()
def mean_logit(D: torch.nn.Module, images: data.ImageSet) -> float:
    """Return the mean logit of all images."""
    return D(images.images, images.labels).mean().item()


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Steps of the narrow pair.", min=4)] = 2000,
    out: Out = records.FOLDER / "small.json",
) -> None:
    """Measure, store the record and print a table."""
    tasks = {}
    for count in COUNTS:
        for name, policy in POLICIES.items():
            recipe = replace(NARROW, augment=policy, steps=steps)
            tasks[count, name] = {"recipe": recipe, "count": count, "stops": 4}
    runs = []
    for (count, name), curves in sweep(run, tasks, range(seeds), DEVICE).items():
        runs.append({"images": count, "augmentation": name, "curves": curves})
    starts = sweep(run, STARTS, range(seeds), DEVICE)
    floor = metrics.Evaluator("digits", DEVICE).floor(2000).mean
    record = {"steps": steps, "floor": floor, "runs": runs, "starts": starts}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of FD in floors at the end, and the median gap."""
    print(records.source(record))
    print(f"{'FD in floors':40}{'median':>8}{'min':>8}{'max':>8}{'gap of D':>10}")
    for run in record["runs"]:
        print(row(f"{run['images']} images, {run['augmentation']}", run["curves"], record["floor"]))
    for name, curves in record["starts"].items():
        print(row(f"100 images, {name}", curves, record["floor"]))


def row(name: str, curves: list[list[tuple[int, float, float]]], floor: float) -> str:
    """Return one line of the table."""
    ends = [curve[-1] for curve in curves]
    fds = [fd / floor for _, fd, _ in ends]
    gap = statistics.median(gap for _, _, gap in ends)
    return f"{name:40}{statistics.median(fds):8.1f}{min(fds):8.1f}{max(fds):8.1f}{gap:10.2f}"


if __name__ == "__main__":
    typer.run(main)
