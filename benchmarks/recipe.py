"""From the article's recipe to the preset ``hinge``, rung by rung: FD in equal time.

First the speed of every recipe is measured, one after the other. Then each is trained, over several
seeds, for as many steps as fit into the budget at that speed, and its FD to the held-out digits is
measured on the way. So the result depends on the machine through the speeds alone, and not on what
else runs during the long second part, in which the runs go side by side. With the defaults it takes
about half an hour on two cores.
"""

import math
import statistics
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, fd_curve, steps_per_second, sweep
from tqdm import tqdm

from gan_tutorial import data, metrics, recipes, records, training

HINGE = replace(recipes.preset("hinge"), bf16=False)  # few processors gain from it
ARTICLE = recipes.preset("article")
CONVOLUTIONS = replace(ARTICLE, network="conv", latent_dim=64, batch_size=64)
SPECTRAL = replace(CONVOLUTIONS, spectral=True, objective="hinge")
RATES = replace(SPECTRAL, lr_G=HINGE.lr_G, lr_D=HINGE.lr_D, betas=HINGE.betas)
AVERAGE = replace(RATES, ema=HINGE.ema)
CUMULATIVE = {  # each keeps the changes of those before it
    "article's MLP": ARTICLE,
    "convolutions": CONVOLUTIONS,
    "spectral norm, hinge": SPECTRAL,
    "learning rates, no momentum": RATES,
    "average of G": AVERAGE,
    "larger batch": replace(AVERAGE, batch_size=HINGE.batch_size),
    "labels": HINGE,
}
VARIANTS = {  # of the last one
    "no spectral norm": replace(HINGE, spectral=False),
    "relativistic, R1 + R2": replace(
        HINGE, objective="relativistic", spectral=False, r1=1.0, r2=1.0, lr_G=2e-3, lr_D=2e-3
    ),
}
BOUNDS = (20, 10, 5)  # floors


def speed(recipe: recipes.Recipe, images: data.ImageSet, device: torch.device = DEVICE) -> float:
    """Return training steps per second."""
    logs = training.train(recipe.init(device), images, replace(recipe, steps=10**9))
    return steps_per_second(logs, "d_loss")


def run(recipe: recipes.Recipe, dataset: str, seed: int) -> list[tuple[int, float]]:
    """Train, and return (step, FD) on the way and at the end."""
    evaluator = metrics.Evaluator(dataset, DEVICE)
    return fd_curve(replace(recipe, seed=seed), data.load_images(dataset), evaluator, stops=8)


def seconds_to(
    fd: float, curves: list[list[tuple[int, float]]], steps_per_second: float
) -> float | None:
    """Return when FD first was ``fd`` or less, the runs' median; None if one did not reach it."""
    firsts = []
    for curve in curves:
        reached = [step for step, value in curve if value <= fd]
        firsts.append(min(reached, default=math.inf))
    return statistics.median(firsts) / steps_per_second if max(firsts) < math.inf else None


def main(
    seconds: Annotated[float, typer.Option(help="Training time of each run.")] = 40.0,
    seeds: Annotated[int, typer.Option(help="Runs of each recipe.", min=1)] = 5,
    dataset: Annotated[str, typer.Option("--data", help="digits or fashion.")] = "digits",
    out: Out = records.FOLDER / "recipe.json",
) -> None:
    """Measure, store the record and print a table."""
    images = data.load_images(dataset)
    measured, tasks = {}, {}
    for name, recipe in tqdm((CUMULATIVE | VARIANTS).items(), desc="speeds"):
        rate = speed(recipe, images)
        recipe = replace(recipe, steps=max(round(rate * seconds), 1))
        tasks[name] = {"recipe": recipe, "dataset": dataset}
        measured[name] = {
            "cumulative": name in CUMULATIVE,
            "recipe": asdict(recipe),
            "steps_per_second": rate,
        }
    floor = metrics.Evaluator(dataset, DEVICE).floor(2000).mean
    for name, curves in sweep(run, tasks, range(seeds), DEVICE).items():
        rate = measured[name]["steps_per_second"]
        times = {str(bound): seconds_to(bound * floor, curves, rate) for bound in BOUNDS}
        measured[name] |= {"seconds_to_floors": times, "runs": curves}
    record = {"data": dataset, "seconds": seconds, "floor": floor, "recipes": measured}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print FD in floors at the end, and the seconds until it first was 20, 10 and 5 floors."""
    print(records.source(record))
    print(f"{record['data']}, {record['seconds']:.0f} s; floor {record['floor']:.3f}")
    print(f"{'':36}{'steps':>6}{'median':>8}{'worst':>8}{'to 20':>8}{'to 10':>7}{'to 5':>7}")
    for name, measured in record["recipes"].items():
        ends = [curve[-1][1] / record["floor"] for curve in measured["runs"]]
        row = f"{name:36}{measured['recipe']['steps']:6}"
        row += f"{statistics.median(ends):8.1f}{max(ends):8.1f} "
        for seconds in measured["seconds_to_floors"].values():
            row += f"{'-' if seconds is None else round(seconds):>7}"
        print(row)


if __name__ == "__main__":
    typer.run(main)
