"""Train, sample, evaluate, export and serve from the command line: python -m gan_tutorial --help."""

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from gan_tutorial import (
    checkpoints,
    data,
    export,
    losses,
    metrics,
    networks,
    parallel,
    plotting,
    recipes,
    runs,
    runtime,
    sampling,
    training,
)
from gan_tutorial.augment import POLICY
from gan_tutorial.data import BUNDLED
from gan_tutorial.recipes import PRESETS

DEFAULT = training.TrainConfig()

MEASURES = {
    "fd": "Fréchet distance, FD", "kd": "kernel distance, KD", "precision": "precision", "recall": "recall",
    "density": "density", "coverage": "coverage",
}  # fmt: skip

app = typer.Typer(
    help="Train a GAN, sample from it, measure how good its samples are, and put it to work.",
    epilog="First steps: train --data digits --out runs/a; then sample runs/a; evaluate runs/a; export runs/a.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DataName = Annotated[str, typer.Option("--data", help=f"{', '.join([*data.BUNDLED, *data.TORCHVISION])}, or a folder.")]
Device = Annotated[str, typer.Option(help="auto takes a GPU where there is one; else cpu, cuda, cuda:1…")]
Run = Annotated[Path, typer.Argument(help=f"A folder that train wrote to, a checkpoint, or {', '.join(BUNDLED)}.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on the same kind of device.")]
Truncation = Annotated[float | None, typer.Option(help="Draw z within ± this: nicer samples, less varied. Try 1.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the sample grids and the loss curves.")],
    dataset: DataName = "digits",
    preset: Annotated[
        str, typer.Option(help=f"{', '.join(PRESETS)}: all that follows and is not given is as there.")
    ] = "quick",
    steps: Annotated[int | None, typer.Option(help="Updates of each network, in all.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")
    ] = False,
    warm_start: Annotated[
        str | None, typer.Option(help=f"Begin with these weights: {', '.join(BUNDLED)}, a run's folder, a checkpoint.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help=f"One of {', '.join(losses.OBJECTIVES)}.")] = None,
    network: Annotated[str | None, typer.Option(help=f"One of {', '.join(networks.NETWORKS)}.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the convolutional pair.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Size of the latent vector z.")] = None,
    spectral: Annotated[bool | None, typer.Option(help="Spectral normalisation of D.")] = None,
    conditional: Annotated[bool | None, typer.Option(help="Tell both networks the class of each image.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Real, and as many generated, images in a step.")] = None,
    lr_g: Annotated[float | None, typer.Option(help="Adam's learning rate for G.")] = None,
    lr_d: Annotated[float | None, typer.Option(help="Adam's learning rate for D.")] = None,
    beta1: Annotated[float | None, typer.Option(help="Adam's decay of the mean gradient.")] = None,
    beta2: Annotated[float | None, typer.Option(help="Adam's decay of the mean squared gradient.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the average of G's weights; 0 for none.")] = None,
    r1: Annotated[float | None, typer.Option(help="γ of the gradient penalty at real images; 0 for none.")] = None,
    r2: Annotated[float | None, typer.Option(help="γ of the gradient penalty at generated images.")] = None,
    gp: Annotated[float | None, typer.Option(help="λ of WGAN-GP's penalty; 10 in the paper.")] = None,
    augment: Annotated[bool | None, typer.Option(help="DiffAugment: for a few hundred images.")] = None,
    bf16: Annotated[bool | None, typer.Option(help="Multiply in bfloat16 where the device can: faster.")] = None,
    seed: Seed = DEFAULT.seed,
    device: Device = "auto",
    size: Annotated[int | None, typer.Option(help="Resize images to this many pixels a side.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 for grey, 3 for colour.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where torchvision keeps its files.")] = None,
    download: Annotated[bool, typer.Option(help="Let torchvision fetch missing files.")] = False,
    sample_every: Annotated[int, typer.Option(help="Steps between two grids of samples.")] = 250,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 250,
) -> None:
    """Train a GAN.

    The folder --out receives checkpoint.safetensors, samples-STEP.png, losses.png and log.csv. Ctrl-C or SIGTERM
    finishes the step and saves; after that, or after a kill or a crash, the same command with --resume goes on
    from the last checkpoint and ends with the same weights as a run that was never stopped. Begun as torchrun
    --nproc-per-node 2 -m gan_tutorial train …, two processes share the work; any number of them may go on.
    """
    for name, value in (("--sample-every", sample_every), ("--save-every", save_every)):
        runtime.require_integer(name, value, least=1)
    recipe = _changed(
        recipes.preset(preset), beta1, beta2, augment,
        steps=steps, kind=network, width=width, latent_dim=latent_dim, spectral=spectral, objective=objective,
        batch_size=batch_size, lr_G=lr_g, lr_D=lr_d, ema=ema, r1=r1, r2=r2, gp=gp, bf16=bf16, seed=seed,
        check_every=save_every,
    )  # fmt: skip
    ranks = parallel.Ranks.from_environment()
    images = data.load_images(dataset, size=size, channels=channels, root=root, download=download)
    told = recipe.network.classes > 0 and len(images.classes) > 1 if conditional is None else conditional
    recipe = recipe.variant(shape=images.shape, classes=len(images.classes) if told else 0)
    pair, steps = recipe.network, recipe.train.steps
    settings = {"data": dataset, "warm_start": warm_start} | asdict(recipe)
    state = recipe.fresh(ranks.device(device))
    rows = runs.resume(state, out, settings) if resume else runs.start(out)
    if warm_start is not None and not state.step:
        checkpoints.warm_start(state, runs.checkpoint(Path(warm_start)))
    save = functools.partial(_save, state, rows, out, settings, ranks)
    z = sampling.latents(64, pair.latent_dim, seed).to(state.device)
    labels = torch.arange(64).remainder(pair.classes) if pair.classes else None
    share = parallel.joined(state, recipe.train, ranks, settings)
    with _stop_signals() as received, share, contextlib.ExitStack() as end:
        if not state.step:
            save()
        progress = end.enter_context(tqdm(total=steps, initial=state.step, unit="step", disable=not ranks.first))
        try:
            for log in recipe.run(state, images):
                progress.update()
                if log.step % 10 == 0 or log.step == steps:
                    rows.append({"step": log.step, "d_loss": log.d_loss, "g_loss": log.g_loss})
                    progress.set_postfix(d_loss=f"{log.d_loss:.3f}", g_loss=f"{log.g_loss:.3f}", refresh=False)
                stopped = ranks.any(received() > 0)
                if ranks.first and (log.step % sample_every == 0 or log.step == steps):
                    plotting.save_grid(sampling.sample(state.G_ema, z, labels), out / f"samples-{log.step:06d}.png")
                if log.step % save_every == 0 or log.step == steps or stopped:
                    save()
                if stopped:
                    break
        except training.DivergedError:
            rows[:] = [row for row in rows if row["step"] <= state.step]
            save()
            raise
    if ranks.first:
        runs.draw_log(rows, out)
    if state.step < steps:
        print(f"stopped at step {state.step}; the same command with --resume goes on", file=sys.stderr)
        raise typer.Exit(128 + (received() or signal.SIGTERM))
    if ranks.first:
        print(f"{state.step} steps; checkpoint, samples and losses are in {out}")


@app.command()
def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(help="How many samples.")] = 64,
    columns: Annotated[int | None, typer.Option(help="Samples in a row; by default a square.")] = None,
    label: Annotated[
        int | None, typer.Option(help="The class to draw, of a network that was told the classes.")
    ] = None,
    truncation: Truncation = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw samples from a trained generator into one picture."""
    if columns is not None:
        runtime.require_integer("--columns", columns, least=1)
    G, _ = _load(run, device)
    plotting.save_grid(_draw(G, count, seed, truncation, label), out, columns)
    print(f"{count} samples are in {out}")


@app.command()
def evaluate(
    run: Run,
    count: Annotated[
        int, typer.Option(help="How many samples to judge; compare only figures of the same number.")
    ] = 2000,
    dataset: Annotated[
        str | None, typer.Option("--data", help="Judge against this set; by default the run's own.")
    ] = None,
    truncation: Truncation = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare samples with held-out real images.

    Prints each measure on the features of a bundled classifier, beside what real training images reach in place of
    the generated ones, and the share of each class. FD and KD are not FID and KID, which rest on other features.
    """
    G, settings = _load(run, device)
    report = metrics.image_report(_draw(G, count, seed, truncation), dataset or settings.get("data"))
    if as_json:
        about = {"step": settings["step"], "count": count, "ratio": report.ratio}
        scores = {"scores": report.scores, "floors": report.floors, "class_divergence": report.class_divergence}
        print(json.dumps(about | scores | {"shares": report.shares.tolist()}))
        return
    print(f"step {settings['step']}, {count} samples{'generated':>21}{'training images':>18}")
    for name, value in report.scores.items():
        print(f"{MEASURES[name]:32}{value:12.4f}{report.floors[name]:18.4f}")
    print(f"{'FD in units of the floor':32}{report.ratio:12.4f}")
    print(f"{'class histogram, KL in nats':32}{report.class_divergence:12.4f}")
    print("share of each class" + "".join(f"{share:7.3f}" for share in report.shares.tolist()))


@app.command("export")
def export_model(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default model.FORMAT here.")] = None,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(export.FORMATS)}.")] = "onnx",
) -> None:
    """Write a trained generator as a file that needs no PyTorch, and check that it draws the same.

    The file holds the averaged generator alone: no discriminator, no optimiser. It appears only when it is whole and
    its samples differ from PyTorch's by 0.0001 at most.
    """
    if form not in export.FORMATS:
        raise ValueError(f"--format must be one of {', '.join(export.FORMATS)}, but is {form!r}")
    out = Path(f"model.{form}") if out is None else out
    G, settings = _load(run, "cpu")
    write = export.to_onnx if form == "onnx" else export.to_safetensors
    parity = write(G, out, settings)
    print(f"{parity.samples} samples: largest difference from PyTorch {parity.from_pytorch:.1e}")
    print(f"{out} holds G, {out.stat().st_size / 1e6:.1f} MB; weights {export.weights_digest(G)}")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Answer HTTP requests with pictures from an exported model: serve model.onnx; serve --help tells the rest.

    This process becomes ``python -m gan_tutorial.serve``, which does not load PyTorch.
    """
    os.execv(sys.executable, [sys.executable, "-m", "gan_tutorial.serve", *context.args])


def _save(state: training.TrainState, rows: list[dict], out: Path, settings: dict, ranks: parallel.Ranks) -> None:
    """Write log and checkpoint, on one rank."""
    if ranks.first:
        runs.write_log(rows, out)
        checkpoints.save(state, out / runs.CHECKPOINT, settings)


def _changed(
    recipe: recipes.Recipe, beta1: float | None, beta2: float | None, augment: bool | None, **changes: object
) -> recipes.Recipe:
    """Return the recipe with the options that were given."""
    first, second = recipe.train.betas
    changes["betas"] = (first if beta1 is None else beta1, second if beta2 is None else beta2)
    changes["augment"] = None if augment is None else POLICY if augment else ()
    return recipe.variant(**{name: value for name, value in changes.items() if value is not None})


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Turn SIGINT and SIGTERM into an answer: the yielded function returns the signal's number, or 0."""
    received = []
    before = {kind: signal.signal(kind, lambda n, _: received.append(n)) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[-1] if received else 0
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _load(run: Path, device: str) -> tuple[networks.Generator, dict]:
    return checkpoints.load_generator(runs.checkpoint(run), runtime.choose_device(device))


def _draw(
    G: networks.Generator, count: int, seed: int, truncation: float | None, label: int | None = None
) -> torch.Tensor:
    """Return samples, of one class, or of a conditional network's classes in turn."""
    z = sampling.latents(count, G.latent_dim, seed, truncation)
    if label is not None and not 0 <= label < G.classes:
        raise ValueError(f"--label must be one of the network's {G.classes} classes, but is {label}")
    labels = None
    if G.classes:
        labels = torch.arange(count).remainder(G.classes) if label is None else torch.full((count,), label)
    return sampling.sample(G, z, labels)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what goes wrong is told in one line, with a status that is not 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(arguments or ["--help"], prog_name="python -m gan_tutorial", standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else repr(error)
        status = _fail(message, getattr(error, "exit_code", 2))
    except (ValueError, OSError, ArithmeticError) as error:
        status = _fail(str(error), 1)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
