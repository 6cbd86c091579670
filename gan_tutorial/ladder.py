"""The loop of the usual tutorial, and what makes it faster, one saving at a time.

``train`` with ``Savings()`` is the usual loop: a DataLoader whose data set opens one image at a time, a batch of noise
for each network's turn, real and generated images through D one after the other, gradients that nobody uses, losses
read at each step. Every saving is a switch, so that each can be measured, and checked, alone. Images of a step depend
on the seed and the step, so that two ways to get them give the same ones.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gan_tutorial import data, losses, networks, runtime


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Which savings the loop makes; by default none.

    Attributes:
        tensor: the images are one tensor in memory, and a batch is a lookup, not a loop over files.
        reuse: G's turn goes on with the images that D's turn made, in place of a second batch of noise.
        one_pass: D sees real and generated images as one batch.
        frozen: G's turn computes no gradients of D's weights, which the next turn would throw away.
        no_sync: losses stay tensors until somebody reads them; on a GPU reading waits for all that was asked before.
        fused: Adam updates all weights in one kernel.
        channels_last: the channels of a pixel lie side by side in memory, as fast convolutions want them.
        bf16: matrices are multiplied in bfloat16, where the device has instructions for it.
        compiled: G and D go through ``torch.compile``, which needs a C++ compiler on a CPU.
        graph: a GPU replays one recorded step (a CUDA graph), so that Python no longer asks for each operation.
    """

    tensor: bool = False
    reuse: bool = False
    one_pass: bool = False
    frozen: bool = False
    no_sync: bool = False
    fused: bool = False
    channels_last: bool = False
    bf16: bool = False
    compiled: bool = False
    graph: bool = False


NAMES = tuple(field.name for field in fields(Savings))
EXACT = ("tensor", "frozen", "no_sync")  # give the same bits
ROUNDED = ("one_pass", "fused", "channels_last", "compiled", "graph")  # compute the same numbers in another order
WARM_UP = 3  # steps before one is recorded, in which libraries set up what they need


def usable(device: torch.device) -> tuple[str, ...]:
    """Return the names of the savings that this machine can make on a device."""
    missing = {"graph"} if device.type != "cuda" else set()
    if device.type == "cpu" and not shutil.which("g++"):
        missing.add("compiled")
    return tuple(name for name in NAMES if name not in missing)


Step = Callable[[Tensor], tuple[Tensor, Tensor]]  # real images -> losses of D and G


class Files(Dataset):
    """Images as torchvision's MNIST hands them out: from an array to PIL, to a float tensor, to [-1, 1]."""

    def __init__(self, images: data.ImageSet) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).squeeze(-1).cpu().numpy()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.pixels[index]))


def batches(
    images: data.ImageSet, tensor: bool, batch_size: int, workers: int, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the batches of real images of all steps, (N, C, H, W) in [-1, 1], from a tensor or one by one."""

    def indices() -> Iterator[list[int]]:
        step = 0
        while True:
            yield torch.randint(len(images), (batch_size,), generator=runtime.step_rng(seed, step)).tolist()
            step += 1

    if tensor:
        pixels = images.pixels.to(device)
        for chosen in indices():
            yield data.to_unit_range(pixels[torch.tensor(chosen, device=device)])
    else:
        for real in DataLoader(Files(images), batch_sampler=indices(), num_workers=workers):
            yield real.to(device)


def train(
    G: networks.Generator,
    D: networks.Discriminator,
    images: data.ImageSet,
    savings: Savings,
    *,
    batch_size: int = 128,
    lr: float = 2e-4,
    workers: int = 0,
    seed: int = 0,
) -> Iterator[tuple[Tensor | float, Tensor | float]]:
    """Train without end by the non-saturating loss; yield the losses of D and G after each step.

    Args:
        G, D: networks without classes, on the device to train on; they are changed.
        images: real images of the shape that the networks have.
        savings: what to save.
        batch_size: real, and as many generated, images in a step.
        lr: Adam's learning rate, of both; its betas are (0.5, 0.999).
        workers: processes that open images while the networks train, where ``tensor`` is not saved.
        seed: of the batches and the noise.

    Raises:
        ValueError: the networks have classes, or images of another shape, or a graph is wanted without a GPU.
    """
    if G.classes or D.classes or tuple(G.shape) != tuple(images.shape):
        raise ValueError(
            f"the ladder compares pairs without classes for images of shape {tuple(images.shape)}, but got a pair "
            f"with {G.classes} classes for {tuple(G.shape)}; build it with NetworkConfig(classes=0, shape=…)"
        )
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        runtime.require_integer(name, value, least)
    device, objective = next(G.parameters()).device, losses.objective("non_saturating")
    if savings.graph and device.type != "cuda":
        raise ValueError(f"graph=True needs a GPU, but the networks are on {device}; see ladder.usable(device)")
    if savings.channels_last:
        G, D = (network.to(memory_format=torch.channels_last) for network in (G, D))
    adam = {"lr": lr, "betas": (0.5, 0.999), "fused": savings.fused, "capturable": savings.graph}
    opt_G, opt_D = (torch.optim.Adam(network.parameters(), **adam) for network in (G, D))
    draw, judge = (_forward(network, savings, device) for network in (G, D))
    rng = torch.Generator(device).manual_seed(seed)
    learns = list(G.parameters()) if savings.frozen else None

    def noise() -> Tensor:
        return torch.randn(batch_size, G.latent_dim, generator=rng, device=device)

    def step(real: Tensor) -> tuple[Tensor, Tensor]:
        fake = draw(noise())
        if savings.one_pass:
            real_logits, fake_logits = judge(torch.cat([real, fake.detach()])).chunk(2)
        else:
            real_logits, fake_logits = judge(real), judge(fake.detach())
        d_loss = objective.d_loss(real_logits, fake_logits)
        opt_D.zero_grad()
        d_loss.backward()
        opt_D.step()

        if not savings.reuse:
            fake = draw(noise())
        fake_logits = judge(fake)
        g_loss = objective.g_loss(fake_logits, fake_logits)
        opt_G.zero_grad()
        g_loss.backward(inputs=learns)
        opt_G.step()
        return d_loss.detach(), g_loss.detach()

    for count, real in enumerate(batches(images, savings.tensor, batch_size, workers, seed, device)):
        if savings.graph and count == WARM_UP:
            step = _recorded(step, real, rng)
        d_loss, g_loss = step(real)
        yield (d_loss, g_loss) if savings.no_sync else (d_loss.item(), g_loss.item())


def _recorded(step: Step, real: Tensor, rng: torch.Generator) -> Step:
    """Record what a step asks of the GPU, without doing it; return what does it for other images of the same shape."""
    images, graph = real.clone(), torch.cuda.CUDAGraph()
    graph.register_generator_state(rng)  # so that each replay draws noise of its own
    with torch.cuda.graph(graph):
        d_loss, g_loss = step(images)

    def replay(real: Tensor) -> tuple[Tensor, Tensor]:
        images.copy_(real)
        graph.replay()
        return d_loss.clone(), g_loss.clone()

    return replay


def _forward(network: nn.Module, savings: Savings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what computes ``network`` of a batch, in float32, with the savings that concern one network."""
    run = torch.compile(network) if savings.compiled else network
    half = savings.bf16 and runtime.has_bf16(device)

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
            return run(inputs).float()

    return forward
