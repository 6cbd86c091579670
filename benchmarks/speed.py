"""The ladder of speed: the usual tutorial's loop, each saving alone, and all of them one after the other.

Both pairs of the book, the article's MLP and the convolutional one, with the article's batch. All loops of a pair run
in turn, five rounds, in this one process, and each figure is the median of its rounds. Worker processes would go on to
fill their queues beside the others, so the usual loop with workers is measured after them. Then stand where the time of
the first and the last loop goes, operations and bytes that the machine can do in a second, and those of one step.
Nothing else should run beside it.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from _record import store
from torch.utils.flop_counter import FlopCounterMode

from gan_tutorial import data, ladder, networks, runtime
from gan_tutorial.ladder import Savings

DEVICE = runtime.choose_device()
RESULTS = Path(__file__).parent / "results" / f"speed{'' if DEVICE.type == 'cpu' else '-' + DEVICE.type}.json"
BATCH = 128
PAIRS = {
    "MLP": networks.NetworkConfig(kind="mlp", latent_dim=100, spectral=False),
    "convolutional": networks.NetworkConfig(spectral=False),
}
NAMES = ladder.usable(DEVICE)

Steps = Callable[[int], None]


def loop(pair: networks.NetworkConfig, images: data.ImageSet, workers: int = 0, **savings: bool) -> Steps:
    """Return a function that makes some steps, and waits until they are done."""
    torch.manual_seed(0)
    G, D = (network.to(DEVICE) for network in pair.build())
    logs = ladder.train(G, D, images, Savings(**savings), batch_size=BATCH, workers=workers)

    def steps(count: int) -> None:
        for _ in range(count):
            next(logs)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return steps


def measure(loops: dict[str, Steps], steps: int, rounds: int) -> dict[str, float]:
    """Return steps per second of each loop, the median of rounds taken in turn."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for run in loops.values():
        run(5)
    for _ in range(rounds):
        for name, run in loops.items():
            start = time.perf_counter()
            run(steps)
            rates[name].append(steps / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def rungs(pair: networks.NetworkConfig, images: data.ImageSet, steps: int, rounds: int) -> dict:
    """Return steps per second of the usual loop, of each saving alone, and of the savings one after the other."""
    loops = {("usual", ""): loop(pair, images)}
    loops |= {("alone", name): loop(pair, images, **{name: True}) for name in NAMES}
    for i, name in enumerate(NAMES):
        loops["together", name] = loop(pair, images, **dict.fromkeys(NAMES[: i + 1], True))
    rates = measure(loops, steps, rounds)
    workers = measure({"2 workers": loop(pair, images, workers=2)}, steps, rounds)
    return {
        "usual": rates["usual", ""],
        **workers,
        **{kind: {name: rates[kind, name] for name in NAMES} for kind in ("alone", "together")},
    }


def profile(steps: Steps, count: int = 20) -> dict[str, float]:
    """Return the share of the processor's time of each operator, the largest ones first."""
    steps(3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        steps(count)
    events = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: event.self_cpu_time_total / total for event in events[:30]}


def operations(pair: networks.NetworkConfig, images: data.ImageSet) -> int:
    """Return the floating-point operations of the matrix products and convolutions in one step, as PyTorch counts."""
    run = loop(pair, images, tensor=True, reuse=True, one_pass=True, frozen=True)
    with FlopCounterMode(display=False) as counter:
        run(1)
    return counter.get_total_flops()


def machine(size: int = 2048, rounds: int = 7) -> dict[str, float]:
    """Return operations per second of a large matrix product in both precisions, and bytes per second of a copy."""

    def seconds(act: Callable[[], object]) -> float:
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            act()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        found[name] = 2 * size**3 / seconds(lambda a=a, b=b: a @ b)
    large = torch.zeros(2**26, device=DEVICE)  # 256 MB, beyond any cache
    target = torch.empty_like(large)
    found["bytes"] = 2 * large.nbytes / seconds(lambda: target.copy_(large))
    return found


def main(
    steps: Annotated[int, typer.Option(help="Steps of each loop in each round.")] = 30,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    images = data.load_images("digits")
    record = runtime.origin(DEVICE) | {"batch": BATCH, "has_bf16": runtime.has_bf16(DEVICE), "limits": machine()}
    record["pairs"] = {}
    for name, pair in PAIRS.items():
        found = rungs(pair, images, steps, rounds)
        found["operations"] = operations(pair, images)
        first, last = (
            loop(pair, images),
            loop(pair, images, **{n: True for n in NAMES if n not in ("compiled", "graph")}),
        )
        record["pairs"][name] = found | {"profiles": {"usual": profile(first), "all but compiled": profile(last)}}
    store(record, out)
    show(record)


def show(record: dict) -> None:
    """Print images per second of every rung, with its ratio to the better of the usual loops."""
    limits = record["limits"]
    print(f"{record['machine']}; torch {record['versions']['torch']}; images per second, batch {record['batch']}")
    print(f"products {limits['float32'] / 1e9:.0f} and {limits['bfloat16'] / 1e9:.0f} GFLOP/s in float32 and bfloat16")
    print(f"copies {limits['bytes'] / 1e9:.1f} GB/s")
    for pair, found in record["pairs"].items():
        base = max(found["usual"], found["2 workers"])
        print(f"{pair:16}{'alone':>10}{'ratio':>7}{'together':>10}{'ratio':>7}")
        for name in ("usual", "2 workers"):
            print(f"  {name:14}{found[name] * record['batch']:10.0f}{found[name] / base:7.2f}")
        for name in found["alone"]:
            rates = found["alone"][name], found["together"][name]
            print(f"  {name:14}" + "".join(f"{r * record['batch']:10.0f}{r / base:7.2f}" for r in rates))
        for loop_name, shares in found["profiles"].items():
            convolutions = sum(share for key, share in shares.items() if "convolution" in key or "mkldnn" in key)
            top = ", ".join(f"{key} {share:.0%}" for key, share in list(shares.items())[:5])
            print(f"  {loop_name}: convolutions {convolutions:.0%}; {top}")


if __name__ == "__main__":
    typer.run(main)
