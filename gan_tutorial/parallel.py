"""Training in several processes: each rank computes a share of every batch, and all make the same step.

``torchrun --nproc-per-node 2 -m gan_tutorial train …`` starts the ranks. Every rank draws the whole batch, so that the
random numbers are those of one process. Between ``joined``'s hooks, each network sees the rank's own rows alone: the
same rows of real and generated samples, so pairs and packs stay together. The losses are means over the whole batch,
with other ranks' logits as constants; hence the sum of the ranks' gradients is the gradient that one process has,
whatever the loss, the penalty or the augmentation. What is left to send is small: logits, batch statistics, gradients.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gan_tutorial import networks, runtime, training

PATIENCE = timedelta(minutes=5)  # a rank that ends is noticed at once; this is for a machine that vanishes
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LostRankError(ConnectionError):
    """Another rank has ended or cannot be reached; the message says how to go on."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together.

    Attributes:
        rank: its number, from 0.
        count: how many there are; 1 for a process on its own.
        local: its number on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Return what torchrun has put into the environment; without torchrun, a process on its own.

        Args:
            environment: the variables by name; those of this process if not given.

        Raises:
            ValueError: some of its variables are missing, or hold no sensible number.
        """
        environment = os.environ if environment is None else environment
        given = [name for name in VARIABLES[:2] if name in environment]
        if not given:
            return cls()
        if missing := [name for name in VARIABLES if name not in environment]:
            raise ValueError(
                f"{given[0]} is set, but {', '.join(missing)} not; start with torchrun, or unset {', '.join(given)}"
            )
        numbers = []
        for name, least in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("MASTER_PORT", 1)):
            text = environment[name]
            runtime.require_integer(name, int(text) if text.isdecimal() else text, least)
            numbers.append(int(text))
        rank, count, local, _ = numbers
        if rank >= count or local >= count:
            raise ValueError(f"RANK {rank} and LOCAL_RANK {local} must be below WORLD_SIZE, which is {count}")
        return cls(rank, count, local)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and draws the progress bar."""
        return self.rank == 0

    def device(self, name: str | torch.device = "auto") -> torch.device:
        """Return the device called ``name``, as ``runtime.choose_device`` does; of GPUs, the one of this rank.

        Raises:
            ValueError: there is no such device, or the ranks of this machine would have to share a GPU.
        """
        device = runtime.choose_device(name)
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ValueError(
                f"device must be auto, cpu or cuda for several ranks, but is {name}; each takes its own GPU"
            )
        if self.local >= torch.cuda.device_count():
            raise ValueError(
                f"rank {self.rank} is number {self.local} on a machine with {torch.cuda.device_count()} GPUs; "
                "start as many ranks as GPUs, or give --device cpu"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` holds on any rank; every rank must ask."""
        if self.count == 1:
            return flag
        told = torch.tensor(float(flag))
        _send(dist.all_reduce, told)
        return told.item() > 0


@contextlib.contextmanager
def joined(
    state: training.TrainState, config: training.TrainConfig, ranks: Ranks, settings: Mapping | None = None
) -> Iterator[None]:
    """Let ``training.train`` share its work with the other ranks while the block lasts.

    The loop, the networks' weights and the files stay as they are; only ``Log.penalty`` holds this rank's part alone.

    Args:
        state, config: what train will be given, the same on every rank; the batch size is that of all ranks together.
        ranks: who and how many; one alone changes nothing.
        settings: plain values that must be the same on every rank, too.

    Raises:
        ValueError: the batch cannot be shared, a network draws numbers of its own, or the ranks begin differently.
        LostRankError: in the block: another rank has ended.
    """
    if ranks.count == 1:
        yield
        return
    share = _require_fit(state, config.batch_size, ranks.count)
    with contextlib.ExitStack() as undo:
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if state.device.type == "cuda" else "gloo"
            _send(dist.init_process_group, backend, timeout=PATIENCE)
            undo.callback(dist.destroy_process_group)
        _require_same_start(state, ranks, settings or {})
        for network, exchange in ((state.G, False), (state.D, True)):
            undo.callback(network.register_forward_pre_hook(_take_rows(ranks, share)).remove)
            undo.callback(network.register_forward_hook(_put_back(ranks, share, exchange)).remove)
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    undo.callback(setattr, module, "__class__", module.__class__)
                    module.__class__ = SynchronisedBatchNorm  # in place: the optimiser and the checkpoint know it
        for optimiser in (state.opt_G, state.opt_D):
            undo.callback(optimiser.register_step_pre_hook(add_gradients).remove)
        yield


class SynchronisedBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of all ranks' samples, on CPU and GPU, as often differentiable as needed."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Nothing to check: it stands where another BatchNorm has stood."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, C, …) with each channel shifted and scaled (Ioffe and Szegedy 2015, algorithm 1)."""
        if not self.training:
            return super().forward(x)
        over = [0, *range(2, x.ndim)]
        full = x.float() if x.dtype == torch.bfloat16 else x
        count = dist.get_world_size() * x.numel() // x.shape[1]
        mean = _Total.apply(full.sum(over)) / count
        shape = (1, -1, *[1] * (x.ndim - 2))
        centred = full - mean.view(shape)
        variance = _Total.apply(centred.square().sum(over)) / count
        scale = torch.rsqrt(variance + self.eps)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(variance.detach() * count / (count - 1), share)
        if self.affine:
            return torch.addcmul(self.bias.view(shape), centred, (scale * self.weight).view(shape)).to(x.dtype)
        return (centred * scale.view(shape)).to(x.dtype)


class _Total(torch.autograd.Function):
    """The sum over ranks. Each rank's loss depends on it, so a gradient is the sum over ranks, too."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        _send(dist.all_reduce, total)
        return total

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return _Total.apply(gradient)


@torch.no_grad()
def add_gradients(optimiser: torch.optim.Optimizer, *_: object) -> None:
    """Replace the gradients of an optimiser's parameters by their sums over ranks, in one message."""
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    _send(dist.all_reduce, flat)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view(gradient.shape))


def _take_rows(ranks: Ranks, share: int) -> Callable:
    """Return a hook that gives a network this rank's rows of each batch: (k · count · share, …) → (k · share, …)."""

    def hook(network: nn.Module, inputs: tuple) -> tuple:
        return tuple(x.unflatten(0, (-1, ranks.count, share))[:, ranks.rank].flatten(0, 1) for x in inputs)

    return hook


def _put_back(ranks: Ranks, share: int, exchange: bool) -> Callable:
    """Return the inverse hook. The other ranks' rows are theirs, without gradient, if ``exchange``, else zeros."""

    def hook(network: nn.Module, inputs: tuple, own: Tensor) -> Tensor:
        rows = [torch.zeros_like(own)] * ranks.count
        if exchange:
            rows = [torch.empty_like(own) for _ in rows]
            _send(dist.all_gather, rows, own.detach().contiguous())
        rows[ranks.rank] = own
        return torch.stack([x.unflatten(0, (-1, share)) for x in rows], dim=1).flatten(0, 2)

    return hook


def _require_fit(state: training.TrainState, batch_size: int, count: int) -> int:
    """Return the number of samples for each rank, or raise ValueError where one process would do something else."""
    if batch_size % count:
        near = ", ".join(str(n) for n in (batch_size // count * count, -(-batch_size // count) * count) if n)
        raise ValueError(f"{count} ranks must divide the batch, but batch_size is {batch_size}; give {near}")
    share = batch_size // count
    for module in (*state.G.modules(), *state.D.modules()):
        if isinstance(module, _DropoutNd):
            raise ValueError(
                f"{module} draws random numbers of its own, which ranks cannot share; train in one process"
            )
        if isinstance(module, networks.Packed) and share % module.pack:
            raise ValueError(
                f"packs of {module.pack} must divide each rank's {share} samples; change batch_size or the ranks"
            )
    return share


def _require_same_start(state: training.TrainState, ranks: Ranks, settings: Mapping) -> None:
    """Raise ValueError unless all ranks have the same settings, step and weights."""
    digest = hashlib.sha256()
    for network in (state.G, state.D, state.G_ema):
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    mine = {"settings": json.dumps(settings, sort_keys=True), "step": state.step, "weights": digest.hexdigest()}
    others = [None] * ranks.count
    _send(dist.all_gather_object, others, mine)
    for rank, other in enumerate(others):
        for name in mine:
            if other[name] != others[0][name]:
                raise ValueError(
                    f"rank {rank} begins with other {name} than rank 0 ({other[name]}, {others[0][name]}); "
                    "give every rank the same options, and a folder --out that all of them see"
                )


def _send(message: Callable, *arguments: object, **options: object) -> None:
    """Exchange something with the other ranks, or say that one is lost."""
    try:
        message(*arguments, **options)
    except RuntimeError as error:  # gloo's speaks of sockets
        raise LostRankError(
            "another rank has ended or cannot be reached, so this one ends, too; "
            f"the same command with --resume goes on from the last checkpoint ({str(error).splitlines()[0][:120]})"
        ) from error
