"""The preset ``quick``, judged on held-out images over ten seeds: digits and fashion, every measure beside its floor.

A run's speed is measured first, with all threads and nothing beside it; the runs then go side by side.
"""

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store
from recipe import speed

from gan_tutorial import data, metrics, recipes, runtime, sampling

RESULTS = Path(__file__).parent / "results" / "presets.json"
DEVICE = runtime.choose_device()
SAMPLES = 2000


def judge(preset: str, name: str, seed: int) -> dict:
    """Train the preset on the images called ``name``; return its scores, their floors and the classes' shares."""
    recipe, images = recipes.preset(preset).variant(seed=seed), data.load_images(name).to(DEVICE)
    state = recipe.fresh(DEVICE)
    for _ in recipe.run(state, images):
        pass
    z = sampling.latents(SAMPLES, recipe.network.latent_dim, seed=1)
    labels = torch.arange(SAMPLES).remainder(recipe.network.classes) if recipe.network.classes else None
    report = metrics.image_report(sampling.sample(state.G_ema, z, labels), name)
    return {"scores": report.scores, "floors": report.floors, "shares": report.shares.tolist()}


def main(
    seeds: Annotated[int, typer.Option(help="Runs on each kind of images.", min=1)] = 10,
    preset: Annotated[str, typer.Option(help="Which preset.")] = "quick",
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    recipe = recipes.preset(preset)
    seconds = recipe.train.steps / speed(recipe, data.load_images("digits").to(DEVICE))
    record = runtime.origin(DEVICE) | {"preset": preset, "recipe": asdict(recipe), "seconds": seconds}
    runs = each(judge, [(preset, name, seed) for name in data.BUNDLED for seed in range(seeds)], DEVICE)
    record["runs"] = {name: runs[i * seeds : (i + 1) * seeds] for i, name in enumerate(data.BUNDLED)}
    store(record, out)
    show(record)


def show(record: dict) -> None:
    """Print every measure as median and range over the seeds, with FD in floors and the extreme shares."""
    print(f"{record['preset']}: {record['seconds']:.0f} s of training; {record['machine']}")
    for name, runs in record["runs"].items():
        print(f"{name}, {len(runs)} seeds{'median':>18}{'least':>9}{'most':>9}{'floor':>9}")
        rows = {"FD in floors": [run["scores"]["fd"] / run["floors"]["fd"] for run in runs]}
        rows |= {key: [run["scores"][key] for run in runs] for key in runs[0]["scores"]}
        floors = {"FD in floors": 1.0} | runs[0]["floors"]
        for key, values in rows.items():
            spread = f"{min(values):9.3f}{max(values):9.3f}"
            print(f"  {key:22}{statistics.median(values):9.3f}{spread}{floors[key]:9.3f}")
        shares = [share for run in runs for share in run["shares"]]
        print(f"  shares of the classes: {min(shares):.3f} to {max(shares):.3f}")


if __name__ == "__main__":
    typer.run(main)
