"""Plucked strings: pitch, spectra and variety of a GAN with and without phase shuffle.

Each GAN is trained as in the chapter. Measured on 1,000 sounds, a
hundred of each note: the fraction within half a semitone of the note asked for, and of any note of
the scale; FD of log-mel levels against strings of another seed; the deviation of these levels
within a note, relative to real strings.
"""

import statistics
from dataclasses import replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep

from gan_tutorial import metrics, records, runtime, sampling, training
from gan_tutorial.beyond import audio

NOTES = torch.tensor(list(audio.NOTES.values()))
VARIANTS = {"phase shuffle": 2, "no phase shuffle": 0}


def spread(levels: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean deviation of levels (N, F) within their classes, in decibels."""
    deviations = [levels[labels == label].std(dim=0) for label in labels.unique()]
    return torch.stack(deviations).mean().item()


def evaluate(waves: torch.Tensor) -> dict[str, float]:
    """Return all measures of 1,000 sounds, the notes in turn, against as many real ones."""
    real = audio.plucked_strings(1000, seed=1)
    pitches = audio.pitch(waves, real.rate)
    levels, real_levels = (audio.log_mel(part, real.rate) for part in (waves, real.waves))
    return {
        "asked": audio.in_tune(pitches, NOTES[real.labels]),
        "any": audio.in_tune(pitches, NOTES.expand(len(waves), -1)),
        "fd": metrics.frechet_distance(real_levels, levels),
        "spread": spread(levels, real.labels) / spread(real_levels, real.labels),
    }


def run(shuffle: int, steps: int, seed: int) -> dict[str, float]:
    """Train one GAN, and evaluate its sounds."""
    config = replace(audio.STRINGS_CONFIG, steps=steps, seed=seed)
    torch.manual_seed(seed)
    G, D = audio.SoundGenerator(classes=10), audio.SoundDiscriminator(classes=10, shuffle=shuffle)
    state = training.TrainState.init(G, D, config, DEVICE)
    for _ in training.train(state, audio.plucked_strings(), config):
        pass
    G = sampling.recalibrate_batchnorm(state.G_ema)
    return evaluate(sampling.generate(G, 1000, seed=100 + seed))


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = audio.STRINGS_CONFIG.steps,
    out: Out = records.FOLDER / "audio.json",
) -> None:
    """Measure, print a table, and save the record."""
    real = audio.plucked_strings(1000, seed=2).waves
    noise = torch.rand(real.shape, generator=runtime.step_rng(0, 0)) * 2 - 1
    record = {"steps": steps, "real": evaluate(real), "noise": evaluate(noise)}
    variants = {name: {"shuffle": reach, "steps": steps} for name, reach in VARIANTS.items()}
    record["runs"] = sweep(run, variants, range(seeds), DEVICE)
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print a table: median, minimum and maximum over the seeds."""
    print(f"{'':20}" + "".join(f"{name:>30}" for name in record["real"]))
    for name in ("real", "noise"):
        print(f"{name:20}" + "".join(f"{value:30.2f}" for value in record[name].values()))
    for name, runs in record["runs"].items():
        row = f"{name:20}"
        for key in record["real"]:
            values = [run[key] for run in runs]
            row += f"{statistics.median(values):12.2f}{min(values):9.2f}{max(values):9.2f}"
        print(row)


if __name__ == "__main__":
    typer.run(main)
