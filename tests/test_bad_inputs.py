"""Bad inputs are refused at a boundary: the documented error, in one line that says what to do.

The boundaries here are files and folders, settings, the first training batch, checkpoints, and
the numbers and pictures that the command line passes on. Inside, PyTorch's own errors are enough.
Each row of a table has a call, which gets an empty folder; a part of its message; and the kind of
the error if it is not ValueError.
"""

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from gan_tutorial import checkpoints, data, metrics, mixtures, networks, plotting, runtime, training
from gan_tutorial.checkpoints import CheckpointError
from gan_tutorial.data import DataError, load_images, to_bytes, to_unit_range
from gan_tutorial.recipes import Recipe, init_packed, preset
from gan_tutorial.sampling import generate

NAN, INF = math.nan, math.inf
BEYOND = 10**30  # more than any machine counts
SMALL = Recipe(shape=(1, 8, 8), latent_dim=4, width=2, steps=2, batch_size=4)

Call = Callable[[Path], object]


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


def call(function: Callable, *arguments, **options) -> Call:
    return lambda _: function(*arguments, **options)


def png(mode: str = "L", side: int = 4, cut: int | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, "png")
    return buffer.getvalue()[:cut]


def folder(files: dict[str, bytes], *split: str, **options) -> Call:
    """Return a call that loads a folder with these files; a name with a final slash is a folder."""

    def act(place: Path) -> object:
        for name, content in files.items():
            home = place / name if name.endswith("/") else (place / name).parent
            home.mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                (place / name).write_bytes(content)
        return load_images(place, *split, **options)

    return act


ONE, BROKEN = {"x.png": png()}, {f"{i}.png": png(cut=36 + i) for i in range(9)}
RUN = {"checkpoint.safetensors": b"", "samples-000010.png": png()}
FOLDERS = {
    "empty folder": (folder({}), r"has no image \(\.jpg, .*, but nothing"),
    "empty classes": (folder({"a/": b"", "b/": b""}), "but empty subfolders 2"),
    "other files": (folder({"a.heic": b"", "b.HEIC": b"", "c": b""}), r"but \.heic 2, files wi"),
    "no image": (folder({"x.png": b"text"}), r"1 of 1 .* x\.png \(not a pic.*; repair, convert"),
    "broken": (folder(BROKEN | ONE), r"8 of 8 .*: 0\.png \(.*, 1\.png .*, and 4 more; repair"),
    "a bomb": (folder({"x.png": png("1", 16_000)}), "256000000 pixels.*repair, convert or delete"),
    "stray": (folder(ONE | {"a/y.png": png()}), r"1 images beside .* \(a: 1\), .*; move them"),
    "a run": (folder(RUN), "holds a run, whose samples .* are not data; move the images"),
    "too few": (folder(ONE, "test"), "too few images for a test split"),
    "too large": (folder(ONE, size=10**7), "do not fit into memory; give a smaller size"),
}
SETS = {
    "unknown set": (call(load_images, "imagenet"), "'imagenet'; use digits, fashion, flowers, m"),
    "empty name": (call(load_images, ""), "no data set or folder ''"),
    "missing": (lambda t: load_images("cifar10", root=t), "cifar10 cannot .*download=True"),
    "unknown asset": (call(data.asset, "cats.npz"), "'cats.npz'; there are"),
    "float pixels": (call(image_set, pixels=images(8)), "uint8.*float32"),
    "no batch": (call(image_set, pixels=torch.zeros(1, 8, 8).byte()), "1, 8, 8"),
    "empty set": (call(image_set, 0), "no images; give at least one"),
    "no pixels": (call(image_set, 2, 0), "no images"),
    "few labels": (call(image_set, labels=torch.arange(4)), r"\(8,\).*\(4,\)"),
    "float labels": (call(image_set, labels=torch.zeros(8)), "int64.*float32"),
    "label too high": (call(image_set, labels=torch.arange(8)), "4.*7"),
    "negative label": (call(image_set, labels=torch.arange(8) - 5), "-5"),
    "scaled twice": (call(to_unit_range, images(value=-1)), "already"),
    "NaN pixels": (call(to_unit_range, images(value=NAN)), "nan"),
    "scaled to [0, 1]": (call(to_unit_range, torch.eye(8)), r"but all are in \[0, 1\], 0 to 1; sc"),
    "stacks of clothes in four classes": (call(data.StackedDigits, image_set()), "4 classes"),
    "grey stacks": (lambda _: metrics.StackEvaluator().report(torch.zeros(6, 1, 28, 28)), "3, 28"),
    "NaN flowers": (
        call(metrics.flower_report, torch.full((2, 3, 32, 32), NAN), torch.zeros(2).long()),
        "nan",
    ),
    "bytes again": (call(to_bytes, image_set().pixels), "uint8"),
    "one image": (call(plotting.tile, images()[0]), r"shape .*\(1, 8, 8\)"),
    "unscaled": (call(plotting.tile, images(value=2)), "from 2 to 2; see"),
    "NaN image": (call(plotting.tile, images(value=NAN)), "nan"),
    "no classifier": (call(metrics.Evaluator, "cats"), "'cats', only for .*"),
}
ARGUMENTS = {
    "split": (call(load_images, "digits", "val"), "split must be one of train, test.*'val'"),
    "channels": (call(load_images, "digits", channels=2), "must be 1, grey, or 3, .*but is 2"),
    "channels as text": (call(load_images, "digits", channels="1"), "3, colour, but is '1'"),
    "size 0": (call(load_images, "digits", size=0), "size must be an integer of at least 1"),
    "far too large": (folder(ONE, size=BEYOND), "size must be an integer from 1 to 9"),
    "no device": (call(runtime.choose_device, None), "'None' here; use one of auto, cpu"),
    "unknown device": (call(runtime.choose_device, "tpu!"), "'tpu!' here; use one of auto"),
    "absent device": (call(runtime.choose_device, "cuda:99"), "no device 'cuda:99' here"),
    "no memory": (call(runtime.choose_device, "meta"), "no device 'meta' here; use"),
    "a device's library is missing": (call(runtime.choose_device, "hpu"), "no device 'hpu' here"),
    "preset": (call(preset, "fast"), "one of quick, best, .*, plane, but is 'fast'"),
    "bf16": (call(Recipe, bf16=True, penalty_noise=0.1), "set penalty_noise to 0"),
    "spectral": (
        call(Recipe(spectral=True, r1=1, penalty_noise=1).init),
        "as spectral norm does; set",
    ),
    "no setting": (call(Recipe, lr=1), "unexpected keyword argument 'lr'", TypeError),
    "side of 30": (call(Recipe(shape=(1, 30, 30)).build), r"8, 10, .* or 128, .*\(1, 30, 30\)"),
    "pack and classes": (call(init_packed, replace(SMALL, classes=3), 2), "to 0, not 3"),
    "pack of 3": (call(init_packed, SMALL, 3), "pack must divide batch_size, 4, but is 3"),
    "no pack": (call(init_packed, SMALL, 0), "pack must be an integer of at least 1"),
    "no frames": (call(plotting.Player, [], [], "nothing"), "not 0 frames and 0 labels"),
    "oblong": (call(Recipe(shape=(1, 8, 16)).build), r"\(C, S, S\).*\(1, 8, 16\)"),
    "points for conv": (call(Recipe(shape=(2,)).build), r"such as .*\(2,\)"),
}
SETTINGS = [
    ("objective", "gan", "one of minimax, .*, but is 'gan'"),
    ("network", "vit", "one of mlp, conv, but is 'vit'"),
    ("augment", ("flip",), "one of colour, .*but is 'flip'"),
    ("augment", "colour", "one of colour, .*but is 'c'"),
    ("steps", 0, "steps must be an integer of at least 1, but is 0"),
    ("steps", BEYOND, f"from 1 to {2**63 - 1}, but is {BEYOND}"),
    ("batch_size", 0, "batch_size must be an integer of at least 1"),
    ("batch_size", 64.0, "batch_size must .*but is 64.0"),
    ("batch_size", BEYOND, "batch_size must be an integer from 1 to 9"),
    ("seed", -1, "seed must be an integer of at least 0, but is -1"),
    ("seed", 2**63, "seed must be an integer from 0 to 9223372036854775"),
    ("lr_G", 0, r"lr_G must be a number in \(0, inf\), but is 0"),
    ("lr_G", "2e-4", "lr_G must be a number .*but is '2e-4'"),
    ("lr_D", -1e-4, r"lr_D must be a number in \(0, inf\), but is -0.0001"),
    ("lr_D", NAN, "lr_D must be a number .*but is nan"),
    ("lr_end", 2, r"lr_end must be a number in \[0, 1\], but is 2"),
    ("ema", 1.0, r"ema must be a number in \[0, 1\), but is 1.0"),
    ("betas", (0.5,), r"betas must be two numbers, but is \(0.5,\)"),
    ("betas", 0.5, "betas must be two numbers, but is 0.5"),
    ("betas", (0.5, 1.0), r"beta2 must be a number in \[0, 1\), but is 1.0"),
    ("r1", -1, r"r1 must be a number in \[0, inf\), but is -1"),
    ("gp", INF, "gp must be a number .*but is inf"),
    ("width", 0, "width must be an integer of at least 1, but is 0"),
    ("width", BEYOND, "width must be an integer from 1 to 9"),
    ("latent_dim", 0, "latent_dim must be an integer of at least 1"),
    ("latent_dim", BEYOND, "latent_dim must be an integer from 1 to 9"),
    ("classes", -1, "classes must be an integer of at least 0"),
    ("hidden", (8, 0), "shape and hidden must be .* but is 0"),
    ("shape", (1, 2.5, 2), "shape and hidden must .* but is 2.5"),
    ("shape", (1, BEYOND, 8), "shape and hidden must .* from 1 to 9"),
]


def train(samples: training.Data, recipe: Recipe = SMALL, D: nn.Module | None = None) -> Call:
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
COLOURED = replace(POINTS, augment=("colour",))
FIRST_BATCH = {
    "images of another size": (train(image_set(size=12)), r"\(1, 8, 8\), .*\(1, 12, 12\)"),
    "points for images": (train(mixtures.ring()), r"\(1, 8, 8\), but the data are \(2,\)"),
    "a class too many": (train(RARE, replace(SMALL, classes=3)), "3 classes, .*label 3"),
    "a class too many for D": (
        train(image_set(), replace(SMALL, classes=4), D=replace(SMALL, classes=2).build()[1]),
        "D has 2 classes, .*label 3",
    ),
    "finite differences of a D that changes": (
        train(
            image_set(),
            replace(SMALL, r1=0.1, penalty_noise=0.1, spectral=False),
            D=replace(SMALL, spectral=True).build()[1],
        ),
        "each changes D, as spectral norm does; set penalty_noise to 0 .*--no-spectral",
    ),
    "no check": (
        lambda _: list(training.stop_on_nan([], SMALL.init(), every=0)),
        "every must be an integer of at least 1, but is 0",
    ),
    "D with a column": (train(image_set(), D=Column()), r"logits \(4,\), not \(4, 1\)"),
    "D with NaN": (train(image_set(), D=Diverged()), "NaN or infinity for the first batch"),
    "NaN in the data": (train(mixtures.ring(std=NAN), POINTS), "check data and weights"),
    "coloured points": (train(mixtures.ring(), COLOURED), r"images \(N, C, H, W\), but .*\(2,\)"),
    "NaN later": (train(NanLater()), "nan at step 1; .*step 0; lower", training.DivergedError),
}


def a_checkpoint(folder: Path, damage: Callable[[bytes], bytes] = bytes) -> Path:
    path = folder / "checkpoint.safetensors"
    checkpoints.save(SMALL.init(), path, {})
    path.write_bytes(damage(path.read_bytes()))
    return path


def read(damage: Callable[[bytes], bytes]) -> Call:
    return lambda t: checkpoints.load_generator(a_checkpoint(t, damage))


def saved(state: training.TrainState = SMALL.init(), **settings) -> Call:  # noqa: B008
    return lambda t: checkpoints.save(state, t / "x", settings)


def described(**recipe) -> Call:
    """Return a call that loads a checkpoint whose header describes other networks."""

    def act(place: Path) -> object:
        checkpoints.save(SMALL.init(), place / "x", {"recipe": recipe})
        return checkpoints.load_generator(place / "x")

    return act


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


def torch_saved(**options) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, file, **options)
    return file.getvalue()


def exported(_: bytes) -> bytes:
    return checkpoints.safetensors_file({"w": torch.zeros(2)}, {"format": "gan_tutorial export 3"})


def restored(t: Path) -> object:
    return checkpoints.restore(replace(SMALL, latent_dim=9).init(), a_checkpoint(t))


OLDER, GIVE = "use an older checkpoint", "give a file that this version's train wrote"
CHECKPOINTS = {
    "missing": (lambda t: checkpoints.load_generator(t / "x"), "no checkpoint at .*x; train"),
    "a folder": (lambda t: checkpoints.read_settings(t), "no checkpoint at"),
    "truncated": (read(lambda b: b[: len(b) // 2]), f"not a complete .*{OLDER}"),
    "emptied": (read(lambda _: b""), f"not a complete safetensors file.*{OLDER}"),
    "one bit": (read(lambda b: b[:-1] + bytes([b[-1] ^ 1])), f"is damaged .*{OLDER}"),
    "of another program": (
        read(lambda b: safetensors.torch.save(safetensors.torch.load(b))),
        f"has the format null, not .*; {GIVE}",
    ),
    "exported": (read(exported), "has the format .*; give the run that it was exported from"),
    "a .pth": (read(lambda _: torch_saved()), f"pickle of torch.save, .*not read; {GIVE}"),
    "an old .pth": (
        read(lambda _: torch_saved(_use_new_zipfile_serialization=False)),
        f"pickle of .*; {GIVE}",
    ),
    "a pickle": (
        read(lambda _: pickle.dumps(Trap(Path("sprung")))),
        f"pickle of torch.save, .*; {GIVE}",
    ),
    "a picture": (read(lambda _: png()), f"not a safet.*; {GIVE}"),
    "a text": (read(lambda _: b"a text, not weights"), f"not a safetensors file; {GIVE}"),
    "without a recipe": (read(bytes), "does not say which networks .*with restore"),
    "too wide": (
        described(width=10**6),
        r"has other networks: G_ema\.\S+ is .* there, but .* here",
    ),
    "far too wide": (described(width=2**62), "does not say which networks it holds"),
    "odd types": (described(width="8"), "does not say which networks .*width must be an integer"),
    "odd numbers": (described(width=BEYOND), "does not say which networks .*width must be"),
    "other networks": (restored, r"has other networks: G\.\S+ is .* there, but .* here"),
    "NaN weights": (
        saved(a_diverged_state()),
        r"G\.layers\.0\.weight holds NaN .* is not replaced",
    ),
    "objects": (saved(device=torch.device("cpu")), "settings must be plain values for JSON"),
}

G = networks.MLPGenerator(4, (2,), hidden=(8,), classes=2)
FREE = networks.MLPGenerator(4, (2,))
CLOUD = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
OUTPUT = {
    "no samples": (call(generate, G, 0), "count must be an integer of at least 1"),
    "latent seed of -1": (call(generate, G, 1, -1), "seed must be an integer"),
    "no such class": (call(generate, G, 1, label=2), "label .*from 0 to 1, .*2"),
    "a class for none": (call(generate, FREE, 1, label=0), "label 0 .*, but .* has no classes"),
    "truncated to 0": (call(generate, G, 1, truncation=0), r"truncation .*\(0, inf\), but is 0"),
    "diverged": (call(generate, a_diverged_state().G, 2), "NaN or infinity; did its training"),
    "few samples": (call(metrics.frechet_distance, CLOUD, CLOUD[:3]), "at least 4"),
    "NaN features": (call(metrics.feature_scores, CLOUD, CLOUD * NAN), "must be finite"),
    "no format": (lambda t: plotting.save_grid(images(), t / "x.odd"), r"x\.odd must end in \.png"),
    "a wide row": (call(plotting.require_grid, 4, (1, 8, 8), "x.png", 10**8), "lower --count or"),
    "many": (call(plotting.require_grid, BEYOND, (1, 8, 8), "x.png"), "count must be .* from 1"),
    "points": (call(plotting.require_grid, 4, (2,), "x.png"), r"samples \(2,\) are not images"),
    "long WebP": (call(plotting.require_grid, 2000, (1, 8, 8), "x.webp", 1), "16,383 a side, in x"),
}
DISK = {
    "checkpoint": (lambda t: checkpoints.save(SMALL.init(), a_file(t) / "x", {}), r"file\.png"),
    "picture": (lambda t: plotting.save_grid(images(), a_file(t) / "x.png"), r"file\.png"),
}

TABLES = [
    (FOLDERS, DataError),
    (SETS, DataError),
    (ARGUMENTS, ValueError),
    ({f"{k}={v!r:.9}": (call(Recipe, **{k: v}), text) for k, v, text in SETTINGS}, ValueError),
    (FIRST_BATCH, ValueError),
    (CHECKPOINTS, CheckpointError),
    (OUTPUT, ValueError),
    (DISK, OSError),
]
CASES = [
    pytest.param(act, message, *kind or [error], id=name)
    for table, error in TABLES
    for name, (act, message, *kind) in table.items()
]


@pytest.mark.parametrize(("act", "message", "error"), CASES)
def test_a_bad_input_ends_in_a_clear_error(act, message, error, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as raised:
        act(tmp_path)
    assert raised.type is error or error is OSError, "not a type derived from it"
    message = str(raised.value)
    assert "\n" not in message, "one line, so that the command line can print it"
    assert len(message) < 400
    assert not any(capsys.readouterr()), "nothing besides it"
    assert not (tmp_path / "sprung").exists(), "no file may run code"
    assert not list(tmp_path.rglob(".*.part*")), "no half-written file is left"
