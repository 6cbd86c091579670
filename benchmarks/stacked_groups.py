"""1,000 modes once more: ``quick``, no labels, with and without a minibatch standard deviation.

As in the last table of ``stacked.py``, where ``quick, no groups`` was measured apart; the one
difference is ``minibatch_std``, and with it D's initial weights.
"""

from dataclasses import asdict, replace
from typing import Annotated

import stacked
import torch
import typer
from _sweep import DEVICE, Out, sweep

from gan_tutorial import metrics, recipes, records

NONE = stacked.PAIRS["quick, no groups"]
PAIRS = {
    "quick, no groups": NONE,
    "quick, groups of 8": replace(NONE, minibatch_std=recipes.preset("quick").minibatch_std),
}


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each row.", min=1)] = 5,
    share: Annotated[float, typer.Option(help="Share of the steps, to try it.")] = 1.0,
    samples: Annotated[int, typer.Option(help="Stacks to judge in each run.")] = 25_600,
    out: Out = records.FOLDER / "stacked_groups.json",
) -> None:
    """Measure, store the record and print a table."""
    torch.set_num_threads(1)  # as in the runs, so that the record says so
    rows = {}
    for name, recipe in PAIRS.items():
        recipe = replace(recipe, steps=round(share * recipe.steps))
        rows[name] = {"recipe": recipe, "samples": samples}
    runs = sweep(stacked.run_pair, rows, range(seeds), DEVICE)
    evaluator = metrics.StackEvaluator(DEVICE)
    record = {
        "pairs": {name: asdict(row["recipe"]) for name, row in rows.items()},
        "seeds": list(range(seeds)),
        "classifier_error": evaluator.classifier_error,
        "floor": asdict(evaluator.floor(samples)),
        "runs": runs,
    }
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print the means over the seeds ± standard errors."""
    print(records.source(record))
    floor = record["floor"]
    print(f"{len(record['seeds'])} seeds, {floor['count']} samples")
    print(f"{'':24}{'modes':>15}{'KL':>15}{'seconds':>9}")
    print(f"{'real stacks':24}{floor['modes']:15}{floor['kl']:15.3f}")
    for name, runs in record["runs"].items():
        cells = stacked.spread(runs, "modes", 1), stacked.spread(runs, "kl", 3)
        print(f"{name:24}" + "".join(f"{cell:>15}" for cell in cells), end="")
        print(f"{stacked.spread(runs, 'seconds', 0):>12}")


if __name__ == "__main__":
    typer.run(main)
