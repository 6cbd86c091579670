"""Make the bundled data and weights again: python tools/make_assets.py digits|fashion|speech|classifiers|gan --help."""

import gzip
import hashlib
import itertools
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from scipy.signal import resample_poly
from tqdm import tqdm

from gan_tutorial import (
    audio,
    checkpoints,
    data,
    features,
    losses,
    metrics,
    recipes,
    runtime,
    sampling,
    sounds,
    training,
)

ASSETS = Path(__file__).parents[1] / "gan_tutorial" / "assets"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-x-gbclan")
VARIANTS = ("", "+m3", "+m7", "+f2", "+f4", "+klatt4")  # of espeak-ng: larynx and mouth
PITCHES, SPEEDS = (30, 50, 70), (210, 250)  # of 99; words in a minute
SPEECH_RATE, SPEECH_LENGTH = 5000, 2048
app = typer.Typer(help=__doc__, add_completion=False)


def write_sums() -> None:
    """Write the SHA-256 of every asset beside them, in the format of sha256sum."""
    files = sorted(p for suffix in ("npz", "safetensors") for p in ASSETS.glob(f"*.{suffix}"))
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (ASSETS / "SHA256SUMS").write_text("".join(lines))
    for line in lines:
        print(line, end="")


def stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return the sorted indices of a random sample that holds the same share of every class, within one image."""
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: round(share * len(members))])
    return np.sort(np.concatenate(chosen))


def save(name: str, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Write one split, in random order, so that any slice of it holds all classes."""
    order = rng.permutation(len(images))
    np.savez_compressed(ASSETS / f"{name}.npz", images=images[order], labels=labels[order])
    print(name, images.shape, np.bincount(labels))


@app.command()
def digits(
    source: Annotated[Path, typer.Argument(help="an .npz with x (10000, 28, 28) and y (10000,), both uint8")],
) -> None:
    """Split 10,000 MNIST digits into 8,000 to train and 2,000 held out, a fifth of each class."""
    with np.load(source, allow_pickle=False) as file:
        images, labels = file["x"], file["y"]
    rng = np.random.default_rng(0)
    held_out = stratified(labels, 0.2, rng)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    save("digits-train", images[kept], labels[kept], rng)
    save("digits-test", images[held_out], labels[held_out], rng)
    write_sums()


@app.command()
def fashion(folder: Annotated[Path, typer.Argument(help="the folder with Fashion-MNIST's four idx.gz files")]) -> None:
    """Take 10,000 of Fashion-MNIST's training images and 2,000 of its test images, the same share of each class."""
    rng = np.random.default_rng(0)
    for split, prefix, share in (("train", "train", 10_000 / 60_000), ("test", "t10k", 2_000 / 10_000)):
        with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        chosen = stratified(labels, share, rng)
        save(f"fashion-{split}", images[chosen], labels[chosen], rng)
    write_sums()


def speak(word: str, voice: str, pitch: int, speed: int) -> np.ndarray:
    """Return a word as espeak-ng says it, float (2048,) in [-0.95, 0.95] at 5 kHz, from its first sound on."""
    command = ["espeak-ng", "--stdout", "-z", "-v", voice, "-p", str(pitch), "-s", str(speed), word]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    samples = np.frombuffer(spoken[44:], "<i2") / 32768  # behind the header of the WAV file; at 22,050 Hz
    samples = resample_poly(samples, SPEECH_RATE, 22_050)
    first = np.flatnonzero(np.abs(samples) > 0.03 * np.abs(samples).max())[0]
    samples = samples[max(0, first - 20) :][:SPEECH_LENGTH]
    samples = np.pad(samples, (0, SPEECH_LENGTH - len(samples)))
    samples *= np.minimum(1, np.arange(SPEECH_LENGTH)[::-1] / 100)  # no click at the end
    return 0.95 * samples / np.abs(samples).max()


@app.command()
def speech() -> None:
    """Let espeak-ng say the ten digits in 6 accents, 18 voices (6 variants, 3 pitches) and 2 speeds; hold out 3 voices.

    Accents often share a word to the last sample, so voices are held out in all accents, and a take is kept once.
    """
    rng = np.random.default_rng(0)
    voices = list(itertools.product(VARIANTS, PITCHES))
    held_out = set(rng.permutation(len(voices))[: len(voices) // 6].tolist())
    takes = {split: ({}, []) for split in data.SPLITS}
    for index, (variant, pitch) in enumerate(tqdm(voices)):
        spoken, labels = takes["test" if index in held_out else "train"]
        for accent, speed, (label, word) in itertools.product(ACCENTS, SPEEDS, enumerate(WORDS)):
            take = sounds.to_bytes(torch.from_numpy(speak(word, accent + variant, pitch, speed))).numpy()
            if take.tobytes() not in spoken:
                spoken[take.tobytes()] = take
                labels.append(label)
    for split, (spoken, labels) in takes.items():
        order = rng.permutation(len(labels))
        kept = {"sounds": np.stack(list(spoken.values()))[order], "labels": np.array(labels, np.uint8)[order]}
        np.savez_compressed(ASSETS / f"speech-{split}.npz", **kept, rate=SPEECH_RATE)
        print(f"speech-{split}", kept["sounds"].shape, np.bincount(labels))
    write_sums()


@app.command()
def classifiers() -> None:
    """Train the two bundled classifiers, and print their accuracy on the held-out images."""
    for name in data.BUNDLED:
        held_out = data.load_images(name, "test")
        classifier = features.train_classifier(data.load_images(name, "train"))
        features.save_classifier(classifier, ASSETS / f"{name}-classifier.safetensors")
        _, predicted = classifier.describe(held_out.images)
        print(f"{name}: {(predicted == held_out.labels).float().mean():.2%} of {len(held_out)} held-out images")
    write_sums()


@app.command()
def gan(
    name: Annotated[str, typer.Argument(help="digits, fashion or speech")],
    steps: Annotated[int | None, typer.Option(help="fewer, to try the command")] = None,
    folder: Annotated[Path, typer.Option(help="where the file goes")] = ASSETS,
) -> None:
    """Train the bundled pair by the recipe ``best``, and print the scores of its samples.

    The file is a checkpoint of step 0 whose G is the average of the training: what a warm start begins with.
    """
    if name == "speech":
        gan_speech(steps or audio.SPEECH.steps, folder)
        return
    recipe = recipes.preset("best").variant(**({} if steps is None else {"steps": steps}))
    images, state = data.load_images(name), recipe.fresh()
    for _ in tqdm(recipe.run(state, images), total=recipe.train.steps):
        pass
    report = metrics.image_report(
        sampling.sample(state.G_ema, sampling.latents(2000, state.G.latent_dim, seed=2), torch.arange(2000) % 10), name
    )
    print(f"{name}: FD {report.fd:.3f}, floor {report.floor:.3f}, ratio {report.ratio:.2f}; {report.scores}")
    made = training.TrainState.fresh(state.G_ema, state.D, recipe.train)
    settings = {"data": name, "objective": recipe.objective, "network": recipe.network.as_dict()}
    checkpoints.save(made, folder / f"{name}-gan.safetensors", settings)
    if folder == ASSETS:
        write_sums()


def gan_speech(steps: int, folder: Path) -> None:
    """Train the bundled generator of spoken digits, store it in 16 bits, and print the scores of its sounds."""
    device = runtime.choose_device()
    train, held_out = (sounds.load_speech(split) for split in data.SPLITS)
    config = replace(audio.SPEECH, steps=steps)
    torch.manual_seed(config.seed)
    state = training.TrainState.fresh(*audio.speech_pair(), config, device)
    for _ in tqdm(training.train(state, train, losses.objective("relativistic"), config), total=steps):
        pass
    weights = {key: value.cpu() for key, value in state.G_ema.state_dict().items()}
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    with runtime.replacing(folder / "speech-gan.safetensors") as temporary:
        save_file(halves, temporary)
    state.G_ema.load_state_dict(halves)
    labels = torch.arange(1000) % 10
    fake = sampling.sample(state.G_ema, sampling.latents(1000, state.G.latent_dim, seed=2), labels)
    recogniser = audio.train_recogniser(train)
    for kind, waves, asked in (("held-out", held_out.waves, held_out.labels), ("generated", fake, labels)):
        print(f"{kind}: {(recogniser(waves).argmax(1) == asked).float().mean():.2%} recognised as what they should be")
    few = len(held_out)
    real, stand_in, made = (audio.bands(w[:few], train.rate) for w in (held_out.waves, train.waves, fake))
    fd, floor = (metrics.frechet_distance(real, other) for other in (made, stand_in))
    print(f"speech: FD {fd:.1f}, floor {floor:.1f}, ratio {fd / floor:.2f}, on {few} sounds each")
    if folder == ASSETS:
        write_sums()


if __name__ == "__main__":
    app()
