"""Short sounds: plucked strings and spoken digits, a small WaveGAN, and measures of its samples."""

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
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, cross_entropy, interpolate, pad

from gan_tutorial import data, networks, runtime, training

NOTES = {
    "D3": 146.83, "E3": 164.81, "G3": 196.00, "A3": 220.00, "C4": 261.63,
    "D4": 293.66, "E4": 329.63, "G4": 392.00, "A4": 440.00, "C5": 523.25,
}  # fmt: skip
"""The notes of ``plucked_strings``, a pentatonic scale, in hertz."""

STRINGS_CONFIG = training.TrainConfig(
    objective="relativistic", steps=1200, batch_size=32, lr_G=2e-3, lr_D=2e-3, r1=0.1
)
"""How the chapter trains on plucked strings."""

SPEECH_CONFIG = training.TrainConfig(
    objective="relativistic",
    steps=7000,
    batch_size=32,
    lr_G=1e-3,
    lr_D=1e-3,
    betas=(0.5, 0.99),
    r1=0.1,
    ema=0.998,
)
"""How the bundled generator of spoken digits was trained."""

WINDOW = 256  # samples in a window of a spectrogram


@dataclass(frozen=True)
class SoundSet:
    """Sounds held as one tensor.

    Attributes:
        waves: float32 (N, 1, L) in [-1, 1].
        labels: int64 (N,) in [0, len(classes)).
        classes: the name of each class.
        rate: samples per second.

    Raises:
        DataError: a dtype, a shape, a label or the range does not fit.
    """

    waves: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    rate: int

    def __post_init__(self) -> None:
        waves, labels, classes = self.waves, self.labels, len(self.classes)
        shaped = waves.dtype == torch.float32 and waves.ndim == 3 and waves.shape[1] == 1
        if not (shaped and waves.numel() and waves.abs().max() <= 1):  # also NaN
            given = data.kind(waves)
            raise data.DataError(f"sounds must be float32 (N, 1, L) in [-1, 1], not {given}")
        if labels.dtype != torch.int64 or labels.shape != waves.shape[:1]:
            raise data.DataError(f"labels must be int64 ({len(waves)},), not {data.kind(labels)}")
        if labels.min() < 0 or labels.max() >= classes:
            raise data.DataError(f"labels must be in [0, {classes}), not {data.kind(labels)}")

    def __len__(self) -> int:
        return len(self.waves)

    def to(self, device: str | torch.device) -> Self:
        """Return the set with its tensors on ``device``."""
        return replace(self, waves=self.waves.to(device), labels=self.labels.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a random batch, drawn with replacement: waves (count, 1, L), labels (count,)."""
        chosen = torch.randint(len(self), (count,), generator=rng, device=rng.device)
        return self.waves[chosen], self.labels[chosen]


def pluck(
    pitch: Tensor,
    decay: Tensor,
    brightness: Tensor,
    phase: Tensor,
    length: int = 1024,
    rate: int = 4000,
) -> Tensor:
    """Return plucked strings (N, 1, length), each with a largest value of 0.9.

    Harmonic k of pitch f has the amplitude brightness^(k-1) / k and decays as exp(-decay · k · t).
    Harmonics above half the sampling rate are left out.

    Args:
        pitch: in hertz, below half the sampling rate, (N,).
        decay: in 1/s, (N,).
        brightness: above 0, (N,).
        phase: of the first harmonic at t = 0, in radians, (N,).
        length: number of samples.
        rate: samples per second.
    """
    t = torch.arange(length, device=pitch.device) / rate
    waves = pitch.new_zeros(len(pitch), length)
    for k in range(1, math.ceil(rate / 2 / pitch.min().item())):
        amplitude = torch.where(k * pitch < rate / 2, brightness ** (k - 1) / k, 0)
        angle = k * (2 * math.pi * pitch[:, None] * t + phase[:, None])
        waves += amplitude[:, None] * torch.exp(-decay[:, None] * k * t) * angle.sin()
    return (0.9 * waves / waves.abs().amax(dim=1, keepdim=True)).unsqueeze(1)


def plucked_strings(
    count: int = 4000, seed: int = 0, length: int = 1024, rate: int = 4000
) -> SoundSet:
    """Return ``count`` plucked strings, the ten ``NOTES`` in turn.

    Each has its own tuning (± 10 cents), decay (2 to 8 per second), brightness (0.4 to 0.9) and
    phase.
    """
    labels = torch.arange(count) % len(NOTES)
    detune, decay, brightness, phase = torch.rand(4, count, generator=runtime.step_rng(seed, 0))
    pitch = torch.tensor(list(NOTES.values()))[labels] * 2 ** ((20 * detune - 10) / 1200)
    waves = pluck(pitch, 2 + 6 * decay, 0.4 + 0.5 * brightness, 2 * math.pi * phase, length, rate)
    return SoundSet(waves, labels, tuple(NOTES), rate)


def load_speech(split: str = "train") -> SoundSet:
    """Return the bundled spoken digits: 2,048 samples each at 5 kHz, by a synthesiser in 18 voices.

    Three of the voices, in all their accents, are in the split ``test`` only.

    Raises:
        DataError: there is no such split, or the file is missing or damaged.
    """
    with np.load(data.asset(f"speech-{split}.npz"), allow_pickle=False) as file:
        waves = from_bytes(torch.from_numpy(file["sounds"])).unsqueeze(1)
        labels = torch.from_numpy(file["labels"]).long()
        return SoundSet(waves, labels, data.DIGITS, int(file["rate"]))


def to_bytes(waves: Tensor) -> Tensor:
    """Quantise sound in [-1, 1] to uint8 with silence at 128: the inverse of ``from_bytes``."""
    assert waves.isfinite().all(), "the sound has NaN or infinity"
    return (waves * 127 + 128).round().clamp(0, 255).to(torch.uint8)


def from_bytes(samples: Tensor) -> Tensor:
    """Scale uint8 sound with silence at 128 to float32 in [-1, 1] with silence at exactly 0."""
    assert samples.dtype == torch.uint8, f"8-bit sound must be uint8, but is {samples.dtype}"
    return ((samples.float() - 128) / 127).clamp_min(-1)


def wav(samples: Tensor, rate: int) -> bytes:
    """Return one sound (L,) in [-1, 1] as a WAV file with one channel of 16 bits."""
    assert samples.ndim == 1, f"a sound must be (L,), not {tuple(samples.shape)}"
    assert samples.is_floating_point(), f"a sound must be float, not {samples.dtype}"
    assert samples.isfinite().all(), "the sound has NaN or infinity"
    integers = (samples.detach().cpu().clamp(-1, 1) * 32767).round().to(torch.int16)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(integers.numpy().astype("<i2"))
    return buffer.getvalue()


class PlayerRow:
    """A row of ``<audio>`` elements that a notebook shows as HTML, offline and without a kernel.

    Args:
        clips: sounds, each (L,) in [-1, 1].
        labels: a label for each clip, shown above it and read by screen readers.
        rate: samples per second.
    """

    def __init__(self, clips: Sequence[Tensor], labels: Sequence[str], rate: int) -> None:
        self.clips, self.labels, self.rate = clips, labels, rate

    def _repr_html_(self) -> str:
        """Return the row as HTML; each clip is embedded as a data URI."""
        players = []
        for clip, label in zip(self.clips, self.labels, strict=True):
            label = html.escape(label)
            source = base64.b64encode(wav(clip, self.rate)).decode()
            players.append(
                f'<div style="flex:1 1 15em;max-width:22em"><div>{label}</div>'
                f'<audio controls preload="metadata" aria-label="{label}" style="width:100%" '
                f'src="data:audio/wav;base64,{source}"></audio></div>'
            )
        style = "display:flex;flex-wrap:wrap;gap:.8em"
        return f'<div class="gan-audio" style="{style}">{"".join(players)}</div>'


class SoundGenerator(networks.Generator):
    """A linear layer to a 64th of the length, then three transposed convolutions of stride 4.

    A small WaveGAN (Donahue et al. 2019, table 3). The kernel size is a multiple of the stride, so
    every sample, except at the ends, receives the same number of contributions.

    Args:
        length: samples L of one sound, a multiple of 64; sounds are (N, 1, L).
        width: channels at a quarter of the length; twice and four times as many before.
    """

    def __init__(
        self, latent_dim: int = 32, length: int = 1024, width: int = 16, classes: int = 0
    ) -> None:
        assert length % 64 == 0, f"length must be a multiple of 64, but is {length}"
        super().__init__(latent_dim, (1, length), classes)
        w = width
        self.layers = nn.Sequential(
            nn.Linear(self.input_dim, 4 * w * (length // 64), bias=False),
            nn.Unflatten(1, (4 * w, length // 64)),  # (N, 4w, L/64)
            nn.BatchNorm1d(4 * w),
            nn.ReLU(),
            nn.ConvTranspose1d(4 * w, 2 * w, 16, stride=4, padding=6, bias=False),  # (N, 2w, L/16)
            nn.BatchNorm1d(2 * w),
            nn.ReLU(),
            nn.ConvTranspose1d(2 * w, w, 16, stride=4, padding=6, bias=False),  # (N, w, L/4)
            nn.BatchNorm1d(w),
            nn.ReLU(),
            nn.ConvTranspose1d(w, 1, 16, stride=4, padding=6),  # (N, 1, L)
            nn.Tanh(),
        )


class SoundDiscriminator(networks.Discriminator):
    """Three convolutions of stride 4 with phase shuffle in between, then two linear layers.

    Args:
        length: samples L of one sound, a multiple of 64; sounds are (N, 1, L).
        width: channels at a quarter of the length; twice and four times as many after.
        shuffle: reach of the phase shuffle; 0 for none.
    """

    def __init__(
        self, length: int = 1024, width: int = 16, classes: int = 0, shuffle: int = 2
    ) -> None:
        assert length % 64 == 0, f"length must be a multiple of 64, but is {length}"
        super().__init__((1, length), 8 * width, classes)
        w = width
        self.layers = nn.Sequential(
            nn.Conv1d(1, w, 16, stride=4, padding=6),  # (N, w, L/4)
            nn.LeakyReLU(0.2),
            PhaseShuffle(shuffle),
            nn.Conv1d(w, 2 * w, 16, stride=4, padding=6),  # (N, 2w, L/16)
            nn.LeakyReLU(0.2),
            PhaseShuffle(shuffle),
            nn.Conv1d(2 * w, 4 * w, 16, stride=4, padding=6),  # (N, 4w, L/64)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(4 * w * (length // 64), 8 * w),  # (N, 8w)
            nn.LeakyReLU(0.2),
        )


class PhaseShuffle(nn.Module):
    """Shifts each sound's activations by a random integer in [-reach, reach], with mirrored ends.

    In evaluation mode nothing is shifted (Donahue et al. 2019, section 3.3).
    """

    def __init__(self, reach: int = 2) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, activations: Tensor) -> Tensor:
        """Return the shifted activations (N, C, L)."""
        if not self.training or not self.reach:
            return activations
        count, channels, length = activations.shape
        padded = pad(activations, (self.reach, self.reach), mode="reflect")  # (N, C, L + 2 reach)
        starts = torch.randint(2 * self.reach + 1, (count, 1, 1), device=activations.device)
        places = starts + torch.arange(length, device=activations.device)  # (N, 1, L)
        return padded.gather(2, places.expand(-1, channels, -1))


def speech_networks() -> tuple[SoundGenerator, SoundDiscriminator]:
    """Return new networks (G, D) of the sizes that the bundled generator was trained with."""
    return SoundGenerator(32, 2048, 32, classes=10), SoundDiscriminator(2048, 32, classes=10)


def load_generator(device: str | torch.device = "cpu") -> SoundGenerator:
    """Return the bundled generator of spoken digits, in evaluation mode.

    It maps z (N, 32) and labels (N,) to sounds (N, 1, 2048) at 5 kHz.
    """
    with torch.device("meta"):  # draws no weights
        G, _ = speech_networks()
    weights = load_file(data.asset("speech-gan.safetensors"))  # stored in float16
    G.to_empty(device="cpu").load_state_dict(weights)
    return G.to(device).eval().requires_grad_(False)


def spectrogram(waves: Tensor, hop: int = 64) -> Tensor:
    """Return the power (N, 129, T) of sounds (N, 1, L) in windows of 256 samples, ``hop`` apart."""
    window = torch.hann_window(WINDOW, device=waves.device)
    spectrum = torch.stft(
        waves.squeeze(1), WINDOW, hop, window=window, return_complex=True, pad_mode="constant"
    )
    return spectrum.abs() ** 2


def log_mel(waves: Tensor, rate: int, bands: int = 16, frames: int = 4) -> Tensor:
    """Return the log-mel levels (N, bands · frames) of sounds (N, 1, L), in decibels.

    10 log10(p + 1), where p is the power, weighted by a triangle with a peak of 1, summed over the
    band and averaged over a part of the time: 0 dB is silence. The bands are evenly spaced on the
    mel scale, the ``frames`` parts are of equal length.
    """
    filters = _mel_filters(rate, bands).to(waves.device)  # (bands, 129)
    power = [
        adaptive_avg_pool1d(filters @ spectrogram(part), frames) for part in waves.split(500)
    ]  # (500, bands, frames) each
    return 10 * (torch.cat(power) + 1).log10().flatten(1)


def _mel_filters(rate: int, bands: int) -> Tensor:
    """Return the weights (bands, 129) of triangular bands."""
    hertz = torch.linspace(0, rate / 2, WINDOW // 2 + 1)
    mel = 2595 * torch.log10(1 + hertz / 700)
    edges = torch.linspace(0, mel[-1].item(), bands + 2)
    return (1 - (mel - edges[1:-1, None]).abs() / edges[1]).clamp_min(0)


def pitch(waves: Tensor, rate: int, lowest: float = 100.0, highest: float = 800.0) -> Tensor:
    """Return the pitch (N,) in hertz of sounds (N, 1, L); NaN for a sound that is not periodic.

    The autocorrelation at each lag is divided by the mean energy of the two parts that it compares
    (McLeod and Wyvill 2005, equation 9), then interpolated. The period is the lag of the first peak
    that reaches 0.9 of the highest one.

    Args:
        waves: sounds of at least two periods of ``lowest``.
        rate: samples per second.
        lowest, highest: where to look for the pitch, in hertz.
    """
    assert waves.shape[-1] * lowest >= 2 * rate, f"too short for two periods of {lowest:g} Hz"
    assert 0 < lowest < highest < rate / 2, f"lowest and highest must be in (0, {rate / 2:g}) Hz"
    parts = waves.squeeze(1).double().split(250)
    return torch.cat([_pitch(part, rate, lowest, highest) for part in parts])


def _pitch(x: Tensor, rate: int, lowest: float, highest: float, fine: int = 4) -> Tensor:
    """Return the pitch (N,) of sounds (N, L); ``fine`` is the number of lags for each sample."""
    length, longest = x.shape[1], math.ceil(rate / lowest) + 2
    x = x - x.mean(dim=1, keepdim=True)
    power = torch.fft.rfft(x, 2 * length).abs().square()  # padded, or the ends would wrap around
    correlation = fine * torch.fft.irfft(power, 2 * length * fine)[:, : (longest - 1) * fine + 1]
    sums = pad(x.square().cumsum(dim=1), (1, 0))  # (N, L + 1)
    lags = torch.arange(longest, device=x.device)
    energy = (sums[:, length - lags] + sums[:, -1:] - sums[:, lags]) / 2  # (N, longest)
    energy = interpolate(energy[:, None], correlation.shape[1], mode="linear", align_corners=True)
    likeness = correlation / energy[:, 0].clamp_min(1e-12)
    inner, place = likeness[:, 1:-1], torch.arange(1, likeness.shape[1] - 1, device=x.device)
    allowed = (place >= fine * rate / highest - 1) & (place <= fine * rate / lowest + 1)
    peak = allowed & (inner >= likeness[:, :-2]) & (inner > likeness[:, 2:])
    best = torch.where(peak, inner, 0).amax(dim=1, keepdim=True)
    first = (peak & (inner >= 0.9 * best)).int().argmax(dim=1) + 1
    left, middle, right = (likeness.gather(1, (first + i)[:, None])[:, 0] for i in (-1, 0, 1))
    offset = (left - right) / (2 * (left - 2 * middle + right))  # to the top of the parabola
    return torch.where(best[:, 0] > 0.5, fine * rate / (first + offset), torch.nan).float()


def cents(pitches: Tensor, targets: Tensor) -> Tensor:
    """Return by how many cents (1/100 semitone) pitches are above targets, both in hertz."""
    return 1200 * torch.log2(pitches / targets)


def in_tune(pitches: Tensor, targets: Tensor, within: float = 50.0) -> float:
    """Return the fraction of pitches (N,) within some cents of their target; NaN counts as a miss.

    Args:
        pitches: in hertz.
        targets: in hertz: (N,), or (N, K) if any of K targets will do.
        within: in cents.
    """
    targets = targets.unsqueeze(1) if targets.ndim == 1 else targets
    off = cents(pitches.unsqueeze(1), targets).abs()  # (N, K)
    return (off < within).any(dim=1).float().mean().item()


class Recogniser(nn.Module):
    """A classifier of sounds with one hidden layer, on log-mel levels in 24 bands and 16 frames.

    Args:
        examples: the sounds whose mean and standard deviation, plus 1 dB, normalise each level.
    """

    def __init__(self, examples: SoundSet) -> None:
        super().__init__()
        self.rate = examples.rate
        levels = self.features(examples.waves)  # (N, 384)
        self.register_buffer("mean", levels.mean(dim=0))
        self.register_buffer("std", levels.std(dim=0) + 1)
        self.layers = nn.Sequential(
            nn.Linear(384, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, len(examples.classes))
        )

    def features(self, waves: Tensor) -> Tensor:
        """Return the log-mel levels (N, 384) of sounds (N, 1, L), in decibels."""
        return log_mel(waves, self.rate, bands=24, frames=16)

    def forward(self, waves: Tensor) -> Tensor:
        """Return class logits (N, classes) for sounds (N, 1, L) in [-1, 1]."""
        return self.layers((self.features(waves) - self.mean) / self.std)


def train_recogniser(examples: SoundSet, steps: int = 600, seed: int = 0) -> Recogniser:
    """Train a recogniser on ``examples``, on their device, with noise N(0, 0.3²) on its inputs."""
    with runtime.seeded(seed):
        recogniser = Recogniser(examples).to(examples.waves.device).train()
        levels = (recogniser.features(examples.waves) - recogniser.mean) / recogniser.std
        optimiser = torch.optim.AdamW(recogniser.parameters(), 2e-3, weight_decay=0.05)
        for _ in range(steps):
            chosen = torch.randint(len(levels), (128,), device=levels.device)
            noisy = levels[chosen] + 0.3 * torch.randn_like(levels[chosen])
            loss = cross_entropy(recogniser.layers(noisy), examples.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return recogniser.eval()
