"""Short sounds as tensors: plucked strings by formula, bundled spoken digits, and players for a notebook."""

import base64
import html
import io
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from gan_tutorial import data, runtime

NOTES = {
    "D3": 146.83, "E3": 164.81, "G3": 196.00, "A3": 220.00, "C4": 261.63,
    "D4": 293.66, "E4": 329.63, "G4": 392.00, "A4": 440.00, "C5": 523.25,
}  # fmt: skip
"""The strings that ``strings`` plucks, a pentatonic scale, in hertz."""


@dataclass(frozen=True)
class SoundSet:
    """Sounds held as one tensor.

    Attributes:
        waves: float32 (N, 1, L) in [-1, 1].
        labels: int64 (N,) in [0, len(classes)).
        classes: the name of each class.
        rate: samples in a second, in hertz.

    Raises:
        DataError: a dtype, a shape, a range or a label does not fit.
    """

    waves: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    rate: int

    def __post_init__(self) -> None:
        require_waves(self.waves)
        runtime.require_integer("rate", self.rate, least=1)
        if self.labels.dtype != torch.int64 or self.labels.shape != self.waves.shape[:1]:
            raise data.DataError(
                f"labels must be int64 ({len(self.waves)},), one for each sound, "
                f"but are {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise data.DataError(
                f"labels must lie in [0, {len(self.classes) - 1}], one for each class name, "
                f"but reach from {self.labels.min()} to {self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.waves)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (1, L) of one sound."""
        return tuple(self.waves.shape[1:])

    def to(self, device: str | torch.device) -> Self:
        """Return the set with its tensors on ``device``."""
        return replace(self, waves=self.waves.to(device), labels=self.labels.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` sounds with replacement: float32 (count, 1, L) in [-1, 1], and int64 labels (count,)."""
        chosen = torch.randint(len(self), (count,), generator=rng, device=rng.device)
        return self.waves[chosen], self.labels[chosen]


def require_waves(waves: Tensor) -> None:
    """Raise DataError unless ``waves`` is float (N, 1, L) in [-1, 1]."""
    given = tuple(waves.shape) if isinstance(waves, Tensor) else type(waves).__name__
    if not isinstance(waves, Tensor) or waves.ndim != 3 or waves.shape[1] != 1 or not waves.numel():
        raise data.DataError(f"sounds must be a tensor (N, 1, L) with N and L at least 1, but got {given}")
    if not waves.is_floating_point():
        raise data.DataError(
            f"sounds must be floating point in [-1, 1], but are {waves.dtype}; scale them with "
            "gan_tutorial.sounds.from_bytes"
        )
    reach = waves.detach().abs().max().item()
    if not reach <= 1 + 1e-4:  # NaN too
        raise data.DataError(f"sounds must lie in [-1, 1], but reach {reach:.4g}; divide by the largest value")


def pluck(
    pitch: Tensor, decay: Tensor, brightness: Tensor, phase: Tensor, length: int = 1024, rate: int = 4000
) -> Tensor:
    """Return plucked strings (N, 1, length), each with its largest value at 0.9.

    Harmonic k of pitch f, as far as k f lies below half the rate, has the height brightness^(k-1) / k and fades as
    exp(-decay · k · t), since high harmonics die first.

    Args:
        pitch: f in hertz, above 0 and below half the rate (N,).
        decay: in 1/s, above 0 (N,).
        brightness: above 0 (N,).
        phase: where in its period the string is caught, as an angle (N,).
        length: samples.
        rate: samples in a second.

    Raises:
        ValueError: a number out of range, or sizes that differ.
    """
    runtime.require_integer("length", length, least=1)
    runtime.require_integer("rate", rate, least=1)
    for name, values in (("pitch", pitch), ("decay", decay), ("brightness", brightness), ("phase", phase)):
        if values.shape != pitch.shape or values.ndim != 1:
            raise ValueError(f"{name} must be one number for each string, ({len(pitch)},), not {tuple(values.shape)}")
        if name != "phase" and not (values > 0).all():
            raise ValueError(f"{name} must be above 0, but reaches {values.min():g}")
    if pitch.max() >= rate / 2:
        raise ValueError(f"pitch must lie below half the rate, {rate / 2:g} Hz, but reaches {pitch.max():g}")
    t = torch.arange(length, device=pitch.device) / rate
    waves = pitch.new_zeros(len(pitch), length)
    for k in range(1, math.ceil(rate / 2 / pitch.min().item())):
        height = torch.where(k * pitch < rate / 2, brightness ** (k - 1) / k, 0)
        angle = k * (2 * math.pi * pitch[:, None] * t + phase[:, None])
        waves += height[:, None] * torch.exp(-decay[:, None] * k * t) * angle.sin()
    return (0.9 * waves / waves.abs().amax(dim=1, keepdim=True)).unsqueeze(1)


def strings(count: int = 4000, seed: int = 0, length: int = 1024, rate: int = 4000) -> SoundSet:
    """Return ``count`` plucked strings, the ten ``NOTES`` in turn.

    Each has its own tuning (± 10 cents), decay (2 to 8 per second), brightness (0.4 to 0.9) and phase.

    Raises:
        ValueError: a number out of range.
    """
    runtime.require_integer("count", count, least=1)
    labels = torch.arange(count) % len(NOTES)
    detune, decay, brightness, phase = torch.rand(4, count, generator=runtime.step_rng(seed, 0))
    pitch = torch.tensor(list(NOTES.values()))[labels] * 2 ** ((20 * detune - 10) / 1200)
    waves = pluck(pitch, 2 + 6 * decay, 0.4 + 0.5 * brightness, 2 * math.pi * phase, length, rate)
    return SoundSet(waves, labels, tuple(NOTES), rate)


def load_speech(split: str = "train") -> SoundSet:
    """Return the bundled spoken digits: 2,048 samples each, at 5 kHz, said by a synthesiser in 18 voices.

    Three of the voices, in all their accents, are in ``test`` only.

    Raises:
        DataError: another split, or the file is missing or damaged.
    """
    if split not in data.SPLITS:
        raise data.DataError(f"split must be one of {', '.join(data.SPLITS)}, but is {split!r}")
    with np.load(data.asset(f"speech-{split}.npz"), allow_pickle=False) as file:
        pressure, labels, rate = torch.from_numpy(file["sounds"]), torch.from_numpy(file["labels"]), int(file["rate"])
    return SoundSet(from_bytes(pressure).unsqueeze(1), labels.long(), data.DIGITS, rate)


def to_bytes(waves: Tensor) -> Tensor:
    """Turn sound in [-1, 1] into uint8 with silence at 128: the inverse of ``from_bytes``."""
    return (waves * 127 + 128).round().clamp(0, 255).to(torch.uint8)


def from_bytes(pressure: Tensor) -> Tensor:
    """Scale 8-bit sound, uint8 with silence at 128, to float32 in [-1, 1] with silence at exactly 0.

    Raises:
        DataError: the numbers are not uint8.
    """
    if pressure.dtype != torch.uint8:
        raise data.DataError(f"8-bit sound must be uint8, but is {pressure.dtype}; is it scaled already?")
    return ((pressure.float() - 128) / 127).clamp_min(-1)


def wav(samples: Tensor, rate: int) -> bytes:
    """Return sound (L,) in [-1, 1] as a WAV file: one channel of 16 bits.

    Raises:
        ValueError: the shape, the range or the rate does not fit.
    """
    runtime.require_integer("rate", rate, least=1)
    if samples.ndim != 1:
        raise ValueError(f"a WAV file takes one sound (L,), but got {tuple(samples.shape)}; take one, or flatten them")
    require_waves(samples[None, None])
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.detach().cpu().clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2"))
    return buffer.getvalue()


class Players:
    """A row of players, one for each sound, which a notebook shows as HTML: it works with no kernel and offline.

    Args:
        sounds: each (L,) in [-1, 1].
        labels: what each is called, on the page and for readers who cannot see it.
        rate: samples in a second.

    Raises:
        ValueError: no sound, another number of labels than of sounds, an empty label, or a sound that does not fit.
    """

    def __init__(self, sounds: Sequence[Tensor], labels: Sequence[str], rate: int) -> None:
        if not len(sounds) or len(sounds) != len(labels):
            raise ValueError(f"each sound needs a label, but got {len(sounds)} sounds and {len(labels)} labels")
        if not all(label.strip() for label in labels):
            raise ValueError("a player needs a label that says what is to be heard, but one is empty")
        self.labels = list(labels)
        self.files = [base64.b64encode(wav(sound, rate)).decode() for sound in sounds]

    def _repr_html_(self) -> str:
        """Return the players as HTML; each sound lies in the page as a data URI."""
        players = "".join(
            f'<div style="flex:1 1 15em;max-width:22em"><div>{html.escape(label)}</div>'
            f'<audio controls preload="metadata" aria-label="{html.escape(label)}" style="width:100%" '
            f'src="data:audio/wav;base64,{file}"></audio></div>'
            for label, file in zip(self.labels, self.files, strict=True)
        )
        return f'<div class="gan-audio" style="display:flex;flex-wrap:wrap;gap:.8em">{players}</div>'
