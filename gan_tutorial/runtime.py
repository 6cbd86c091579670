"""Device, random numbers, and what the machine can do."""

import contextlib
import functools
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import date

import numpy as np
import torch
from torch import Tensor


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``"auto"`` is a CUDA GPU if there is one, else the CPU.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        usable = ["auto", "cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        usable += ["mps"] if torch.backends.mps.is_available() else []
        known = ", ".join(usable)
        raise ValueError(f"there is no device {str(name)!r} here; use one of {known}") from error
    return device


def step_rng(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the random generator of one training step: a pure function of (seed, step).

    All random numbers of a step, its batch and its noise, come from this generator, so a resumed
    run repeats those of the uninterrupted run, and no generator state has to be saved. NumPy's
    ``SeedSequence`` mixes the two numbers, so that neighbouring seeds and steps are independent.

    Raises:
        ValueError, TypeError: seed or step is not an integer of at least 0.
    """
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed) % 2**63)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global random generator in the block, and restore it afterwards."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else None
    with torch.random.fork_rng(gpus):  # listed, or it warns where there are several
        torch.manual_seed(seed)
        yield


@functools.cache
def has_bf16(device: torch.device) -> bool:
    """Return whether training in bfloat16 pays on the device: a GPU, or a CPU with matrix units.

    On an x86 CPU these are called AMX. Without them bfloat16 is slower than float32, even where
    there are vector instructions for it: with AVX-512-BF16 alone, two threads made 13.3 steps of
    an earlier ``quick`` a second in bfloat16 and 17.0 in float32. Nobody has measured an ARM CPU,
    so there the answer is no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities().get("amx_bf16", False)
    return False


def has_fused_adam(device: str | torch.device) -> bool:
    """Return whether Adam can update all weights in one kernel on this kind of device."""
    return torch.device(device).type in ("cpu", "cuda")


def has_graphs(device: str | torch.device) -> bool:
    """Return whether a ``GraphedStep`` works on this kind of device."""
    return torch.device(device).type == "cuda"


class GraphedStep:
    """A step of training on a GPU that is first called, then recorded, then replayed.

    A GPU computes a step of small networks faster than Python can launch its kernels one by one. A
    CUDA graph records the kernels of a whole step and launches them in one call. The results are
    those of the step itself up to rounding, and bit for bit with deterministic algorithms.

    A graph repeats what the step did while recorded: the same branches, on the same tensors. Only
    the tensors among the arguments are copied into it, and its random numbers go on from the state
    of the generator among the arguments. So the step must not look at a value (``x.item()``, ``if x
    > 0``), and between two calls nobody may replace a weight. Learning rates may change.

    Args:
        step: returns scalars by name, on the GPU of its only generator.
        optimisers: those that the step uses; fused, so that their step counts are on the GPU.
    """

    WARM_UP = 3  # calls before the recording, in which libraries allocate what they need

    def __init__(
        self, step: Callable[..., dict[str, Tensor]], *optimisers: torch.optim.Optimizer
    ) -> None:
        self.step, self.optimisers = step, optimisers
        self.graph, self.calls = torch.cuda.CUDAGraph(), 0

    def __call__(self, *arguments: object) -> dict[str, Tensor]:
        """Do what ``step(*arguments)`` does; return its scalars, which no later call changes."""
        (rng,) = (x for x in arguments if isinstance(x, torch.Generator))
        with torch.cuda.device(rng.device):
            self.calls += 1
            if self.calls <= self.WARM_UP:
                return self._warm_up(arguments, rng.device)
            if self.calls == self.WARM_UP + 1:
                self._record(arguments, rng)
            for own, given in zip(self.arguments, arguments, strict=True):
                if isinstance(own, Tensor):
                    own.copy_(given)
                elif isinstance(own, torch.Generator):
                    own.set_state(given.get_state())
            for group, rate in self.rates:
                rate.fill_(group["lr"])
            self.graph.replay()
            return dict(zip(self.names, self.scalars.clone(), strict=True))

    def _warm_up(self, arguments: tuple, device: torch.device) -> dict[str, Tensor]:
        """Run the step, on the stream of the recording, as libraries keep memory per stream."""
        stream, current = _side_stream(device), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            names, scalars = self._run(arguments)
        current.wait_stream(stream)
        return dict(zip(names, scalars, strict=True))

    def _record(self, arguments: tuple, rng: torch.Generator) -> None:
        """Record the step; nothing is computed."""
        self.arguments = [x.clone() if isinstance(x, Tensor) else x for x in arguments]
        if hasattr(self.graph, "register_generator_state"):
            with warnings.catch_warnings():  # newer PyTorch does it by itself, and says so
                warnings.simplefilter("ignore")
                self.graph.register_generator_state(rng)
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        numbers = [group["lr"] for group in groups]
        self.rates = [(x, torch.tensor(x["lr"], device=rng.device)) for x in groups]
        for group, rate in self.rates:  # a capture needs capturable; outside one, Adam warns of it
            group.update(lr=rate, capturable=True)
        try:
            with torch.cuda.graph(self.graph, stream=_side_stream(rng.device)):
                self.names, self.scalars = self._run(self.arguments)
        finally:  # also if the step cannot be recorded
            for group, number in zip(groups, numbers, strict=True):
                group.update(lr=number, capturable=False)

    def _run(self, arguments: Iterable) -> tuple[list[str], Tensor]:
        scalars = self.step(*arguments)
        return list(scalars), torch.stack(list(scalars.values()))


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def provenance(device: torch.device) -> dict:
    """Return machine, versions and date as plain values, to store with a measurement."""
    threads = torch.get_num_threads()
    cpu = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, threads: {threads}"
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": date.today().isoformat(),
    }
