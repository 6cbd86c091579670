"""Which recipe? Hinge or relativistic, with or without groups: chosen on a validation split.

The held-out images must not choose. So the presets ``hinge`` and ``quick`` learn the training
images, digits and fashion, without the last 2,000, and are compared by their FD to those. Between
them stands ``quick`` without its minibatch standard deviation: this was tuned, on validation
images, and the standard deviation added after trials with the same images and seeds. ``hinge`` kept
the settings that it had. All three take about the same time without bfloat16; the record has their
speeds.
"""

import statistics
from dataclasses import asdict, replace
from typing import Annotated

import typer
from _sweep import DEVICE, Out, fd_curve, sweep
from recipe import HINGE, speed

from gan_tutorial import data, metrics, recipes, records

QUICK = recipes.preset("quick")
VARIANTS = {
    "hinge, spectral norm": HINGE,
    "relativistic, R1 + R2": replace(QUICK, minibatch_std=0),
    "+ minibatch std": QUICK,
}


def split(dataset: str, kept: int = 2000) -> tuple[data.ImageSet, metrics.Evaluator]:
    """Return the training images without the last ones, and an evaluator that has these."""
    images = data.load_images(dataset)
    train, validation = images.subset(slice(-kept)), images.subset(slice(-kept, None))
    return train, metrics.Evaluator(dataset, DEVICE, train=train, held_out=validation)


def run(recipe: recipes.Recipe, dataset: str, seed: int) -> list[tuple[int, float]]:
    """Train, and return (step, FD to the validation split) on the way."""
    train, evaluator = split(dataset)
    return fd_curve(replace(recipe, seed=seed), train, evaluator, stops=10)


def main(
    seeds: Annotated[int, typer.Option(help="Runs of a variant on each set.", min=1)] = 5,
    share: Annotated[float, typer.Option(help="Share of the steps, for a trial run.")] = 1.0,
    out: Out = records.FOLDER / "choice.json",
) -> None:
    """Measure, store the record and print a table."""
    images = data.load_images("digits")
    rates = {variant: speed(recipe, images) for variant, recipe in VARIANTS.items()}
    tasks = {}
    for dataset in data.BUNDLED:
        for variant, recipe in VARIANTS.items():
            recipe = replace(recipe, steps=round(share * recipe.steps))
            tasks[dataset, variant] = {"recipe": recipe, "dataset": dataset}
    runs = []
    for (dataset, variant), curves in sweep(run, tasks, range(seeds), DEVICE).items():
        runs.append({"data": dataset, "variant": variant, "curves": curves})
    floors = {dataset: split(dataset)[1].floor(2000).mean for dataset in data.BUNDLED}
    variants = {name: asdict(recipe) for name, recipe in VARIANTS.items()}
    record = {"variants": variants, "steps_per_second": rates, "floors": floors, "runs": runs}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print steps per second, and the median and range of FD in floors at the end."""
    print(records.source(record))
    for name, rate in record["steps_per_second"].items():
        print(f"{name}: {rate:.1f} steps/s")
    print(f"{'FD in floors':36}{'median':>8}{'min':>8}{'max':>8}")
    for run in record["runs"]:
        ends = [curve[-1][1] / record["floors"][run["data"]] for curve in run["curves"]]
        name = f"{run['data']}, {run['variant']}"
        print(f"{name:36}{statistics.median(ends):8.1f}{min(ends):8.1f}{max(ends):8.1f}")


if __name__ == "__main__":
    typer.run(main)
