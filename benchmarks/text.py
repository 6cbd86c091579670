"""Sums such as 12+7=19, written by a GAN and an autoregressive model of the same size.

The GAN of the chapter is trained with a temperature that falls, and with two constant ones. A GRU
with as many parameters learns the same strings by maximum likelihood, and is sampled at several
temperatures. A program judges 2,000 strings of each, and of three baselines.
"""

import statistics
from dataclasses import replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep

from gan_tutorial import networks, records, sampling, training
from gan_tutorial.beyond import text

COUNT = 2000
SCHEDULES = {"2 to 0.5": (2.0, 0.5), "2": (2.0, 2.0), "0.5": (0.5, 0.5)}  # start and end
SAMPLED_AT = (1.0, 0.8, 0.6, 0.4)


def train_gan(
    temperatures: tuple[float, float], steps: int, seed: int
) -> list[tuple[int, text.Report]]:
    """Train the GAN; return (step, report) four times on the way."""
    strings = text.sums()
    config = replace(text.SUMS_CONFIG, steps=steps, seed=seed)
    torch.manual_seed(seed)
    G, D = text.StringGenerator(), networks.MLPDiscriminator(text.SHAPE, (256, 256))
    state = training.TrainState.init(G, D, config, DEVICE)
    curve = []
    loop = training.train(state, text.StringSet(text.encode(strings)), config, graph=False)
    for log in loop:  # without a graph, which would keep one temperature
        state.G.temperature = text.schedule(log.step, steps, *temperatures)
        if log.step % (steps // 4) == 0:
            samples = sampling.generate(state.G_ema, COUNT, seed=1000 + seed)
            curve.append((log.step, text.report(text.decode(samples), strings)))
    return curve


def train_gru(steps: int, seed: int) -> dict:
    """Train the GRU; return the nats of both splits, and a report for each temperature."""
    train, test = (text.encode(text.sums(split)).to(DEVICE) for split in ("train", "test"))
    torch.manual_seed(seed)
    model = text.Recurrent().to(DEVICE)
    for _ in text.fit(model, train, steps, seed=seed):
        pass
    with torch.no_grad():
        nats = {"train": model.nats(train).mean().item(), "test": model.nats(test).mean().item()}
    z = sampling.latents(COUNT, len(text.ALPHABET) * text.LENGTH, seed=1000 + seed).to(DEVICE)
    pages = {at: text.decode(model.sample(z, at)) for at in SAMPLED_AT}
    reports = [(at, text.report(page, text.sums())) for at, page in pages.items()]
    return {"nats": nats, "reports": reports}


def baselines(seed: int) -> dict[str, text.Report]:
    """Return a report for each baseline."""
    pages = text.baselines(text.sums(), COUNT, seed)
    return {name: text.report(page, text.sums()) for name, page in pages.items()}


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of the GAN.")] = text.SUMS_CONFIG.steps,
    gru_steps: Annotated[int, typer.Option(help="Steps of the GRU.")] = 2000,
    out: Out = records.FOLDER / "text.json",
) -> None:
    """Measure, print a table, and save the record."""
    reports = [baselines(seed) for seed in range(seeds)]
    record = {
        "steps": steps,
        "gru_steps": gru_steps,
        "fields": text.Report._fields,
        "baselines": {name: [report[name] for report in reports] for name in reports[0]},
    }
    variants = {name: {"temperatures": t, "steps": steps} for name, t in SCHEDULES.items()}
    record["gan"] = sweep(train_gan, variants, range(seeds), DEVICE)
    record["gru"] = sweep(train_gru, {"gru": {"steps": gru_steps}}, range(seeds), DEVICE)["gru"]
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print a table in percent: medians, and the range of the first two columns."""
    columns = f"{'valid':>17}{'true':>17}{'unseen':>8}{'novel':>8}{'distinct':>10}"
    print(f"{'percent: medians, and two ranges':34}{columns}")
    for name, reports in record["baselines"].items():
        show_row(name, reports)
    for name, curves in record["gan"].items():
        show_row(f"GAN, temperature {name}", [curve[-1][1] for curve in curves])
    for i, temperature in enumerate(SAMPLED_AT):
        reports = [run["reports"][i][1] for run in record["gru"]]
        show_row(f"GRU, sampled at {temperature}", reports)


def show_row(name: str, reports: list[text.Report]) -> None:
    """Print one row of the table."""
    row = f"{name:34}"
    for key, values in zip(text.Report._fields, zip(*reports, strict=True), strict=True):
        median, low, high = statistics.median(values), min(values), max(values)
        if key in ("valid", "true"):
            row += f"{median:7.1%}" + f" ({low:.0%}–{high:.0%})".rjust(10)
        else:
            row += f"{median:{10 if key == 'distinct' else 8}.1%}"
    print(row)


if __name__ == "__main__":
    typer.run(main)
