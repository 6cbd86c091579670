"""Colour at every size: what a step costs, and how well a generator knows a formula for flowers.

First the pair of the preset ``flowers`` is built for sides from 16 to 128, its parameters are
counted and its steps are timed, with one thread on a CPU. Then the narrow pair of the chapter
learns flowers of 32×32 pixels, over several seeds; last the preset learns flowers of 64×64, as
``make_assets.py gan flowers`` does, and is judged on the way. 1,000 samples are judged by
``metrics.flower_report``, and so are real flowers in their place.
"""

import itertools
import statistics
import time
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep

from gan_tutorial import data, metrics, networks, recipes, records, sampling, training

FLOWERS = recipes.preset("flowers")
NARROW = replace(
    FLOWERS, shape=(3, 32, 32), width=8, steps=900, lr_G=4e-3, lr_D=4e-3, r1=1.0, r2=1.0, ema=0.99
)
SIDES = (16, 28, 32, 64, 96, 128)
COUNT = 1000  # samples that are judged


def cost(side: int) -> dict:
    """Return parameters of G and D, and the seconds of a step, for images of one side.

    On a CPU these are processor seconds, which other programs disturb little.
    """
    recipe = replace(FLOWERS, shape=(3, side, side), steps=9)
    state, images = recipe.init(DEVICE), data.make_flowers(200, side)[0]
    clock = time.perf_counter if DEVICE.type == "cuda" else time.process_time
    times = [clock()]
    for log in training.train(state, images, recipe):
        log["d_loss"]  # waits for the device
        times.append(clock())
    pace = min(after - before for before, after in itertools.pairwise(times[2:]))
    sizes = [networks.count_parameters(network) for network in (state.G, state.D)]
    return {"side": side, "parameters": sizes, "seconds": pace}


def judge(images: torch.Tensor, labels: torch.Tensor) -> dict:
    """Return the report on some flowers as plain values, with the median error."""
    report = metrics.flower_report(images, labels)
    return asdict(report) | {"error": report.error.median().item()}


def run(recipe: recipes.Recipe, every: int, seed: int) -> list[tuple[int, dict]]:
    """Train on 8,000 flowers; return (step, report) at steps ``every`` apart."""
    recipe = replace(recipe, seed=seed)
    images = data.load_images("flowers", size=recipe.shape[-1])
    state, curve = recipe.init(DEVICE), []
    for log in training.train(state, images, recipe):
        if log.step % every == 0 or log.step == recipe.steps:
            G = sampling.recalibrate_batchnorm(state.G_ema)
            samples = sampling.generate(G, COUNT, seed=1)
            curve.append((log.step, judge(samples, sampling.labels(G, COUNT))))
    return curve


def real(side: int) -> dict:
    """Return the report on as many real flowers that no generator learns from."""
    images, _ = data.make_flowers(COUNT, side, seed=2)
    return judge(images.images, images.labels)


def main(
    seeds: Annotated[int, typer.Option(help="Runs at 32×32.", min=1)] = 5,
    steps: Annotated[int | None, typer.Option(help="Steps of each run, if not its own.")] = None,
    out: Out = records.FOLDER / "flowers.json",
) -> None:
    """Measure, store the record and print a table."""
    torch.set_num_threads(1)
    costs = [cost(side) for side in SIDES]
    runs = {}
    for name, recipe, every, count in (("32", NARROW, 100, seeds), ("64", FLOWERS, 1000, 1)):
        recipe = replace(recipe, steps=steps or recipe.steps)
        tasks = {name: {"recipe": recipe, "every": every}}
        curves = sweep(run, tasks, range(count), DEVICE)[name]
        runs[name] = {"recipe": asdict(recipe), "curves": curves, "real": real(int(name))}
    show(records.save({"costs": costs, "runs": runs}, out, DEVICE))


def show(record: dict) -> None:
    """Print the costs, and the ends of the runs beside real flowers."""
    print(records.source(record))
    print(f"{'side':>5}{'G':>12}{'D':>12}{'ms a step':>12}")
    for row in record["costs"]:
        G, D = row["parameters"]
        print(f"{row['side']:5}{G:12,}{D:12,}{1000 * row['seconds']:12.0f}")
    print(f"{'':24}{'asked':>7}{'kinds':>7}{'error':>7}{'hue':>7}{'size':>7}{'backgr.':>8}")
    for side, trained in record["runs"].items():
        ends = [curve[-1][1] for curve in trained["curves"]]
        show_row(f"{side}×{side}, {len(ends)} seeds", ends)
        show_row("real flowers", [trained["real"]])


def show_row(name: str, reports: list[dict]) -> None:
    """Print the median of each measure as one line of the table."""
    columns = [(report["asked"], report["covered"], report["error"]) for report in reports]
    columns = [
        row + tuple(r["distances"].values()) for row, r in zip(columns, reports, strict=True)
    ]
    asked, kinds, error, *rest = map(statistics.median, zip(*columns, strict=True))
    print(f"{name:24}{asked:7.1%}{kinds:7.0f}{error:7.1f}" + "".join(f"{d:7.3f}" for d in rest))


if __name__ == "__main__":
    typer.run(main)
