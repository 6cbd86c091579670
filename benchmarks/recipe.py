"""From the article's recipe to the book's, rung by rung: how near each comes to real digits in equal time.

First the speed of every rung is measured, all in turn. Then each is trained, over several seeds, for as many steps as
fit into the budget at that speed, and its FD against the held-out digits is taken on the way. So the result depends on
the machine through the speeds alone, and not on what else runs during the long second part, in which the runs go side
by side. As it stands that part takes about half an hour on two cores.
"""

import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store
from tqdm import tqdm

from gan_tutorial import data, features, metrics, recipes, runtime, sampling

RESULTS = Path(__file__).parent / "results" / "recipe.json"
DEVICE = runtime.choose_device()
CHECKS = 8  # evaluations in a run

QUICK = recipes.preset("quick")
ARTICLE = recipes.preset("article")
CONVOLUTIONAL = ARTICLE.variant(kind="conv", latent_dim=64, batch_size=64)
SPECTRAL = CONVOLUTIONAL.variant(spectral=True, objective="hinge")
RATES = SPECTRAL.variant(**{name: getattr(QUICK.train, name) for name in ("lr_G", "lr_D", "betas")})
BATCH = RATES.variant(ema=QUICK.train.ema, batch_size=QUICK.train.batch_size, bf16=QUICK.train.bf16)
LADDER = {
    "article's MLP": ARTICLE,
    "convolutions": CONVOLUTIONAL,
    "spectral norm, hinge": SPECTRAL,
    "learning rates, no momentum": RATES,
    "average of G": RATES.variant(ema=QUICK.train.ema),
    "larger batch, bf16": BATCH,
    "labels: quick": QUICK,
}
BESIDE = {
    "quick, no spectral norm": QUICK.variant(spectral=False),
    "quick, relativistic with R1 + R2": QUICK.variant(
        objective="relativistic", spectral=False, r1=1.0, r2=1.0, lr_G=2e-3, lr_D=2e-3
    ),
}


def speed(recipe: recipes.Recipe, images: data.ImageSet, rounds: int = 3, seconds: float = 1.5) -> float:
    """Return steps per second, the median of some rounds."""
    logs = recipe.variant(steps=10**9).run(recipe.fresh(DEVICE), images)
    for _ in range(5):
        next(logs)
    rates = []
    for _ in range(rounds):
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            float(next(logs).d_loss)  # reading a number waits for the device
            steps += 1
        rates.append(steps / (time.perf_counter() - start))
    return statistics.median(rates)


def climb(recipe: recipes.Recipe, name: str) -> list[tuple[int, float]]:
    """Train and return (step, FD) on the way and at the end; FD is infinite for what is not a number."""
    train, test = (data.load_images(name, split).to(DEVICE) for split in data.SPLITS)
    classifier = features.load_classifier(name, DEVICE)
    held_out, _ = classifier.describe(test.images)
    state, curve = recipe.fresh(DEVICE), []
    z = sampling.latents(2000, recipe.network.latent_dim, seed=1)
    labels = torch.arange(2000).remainder(recipe.network.classes) if recipe.network.classes else None
    every = max(recipe.train.steps // CHECKS, 1)
    for log in recipe.run(state, train):
        if log.step % every == 0 or log.step == recipe.train.steps:
            described, _ = classifier.describe(sampling.sample(state.G_ema, z, labels))
            curve.append((log.step, metrics.frechet_distance(held_out, described)))
    return curve


def main(
    seconds: Annotated[float, typer.Option(help="Training time of each run.")] = 40.0,
    seeds: Annotated[int, typer.Option(help="Runs of each rung.")] = 5,
    name: Annotated[str, typer.Option("--data", help="digits or fashion.")] = "digits",
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    train, test = (data.load_images(name, split).to(DEVICE) for split in data.SPLITS)
    classifier = features.load_classifier(name, DEVICE)
    held_out, _ = classifier.describe(test.images)
    floor = metrics.frechet_distance(held_out, classifier.describe(train.subset(slice(len(test))).images)[0])
    rungs = LADDER | BESIDE
    speeds = {rung: speed(recipe, train) for rung, recipe in tqdm(rungs.items(), desc="speeds")}
    steps = {rung: round(speeds[rung] * seconds) for rung in rungs}
    tasks = [(recipe.variant(seed=s, steps=steps[rung]), name) for rung, recipe in rungs.items() for s in range(seeds)]
    curves = iter(each(climb, tasks, DEVICE))
    results = [
        {"name": rung, "ladder": rung in LADDER, "recipe": asdict(recipe), "steps_per_second": speeds[rung]}
        | {"steps": steps[rung], "runs": [next(curves) for _ in range(seeds)]}
        for rung, recipe in rungs.items()
    ]
    record = runtime.origin(DEVICE) | {"data": name, "seconds": seconds, "floor": floor, "rungs": results}
    store(record, out)
    show(record)


def show(record: dict) -> None:
    """Print FD in floors at the end of the budget, and the seconds in which it first fell to 20, 10 and 5 floors."""
    print(f"{record['data']}, {record['seconds']:.0f} s, floor {record['floor']:.3f}; {record['machine']}")
    print(f"{'rung':48}{'steps':>7}{'median':>8}{'worst':>8}{'to 20':>8}{'to 10':>7}{'to 5':>7}")
    for rung in record["rungs"]:
        ends = [run[-1][1] / record["floor"] for run in rung["runs"]]
        times = []
        for bound in (20, 10, 5):
            first = [next((s for s, fd in run if fd <= bound * record["floor"]), None) for run in rung["runs"]]
            reached = all(step is not None for step in first)
            times.append(f"{statistics.median(first) / rung['steps_per_second']:.0f}" if reached else "-")
        print(
            f"{rung['name']:48}{rung['steps']:7}{statistics.median(ends):8.1f}{max(ends):8.1f}"
            f"{times[0]:>8}{times[1]:>7}{times[2]:>7}"
        )


if __name__ == "__main__":
    typer.run(main)
