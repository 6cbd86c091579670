"""Few images: what differentiable augmentation changes, over the number of images and the training, and a warm start.

A narrow pair is trained on the first 100 or 500 training digits, with nothing done to what D sees, with translations,
and with all of DiffAugment. On the way stand FD against the held-out digits, in floors, and how far D's mean logit of
its training images lies above that of held-out ones: what D knows by heart. Then the large pair learns the 100 digits
from nothing and from the weights that draw clothes.
"""

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store

from gan_tutorial import augment, checkpoints, data, features, metrics, recipes, runtime, sampling, training

RESULTS = Path(__file__).parent / "results" / "small.json"
DEVICE = runtime.choose_device()
POLICIES = {"none": (), "translation": ("translation",), "all of DiffAugment": augment.POLICY}
COUNTS = (100, 500)
NARROW = recipes.preset("quick").variant(classes=0, width=16, batch_size=32)
LARGE = recipes.preset("best").variant(batch_size=32, steps=300, ema=0.98)
WAYS = {  # begin with the weights that draw clothes? layers of D that stay; augmentation
    "from nothing": (False, 0, ()),
    "warm start": (True, 0, ()),
    "warm start, freeze-D": (True, 3, ()),
    "warm start, freeze-D, shifts": (True, 3, ("translation",)),
}


def judge(state: training.TrainState, few: data.ImageSet) -> tuple[float, float]:
    """Return FD of 2,000 samples in floors, and D's mean logit on ``few`` minus that on held-out images."""
    train, test = (data.load_images("digits", split).to(DEVICE) for split in data.SPLITS)
    classifier = features.load_classifier("digits", DEVICE)
    real, stand_in = (classifier.describe(images)[0] for images in (test.images, train.subset(slice(len(test))).images))
    z, labels = sampling.latents(2000, state.G.latent_dim, seed=2), None
    if state.G.classes:
        labels = torch.arange(2000) % state.G.classes
    described, _ = classifier.describe(sampling.sample(state.G_ema, z, labels).to(DEVICE))
    fd = metrics.frechet_distance(real, described) / metrics.frechet_distance(real, stand_in)
    new = test.subset(slice(500))
    with torch.no_grad():
        gap = state.D(few.images, few.labels).mean() - state.D(new.images, new.labels).mean()
    return fd, gap.item()


def run(count: int, policy: tuple[str, ...], seed: int, steps: int) -> list[tuple[int, float, float]]:
    """Train on ``count`` images; return (step, FD in floors, gap of D) four times on the way."""
    few = data.load_images("digits").to(DEVICE).subset(slice(count))
    recipe = NARROW.variant(augment=policy, seed=seed, steps=steps)
    state, curve = recipe.fresh(DEVICE), []
    for log in recipe.run(state, few):
        if log.step % (steps // 4) == 0:
            curve.append((log.step, *judge(state, few)))
    return curve


def tune(warm: bool, frozen: int, policy: tuple[str, ...], seed: int) -> tuple[float, float]:
    """Train the large pair on 100 images; return FD in floors and the gap of D."""
    few = data.load_images("digits").to(DEVICE).subset(slice(100))
    recipe = LARGE.variant(augment=policy, seed=seed)
    state = recipe.fresh(DEVICE)
    if warm:
        checkpoints.warm_start(state, checkpoints.bundled("fashion"))
    state.D.layers[:frozen].requires_grad_(False)
    for _ in recipe.run(state, few):
        pass
    return judge(state, few)


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 2000,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    record = runtime.origin(DEVICE) | {"steps": steps, "runs": []}
    print(f"{'':42}{'FD in floors, median and range':>30}{'gap of D':>10}")
    kinds = [(count, name) for count in COUNTS for name in POLICIES]
    curves = each(run, [(count, POLICIES[name], s, steps) for count, name in kinds for s in range(seeds)], DEVICE)
    for i, (count, name) in enumerate(kinds):
        own = curves[i * seeds : (i + 1) * seeds]
        record["runs"].append({"images": count, "augmentation": name, "curves": own})
        show(f"{count} images, {name}", [curve[-1][1:] for curve in own])
    ends = each(tune, [(*way, s) for way in WAYS.values() for s in range(seeds)], DEVICE)
    record["ways"] = {name: ends[i * seeds : (i + 1) * seeds] for i, name in enumerate(WAYS)}
    for name, runs in record["ways"].items():
        show(f"100 images, {name}", runs)
    store(record, out)


def show(name: str, runs: list[tuple[float, float]]) -> None:
    """Print one row of the table."""
    fds, gaps = zip(*runs, strict=True)
    print(f"{name:42}{statistics.median(fds):14.1f}{min(fds):8.1f}{max(fds):8.1f}{statistics.median(gaps):10.2f}")


if __name__ == "__main__":
    typer.run(main)
