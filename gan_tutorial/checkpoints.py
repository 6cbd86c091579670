"""Training states as files: complete or absent, checked when read, and never able to run code.

A checkpoint is one safetensors file: the tensors of both networks, of G's average and of both optimisers, and in its
header the step, the optimisers' settings, the caller's settings and a SHA-256 of all that.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from gan_tutorial import data, runtime
from gan_tutorial.networks import NetworkConfig

FORMAT = "gan_tutorial checkpoint 1"
MODULES = ("G", "D", "G_ema")
OPTIMISERS = ("opt_G", "opt_D")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message says why and what to do."""


def save(state, path: str | Path, settings: Mapping) -> None:
    """Write a ``training.TrainState``; the old file at ``path`` stays until the new one is complete.

    Args:
        state: what to save.
        path: where to; by custom it ends in ``.safetensors``.
        settings: plain values (whatever JSON holds) to find again with ``read_settings``. Under ``network``, the
            ``NetworkConfig.as_dict()`` from which ``load_generator`` builds G.

    Raises:
        CheckpointError: a weight is NaN or infinite, or the settings are not plain values.
        OSError: the disk refuses.
    """
    saved = state.state_dict()
    tensors = {f"{name}.{key}": value for name in MODULES for key, value in saved[name].items()}
    header = {"format": FORMAT, "step": state.step}
    for name in OPTIMISERS:
        header[name] = saved[name]["param_groups"]
        for index, moments in saved[name]["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in moments.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{key} holds NaN or infinity, so step {state.step} is not saved over {path}")
    try:
        header = {key: json.dumps(value) for key, value in header.items()} | {"settings": json.dumps(settings)}
    except TypeError as error:
        raise CheckpointError(f"settings must be plain values that JSON holds, but {error}") from error
    with runtime.replacing(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, header | {"sha256": _digest(header, tensors)}))


def read_settings(path: str | Path) -> dict:
    """Return the settings that were saved at ``path``, and the number of steps made under ``step``.

    Raises:
        CheckpointError: there is no file, or it is not a whole checkpoint.
    """
    header, _ = _read(path)
    return header["settings"] | {"step": header["step"]}


def restore(state, path: str | Path) -> None:
    """Put what was saved at ``path`` into ``state``, a ``training.TrainState`` of the same networks, on its device.

    Raises:
        CheckpointError: there is no file, it is damaged, or it holds other networks. The state is then unchanged.
    """
    header, tensors = _read(path)
    saved = {"step": header["step"]}
    for name in MODULES:
        saved[name] = {key: tensors[f"{name}.{key}"] for key in _keys(tensors, name)}
        _require_same(getattr(state, name), saved[name], name, path)
    for name in OPTIMISERS:
        moments: dict[int, dict[str, Tensor]] = {}
        for key in _keys(tensors, name):
            index, kind = key.split(".")
            moments.setdefault(int(index), {})[kind] = tensors[f"{name}.{key}"]
        saved[name] = {"state": moments, "param_groups": header[name]}
    state.load_state_dict(saved)


def warm_start(state, path: str | Path) -> None:
    """Give ``state`` the networks of a checkpoint, with G as its average; optimisers and step stay fresh.

    Raises:
        CheckpointError: there is no file, it is damaged, or it holds other networks. The state is then unchanged.
    """
    _, tensors = _read(path)
    homes = {"G": "G_ema", "G_ema": "G_ema", "D": "D"}
    weights = {
        name: {key: tensors[f"{source}.{key}"] for key in _keys(tensors, source)} for name, source in homes.items()
    }
    for name, saved in weights.items():
        _require_same(getattr(state, name), saved, name, path)
    for name, saved in weights.items():
        getattr(state, name).load_state_dict(saved)


def bundled(name: str) -> Path:
    """Return the checkpoint of the pair trained on ``digits`` or ``fashion`` that comes with the package."""
    return data.asset(f"{name}-gan.safetensors")


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict]:
    """Return the averaged generator of a checkpoint, in evaluation mode, and the checkpoint's settings.

    Raises:
        CheckpointError: there is no file, it is damaged, or it does not say what networks it holds.
    """
    header, tensors = _read(path)
    settings = header["settings"] | {"step": header["step"]}
    try:
        G, _ = NetworkConfig(**settings["network"]).build()
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say which networks it holds ({error}); use restore instead") from error
    weights = {key: tensors[f"G_ema.{key}"] for key in _keys(tensors, "G_ema")}
    _require_same(G, weights, "G_ema", path)
    G.load_state_dict(weights)
    return G.to(device).eval().requires_grad_(False), settings


def _keys(tensors: Mapping[str, Tensor], name: str) -> list[str]:
    return [key.removeprefix(f"{name}.") for key in tensors if key.startswith(f"{name}.")]


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def _read(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Return the header and the tensors of a checkpoint, after checking that they are whole.

    The file is read in one go: a reader that opened it twice, for the header and for the tensors, could meet two
    files while a running training replaces it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; train first, or give another path")
    try:
        content = path.read_bytes()
        tensors = from_bytes(content)
        length = int.from_bytes(content[:8], "little")  # of the header, which follows as JSON
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); use an older checkpoint") from error
    if header.get("format") != json.dumps(FORMAT):
        raise CheckpointError(f"{path} is a safetensors file, but not a {FORMAT}; give a file that train wrote")
    if header.pop("sha256", None) != _digest(header, tensors):
        raise CheckpointError(f"{path} is damaged: its contents do not match its SHA-256; use an older checkpoint")
    return {key: json.loads(value) for key, value in header.items()}, tensors


def _require_same(network: nn.Module, saved: Mapping[str, Tensor], name: str, path: str | Path) -> None:
    """Raise CheckpointError unless ``saved`` has the tensors of ``network``, each in its shape."""
    here = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    there = {key: tuple(value.shape) for key, value in saved.items()}
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            raise CheckpointError(
                f"{path} holds other networks: {name}.{key} is {there.get(key, 'absent')} there, but "
                f"{here.get(key, 'absent')} here; build the networks from its read_settings"
            )
