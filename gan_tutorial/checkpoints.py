"""Training states as files: complete or absent, checked when read, and free of executable code.

A checkpoint is one safetensors file with the tensors of both networks, of G's average and of both
optimisers. Its header has the step, the optimisers' settings, the caller's settings and a SHA-256
of everything.
"""

import contextlib
import csv
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import filelock
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from gan_tutorial import data, files, pictures, plotting, sampling
from gan_tutorial.networks import Generator
from gan_tutorial.recipes import Recipe
from gan_tutorial.training import Log, TrainState

FORMAT = "gan_tutorial checkpoint 2"
MODULES = ("G", "D", "G_ema")
OPTIMISERS = ("opt_G", "opt_D")
GIVE = "give a file that this version's train wrote"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message says why and what to do."""


def save(state: TrainState, path: str | Path, settings: Mapping) -> None:
    """Write a state; the old file at ``path`` is kept until the new one is complete.

    Args:
        state: what to save.
        path: where to; by convention it ends in ``.safetensors``.
        settings: plain values (whatever JSON holds), returned by ``read_settings``.
            ``load_generator`` builds G from ``recipe``, the ``asdict`` of a ``Recipe``.

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
    """Write D and G's average alone, in float16: enough for sampling and warm starts.

    The file cannot be resumed, and its step is 0; it takes about a seventh of the space of one that
    can.

    Args:
        state, path, settings: as for ``save``.

    Raises:
        CheckpointError, OSError: as for ``save``.
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
        temporary.write_bytes(safetensors_file(tensors, header))


def safetensors_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file: the same ones for the same content.

    The library writes the metadata in no fixed order; here the header is sorted.
    """
    content = to_bytes(tensors, metadata)
    length, header = _header(content)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def parse_safetensors(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    Raises:
        SafetensorError: it is not one, or not complete.
    """
    tensors = from_bytes(content)  # checks the header, too
    return _header(content)[1].get("__metadata__", {}), tensors


def _header(content: bytes) -> tuple[int, dict]:
    """Return the length and the content of the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return length, json.loads(content[8 : 8 + length])


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
    if str(name) in data.PAIRS and not path.is_file() and not pictures.is_run(path):
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
        DataError: the file of a bundled pair is missing or damaged.
    """
    path = find(name)
    header, tensors = _read(path)
    settings = header["settings"] | {"step": header["step"]}
    weights = _part(tensors, "G_ema")
    try:
        recipe = Recipe(**settings["recipe"])
        with torch.device("meta"):  # allocates and draws nothing, whatever a wrong recipe asks for
            G, _ = recipe.build()
        _check_same(G, weights, "G_ema", path)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        fault = f"{path} does not say which networks it holds ({reason}); load it with restore"
        raise CheckpointError(fault) from error
    G.to_empty(device="cpu").load_state_dict(weights)
    return G.to(device).eval().requires_grad_(False), settings


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Let no other process into this block for the same folder, which is created if missing.

    The lock is the system's, on the file ``.lock`` in the folder: it ends with the process, even if
    that is killed. Where a file system has no locks, there is none.

    Raises:
        ValueError: another process is in the block, or the folder or a parent is a file.
        OSError: nothing can be written there.
    """
    folder = Path(folder)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        advice = "wait for it, stop it, or give another folder with --out"
        raise ValueError(f"another process is training in {folder}; {advice}") from error
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (folder, *folder.parents) if path.exists())
        fault = f"{folder} cannot be a folder, as {file} is a file"
        raise ValueError(f"{fault}; give another folder with --out") from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            reason = f"{os.strerror(error.errno)}; give another folder with --out"
            raise OSError(error.errno, reason, str(folder)) from error
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot delete an open file
            (folder / ".lock").unlink()  # still locked: whoever waits for it makes a new one
        lock.release()
        if new:
            with contextlib.suppress(OSError):  # not if something was written
                folder.rmdir()


@dataclass
class Run:
    """The folder of a run: its checkpoints, log.csv, losses.png and grids of samples.

    Attributes:
        folder: where everything is written.
        recipe: how the state is trained.
        state: the state that is trained.
        settings: plain values that are saved with the state: data, fingerprint, class_names,
            warm_start, keep_best, recipe.
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
        images: data.ImageSet | None = None,
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
            images: if given, the run records their fingerprint and their classes, and is resumed
                with the same images only, wherever they lie.

        Raises:
            ValueError: there is a run of a step or more, or its best checkpoint, and resume is not
                set, or it has other settings, other images or more steps.
        """
        settings = {"data": dataset, "warm_start": start_from, "keep_best": judge is not None}
        settings["recipe"] = asdict(recipe)
        if images is not None:
            settings |= {"fingerprint": images.fingerprint, "class_names": images.classes}
        run = cls(folder, recipe, recipe.init(device), settings, judge)
        path = folder / cls.CHECKPOINT
        saved = read_settings(path) if path.exists() else None
        if saved and not resume and not saved["step"] and "fingerprint" in saved:
            saved = None  # it failed before its first step, so nothing is lost
        if saved:
            if not resume:
                advice = "add --resume to continue it, or give another --out"
                raise ValueError(f"{folder} holds a run of {saved['step']} steps; {advice}")
            run._check_same_settings(saved)
            restore(run.state, path)
            run.rows = run._read_log()
            if judge and (folder / cls.BEST).exists():
                run.best = read_settings(folder / cls.BEST)["validation_fd"]
            return run
        best = folder / cls.BEST
        if best.exists() and (kept := read_settings(best))["step"]:  # all that is left of a run
            if not resume:
                advice = "move it away, give another --out, or --resume to begin the same run anew"
                raise ValueError(f"{best} is of step {kept['step']} of a run; {advice}")
            run._check_same_settings(kept, best)
            run.best = kept["validation_fd"]
        if start_from is not None:
            run._check_same_networks(find(start_from))
            warm_start(run.state, find(start_from))
        return run

    def record(self, log: Log, sample_every: int, save_every: int, stop: bool = False) -> None:
        """Add to the log, write samples and save, each when due and at the recipe's last step.

        What is written has an averaged generator with BatchNorm statistics of its own; training
        goes on unaffected.

        Args:
            log: of the step that the state has reached.
            sample_every, save_every: steps between two grids of samples, and two checkpoints.
            stop: save now, since the run is interrupted.
        """
        last = log.step == self.recipe.steps
        if last or log.step % self.LOG_EVERY == 0:
            losses = {"d_loss": log["d_loss"], "g_loss": log["g_loss"]}
            self.rows.append({"step": log.step} | losses)
        samples_due = last or log.step % sample_every == 0
        save_due = last or log.step % save_every == 0
        if samples_due or save_due or stop:
            self.recalibrate()
        if samples_due:
            self.save_samples()
        if self.judge and save_due:
            self.save_if_best()  # first: after a kill in between, a resumed run repeats the step
        if save_due or stop:
            self.save()

    def recalibrate(self) -> None:
        """Give G's average BatchNorm statistics of its own; the next step overwrites them."""
        own = sampling.recalibrate_batchnorm(self.state.G_ema)
        self.state.G_ema.load_state_dict(own.state_dict())

    def save(self) -> None:
        """Write log and checkpoint; the log ends at the state's step, even after a rollback."""
        self.rows = [row for row in self.rows if row["step"] <= self.state.step]
        path = self.folder / "log.csv"
        with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        save(self.state, self.folder / self.CHECKPOINT, self.settings)

    def save_if_best(self) -> None:
        """Write the state as best.safetensors, if none before was as near to the validation set."""
        distance = self.judge(self.state.G_ema)
        if distance < self.best:
            self.best = distance
            save(self.state, self.folder / self.BEST, self.settings | {"validation_fd": distance})

    def save_samples(self) -> None:
        """Write 64 samples of G's average, always from the same z, as samples-STEP.png."""
        samples = sampling.generate(self.state.G_ema, 64, self.recipe.seed)
        plotting.save_grid(samples, self.folder / f"samples-{self.state.step:06d}.png")

    def plot_losses(self) -> None:
        """Write the losses of the log as losses.png."""
        series = {name: [row[name] for row in self.rows] for name in self.FIELDS[1:]}
        steps = [row["step"] for row in self.rows]
        figure = plotting.curves(series, steps, xlabel="step", ylabel="loss", title="Losses")
        with files.replacing(self.folder / "losses.png") as temporary:
            figure.savefig(temporary)

    def _check_same_networks(self, path: Path) -> None:
        """Raise ValueError if the recipe at ``path`` has other networks than this one."""
        try:
            there = Recipe(**read_settings(path)["recipe"])
        except (KeyError, TypeError):  # of another program; the shapes of the weights will tell
            return
        names = self.settings.get("class_names")
        if names and there.classes not in (0, self.recipe.classes, len(names)):
            advice = f"take data in {there.classes} classes, or start from other networks"
            raise ValueError(f"{path} has {there.classes} classes, the data {len(names)}; {advice}")
        options = [
            text
            for name, text in _network_options(there).items()
            if getattr(there, name) != getattr(self.recipe, name)
        ]
        if options:
            raise ValueError(f"{path} has other networks; to match them, add {' '.join(options)}")

    def _check_same_settings(self, saved: dict, path: Path | None = None) -> None:
        """Raise ValueError if the run saved at ``path`` has other settings, or more steps."""
        path = path or self.folder
        settings = json.loads(json.dumps(self.settings))  # lists for tuples, as saved
        recipe = saved.get("recipe")  # another program may have saved anything
        then = saved | recipe if isinstance(recipe, dict) else saved
        now = settings | settings["recipe"]
        for name, value in (("keep_best", False), ("minibatch_std", 0)):
            then.setdefault(name, value)  # runs of earlier versions had no such choice
        if then.get("fingerprint") and now.get("fingerprint"):
            if then["fingerprint"] == now["fingerprint"]:
                then["data"] = now["data"]  # they may have moved
            elif then.get("data") == now["data"]:
                fault = f"the images in {now['data']} are not those that {self.folder} began with"
                raise ValueError(f"{fault}; put them back, or give another --out")
        changed = [
            f"{key} was {then.get(key, 'not set')}, is {value}"
            for key, value in now.items()
            if key not in ("steps", "recipe", "fingerprint", "class_names")
            and then.get(key) != value
        ]
        if changed:
            anew = f"start from its networks: --warm-start {path} with another --out"
            advice = f"set them as they were, or {anew}"
            raise ValueError(f"{path} has other settings: {'; '.join(changed)}; {advice}")
        if saved["step"] > self.recipe.steps:
            raise ValueError(f"{path} has {saved['step']} steps; give a larger --steps")

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
        digest.update(tensors[key].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Return the header and the tensors of a checkpoint, after checking that they are complete.

    The file is read in one go: opened twice, for the header and for the tensors, it could be two
    files, if a training run replaces it in between.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; train first, or give another")
    try:
        content = path.read_bytes()
        header, tensors = parse_safetensors(content)
    except OSError as error:
        fault = f"cannot be read ({error.strerror}); check its permissions and its disk"
        raise CheckpointError(f"{path} {fault}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is {_fault(content, error)}") from error
    found = header.get("format", "null")
    if found != json.dumps(FORMAT):
        exported = "gan_tutorial export" in found
        advice = "give the run that it was exported from" if exported else GIVE
        raise CheckpointError(f"{path} has the format {found}, not {FORMAT!r}; {advice}")
    if header.pop("sha256", None) != _digest(header, tensors):
        raise CheckpointError(f"{path} is damaged (its SHA-256 differs); use an older checkpoint")
    return {key: json.loads(value) for key, value in header.items()}, tensors


def _fault(content: bytes, error: SafetensorError) -> str:
    """Return what is wrong with an unreadable file, and what to do."""
    if content[8:9] in (b"{", b""):  # where the header of a safetensors file starts
        return f"not a complete safetensors file ({error}); use an older checkpoint"
    if content.startswith((b"PK", b"\x80")):
        return f"a pickle of torch.save, which could run arbitrary code, so it is not read; {GIVE}"
    return f"not a safetensors file; {GIVE}"


def _network_options(recipe: Recipe) -> dict[str, str]:
    """Return the options of train that decide what the networks compute, by name."""
    hidden = f"a Recipe with hidden={recipe.hidden}"  # the command line has no such option
    size = {"hidden": hidden}
    if recipe.network == "conv":
        groups = f"--minibatch-std {recipe.minibatch_std}"
        size = {"minibatch_std": groups, "width": f"--width {recipe.width}"}
    conditional = f"--conditional (for {recipe.classes} classes)"
    return {
        "network": f"--network {recipe.network}",
        "shape": f"--size {recipe.shape[-1]} --channels {recipe.shape[0]}",
        "latent_dim": f"--latent-dim {recipe.latent_dim}",
        "spectral": "--spectral" if recipe.spectral else "--no-spectral",
        "classes": conditional if recipe.classes else "--no-conditional",
        **size,
    }


def _check_same(network: nn.Module, saved: dict[str, Tensor], name: str, path: str | Path) -> None:
    """Raise CheckpointError unless ``saved`` has the tensors of ``network``, each in its shape."""
    here, there = _shapes(network.state_dict()), _shapes(saved)
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            shapes = f"{there.get(key, 'absent')} there, but {here.get(key, 'absent')} here"
            advice = "use the recipe in its settings"
            raise CheckpointError(f"{path} has other networks: {name}.{key} is {shapes}; {advice}")
