"""A GAN, a VAE and a flow, trained on the same digits for the same processor time.

The GAN is the preset ``quick``, made shorter; the VAE is that of ``vae.py``; the flow is a velocity
network whose training step costs about as much as theirs. First the processor seconds of a step of
each are measured in turn; each then trains for as many steps as fit, on one thread, over several
seeds. One more run of the flow, of seed 0, is four times as long.

Samples are scored against the held-out digits. Those of the flow are drawn in several numbers of
steps; the processor seconds to draw are for 1,000 images.

The flow's width and rate were chosen among six settings on validation images, a fifth of the
training digits, with one seed and 24 seconds each. Wider networks without blocks at half the side
had more than twice the FD, and one of these, made to predict the image in place of the velocity,
three times that. The chosen network with a block less came out 13% better, which a seed may do.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from torch import nn

from gan_tutorial import data, metrics, networks, recipes, records, sampling, training
from gan_tutorial.beyond import flow, vae

GAN = recipes.preset("quick")
PAIR = replace(recipes.preset("hinge"), spectral=False)  # of which the VAE is made
VAE = vae.VAEConfig(lr=4e-3)
FLOW = flow.FlowConfig(width=16, lr=4e-3)
DRAWN = 16  # steps of Euler's method by which the flow is judged, beside the curve
EULER, HEUN = (1, 2, 4, 8, 16), (1, 2, 4, 8)
COUNT = 2000  # images that are scored
LONGER = 4  # times the time, for one more run of the flow

Run = tuple[Iterator[training.Log], nn.Module]  # the logs of a training, and what will draw


def start_gan(recipe: recipes.Recipe) -> Run:
    """Return the training of a GAN."""
    state = recipe.init(DEVICE)
    return training.train(state, data.load_images("digits"), recipe), state.G_ema


def start_vae(config: vae.VAEConfig) -> Run:
    """Return the training of a VAE."""
    state = vae.VAEState.init(PAIR, config, DEVICE)
    return vae.train(state, data.load_images("digits"), config), state.average.decoder


def start_flow(config: flow.FlowConfig) -> Run:
    """Return the training of a flow."""
    digits = data.load_images("digits")
    state = flow.FlowState.init(digits, config, DEVICE)
    G = flow.FlowGenerator(state.average, DRAWN).eval()
    return flow.train(state, digits, config), G


def new_velocity(seed: int) -> flow.VelocityNet:
    """Return a velocity network that has learnt nothing."""
    config = replace(FLOW, seed=seed)
    return flow.FlowState.init(data.load_images("digits"), config, DEVICE).velocity


def step_seconds(rounds: int = 5, steps: int = 12) -> dict[str, float]:
    """Return the processor seconds of a training step, the median of rounds taken in turn."""
    long = 10**6
    trainings = {
        "GAN": start_gan(replace(GAN, steps=long))[0],
        "VAE": start_vae(replace(VAE, steps=long))[0],
        "flow": start_flow(replace(FLOW, steps=long))[0],
    }
    taken = {name: [] for name in trainings}
    for logs in trainings.values():
        next(logs)
    for _ in range(rounds):
        for name, logs in trainings.items():
            begin = time.process_time()
            for _ in range(steps):
                next(logs)
            taken[name].append((time.process_time() - begin) / steps)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def draw_seconds(G: nn.Module) -> float:
    """Return the processor seconds to draw 1,000 images, twice the median of three times 500."""
    taken = []
    for seed in range(3):
        begin = time.process_time()
        sampling.generate(G, 500, seed)
        taken.append(time.process_time() - begin)
    return 2 * statistics.median(taken)


def finish(run: Run) -> dict:
    """Train to the end; return seconds to train and to draw, and the scores of the samples."""
    logs, G = run
    begin = time.process_time()
    for _ in logs:
        pass
    trained = time.process_time() - begin
    evaluator = metrics.Evaluator("digits", DEVICE)
    features = evaluator.features(sampling.generate(G, COUNT, seed=1))
    scores = metrics.feature_scores(evaluator.held_out, features)
    return {"scores": scores, "train": trained, "draw": draw_seconds(G)}


def run_gan(recipe: recipes.Recipe, seed: int) -> dict:
    """Train the GAN; return what was measured."""
    torch.set_num_threads(1)
    return finish(start_gan(replace(recipe, seed=seed)))


def run_vae(config: vae.VAEConfig, seed: int) -> dict:
    """Train the VAE; return what was measured on its means."""
    torch.set_num_threads(1)
    return finish(start_vae(replace(config, seed=seed)))


def run_flow(config: flow.FlowConfig, seed: int) -> dict:
    """Train the flow; return what was measured, and FD by method and number of steps."""
    torch.set_num_threads(1)
    run = start_flow(replace(config, seed=seed))
    result, evaluator = finish(run), metrics.Evaluator("digits", DEVICE)
    curves = {}
    for method, counts in (("euler", EULER), ("heun", HEUN)):
        curves[method] = []
        for steps in counts:
            G = flow.FlowGenerator(run[1].velocity, steps, method).eval()
            fd = evaluator.fd(sampling.generate(G, COUNT, seed=1))
            curves[method].append({"steps": steps, "fd": fd})
    return result | {"curves": curves}


def score_real_digits() -> dict:
    """Return the floors: the mean scores of as many training digits."""
    evaluator = metrics.Evaluator("digits", DEVICE)
    digits = data.load_images("digits").subset(slice(COUNT))
    return evaluator.report(digits.images).floors


def main(
    seconds: Annotated[float, typer.Option(help="Processor time to train each.")] = 30.0,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    out: Out = records.FOLDER / "flow.json",
) -> None:
    """Measure, store the record and print a table."""
    torch.set_num_threads(1)
    taken = step_seconds()
    steps = {name: round(seconds / each) for name, each in taken.items()}
    gan, config = replace(GAN, steps=steps["GAN"]), replace(FLOW, steps=steps["flow"])
    auto = replace(VAE, steps=steps["VAE"])
    runs = sweep(run_gan, {"GAN": {"recipe": gan}}, range(seeds), DEVICE)
    runs |= sweep(run_vae, {"VAE": {"config": auto}}, range(seeds), DEVICE)
    runs |= sweep(run_flow, {"flow": {"config": config}}, range(seeds), DEVICE)
    longer = {"steps": LONGER * config.steps}
    longer |= run_flow(replace(config, **longer), 0)
    G, D = GAN.build()
    record = {
        "data": "digits",
        "seconds": seconds,
        "steps": steps,
        "parameters": {
            "GAN": networks.count_parameters(G) + networks.count_parameters(D),
            "VAE": networks.count_parameters(vae.VAE(*PAIR.build())),
            "flow": networks.count_parameters(new_velocity(0)),
        },
        "real": score_real_digits(),
        "gan": asdict(gan),
        "vae": asdict(auto),
        "flow": asdict(config),
        "runs": runs,
        "longer": longer,
    }
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of the main measures, a row for each kind of run."""
    print(records.source(record))
    print(f"{record['seconds']:.0f} processor seconds each: {record['steps']} steps")
    floor = record["real"]["fd"]
    for name, runs in record["runs"].items():
        cells = [f"{name:13}"]
        for measure, unit in (("fd", floor), ("precision", 1), ("recall", 1)):
            cells.append(f"{measure} {summary([run['scores'][measure] / unit for run in runs])}")
        cells += [f"{key} {summary([run[key] for run in runs])} s" for key in ("train", "draw")]
        print("  ".join(cells))
    for method in ("euler", "heun"):
        for index, point in enumerate(record["runs"]["flow"][0]["curves"][method]):
            fds = [run["curves"][method][index]["fd"] for run in record["runs"]["flow"]]
            print(f"{method} {point['steps']:3} {summary([fd / floor for fd in fds])}")


def summary(values: list[float]) -> str:
    """Return the median of values and their range as text."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    typer.run(main)
