"""Images per second of this package's loop against the loop of the usual tutorial, on the same networks and batches.

The usual loop has a DataLoader whose data set opens one image at a time and transforms it, a discriminator ending in a
sigmoid, BCELoss, Adam as it comes, a batch of noise for each network's step, and losses read with .item() at each step.
Ours runs twice: in float32, as the usual one does, and with matrices multiplied in bfloat16 (``bf16``), on
processors that can. The loops run in turn, five rounds, in this one process; each figure is the median of its
rounds. The batch is the article's, 128. Worker processes would go on to fill their queues beside the others, so the
usual loop with workers is measured after them.
"""

import statistics
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gan_tutorial import data, losses, networks, runtime, training

BATCH, STEPS, ROUNDS = 128, 40, 5
DEVICE = runtime.choose_device()


class OneByOne(Dataset):
    """Images as torchvision's MNIST hands them out: from an array to PIL, to a float tensor, to [-1, 1]."""

    def __init__(self, images: data.ImageSet) -> None:
        self.pixels, self.labels = images.pixels[:, 0].numpy(), images.labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def usual_loop(pair: networks.NetworkConfig, images: data.ImageSet, workers: int) -> Callable[[int], None]:
    """Return a function that makes some steps of the usual loop."""
    torch.manual_seed(0)
    G, D = (network.to(DEVICE) for network in pair.build())
    sigmoid, criterion = nn.Sigmoid(), nn.BCELoss()
    opt_G = torch.optim.Adam(G.parameters(), 2e-4, (0.5, 0.999))
    opt_D = torch.optim.Adam(D.parameters(), 2e-4, (0.5, 0.999))
    loader = DataLoader(OneByOne(images), BATCH, shuffle=True, drop_last=True, num_workers=workers)

    def batches():
        while True:
            yield from loader

    stream = batches()

    def steps(count: int) -> None:
        for _ in range(count):
            real, _ = next(stream)
            real = real.to(DEVICE)
            ones, zeros = torch.ones(BATCH, device=DEVICE), torch.zeros(BATCH, device=DEVICE)
            opt_D.zero_grad()
            fake = G(torch.randn(BATCH, G.latent_dim, device=DEVICE)).detach()
            d_loss = criterion(sigmoid(D(real)), ones) + criterion(sigmoid(D(fake)), zeros)
            d_loss.backward()
            opt_D.step()
            opt_G.zero_grad()
            g_loss = criterion(sigmoid(D(G(torch.randn(BATCH, G.latent_dim, device=DEVICE)))), ones)
            g_loss.backward()
            opt_G.step()
            _ = d_loss.item(), g_loss.item()

    return steps


def our_loop(pair: networks.NetworkConfig, images: data.ImageSet, bf16: bool) -> Callable[[int], None]:
    """Return a function that makes some steps of ``training.train``."""
    torch.manual_seed(0)
    config = training.TrainConfig(steps=10**9, batch_size=BATCH, bf16=bf16)
    state = training.TrainState.fresh(*pair.build(), config, DEVICE)
    logs = training.train(state, images, losses.objective("non_saturating"), config)

    def steps(count: int) -> None:
        for _ in range(count):
            next(logs)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return steps


def measure(loops: dict[str, Callable[[int], None]]) -> dict[str, float]:
    """Return images per second for each loop, the median of rounds taken in turn."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for steps in loops.values():
        steps(STEPS // 4)
    for _ in range(ROUNDS):
        for name, steps in loops.items():
            start = time.perf_counter()
            steps(STEPS)
            rates[name].append(STEPS * BATCH / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def where_the_time_goes(steps: Callable[[int], None], rows: int = 8) -> str:
    """Return the operators that take most of our step, with their share of the processor's time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        steps(STEPS)
    events = sorted(profile.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    return "\n".join(f"    {e.self_cpu_time_total / total:6.1%}  {e.key}" for e in events[:rows])


def main() -> None:
    """Print the table, and where the time of our loop goes."""
    images = data.load_images("digits")
    print(
        f"images per second, batch {BATCH}, {DEVICE.type}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'pair':6}{'usual':>8}{'2 workers':>12}{'ours':>8}{'ours, bf16':>12}{'ratio':>8}{'ratio, bf16':>13}")
    for kind in networks.NETWORKS:
        pair = networks.NetworkConfig(kind=kind, latent_dim=100 if kind == "mlp" else 64, spectral=False)
        ours = {name: our_loop(pair, images, bf16=name == "ours, bf16") for name in ("ours", "ours, bf16")}
        rates = measure({"usual": usual_loop(pair, images, 0)} | ours)
        rates |= measure({"2 workers": usual_loop(pair, images, 2)})
        usual = max(rates["usual"], rates["2 workers"])
        print(
            f"{kind:6}{rates['usual']:8.0f}{rates['2 workers']:12.0f}{rates['ours']:8.0f}{rates['ours, bf16']:12.0f}"
            f"{rates['ours'] / usual:8.2f}{rates['ours, bf16'] / usual:13.2f}"
        )
        for name, loop in ours.items():
            print(f"  where the time goes ({kind}, {name}):\n{where_the_time_goes(loop)}")


if __name__ == "__main__":
    main()
