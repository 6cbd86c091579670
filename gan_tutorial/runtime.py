"""Device, random numbers, and what the machine can do."""

import contextlib
import functools
import platform
from collections.abc import Iterator
from datetime import date

import numpy as np
import torch


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``"auto"`` is a GPU if there is one, else the CPU.

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
        known = ", ".join(usable)
        raise ValueError(f"there is no device {str(name)!r} here; use one of {known}") from error
    return device


def step_rng(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the random generator of one training step: a pure function of (seed, step).

    All random numbers of a step, its batch and its noise, come from this generator, so a resumed
    run repeats those of the unbroken run, and no generator state has to be saved. NumPy's
    ``SeedSequence`` mixes the two numbers, so that neighbouring seeds and steps are independent.

    Raises:
        ValueError, TypeError: seed or step is not an integer of at least 0.
    """
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed) % 2**63)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global random generator in the block, and restore it afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@functools.cache
def has_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware; emulation would be slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def has_fused_adam(device: str | torch.device) -> bool:
    """Return whether Adam can update all weights in one kernel on this kind of device."""
    return torch.device(device).type in ("cpu", "cuda")


def provenance(device: torch.device) -> dict:
    """Return machine, versions and date as plain values, to store with a measurement."""
    threads = torch.get_num_threads()
    cpu = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, threads: {threads}"
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": date.today().isoformat(),
    }
