"""Plucked strings from a one-dimensional pair: pitch, spectra and variety, with phase shuffle and without.

Each pair is trained as in the chapter. Of 1,000 sounds, a hundred of each note: the share within half a semitone of the
note asked for, and of any note of the scale; FD of the levels in bands against strings of another seed; the mean
deviation of these levels within a note, as a share of that of real strings.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from _pool import each
from _record import store

from gan_tutorial import audio, losses, metrics, runtime, sampling, sounds, training

RESULTS = Path(__file__).parent / "results" / "audio.json"
DEVICE = runtime.choose_device()
NOTES = torch.tensor(list(sounds.NOTES.values()))
KINDS = {"phase shuffle": 2, "no phase shuffle": 0}


def spread(levels: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean deviation of levels (N, F) within their classes, in decibels."""
    return torch.stack([levels[labels == label].std(dim=0) for label in labels.unique()]).mean().item()


def judge(waves: torch.Tensor, real: sounds.SoundSet) -> dict[str, float]:
    """Return all measures of 1,000 sounds, the notes in turn, against as many real ones."""
    labels = torch.arange(len(waves)) % len(NOTES)
    pitches = audio.pitch(waves, real.rate)
    levels, true = (audio.bands(part, real.rate) for part in (waves, real.waves))
    return {
        "asked": audio.in_tune(pitches, NOTES[labels]),
        "any": audio.in_tune(pitches, NOTES.expand(len(waves), -1)),
        "fd": metrics.frechet_distance(true, levels),
        "spread": spread(levels, labels) / spread(true, labels),
    }


def run(shuffle: int, seed: int, steps: int) -> dict[str, float]:
    """Train one pair, and judge its sounds."""
    config = replace(audio.STRINGS, steps=steps, seed=seed)
    torch.manual_seed(seed)
    G, D = audio.SoundGenerator(classes=10), audio.SoundDiscriminator(classes=10, shuffle=shuffle)
    state = training.TrainState.fresh(G, D, config, DEVICE)
    for _ in training.train(state, sounds.strings(), losses.objective("relativistic"), config):
        pass
    z = sampling.latents(1000, G.latent_dim, seed=100 + seed)
    return judge(sampling.sample(state.G_ema, z, torch.arange(1000) % 10), sounds.strings(1000, seed=1))


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = audio.STRINGS.steps,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure, print a table, and store the results with machine, versions and date."""
    record = runtime.origin(DEVICE) | {"steps": steps, "runs": []}
    real = sounds.strings(1000, seed=1)
    record["real"] = judge(sounds.strings(1000, seed=2).waves, real)
    record["noise"] = judge(torch.rand(real.waves.shape, generator=runtime.step_rng(0, 0)) * 2 - 1, real)
    runs = each(run, [(shuffle, seed, steps) for shuffle in KINDS.values() for seed in range(seeds)], DEVICE)
    record["runs"] = {name: runs[i * seeds : (i + 1) * seeds] for i, name in enumerate(KINDS)}
    print(f"{'':20}" + "".join(f"{name:>30}" for name in record["real"]))
    for name in ("real", "noise"):
        print(f"{name:20}" + "".join(f"{value:30.2f}" for value in record[name].values()))
    for name, own in record["runs"].items():
        cells = [[one[key] for one in own] for key in record["real"]]
        print(f"{name:20}" + "".join(f"{statistics.median(c):12.2f}{min(c):9.2f}{max(c):9.2f}" for c in cells))
    store(record, out)


if __name__ == "__main__":
    typer.run(main)
