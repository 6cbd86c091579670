"""Sums such as 12+7=19: what a GAN and an autoregressive model of one size write, and what the temperature changes.

The GAN of the chapter is trained with a temperature that falls, and with two that stay. A GRU with as many parameters
learns the same strings by maximum likelihood, and draws at several temperatures. A program judges 2,000 strings of
each, and of three floors.
"""

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store

from gan_tutorial import losses, networks, runtime, sampling, text, training

RESULTS = Path(__file__).parent / "results" / "text.json"
DEVICE = runtime.choose_device()
COUNT = 2000
TEMPERATURES = {"2 to 0.5": (2.0, 0.5), "2": (2.0, 2.0), "0.5": (0.5, 0.5)}  # start and end, in training
DRAWN_AT = (1.0, 0.8, 0.6, 0.4)
FLOORS = ("letters at random", "each place by itself", "answers dealt anew")


def adversarial(temperatures: tuple[float, float], seed: int, steps: int) -> list[tuple[int, text.Report]]:
    """Train the GAN; return (step, report) four times on the way."""
    strings = text.sums()
    config = training.TrainConfig(
        steps=steps, batch_size=128, lr_G=1e-3, lr_D=1e-3, betas=(0.5, 0.99), r1=1.0, r2=1.0, seed=seed
    )
    torch.manual_seed(seed)
    pair = text.StringGenerator(), networks.MLPDiscriminator(text.SHAPE, (256, 256))
    state = training.TrainState.fresh(*pair, config, DEVICE)
    z, curve = sampling.latents(COUNT, state.G.latent_dim, seed=1000 + seed), []
    objective = losses.objective("relativistic")
    for log in training.train(state, text.StringSet(text.encode(strings)), objective, config):
        state.G.temperature = text.schedule(log.step, steps, *temperatures)
        if log.step % (steps // 4) == 0:
            curve.append((log.step, text.report(text.decode(sampling.sample(state.G_ema, z)), strings)))
    return curve


def likelihood(seed: int, steps: int) -> dict:
    """Train the GRU; return the nats of both splits, and a report for each temperature."""
    strings = {split: text.encode(text.sums(split)).to(DEVICE) for split in ("train", "test")}
    torch.manual_seed(seed)
    model = text.Recurrent().to(DEVICE)
    for _ in text.fit(model, strings["train"], steps, seed=seed):
        pass
    z = sampling.latents(COUNT, len(text.ALPHABET) * text.LENGTH, seed=1000 + seed).to(DEVICE)
    with torch.no_grad():
        nats = {split: model.nats(letters).mean().item() for split, letters in strings.items()}
    reports = [text.report(text.decode(model.draw(z, temperature)), text.sums()) for temperature in DRAWN_AT]
    return {"nats": nats, "reports": list(zip(DRAWN_AT, reports, strict=True))}


def floor(name: str, seed: int) -> text.Report:
    """Judge strings that no model made."""
    rng = torch.Generator().manual_seed(seed)
    letters = text.encode(text.sums())
    if name == "letters at random":
        drawn = torch.randint(len(text.ALPHABET), (COUNT, text.LENGTH), generator=rng)
    elif name == "each place by itself":
        drawn = letters.gather(0, torch.randint(len(letters), (COUNT, text.LENGTH), generator=rng))
    else:
        questions, answers = (torch.randperm(len(letters), generator=rng)[:COUNT].tolist() for _ in range(2))
        pairs = zip(questions, answers, strict=True)
        parts = [string.split("=") for string in text.sums()]
        drawn = text.encode([f"{parts[q][0]}={parts[a][1].strip()}".ljust(text.LENGTH) for q, a in pairs])
    return text.report(text.decode(drawn), text.sums())


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of the GAN.")] = 3500,
    likelihood_steps: Annotated[int, typer.Option(help="Steps of the GRU.")] = 2000,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    record = runtime.origin(DEVICE) | {
        "steps": steps,
        "likelihood_steps": likelihood_steps,
        "fields": text.Report._fields,
    }
    print(f"{'percent: medians, and two ranges':34}{'valid':>17}{'true':>17}{'unseen':>8}{'novel':>8}{'distinct':>10}")
    record["floors"] = {name: [floor(name, seed) for seed in range(seeds)] for name in FLOORS}
    for name, reports in record["floors"].items():
        show(name, reports)
    runs = each(adversarial, [(t, s, steps) for t in TEMPERATURES.values() for s in range(seeds)], DEVICE)
    record["gan"] = {name: runs[i * seeds : (i + 1) * seeds] for i, name in enumerate(TEMPERATURES)}
    for name, curves in record["gan"].items():
        show(f"GAN, temperature {name}", [curve[-1][1] for curve in curves])
    record["gru"] = each(likelihood, [(s, likelihood_steps) for s in range(seeds)], DEVICE)
    for i, temperature in enumerate(DRAWN_AT):
        show(f"GRU, drawn at {temperature}", [run["reports"][i][1] for run in record["gru"]])
    store(record, out)


def show(name: str, reports: list[text.Report]) -> None:
    """Print one row of the table, in percent."""
    row = f"{name:34}"
    for key in text.Report._fields:
        values = [100 * getattr(report, key) for report in reports]
        row += f"{statistics.median(values):{7 if key in ('valid', 'true') else 8}.1f}"
        row += f" ({min(values):.0f}–{max(values):.0f})".rjust(10) if key in ("valid", "true") else ""
    print(row)


if __name__ == "__main__":
    typer.run(main)
