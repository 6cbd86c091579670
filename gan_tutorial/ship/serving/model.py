"""An exported generator, run by onnxruntime."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import onnxruntime
from pydantic import AllowInfNan, Field, TypeAdapter, ValidationError

from gan_tutorial import arrays, checks

FORMAT = "gan_tutorial export 3"
DIGEST = "file_sha256"  # metadata entry of an ONNX file: its ``digest``


Size = Annotated[int, Field(ge=1, le=2**20)]
Number = Annotated[float, AllowInfNan(False)]


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
        step: number of training steps; 0 for a bundled pair.
        opset: version of the ONNX operators; 0 in a safetensors file.
        weights_sha256: ``export.weights_digest`` of the generator.
        directions: unit vectors (K, latent_dim) that change the first layer most.
        probe: mean of each sample for ``probe_inputs``, computed by PyTorch.
    """

    name: str
    latent_dim: Size
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)]
    range: tuple[Number, Number] | None
    classes: Annotated[tuple[str, ...], Field(max_length=2**20)]
    recipe: dict
    step: Annotated[int, Field(ge=0)]
    opset: Annotated[int, Field(ge=0)]
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    directions: Annotated[tuple[tuple[Number, ...], ...], Field(max_length=64)]
    probe: Annotated[tuple[Number, ...], Field(min_length=1, max_length=1024)]

    def as_metadata(self) -> dict[str, str]:
        """Return the card as strings, to store in a file."""
        entries = {}
        for field in fields(self):
            text = json.dumps(getattr(self, field.name), ensure_ascii=False)
            entries[field.name] = text.encode(errors="replace").decode()  # names need not be UTF-8
        return {"format": FORMAT} | entries

    @classmethod
    def from_metadata(cls, entries: dict[str, str]) -> Self:
        """Return the card that ``as_metadata`` stored.

        Raises:
            ModelError: the entries are of another format, incomplete, or of other types or sizes.
        """
        if entries.get("format") != FORMAT:
            raise ModelError(f"its metadata do not say {FORMAT!r}; export it again")
        try:
            values = {field.name: json.loads(entries[field.name]) for field in fields(cls)}
            card = TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise ModelError(
                f"its metadata say {where}: {fault['msg']}; export it again"
            ) from error
        except (KeyError, ValueError, RecursionError) as error:
            raise ModelError(f"its metadata are incomplete ({error}); export it again") from error
        for direction in card.directions:
            _require_equal("directions", len(direction), card.latent_dim)
        if card.range is not None:
            _require_equal("shape", len(card.shape), 3)
            _require_equal("range", card.range, (-1.0, 1.0))
        return card


def _require_equal(name: str, found: object, expected: object) -> None:
    if found != expected:
        fault = f"its metadata say {name}: {found}, not {expected}"
        raise ModelError(f"{fault}; export it again")


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
            self._check_card()
            self._check_probe()
        except OSError as error:
            advice = f"({error.strerror}); write one with gan_tutorial export"
            raise ModelError(f"there is no model at {path} {advice}") from error
        except ModelError as error:
            raise ModelError(f"{path} cannot be used: {error}") from error
        except Exception as error:  # onnxruntime's own classes are private, each an Exception
            raise ModelError(f"{path} {_fault(error)}") from error

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

    def _check_card(self) -> None:
        """Raise ModelError unless the network has the inputs and the output that the card says."""
        card = self.card
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        found = {node.name: tuple(node.shape[1:]) for node in nodes}
        expected = {"z": (card.latent_dim,)} | ({"labels": ()} if card.classes else {})
        _require_equal("shapes", found, expected | {"samples": card.shape})

    def _check_probe(self) -> None:
        """Raise ModelError unless this onnxruntime gives the samples of ``probe_inputs`` at export.

        A sample's mean shows gross faults of a program. The digest shows faults of the file.
        """
        card = self.card
        samples = self(*probe_inputs(len(card.probe), card.latent_dim, len(card.classes)))
        means = samples.reshape(len(samples), -1).mean(axis=1)
        if not np.allclose(means, card.probe, rtol=1e-3, atol=1e-3):
            raise ModelError("its samples differ from those at export; try another onnxruntime")


def _fault(error: Exception) -> str:
    """Return why onnxruntime does not run a file, and what to do."""
    here = f"onnxruntime {onnxruntime.__version__}"
    if re.search("Unsupported model IR version|is under development", str(error)):
        return f"is newer than {here} can run; update onnxruntime, or export it again here"
    if re.search("INVALID_PROTOBUF|No graph was found", str(error)):
        return "is not a complete ONNX file; write one with gan_tutorial export"
    return f"is not a network that {here} can run ({error}); export it again"


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
