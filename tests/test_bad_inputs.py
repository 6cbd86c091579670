"""Bad inputs end at the door: in the documented error, with one line on what was given, expected, or to be done."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from gan_tutorial import (
    augment,
    checkpoints,
    data,
    features,
    losses,
    metrics,
    mixtures,
    networks,
    penalties,
    plotting,
    recipes,
    runtime,
    sampling,
    training,
    widgets,
)
from gan_tutorial.checkpoints import CheckpointError
from gan_tutorial.data import DataError

NAN, INF = math.nan, math.inf
CONFIG = training.TrainConfig(steps=2, batch_size=4)
PAIR = networks.NetworkConfig(shape=(1, 8, 8), latent_dim=4, width=2)
HINGE = losses.objective("hinge")
RNG = torch.Generator()


@dataclass(frozen=True)
class Case:
    """What a reader may get wrong, and what they must be told: ``act`` gets an empty folder."""

    name: str
    act: Callable[[Path], object]
    message: str
    error: type[Exception] = ValueError


def images(count: int = 4, channels: int = 1, size: int = 8, value: float = 0.0) -> torch.Tensor:
    return torch.full((count, channels, size, size), float(value))


def image_set(count: int = 8, size: int = 8, **changes) -> data.ImageSet:
    pixels = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    return data.ImageSet(**{"pixels": pixels, "labels": torch.arange(count) % 4, "classes": tuple("abcd")} | changes)


def state(pair: networks.NetworkConfig = PAIR) -> training.TrainState:
    return training.TrainState.fresh(*pair.build(), CONFIG)


def train(samples: training.Data, pair: networks.NetworkConfig = PAIR, D: nn.Module | None = None) -> None:
    start = state(pair)
    start.D = D or start.D
    list(training.train(start, samples, HINGE, CONFIG))


class Column(nn.Linear):
    """A discriminator that forgot to drop the last dimension of its logits: (N, 1)."""

    def __init__(self) -> None:
        super().__init__(64, 1)

    def forward(self, samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(samples.flatten(1))


class Lost(Column):
    """A discriminator whose weights are NaN."""

    def forward(self, samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return NAN * super().forward(samples, labels)[:, 0]


class NanPoints:
    """Points that turn NaN after the first look."""

    shape = (1, 8, 8)

    def __init__(self) -> None:
        self.value = 0.0

    def to(self, device: torch.device) -> "NanPoints":
        return self

    def batch(self, count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        now, self.value = self.value, NAN
        return images(count, value=now), torch.zeros(count, dtype=torch.int64)


# Files


def a_file(folder: Path, content: bytes = b"no image, no checkpoint") -> Path:
    path = folder / "file.png"
    path.write_bytes(content)
    return path


def a_checkpoint(folder: Path, damage: Callable[[bytes], bytes] = bytes) -> Path:
    path = folder / "checkpoint.safetensors"
    checkpoints.save(state(), path, {"network": PAIR.as_dict()})
    path.write_bytes(damage(path.read_bytes()))
    return path


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def a_foreign_file(folder: Path) -> Path:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def a_nameless_checkpoint(folder: Path) -> Path:
    checkpoints.save(state(), folder / "nameless.safetensors", {})
    return folder / "nameless.safetensors"


def a_diverged_state() -> training.TrainState:
    diverged = state()
    nn.init.constant_(diverged.G.layers[0].weight, NAN)
    return diverged


def an_image_folder(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir()
    return folder


DATA = [
    Case("unknown set", lambda _: data.load_images("imagenet"), r"'imagenet'; use one of digits, fashion", DataError),
    Case("empty name", lambda _: data.load_images(""), "no data set or folder is called ''", DataError),
    Case("unknown split", lambda _: data.load_images("digits", "val"), "one of train, test, but is 'val'", DataError),
    Case("two channels", lambda _: data.load_images("digits", channels=2), "must be 1 or 3, but is 2", DataError),
    Case("size 0", lambda _: data.load_images("digits", size=0), "size must be an integer of at least 1"),
    Case("folder without images", lambda t: data.load_images(an_image_folder(t)), "holds a, b", DataError),
    Case("no image inside", lambda t: data.load_images(a_file(t).parent), "not a readable image .*mend", DataError),
    Case("missing file", lambda t: data.load_images("cifar10", root=t), r"read from .*download=True", DataError),
    Case("unknown asset", lambda _: data.asset("cats.npz"), "no bundled file is called 'cats.npz'", DataError),
    Case("float pixels", lambda _: image_set(pixels=images(8)), "uint8 .* but are torch.float32", DataError),
    Case("three dimensions", lambda _: image_set(pixels=image_set().pixels[:, 0]), r"are .*\(8, 8, 8\)", DataError),
    Case("empty set", lambda _: image_set(0), "holds no image; give at least one", DataError),
    Case("images without pixels", lambda _: image_set(2, 0), "holds no image", DataError),
    Case("too few labels", lambda _: image_set(labels=torch.arange(4)), r"int64 \(8,\).* \(4,\)", DataError),
    Case("float labels", lambda _: image_set(labels=torch.zeros(8)), "but are torch.float32", DataError),
    Case("label too high", lambda _: image_set(labels=torch.arange(8)), r"\[0, 3\].*from 0 to 7", DataError),
    Case("negative label", lambda _: image_set(labels=torch.arange(8) - 5), "from -5 to 2", DataError),
    Case("scaled twice", lambda _: data.to_unit_range(images(value=-1)), "scaled already", DataError),
    Case("NaN pixels", lambda _: data.to_unit_range(images(value=NAN)), "reach from nan", DataError),
    Case("never scaled", lambda _: data.to_bytes(images(value=255)), "reach 255; scale .*to_unit_range", DataError),
    Case("bytes again", lambda _: data.to_bytes(image_set().pixels), "torch.uint8; scale them", DataError),
    Case("NaN image", lambda _: data.to_bytes(images(value=NAN)), "hold NaN; look for the step", DataError),
    Case("infinite image", lambda _: data.to_bytes(images(value=INF)), "reach inf", DataError),
    Case("one image alone", lambda _: data.require_images(images()[0]), r"\(N, C, H, W\).*got \(1, 8, 8\)", DataError),
    Case("an array", lambda _: data.require_images(np.zeros((1, 1, 8, 8))), "got ndarray", DataError),
    Case("no images", lambda _: data.require_images(images(0)), r"N at least 1 .*\(0, 1, 8, 8\)", DataError),
    Case("another size", lambda _: data.require_images(images(), (1, 28, 28)), "28, 28.*resize them", DataError),
    Case("ring of 0", lambda _: mixtures.ring(0), "modes must be an integer of at least 1, but is 0"),
    Case("grid of 2.5", lambda _: mixtures.grid(2.5), "side must be an integer of at least 1, but is 2.5"),
]

RUNTIME = [
    Case("unknown device", lambda _: runtime.choose_device("tpu!"), "is 'tpu!'; use one of auto, cpu"),
    Case("absent device", lambda _: runtime.choose_device("cuda:99"), "this machine has, but is 'cuda:99'"),
    Case("a device that holds nothing", lambda _: runtime.choose_device("meta"), "is 'meta'; use one of auto, cpu"),
    Case("no device", lambda _: runtime.choose_device(None), "is 'None'; use one of auto, cpu"),
    Case("negative seed", lambda _: runtime.step_rng(-1, 0), "seed must be an integer .*but is -1"),
    Case("half a step", lambda _: runtime.step_rng(0, 0.5), "step must be an integer .*but is 0.5"),
]


def mlp(**options) -> networks.Generator:
    return networks.MLPGenerator(4, (2,), hidden=(8,), **options)


def points_d(**options) -> networks.Discriminator:
    return networks.MLPDiscriminator((2,), hidden=(8,), **options)


def packed(pack: int) -> nn.Module:
    return networks.Packed(networks.MLPDiscriminator((pack, 2), hidden=(8,)))


POINTS = networks.NetworkConfig(kind="mlp", shape=(2,), latent_dim=4, hidden=(8,))
Z = torch.zeros(3, 4)
NETWORKS = [
    Case("z too wide", lambda _: mlp()(torch.zeros(3, 5)), r"z must have the shape \(N, 4\), but has \(3, 5\)"),
    Case("z of one sample", lambda _: mlp()(torch.zeros(4)), r"\(N, 4\), but has \(4,\)"),
    Case("integer z", lambda _: mlp()(Z.long()), r"drawn from N\(0, 1\), but is torch.int64"),
    Case("no labels", lambda _: mlp(classes=5)(Z), r"built with 5 classes; give labels, int64 .*\(3,\)"),
    Case("labels too few", lambda _: mlp(classes=5)(Z, torch.arange(2)), r"shape \(3,\), .*shape \(2,\)"),
    Case("labels as floats", lambda _: points_d(classes=5)(torch.zeros(3, 2), torch.zeros(3)), "float32"),
    Case("label out of range", lambda _: mlp(classes=3)(Z, torch.arange(1, 4)), r"\[0, 2\].*from 1 to 3"),
    Case("half a pack", lambda _: packed(2)(torch.zeros(5, 2)), "packs of 2 need a batch that 2 divides, but got 5"),
    Case("packs in training", lambda _: train(mixtures.ring(), POINTS, packed(3)), "packs of 3 .*but got 4"),
    Case("flat images", lambda _: PAIR.build()[1](torch.zeros(2, 64)), r"\(N, 1, 8, 8\).*\(2, 64\)"),
    Case("bytes to D", lambda _: PAIR.build()[1](image_set().pixels), "floating point .*torch.uint8"),
    Case("side of 30", lambda _: networks.ConvGenerator(4, (1, 30, 30)), r"multiple of 4.*got \(1, 30, 30\)"),
    Case("oblong", lambda _: networks.ConvDiscriminator((1, 8, 16)), r"\(C, S, S\).*got \(1, 8, 16\)"),
    Case("points for conv", lambda _: networks.ConvDiscriminator((2,)), r"such as \(1, 28, 28\).*got \(2,\)"),
    Case("width 0", lambda _: networks.ConvGenerator(width=0), "width must be an integer of at least 1"),
    Case("latent size 0", lambda _: networks.MLPGenerator(0), "latent_dim must be an integer of at least 1"),
    Case("a flat shape of 0", lambda _: networks.MLPGenerator(4, (0,)), "each number of shape must be .* but is 0"),
    Case("half a pixel", lambda _: networks.MLPDiscriminator((1, 2.5, 2)), "each number of shape must .* but is 2.5"),
    Case("no units", lambda _: networks.MLPGenerator(4, hidden=(8, 0)), "each number of hidden must .* but is 0"),
    Case("no units in D", lambda _: networks.MLPDiscriminator(hidden=(0,)), "each number of hidden must .* but is 0"),
    Case("-1 classes", lambda _: points_d(classes=-1), "classes must be an integer of at least 0, but is -1"),
    Case("spread of NaN", lambda _: mixtures.ring(std=float("nan")), r"std must be a number in \(0, inf\), but is nan"),
    Case("unknown network", lambda _: networks.NetworkConfig(kind="vit"), "one of mlp, conv, but is 'vit'"),
]

FOUR, FIVE = torch.zeros(4), torch.zeros(5)
RELATIVISTIC = losses.objective("relativistic")
LOSSES = [
    Case("unknown objective", lambda _: losses.objective("gan"), "one of minimax, .*relativistic, but is 'gan'"),
    Case("unpaired logits of D", lambda _: RELATIVISTIC.d_loss(FOUR, FIVE), r"pairs .*\(4,\) and \(5,\)"),
    Case("unpaired logits of G", lambda _: RELATIVISTIC.g_loss(FOUR[:, None], FOUR), r"\(4, 1\) and \(4,\)"),
    Case("logits in a column", lambda _: losses.require_logits(FOUR[:, None], 4), r"\(4,\), but gave \(4, 1\)"),
    Case("logits as a list", lambda _: losses.require_logits([0.0], 1), "but gave list"),
    Case("NaN logits", lambda _: losses.require_logits(FOUR * NAN, 4), "finite, but hold NaN or infinity"),
    Case(
        "unpaired samples",
        lambda _: penalties.gradient_penalty(points_d(), torch.zeros(3, 2), torch.zeros(4, 2)),
        r"the penalty pairs samples, but real is \(3, 2\) and fake \(4, 2\)",
    ),
]


def config(**options) -> Callable[[Path], object]:
    return lambda _: training.TrainConfig(**options)


TRAINING = [
    Case("zero steps", config(steps=0), "steps must be an integer of at least 1, but is 0"),
    Case("empty batches", config(batch_size=0), "batch_size must be an integer of at least 1, but is 0"),
    Case("fractional batches", config(batch_size=64.0), "batch_size must be an integer .*but is 64.0"),
    Case("never checked", config(check_every=0), "check_every must be an integer of at least 1"),
    Case("negative seed", config(seed=-1), "seed must be an integer of at least 0, but is -1"),
    Case("no learning", config(lr_G=0), r"lr_G must be a number in \(0, inf\), but is 0"),
    Case("unlearning", config(lr_D=-1e-4), r"lr_D must be a number in \(0, inf\), but is -0.0001"),
    Case("NaN rate", config(lr_D=NAN), "lr_D must be a number .*but is nan"),
    Case("rate as text", config(lr_G="2e-4"), "lr_G must be a number .*but is '2e-4'"),
    Case("average of only the past", config(ema=1.0), r"ema must be a number in \[0, 1\), but is 1.0"),
    Case("beta of 1", config(betas=(0.5, 1.0)), r"each of betas must be a number in \[0, 1\), but is 1.0"),
    Case("beta of None", config(betas=(None, 0.9)), "each of betas must be a number .*but is None"),
    Case("three betas", config(betas=(0.5, 0.9, 0.9)), r"betas must be two numbers .*\(0.5, 0.9, 0.9\)"),
    Case("negative penalty", config(r1=-1), r"r1 must be a number in \[0, inf\), but is -1"),
    Case("infinite penalty", config(gp=INF), "gp must be a number .*but is inf"),
    Case("images of another size", lambda _: train(image_set(size=12)), r"\(1, 8, 8\), but .*\(1, 12, 12\)"),
    Case("points for images", lambda _: train(mixtures.ring()), r"shape \(1, 8, 8\), but the data are \(2,\)"),
    Case(
        "a label that the networks do not know",
        lambda _: train(
            image_set(400, labels=(torch.arange(400) == 77) * 3),
            networks.NetworkConfig(**PAIR.as_dict() | {"classes": 3}),
        ),
        "know 3 classes, but the data hold the label 3",
    ),
    Case("D with a column", lambda _: train(image_set(), D=Column()), r"shape \(4,\), but gave \(4, 1\)"),
    Case("D with NaN", lambda _: train(image_set(), D=Lost()), "logits must be finite, but hold NaN"),
    Case("NaN in the data", lambda _: train(NanPoints()), "nan at step 1; .*of step 0 .*lower", training.DivergedError),
    Case(
        "unmeasured number",
        lambda _: training.Log(1, {"d_loss": FOUR[0]}).loss,
        "d_loss, but not 'loss'",
        AttributeError,
    ),
]


class Trap:
    """An object whose unpickling would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


CHECKPOINTS = [
    Case("missing", lambda t: checkpoints.restore(state(), t / "x"), "no checkpoint at .*x; train", CheckpointError),
    Case("a folder", lambda t: checkpoints.read_settings(t), "no checkpoint at", CheckpointError),
    Case(
        "an image",
        lambda t: checkpoints.read_settings(a_file(t)),
        r"file\.png is not a whole safetensors file",
        CheckpointError,
    ),
    Case(
        "truncated",
        lambda t: checkpoints.restore(state(), a_checkpoint(t, lambda c: c[: len(c) // 2])),
        "not a whole safetensors file .*use an older checkpoint",
        CheckpointError,
    ),
    Case(
        "emptied",
        lambda t: checkpoints.load_generator(a_checkpoint(t, lambda c: b"")),
        "not a whole safetensors file",
        CheckpointError,
    ),
    Case(
        "one bit tampered with",
        lambda t: checkpoints.restore(state(), a_checkpoint(t, flip_last_bit)),
        "is damaged: .*SHA-256; use an older checkpoint",
        CheckpointError,
    ),
    Case(
        "a pickle",
        lambda t: checkpoints.load_generator(a_file(t, pickle.dumps(Trap(t / "sprung")))),
        "not a whole safetensors file",
        CheckpointError,
    ),
    Case(
        "of another program",
        lambda t: checkpoints.read_settings(a_foreign_file(t)),
        "but not a gan_tutorial checkpoint 1; give a file that train wrote",
        CheckpointError,
    ),
    Case(
        "of other networks",
        lambda t: checkpoints.restore(state(networks.NetworkConfig(shape=(1, 8, 8), latent_dim=9)), a_checkpoint(t)),
        r"holds other networks: G\.\S+ is .* there, but .* here",
        CheckpointError,
    ),
    Case(
        "networks not named",
        lambda t: checkpoints.load_generator(a_nameless_checkpoint(t)),
        "does not say which networks it holds .*use restore",
        CheckpointError,
    ),
    Case(
        "NaN weights",
        lambda t: checkpoints.save(a_diverged_state(), t / "x", {}),
        r"G\.layers\.0\.weight holds NaN or infinity, so step 0 is not saved",
        CheckpointError,
    ),
    Case(
        "settings that are no plain values",
        lambda t: checkpoints.save(state(), t / "x", {"device": torch.device("cpu")}),
        "settings must be plain values that JSON holds",
        CheckpointError,
    ),
    Case("no folder", lambda t: checkpoints.save(state(), a_file(t) / "x", {}), r"file\.png", OSError),
]

ONE, TWO = torch.zeros(3), torch.zeros(2)
SAMPLING = [
    Case("no samples", lambda _: sampling.latents(0, 4), "count must be an integer of at least 1, but is 0"),
    Case("no numbers", lambda _: sampling.latents(4, 0), "latent_dim must be an integer of at least 1"),
    Case("negative seed", lambda _: sampling.latents(4, 4, -1), "seed must be an integer of at least 0"),
    Case("truncated to 0", lambda _: sampling.latents(4, 4, truncation=0), r"truncation .*\(0, inf\), but is 0"),
    Case("NaN truncation", lambda _: sampling.latents(4, 4, truncation=NAN), "truncation .*but is nan"),
    Case("z of another size", lambda _: sampling.sample(mlp(), torch.zeros(2, 9)), r"\(N, 4\), but has \(2, 9\)"),
    Case("labels wanted", lambda _: sampling.sample(mlp(classes=2), Z), "built with 2 classes; give labels"),
    Case(
        "labels too few",
        lambda _: sampling.sample(mlp(classes=2), Z, torch.zeros(2, dtype=torch.int64), batch_size=2),
        r"shape \(3,\), but are .*\(2,\)",
    ),
    Case(
        "no such class",
        lambda _: sampling.sample(mlp(classes=2), Z, torch.tensor([0, 1, 2])),
        r"labels must lie in \[0, 1\], but reach from 0 to 2",
    ),
    Case(
        "a diverged generator",
        lambda _: sampling.sample(a_diverged_state().G, torch.zeros(2, 4)),
        "made NaN or infinity; were its weights saved after training diverged",
    ),
    Case("one at a time, less one", lambda _: sampling.sample(mlp(), Z, batch_size=0), "batch_size must .* but is 0"),
    Case("one step", lambda _: sampling.lerp(ONE, ONE, 1), "steps must be an integer of at least 2, but is 1"),
    Case("ends of two sizes", lambda _: sampling.slerp(ONE, TWO, 3), r"one size, but are \(3,\), \(2,\)"),
    Case("ends in batches", lambda _: sampling.slerp(Z, Z, 3), r"vectors of one size, but are \(3, 4\)"),
    Case("two sizes", lambda _: sampling.nearest(images(), images(size=4)), r"one shape, .*\(4, 1, 4, 4\)"),
    Case("nothing to search", lambda _: sampling.nearest(images(), images(0)), r"\(0, 1, 8, 8\)"),
    Case("bytes", lambda _: sampling.nearest(images(), image_set().pixels), "uint8; scale .*to_unit_range"),
]

CLOUD = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
METRICS = [
    Case("two widths", lambda _: metrics.frechet_distance(CLOUD, CLOUD[:, :2]), r"\(N, 3\), but are \(20, 2\)"),
    Case("no features", lambda _: metrics.frechet_distance(ONE, CLOUD), r"real features .*but are \(3,\)"),
    Case("a number", lambda _: metrics.frechet_distance(torch.tensor(1.0), CLOUD), r"real features .*\(\)"),
    Case("too few samples", lambda _: metrics.frechet_distance(CLOUD, CLOUD[:3]), "fake has 3; sample more"),
    Case("NaN features", lambda _: metrics.frechet_distance(CLOUD * NAN, CLOUD), "real features must be finite"),
    Case("kernel, two widths", lambda _: metrics.kernel_distance(CLOUD, CLOUD[:, :2]), r"\(N, 3\), but are \(20, 2\)"),
    Case("kernel of one", lambda _: metrics.kernel_distance(CLOUD[:1], CLOUD), "at least 2 samples .*real has 1"),
    Case("kernel, infinite", lambda _: metrics.kernel_distance(CLOUD, CLOUD / 0), "fake features must be finite"),
    Case("kernel of images", lambda _: metrics.kernel_distance(images(), images()), r"are \(4, 1, 8, 8\)"),
    Case("few neighbours", lambda _: metrics.precision_recall(CLOUD, CLOUD[:3]), "at least 4 samples .*fake has 3"),
    Case("no neighbours", lambda _: metrics.precision_recall(CLOUD, CLOUD, 0), "neighbours .*at least 1, but is 0"),
    Case("half a neighbour", lambda _: metrics.density_coverage(CLOUD, CLOUD, 2.5), "neighbours .*but is 2.5"),
    Case("lost precision", lambda _: metrics.precision_recall(CLOUD, CLOUD * NAN), "fake features must be finite"),
    Case("one number a sample", lambda _: metrics.precision_recall(CLOUD[:, 0], CLOUD), r"are \(20,\)"),
    Case("density of few", lambda _: metrics.density_coverage(CLOUD[:5], CLOUD), "at least 6 samples .*real has 5"),
    Case("density, two widths", lambda _: metrics.density_coverage(CLOUD, CLOUD[:, :1]), r"but are \(20, 1\)"),
    Case("scores of few", lambda _: metrics.feature_scores(CLOUD, CLOUD[:3]), "fake has 3; sample more"),
    Case("scores of integers", lambda _: metrics.feature_scores(CLOUD.long(), CLOUD), "floating-point tensor .*int64"),
    Case("scores of a list", lambda _: metrics.feature_scores([[0.0]], CLOUD), "real features must be a .*list"),
    Case("two histograms", lambda _: metrics.histogram_divergence(FOUR, FIVE), r"one shape \(C,\).*\(4,\) and \(5,\)"),
    Case("table of shares", lambda _: metrics.histogram_divergence(Z, Z), r"one shape \(C,\).*\(3, 4\)"),
    Case("counts", lambda _: metrics.histogram_divergence(FOUR + 7, FOUR + 0.25), "shares must sum to 1, .*28"),
    Case(
        "NaN shares",
        lambda _: metrics.histogram_divergence(FOUR * NAN, FOUR + 0.25),
        "shares must sum to 1, but sum to nan",
    ),
    Case(
        "negative shares",
        lambda _: metrics.histogram_divergence(torch.tensor([1.5, -0.5]), TWO + 0.5),
        "shares must not be negative",
    ),
    Case(
        "a class that the reference lacks",
        lambda _: metrics.histogram_divergence(TWO + 0.5, torch.tensor([1.0, 0.0])),
        "class 1 has a share of 0.5, but none in the reference",
    ),
    Case("no labels", lambda _: metrics.class_histogram(FOUR[:0].long(), 3), r"at least one integer .*\[\]"),
    Case("label too high", lambda _: metrics.class_histogram(torch.arange(4), 3), r"\[0, 2\], but are \[0, 1"),
    Case("negative label", lambda _: metrics.class_histogram(torch.arange(4) - 1, 3), r"are \[-1, 0, 1, 2\]"),
    Case("float labels", lambda _: metrics.class_histogram(FOUR, 3), r"integers \(N,\), but are torch.float32"),
    Case("labels in a table", lambda _: metrics.class_histogram(Z.long(), 3), r"int64 of shape \(3, 4\)"),
    Case("points in space", lambda _: metrics.mode_report(CLOUD, mixtures.ring()), r"\(N, 2\) .*are \(20, 3\)"),
    Case("no points", lambda _: metrics.mode_report(CLOUD[:0, :2], mixtures.ring()), r"N at least 1.*\(0, 2\)"),
    Case("infinite points", lambda _: metrics.mode_report(CLOUD[:, :2] / 0, mixtures.ring()), "must be finite"),
    Case("unknown set", lambda _: metrics.image_report(images(size=28), "cats"), "but not for 'cats'", DataError),
    Case("other images", lambda _: metrics.image_report(images(200)), r"\(N, 1, 28, 28\).*\(200, 1, 8, 8\)", DataError),
    Case("too few images", lambda _: metrics.image_report(images(9, size=28)), "64 features.* has 9"),
    Case("no classifier", lambda _: features.load_classifier("cifar10"), "'cifar10'; train one with", DataError),
    Case("colour", lambda _: features.Classifier().describe(images(4, 3, 28)), r"but got \(4, 3, 28, 28\)", DataError),
    Case("no batches", lambda _: features.Classifier().describe(images(size=28), 0), "batch_size must .* but is 0"),
    Case("no epochs", lambda _: features.train_classifier(image_set(size=28), 0), "epochs .*but is 0"),
    Case("no batch", lambda _: features.train_classifier(image_set(size=28), 1, 0), "batch_size .*but is 0"),
    Case("small images", lambda _: features.train_classifier(image_set()), r"\(N, 1, 28, 28\)", DataError),
]

FRAME = np.zeros((4, 4, 3), np.uint8)
PLOTTING = [
    Case("one image alone", lambda _: plotting.tile(images()[0]), r"\(N, C, H, W\).*got \(1, 8, 8\)", DataError),
    Case("no images", lambda _: plotting.tile(images(0)), "N at least 1", DataError),
    Case("unscaled images", lambda _: plotting.image_grid(images(value=2)), "reach 2; scale them", DataError),
    Case("NaN images", lambda t: plotting.save_grid(images(value=NAN), t / "x.png"), "hold NaN", DataError),
    Case("no columns", lambda _: plotting.tile(images(), 0), "columns must be an integer of at least 1"),
    Case("-1 columns", lambda _: plotting.image_grid(images(), -1), "columns must .*but is -1"),
    Case("unknown format", lambda t: plotting.save_grid(images(), t / "x.nonsense"), r"x\.nonsense must end in \.png"),
    Case("no folder", lambda t: plotting.save_grid(images(), a_file(t) / "x.png"), r"file\.png", OSError),
    Case("no frames", lambda _: plotting.Player([], [], "nothing"), "label for each frame, but got 0 frames"),
    Case("too few labels", lambda _: plotting.Player([FRAME] * 2, ["a"], "grey"), "2 frames, 1 labels"),
    Case("no alt text", lambda _: plotting.Player([FRAME], ["a"], " "), "alt text: say what"),
    Case("float frames", lambda _: plotting.Player([FRAME / 255], ["a"], "grey"), r"uint8 .*is float64 \(4, 4, 3\)"),
    Case("tensor frames", lambda _: plotting.Player([images()], ["a"], "grey"), "is Tensor; see plotting.tile"),
    Case("unknown objective", lambda _: widgets.draw_losses("gan"), "objective must be one of .*but is 'gan'"),
    Case(
        "unknown preset", lambda _: recipes.preset("fast"), "preset must be one of quick, best, article, but is 'fast'"
    ),
    Case("unknown setting", lambda _: recipes.preset("quick").variant(lr=1), "no setting lr; it has objective, kind"),
    Case("setting out of range", lambda _: recipes.PLANE.variant(steps=0), "steps must be an integer of at least 1"),
    Case("objective of a recipe", lambda _: recipes.Recipe(objective="gan"), "objective must be one of .*'gan'"),
    Case(
        "unknown augmentation", lambda _: training.TrainConfig(augment=("flip",)), "sequence of colour.*but is .*flip"
    ),
    Case("one word for a policy", lambda _: augment.require_policy("colour"), "sequence of .*but is 'colour'"),
    Case(
        "points to augment", lambda _: augment.augment(CLOUD, ("cutout",), RNG), r"\(N, C, H, W\), but got .*\(20, 3\)"
    ),
    Case("bytes to augment", lambda _: augment.augment(images().byte(), ("colour",), RNG), "floating point .*uint8"),
    Case("no spread", lambda _: widgets.draw_game(std=0), r"std must be a number in \(0, inf\), but is 0"),
    Case("no curve", lambda _: plotting.curves({}), "needs at least one named series"),
    Case("no direction", lambda _: widgets.direction_explorer(mlp(), {}), r"needs directions \(4,\), but got \{\}"),
    Case("a longer one", lambda _: widgets.direction_explorer(mlp(), {"a": ONE}), r"'a': \(3,\)"),
    Case("snapshots unlabelled", lambda _: widgets.replay([images()], []), "label for each snapshot, .*1 and 0"),
]

TABLE = {
    "data": DATA,
    "runtime": RUNTIME,
    "networks": NETWORKS,
    "losses": LOSSES,
    "training": TRAINING,
    "checkpoints": CHECKPOINTS,
    "sampling": SAMPLING,
    "metrics": METRICS,
    "plotting": PLOTTING,
}
ROWS = [pytest.param(case, id=f"{module}: {case.name}") for module, cases in TABLE.items() for case in cases]


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_input_ends_in_a_clear_error(case, tmp_path):
    before = torch.get_rng_state()
    with pytest.raises(case.error, match=case.message) as raised:
        case.act(tmp_path)
    assert raised.type is case.error or case.error is OSError, "the documented type, no other that derives from it"
    told = str(raised.value)
    assert "\n" not in told, "one line, so that the command line can print it"
    assert len(told) < 400
    assert not (tmp_path / "sprung").exists(), "no file may run code"
    assert not list(tmp_path.rglob(".*.part*")), "no half-written file stays"
    torch.set_rng_state(before)


def test_the_table_is_large_and_its_rows_are_distinct():
    assert len(ROWS) >= 100
    assert len({row.id for row in ROWS}) == len(ROWS)
