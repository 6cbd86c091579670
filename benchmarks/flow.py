"""A GAN, a VAE and a flow, trained on the same digits for the same processor time.

The GAN is the preset ``quick`` without its minibatch standard deviation, made shorter; the VAE is
that of ``vae.py``, in bfloat16 where that pays, unlike the others; the flow is a velocity network
whose training step costs about as much as theirs. First the processor seconds of a step of each are
measured in turn; each then trains for as many steps as fit, on one thread, over several seeds: once
for the whole time, once for a share of it. GAN and VAE recompute BatchNorm's statistics for their
averaged weights before they are judged; the flow has no BatchNorm.

Samples are scored against the held-out digits, and once more after all images, real ones too, were
made black and white, so that blur and faint noise do not count. Those of the flow are drawn in
different numbers of steps; the processor seconds to draw are for 1,000 images.

Each flow, drawn in a single step, then plays the game against a new D: "flow, then game". Two games
of the same networks start from scratch: one with the same rates for the same steps, one with the
rates of ``quick`` for the time of the flow and its game together.

The flow's width and rate were chosen among six settings on validation images, a fifth of the
training digits, with one seed and 24 seconds each. Wider networks without blocks at half the side
had more than twice the FD, and one of these, made to predict the image in place of the velocity,
three times that. The chosen network with one block fewer came out 13% better, which a seed may do.
The rates of the game were likewise chosen among four pairs, after 600 steps of the flow and 200 of
the game; without the flow those of ``quick`` had the lowest FD of the four.
"""

import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer
from _sweep import Out, sweep
from torch import nn
from vae import GAN as PAIR  # of which the VAE is made
from vae import VAE, score

from gan_tutorial import data, metrics, networks, recipes, records, runtime, sampling, training
from gan_tutorial.beyond import flow, vae

GAN = replace(recipes.preset("quick"), minibatch_std=0)
DEVICE = torch.device("cpu")  # the processor's clock does not wait for a GPU
FLOW = flow.FlowConfig(width=16, lr=4e-3)
GAME = replace(GAN, lr_G=3e-3, lr_D=3e-3)  # of the flow in one step against a new D
DRAWN = 16  # steps of Euler's method by which the flow is judged, beside the curve
EULER, HEUN = (1, 2, 4, 8, 16), (1, 2, 4, 8)
COUNT = 2000  # images that are scored
STOPS = 6  # of a game, at which FD is measured

Run = tuple[Iterator[training.Log], nn.Module]  # the logs of a run, and what will draw


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


def start_game(velocity: flow.VelocityNet, recipe: recipes.Recipe) -> Run:
    """Return the game of a flow in one step against a new D; the velocity is copied."""
    with runtime.seeded(recipe.seed):
        _, D = recipe.build()
    G = flow.FlowGenerator(copy.deepcopy(velocity).requires_grad_())
    state = training.TrainState.init(G, D, recipe, DEVICE)
    return training.train(state, data.load_images("digits"), recipe), state.G_ema


def step_seconds(rounds: int = 5, steps: int = 12) -> dict[str, float]:
    """Return the processor seconds of a training step, the median of rounds taken in turn."""
    long = 10**6
    trainings = {
        "GAN": start_gan(replace(GAN, steps=long))[0],
        "VAE": start_vae(replace(VAE, steps=long))[0],
        "flow": start_flow(replace(FLOW, steps=long))[0],
        "game": start_game(new_velocity(0), replace(GAME, steps=long))[0],
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
    """Return the processor seconds to draw 1,000 images: twice the median of three draws of 500."""
    taken = []
    for seed in range(3):
        begin = time.process_time()
        sampling.generate(G, 500, seed)
        taken.append(time.process_time() - begin)
    return 2 * statistics.median(taken)


def judge(G: nn.Module) -> dict[str, dict[str, float]]:
    """Return the scores of samples as they are and in black and white."""
    images = sampling.generate(G, COUNT, seed=1)
    return {"scores": score(images), "binary": score(images, binary=True)}


def finish(run: Run) -> dict:
    """Train to the end; return seconds to train and to draw, and the scores of the samples."""
    logs, G = run
    begin = time.process_time()
    for _ in logs:
        pass
    trained = time.process_time() - begin
    G = sampling.recalibrate_batchnorm(G)
    return judge(G) | {"train": trained, "draw": draw_seconds(G)}


def run_gan(recipe: recipes.Recipe, seed: int) -> dict:
    """Train the GAN; return what was measured."""
    return finish(start_gan(replace(recipe, seed=seed)))


def run_vae(config: vae.VAEConfig, seed: int) -> dict:
    """Train the VAE; return what was measured on its means."""
    return finish(start_vae(replace(config, seed=seed)))


def run_flow(config: flow.FlowConfig, seed: int, game: recipes.Recipe | None = None) -> dict:
    """Train the flow; return what was measured, FD by method and steps, and its game, if any."""
    run = start_flow(replace(config, seed=seed))
    result, evaluator = finish(run), metrics.Evaluator("digits", DEVICE)
    velocity, curves = run[1].velocity, {}
    for method, counts in (("euler", EULER), ("heun", HEUN)):
        curves[method] = []
        for steps in counts:
            G = flow.FlowGenerator(velocity, steps, method).eval()
            fd = evaluator.fd(sampling.generate(G, COUNT, seed=1))
            curves[method].append({"steps": steps, "fd": fd})
    result["curves"] = curves
    if game is not None:
        result["game"] = play(velocity, replace(game, seed=seed))
    return result


def run_game(recipe: recipes.Recipe, seed: int) -> dict:
    """Play the game from a velocity network that has learnt nothing; return what was measured."""
    return play(new_velocity(seed), replace(recipe, seed=seed))


def play(velocity: flow.VelocityNet, recipe: recipes.Recipe) -> dict:
    """Play the game of a velocity network in one step; return FD on the way, and the scores."""
    logs, G = start_game(velocity, recipe)
    evaluator = metrics.Evaluator("digits", DEVICE)
    begin, every, curve = time.process_time(), recipe.steps // STOPS, []
    judged = 0.0  # seconds
    for log in logs:
        if log.step % every == 0:
            pause = time.process_time()
            fd = evaluator.fd(sampling.generate(G, COUNT, seed=1))
            curve.append({"step": log.step, "fd": fd})
            judged += time.process_time() - pause
    trained = time.process_time() - begin - judged
    return judge(G) | {"train": trained, "draw": draw_seconds(G), "curve": curve}


def score_real_digits() -> dict[str, dict[str, float]]:
    """Return the floors: the mean scores of as many training digits, over the usual draws."""
    digits, floors = data.load_images("digits").images, {}
    orders = [
        torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        for seed in range(metrics.DRAWS)
    ]
    for name, binary in (("scores", False), ("binary", True)):
        found = [score(digits[order[:COUNT]], binary) for order in orders]
        floors[name] = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
    return floors


def main(
    seconds: Annotated[float, typer.Option(help="Processor time to train each.")] = 120.0,
    share: Annotated[float, typer.Option(help="Of the time, for the shorter runs.")] = 0.25,
    game_seconds: Annotated[float, typer.Option(help="Processor time of the flow's game.")] = 60.0,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.", min=1)] = 5,
    out: Out = records.FOLDER / "flow.json",
) -> None:
    """Measure, store the record and print a table."""
    torch.set_num_threads(1)
    taken = step_seconds()
    steps = {name: round(seconds / taken[name]) for name in ("GAN", "VAE", "flow")}
    quarter = {name: round(share * count) for name, count in steps.items()}
    games = {
        "flow, then game": replace(GAME, steps=round(game_seconds / taken["game"])),
        "game alone": replace(GAME, steps=round(game_seconds / taken["game"])),
        "game alone, longer": replace(
            GAME,
            lr_G=GAN.lr_G,
            lr_D=GAN.lr_D,
            steps=round((seconds + game_seconds) / taken["game"]),
        ),
    }
    results = {}
    for length, counts in (("runs", steps), ("quarter", quarter)):
        gan = {"recipe": replace(GAN, steps=counts["GAN"])}
        auto = {"config": replace(VAE, steps=counts["VAE"])}
        config = {"config": replace(FLOW, steps=counts["flow"])}
        if length == "runs":
            config["game"] = games["flow, then game"]
        runs = sweep(run_gan, {"GAN": gan}, range(seeds), DEVICE)
        runs |= sweep(run_vae, {"VAE": auto}, range(seeds), DEVICE)
        results[length] = runs | sweep(run_flow, {"flow": config}, range(seeds), DEVICE)
    students = {"flow, then game": [run.pop("game") for run in results["runs"]["flow"]]}
    alone = {name: {"recipe": games[name]} for name in list(games)[1:]}
    students |= sweep(run_game, alone, range(seeds), DEVICE)
    G, D = GAN.build()
    record = {
        "data": "digits",
        "seconds": seconds,
        "share": share,
        "steps": steps,
        "parameters": {
            "GAN": networks.count_parameters(G) + networks.count_parameters(D),
            "VAE": networks.count_parameters(vae.VAE(*PAIR.build())),
            "flow": networks.count_parameters(new_velocity(0)),
        },
        "real": score_real_digits(),
        "gan": asdict(replace(GAN, steps=steps["GAN"])),
        "vae": asdict(replace(VAE, steps=steps["VAE"])),
        "flow": asdict(replace(FLOW, steps=steps["flow"])),
        "games": {name: asdict(recipe) for name, recipe in games.items()},
        **results,
        "students": students,
    }
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the median and range of the main measures, a row for each kind of run."""
    print(records.source(record))
    print(f"{record['seconds']:.0f} processor seconds each: {record['steps']} steps")
    for length in ("runs", "quarter", "students"):
        print(length)
        for name, runs in record[length].items():
            cells = [f"{name:18}"]
            for kind, real in record["real"].items():
                cells.append(kind)
                for measure, unit in (("fd", real["fd"]), ("precision", 1), ("recall", 1)):
                    values = [run[kind][measure] / unit for run in runs]
                    cells.append(f"{measure} {summary(values)}")
            cells += [f"{key} {summary([run[key] for run in runs])} s" for key in ("train", "draw")]
            print("  ".join(cells))
    floor = record["real"]["scores"]["fd"]
    for method in ("euler", "heun"):
        for index, point in enumerate(record["runs"]["flow"][0]["curves"][method]):
            fds = [run["curves"][method][index]["fd"] for run in record["runs"]["flow"]]
            print(f"{method} {point['steps']:3} {summary([fd / floor for fd in fds])}")
    for name, runs in record["students"].items():
        for index, point in enumerate(runs[0]["curve"]):
            fds = [run["curve"][index]["fd"] / floor for run in runs]
            print(f"{name}, {point['step']} steps: {summary(fds)}")


def summary(values: list[float]) -> str:
    """Return the median of values and their range as text."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    typer.run(main)
