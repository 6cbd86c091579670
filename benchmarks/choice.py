"""With spectral norm or without? A choice for the preset ``quick`` that the held-out images must not make.

Both variants learn the first part of the training images, digits and fashion, for as many steps as the preset has, and
are judged on the 2,000 training images that were kept back.
"""

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store

from gan_tutorial import data, features, metrics, recipes, runtime, sampling

RESULTS = Path(__file__).parent / "results" / "choice.json"
DEVICE = runtime.choose_device()
QUICK = recipes.preset("quick")
VARIANTS = {"spectral norm": QUICK, "no spectral norm": QUICK.variant(spectral=False)}
KEPT = 2000


def judge(recipe: recipes.Recipe, name: str, checks: int = 10) -> list[tuple[int, float]]:
    """Train; return (step, FD in floors) on the way, to the images that were kept back."""
    images = data.load_images(name).to(DEVICE)
    fit, kept = images.subset(slice(len(images) - KEPT)), images.subset(slice(len(images) - KEPT, len(images)))
    classifier = features.load_classifier(name, DEVICE)
    real, stand_in = (classifier.describe(part.images)[0] for part in (kept, fit.subset(slice(KEPT))))
    floor = metrics.frechet_distance(real, stand_in)
    z, labels = sampling.latents(KEPT, recipe.network.latent_dim, seed=1), torch.arange(KEPT) % recipe.network.classes
    state, curve = recipe.fresh(DEVICE), []
    for log in recipe.run(state, fit):
        if log.step % (recipe.train.steps // checks) == 0:
            described, _ = classifier.describe(sampling.sample(state.G_ema, z, labels).to(DEVICE))
            curve.append((log.step, metrics.frechet_distance(real, described) / floor))
    return curve


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each variant on each kind of images.", min=1)] = 5,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    kinds = [(variant, name) for name in data.BUNDLED for variant in VARIANTS]
    tasks = [(VARIANTS[variant].variant(seed=seed), name) for variant, name in kinds for seed in range(seeds)]
    curves = each(judge, tasks, DEVICE)
    runs = [
        {"data": name, "variant": variant, "curves": curves[i * seeds : (i + 1) * seeds]}
        for i, (variant, name) in enumerate(kinds)
    ]
    store(runtime.origin(DEVICE) | {"runs": runs}, out)
    print(f"FD in floors{'median':>32}{'least':>8}{'most':>8}")
    for run in runs:
        ends = [curve[-1][1] for curve in run["curves"]]
        print(f"{run['data'] + ', ' + run['variant']:36}{statistics.median(ends):8.1f}{min(ends):8.1f}{max(ends):8.1f}")


if __name__ == "__main__":
    typer.run(main)
