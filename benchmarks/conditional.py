"""Two ways to tell D the label, and labels that mean nothing: five short runs of each.

The preset ``hinge``, stopped after 200 steps, with the projection discriminator, with a label map
beside the image, and with projection and permuted labels. The 2,000 samples of a run, 200 of each
digit, are judged by how often the bundled classifier sees the digit that was asked for, by their
FD, and by the spread of their features within each class. It takes a few minutes.
"""

import statistics
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from torch import Tensor, nn

from gan_tutorial import data, metrics, networks, recipes, records, sampling, training

RECIPE = replace(recipes.preset("hinge"), steps=200)
WAYS = {
    "projection": {},
    "concatenation": {"concatenate": True},
    "projection, labels permuted": {"permute": True},
}


class ConcatDiscriminator(nn.Module):
    """The convolutional D, with a learned map of each label as a second channel (chapter 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.Embedding(10, 28 * 28)
        self.body = networks.ConvDiscriminator((1, 28, 28), width)
        self.body.layers[0] = nn.Conv2d(2, width, 4, stride=2, padding=1)
        networks.add_spectral_norm(self.body)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (N,) of images (N, 1, 28, 28) with labels (N,)."""
        label_maps = self.maps(labels).unflatten(1, (1, 28, 28))
        features = self.body.layers(torch.cat([images, label_maps], dim=1))
        return self.body.last(features).squeeze(1)


def run(seed: int, concatenate: bool = False, permute: bool = False) -> dict[str, float]:
    """Train for 200 steps; return the obedience (0 to 1), the FD and the spread of the samples."""
    recipe = replace(RECIPE, seed=seed)
    digits = data.load_images("digits").to(DEVICE)
    if permute:
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        digits = replace(digits, labels=digits.labels[order.to(DEVICE)])
    torch.manual_seed(seed)
    G, D = recipe.build()
    if concatenate:
        D = ConcatDiscriminator(width=recipe.width)
    state = training.TrainState.init(G, D, recipe, DEVICE)
    for _ in training.train(state, digits, recipe):
        pass
    G = sampling.recalibrate_batchnorm(state.G_ema)
    return judge(sampling.generate(G, 2000, seed=2), sampling.labels(G, 2000))


def judge(images: Tensor, asked: Tensor) -> dict[str, float]:
    """Return obedience, FD, and spread: variance relative to real digits, averaged over classes."""
    evaluator = metrics.Evaluator("digits", DEVICE)
    labels = data.load_images("digits", "test").labels
    features, seen = evaluator.classifier.extract(images)
    spreads = []
    for digit in range(10):
        ours, real = features[asked == digit], evaluator.held_out[labels == digit]
        spreads.append((ours.var(dim=0).sum() / real.var(dim=0).sum()).item())
    return {
        "obedience": (seen.cpu() == asked.cpu()).double().mean().item(),
        "fd": metrics.frechet_distance(evaluator.held_out, features),
        "spread": statistics.fmean(spreads),
    }


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    out: Out = records.FOLDER / "conditional.json",
) -> None:
    """Measure, store the record and print a table."""
    runs = sweep(run, WAYS, range(seeds), DEVICE)
    floor = metrics.Evaluator("digits", DEVICE).floor(2000).mean
    record = {"recipe": asdict(RECIPE), "floor": floor, "runs": runs}
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of each measure, FD in floors."""
    print(records.source(record))
    for name, runs in record["runs"].items():
        print(name)
        for key, unit in (("obedience", 1), ("fd", record["floor"]), ("spread", 1)):
            values = [run[key] / unit for run in runs]
            middle = statistics.median(values)
            print(f"  {key:10}{middle:8.3f}{min(values):8.3f} to {max(values):.3f}")


if __name__ == "__main__":
    typer.run(main)
