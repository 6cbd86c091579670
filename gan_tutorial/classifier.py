"""Small classifiers, whose features take the place of Inception's, and an untrained one."""

import math

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torchvision.transforms import v2
from tqdm import tqdm

from gan_tutorial import data, runtime

CLASSIFIERS = {"digits": "digits", "mnist": "digits"}  # bundled file by data set
CLASSIFIERS |= {"fashion": "fashion", "fashion-mnist": "fashion"}
FEATURES = 64


class Classifier(nn.Module):
    """Three convolutions, a layer of 64 features, and class logits.

    Args:
        classes: number of classes.
        width: channels of the first convolution; twice as many in the others.
        shape: (C, H, W) of an image; H and W at least 8.
    """

    def __init__(
        self, classes: int = 10, width: int = 32, shape: tuple[int, int, int] = (1, 28, 28)
    ) -> None:
        super().__init__()
        self.shape = shape
        channels, height, width_ = shape
        self.trunk = nn.Sequential(  # sizes for 28×28
            *_block(channels, width),  # (N, w, 14, 14)
            *_block(width, 2 * width),  # (N, 2w, 7, 7)
            *_block(2 * width, 2 * width),  # (N, 2w, 3, 3)
            nn.Flatten(),
            nn.Linear(2 * width * (height // 8) * (width_ // 8), FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(FEATURES, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (N, classes) for images (N, C, H, W) in [-1, 1]."""
        return self.head(self.trunk(images))

    @torch.no_grad()
    def extract(self, images: Tensor, batch_size: int = 100) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and predicted classes (N,) of images (N, C, H, W) in [-1, 1].

        In evaluation mode, so that the features of an image depend on that image alone; the
        network stays in that mode.

        Raises:
            DataError: the images have another shape, dtype or range, or hold NaN.
        """
        data.require_images(images, self.shape)
        self.eval()
        device = next(self.parameters()).device
        features = torch.cat([self.trunk(part.to(device)) for part in images.split(batch_size)])
        return features, self.head(features).argmax(1)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def load_classifier(name: str, device: str | torch.device = "cpu") -> Classifier:
    """Return the bundled classifier for the data set ``name``, in evaluation mode.

    Raises:
        DataError: there is none for that set, or its file is damaged.
    """
    if name not in CLASSIFIERS:
        known = f"only for {', '.join(CLASSIFIERS)}; train one with train_classifier"
        raise data.DataError(f"there is no bundled classifier for {name!r}, {known}")
    with torch.device("meta"):  # draws no weights
        classifier = Classifier()
    weights = data.asset(f"{CLASSIFIERS[name]}-classifier.safetensors")
    classifier.to_empty(device="cpu").load_state_dict(load_file(weights))
    return classifier.to(device).eval()


def untrained(images: data.ImageSet, device: str | torch.device = "cpu") -> Classifier:
    """Return a network with random weights, whose features need neither labels nor training.

    Naeem et al. 2020 judge images far from ImageNet's by features like these. They are coarser
    than those of a trained classifier, above all where classes are missing. The class logits mean
    nothing. BatchNorm has the statistics of up to 1,000 of the images.
    """
    with runtime.seeded(0):
        network = Classifier(classes=1, shape=images.shape).to(device)
        chosen = torch.randperm(len(images))[:1000]
    update_bn(images.subset(chosen).images.split(100), network.trunk, device)
    return network.eval()


def train_classifier(
    images: data.ImageSet,
    epochs: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Train a classifier on 28×28 grey images, with small random shifts, rotations and scalings."""
    distort = v2.RandomAffine(degrees=10, translate=(0.07, 0.07), scale=(0.9, 1.1), fill=0)
    with runtime.seeded(seed):
        classifier = Classifier(len(images.classes)).to(device).train()
        steps = epochs * math.ceil(len(images) / batch_size)
        optimiser = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
        for _ in tqdm(range(steps), desc="classifier"):
            chosen = torch.randint(len(images), (batch_size,))
            parts = images.pixels[chosen].chunk(10)
            batch = torch.cat([distort(part) for part in parts])  # one random transform per part
            logits = classifier(data.to_unit_range(batch).to(device))
            loss = cross_entropy(logits, images.labels[chosen].to(device), label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval()
