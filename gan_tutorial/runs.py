"""The folder that the command line trains into: its checkpoint, its log, and the settings that go with them."""

import csv
import json
from pathlib import Path

from gan_tutorial import checkpoints, plotting, runtime, training
from gan_tutorial.data import BUNDLED

CHECKPOINT = "checkpoint.safetensors"


def start(out: Path) -> list[dict]:
    """Return an empty log, for a folder that holds no run.

    Raises:
        ValueError: it holds one.
    """
    if (out / CHECKPOINT).exists():
        step = checkpoints.read_settings(out / CHECKPOINT)["step"]
        raise ValueError(f"{out} holds a run of {step} steps; add --resume to go on, or give another --out")
    return []


def resume(state: training.TrainState, out: Path, settings: dict) -> list[dict]:
    """Put the checkpoint in ``out`` into the state, if there is one, and return the log up to it.

    Raises:
        ValueError: it holds a run with other settings, or one that has made more steps.
    """
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


def write_log(rows: list[dict], out: Path) -> None:
    """Write the log as log.csv."""
    with runtime.replacing(out / "log.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "d_loss", "g_loss"])
        writer.writeheader()
        writer.writerows(rows)


def draw_log(rows: list[dict], out: Path) -> None:
    """Draw the log's losses as losses.png."""
    series = {name: [row[name] for row in rows] for name in ("d_loss", "g_loss")}
    figure = plotting.curves(series, [row["step"] for row in rows], xlabel="step", ylabel="loss", title="Losses")
    with runtime.replacing(out / "losses.png") as temporary:
        figure.savefig(temporary)


def checkpoint(run: Path) -> Path:
    """Return the checkpoint file that a run's folder, a file's path or a bundled name stands for."""
    if str(run) in BUNDLED and not run.exists():
        return checkpoints.bundled(str(run))
    return run / CHECKPOINT if run.is_dir() else run
