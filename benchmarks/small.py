"""Few images: what differentiable augmentation changes, over the number of images and the training.

A narrow pair is trained on the first 100 or 500 training digits, with nothing done to what D sees, with translations,
and with all of DiffAugment. On the way stand FD against the held-out digits, in floors, and how far D's mean logit of
its training images lies above that of held-out ones: what D knows by heart.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each

from gan_tutorial import augment, data, features, metrics, recipes, runtime, sampling

RESULTS = Path(__file__).parent / "results" / "small.json"
DEVICE = runtime.choose_device()
POLICIES = {"none": (), "translation": ("translation",), "all of DiffAugment": augment.POLICY}
COUNTS = (100, 500)
NARROW = recipes.preset("quick").variant(classes=0, width=16, batch_size=32)


def run(count: int, policy: tuple[str, ...], seed: int, steps: int) -> list[tuple[int, float, float]]:
    """Train on ``count`` images; return (step, FD in floors, gap of D) four times on the way."""
    train, test = (data.load_images("digits", split).to(DEVICE) for split in data.SPLITS)
    classifier, few = features.load_classifier("digits", DEVICE), train.subset(slice(count))
    real, _ = classifier.describe(test.images)
    floor = metrics.frechet_distance(real, classifier.describe(train.subset(slice(len(test))).images)[0])
    recipe = NARROW.variant(augment=policy, seed=seed, steps=steps)
    state, curve = recipe.fresh(DEVICE), []
    for log in recipe.run(state, few):
        if log.step % (steps // 4) == 0:
            samples = sampling.sample(state.G_ema, sampling.latents(2000, recipe.network.latent_dim, seed=2))
            fd = metrics.frechet_distance(real, classifier.describe(samples.to(DEVICE))[0])
            with torch.no_grad():
                gap = state.D(few.images).mean() - state.D(test.images[:500]).mean()
            curve.append((log.step, fd / floor, gap.item()))
    return curve


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 2000,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    record = runtime.origin(DEVICE) | {"steps": steps, "runs": []}
    print(f"{'images':>6}  {'augmentation':20}{'FD in floors, median and range':>36}{'gap of D':>10}")
    kinds = [(count, name) for count in COUNTS for name in POLICIES]
    curves = each(run, [(count, POLICIES[name], s, steps) for count, name in kinds for s in range(seeds)], DEVICE)
    for i, (count, name) in enumerate(kinds):
        own = curves[i * seeds : (i + 1) * seeds]
        record["runs"].append({"images": count, "augmentation": name, "curves": own})
        fds, gaps = torch.tensor([curve[-1][1:] for curve in own]).T
        print(f"{count:6}  {name:20}{fds.median():18.1f}{fds.min():9.1f}{fds.max():9.1f}{gaps.median():10.2f}")
    with runtime.replacing(out) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
