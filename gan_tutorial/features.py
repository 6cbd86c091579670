"""The small classifiers whose features stand in for Inception's: one for digits, one for fashion."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2
from tqdm.auto import tqdm

from gan_tutorial import data, runtime

CLASSIFIERS = {"digits": "digits", "mnist": "digits", "fashion": "fashion", "fashion-mnist": "fashion"}
FEATURES = 64


class Classifier(nn.Module):
    """Three convolutions, a layer of 64 features, and a layer of logits for 28×28 grey images.

    Batch statistics are frozen by ``eval()``, which every function here calls, so features depend on one image only.
    """

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, width),  # (N, w, 14, 14)
            *_block(width, 2 * width),  # (N, 2w, 7, 7)
            *_block(2 * width, 2 * width),  # (N, 2w, 3, 3)
            nn.Flatten(),
            nn.Linear(2 * width * 9, FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(FEATURES, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (N, classes) for images (N, 1, 28, 28) in [-1, 1]."""
        return self.head(self.trunk(images))

    @torch.no_grad()
    def describe(self, images: Tensor, batch_size: int = 100) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and predicted labels (N,) for images (N, 1, 28, 28) in [-1, 1].

        Raises:
            DataError: another shape, dtype or range, or NaN.
            ValueError: batch_size is not an integer of at least 1.
        """
        data.require_images(images, (1, 28, 28))
        runtime.require_integer("batch_size", batch_size, least=1)
        self.eval()
        device = next(self.parameters()).device
        features = torch.cat([self.trunk(part.to(device)) for part in images.split(batch_size)])
        return features, self.head(features).argmax(1)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def load_classifier(name: str, device: str | torch.device = "cpu") -> Classifier:
    """Return the bundled classifier for the data set ``name``, in evaluation mode.

    Raises:
        DataError: there is none for that set, or its file is damaged.
    """
    if name not in CLASSIFIERS:
        raise data.DataError(
            f"there is a bundled classifier for {', '.join(CLASSIFIERS)}, but not for {name!r}; "
            "train one with gan_tutorial.features.train_classifier"
        )
    classifier = Classifier()
    classifier.load_state_dict(load_file(data.asset(f"{CLASSIFIERS[name]}-classifier.safetensors")))
    return classifier.to(device).eval()


def train_classifier(
    images: data.ImageSet, epochs: int = 20, batch_size: int = 100, seed: int = 0, device: str | torch.device = "cpu"
) -> Classifier:
    """Train a classifier on a set of 28×28 grey images, with small random shifts, turns and changes of scale.

    Raises:
        DataError: the images have another shape.
        ValueError: epochs or batch_size is not an integer of at least 1.
    """
    data.require_images(images.images[:1], (1, 28, 28))
    runtime.require_integer("epochs", epochs, least=1)
    runtime.require_integer("batch_size", batch_size, least=1)
    shake = v2.RandomAffine(degrees=10, translate=(0.07, 0.07), scale=(0.9, 1.1), fill=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier(len(images.classes)).to(device).train()
        steps = epochs * math.ceil(len(images) / batch_size)
        optimiser = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
        for _ in tqdm(range(steps), desc="classifier"):
            chosen = torch.randint(len(images), (batch_size,))
            batch = torch.cat([shake(part) for part in images.pixels[chosen].chunk(10)])  # one random map for each part
            logits = classifier(data.to_unit_range(batch).to(device))
            loss = cross_entropy(logits, images.labels[chosen].to(device), label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval()


def save_classifier(classifier: Classifier, path: str | Path) -> None:
    """Write a classifier's weights as safetensors; the file appears complete or not at all."""
    with runtime.replacing(path) as temporary:
        save_file(classifier.state_dict(), temporary)
