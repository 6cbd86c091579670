"""One generator under three engines: PyTorch, onnxruntime and TensorFlow, on one thread each.

Run it with the Python of `.venv/tensorflow`, which `make tensorflow` makes; any other skips it.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

import numpy as np
import onnxruntime
import torch
import typer
from _sweep import Out

from gan_tutorial import arrays, checkpoints, records, sampling
from gan_tutorial.ship import export, savedmodel
from gan_tutorial.ship.serving.model import OnnxGenerator

COUNTS = (1, 64)


def milliseconds(run: Callable, z: np.ndarray, labels: np.ndarray, repeats: int) -> float:
    """Return the shortest call's time; other programs make the rest longer."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(z, labels)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main(
    repeats: int = 100,
    out: Out = records.FOLDER / "engines.json",
) -> None:
    """Measure, store the record and print a table."""
    if savedmodel.tf is None:
        print(f"skipped: {sys.executable} has no TensorFlow; make tensorflow")
        return
    torch.set_num_threads(1)
    G, settings = checkpoints.load_generator("digits")
    with tempfile.TemporaryDirectory() as folder:
        file, saved = Path(folder) / "digits.onnx", Path(folder) / "1"
        export.to_onnx(G, file, settings)
        savedmodel.to_savedmodel(G, saved, settings)
        engines = {
            f"PyTorch {torch.__version__}": lambda z, labels: sampling.sample(
                G, torch.from_numpy(z), torch.from_numpy(labels)
            ).numpy(),
            f"onnxruntime {onnxruntime.__version__}": OnnxGenerator(file),
            f"TensorFlow {savedmodel.tf.__version__}": savedmodel.load(saved),
        }
        rows = {}
        for name, run in engines.items():
            times = {}
            for count in COUNTS:
                z, labels = arrays.latents(count, G.latent_dim), arrays.labels(count, G.classes)
                times[str(count)] = milliseconds(run, z, labels, repeats)
            parity = export.compare(G, run)
            rows[name] = {"milliseconds": times} | parity._asdict()
    record = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "engines": rows}
    record = records.save(record, out, torch.device("cpu"))
    print(f"{records.source(record)}; load average {record['load_average']:.1f}")
    for name, row in rows.items():
        print(f"{name:28}", *(f"{ms:8.2f} ms" for ms in row["milliseconds"].values()), end="")
        print(f"   δ = {row['from_pytorch']:.1e}, by batch {row['across_batches']:.1e}")


if __name__ == "__main__":
    typer.run(main)
