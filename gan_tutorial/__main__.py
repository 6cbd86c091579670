"""The command line: train, sample, evaluate, export, serve. See python -m gan_tutorial --help."""

import contextlib
import inspect
import json
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from tqdm import tqdm

from gan_tutorial import (
    augment,
    checkpoints,
    checks,
    data,
    files,
    losses,
    metrics,
    networks,
    pictures,
    plotting,
    recipes,
    records,
    runtime,
    sampling,
    training,
)
from gan_tutorial.classifier import CLASSIFIERS, FEATURES, untrained
from gan_tutorial.ship import distributed, export

BUNDLED = ", ".join(data.PAIRS)
DATASETS = ", ".join(data.NAMES)
SIDES = ", ".join(map(str, networks.SIDES))
PRESETS = [name for name, recipe in recipes.PRESETS.items() if len(recipe.shape) == 3]  # images

SETTINGS = {  # options of train that change the preset, with their help texts
    "objective": f"Losses of D and G: {', '.join(losses.OBJECTIVES)}.",
    "network": f"Kind of the networks: {', '.join(networks.NETWORKS)}.",
    "width": "Channels of the convolutional networks at half the side; up to 8 times that inside.",
    "latent_dim": "Size of the latent vector z.",
    "spectral": "Spectral normalisation of D.",
    "minibatch_std": "Images in a group whose standard deviation a convolutional D sees; 0: none.",
    "steps": "Updates of each network, in total.",
    "batch_size": "Real images in a step, and as many generated ones.",
    "lr_G": "Adam's learning rate for G.",
    "lr_D": "Adam's learning rate for D.",
    "lr_end": "Factor to which both rates fall, linearly over the run; 1 for constant ones.",
    "beta1": "Adam's decay rate of the mean gradient.",
    "beta2": "Adam's decay rate of the mean squared gradient.",
    "ema": "Decay of the moving average of G's weights; 0 for no average.",
    "r1": "γ of the gradient penalty at real images; 0 for none.",
    "r2": "γ of the gradient penalty at generated images; 0 for none.",
    "penalty_noise": "Step of a finite difference in place of the gradients in r1, r2; 0: exact.",
    "gp": "γ of WGAN-GP's gradient penalty; 10 in the paper, 0 for none.",
    "augment": "DiffAugment: with 100 digits it changed FD little, with 500 it raised it.",
    "bf16": "Multiply matrices in bfloat16 on a device where that is faster.",
    "seed": "The same seed gives the same weights on the same CPU with the same number of threads.",
}

OUT_OF_MEMORY = "(?<!illegal )memory|alloc|overflow"  # in the messages of PyTorch, cuBLAS and cuDNN
LOWER = {  # what takes the memory of a command
    "train": "--batch-size, --width, --latent-dim or --size, or take fewer images",
    "sample": "--count",
    "evaluate": "--count",
}
MEASURES = {"fd": "Fréchet distance, FD", "kd": "kernel distance, KD"}

app = typer.Typer(
    help="Train a GAN, sample from it, measure how good its samples are, and deploy it.",
    epilog="First steps: train --data digits --out runs/a; then sample runs/a; evaluate runs/a; "
    "export runs/a.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunName = Annotated[Path, typer.Argument(help=f"Folder of a run, a checkpoint, or {BUNDLED}.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps…; auto is cuda if available.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same samples.")]
Root = Annotated[Path | None, typer.Option(help="Folder of torchvision's files.")]
Download = Annotated[bool, typer.Option(help="Let torchvision download the data.")]
Truncation = Annotated[
    float | None, typer.Option(help="Keep z within ± this: less varied, not always better. Try 1.")
]


def setting_options(command: Callable) -> Callable:
    """Replace the ``**changes`` of a command by an option for each entry of ``SETTINGS``.

    The types come from ``Recipe``. Options that are not given are None.
    """
    parameters = list(inspect.signature(command).parameters.values())[:-1]
    special = {"beta1": float, "beta2": float, "augment": bool}
    for name, text in SETTINGS.items():
        kind = special.get(name) or type(getattr(recipes.Recipe, name))
        flag = name.lower().replace("_", "-")
        flags = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
        option = Annotated[kind | None, typer.Option(flags, help=text)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        )
    command.__signature__ = inspect.Signature(parameters)
    return command


@app.command()
@setting_options
def train(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint, the samples and the loss curves.")
    ],
    dataset: Annotated[str, typer.Option("--data", help=f"{DATASETS}, or a folder.")] = "digits",
    size: Annotated[
        int | None,
        typer.Option(help=f"Side in pixels to resize images to; {SIDES} with --network conv."),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 for grey, 3 for colour.")] = None,
    root: Root = None,
    download: Download = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, if there is one.")
    ] = False,
    warm_start: Annotated[
        str | None,
        typer.Option(help=f"Start from these networks: {BUNDLED}, a run, or a checkpoint."),
    ] = None,
    sample_every: Annotated[int, typer.Option(help="Steps between two grids of samples.")] = 250,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 250,
    keep_best: Annotated[
        bool,
        typer.Option(
            "--keep-best",
            help="Also keep best.safetensors: of all checkpoints, the one nearest in FD to "
            "validation images, a fifth of the training images, which G and D then never see. "
            f"For {', '.join(CLASSIFIERS)}.",
        ),
    ] = False,
    device: Device = "auto",
    preset: Annotated[
        str, typer.Option(help=f"{', '.join(PRESETS)}: sets all options below that you omit.")
    ] = "quick",
    conditional: Annotated[
        bool | None, typer.Option(help="Give both networks the class of each image.")
    ] = None,
    **changes: object,
) -> None:
    """Train a GAN.

    Writes checkpoint.safetensors, samples-STEP.png, losses.png and log.csv to the folder --out.
    With --keep-best, best.safetensors too; evaluate gives its FD to images that had no part in the
    choice. Ctrl-C or SIGTERM finishes the step and saves. After that, or after a kill
    or a crash, the same command with --resume continues from the last checkpoint, and ends with
    the same weights as an uninterrupted run (on a GPU rounding varies, and grows). With torchrun
    --nproc-per-node 2 -m gan_tutorial train …, two processes train together; a run may be resumed
    with a different number of processes.
    """
    checks.require_integer("--sample-every", sample_every, least=1)
    checks.require_integer("--save-every", save_every, least=1)
    recipe = make_recipe(preset, changes)
    if size is not None and recipe.network == "conv":
        networks.count_doublings((3, size, size))  # refuses a size before a folder is read
    require_apart(out, dataset)
    ranks = distributed.Ranks.from_environment()
    images = data.load_images(
        dataset, size=size, channels=channels, root=root, download=download, verbose=ranks.is_main
    )
    if conditional is None:
        conditional = recipe.classes > 0 and len(images.classes) > 1
    classes = len(images.classes) if conditional else 0
    recipe = replace(recipe, shape=images.shape, classes=classes)

    device, judge = ranks.device(device), None
    if keep_best:
        images, validation = images.hold_out()
        judge = validation_fd(dataset, images, validation, device)
    if ranks.is_main:
        context.with_resource(checkpoints.locked(out))  # until the command ends
    run = checkpoints.Run.open(out, recipe, dataset, resume, warm_start, device, judge, images)
    state = run.state
    begins = ranks.is_main and not state.step
    if begins and keep_best and warm_start is not None and may_know(warm_start, dataset, images):
        message = f"{warm_start} may have learnt from the validation images of --keep-best"
        print(f"warning: {message}, so early checkpoints look better", file=sys.stderr)
    with (
        stop_signals() as received,
        distributed.process_group(ranks, state, recipe, run.settings),
    ):
        if begins:
            if judge and warm_start is not None:
                run.save_if_best()  # training may not improve on it
            run.save()  # a folder that cannot be written is noticed now
        if ranks.is_main:
            if dataset in data.NAMES:  # for a folder, more was said when it was read
                print(images.summary)
            print(expectation(len(images)))
        if ranks.world_size == 1:  # then a GPU replays a graph
            logs = training.train(state, images, recipe)
        else:
            logs = distributed.train(state, images, recipe, ranks)
        every = math.gcd(sample_every, save_every)  # no NaN reaches a file
        logs = training.stop_on_nan(logs, state, every, last=recipe.steps)
        if ranks.is_main:
            logs = announce_time(logs, recipe.steps)
        try:
            for log in progress(logs, state.step, recipe.steps, hide=not ranks.is_main):
                stop = ranks.any(received() > 0)
                if ranks.is_main:
                    run.record(log, sample_every, save_every, stop)
                if stop:
                    break
        except training.DivergedError as error:
            if ranks.is_main:
                run.recalibrate()  # what was restored has the statistics of G
                run.save()  # the state before it diverged
            advice = f"to go on from it, add --warm-start {shlex.quote(str(out))} and another --out"
            raise training.DivergedError(f"{error}; {advice}") from error
    if ranks.is_main:
        run.plot_losses()
    if state.step < recipe.steps:
        message = f"stopped at step {state.step}; the same command with --resume continues"
        print(message, file=sys.stderr)
        raise typer.Exit(128 + (received() or signal.SIGTERM))
    if ranks.is_main:
        print(f"{state.step} steps; checkpoint, samples and losses are in {out}")


def require_apart(out: Path, dataset: str) -> None:
    """Raise ValueError if a run in ``out`` would write samples among the images it learns from."""
    if dataset in data.NAMES or not Path(dataset).is_dir() or not out.is_dir():
        return
    inside = out.resolve().is_relative_to(Path(dataset).resolve())
    found = pictures.find(out)
    if inside and not pictures.is_run(out) and (found.loose or found.classes):
        raise ValueError(f"--out {out} holds images of --data {dataset}; give a folder of its own")


def may_know(start: str, dataset: str, images: data.ImageSet) -> bool:
    """Return whether a checkpoint's networks may have learnt from what ``images`` leave out."""
    path = checkpoints.find(start)
    if not path.exists():  # a run that is resumed has no need of it
        return False
    before = checkpoints.read_settings(path)
    if before.get("warm_start"):
        return True
    name = before.get("data")
    if name in data.NAMES and CLASSIFIERS.get(name) != CLASSIFIERS[dataset]:
        return False  # it saw images of another kind
    return not before.get("keep_best") or before.get("fingerprint") != images.fingerprint


def validation_fd(
    dataset: str, images: data.ImageSet, validation: data.ImageSet, device: torch.device
) -> Callable[[nn.Module], float]:
    """Return a function from a generator to the FD between its samples and validation images.

    Raises:
        ValueError: no bundled classifier has features for such images.
    """
    if dataset not in CLASSIFIERS or images.shape != (1, 28, 28):
        judged = f"images (1, 28, 28) of {', '.join(CLASSIFIERS)}"
        raise ValueError(f"--keep-best judges {judged}, not {images.shape} of {dataset}; omit it")
    judge = metrics.Evaluator(dataset, device, train=images, held_out=validation)
    count = len(validation)
    return lambda G: judge.fd(as_in_training(G, images, count, seed=1))  # evaluate's seed is 0


def expectation(count: int) -> str:
    """Return one line on the quality to expect of ``count`` images, from what the book measured."""
    if count >= 2000:  # 2000² = 500 · 8000: nearer to the bundled sets than to the small trials
        measured = "quick, best and hinge were chosen on 8,000 to 10,000, grey and 28×28"
        return f"{count} images: {measured}; other sizes and colour may need other settings"
    record, few = records.load("small"), 100 if count < 224 else 500  # 224² = 100 · 500
    ends = {
        run["augmentation"]: statistics.median(curve[-1][1] for curve in run["curves"])
        for run in record["runs"]
        if run["images"] == few
    }
    plain, augmented = (ends[name] / record["floor"] for name in ("none", "all of DiffAugment"))
    learnt = (", and D knew them by heart", ", and D did not") if few == 100 else ("", "")
    return (
        f"{count} images: with {few} digits a narrow pair ended at FD {plain:.0f} floors (real: 1)"
        f"{learnt[0]}; with --augment it ended at {augmented:.0f}{learnt[1]}: "
        "see the chapter Small data"
    )


def make_recipe(preset: str, changes: dict) -> recipes.Recipe:
    """Return the preset with the settings that are not None.

    Raises:
        ValueError: there is no such preset for images, or a setting is out of range.
    """
    checks.require_choice("--preset", preset, PRESETS)
    recipe = recipes.preset(preset)
    changes = {name: value for name, value in changes.items() if value is not None}
    beta1, beta2 = recipe.betas
    changes["betas"] = (changes.pop("beta1", beta1), changes.pop("beta2", beta2))
    if "augment" in changes:
        changes["augment"] = augment.POLICY if changes["augment"] else ()
    checks.require_integer("--seed", changes.get("seed", 0), least=0)
    return replace(recipe, **changes)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Catch SIGINT and SIGTERM: the yielded function returns the number of the last one, or 0."""
    received = [0]
    before = {
        kind: signal.signal(kind, lambda number, _: received.append(number))
        for kind in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: received[-1]
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def progress(
    logs: Iterable[training.Log], step: int, steps: int, hide: bool
) -> Iterator[training.Log]:
    """Pass on the logs, and show a progress bar from ``step`` to ``steps`` with the losses."""
    with tqdm(total=steps, initial=step, unit="step", disable=hide) as bar:
        for log in logs:
            bar.update()
            if log.step % checkpoints.Run.LOG_EVERY == 0 and not hide:
                losses = {name: f"{log[name]:.3f}" for name in ("d_loss", "g_loss")}
                bar.set_postfix(losses, refresh=False)
            yield log


def announce_time(logs: Iterable[training.Log], steps: int) -> Iterator[training.Log]:
    """Pass on the logs; print, after a few slow first steps and 10 more, how long all will take."""
    start = 0.0
    for done, log in enumerate(logs, start=1):
        if done in (5, 15):  # a GPU records its graph at the fourth step
            log["d_loss"]  # waits for the device
            pace = (time.perf_counter() - start) / 10
            start = time.perf_counter()
        if done == 15:
            rest = tqdm.format_interval(pace * (steps - log.step))
            line = f"a step takes {pace:.2g} s here, the {steps - log.step} to come about {rest}"
            tqdm.write(line, file=sys.stderr)
        yield log


@app.command()
def sample(
    run: RunName,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(help="How many samples.")] = 64,
    columns: Annotated[
        int | None, typer.Option(help="Samples in a row; by default a square.")
    ] = None,
    label: Annotated[
        int | None, typer.Option(help="The class of all samples, if the network is conditional.")
    ] = None,
    truncation: Truncation = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Write samples of a trained generator as one picture."""
    if columns is not None:
        checks.require_integer("--columns", columns, least=1)
    G, _ = checkpoints.load_generator(run, runtime.choose_device(device))
    plotting.require_grid(count, G.shape, out, columns)
    plotting.save_grid(sampling.generate(G, count, seed, label, truncation), out, columns)
    print(f"{count} samples are in {out}")


@app.command()
def evaluate(
    run: RunName,
    count: Annotated[
        int, typer.Option(help="How many samples to judge; compare only equal numbers.")
    ] = 2000,
    dataset: Annotated[
        str | None,
        typer.Option("--data", help="Set or folder to compare with; by default the run's own."),
    ] = None,
    root: Root = None,
    download: Download = False,
    truncation: Truncation = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare samples with held-out real images.

    A generator with the classes of the data gets labels of training images, at random. Prints each
    measure next to its floor: what as many real training images score, on average over random
    draws. (For more samples than training images FD's floor is extrapolated, and the other floors
    are those of all training images.) For digits and clothing, 28×28 and grey, the features are
    those of a bundled classifier, which also tells the share of each class. For all other images
    they are those of a network with random weights: coarser, and comparable for the same images
    only. FD and KD are not FID and KID, which use other features.
    """
    checks.require_integer(
        "--count", count, FEATURES + 1, most=100_000
    )  # fewer: a covariance is singular
    device = runtime.choose_device(device)
    G, settings = checkpoints.load_generator(run, device)
    name = dataset or settings.get("data")
    judge, train = evaluator(name, G.shape, device, root, download)
    learnt = settings.get("fingerprint")
    if dataset is None and Path(name).is_dir() and learnt not in (None, train.fingerprint):
        fault = f"{name} does not hold the images that {run} learnt from"
        raise ValueError(f"{fault}; give their folder, or others on purpose, with --data")
    report = judge.report(as_in_training(G, train, count, seed, truncation))
    floor, shares = report.fd_floor, report.shares.tolist()
    trained = len(shares) > 1
    if as_json:
        figures = {"step": settings["step"], "count": count, "ratio": report.ratio}
        figures |= {"scores": report.scores, "floors": report.floors, "fd_floor_std": floor.std}
        if trained:
            figures |= {"class_divergence": report.class_divergence, "shares": shares}
        figures["features"] = "trained classifier" if trained else "untrained network"
        print(json.dumps(figures))
        return
    print(f"step {settings['step']}, {count} samples{'generated':>21}{'floor':>12}")
    for name, value in report.scores.items():
        spread = f" ± {floor.std:.4f} ({len(floor.values)} draws)" if name == "fd" else ""
        print(f"{MEASURES.get(name, name):32}{value:12.4f}{report.floors[name]:12.4f}{spread}")
    print(f"{'FD in floors':32}{report.ratio:12.4f}")
    if not trained:
        print("features of an untrained network: compare runs on the same images only")
        return
    print(f"{'class histogram, KL in nats':32}{report.class_divergence:12.4f}")
    print("share of each class" + "".join(f"{share:7.3f}" for share in shares))


def evaluator(
    name: str | None,
    shape: tuple[int, ...],
    device: torch.device,
    root: Path | None,
    download: bool,
) -> tuple[metrics.Evaluator, data.ImageSet]:
    """Return a judge of samples of this shape, and the training images.

    It judges by the features of a classifier if there is one.

    Raises:
        DataError: there are no such images, or too few to judge.
        ValueError: it cannot judge samples of this shape, or no data are named.
    """
    if len(shape) != 3 or min(shape[1:]) < 8:
        raise ValueError(f"evaluate judges images (C, H, W) of 8×8 or more, not samples {shape}")
    if name is None:
        raise ValueError("the checkpoint does not name its data; give them with --data")
    if name not in data.NAMES and not Path(name).is_dir():
        advice = f"give --data with a folder or {DATASETS}"
        raise data.DataError(f"there is no folder {name!r}; {advice}")
    fitting = {"root": root, "download": download, "verbose": False}  # only the table is printed
    trained = name in CLASSIFIERS and shape == (1, 28, 28)
    if not trained:
        fitting |= {"size": shape[-1], "channels": shape[0]}
    train, held_out = (data.load_images(name, split, **fitting) for split in data.SPLITS)
    if len(held_out) <= FEATURES:
        least = f"{FEATURES + 1} held-out images, a fifth of {5 * (FEATURES + 1)}"
        advice = "add images, or judge by eye with sample"
        raise data.DataError(f"evaluate needs {least}; {name} has {len(held_out)}; {advice}")
    network = None if trained else untrained(train, device=device)
    return metrics.Evaluator(name, device, train, held_out, classifier=network), train


def as_in_training(
    G: nn.Module,
    images: data.ImageSet,
    count: int,
    seed: int,
    truncation: float | None = None,
) -> torch.Tensor:
    """Return samples of G, with labels drawn from those of the images if they fit its classes."""
    if getattr(G, "classes", 0) != len(images.classes):
        return sampling.generate(G, count, seed, truncation=truncation)
    z = sampling.latents(count, G.latent_dim, seed, truncation)
    return sampling.sample(G, z, images.draw_labels(count, seed))


@app.command("export")
def export_model(
    run: RunName,
    out: Annotated[
        Path | None,
        typer.Option(help="The file, or a savedmodel's folder, to write; by default model.FORMAT."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(export.FORMATS)}.")
    ] = "onnx",
) -> None:
    """Write a trained generator as one file that can be used without PyTorch.

    The file holds the averaged generator only: no discriminator, no optimiser. It is written only
    if its samples differ from PyTorch's by at most 0.0001. The format savedmodel, a folder for
    TensorFlow Serving, needs TensorFlow.
    """
    checks.require_choice("--format", form, export.FORMATS)
    out = out or Path(f"model.{form}")
    source = checkpoints.find(run)
    if out.exists() and (out.name in pictures.RUN or (source.exists() and out.samefile(source))):
        raise ValueError(f"{out} may be a run's, which could not go on; give another --out")
    if form != "savedmodel" and out.is_dir():
        raise ValueError(f"{out} is a folder; give a file, such as {out / 'model'}.{form}")
    G, settings = checkpoints.load_generator(run)
    if form == "savedmodel":
        from gan_tutorial.ship import savedmodel  # TensorFlow takes seconds to load

        write = savedmodel.to_savedmodel
    else:
        write = export.to_onnx if form == "onnx" else export.to_safetensors
    parity = write(G, out, settings)
    print(f"{parity.samples} samples: largest difference from PyTorch {parity.from_pytorch:.1e}")
    names = export.class_names(G, settings)
    of = f" of {len(names)} classes ({data.listed(names, 12)})" if names else ""
    found = [out, *out.rglob("*")] if out.is_dir() else [out]
    size = sum(path.stat().st_size for path in found if path.is_file()) / 1e6
    print(f"{out} holds G{of}, {size:.1f} MB; weights {export.weights_digest(G)}")


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Serve an exported model over HTTP: serve model.onnx; see serve --help.

    This process becomes python -m gan_tutorial.ship.serving, which does not load PyTorch; on
    Windows it waits for it.
    """
    command = [sys.executable, "-m", "gan_tutorial.ship.serving", *context.args]
    if sys.platform != "win32":
        os.execv(sys.executable, command)
    with stop_signals():  # Windows' execv splits paths at spaces; Ctrl-C reaches the service too
        raise typer.Exit(subprocess.call(command))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error is one line on stderr and an exit status that is not 0."""
    files.escape_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(
            arguments or ["--help"], prog_name="python -m gan_tutorial", standalone_mode=False
        )
    except typer.TyperException as error:
        status = fail(error.format_message(), error.exit_code)
    except (ValueError, OSError, ArithmeticError) as error:
        status = fail(str(error), 1)
    except (RuntimeError, MemoryError, TypeError) as error:  # TypeError: sizes beyond 64 bits
        if not isinstance(error, MemoryError) and not re.search(OUT_OF_MEMORY, str(error), re.I):
            raise
        wanted = re.search(r"allocate ([\d.]+ \w+)", str(error))  # by PyTorch or NumPy
        amount = f" ({wanted[1]} at once)" if wanted else ""
        lower = LOWER.get(arguments[0], "the size of the model")
        status = fail(f"{device_of(error)} lacks the memory for it{amount}; lower {lower}", 1)
    sys.exit(status)


def device_of(error: Exception) -> str:
    """Return whose memory is full."""
    return "the GPU" if re.search("CUDA|CUBLAS|CUDNN|MPS", str(error)) else "this machine"


def fail(message: str, status: int) -> int:
    """Print an error as one line, and return the exit status."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
