"""The speed of the usual tutorial loop, with each speedup alone, and with one after another on.

For the article's MLP and the convolutional networks, with the article's batch size. All loops take
turns in one process. Worker processes would fill their queues while the other loops run, so the
usual loop with workers is measured after them. Then follow profiles of the first and the last loop,
the operations of one step, and the operations and bytes that the machine can do in a second.
Nothing else should run at the same time.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out
from torch.utils.flop_counter import FlopCounterMode

from gan_tutorial import data, recipes, records, runtime
from gan_tutorial.ship import speed

BATCH = 128
NAMES = speed.usable(DEVICE)
IN_EAGER_MODE = [name for name in NAMES if name not in ("compiled", "graph")]
RECORD = records.FOLDER / f"speed{'' if DEVICE.type == 'cpu' else '-' + DEVICE.type}.json"


def loop(recipe: recipes.Recipe, names: list[str], workers: int = 0) -> speed.Loop:
    """Return the loop with some speedups on."""
    torch.manual_seed(0)
    G, D = (network.to(DEVICE) for network in recipe.build())
    speedups = speed.Speedups(**dict.fromkeys(names, True))
    images = data.load_images("digits")
    return speed.train(G, D, images, speedups, batch_size=BATCH, workers=workers)


def measure(recipe: recipes.Recipe, steps: int, rounds: int) -> dict:
    """Return steps per second: usual loop, each speedup alone, and one after another on."""
    loops = {("usual", ""): loop(recipe, [])}
    for i, name in enumerate(NAMES):
        loops["alone", name] = loop(recipe, [name])
        loops["together", name] = loop(recipe, NAMES[: i + 1])
    rates = speed.steps_per_second(loops, steps, rounds)
    with_workers = {"2 workers": loop(recipe, [], workers=2)}
    result = {"usual": rates["usual", ""]}
    result |= speed.steps_per_second(with_workers, steps, rounds)
    for kind in ("alone", "together"):
        result[kind] = {name: rates[kind, name] for name in NAMES}
    return result


def profile(steps: speed.Loop, count: int = 20) -> dict[str, float]:
    """Return each operator's share of the calling thread's time, the largest first."""
    for _ in range(3):
        next(steps)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            next(steps)
    seconds = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    largest = sorted(seconds, key=seconds.get, reverse=True)[:30]
    return {key: seconds[key] / sum(seconds.values()) for key in largest}


def operations(recipe: recipes.Recipe) -> int:
    """Return PyTorch's count of floating-point operations in a step's products and convolutions."""
    steps = loop(recipe, ["tensor", "reuse", "one_pass", "frozen"])
    with FlopCounterMode(display=False) as counter:
        next(steps)
    return counter.get_total_flops()


def limits(size: int = 2048) -> dict[str, float]:
    """Return operations per second of a large matrix product, and bytes per second of a copy."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        found[name] = 2 * size**3 / median_seconds(lambda a=a, b=b: a @ b)
    source = torch.zeros(2**26, device=DEVICE)  # 268 MB, larger than any cache
    target = torch.empty_like(source)
    found["bytes"] = 2 * source.nbytes / median_seconds(lambda: target.copy_(source))
    return found


def median_seconds(act: Callable[[], object], rounds: int = 7) -> float:
    """Return how long ``act`` takes on the device."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        act()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(
    steps: Annotated[int, typer.Option(help="Steps of each loop in each round.")] = 30,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    out: Out = RECORD,
) -> None:
    """Measure, store the record and print a table."""
    record = {"batch": BATCH, "has_bf16": runtime.has_bf16(DEVICE), "limits": limits(), "pairs": {}}
    for name, recipe in speed.RECIPES.items():
        result = measure(recipe, steps, rounds) | {"operations": operations(recipe)}
        result["profiles"] = {
            "usual": profile(loop(recipe, [])),
            "all but compiled": profile(loop(recipe, IN_EAGER_MODE)),
        }
        record["pairs"][name] = result
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the limits of the machine, the speed of every loop, and where its time goes."""
    print(records.source(record))
    for name in ("float32", "bfloat16"):
        print(f"matrix products in {name}: {record['limits'][name] / 1e9:.0f} GFLOP/s")
    print(f"copies: {record['limits']['bytes'] / 1e9:.1f} GB/s")
    print(speed.table(record))
    for name, result in record["pairs"].items():
        for kind, shares in result["profiles"].items():
            parts = [f"{part} {share:.0%}" for part, share in speed.by_kind(shares).items()]
            print(f"{name}, {kind}: {', '.join(parts)}")


if __name__ == "__main__":
    typer.run(main)
