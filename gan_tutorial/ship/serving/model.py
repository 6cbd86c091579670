"""An exported generator, run by onnxruntime."""

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime

from gan_tutorial import arrays, checks

FORMAT = "gan_tutorial export 3"
DIGEST = "file_sha256"  # metadata entry of an ONNX file: its ``digest``


class ModelError(ValueError):
    """An exported file that cannot be read or is damaged; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The description inside an exported file; each field is a metadata entry, in JSON.

    Attributes:
        name: the training data.
        latent_dim: size of z, which is sampled from N(0, 1).
        shape: shape of one sample, such as (1, 28, 28).
        range: minimum and maximum of the values of a sample; None for points, which are unbounded.
        classes: the name of each class; empty for an unconditional generator.
        recipe: the ``Recipe`` of the training, as a dictionary.
        step: number of training steps.
        opset: version of the ONNX operators; 0 in a safetensors file.
        weights_sha256: ``export.weights_digest`` of the generator.
        directions: unit vectors (K, latent_dim) that change the first layer most.
        probe: mean of each sample for ``probe_inputs``, computed by PyTorch.
    """

    name: str
    latent_dim: int
    shape: tuple[int, ...]
    range: tuple[float, float] | None
    classes: tuple[str, ...]
    recipe: dict
    step: int
    opset: int
    weights_sha256: str
    directions: tuple[tuple[float, ...], ...]
    probe: tuple[float, ...]

    def as_metadata(self) -> dict[str, str]:
        """Return the card as strings, to store in a file."""
        entries = {field.name: json.dumps(getattr(self, field.name)) for field in fields(self)}
        return {"format": FORMAT} | entries

    @classmethod
    def from_metadata(cls, entries: dict[str, str]) -> Self:
        """Return the card that ``as_metadata`` stored.

        Raises:
            ModelError: the entries are of another format, or incomplete.
        """
        if entries.get("format") != FORMAT:
            raise ModelError(f"its metadata do not say {FORMAT!r}; export it again")
        try:
            values = {field.name: json.loads(entries[field.name]) for field in fields(cls)}
        except (KeyError, json.JSONDecodeError) as error:
            raise ModelError(f"its metadata are incomplete ({error}); export it again") from error
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)


class OnnxGenerator:
    """A generator from an exported file, on the CPU.

    Args:
        path: a file that ``export.to_onnx`` wrote.
        threads: number of threads for the network.

    Raises:
        ModelError: there is no such file, it is damaged, or its samples are not those at export.
        ValueError: threads is out of range.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        checks.require_integer("threads", threads, 1, 1024)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = False  # it would keep memory for every batch size
        options.log_severity_level = 4  # errors are raised, so do not log them too
        try:
            content = Path(path).read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
            entries = self._session.get_modelmeta().custom_metadata_map
            self.card = Card.from_metadata(entries)
            own = entries.get(DIGEST, "")
            if not own or digest(content, own) != own:
                raise ModelError("it is damaged: its SHA-256 differs; export it again")
        except OSError as error:
            advice = f"({error.strerror}); write one with gan_tutorial export"
            raise ModelError(f"there is no model at {path} {advice}") from error
        except ModelError as error:
            raise ModelError(f"{path} cannot be used: {error}") from error
        except Exception as error:  # onnxruntime's own classes are private, each an Exception
            fault = f"{path} is not a complete ONNX file ({error}); export it again"
            raise ModelError(fault) from error
        self._check_probe(path)

    def __call__(self, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Return samples, float32 (N, *shape).

        Args:
            z: latent vectors, float32 (N, latent_dim).
            labels: int64 (N,), if the generator is conditional.
        """
        if labels is None:
            return self._session.run(None, {"z": z})[0]
        assert labels.min() >= 0, "labels must not be negative"  # ONNX counts them from the end
        return self._session.run(None, {"z": z, "labels": labels})[0]

    def _check_probe(self, path: str | Path) -> None:
        """Raise ModelError unless this onnxruntime gives the samples of ``probe_inputs`` at export.

        A mean of a sample shows gross faults of a program. Faults of the file are the digest's.
        """
        card = self.card
        samples = self(*probe_inputs(len(card.probe), card.latent_dim, len(card.classes)))
        means = samples.reshape(len(samples), -1).mean(axis=1)
        if not np.allclose(means, card.probe, rtol=1e-3, atol=1e-3):
            fault = "its samples differ from those at export; try another onnxruntime"
            raise ModelError(f"{path} cannot be used: {fault}")


def digest(content: bytes, own: str) -> str:
    """Return the SHA-256 of an ONNX file, with zeros where it holds its ``own`` digest."""
    return hashlib.sha256(content.replace(own.encode(), b"0" * len(own))).hexdigest()


def probe_inputs(count: int, latent_dim: int, classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return fixed z, float32 (count, latent_dim), and labels (count,), for the probe of a card.

    z has variance 1 and comes from a formula, so that no version of NumPy changes it.
    """
    angles = np.arange(1, count * latent_dim + 1, dtype=np.float64)
    z = math.sqrt(2) * np.sin(angles).reshape(count, latent_dim)
    return z.astype(np.float32), arrays.labels(count, classes)
