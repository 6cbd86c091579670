"""A GAN at three tasks, each against simple rivals: few digits, odd articles, found members.

- **Few digits.** A classifier learns from ten digits of each class: from these alone, with random
  shifts and turns, and with generated digits in half of each batch. The generator has seen the
  same hundred digits, or it is the bundled one, which has seen all 8,000 and so leaks what the
  hundred do not tell. Without the hundred, a classifier learns from 8,000 samples of the bundled
  generator, or from the 8,000 digits themselves. Accuracy on the held-out digits, over draws of the
  hundred.
- **Odd articles.** A pair learns articles of clothing without two of the ten classes. D's logit and
  the error of an inverted G must then tell these two from held-out articles of the other eight; so
  must a normal density, principal components, and the nearest training image.
- **Members.** Pairs learn 500 digits or all of them. An attacker ranks digits by their distance to
  the nearest sample, or by D's logit; members are training digits, the others held out. As
  controls, one half of the held-out digits plays the members, and the samples are noisy copies.

Whether the small GAN shifts what D sees was tried on training digits outside every
hundred (``choose``); on average both do equally well there, and the shifts stay. Nothing
else was tried.
"""

import statistics
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from torch import Tensor

from gan_tutorial import checkpoints, data, recipes, records, sampling, training
from gan_tutorial.beyond import at_work, interpretability

HINGE = recipes.preset("hinge")
OF_FEW = replace(HINGE, width=16, batch_size=32, steps=600, augment=("translation",))
OF_ARTICLES = replace(HINGE, classes=0, width=16, batch_size=64, steps=800)
OF_MEMBERS = replace(HINGE, classes=0, width=16, batch_size=32, steps=1500)
POLICIES = {"as they are": (), "shifts": ("translation",)}  # tried for OF_FEW
OTHER_DRAWS = range(100, 103)  # for this choice
DRAWS = 10  # of a hundred digits: a paired test of five has no p below 1/16
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))  # classes of clothing left out together
SAMPLES = 5000  # among which an attacker looks for the nearest
RATES = (0.01, 0.001)  # of false alarms


def fit(recipe: recipes.Recipe, images: data.ImageSet) -> training.TrainState:
    """Train to the end; return the state, with BatchNorm statistics for the average of G."""
    state = recipe.init(DEVICE)
    for _ in training.train(state, images, recipe):
        pass
    state.G_ema = sampling.recalibrate_batchnorm(state.G_ema)
    return state


def classify(recipe: recipes.Recipe, seed: int, validate: bool = False) -> dict[str, float]:
    """Return the accuracy of each way to train a classifier with the draw ``seed`` of digits.

    Args:
        validate: only the ways with the GAN of the 100, on validation digits.
    """
    train, validation = data.load_images("digits").hold_out()
    test = validation if validate else data.load_images("digits", "test")
    few = at_work.draw_few(train, each=10, seed=seed)
    own = at_work.labelled_samples(fit(replace(recipe, seed=seed), few).G_ema, few.classes)
    bundled, _ = checkpoints.load_generator("digits")
    leak = at_work.labelled_samples(bundled, few.classes)
    every = data.load_images("digits")
    drawn = at_work.labelled_samples(bundled, few.classes, len(every))
    ways = {
        "nothing": {},
        "augmentation": {"distort": True},
        "GAN of the 100": {"extra": own},
        "both": {"extra": own, "distort": True},
        "GAN of all": {"extra": leak},
        "GAN of all, augmentation": {"extra": leak, "distort": True},
        "GAN of all, alone": {"few": drawn},
        "8,000 real, alone": {"few": every},
    }
    if validate:
        ways = {name: ways[name] for name in ("GAN of the 100", "both")}
    accuracy = {}
    for name, options in ways.items():
        classifier = at_work.train_classifier(**{"few": few} | options, seed=seed)
        _, predicted = classifier.extract(test.images)
        accuracy[name] = (predicted == test.labels).double().mean().item()
    return accuracy


def anomalies(recipe: recipes.Recipe, seed: int) -> dict[str, dict[str, float]]:
    """Return AUROC by score and left-out class; every fifth seed leaves out the same classes."""
    out = torch.tensor(PAIRS[seed % len(PAIRS)])
    train, test = (data.load_images("fashion", split) for split in data.SPLITS)
    normal = train.subset(~torch.isin(train.labels, out))
    state = fit(replace(recipe, seed=seed), normal)
    usual = test.subset((~torch.isin(test.labels, out)).nonzero().flatten()[:400])
    odd = [test.subset((test.labels == label).nonzero().flatten()[:100]) for label in out]
    images = torch.cat([usual.images, *(articles.images for articles in odd)])
    scores = score_articles(state, images, normal.images)
    sizes = [len(usual), *map(len, odd)]
    result = {}
    for name, values in scores.items():
        negative, *positives = values.split(sizes)
        names = [test.classes[label] for label in out]
        areas = [at_work.auroc(positive, negative) for positive in positives]
        result[name] = dict(zip(names, areas, strict=True))
    return result


def score_articles(state: training.TrainState, images: Tensor, normal: Tensor) -> dict[str, Tensor]:
    """Return the scores (N,) of images (N, 1, 28, 28): higher for what looks like an anomaly."""
    with torch.no_grad():
        logits = state.D.eval()(images.to(DEVICE)).cpu()
    inversion = interpretability.invert(state.G_ema, images, starts=2, steps=60)
    return {
        "D's logit": -logits,
        "inversion of G": inversion.errors.amin(dim=1),
        "normal density": at_work.mahalanobis(images, normal),
        "64 components": at_work.pca_errors(images, normal),
        "nearest image": sampling.nearest(images, normal).distances,
    }


def attack(members: Tensor, others: Tensor) -> dict[str, float]:
    """Return AUROC and the true-positive rates of scores (N,), (M,), higher for a member."""
    rates = {f"TPR at {rate:g}": at_work.tpr_at_fpr(members, others, rate) for rate in RATES}
    return {"AUROC": at_work.auroc(members, others)} | rates


def members(recipe: recipes.Recipe, count: int, seed: int) -> dict[str, dict[str, float]]:
    """Return how well training digits are told from held-out ones, by attack and control."""
    train, test = (data.load_images("digits", split) for split in data.SPLITS)
    rng = torch.Generator().manual_seed(seed)
    mine = train.subset(torch.randperm(len(train), generator=rng)[:count])
    state = fit(replace(recipe, seed=seed), mine)
    samples = sampling.generate(state.G_ema, SAMPLES, seed=1)
    noise = 0.5 * torch.randn(mine.images.shape, generator=rng)
    copies = mine.images + noise  # what a generator that has learnt them by heart may draw
    inside, outside = mine.images[: len(test)], test.images
    halves = torch.randperm(len(test), generator=rng).chunk(2)

    def distance(images: Tensor, drawn: Tensor = samples) -> Tensor:
        return -sampling.nearest(images, drawn).distances

    def logit(images: Tensor) -> Tensor:
        with torch.no_grad():
            return state.D.eval()(images.to(DEVICE)).cpu()

    found = {}
    for name, score in {"nearest sample": distance, "D's logit": logit}.items():
        held_out = score(outside)
        found[name] = attack(score(inside), held_out)
        found[f"{name}, control"] = attack(*(held_out[half] for half in halves))
    found["copies"] = attack(distance(inside, copies), distance(outside, copies))
    return found


def choose() -> dict[str, list[dict[str, float]]]:
    """Return accuracies on validation digits of other draws, by what the small GAN's D sees."""
    variants = {
        name: {"recipe": replace(OF_FEW, augment=policy), "validate": True}
        for name, policy in POLICIES.items()
    }
    return sweep(classify, variants, OTHER_DRAWS, DEVICE)


def main(
    seeds: Annotated[int, typer.Option(help="Runs for each set of members.", min=1)] = 5,
    draws: Annotated[int, typer.Option(help="Draws of a hundred digits.", min=1)] = DRAWS,
    pairs: Annotated[int, typer.Option(help="Runs with classes left out.", min=1)] = 10,
    out: Out = records.FOLDER / "at_work.json",
) -> None:
    """Measure, store the record and print a table."""
    parts = {
        "choice": choose(),
        "classify": sweep(classify, {"": {"recipe": OF_FEW}}, range(draws), DEVICE)[""],
        "anomalies": sweep(anomalies, {"": {"recipe": OF_ARTICLES}}, range(pairs), DEVICE)[""],
        "members": sweep(
            members,
            {str(n): {"recipe": OF_MEMBERS, "count": n} for n in (500, 8000)},
            range(seeds),
            DEVICE,
        ),
    }
    used = {"classify": OF_FEW, "anomalies": OF_ARTICLES, "members": OF_MEMBERS}
    record = {"recipes": {name: asdict(recipe) for name, recipe in used.items()}} | parts
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of each measure."""
    print(records.source(record))
    print("\naccuracy on held-out digits")
    for name in record["classify"][0]:
        print(row(name, [run[name] for run in record["classify"]]))
    print("\nAUROC of articles left out")
    for name in record["anomalies"][0]:
        print(row(name, [area for run in record["anomalies"] for area in run[name].values()]))
    for count, runs in record["members"].items():
        print(f"\nmembers of {count} digits")
        for name in runs[0]:
            for measure in runs[0][name]:
                print(row(f"{name}: {measure}", [run[name][measure] for run in runs]))


def row(name: str, values: list[float]) -> str:
    """Return one line of a table."""
    middle = statistics.median(values)
    return f"{name:44}{middle:8.4f}{min(values):8.4f} to {max(values):.4f}"


if __name__ == "__main__":
    typer.run(main)
