"""Training in several processes: each computes its rows of every batch, and all take the same step.

``torchrun --nproc-per-node 2 -m gan_tutorial train …`` starts the ranks. ``train`` is the loop of
``training.train`` with the communication in view. Every rank draws the whole batch and keeps its
own rows, the same ones for real and generated samples, so pairs, packs and groups stay together.
Losses and penalties are means over samples, so the mean of the ranks' gradients equals a single
process's. BatchNorm also depends on the whole batch, so the ranks add up its statistics.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_tutorial import checks, networks
from gan_tutorial.runtime import choose_device, step_rng
from gan_tutorial.training import (
    Data,
    Log,
    TrainConfig,
    TrainState,
    discriminator_loss,
    forward,
    generator_loss,
    prepare,
    set_learning_rates,
    update_ema,
)

TIMEOUT = timedelta(minutes=5)  # for a machine that vanishes; the end of a process shows at once
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LostRankError(ConnectionError):
    """Another rank has ended or cannot be reached; the message says how to continue."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes; 1 without torchrun, and then nothing is exchanged.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Return what torchrun has put into the environment; without torchrun, a single process.

        Args:
            environment: the variables by name; by default those of this process.

        Raises:
            ValueError: some of the variables are missing or out of range.
        """
        environment = os.environ if environment is None else environment
        given = [name for name in ("RANK", "WORLD_SIZE") if name in environment]
        if not given:
            return cls()
        if missing := ", ".join(name for name in VARIABLES if name not in environment):
            advice = f"start with torchrun, or unset {', '.join(given)}"
            raise ValueError(f"{given[0]} is set without {missing}; {advice}")
        numbers = {}
        for name, least in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("MASTER_PORT", 1)):
            text = environment[name]
            numbers[name] = int(text) if text.isdecimal() else text
            checks.require_integer(name, numbers[name], least)
        rank, world_size, local_rank, _ = numbers.values()
        if max(rank, local_rank) >= world_size:
            given = f"RANK {rank}, LOCAL_RANK {local_rank} and WORLD_SIZE {world_size}"
            raise ValueError(f"{given} do not fit: a rank must be below the world size")
        return cls(rank, world_size, local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and shows the progress bar."""
        return self.rank == 0

    def device(self, name: str | torch.device = "auto") -> torch.device:
        """Return the device called ``name``; of several GPUs, the one numbered ``local_rank``.

        Raises:
            ValueError: there is no such device, or there are fewer GPUs than ranks on this machine.
        """
        shared = self.world_size > 1 and str(name) == "cuda"
        if shared and self.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self.local_rank)  # else trying the name takes memory of GPU 0
        device = choose_device(name)
        if self.world_size > 1 and device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"several ranks train on cpu or cuda, not on {name}; start one process"
            )
        if self.world_size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ValueError(f"device must be auto, cpu or cuda for several ranks, but is {name}")
        if self.local_rank >= (gpus := torch.cuda.device_count()):
            advice = f"start at most {gpus} ranks here, or use --device cpu"
            raise ValueError(
                f"there is no GPU for rank {self.local_rank} of this machine; {advice}"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def rows(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Return this rank's rows of each batch: (N, …) -> (N / world_size, …)."""
        return tuple(batch.unflatten(0, (self.world_size, -1))[self.rank] for batch in batches)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Return the sum of ``x`` over all ranks, in place; every rank must call this."""
        if self.world_size > 1:
            _exchange(dist.all_reduce, x)
        return x

    @torch.no_grad()
    def average_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of a network by their means over ranks, in one message."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        means = self.all_reduce(flat) / self.world_size
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, means.split(sizes), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    @torch.no_grad()
    def mean(self, log: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the means of a log's scalars over all ranks, the same on every rank."""
        means = self.all_reduce(torch.stack(list(log.values()))) / self.world_size
        return dict(zip(log, means, strict=True))

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set on any rank; every rank must call this."""
        return self.all_reduce(torch.tensor(float(flag))).item() > 0


def train(state: TrainState, data: Data, recipe: TrainConfig, ranks: Ranks) -> Iterator[Log]:
    """Train like ``training.train``, inside ``process_group``; yield means over all ranks.

    Args:
        state, data, recipe: the same on every rank; the batch size is for all ranks together.
        ranks: this process among the others.
    """
    data = prepare(state, data, recipe)
    N, part = recipe.batch_size, (ranks.rank, ranks.world_size)
    if ranks.world_size > 1:
        synchronise_batchnorm(state.G)
        synchronise_batchnorm(state.D)
    while state.step < recipe.steps:
        set_learning_rates(state, recipe)
        rng = step_rng(recipe.seed, state.step, state.device)
        real, labels = data.batch(N, rng)  # the whole batch, the same on every rank
        z = torch.randn(N, state.G.latent_dim, generator=rng, device=state.device)
        real, labels, z = ranks.rows(real, labels, z)  # its N / world_size rows
        fake = forward(state.G, z, labels, recipe)

        loss, d_log = discriminator_loss(state, real, fake, labels, recipe, rng, part)
        state.opt_D.zero_grad()
        loss.backward()
        ranks.average_gradients(state.D)
        state.opt_D.step()

        loss, g_log = generator_loss(state, real, fake, labels, recipe, rng, part)
        state.opt_G.zero_grad()
        loss.backward(inputs=[p for p in state.G.parameters() if p.requires_grad])
        ranks.average_gradients(state.G)
        state.opt_G.step()

        update_ema(state.G_ema, state.G, recipe.ema)
        state.step += 1
        yield Log(state.step, ranks.mean(d_log | g_log))


@contextlib.contextmanager
def process_group(
    ranks: Ranks, state: TrainState, recipe: TrainConfig, settings: Mapping | None = None
) -> Iterator[None]:
    """Connect the ranks while the block lasts, and check that they start from the same state.

    Args:
        ranks: this process among the others; a single one needs no connection.
        state, recipe: what ``train`` will get.
        settings: more plain values that must be the same on every rank.

    Raises:
        ValueError: the ranks cannot split the batch, a network has dropout (other random layers are
            not detected), or the ranks start differently.
        LostRankError: also in the block: another rank has ended.
    """
    if ranks.world_size == 1:
        yield
        return
    check_splits(ranks, state, recipe.batch_size)
    backend = "cpu:gloo,cuda:nccl" if state.device.type == "cuda" else "gloo"
    _exchange(dist.init_process_group, backend, timeout=TIMEOUT)
    try:
        settings = {"recipe": asdict(recipe), **(settings or {})}
        check_same_start(ranks, fingerprint(state, settings))
        yield
    finally:
        dist.destroy_process_group()


def check_splits(ranks: Ranks, state: TrainState, batch_size: int) -> None:
    """Raise ValueError if the ranks cannot split a batch and give the results of one process."""
    n = ranks.world_size
    sizes = [m.group_size for m in state.D.modules() if isinstance(m, networks.MinibatchStd)]
    unit = n * math.lcm(*sizes)
    if batch_size % unit:
        of = f"{unit}, {n} ranks times minibatch_std" if sizes else f"{n} ranks"
        near = f"use {max(batch_size // unit, 1) * unit}"
        raise ValueError(f"batch_size must be a multiple of {of}, not {batch_size}; {near}")
    rows = batch_size // n
    for module in (*state.G.modules(), *state.D.modules()):
        if "Dropout" in type(module).__name__:
            raise ValueError(f"{module} has its own random numbers; train in one process")
        if isinstance(module, networks.Packed) and rows % module.pack:
            raise ValueError(f"a rank's {rows} rows must be a multiple of the pack, {module.pack}")


def fingerprint(state: TrainState, settings: Mapping) -> dict[str, object]:
    """Return settings, step, and SHA-256 of weights and moments, to compare between ranks."""
    parts = (state.G, state.D, state.G_ema)
    moments = [
        torch.as_tensor(value)
        for optimiser in (state.opt_G, state.opt_D)
        for _, entry in sorted(optimiser.state_dict()["state"].items())
        for _, value in sorted(entry.items())  # a file gives them in any order
    ]
    tensors = {
        "weights": [tensor for part in parts for tensor in part.state_dict().values()],
        "moments": moments,
    }
    result = {"settings": json.dumps(settings, sort_keys=True), "step": state.step}
    for name, values in tensors.items():
        digest = hashlib.sha256()
        for tensor in values:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        result[name] = digest.hexdigest()
    return result


def check_same_start(ranks: Ranks, own: Mapping[str, object]) -> None:
    """Raise ValueError unless all ranks have the same ``fingerprint``."""
    starts = [None] * ranks.world_size
    _exchange(dist.all_gather_object, starts, own)
    for rank, start in enumerate(starts):
        for name, value in start.items():
            if value != starts[0][name]:
                others = f"({value}, {starts[0][name]})"
                advice = "give every rank the same options, and an --out that all of them see"
                raise ValueError(f"rank {rank} and rank 0 differ in {name} {others}; {advice}")


def synchronise_batchnorm(network: nn.Module) -> None:
    """Replace each BatchNorm inside ``network`` by ``SyncBatchNorm`` with the same tensors.

    The names in the state dict stay the same, so checkpoints do not depend on the number of ranks.
    """
    for name, module in network.named_children():
        if not isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            synchronise_batchnorm(module)
            continue
        sync = SyncBatchNorm(module.num_features, module.eps, module.momentum)
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(sync, key, getattr(module, key))  # the same tensors: the optimiser has them
        setattr(network, name, sync.train(module.training))


class SyncBatchNorm(nn.SyncBatchNorm):
    """PyTorch's SyncBatchNorm, but also on CPUs, and twice differentiable, as penalties need it.

    Without a process group, and in evaluation mode, it is an ordinary BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, …) by the statistics of all ranks' rows (Ioffe and Szegedy 2015)."""
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        dims, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        full = x.float() if x.dtype == torch.bfloat16 else x
        count = dist.get_world_size() * x.numel() // x.shape[1]  # of all ranks, per channel
        mean = _AllReduce.apply(full.sum(dims)) / count
        centred = full - mean.view(shape)
        variance = _AllReduce.apply(centred.square().sum(dims)) / count
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias.view(shape), centred, scale.view(shape)).to(x.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over ranks; every rank's loss depends on it, so the gradient is a sum over ranks."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        _exchange(dist.all_reduce, total)
        return total

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return _AllReduce.apply(gradient)


def _exchange(operation: Callable, *arguments: object, **options: object) -> None:
    """Call an operation of ``torch.distributed``; if it fails, say that a rank is lost."""
    try:
        operation(*arguments, **options)
    except RuntimeError as error:  # gloo reports a socket error
        reason = str(error).splitlines()[0][:120]
        fault = "another rank has ended or cannot be reached, so this one ends, too"
        advice = "the same command with --resume continues from the last checkpoint"
        raise LostRankError(f"{fault}; {advice} ({reason})") from error
