"""Bad inputs are refused at a boundary: the documented error, in one line that says what to do.

The boundaries here are files and folders, settings, the first batch of a training, checkpoints, and
the numbers and pictures that the command line passes on. Inside, PyTorch's own errors are enough.
"""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from gan_tutorial import (
    checkpoints,
    data,
    metrics,
    mixtures,
    networks,
    plotting,
    runtime,
    sampling,
    training,
)
from gan_tutorial.checkpoints import CheckpointError
from gan_tutorial.data import DataError
from gan_tutorial.recipes import Recipe, preset

NAN, INF = math.nan, math.inf
SMALL = Recipe(shape=(1, 8, 8), latent_dim=4, width=2, steps=2, batch_size=4)


@dataclass(frozen=True)
class Case:
    """A bad input and a part of its message: ``act`` gets an empty folder."""

    name: str
    act: Callable[[Path], object]
    message: str
    error: type[Exception] = ValueError


def images(count: int = 4, channels: int = 1, size: int = 8, value: float = 0.0) -> torch.Tensor:
    return torch.full((count, channels, size, size), float(value))


def image_set(count: int = 8, size: int = 8, **changes) -> data.ImageSet:
    pixels = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    given = {"pixels": pixels, "labels": torch.arange(count) % 4, "classes": tuple("abcd")}
    return data.ImageSet(**given | changes)


def a_file(folder: Path, content: bytes = b"no image, no checkpoint") -> Path:
    path = folder / "file.png"
    path.write_bytes(content)
    return path


def an_image_folder(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir()
    return folder


def load(name: str | Path, *split: str, **options) -> Callable[[Path], object]:
    return lambda _: data.load_images(name, *split, **options)


FILES = [
    Case(
        "unknown set",
        load("imagenet"),
        "'imagenet'; use digits, fashion, flowers, mnist",
        DataError,
    ),
    Case("empty name", load(""), "no data set or folder ''", DataError),
    Case("unknown split", load("digits", "val"), "split must be one of train, test.*'val'"),
    Case("two channels", load("digits", channels=2), "channels must be one of 1, 3.*'2'"),
    Case("size 0", load("digits", size=0), "size must be an integer of at least 1"),
    Case(
        "folder without images",
        lambda t: data.load_images(an_image_folder(t)),
        "has no image .*a, b",
        DataError,
    ),
    Case("no image", lambda t: data.load_images(a_file(t).parent), r"file\.png .*del", DataError),
    Case(
        "missing file",
        lambda t: data.load_images("cifar10", root=t),
        "cifar10 cannot be read from .*download=True",
        DataError,
    ),
    Case("unknown asset", lambda _: data.asset("cats.npz"), "'cats.npz'; there are", DataError),
    Case("float pixels", lambda _: image_set(pixels=images(8)), "uint8.*float32", DataError),
    Case("no batch", lambda _: image_set(pixels=image_set().pixels[0]), "1, 8, 8", DataError),
    Case("empty set", lambda _: image_set(0), "no images; give at least one", DataError),
    Case("no pixels", lambda _: image_set(2, 0), "no images", DataError),
    Case("few labels", lambda _: image_set(labels=torch.arange(4)), r"\(8,\).*\(4,\)", DataError),
    Case("float labels", lambda _: image_set(labels=torch.zeros(8)), "int64.*float32", DataError),
    Case("label too high", lambda _: image_set(labels=torch.arange(8)), "4.*7", DataError),
    Case("negative label", lambda _: image_set(labels=torch.arange(8) - 5), "-5", DataError),
    Case("scaled twice", lambda _: data.to_unit_range(images(value=-1)), "already", DataError),
    Case("NaN pixels", lambda _: data.to_unit_range(images(value=NAN)), "nan", DataError),
    Case(
        "no device",
        lambda _: runtime.choose_device(None),
        "no device 'None' here; use one of auto, cpu",
    ),
    Case(
        "unknown device",
        lambda _: runtime.choose_device("tpu!"),
        "no device 'tpu!' here; use one of auto",
    ),
    Case("absent device", lambda _: runtime.choose_device("cuda:99"), "no device 'cuda:99' here"),
    Case(
        "a device without memory",
        lambda _: runtime.choose_device("meta"),
        "no device 'meta' here; use",
    ),
]


def recipe(**options) -> Callable[[Path], object]:
    return lambda _: Recipe(**options)


SETTINGS = [
    Case("unknown preset", lambda _: preset("fast"), "one of quick, best, article, plane.*'fast'"),
    Case("unknown setting", recipe(lr=1), "unexpected keyword argument 'lr'", TypeError),
    Case("unknown objective", recipe(objective="gan"), "one of minimax, .*, but is 'gan'"),
    Case("unknown network", recipe(network="vit"), "one of mlp, conv, but is 'vit'"),
    Case("unknown augmentation", recipe(augment=("flip",)), "one of colour, .*but is 'flip'"),
    Case("one word for several", recipe(augment="colour"), "one of colour, .*but is 'c'"),
    Case("zero steps", recipe(steps=0), "steps must be an integer of at least 1, but is 0"),
    Case("empty batches", recipe(batch_size=0), "batch_size must be an integer of at least 1"),
    Case("fractional batches", recipe(batch_size=64.0), "batch_size must .*but is 64.0"),
    Case("negative seed", recipe(seed=-1), "seed must be an integer of at least 0, but is -1"),
    Case("no learning", recipe(lr_G=0), r"lr_G must be a number in \(0, inf\), but is 0"),
    Case("unlearning", recipe(lr_D=-1e-4), r"lr_D must be a number in \(0, inf\), but is -0.0001"),
    Case("NaN rate", recipe(lr_D=NAN), "lr_D must be a number .*but is nan"),
    Case("rate as text", recipe(lr_G="2e-4"), "lr_G must be a number .*but is '2e-4'"),
    Case("all past", recipe(ema=1.0), r"ema must be a number in \[0, 1\), but is 1.0"),
    Case("beta of 1", recipe(betas=(0.5, 1.0)), r"beta2 must be a number in \[0, 1\), but is 1.0"),
    Case("negative penalty", recipe(r1=-1), r"r1 must be a number in \[0, inf\), but is -1"),
    Case("infinite penalty", recipe(gp=INF), "gp must be a number .*but is inf"),
    Case("no width", recipe(width=0), "width must be an integer of at least 1, but is 0"),
    Case("no latent", recipe(latent_dim=0), "latent_dim must be an integer of at least 1"),
    Case("-1 classes", recipe(classes=-1), "classes must be an integer of at least 0"),
    Case("no units", recipe(hidden=(8, 0)), "shape and hidden must be .* but is 0"),
    Case("half a pixel", recipe(shape=(1, 2.5, 2)), "shape and hidden must .* but is 2.5"),
    Case(
        "side of 30",
        lambda _: Recipe(shape=(1, 30, 30)).build(),
        r"S = 8, 10, .*, 24, 28, 32, .* or 128, .*\(1, 30, 30\)",
    ),
    Case("oblong", lambda _: Recipe(shape=(1, 8, 16)).build(), r"\(C, S, S\).*\(1, 8, 16\)"),
    Case("points for conv", lambda _: Recipe(shape=(2,)).build(), r"such as .*\(2,\)"),
]


def train(
    samples: training.Data, recipe: Recipe = SMALL, D: nn.Module | None = None
) -> Callable[[Path], object]:
    state = recipe.init()
    state.D = D or state.D
    return lambda _: list(training.stop_on_nan(training.train(state, samples, recipe), state))


class Column(nn.Linear):
    """A discriminator that forgot to drop the last dimension of its logits: (N, 1)."""

    def __init__(self) -> None:
        super().__init__(64, 1)

    def forward(self, samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(samples.flatten(1))


class Diverged(Column):
    """A discriminator whose weights are NaN."""

    def forward(self, samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return NAN * super().forward(samples, labels)[:, 0]


class NanLater:
    """Images that turn NaN after the first batch."""

    shape = (1, 8, 8)

    def __init__(self) -> None:
        self.value = 0.0

    def to(self, device: torch.device) -> "NanLater":
        return self

    def batch(self, count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        now, self.value = self.value, NAN
        return images(count, value=now), torch.zeros(count, dtype=torch.int64)


RARE = image_set(400, labels=(torch.arange(400) == 77) * 3)  # not in the first batch
POINTS = Recipe(network="mlp", shape=(2,), latent_dim=4, hidden=(8,), steps=2, batch_size=4)
FIRST_BATCH = [
    Case("images of another size", train(image_set(size=12)), r"\(1, 8, 8\), .*\(1, 12, 12\)"),
    Case("points for images", train(mixtures.ring()), r"\(1, 8, 8\), but the data are \(2,\)"),
    Case("a class too many", train(RARE, replace(SMALL, classes=3)), "3 classes, .*label 3"),
    Case("D with a column", train(image_set(), D=Column()), r"logits \(4,\), not \(4, 1\)"),
    Case("D with NaN", train(image_set(), D=Diverged()), "NaN or infinity for the first batch"),
    Case("NaN in the data", train(mixtures.ring(std=NAN), POINTS), "check data and weights"),
    Case(
        "augmented points",
        train(mixtures.ring(), replace(POINTS, augment=("colour",))),
        r"images \(N, C, H, W\), but the data are \(2,\)",
    ),
    Case(
        "NaN later",
        train(NanLater()),
        "nan at step 1; .*of step 0; lower",
        training.DivergedError,
    ),
]


def a_checkpoint(folder: Path, damage: Callable[[bytes], bytes] = bytes) -> Path:
    path = folder / "checkpoint.safetensors"
    checkpoints.save(SMALL.init(), path, {})
    path.write_bytes(damage(path.read_bytes()))
    return path


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def without_header(content: bytes) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(content))


def a_diverged_state() -> training.TrainState:
    state = SMALL.init()
    nn.init.constant_(state.G.layers[0].weight, NAN)
    return state


class Trap:
    """An object whose unpickling would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def read(damage: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda t: checkpoints.load_generator(a_checkpoint(t, damage))


def refused(name: str, act: Callable[[Path], object], message: str) -> Case:
    return Case(name, act, message, CheckpointError)


CHECKPOINTS = [
    refused(
        "missing", lambda t: checkpoints.load_generator(t / "x"), "no checkpoint at .*x; train"
    ),
    refused("a folder", lambda t: checkpoints.read_settings(t), "no checkpoint at"),
    refused("truncated", read(half), "not a complete .*use an older checkpoint"),
    refused("emptied", read(lambda _: b""), "not a complete safetensors file"),
    refused("one bit changed", read(flip_last_bit), "is damaged .*use an older checkpoint"),
    refused("of another program", read(without_header), "has the format null, not .*; give a file"),
    refused("without a recipe", read(bytes), "does not say which networks .*with restore"),
    refused(
        "a pickle",
        lambda t: checkpoints.load_generator(a_file(t, pickle.dumps(Trap(t / "sprung")))),
        r"file\.png is not a complete safetensors file",
    ),
    refused(
        "of other networks",
        lambda t: checkpoints.restore(replace(SMALL, latent_dim=9).init(), a_checkpoint(t)),
        r"has other networks: G\.\S+ is .* there, but .* here",
    ),
    refused(
        "NaN weights",
        lambda t: checkpoints.save(a_diverged_state(), t / "x", {}),
        r"G\.layers\.0\.weight holds NaN or infinity; .* is not replaced",
    ),
    refused(
        "settings that are not plain",
        lambda t: checkpoints.save(SMALL.init(), t / "x", {"device": torch.device("cpu")}),
        "settings must be plain values for JSON",
    ),
    Case(
        "a file for a folder",
        lambda t: checkpoints.save(SMALL.init(), a_file(t) / "x", {}),
        r"file\.png",
        OSError,
    ),
]

G = networks.MLPGenerator(4, (2,), hidden=(8,), classes=2)
CLOUD = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
OUTPUT = [
    Case("no samples", lambda _: sampling.generate(G, 0), "count must be an integer of at least 1"),
    Case("latent seed of -1", lambda _: sampling.generate(G, 1, -1), "seed must be an integer"),
    Case("no such class", lambda _: sampling.generate(G, 1, label=2), "label .*from 0 to 1, .*2"),
    Case(
        "a class for none",
        lambda _: sampling.generate(networks.MLPGenerator(4, (2,)), 1, label=0),
        "label 0 was given, but the generator has no classes",
    ),
    Case(
        "truncated to 0",
        lambda _: sampling.generate(G, 1, truncation=0),
        r"truncation .*\(0, inf\), but is 0",
    ),
    Case(
        "a diverged generator",
        lambda _: sampling.generate(a_diverged_state().G, 2),
        "NaN or infinity; did its training diverge",
    ),
    Case("too few samples", lambda _: metrics.frechet_distance(CLOUD, CLOUD[:3]), "at least 4"),
    Case("NaN features", lambda _: metrics.feature_scores(CLOUD, CLOUD * NAN), "must be finite"),
    Case("no classifier", lambda _: metrics.Evaluator("cats"), "'cats', only for .*", DataError),
    Case("one image", lambda _: plotting.tile(images()[0]), r"shape .*\(1, 8, 8\)", DataError),
    Case("unscaled", lambda _: plotting.tile(images(value=2)), "from 2 to 2; see", DataError),
    Case("NaN image", lambda _: plotting.tile(images(value=NAN)), "nan", DataError),
    Case("bytes again", lambda _: data.to_bytes(image_set().pixels), "uint8", DataError),
    Case(
        "unknown format",
        lambda t: plotting.save_grid(images(), t / "x.nonsense"),
        r"x\.nonsense must end in \.png",
    ),
    Case(
        "no folder for a picture",
        lambda t: plotting.save_grid(images(), a_file(t) / "x.png"),
        r"file\.png",
        OSError,
    ),
]

CASES = [*FILES, *SETTINGS, *FIRST_BATCH, *CHECKPOINTS, *OUTPUT]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_ends_in_a_clear_error(case, tmp_path):
    with pytest.raises(case.error, match=case.message) as raised:
        case.act(tmp_path)
    assert raised.type is case.error or case.error is OSError, "not a type derived from it"
    message = str(raised.value)
    assert "\n" not in message, "one line, so that the command line can print it"
    assert len(message) < 400
    assert not (tmp_path / "sprung").exists(), "no file may run code"
    assert not list(tmp_path.rglob(".*.part*")), "no half-written file is left"
