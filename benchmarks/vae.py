"""A VAE and a GAN from the same pair of networks, on the same digits, for the same seconds: who wins at what?

The GAN is the preset ``quick`` without spectral norm, which learns faster at first (``recipe.py``). The VAE's decoder
is the same generator, its encoder the body of the same discriminator; the labels (for both of its halves), the batches
and the averaging are the same. The speed of both is measured first, with all threads and nothing beside it; each then
trains for as many steps as fit, over several seeds. Judged against the held-out digits are samples (of the VAE once as
the decoder's means, once with pixels drawn), reconstructions, and halfway points; and once more after every image, real
ones too, was made black and white, since then blur counts no more.
Then VAEs with other weights of the KL divergence, over two seeds, show how the code fills and empties.
"""

import functools
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store
from torch import Tensor, nn

from gan_tutorial import data, directions, features, metrics, recipes, runtime, sampling, training, vae

RESULTS = Path(__file__).parent / "results" / "vae.json"
DEVICE = runtime.choose_device()
SAMPLES = 2000
LOOK = 0.6  # of the time: where the samples are judged on the way, too
GAN = recipes.preset("quick").variant(spectral=False)
VAE = vae.VAEConfig(lr=4e-3)
BETAS = (0.25, 4.0)
BETA_SEEDS = 2
SHAPES = {"slant": directions.slant, "width": directions.width}


def judge(images: Tensor) -> dict[str, float]:
    """Return all scores of images against the held-out digits."""
    return metrics.feature_scores(held_out(), describe(images))


def judge_shapes(images: Tensor) -> dict[str, float]:
    """Return all scores of images against the held-out digits, both with every pixel made black or white."""
    return metrics.feature_scores(held_out(shapes=True), describe(black_and_white(images)))


def black_and_white(images: Tensor) -> Tensor:
    """Return -1 for each pixel below 0, and 1 for all others."""
    return 2 * (images >= 0).float() - 1


def describe(images: Tensor) -> Tensor:
    """Return features (N, 64) on the CPU."""
    return features.load_classifier("digits", DEVICE).describe(images)[0].cpu()


@functools.cache
def held_out(shapes: bool = False) -> Tensor:
    """Return the features of the held-out digits."""
    images = data.load_images("digits", "test").images[:SAMPLES]
    return describe(black_and_white(images) if shapes else images)


def spread(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the deviation of slant and width within the classes."""
    return {name: directions.centred(measure(images), labels).std().item() for name, measure in SHAPES.items()}


def drawn(G: nn.Module) -> tuple[Tensor, Tensor]:
    """Return as many samples of each digit, and their labels."""
    labels = torch.arange(SAMPLES) % 10
    return sampling.sample(G, sampling.latents(SAMPLES, G.latent_dim, seed=1), labels), labels


def pairs() -> tuple[data.ImageSet, data.ImageSet]:
    """Return training digits, and beside each another one of its class."""
    train = data.load_images("digits")
    order = train.labels.argsort(stable=True)
    first, second = order[:-1:2], order[1::2]
    chosen = (train.labels[first] == train.labels[second]).nonzero().flatten()
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))[:SAMPLES]]
    return train.subset(first[chosen]), train.subset(second[chosen])


def describe_samples(G: nn.Module) -> dict:
    """Return what is measured on the samples of a generator, GAN's or VAE's."""
    images, labels = drawn(G)
    seen = features.load_classifier("digits", DEVICE).describe(images)[1].cpu()
    return {
        "samples": judge(images),
        "shapes": judge_shapes(images),
        "greyness": vae.greyness(images).mean().item(),
        "spread": spread(images, labels),
        "obedience": (seen == labels).float().mean().item(),
    }


def learn(logs: Iterator[training.Log], G: nn.Module, steps: int) -> dict[str, float]:
    """Train to the end, and return step and scores of the samples on the way, after LOOK of the time."""
    look = {"step": round(LOOK * steps)}
    for log in logs:
        if log.step == look["step"]:
            look |= judge(drawn(G)[0])
    return look


def run_gan(seed: int, steps: int) -> dict:
    """Train the GAN; return what is measured on the way and at the end."""
    recipe = GAN.variant(seed=seed, steps=steps)
    state = recipe.fresh(DEVICE)
    look = learn(recipe.run(state, data.load_images("digits").to(DEVICE)), state.G_ema, steps)
    test = data.load_images("digits", "test").subset(slice(30))
    inversion = directions.invert(state.G_ema, test.images, test.labels, starts=4, steps=100)
    halfway = sampling.latents(2 * SAMPLES, GAN.network.latent_dim, seed=2).unflatten(0, (2, -1)).sum(0) / 2**0.5
    images = sampling.sample(state.G_ema, halfway, torch.arange(SAMPLES) % 10)
    return describe_samples(state.G_ema) | {
        "look": look,
        "reconstruction": inversion.errors.amin(dim=1).mean().item(),
        "halfway": judge(images)["precision"],
    }


def run_vae(seed: int, steps: int, beta: float) -> dict:
    """Train the VAE; return what is measured on the way and at the end."""
    config = replace(VAE, seed=seed, steps=steps, beta=beta)
    state = vae.VAEState.fresh(GAN.network, config, DEVICE)
    look = learn(vae.train(state, data.load_images("digits").to(DEVICE), config), state.average.decoder, steps)
    model, (train, test) = state.average, (data.load_images("digits", split) for split in data.SPLITS)
    train, few = train.subset(slice(SAMPLES)), test.subset(slice(30))
    codes = vae.encode(model, test.images, test.labels)
    again = {
        name: sampling.sample(model.decoder, vae.encode(model, images.images, images.labels).mean, images.labels)
        for name, images in (("train", train), ("few", few))
    }
    first, second = pairs()
    halfway = sum(vae.encode(model, part.images, part.labels).mean for part in (first, second)) / 2
    with torch.no_grad():
        on_device = test.to(DEVICE)
        rng = torch.Generator(DEVICE).manual_seed(0)
        parts = vae.terms(model, on_device.images, on_device.labels, replace(config, bf16=False), rng)
    return describe_samples(model.decoder) | {
        "look": look,
        "pixels": judge(vae.draw_pixels(drawn(model.decoder)[0], config)),
        "reconstructed": judge(again["train"]),
        "reconstructed shapes": judge_shapes(again["train"]),
        "reconstruction": (again["few"] - few.images).square().mean().item(),
        "halfway": judge(sampling.sample(model.decoder, halfway, first.labels))["precision"],
        "elbo": parts.objective().mean().item(),
        "kl": codes.kl().mean(0).sort(descending=True).values.tolist(),
    }


def run(who: str, seed: int, steps: int, beta: float) -> dict:
    """Train one of the two, and return what was measured."""
    return run_gan(seed, steps) if who == "GAN" else run_vae(seed, steps, beta)


def speeds(rounds: int = 3, seconds: float = 1.5) -> tuple[float, float]:
    """Return steps per second of GAN and VAE, each the median of some rounds in turn."""
    images = data.load_images("digits").to(DEVICE)
    endless = replace(VAE, steps=10**9)
    running = {
        "d_loss": GAN.variant(steps=10**9).run(GAN.fresh(DEVICE), images),
        "elbo": vae.train(vae.VAEState.fresh(GAN.network, endless, DEVICE), images, endless),
    }
    rates = {name: [] for name in running}
    for _ in range(rounds):
        for name, logs in running.items():
            for _ in range(3):
                next(logs)
            start, steps = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                float(getattr(next(logs), name))  # reading a number waits for the device
                steps += 1
            rates[name].append(steps / (time.perf_counter() - start))
    return tuple(statistics.median(values) for values in rates.values())


def real_digits() -> dict:
    """Return what real digits score in the place of generated ones."""
    train, test = (data.load_images("digits", split).subset(slice(SAMPLES)) for split in data.SPLITS)
    first, second = pairs()
    return {
        "samples": judge(train.images),
        "shapes": judge_shapes(train.images),
        "greyness": vae.greyness(test.images).mean().item(),
        "spread": spread(test.images, test.labels),
        "halfway": judge((first.images + second.images) / 2)["precision"],  # of pixels
    }


def main(
    seconds: Annotated[float, typer.Option(help="Training time of each run.")] = 20.0,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    rates: Annotated[str, typer.Option(help="Steps per second of GAN and VAE, as A,B, if measured before.")] = "",
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    fast = tuple(map(float, rates.split(","))) if rates else speeds()
    print(f"steps per second: GAN {fast[0]:.1f}, VAE {fast[1]:.1f}")
    steps = {"GAN": round(seconds * fast[0]), "VAE": round(seconds * fast[1])}
    record = runtime.origin(DEVICE) | {"data": "digits", "seconds": seconds, "steps": steps, "real": real_digits()}
    record |= {"gan": asdict(GAN), "vae": asdict(VAE)}
    kinds = [("GAN", 1.0, seeds), ("VAE", 1.0, seeds), *(("VAE", beta, BETA_SEEDS) for beta in BETAS)]
    runs = iter(
        each(run, [(who, seed, steps[who], beta) for who, beta, count in kinds for seed in range(count)], DEVICE)
    )
    gans, vaes, *others = [[next(runs) for _ in range(count)] for _, _, count in kinds]
    record |= {"runs": {"GAN": gans, "VAE": vaes}, "betas": dict(zip(map(str, BETAS), others, strict=True))}
    store(record, out)
    show(record)


def show(record: dict) -> None:
    """Print every measure as median and range over the seeds."""
    print(f"{record['seconds']:.0f} s each: {record['steps']} steps; {record['machine']}")
    print(f"{'':30}{'median':>9}{'least':>9}{'most':>9}{'real':>9}")
    vaes = ("samples", "pixels", "reconstructed", "shapes", "reconstructed shapes")
    for who, what in [("GAN", "samples"), ("GAN", "shapes"), *(("VAE", what) for what in vaes)]:
        floors = record["real"]["shapes" if "shapes" in what else "samples"]
        for name in ("fd", "precision", "recall", "density", "coverage"):
            row(f"{who} {what} {name}", [run[what][name] for run in record["runs"][who]], floors[name])
    for name in ("greyness", "obedience", "reconstruction", "halfway"):
        for who in ("GAN", "VAE"):
            row(f"{who} {name}", [run[name] for run in record["runs"][who]], record["real"].get(name))
    for name in SHAPES:
        for who in ("GAN", "VAE"):
            row(
                f"{who} spread {name}",
                [run["spread"][name] for run in record["runs"][who]],
                record["real"]["spread"][name],
            )
    for beta, runs in ({"1": record["runs"]["VAE"]} | record["betas"]).items():
        row(f"beta {beta} kl", [sum(run["kl"]) for run in runs])
        row(f"beta {beta} coordinates in use", [sum(nats > 0.05 for nats in run["kl"]) for run in runs])
        row(f"beta {beta} fd", [run["samples"]["fd"] for run in runs])
        row(f"beta {beta} reconstruction", [run["reconstruction"] for run in runs])


def row(name: str, values: list[float], real: float | None = None) -> None:
    """Print one row of the table."""
    end = "" if real is None else f"{real:9.3f}"
    print(f"{name:30}{statistics.median(values):9.3f}{min(values):9.3f}{max(values):9.3f}{end}")


if __name__ == "__main__":
    typer.run(main)
