"""Training states as files: complete or absent, checked when read, and free of executable code.

A checkpoint is one safetensors file with the tensors of both networks, of G's average and of both
optimisers. Its header has the step, the optimisers' settings, the caller's settings and a SHA-256
of everything.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from gan_tutorial import data, files, plotting, sampling
from gan_tutorial.networks import Generator
from gan_tutorial.recipes import Recipe
from gan_tutorial.training import Log, TrainState

FORMAT = "gan_tutorial checkpoint 2"
MODULES = ("G", "D", "G_ema")
OPTIMISERS = ("opt_G", "opt_D")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message says why and what to do."""


def save(state: TrainState, path: str | Path, settings: Mapping) -> None:
    """Write a state; the old file at ``path`` is kept until the new one is complete.

    Args:
        state: what to save.
        path: where to; by convention it ends in ``.safetensors``.
        settings: plain values (whatever JSON holds), returned by ``read_settings``. From
            ``recipe``, the ``asdict`` of a ``Recipe``, ``load_generator`` builds G.

    Raises:
        CheckpointError: a weight is NaN or infinite, or the settings are not plain values.
        OSError: the file cannot be written.
    """
    saved = state.state_dict()
    tensors = {f"{name}.{key}": value for name in MODULES for key, value in saved[name].items()}
    header = {"format": FORMAT, "step": state.step, "settings": settings}
    for name in OPTIMISERS:
        header[name] = saved[name]["param_groups"]
        for index, moments in saved[name]["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in moments.items()}
    _write(path, header, tensors)


def save_networks(state: TrainState, path: str | Path, settings: Mapping) -> None:
    """Write D and G's average alone, in float16: enough to sample and for warm starts.

    About an eighth of the size of ``save``'s file, which a run needs to be resumed.

    Args, Raises:
        As for ``save``.
    """
    networks = {"G_ema": state.G_ema, "D": state.D}
    tensors = {
        f"{name}.{key}": value.half() if value.is_floating_point() else value
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    _write(path, {"format": FORMAT, "step": 0, "settings": settings}, tensors)


def _write(path: str | Path, header: Mapping, tensors: Mapping[str, Tensor]) -> None:
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{key} holds NaN or infinity; {path} is not replaced")
    try:
        header = {key: json.dumps(value) for key, value in header.items()}
    except TypeError as error:
        raise CheckpointError(f"settings must be plain values for JSON, but {error}") from error
    header["sha256"] = _digest(header, tensors)
    with files.replacing(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, header))


def read_settings(path: str | Path) -> dict:
    """Return the settings that were saved at ``path``, with the number of steps done as ``step``.

    Raises:
        CheckpointError: there is no file, or it is not a complete checkpoint.
    """
    header, _ = _read(path)
    return header["settings"] | {"step": header["step"]}


def restore(state: TrainState, path: str | Path) -> None:
    """Load the checkpoint at ``path`` into a state of the same networks, on its device.

    Raises:
        CheckpointError: there is no file, it is damaged, or it has other networks. The state is
            then unchanged.
    """
    header, tensors = _read(path)
    saved = {"step": header["step"]}
    for name in MODULES:
        saved[name] = _part(tensors, name)
        _check_same(getattr(state, name), saved[name], name, path)
    for name in OPTIMISERS:
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, name).items():
            index, kind = key.split(".")
            moments.setdefault(int(index), {})[kind] = value
        saved[name] = {"state": moments, "param_groups": header[name]}
    state.load_state_dict(saved)


def warm_start(state: TrainState, path: str | Path) -> None:
    """Load the networks of a checkpoint, G from its average; optimisers and step stay as they are.

    Raises:
        CheckpointError: as for ``restore``.
    """
    _, tensors = _read(path)
    weights = {
        "G": _part(tensors, "G_ema"),
        "G_ema": _part(tensors, "G_ema"),
        "D": _part(tensors, "D"),
    }
    for name, saved in weights.items():
        _check_same(getattr(state, name), saved, name, path)
    for name, saved in weights.items():
        getattr(state, name).load_state_dict(saved)


def find(name: str | Path) -> Path:
    """Return the checkpoint file for the name of a bundled pair, a run's folder, or a file."""
    path = Path(name)
    if str(name) in data.PAIRS and not path.exists():
        return data.asset(f"{name}-gan.safetensors")
    return path / Run.CHECKPOINT if path.is_dir() else path


def load_generator(name: str | Path, device: str | torch.device = "cpu") -> tuple[Generator, dict]:
    """Return the averaged generator of a checkpoint, in evaluation mode, and the settings.

    Args:
        name: ``digits``, ``fashion`` or ``flowers`` for a bundled pair, the folder of a run, or a
            checkpoint.

    Raises:
        CheckpointError: there is no file, it is damaged, or its settings do not describe the
            networks.
    """
    path = find(name)
    header, tensors = _read(path)
    settings = header["settings"] | {"step": header["step"]}
    try:
        G, _ = Recipe(**settings["recipe"]).build()
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{path} does not say which networks it holds ({error}); load it with restore"
        raise CheckpointError(fault) from error
    weights = _part(tensors, "G_ema")
    _check_same(G, weights, "G_ema", path)
    G.load_state_dict(weights)
    return G.to(device).eval().requires_grad_(False), settings


@dataclass
class Run:
    """The folder of a run: its checkpoints, log.csv, losses.png and grids of samples.

    Attributes:
        folder: where everything is written.
        recipe: how the state is trained.
        state: the state that is trained.
        settings: plain values that are saved with the state: data, warm_start, keep_best, recipe.
        judge: returns how far G's samples are from validation images; with it, the checkpoint
            that is nearest is kept besides the last one.
        rows: step, d_loss and g_loss of the logged steps.
        best: the least distance so far.
    """

    CHECKPOINT = "checkpoint.safetensors"
    BEST = "best.safetensors"
    FIELDS = ("step", "d_loss", "g_loss")
    LOG_EVERY = 10  # steps; reading a loss waits for the device

    folder: Path
    recipe: Recipe
    state: TrainState
    settings: dict
    judge: Callable[[nn.Module], float] | None = None
    rows: list[dict] = field(default_factory=list)
    best: float = math.inf

    @classmethod
    def open(
        cls,
        folder: Path,
        recipe: Recipe,
        dataset: str,
        resume: bool = False,
        start_from: str | None = None,
        device: str | torch.device = "cpu",
        judge: Callable[[nn.Module], float] | None = None,
    ) -> Self:
        """Return a new run in ``folder``, or the one that is there, to be resumed. Writes nothing.

        Args:
            folder: of the run.
            recipe: how to train; a resumed run may differ in ``steps`` only.
            dataset: name of the data.
            resume: continue the run in the folder, if there is one.
            start_from: a checkpoint, as for ``find``, whose networks a new run starts from.
            device: where to train.
            judge: if given, the best checkpoint is kept too, as the attribute says.

        Raises:
            ValueError: there is a run and resume is not set, or it has other settings or more
                steps.
        """
        settings = {"data": dataset, "warm_start": start_from, "keep_best": judge is not None}
        settings["recipe"] = asdict(recipe)
        run = cls(folder, recipe, recipe.init(device), settings, judge)
        path = folder / cls.CHECKPOINT
        if path.exists():
            saved = read_settings(path)
            if not resume:
                advice = "add --resume to continue it, or give another --out"
                raise ValueError(f"{folder} holds a run of {saved['step']} steps; {advice}")
            run._check_same_settings(saved)
            restore(run.state, path)
            run.rows = run._read_log()
            if judge and (folder / cls.BEST).exists():
                run.best = read_settings(folder / cls.BEST)["validation_fd"]
        elif start_from is not None:
            warm_start(run.state, find(start_from))
        return run

    def record(self, log: Log, sample_every: int, save_every: int, stop: bool = False) -> None:
        """Add to the log, write samples and save, each when due and at the recipe's last step.

        Args:
            log: of the step that the state has reached.
            sample_every, save_every: steps between two grids of samples, and two checkpoints.
            stop: save now, since the run is interrupted.
        """
        last = log.step == self.recipe.steps
        if last or log.step % self.LOG_EVERY == 0:
            losses = {"d_loss": log["d_loss"], "g_loss": log["g_loss"]}
            self.rows.append({"step": log.step} | losses)
        if last or log.step % sample_every == 0:
            self.save_samples()
        if self.judge and (last or log.step % save_every == 0):
            self.save_if_best()  # first: after a kill in between, a resumed run repeats the step
        if last or stop or log.step % save_every == 0:
            self.save()

    def save(self) -> None:
        """Write log and checkpoint; the log ends at the state's step, also after a rollback."""
        self.rows = [row for row in self.rows if row["step"] <= self.state.step]
        path = self.folder / "log.csv"
        with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        save(self.state, self.folder / self.CHECKPOINT, self.settings)

    def save_if_best(self) -> None:
        """Write the state as best.safetensors, if no earlier one was as near to validation."""
        distance = self.judge(self.state.G_ema)
        if distance < self.best:
            self.best = distance
            save(self.state, self.folder / self.BEST, self.settings | {"validation_fd": distance})

    def save_samples(self) -> None:
        """Write 64 samples of the averaged generator as samples-STEP.png, from the same z."""
        samples = sampling.generate(self.state.G_ema, 64, self.recipe.seed)
        plotting.save_grid(samples, self.folder / f"samples-{self.state.step:06d}.png")

    def plot_losses(self) -> None:
        """Write the losses of the log as losses.png."""
        series = {name: [row[name] for row in self.rows] for name in self.FIELDS[1:]}
        steps = [row["step"] for row in self.rows]
        figure = plotting.curves(series, steps, xlabel="step", ylabel="loss", title="Losses")
        with files.replacing(self.folder / "losses.png") as temporary:
            figure.savefig(temporary)

    def _check_same_settings(self, saved: dict) -> None:
        """Raise ValueError if the saved run has other settings than this one, or more steps."""
        settings = json.loads(json.dumps(self.settings))  # lists for tuples, as saved
        recipe = saved.get("recipe")  # another program may have saved anything
        then = saved | recipe if isinstance(recipe, dict) else saved
        now = settings | settings["recipe"]
        then.setdefault("keep_best", False)  # runs of earlier versions had no such choice
        changed = [
            f"{key} was {then.get(key, 'not set')}, is {value}"
            for key, value in now.items()
            if key not in ("steps", "recipe") and then.get(key) != value
        ]
        if changed:
            advice = "repeat its options, or give another --out"
            raise ValueError(f"{self.folder} has other settings: {'; '.join(changed)}; {advice}")
        if saved["step"] > self.recipe.steps:
            raise ValueError(f"{self.folder} has {saved['step']} steps; give a larger --steps")

    def _read_log(self) -> list[dict]:
        """Return the rows of log.csv up to the state's step; none if there is no file."""
        path = self.folder / "log.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="") as file:
                rows = [
                    {"step": int(row["step"])}
                    | {name: float(row[name]) for name in self.FIELDS[1:]}
                    for row in csv.DictReader(file)
                ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            advice = "delete it to continue without its curve"
            raise ValueError(f"{path} is not the log of a run ({error}); {advice}") from error
        return [row for row in rows if row["step"] <= self.state.step]


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def _read(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Return the header and the tensors of a checkpoint, after checking that they are complete.

    The file is read at once: opened twice, for the header and for the tensors, it could be two
    files, if a running training replaces it in between.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; train first, or give another")
    try:
        content = path.read_bytes()
        tensors = from_bytes(content)
        length = int.from_bytes(content[:8], "little")  # of the header, which follows as JSON
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, OSError) as error:
        fault = f"not a complete safetensors file ({error}); use an older checkpoint"
        raise CheckpointError(f"{path} is {fault}") from error
    found = header.get("format", "null")
    if found != json.dumps(FORMAT):
        advice = "give a file that this version's train wrote"
        raise CheckpointError(f"{path} has the format {found}, not {FORMAT!r}; {advice}")
    if header.pop("sha256", None) != _digest(header, tensors):
        raise CheckpointError(f"{path} is damaged (its SHA-256 differs); use an older checkpoint")
    return {key: json.loads(value) for key, value in header.items()}, tensors


def _check_same(network: nn.Module, saved: dict[str, Tensor], name: str, path: str | Path) -> None:
    """Raise CheckpointError unless ``saved`` has the tensors of ``network``, each in its shape."""
    here, there = _shapes(network.state_dict()), _shapes(saved)
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            shapes = f"{there.get(key, 'absent')} there, but {here.get(key, 'absent')} here"
            advice = "use the recipe in its settings"
            raise CheckpointError(f"{path} has other networks: {name}.{key} is {shapes}; {advice}")
