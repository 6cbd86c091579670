"""CUDA graphs on the CPU: a recording of operators that can be replayed, with a graph's limits."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_tutorial import training

# what would wait for a GPU, or bring values from the CPU to it
FORBIDDEN = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "lift_fresh_copy"}


class Graph(TorchDispatchMode):
    """A recording of all operators, on the tensors that they had; nothing else is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        self.before: list[tuple] = []
        self.rng: torch.Generator | None = None

    def register_generator_state(self, rng: torch.Generator) -> None:
        self.rng = rng

    def __torch_dispatch__(
        self, operator: Callable, types: object, arguments: tuple = (), options: dict | None = None
    ) -> object:
        options = options or {}
        name = operator._schema.name.removeprefix("aten::")
        assert name not in FORBIDDEN, f"{name} cannot be recorded"
        named = {
            x.name: value for x, value in zip(operator._schema.arguments, arguments, strict=False)
        } | options
        for argument in operator._schema.arguments:
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written or argument.name.startswith("running_"):  # BatchNorm hides these writes
                self.before += [(x, x.clone()) for x in tensors(named.get(argument.name))]
        result = operator(*arguments, **options)
        self.calls.append((operator, arguments, options, tensors(result)))
        return result

    def undo(self) -> None:
        """Give every changed tensor its old value: a recording computes nothing."""
        for tensor, value in reversed(self.before):
            tensor.copy_(value)
        self.before.clear()

    @torch.no_grad()
    def replay(self) -> None:
        assert self.calls, "nothing was recorded"
        for operator, arguments, options, results in self.calls:
            for old, new in zip(results, tensors(operator(*arguments, **options)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(value: object) -> list[torch.Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    return [x.detach() for x in tree_leaves(value) if isinstance(x, torch.Tensor)]


class Stream:
    """A stream of a CPU, where everything happens immediately."""

    def wait_stream(self, other: "Stream") -> None:
        pass


@contextlib.contextmanager
def record(graph: Graph, stream: Stream) -> Iterator[None]:
    state = graph.rng.get_state()
    with graph:
        yield
    with torch.no_grad():
        graph.undo()
    graph.rng.set_state(state)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``training.train`` record and replay its steps on the CPU."""
    monkeypatch.setattr(training, "has_graphs", lambda device: True)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
