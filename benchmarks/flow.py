"""A GAN, a VAE and a flow, trained on the same digits for the same processor time.

The GAN is the preset ``quick``, made shorter; the VAE is that of ``vae.py``; the flow is a velocity
network whose training step costs about as much as theirs. First the processor seconds of a step of
each are measured in turn; each then trains for as many steps as fit, on one thread, over several
seeds, and anew for a quarter of the time.

Samples are scored against the held-out digits, as they come and after all images, the held-out ones
too, were made black and white. Those of the flow are drawn in several numbers of steps; the
processor seconds to draw are for 1,000 images.

Two ways to a flow that draws in one step share the same time: half of it for the flow, and half for
a game against a new D; or all of it for the game, from a velocity network that has learnt nothing.

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
from vae import score

from gan_tutorial import data, metrics, networks, recipes, records, sampling, training
from gan_tutorial.beyond import flow, vae

GAN = recipes.preset("quick")
PAIR = replace(recipes.preset("hinge"), spectral=False)  # of which the VAE is made
VAE = vae.VAEConfig(lr=4e-3)
FLOW = flow.FlowConfig(width=16, lr=4e-3)
DRAWN = 16  # steps of Euler's method by which the flow is judged, beside the curve
EULER, HEUN = (1, 2, 4, 8, 16), (1, 2, 4, 8)
COUNT = 2000  # images that are scored
SHARE = 0.25  # of the time, for the shorter runs
GAME = replace(GAN, lr_G=1e-3, lr_D=2e-3)  # of the flow's single step; tried with one seed
STOPS = 4  # at which FD is measured in the game

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


def start_game(recipe: recipes.Recipe, velocity: flow.VelocityNet) -> Run:
    """Return the training of a flow of one step as the generator of a game."""
    G, (_, D) = flow.FlowGenerator(velocity), recipe.build()
    state = training.TrainState.init(G, D, recipe, DEVICE)
    return training.train(state, data.load_images("digits"), recipe), state.G_ema


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
        "game": start_game(replace(GAME, steps=long), new_velocity(0))[0],
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
    samples = sampling.generate(G, COUNT, seed=1)
    scores = {"scores": score(samples), "binary": score(samples, binary=True)}
    return scores | {"train": trained, "draw": draw_seconds(G)}


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


def run_student(
    config: flow.FlowConfig, recipe: recipes.Recipe, flow_first: bool, seed: int
) -> dict:
    """Play the game with a flow of one step; return what was measured, and FD on the way.

    Args:
        config: of the flow that is trained before, if ``flow_first``.
        recipe: of the game.
    """
    torch.set_num_threads(1)
    begin = time.process_time()
    state = flow.FlowState.init(data.load_images("digits"), replace(config, seed=seed), DEVICE)
    if flow_first:
        for _ in flow.train(state, data.load_images("digits"), replace(config, seed=seed)):
            pass
    trained = time.process_time() - begin
    evaluator = metrics.Evaluator("digits", DEVICE)
    G = flow.FlowGenerator(state.average).eval()
    curve = [{"steps": 0, "fd": evaluator.fd(sampling.generate(G, COUNT, seed=1))}]
    logs, G = start_game(replace(recipe, seed=seed), state.velocity)
    every = recipe.steps // STOPS
    for part in range(STOPS):
        last = recipe.steps - (STOPS - 1 - part) * every
        begin = time.process_time()
        for log in logs:
            if log.step == last:
                break
        trained += time.process_time() - begin
        curve.append({"steps": last, "fd": evaluator.fd(sampling.generate(G, COUNT, seed=1))})
    return finish((logs, G)) | {"curve": curve, "train": trained}


def score_real_digits() -> dict:
    """Return the floors: the mean scores of as many training digits."""
    evaluator = metrics.Evaluator("digits", DEVICE)
    digits = data.load_images("digits").subset(slice(COUNT))
    floors = evaluator.report(digits.images).floors
    return {"scores": floors, "binary": score(digits.images, binary=True)}


def main(
    seconds: Annotated[float, typer.Option(help="Processor time to train each.")] = 120.0,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    out: Out = records.FOLDER / "flow.json",
) -> None:
    """Measure, store the record and print a table."""
    torch.set_num_threads(1)
    taken = step_seconds()
    steps = {name: round(seconds / each) for name, each in taken.items()}
    gan, config = replace(GAN, steps=steps["GAN"]), replace(FLOW, steps=steps["flow"])
    auto = replace(VAE, steps=steps["VAE"])
    runs = compare(gan, auto, config, range(seeds))
    shorter = [replace(each, steps=round(SHARE * each.steps)) for each in (gan, auto, config)]
    quarter = compare(*shorter, range(seeds))
    half = replace(config, steps=config.steps // 2)
    game = replace(GAME, steps=steps["game"])
    students = {
        "flow, then game": {
            "config": half,
            "recipe": replace(game, steps=game.steps // 2),
            "flow_first": True,
        },
        "game alone": {"config": half, "recipe": game, "flow_first": False},
    }
    G, D = GAN.build()
    record = {
        "data": "digits",
        "seconds": seconds,
        "steps": steps,
        "share": SHARE,
        "parameters": {
            "GAN": networks.count_parameters(G) + networks.count_parameters(D),
            "VAE": networks.count_parameters(vae.VAE(*PAIR.build())),
            "flow": networks.count_parameters(new_velocity(0)),
        },
        "real": score_real_digits(),
        "gan": asdict(gan),
        "vae": asdict(auto),
        "flow": asdict(config),
        "game": asdict(game),
        "runs": runs,
        "quarter": quarter,
        "students": sweep(run_student, students, range(seeds), DEVICE),
    }
    show(records.save(record, out, DEVICE))


def compare(
    gan: recipes.Recipe, auto: vae.VAEConfig, config: flow.FlowConfig, seeds: range
) -> dict[str, list[dict]]:
    """Return what was measured of each kind, in runs of these seeds."""
    runs = sweep(run_gan, {"GAN": {"recipe": gan}}, seeds, DEVICE)
    runs |= sweep(run_vae, {"VAE": {"config": auto}}, seeds, DEVICE)
    return runs | sweep(run_flow, {"flow": {"config": config}}, seeds, DEVICE)


def show(record: dict) -> None:
    """Print the median and range of the main measures, a row for each kind of run."""
    print(records.source(record))
    print(f"{record['seconds']:.0f} processor seconds each: {record['steps']} steps")
    for part in ("quarter", "runs", "students"):
        print(part)
        for name, runs in record[part].items():
            print(f"  {name:17}" + "  ".join(columns(runs, record["real"])))
    floor, runs = record["real"]["scores"]["fd"], record["runs"]["flow"]
    for method in ("euler", "heun"):
        for index, point in enumerate(runs[0]["curves"][method]):
            fds = [run["curves"][method][index]["fd"] for run in runs]
            print(f"{method} {point['steps']:3} {summary([fd / floor for fd in fds])}")
    for name, runs in record["students"].items():
        for index, point in enumerate(runs[0]["curve"]):
            fds = [run["curve"][index]["fd"] for run in runs]
            print(f"{name} {point['steps']:5} {summary([fd / floor for fd in fds])}")


def columns(runs: list[dict], real: dict) -> Iterator[str]:
    """Yield the scores, as they come and in black and white, and the seconds."""
    for kind in ("scores", "binary"):
        for measure, unit in (("fd", real[kind]["fd"]), ("precision", 1), ("recall", 1)):
            yield f"{measure} {summary([run[kind][measure] / unit for run in runs])}"
    for key in ("train", "draw"):
        yield f"{key} {summary([run[key] for run in runs])} s"


def summary(values: list[float]) -> str:
    """Return the median of values and their range as text."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    typer.run(main)
