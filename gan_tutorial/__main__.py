"""Train, sample and evaluate from the command line: python -m gan_tutorial --help."""

import contextlib
import csv
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from gan_tutorial import checkpoints, data, losses, metrics, networks, plotting, runtime, sampling, training

CHECKPOINT = "checkpoint.safetensors"
DEFAULT, NETWORK = training.TrainConfig(), networks.NetworkConfig()

app = typer.Typer(
    help="Train a GAN, sample from it, and measure how good its samples are.",
    epilog="First steps: train --data digits --out runs/a; then sample runs/a; then evaluate runs/a.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DataName = Annotated[str, typer.Option("--data", help=f"{', '.join([*data.BUNDLED, *data.TORCHVISION])}, or a folder.")]
Device = Annotated[str, typer.Option(help="auto takes a GPU where there is one; else cpu, cuda, cuda:1…")]
Run = Annotated[Path, typer.Argument(help="The folder that train wrote to, or a checkpoint file.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on the same kind of device.")]
Truncation = Annotated[float | None, typer.Option(help="Draw z within ± this: nicer samples, less varied. Try 1.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the sample grids and the loss curves.")],
    dataset: DataName = "digits",
    steps: Annotated[int, typer.Option(help="Updates of each network, in all.")] = DEFAULT.steps,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")
    ] = False,
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(losses.OBJECTIVES)}.")] = "hinge",
    network: Annotated[
        str, typer.Option(help="mlp (the article's pair is this with --no-spectral --latent-dim 100) or conv.")
    ] = NETWORK.kind,
    width: Annotated[int, typer.Option(help="Channels of the convolutional pair.")] = NETWORK.width,
    latent_dim: Annotated[int, typer.Option(help="Size of the latent vector z.")] = NETWORK.latent_dim,
    spectral: Annotated[bool, typer.Option(help="Spectral normalisation of D.")] = NETWORK.spectral,
    conditional: Annotated[bool, typer.Option(help="Tell both networks the class of each image.")] = False,
    batch_size: Annotated[
        int, typer.Option(help="Real, and as many generated, images in a step.")
    ] = DEFAULT.batch_size,
    lr_g: Annotated[float, typer.Option(help="Adam's learning rate for G.")] = DEFAULT.lr_G,
    lr_d: Annotated[float, typer.Option(help="Adam's learning rate for D.")] = DEFAULT.lr_D,
    beta1: Annotated[float, typer.Option(help="Adam's decay of the mean gradient.")] = DEFAULT.betas[0],
    beta2: Annotated[float, typer.Option(help="Adam's decay of the mean squared gradient.")] = DEFAULT.betas[1],
    ema: Annotated[float, typer.Option(help="Decay of the average of G's weights; 0 for none.")] = DEFAULT.ema,
    r1: Annotated[float, typer.Option(help="γ of the gradient penalty at real images; 0 for none.")] = DEFAULT.r1,
    r2: Annotated[float, typer.Option(help="γ of the gradient penalty at generated images; 0 for none.")] = DEFAULT.r2,
    gp: Annotated[float, typer.Option(help="λ of WGAN-GP's penalty; 0 for none, 10 in the paper.")] = DEFAULT.gp,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply matrices in bfloat16: faster where the processor has it.")
    ] = DEFAULT.bf16,
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
    from the last checkpoint and ends with the same weights as a run that was never stopped.
    """
    for name, value in (("--sample-every", sample_every), ("--save-every", save_every)):
        runtime.require_integer(name, value, least=1)
    config = training.TrainConfig(
        steps=steps, batch_size=batch_size, lr_G=lr_g, lr_D=lr_d, betas=(beta1, beta2),
        ema=ema, r1=r1, r2=r2, gp=gp, bf16=bf16, seed=seed, check_every=save_every,
    )  # fmt: skip
    chosen = losses.objective(objective)
    place = runtime.choose_device(device)
    images = data.load_images(dataset, size=size, channels=channels, root=root, download=download)
    pair = networks.NetworkConfig(
        kind=network, shape=images.shape, latent_dim=latent_dim, width=width,
        classes=len(images.classes) if conditional else 0, spectral=spectral,
    )  # fmt: skip
    settings = {"data": dataset, "objective": objective, "network": pair.as_dict(), "train": asdict(config)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = training.TrainState.fresh(*pair.build(), config, place)
    rows = _resume(state, out, settings) if resume else _start(out)

    def save() -> None:
        _write_log(rows, out)
        checkpoints.save(state, out / CHECKPOINT, settings)

    z = sampling.latents(64, latent_dim, seed).to(place)
    labels = torch.arange(64).remainder(pair.classes) if pair.classes else None
    if not state.step:
        save()
    progress = tqdm(total=steps, initial=state.step, unit="step")
    with _stop_signals() as stopped, progress:
        try:
            for log in training.train(state, images, chosen, config):
                progress.update()
                if log.step % 10 == 0 or log.step == steps:
                    rows.append({"step": log.step, "d_loss": log.d_loss, "g_loss": log.g_loss})
                    progress.set_postfix(d_loss=f"{log.d_loss:.3f}", g_loss=f"{log.g_loss:.3f}", refresh=False)
                if log.step % sample_every == 0 or log.step == steps:
                    plotting.save_grid(sampling.sample(state.G_ema, z, labels), out / f"samples-{log.step:06d}.png")
                if log.step % save_every == 0 or log.step == steps or stopped():
                    save()
                if stopped():
                    break
        except training.DivergedError:
            rows[:] = [row for row in rows if row["step"] <= state.step]
            save()
            raise
    _draw_log(rows, out)
    if state.step < steps:
        print(f"stopped at step {state.step}; the same command with --resume goes on", file=sys.stderr)
        raise typer.Exit(128 + stopped())
    print(f"{state.step} steps; checkpoint, samples and losses are in {out}")


@app.command()
def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(help="How many samples.")] = 64,
    columns: Annotated[int | None, typer.Option(help="Samples in a row; by default a square.")] = None,
    label: Annotated[
        int | None, typer.Option(help="The class to draw, of a network trained with --conditional.")
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

    Prints the Fréchet distance (FD) on the features of a bundled classifier, the floor that real training images
    reach, their ratio, and the share of each class. FD is not FID, which rests on other features.
    """
    G, settings = _load(run, device)
    report = metrics.image_report(_draw(G, count, seed, truncation), dataset or settings.get("data"))
    figures = {"step": settings["step"], "count": count, "fd": report.fd, "floor": report.floor, "ratio": report.ratio}
    if as_json:
        print(json.dumps(figures | {"shares": report.shares.tolist()}))
        return
    for name, value in figures.items():
        print(f"{name:8}{value:12.3f}" if isinstance(value, float) else f"{name:8}{value:12}")
    for index, share in enumerate(report.shares.tolist()):
        print(f"class {index:<2}{share:12.3f}")


def _start(out: Path) -> list[dict]:
    """Return an empty log, for a folder that holds no run."""
    if (out / CHECKPOINT).exists():
        step = checkpoints.read_settings(out / CHECKPOINT)["step"]
        raise ValueError(f"{out} holds a run of {step} steps; add --resume to go on, or give another --out")
    return []


def _resume(state: training.TrainState, out: Path, settings: dict) -> list[dict]:
    """Put the checkpoint in ``out`` into the state, if there is one, and return the log up to it."""
    if not (out / CHECKPOINT).exists():
        return []
    saved = checkpoints.read_settings(out / CHECKPOINT)
    wanted, free = json.loads(json.dumps(settings)), ("steps", "check_every")
    then, now = _flat(saved), _flat(wanted)
    changed = [
        f"{key} was {then.get(key, 'not stated')}, is {value}"
        for key, value in now.items()
        if key not in free and then.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"{out} was trained otherwise ({'; '.join(changed)}); repeat its options, or give another --out"
        )
    if saved["step"] > settings["train"]["steps"]:
        raise ValueError(f"{out} has made {saved['step']} steps already; give --steps above that to go on")
    checkpoints.restore(state, out / CHECKPOINT)
    path = out / "log.csv"
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = [
                {"step": int(r["step"]), "d_loss": float(r["d_loss"]), "g_loss": float(r["g_loss"])}
                for r in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the log of a run ({error}); remove it to go on without its curve") from error
    return [row for row in rows if row["step"] <= state.step]


def _flat(settings: dict) -> dict:
    """Return settings with the groups in them, such as ``network``, replaced by what they hold."""
    flat = {}
    for key, value in settings.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _write_log(rows: list[dict], out: Path) -> None:
    with runtime.replacing(out / "log.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "d_loss", "g_loss"])
        writer.writeheader()
        writer.writerows(rows)


def _draw_log(rows: list[dict], out: Path) -> None:
    series = {name: [row[name] for row in rows] for name in ("d_loss", "g_loss")}
    figure = plotting.curves(series, [row["step"] for row in rows], xlabel="step", ylabel="loss", title="Losses")
    with runtime.replacing(out / "losses.png") as temporary:
        figure.savefig(temporary)


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
    return checkpoints.load_generator(run / CHECKPOINT if run.is_dir() else run, runtime.choose_device(device))


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
