"""With spectral norm or without? A setting of the preset ``quick``, chosen on a validation split.

The held-out images must not choose. So both variants learn the training images, digits and fashion,
without the last 2,000, for as many steps as the preset has, and are compared by their FD to those.
"""

import statistics
from dataclasses import replace
from typing import Annotated

import typer
from _sweep import DEVICE, Out, fd_curve, sweep

from gan_tutorial import data, metrics, recipes, records

QUICK = recipes.preset("quick")
VARIANTS = {"spectral norm": QUICK, "no spectral norm": replace(QUICK, spectral=False)}


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
    steps: Annotated[int, typer.Option(help="Steps of each run.", min=1)] = QUICK.steps,
    out: Out = records.FOLDER / "choice.json",
) -> None:
    """Measure, store the record and print a table."""
    tasks = {}
    for dataset in data.BUNDLED:
        for variant, recipe in VARIANTS.items():
            tasks[dataset, variant] = {"recipe": replace(recipe, steps=steps), "dataset": dataset}
    runs = []
    for (dataset, variant), curves in sweep(run, tasks, range(seeds), DEVICE).items():
        runs.append({"data": dataset, "variant": variant, "curves": curves})
    floors = {dataset: split(dataset)[1].floor(2000).mean for dataset in data.BUNDLED}
    show(records.save({"floors": floors, "runs": runs}, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of FD in floors at the end."""
    print(records.source(record))
    print(f"{'FD in floors':32}{'median':>8}{'least':>8}{'most':>8}")
    for run in record["runs"]:
        ends = [curve[-1][1] / record["floors"][run["data"]] for curve in run["curves"]]
        name = f"{run['data']}, {run['variant']}"
        print(f"{name:32}{statistics.median(ends):8.1f}{min(ends):8.1f}{max(ends):8.1f}")


if __name__ == "__main__":
    typer.run(main)
