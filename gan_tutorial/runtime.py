"""Where a program runs and what it draws: devices, random numbers, files that are never half written."""

import contextlib
import functools
import math
import numbers
import os
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``"auto"`` takes a GPU where there is one, else the CPU.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        usable = ["auto", "cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(
            f"device must be one that this machine has, but is {str(name)!r}; use one of {', '.join(usable)}"
        ) from error
    return device


def step_rng(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the random generator of one training step: a pure function of (seed, step).

    All that a step draws, its batch and its noise, comes from this generator, so a resumed run draws
    what the unbroken run would have drawn, and no generator's state has to be saved. NumPy's
    ``SeedSequence`` mixes the two numbers, so that neighbouring seeds and steps share nothing.

    Raises:
        ValueError: seed or step is not an integer of at least 0.
    """
    for name, value in (("seed", seed), ("step", step)):
        require_integer(name, value, least=0)
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed) % 2**63)


def require_integer(name: str, value: object, least: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, but is {value!r}")


def require_number(name: str, value: object, least: float = 0.0, below: float = math.inf, strict: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number in [least, below), or in (least, below) if strict."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value < below or (strict and value == least):
        interval = f"{'(' if strict else '['}{least:g}, {below:g})"
        raise ValueError(f"{name} must be a number in {interval}, but is {value!r}")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it onto ``path`` only when the block ends without an error.

    A reader of ``path`` sees the old file or the complete new one, never a part, even when the process is
    killed or the disk is full. Missing folders are made. The temporary name is always the same, so what a
    killed process leaves behind is overwritten by the next one.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}; what was there is kept", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@functools.cache
def has_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions that multiply bfloat16; without, they would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def origin(device: torch.device) -> dict:
    """Return machine, versions and date as plain values, to store beside what was measured on ``device``."""
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": date.today().isoformat(),
    }


def has_fused_adam(device: str | torch.device) -> bool:
    """Return whether Adam can update all weights in one kernel on this kind of device."""
    return torch.device(device).type in ("cpu", "cuda")
