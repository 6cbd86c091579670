"""Distortion against perception: one enlarger, one number of steps, and what G is told to lower.

Each pair learns to enlarge 7×7 to 28×28: by squared error, by an adversarial loss, and by sums of
both, which trace a curve; once more without the noise z. All settings were chosen on a part
of the training images. Here the networks learn from all of them, and held-out images are judged:
the error against the true image; the Fréchet distance of the first half, enlarged, to the second
half, whose small versions nobody enlarged; how far the result, shrunk, is from the small image; in
how many the classifier sees another class; and how much z changes. Rules without training, and the
true images, stand beside them; and a classifier trained on small digits, enlarged by bicubic
interpolation, says how well a digit can be read from so few pixels at all.
"""

import functools
import statistics
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from torch import Tensor

from gan_tutorial import data, metrics, records
from gan_tutorial.beyond import enlarger
from gan_tutorial.classifier import train_classifier

CONFIG = enlarger.EnlargerConfig()
ARMS = {
    "squared": {"squared": 1.0, "adversarial": 0.0},
    "a = 0.01": {"squared": 1.0, "adversarial": 0.01},
    "a = 0.05": {"squared": 1.0, "adversarial": 0.05},
    "a = 0.3": {"squared": 1.0, "adversarial": 0.3},
    "adversarial": {"squared": 0.0, "adversarial": 1.0},
    "no noise": {"squared": 0.0, "adversarial": 1.0, "latent_dim": 0},
}
SETS = {"digits": tuple(ARMS), "fashion": ("squared", "a = 0.05", "adversarial")}
DRAWS = 4  # of z, for the same small image
SURE = 0.9  # the probability from which the classifier counts as sure


class Judge:
    """Measures enlarged held-out images of one set.

    Attributes:
        images: the held-out images.
        small: their small versions.
    """

    def __init__(self, name: str) -> None:
        held_out = data.load_images(name, "test")
        half = len(held_out) // 2
        self.images, self.labels = held_out.images, held_out.labels
        self.small = enlarger.shrink(self.images)
        self.half = half
        self.evaluator = metrics.Evaluator(
            name, DEVICE, held_out=held_out.subset(slice(half, None))
        )

    def measure(self, images: Tensor) -> dict[str, float]:
        """Return what is measured of one answer to each small image."""
        classifier = self.evaluator.classifier
        features, seen = classifier.extract(images)
        with torch.no_grad():
            sure = classifier.head(features).softmax(1).amax(1).cpu() > SURE
        wrong = seen.cpu() != self.labels
        return {
            "error": (images - self.images).square().mean().item(),
            "fd": self.evaluator.ratio(images[: self.half]),
            "inconsistency": enlarger.inconsistency(images, self.small),
            "misread": wrong.float().mean().item(),
            "surely misread": (wrong & sure).float().mean().item(),
        }

    def measure_noise(self, G: enlarger.Enlarger) -> dict[str, float]:
        """Return what z changes among ``DRAWS`` answers to the same small image."""
        small = self.small[: self.half]
        draws = torch.stack([enlarger.enlarge(G, small, seed) for seed in range(DRAWS)])
        seen = torch.stack([self.evaluator.classes(images) for images in draws])
        return {
            "variance": draws.var(0).mean().item(),  # over z, on the scale of "error"
            "error of the mean": (draws.mean(0) - self.images[: self.half]).square().mean().item(),
            "changes class": (seen != seen[0]).any(0).float().mean().item(),
        }


@functools.cache
def judge_of(name: str) -> Judge:
    """Return the judge of a set, made once in each process."""
    return Judge(name)


def run(config: enlarger.EnlargerConfig, name: str, seed: int) -> dict:
    """Train an enlarger; return what was measured."""
    config, judge = replace(config, seed=seed), judge_of(name)
    pairs = enlarger.Pairs(data.load_images(name))
    state = config.init(pairs.shape, DEVICE)
    for _ in enlarger.train(state, pairs, config):
        pass
    G = enlarger.recalibrate_batchnorm(state.G_ema, pairs)
    return judge.measure(enlarger.enlarge(G, judge.small)) | judge.measure_noise(G)


def without_training(name: str) -> dict[str, dict]:
    """Return the same measurements of the true images and of each rule."""
    judge = judge_of(name)
    answers = {rule: enlarger.enlarge_by_rule(judge.small, rule) for rule in enlarger.RULES}
    answers["true images"] = judge.images
    return {answer: judge.measure(images) for answer, images in answers.items()}


def reader(name: str, seed: int, epochs: int) -> float:
    """Return the share of small held-out images that a classifier trained on such ones misreads."""

    def blur(split: str) -> data.ImageSet:
        images = data.load_images(name, split)
        large = enlarger.enlarge_by_rule(enlarger.shrink(images.images), "bicubic")
        return replace(images, pixels=data.to_bytes(large))

    classifier, test = (
        train_classifier(blur("train"), epochs, seed=seed, device=DEVICE),
        blur("test"),
    )
    return enlarger.misread(classifier, test.images, test.labels).float().mean().item()


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each run.", min=1)] = CONFIG.steps,
    epochs: Annotated[int, typer.Option(help="Epochs of the small-image classifier.", min=1)] = 10,
    out: Out = records.FOLDER / "enlarger.json",
) -> None:
    """Measure, store the record and print a table."""
    config = replace(CONFIG, steps=steps)
    sets = {}
    for name, arms in SETS.items():
        variants = {arm: {"config": replace(config, **ARMS[arm]), "name": name} for arm in arms}
        reading = {"reader": {"name": name, "epochs": epochs}} if name == "digits" else {}
        sets[name] = {
            "rules": without_training(name),
            "runs": sweep(run, variants, range(seeds), DEVICE),
            "reader": sweep(reader, reading, range(1), DEVICE).get("reader", []),
        }
    record = {"config": asdict(config), "arms": ARMS, "draws": DRAWS, "sure": SURE, "sets": sets}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of every measure, a line for each kind of run."""
    print(records.source(record))
    for name, measured in record["sets"].items():
        kinds = {rule: [row] for rule, row in measured["rules"].items()} | measured["runs"]
        print(f"{name}; small images misread by a classifier of their own: {measured['reader']}")
        for measure in measured["runs"]["squared"][0]:
            for kind, runs in kinds.items():
                values = [row[measure] for row in runs if measure in row]
                if values:
                    spread = f"({min(values):.4g} to {max(values):.4g})"
                    print(f"  {measure:18}{kind:14}{statistics.median(values):9.4g} {spread}")


if __name__ == "__main__":
    typer.run(main)
