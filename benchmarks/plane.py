"""Modes in the plane: every objective with every regulariser on the ring and the grid, and a preset that solves both.

The table has the networks of ``recipes.PLANE``, equal rates, smaller batches and fewer steps; then PLANE itself runs as
it is. All figures come from 10,000 samples of the averaged generator. Every run has one thread, as networks so small
only wait for a second; the seconds are those of the processor, which the load of the machine changes little. As it
stands this takes about half an hour on two cores.
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

from gan_tutorial import losses, metrics, mixtures, networks, recipes, runtime, sampling, training

RESULTS = Path(__file__).parent / "results" / "plane.json"
DEVICE = runtime.choose_device()
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
TABLE = recipes.PLANE.variant(batch_size=64, lr_G=1e-3, lr_D=1e-3)


def measure(recipe: recipes.Recipe, mixture: mixtures.Mixture, pack: int = 1) -> dict:
    """Train, with a D that judges ``pack`` points at a time, and return modes, high-quality share and seconds."""
    state = recipe.fresh(DEVICE)
    if pack > 1:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.train.seed)
            D = networks.Packed(networks.MLPDiscriminator((pack, 2), recipe.network.hidden[::-1]))
        state = training.TrainState.fresh(state.G, D, recipe.train, DEVICE)
    start = time.process_time()
    try:
        for _ in recipe.run(state, mixture):
            pass
    except training.DivergedError:
        return {"modes": 0, "high_quality": 0.0, "seconds": time.process_time() - start, "diverged": state.step}
    seconds = time.process_time() - start
    z = sampling.latents(10_000, recipe.network.latent_dim, seed=1)
    report = metrics.mode_report(sampling.sample(state.G_ema, z), mixture)
    return {"modes": report.covered, "high_quality": round(report.high_quality, 4), "seconds": round(seconds, 1)}


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each cell of the table.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Steps of each of these runs.", min=1)] = 2000,
    plane_seeds: Annotated[int, typer.Option(help="Runs of PLANE on each mixture.", min=1)] = 20,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print the tables, and store the results with machine, versions and date."""
    record = runtime.origin(DEVICE) | {
        "seeds": seeds,
        "plane_seeds": plane_seeds,
        "recipe": asdict(TABLE.variant(steps=steps)),
    }
    cells = [(place, name, how) for place in MIXTURES for name in losses.OBJECTIVES for how in REGULARISERS]
    tasks = []
    for place, name, how in cells:
        changes = {"objective": name, "steps": steps} | REGULARISERS[how]
        pack = changes.pop("pack", 1)
        tasks += [(TABLE.variant(seed=seed, **changes), MIXTURES[place], pack) for seed in range(seeds)]
    tasks += [(recipes.PLANE.variant(seed=s), mixture) for mixture in MIXTURES.values() for s in range(plane_seeds)]
    runs = iter(each(measure, tasks, DEVICE))
    record["table"] = [
        {"mixture": place, "objective": name, "regulariser": how, "runs": [next(runs) for _ in range(seeds)]}
        for place, name, how in cells
    ]
    record["plane"] = {place: [next(runs) for _ in range(plane_seeds)] for place in MIXTURES}
    store(record, out)
    show(record)


def show(record: dict) -> None:
    """Print modes and the high-quality share, means over the seeds, the worst seed's modes in brackets."""
    for place, mixture in MIXTURES.items():
        steps = record["recipe"]["train"]["steps"]
        print(f"{place}: modes of {len(mixture.centres)} (worst), high quality; {record['seeds']} seeds, {steps} steps")
        print(" " * 16 + "".join(f"{how:>18}" for how in REGULARISERS))
        for name in losses.OBJECTIVES:
            row = [c["runs"] for c in record["table"] if (c["mixture"], c["objective"]) == (place, name)]
            print(f"{name:16}" + "".join(f"{summary(runs):>18}" for runs in row))
    for place, runs in record["plane"].items():
        full = sum(run["modes"] == len(MIXTURES[place].centres) for run in runs)
        quality, seconds = ([run[key] for run in runs] for key in ("high_quality", "seconds"))
        print(
            f"PLANE, {place}: all modes in {full} of {len(runs)} seeds; high quality {min(quality):.3f} to "
            f"{max(quality):.3f}, median {statistics.median(quality):.3f}; {statistics.median(seconds):.0f} s"
        )


def summary(runs: list[dict]) -> str:
    """Return one cell of the printed table."""
    modes = [run["modes"] for run in runs]
    quality = statistics.mean(run["high_quality"] for run in runs)
    return f"{statistics.mean(modes):.1f} ({min(modes)}) {quality:.2f}"


if __name__ == "__main__":
    typer.run(main)
