"""The training loop of the usual tutorial, with a switch for each thing that makes it faster.

``train`` with ``Speedups()`` is the usual loop: a DataLoader whose data set opens one image at a
time, new noise for the step of each network, real and generated images through D one after the
other, gradients that nobody uses, losses read in every step. Each switch can be measured, and
checked, alone: the real images depend only on the seed and the step.
"""

import functools
import shutil
import statistics
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from gan_tutorial import data, losses, networks, recipes, runtime, training


@dataclass(frozen=True, kw_only=True)
class Speedups:
    """The switches of the loop; by default all are off.

    Attributes:
        tensor: keep the images as one tensor in memory; a batch is a lookup, not a loop over files.
        reuse: train G on the images that D was trained on, instead of a second batch.
        one_pass: pass real and generated images through D as one batch.
        frozen: in G's step, compute no gradients of D's weights, which the next step would discard.
        lazy_logging: leave the losses as tensors; on a GPU reading one waits for all work so far.
        fused: let Adam update all weights in one kernel.
        channels_last: store the channels of a pixel side by side, as fast convolutions need them.
        bf16: multiply matrices in bfloat16, where that pays (``runtime.has_bf16``).
        compiled: compile G and D with ``torch.compile``, which needs a C++ compiler on a CPU.
        graph: replay one recorded step on a GPU (a CUDA graph), instead of launching each kernel;
            Adam is then fused, too, since a graph cannot keep a count on the CPU.
    """

    tensor: bool = False
    reuse: bool = False
    one_pass: bool = False
    frozen: bool = False
    lazy_logging: bool = False
    fused: bool = False
    channels_last: bool = False
    bf16: bool = False
    compiled: bool = False
    graph: bool = False


NAMES = tuple(field.name for field in fields(Speedups))
EXACT = ("tensor", "frozen", "lazy_logging")  # give the same bits
ROUNDED = ("one_pass", "fused", "channels_last", "compiled", "graph")  # the same up to rounding
RECIPES = {
    "MLP": recipes.Recipe(network="mlp", latent_dim=100, spectral=False),
    "convolutional": recipes.Recipe(spectral=False),
}


KINDS = {  # of operators in a profile, by parts of their names
    "convolutions": ("convolution", "mkldnn"),
    "matrix products": ("aten::addmm", "aten::mm", "aten::linear"),
    "Adam": ("Adam", "adam", "addcdiv", "addcmul", "lerp", "aten::sqrt", "aten::_foreach"),
    "normalisation": ("batch_norm",),
    "opening images": ("DataLoader", "aten::stack", "aten::sub_"),
    "copies, conversions": ("copy_", "aten::cat", "aten::fill_", "aten::zero_", "contiguous"),
}

Loop = Iterator[tuple[Tensor | float, Tensor | float]]  # of the losses of D and G


def usable(device: torch.device) -> tuple[str, ...]:
    """Return the names of the switches that do something on a device of this machine."""
    missing = set() if runtime.has_graphs(device) else {"graph"}
    if not runtime.has_bf16(device):
        missing.add("bf16")
    if device.type == "cpu" and not shutil.which("g++"):
        missing.add("compiled")
    return tuple(name for name in NAMES if name not in missing)


class PILImages(Dataset):
    """Images as torchvision's MNIST returns them: array to PIL image to float tensor in [-1, 1]."""

    def __init__(self, images: data.ImageSet) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).squeeze(-1).cpu().numpy()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.pixels[index]))


def batches(
    images: data.ImageSet,
    tensor: bool,
    batch_size: int,
    workers: int,
    seed: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield batches of real images (N, C, H, W) in [-1, 1], from one tensor or image by image."""

    def indices() -> Iterator[list[int]]:
        step = 0
        while True:
            rng = runtime.step_rng(seed, step)
            yield torch.randint(len(images), (batch_size,), generator=rng).tolist()
            step += 1

    if tensor:
        pixels = images.pixels.to(device)
        for chosen in indices():
            yield data.to_unit_range(pixels[torch.tensor(chosen, device=device)])
    else:
        for real in DataLoader(PILImages(images), batch_sampler=indices(), num_workers=workers):
            yield real.to(device)


def train(
    G: networks.Generator,
    D: networks.Discriminator,
    images: data.ImageSet,
    speedups: Speedups,
    *,
    batch_size: int = 128,
    lr: float = 2e-4,
    workers: int = 0,
    seed: int = 0,
) -> Loop:
    """Train indefinitely with the non-saturating loss; yield the losses of D and G after each step.

    Args:
        G, D: unconditional networks, on the device to train on; they are changed.
        images: real images of the networks' shape.
        speedups: the switches.
        batch_size: real images, and as many generated ones, in a step.
        lr: Adam's learning rate, of both networks; its betas are (0.5, 0.999).
        workers: processes that open images while the networks train, unless ``tensor`` is on.
        seed: of the batches and the noise.
    """
    device = next(G.parameters()).device
    rng = torch.Generator(device).manual_seed(seed)  # of the noise
    if speedups.channels_last:
        G, D = (network.to(memory_format=torch.channels_last) for network in (G, D))
    adam = {"lr": lr, "betas": (0.5, 0.999), "fused": speedups.fused or speedups.graph}
    opt_G, opt_D = (torch.optim.Adam(network.parameters(), **adam) for network in (G, D))
    if speedups.compiled:
        G, D = torch.compile(G), torch.compile(D)

    step = functools.partial(update, G, D, opt_G, opt_D, speedups)
    if speedups.graph:
        step = runtime.GraphedStep(step, opt_G, opt_D)
    for real in batches(images, speedups.tensor, batch_size, workers, seed, device):
        d_loss, g_loss = step(real, rng).values()
        yield (d_loss, g_loss) if speedups.lazy_logging else (d_loss.item(), g_loss.item())


def update(
    G: nn.Module,
    D: nn.Module,
    opt_G: torch.optim.Optimizer,
    opt_D: torch.optim.Optimizer,
    speedups: Speedups,
    real: Tensor,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Take one step of D and one of G on a batch of real images; return both losses by name."""

    def forward(network: nn.Module, inputs: Tensor) -> Tensor:
        return training.forward(network, inputs, None, speedups)  # in bfloat16, or not

    def generate() -> Tensor:
        z = torch.randn(len(real), G.latent_dim, generator=rng, device=real.device)
        return forward(G, z)

    fake = generate()
    if speedups.one_pass:
        real_logits, fake_logits = forward(D, torch.cat([real, fake.detach()])).chunk(2)
    else:
        real_logits, fake_logits = forward(D, real), forward(D, fake.detach())
    d_loss = losses.cross_entropy_d(real_logits, fake_logits)
    opt_D.zero_grad()
    d_loss.backward()
    opt_D.step()

    if not speedups.reuse:
        fake = generate()
    fake_logits = forward(D, fake)
    g_loss = losses.non_saturating_g(real_logits, fake_logits)
    opt_G.zero_grad()
    g_loss.backward(inputs=list(G.parameters()) if speedups.frozen else None)
    opt_G.step()
    return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}


def steps_per_second(
    loops: Mapping[Hashable, Loop], steps: int, rounds: int
) -> dict[Hashable, float]:
    """Return the speed of each loop: the median of rounds in which the loops take turns.

    So a busy moment of the machine slows all of them. A first round, to warm up, does not count.

    Args:
        loops: what ``train`` returns, by name.
        steps: steps of each loop in each round.
        rounds: rounds that count.
    """
    speeds = {name: [] for name in loops}
    for _ in tqdm(range(rounds + 1), desc="rounds"):
        for name, loop in loops.items():
            start = time.perf_counter()
            for _ in range(steps):
                d_loss, _ = next(loop)
            float(d_loss)  # waits for the device
            speeds[name].append(steps / (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in speeds.items()}


def baseline(result: Mapping) -> float:
    """Return the steps per second of the faster of the usual loops, without and with workers."""
    return max(result["usual"], result["2 workers"])


def table(record: Mapping) -> str:
    """Return the table of a record of ``benchmarks/speed.py``: images per second of every loop.

    The ratios are to the faster of the usual loops. ``alone`` has one switch on, ``together`` also
    all those in the lines above.
    """
    lines = [f"images per second, batches of {record['batch']}"]
    for name, result in record["pairs"].items():
        usual = {loop: (result[loop],) for loop in ("usual", "2 workers")}
        pairs = {key: (result["alone"][key], result["together"][key]) for key in result["alone"]}
        lines += ["", f"{name:16}{'alone':>9}{'ratio':>7}{'together':>10}{'ratio':>7}"]
        for loop, rates in (usual | pairs).items():
            line = f"  {loop:14}"
            for rate, width in zip(rates, (9, 10), strict=False):
                line += f"{rate * record['batch']:{width}.0f}{rate / baseline(result):7.2f}"
            lines.append(line)
    return "\n".join(lines)


def by_kind(shares: Mapping[str, float]) -> dict[str, float]:
    """Return a profile, shares of the time by operator, as shares by kind that add up to 1."""
    result = dict.fromkeys([*KINDS, "all else"], 0.0)
    for operator, share in shares.items():
        for kind, parts in KINDS.items():
            if any(part in operator for part in parts):
                result[kind] += share
                break
    result["all else"] = 1 - sum(result.values())
    return result
