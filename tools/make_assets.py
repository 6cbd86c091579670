"""Make the bundled data and weights again: python tools/make_assets.py digits|fashion|classifiers|gan --help."""

import gzip
import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tqdm import tqdm

from gan_tutorial import checkpoints, data, features, metrics, recipes, sampling, training

ASSETS = Path(__file__).parents[1] / "gan_tutorial" / "assets"
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
    name: Annotated[str, typer.Argument(help="digits or fashion")],
    steps: Annotated[int | None, typer.Option(help="fewer, to try the command")] = None,
    folder: Annotated[Path, typer.Option(help="where the file goes")] = ASSETS,
) -> None:
    """Train the bundled pair by the recipe ``best``, and print the scores of its samples.

    The file is a checkpoint of step 0 whose G is the average of the training: what a warm start begins with.
    """
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


if __name__ == "__main__":
    app()
