"""A VAE and a GAN from the same networks, trained on the same digits for the same time.

The GAN is the preset ``hinge`` without spectral norm, since it learns faster at first without it
(``recipe.py``). The VAE's decoder is the same generator, and its encoder the body of the same
discriminator; labels, batches and the moving average of the weights are the same. First the speed
of both is measured; then each trains for as many steps as fit into the time, over several seeds.

Samples, reconstructions and points halfway between two images are scored against the held-out
digits. Samples of the VAE are its means, and pixels sampled around them. Samples and
reconstructions are scored once more after all images, real ones too, were made black and white, so
that blur does not count. VAEs with other betas show how the code fills and empties. Each average
of weights is judged with the BatchNorm statistics of its own samples.
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, steps_per_second, sweep
from torch import Tensor, nn

from gan_tutorial import data, metrics, recipes, records, sampling, training
from gan_tutorial.beyond import interpretability, vae
from gan_tutorial.classifier import load_classifier

GAN = replace(recipes.preset("hinge"), spectral=False)
VAE = vae.VAEConfig(lr=4e-3)
BETAS = (0.25, 4.0)
BETA_SEEDS = 2
COUNT = 2000  # images that are scored
FEW = 30  # images that are inverted, which takes longer
EARLY = 0.6  # of the training; samples are scored then, too


def speeds() -> tuple[float, float]:
    """Return training steps per second of GAN and VAE."""
    images = data.load_images("digits")
    gan, config = replace(GAN, steps=10**9), replace(VAE, steps=10**9)
    gan_logs = training.train(gan.init(DEVICE), images, gan)
    vae_logs = vae.train(vae.VAEState.init(GAN, config, DEVICE), images, config)
    return steps_per_second(gan_logs, "d_loss"), steps_per_second(vae_logs, "elbo")


def binarise(images: Tensor) -> Tensor:
    """Return images with every pixel at -1 or 1, whichever is nearer."""
    return 2 * (images >= 0).float() - 1


def score(images: Tensor, binary: bool = False) -> dict[str, float]:
    """Return all scores against the held-out digits; ``binary``: all images in black and white."""
    held_out = data.load_images("digits", "test").images
    if binary:
        images, held_out = binarise(images), binarise(held_out)
    classifier = load_classifier("digits", DEVICE)
    real, fake = (classifier.extract(x)[0] for x in (held_out, images))
    return metrics.feature_scores(real, fake)


def spread(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the standard deviation of slant and width within the classes."""
    measured = {
        "slant": interpretability.slant(images),
        "width": interpretability.width(images),
    }
    return {
        name: interpretability.centred(values, labels).std().item()
        for name, values in measured.items()
    }


def score_samples(G: nn.Module) -> dict:
    """Return everything that is measured on the samples of a generator, the GAN's or the VAE's."""
    images, labels = sampling.generate(G, COUNT, seed=1), sampling.labels(G, COUNT)
    _, predicted = load_classifier("digits", DEVICE).extract(images)
    return {
        "samples": score(images),
        "binary samples": score(images, binary=True),
        "greyness": vae.greyness(images).mean().item(),
        "spread": spread(images, labels),
        "obedience": (predicted.cpu() == labels).float().mean().item(),
    }


def finish(logs: Iterator[training.Log], G: nn.Module, steps: int) -> dict[str, float]:
    """Train to the end; return the step, and the samples' scores, after ``EARLY`` of the steps."""
    early = {"step": round(EARLY * steps)}
    for log in logs:
        if log.step == early["step"]:
            early |= score(sampling.generate(sampling.recalibrate_batchnorm(G), COUNT, seed=1))
    return early


def pairs() -> tuple[data.ImageSet, data.ImageSet]:
    """Return training digits, and for each another one of its class."""
    train = data.load_images("digits")
    order = train.labels.argsort(stable=True)
    first, second = order[:-1:2], order[1::2]
    alike = (train.labels[first] == train.labels[second]).nonzero().flatten()
    chosen = alike[torch.randperm(len(alike), generator=torch.Generator().manual_seed(0))[:COUNT]]
    return train.subset(first[chosen]), train.subset(second[chosen])


def run_gan(recipe: recipes.Recipe, seed: int) -> dict:
    """Train the GAN; return what was measured."""
    recipe = replace(recipe, seed=seed)
    state = recipe.init(DEVICE)
    logs = training.train(state, data.load_images("digits"), recipe)
    early = finish(logs, state.G_ema, recipe.steps)
    G = sampling.recalibrate_batchnorm(state.G_ema)
    few = data.load_images("digits", "test").subset(slice(FEW))
    inversion = interpretability.invert(G, few.images, few.labels, starts=4, steps=100)
    return score_samples(G) | {
        "early": early,
        "reconstruction": inversion.errors.amin(dim=1).mean().item(),
    }


def run_vae(config: vae.VAEConfig, seed: int) -> dict:
    """Train the VAE; return what was measured."""
    config = replace(config, seed=seed)
    train, test = (data.load_images("digits", split) for split in data.SPLITS)
    state = vae.VAEState.init(GAN, config, DEVICE)
    early = finish(vae.train(state, train, config), state.average.decoder, config.steps)
    model = state.average
    model.decoder = decoder = sampling.recalibrate_batchnorm(model.decoder)

    def encode(images: data.ImageSet) -> vae.Gaussian:
        return vae.encode(model, images.images, images.labels)

    def reconstruct(images: data.ImageSet) -> Tensor:
        return sampling.sample(decoder, encode(images).mean, images.labels)

    few, reconstructed = test.subset(slice(FEW)), reconstruct(train.subset(slice(COUNT)))
    first, second = pairs()
    halfway = (encode(first).mean + encode(second).mean) / 2
    with torch.no_grad():
        images, rng = test.to(DEVICE), torch.Generator(DEVICE).manual_seed(0)
        exact = replace(config, bf16=False)
        elbo = vae.terms(model, images.images, images.labels, exact, rng).objective().mean()
    return score_samples(decoder) | {
        "early": early,
        "pixels": score(vae.sample_pixels(sampling.generate(decoder, COUNT, seed=1), config)),
        "reconstructed": score(reconstructed),
        "binary reconstructed": score(reconstructed, binary=True),
        "reconstruction": (reconstruct(few) - few.images).square().mean().item(),
        "halfway": score(sampling.sample(decoder, halfway, first.labels))["precision"],
        "elbo": elbo.item(),
        "kl": encode(test).kl().mean(0).sort(descending=True).values.tolist(),
    }


def score_real_digits() -> dict:
    """Return the scores of training digits, and the shapes of held-out ones."""
    train, test = (data.load_images("digits", split).subset(slice(COUNT)) for split in data.SPLITS)
    first, second = pairs()
    return {
        "samples": score(train.images),
        "binary samples": score(train.images, binary=True),
        "greyness": vae.greyness(test.images).mean().item(),
        "spread": spread(test.images, test.labels),
        "halfway": score((first.images + second.images) / 2)["precision"],  # of pixels
    }


def main(
    seconds: Annotated[float, typer.Option(help="Training time of each run.")] = 60.0,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    out: Out = records.FOLDER / "vae.json",
) -> None:
    """Measure, store the record and print a table."""
    torch.set_num_threads(1)  # as in the runs
    gan_speed, vae_speed = speeds()
    steps = {"GAN": round(seconds * gan_speed), "VAE": round(seconds * vae_speed)}
    gan, config = replace(GAN, steps=steps["GAN"]), replace(VAE, steps=steps["VAE"])
    runs = sweep(run_gan, {"GAN": {"recipe": gan}}, range(seeds), DEVICE)
    runs |= sweep(run_vae, {"VAE": {"config": config}}, range(seeds), DEVICE)
    others = {f"beta {beta:g}": {"config": replace(config, beta=beta)} for beta in BETAS}
    runs |= sweep(run_vae, others, range(BETA_SEEDS), DEVICE)
    record = {
        "data": "digits",
        "seconds": seconds,
        "steps": steps,
        "real": score_real_digits(),
        "gan": asdict(gan),
        "vae": asdict(config),
        "runs": runs,
    }
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of every measure, a column for each kind of run."""
    print(records.source(record))
    print(f"{record['seconds']:.0f} s each: {record['steps']} steps; median (range)")
    kinds = record["runs"] | {"real digits": [record["real"]]}
    columns = {name: [flatten(run) for run in runs] for name, runs in kinds.items()}
    print(f"{'':30}" + "".join(f"{name:>26}" for name in columns))
    for measure in columns["VAE"][0]:
        row = f"{measure:30}"
        for runs in columns.values():
            row += f"{summary([run[measure] for run in runs if measure in run]):>26}"
        print(row)


def flatten(run: dict) -> dict[str, float]:
    """Return the numbers of a run by name, such as ``samples fd``."""
    numbers = {}
    for name, value in run.items():
        if isinstance(value, dict):
            numbers |= {f"{name} {key}": number for key, number in value.items() if key != "kd"}
        elif name == "kl":
            numbers |= {"kl": sum(value), "coordinates in use": sum(n > 0.05 for n in value)}
        else:
            numbers[name] = value
    return numbers


def summary(values: list[float]) -> str:
    """Return the median of values and, for several, their range as text."""
    if len(values) < 2:
        return "".join(f"{value:.3g}" for value in values)
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    typer.run(main)
