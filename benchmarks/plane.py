"""Modes in the plane: every objective with every regulariser on the ring and the grid.

The table has the networks of the preset ``plane``, equal and constant learning rates, smaller
batches and fewer steps. Then the preset itself is trained on both, from seeds that had no part in
its choice (which used 200 to 207, 300 to 306 and 400 to 404, all on the grid). All figures are for
10,000 samples of the averaged generator. Reverse KL is that of the high-quality
samples' shares of the modes from equal shares, in nats, as in the code of Lin et al. 2018; without
a sample of high quality there is none. Seconds are processor time, which depends little on what
else the machine does. With the defaults this takes about an hour on two cores.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated

import typer
from _sweep import DEVICE, Out, sweep

from gan_tutorial import losses, metrics, mixtures, recipes, records, sampling, training

MIXTURES = {"ring": mixtures.ring(), "grid": mixtures.grid()}
REGULARISERS = {
    "none": {},
    "R1": {"r1": 0.1},
    "R1 + R2": {"r1": 0.1, "r2": 0.1},
    "spectral norm": {"spectral": True},
    "WGAN-GP": {"gp": 10.0},
    "packs of 2": {"pack": 2},
    "packs of 4": {"pack": 4},
}
PLANE = recipes.preset("plane")
TABLE = replace(
    PLANE,
    objective="non_saturating",
    batch_size=64,
    lr_G=1e-3,
    lr_D=1e-3,
    lr_end=1.0,
    betas=(0.0, 0.99),
    r1=0.0,
    penalty_noise=0.0,
)
FIRST = 1000  # the first seed of the preset's runs


def run(mixture: str, recipe: recipes.Recipe, seed: int, pack: int = 1, **changes) -> dict:
    """Train with a D that judges ``pack`` points at a time; return modes, quality and seconds."""
    mixture, recipe = MIXTURES[mixture], replace(recipe, seed=seed, **changes)
    state = recipes.init_packed(recipe, pack, DEVICE) if pack > 1 else recipe.init(DEVICE)
    start = time.process_time()
    try:
        for _ in training.stop_on_nan(training.train(state, mixture, recipe), state):
            pass
        report = metrics.mode_report(sampling.generate(state.G_ema, 10_000, seed=1), mixture)
        result = {"modes": report.covered, "high_quality": round(report.high_quality, 4)}
        result["reverse_kl"] = round(report.reverse_kl, 4) if report.covered else None
    except training.DivergedError:
        result = {"modes": 0, "high_quality": 0.0, "reverse_kl": None, "diverged": state.step}
    return result | {"seconds": round(time.process_time() - start, 1)}


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each cell of the table.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each of these runs.", min=1)] = 1000,
    ring_seeds: Annotated[int, typer.Option(help="Runs of the preset on the ring.", min=1)] = 10,
    grid_seeds: Annotated[int, typer.Option(help="Runs of the preset on the grid.", min=1)] = 100,
    plane_steps: Annotated[int, typer.Option(help="Steps of the preset.", min=1)] = PLANE.steps,
    out: Out = records.FOLDER / "plane.json",
) -> None:
    """Measure, store the record and print the tables."""
    recipe = replace(TABLE, steps=steps)
    tasks = {}
    for mixture in MIXTURES:
        for objective in losses.OBJECTIVES:
            for name, regulariser in REGULARISERS.items():
                changes = {"objective": objective} | regulariser
                tasks[mixture, objective, name] = {"mixture": mixture, "recipe": recipe} | changes
    table = []
    for (mixture, objective, name), runs in sweep(run, tasks, range(seeds), DEVICE).items():
        cell = {"mixture": mixture, "objective": objective, "regulariser": name, "runs": runs}
        table.append(cell)
    plane = replace(PLANE, steps=plane_steps)
    runs = {}
    for mixture, count in (("ring", ring_seeds), ("grid", grid_seeds)):
        tasks = {mixture: {"mixture": mixture, "recipe": plane}}
        runs |= sweep(run, tasks, range(FIRST, FIRST + count), DEVICE)
    record = {"recipe": asdict(recipe), "table": table}
    record |= {"preset": asdict(plane), "first_seed": FIRST, "plane": runs}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the means over the seeds, and in brackets the fewest modes."""
    print(records.source(record))
    for name, mixture in MIXTURES.items():
        cells = [cell for cell in record["table"] if cell["mixture"] == name]
        seeds, steps = len(cells[0]["runs"]), record["recipe"]["steps"]
        print(f"{name}: modes of {len(mixture.centres)} (fewest), high quality, ", end="")
        print(f"reverse KL; {seeds} seeds, {steps} steps")
        print(" " * 14 + "".join(f"{regulariser:>20}" for regulariser in REGULARISERS))
        for objective in losses.OBJECTIVES:
            row = [summary(cell["runs"]) for cell in cells if cell["objective"] == objective]
            print(f"{objective:14}" + "".join(f"{text:>20}" for text in row))
    for name, runs in record["plane"].items():
        complete = sum(run["modes"] == len(MIXTURES[name].centres) for run in runs)
        quality = [run["high_quality"] for run in runs]
        seconds = statistics.median(run["seconds"] for run in runs)
        print(f"preset plane, {name}: all modes in {complete} of {len(runs)} seeds; ", end="")
        print(f"high quality {min(quality):.3f} to {max(quality):.3f}, ", end="")
        print(f"median {statistics.median(quality):.3f}; ", end="")
        print(f"reverse KL, median {reverse_kl(runs, statistics.median)}; {seconds:.0f} s")


def summary(runs: list[dict]) -> str:
    """Return one cell of the printed table."""
    modes = [run["modes"] for run in runs]
    quality = statistics.mean(run["high_quality"] for run in runs)
    divergence = reverse_kl(runs, statistics.mean)
    return f"{statistics.mean(modes):.1f} ({min(modes)}) {quality:.2f} {divergence}"


def reverse_kl(runs: list[dict], middle: Callable[[list[float]], float]) -> str:
    """Return the mean or median over the runs that have any sample of high quality."""
    values = [run["reverse_kl"] for run in runs if run["reverse_kl"] is not None]
    return f"{middle(values):.3f}" if values else "-"


if __name__ == "__main__":
    typer.run(main)
