"""Make the bundled data and weights again.

python tools/make_assets.py digits|fashion|speech|classifiers|gan --help.
"""

import gzip
import hashlib
import itertools
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from scipy.signal import resample_poly
from tqdm import tqdm

from gan_tutorial import checkpoints, data, files, metrics, recipes, runtime, sampling, training
from gan_tutorial.beyond import audio
from gan_tutorial.classifier import train_classifier

ASSETS = Path(__file__).resolve().parents[1] / "gan_tutorial" / "assets"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-x-gbclan")
VARIANTS = ("", "+m3", "+m7", "+f2", "+f4", "+klatt4")  # of espeak-ng: larynx and mouth
PITCHES, SPEEDS = (30, 50, 70), (210, 250)  # of 99; words in a minute
SPEECH_RATE, SPEECH_LENGTH = 5000, 2048
app = typer.Typer(help=__doc__, add_completion=False)


def write_sums() -> None:
    """Write the SHA-256 of every asset to SHA256SUMS, in the format of sha256sum."""
    paths = sorted([*ASSETS.glob("*.npz"), *ASSETS.glob("*.safetensors")])
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in paths]
    (ASSETS / "SHA256SUMS").write_text("".join(lines))
    for line in lines:
        print(line, end="")


def stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return the sorted indices of a random sample with the same share of every class."""
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: round(share * len(members))])
    return np.sort(np.concatenate(chosen))


def save(name: str, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Write one split in random order, so that any slice has all classes."""
    order = rng.permutation(len(images))
    np.savez_compressed(ASSETS / f"{name}.npz", images=images[order], labels=labels[order])
    print(name, images.shape, np.bincount(labels))


@app.command()
def digits(
    source: Annotated[
        Path, typer.Argument(help="an .npz with x (10000, 28, 28) and y (10000,), both uint8")
    ],
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
def fashion(
    folder: Annotated[
        Path, typer.Argument(help="the folder with Fashion-MNIST's four idx.gz files")
    ],
) -> None:
    """Take 10,000 of Fashion-MNIST's training images and 2,000 of its test images.

    Each class has the same share as in the full set.
    """
    rng = np.random.default_rng(0)
    for split, prefix, share in (
        ("train", "train", 10_000 / 60_000),
        ("test", "t10k", 2_000 / 10_000),
    ):
        with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        chosen = stratified(labels, share, rng)
        save(f"fashion-{split}", images[chosen], labels[chosen], rng)
    write_sums()


def speak(word: str, voice: str, pitch: int, speed: int) -> np.ndarray:
    """Return a word spoken by espeak-ng, float (2048,) in [-0.95, 0.95] at 5 kHz."""
    command = ["espeak-ng", "--stdout", "-z", "-v", voice, "-p", str(pitch), "-s", str(speed), word]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    samples = np.frombuffer(spoken[44:], "<i2") / 32768  # after the 44 bytes of WAV's header
    samples = resample_poly(samples, SPEECH_RATE, 22_050)
    first = np.flatnonzero(np.abs(samples) > 0.03 * np.abs(samples).max())[0]  # end of silence
    samples = samples[max(0, first - 20) :][:SPEECH_LENGTH]
    samples = np.pad(samples, (0, SPEECH_LENGTH - len(samples)))
    samples *= np.minimum(1, np.arange(SPEECH_LENGTH)[::-1] / 100)  # no click at the end
    return 0.95 * samples / np.abs(samples).max()


@app.command()
def speech() -> None:
    """Record espeak-ng: ten digits in 6 accents, 18 voices and 2 speeds; hold out 3 voices.

    A voice is one of 6 variants at one of 3 pitches. Accents often have the same samples for a
    word, so voices are held out in all accents, and equal takes are kept once.
    """
    rng = np.random.default_rng(0)
    voices = list(itertools.product(VARIANTS, PITCHES))
    held_out = set(rng.permutation(len(voices))[: len(voices) // 6].tolist())
    takes = {split: ({}, []) for split in data.SPLITS}
    for index, (variant, pitch) in enumerate(tqdm(voices)):
        spoken, labels = takes["test" if index in held_out else "train"]
        for accent, speed, (label, word) in itertools.product(ACCENTS, SPEEDS, enumerate(WORDS)):
            wave = torch.from_numpy(speak(word, accent + variant, pitch, speed))
            take = audio.to_bytes(wave).numpy()
            if take.tobytes() not in spoken:
                spoken[take.tobytes()] = take
                labels.append(label)
    for split, (spoken, labels) in takes.items():
        order = rng.permutation(len(labels))
        kept = {
            "sounds": np.stack(list(spoken.values()))[order],
            "labels": np.array(labels, np.uint8)[order],
        }
        np.savez_compressed(ASSETS / f"speech-{split}.npz", **kept, rate=SPEECH_RATE)
        print(f"speech-{split}", kept["sounds"].shape, np.bincount(labels))
    write_sums()


@app.command()
def classifiers() -> None:
    """Train the two bundled classifiers, and print their accuracy on the held-out images."""
    for name in data.BUNDLED:
        held_out = data.load_images(name, "test")
        classifier = train_classifier(data.load_images(name, "train"))
        with files.replacing(ASSETS / f"{name}-classifier.safetensors") as temporary:
            save_file(classifier.state_dict(), temporary)
        _, predicted = classifier.extract(held_out.images)
        accuracy = (predicted == held_out.labels).float().mean()
        print(f"{name}: {accuracy:.2%} of {len(held_out)} held-out images")
    write_sums()


@app.command()
def gan(
    name: Annotated[str, typer.Argument(help="digits, fashion, flowers or speech")],
    steps: Annotated[int | None, typer.Option(help="fewer, to try the command")] = None,
    folder: Annotated[Path, typer.Option(help="where the file goes")] = ASSETS,
) -> None:
    """Train the bundled networks with the preset ``best``, and print the scores of the samples.

    The file is a checkpoint of step 0 whose G is the averaged one, for warm starts. Flowers and
    speech have settings of their own.
    """
    folder = folder.resolve()
    if steps is not None and (steps < 1 or folder == ASSETS):
        raise typer.BadParameter("give 1 or more, and another --folder: these are for the package")
    if name == "speech":
        gan_speech(steps or audio.SPEECH_CONFIG.steps, folder)
        return
    if name == "flowers":
        gan_flowers(steps or recipes.preset("flowers").steps, folder)
        return
    recipe = recipes.preset("best")
    recipe = replace(recipe, steps=steps or recipe.steps)
    images, state = data.load_images(name), recipe.init()
    for _ in tqdm(training.train(state, images, recipe), total=recipe.steps):
        pass
    G = sampling.recalibrate_batchnorm(state.G_ema)
    z, labels = sampling.latents(2000, G.latent_dim, seed=2), images.draw_labels(2000, seed=2)
    report = metrics.Evaluator(name).report(sampling.sample(G, z, labels))
    floor = report.fd_floor
    print(f"{name}: {report.ratio:.2f} floors of {floor.mean:.3f} ± {floor.std:.3f}")
    print(f"{report.scores}, floors {report.floors}")
    start = training.TrainState.init(G, state.D, recipe)
    settings = {"data": name, "recipe": asdict(recipe)}
    checkpoints.save(start, folder / f"{name}-gan.safetensors", settings)
    if folder == ASSETS:
        write_sums()


def gan_flowers(steps: int, folder: Path) -> None:
    """Train the pair for flowers of 64×64 pixels, save it in float16, print its scores."""
    recipe = replace(recipes.preset("flowers"), steps=steps)
    images, state = data.load_images("flowers", size=recipe.shape[-1]), recipe.init()
    for _ in tqdm(training.train(state, images, recipe), total=steps):
        pass
    state.G_ema = sampling.recalibrate_batchnorm(state.G_ema)
    settings = {"data": "flowers", "recipe": asdict(recipe)}
    checkpoints.save_networks(state, folder / "flowers-gan.safetensors", settings)
    G, _ = checkpoints.load_generator(folder / "flowers-gan.safetensors")
    report = metrics.flower_report(sampling.generate(G, 1000, seed=2), sampling.labels(G, 1000))
    print(f"{report.asked:.1%} as asked, {report.covered} of 72 kinds, {report.distances}")
    print(f"median error {report.error.median():.1f} grey levels of 255")
    if folder == ASSETS:
        write_sums()


def gan_speech(steps: int, folder: Path) -> None:
    """Train the bundled generator of spoken digits, save it in float16, print its scores."""
    device = runtime.choose_device()
    train, held_out = (audio.load_speech(split) for split in data.SPLITS)
    config = replace(audio.SPEECH_CONFIG, steps=steps)
    torch.manual_seed(config.seed)
    state = training.TrainState.init(*audio.speech_networks(), config, device)
    for _ in tqdm(training.train(state, train, config), total=steps):
        pass
    state.G_ema = sampling.recalibrate_batchnorm(state.G_ema)
    weights = {key: value.cpu() for key, value in state.G_ema.state_dict().items()}
    for key, value in weights.items():
        weights[key] = value.half() if value.is_floating_point() else value
    with files.replacing(folder / "speech-gan.safetensors") as temporary:
        save_file(weights, temporary)
    state.G_ema.load_state_dict(weights)
    fake = sampling.generate(state.G_ema, 1000, seed=2)
    recogniser = audio.train_recogniser(train)
    for kind, waves, labels in (
        ("held-out", held_out.waves, held_out.labels),
        ("generated", fake, sampling.labels(state.G_ema, 1000)),
    ):
        accuracy = (recogniser(waves).argmax(1) == labels).float().mean()
        print(f"{kind}: {accuracy:.2%} recognised as their class")
    count = len(held_out)
    draws = [sampling.generate(state.G_ema, count, seed=seed) for seed in range(10)]
    sets = held_out.waves, train.waves[:count], *draws
    real, other, *made = (audio.log_mel(waves, train.rate) for waves in sets)
    fds = [metrics.frechet_distance(real, levels) for levels in made]
    print(f"speech: FD {median(fds):.0f}, {min(fds):.0f} to {max(fds):.0f} in ten draws")
    print(f"training sounds: FD {metrics.frechet_distance(real, other):.0f} ({count} sounds each)")
    if folder == ASSETS:
        write_sums()


if __name__ == "__main__":
    app()
