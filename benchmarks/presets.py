"""The preset ``quick``, judged on held-out images over ten seeds: every measure beside its floor.

On both bundled sets, digits and fashion, and once more without the minibatch standard deviation,
all else, but for D's initial weights, being equal. Scores are means over five draws of 2,000
samples, whose labels are those of training images drawn at random, as the images of a floor are.
The speed is measured first, with all threads and no other run beside it; the runs then go side by
side.
"""

from dataclasses import asdict, replace
from statistics import mean, median
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from recipe import speed

from gan_tutorial import data, metrics, recipes, records, sampling, training

COUNT, DRAWS = 2000, 5  # samples in a draw


def run(recipe: recipes.Recipe, dataset: str, seed: int) -> dict:
    """Train, and return the scores of samples, their floors and the shares of the classes."""
    recipe = replace(recipe, seed=seed)
    state, images = recipe.init(DEVICE), data.load_images(dataset)
    for _ in training.train(state, images, recipe):
        pass
    G, evaluator = sampling.recalibrate_batchnorm(state.G_ema), metrics.Evaluator(dataset, DEVICE)
    reports = []
    for draw in range(DRAWS):
        z, labels = sampling.latents(COUNT, G.latent_dim, draw), images.draw_labels(COUNT, draw)
        reports.append(evaluator.report(sampling.sample(G, z, labels)))
    return {
        "scores": {key: mean([r.scores[key] for r in reports]) for key in reports[0].scores},
        "floors": reports[0].floors,
        "shares": torch.stack([report.shares for report in reports]).mean(0).tolist(),
    }


def main(
    seeds: Annotated[int, typer.Option(help="Runs on each set.", min=1)] = 10,
    preset: Annotated[str, typer.Option(help="Which preset.")] = "quick",
    steps: Annotated[int | None, typer.Option(help="Steps, if not the preset's.")] = None,
    out: Out = records.FOLDER / "presets.json",
) -> None:
    """Measure, store the record and print a table."""
    recipe = recipes.preset(preset)
    recipe = replace(recipe, steps=steps or recipe.steps)
    seconds = recipe.steps / speed(recipe, data.load_images("digits"))
    arms = {"runs": recipe}
    if recipe.minibatch_std:
        arms["without_groups"] = replace(recipe, minibatch_std=0)
    tasks = {
        (arm, name): {"recipe": arms[arm], "dataset": name} for arm in arms for name in data.BUNDLED
    }
    results = sweep(run, tasks, range(seeds), DEVICE)
    record = {"preset": preset, "recipe": asdict(recipe), "seconds": seconds}
    record |= {arm: {name: results[arm, name] for name in data.BUNDLED} for arm in arms}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of every measure beside its floor, and the range of the shares."""
    print(records.source(record))
    print(f"{record['preset']}: {record['seconds']:.0f} s of training")
    show_runs(record["runs"])
    if "without_groups" in record:
        print("without the minibatch standard deviation")
        show_runs(record["without_groups"])


def show_runs(runs_of: dict[str, list[dict]]) -> None:
    """Print the part of the table for one recipe, by data set."""
    for name, runs in runs_of.items():
        floors = runs[0]["floors"]
        print(f"{name}, {len(runs)} seeds".ljust(26) + "   median      min      max    floor")
        print(row("FD in floors", [run["scores"]["fd"] / floors["fd"] for run in runs], 1.0))
        for key, floor in floors.items():
            print(row(key, [run["scores"][key] for run in runs], floor))
        shares = [share for run in runs for share in run["shares"]]
        print(f"  shares of the classes: {min(shares):.3f} to {max(shares):.3f}")


def row(name: str, values: list[float], floor: float) -> str:
    """Return one line of the table."""
    figures = (median(values), min(values), max(values), floor)
    return f"  {name:24}" + "".join(f"{figure:9.3f}" for figure in figures)


if __name__ == "__main__":
    typer.run(main)
