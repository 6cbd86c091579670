"""A one-dimensional convolutional pair for short sounds, and measures of them: pitch, levels in bands, words."""

import functools
import math

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, cross_entropy, interpolate, pad

from gan_tutorial import data, networks, runtime, sounds, training

WINDOW = 256  # samples that one column of a spectrogram looks at
STRINGS = training.TrainConfig(steps=1200, batch_size=32, lr_G=2e-3, lr_D=2e-3, r1=0.1)
SPEECH = training.TrainConfig(steps=7000, batch_size=32, lr_G=1e-3, lr_D=1e-3, betas=(0.5, 0.99), r1=0.1, ema=0.998)


class SoundGenerator(networks.Generator):
    """A linear layer to a 64th of the length, then three transposed convolutions that each make it four times as long.

    WaveGAN in small (Donahue et al. 2019, table 3). The kernel, 16, is a multiple of the stride, 4, so that every
    sample is written equally often.

    Args:
        length: samples L of one sound, a multiple of 64; sounds are (N, 1, L).
        width: channels at a quarter of the length; twice and four times as many before.
    """

    def __init__(self, latent_dim: int = 32, length: int = 1024, width: int = 16, classes: int = 0) -> None:
        _require_sizes(length, width)
        super().__init__(latent_dim, (1, length), classes)
        self.layers = nn.Sequential(
            nn.Linear(self.input_dim, 4 * width * (length // 64), bias=False),
            nn.Unflatten(1, (4 * width, length // 64)),  # (N, 4w, L/64)
            nn.BatchNorm1d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose1d(4 * width, 2 * width, 16, stride=4, padding=6, bias=False),  # (N, 2w, L/16)
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose1d(2 * width, width, 16, stride=4, padding=6, bias=False),  # (N, w, L/4)
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.ConvTranspose1d(width, 1, 16, stride=4, padding=6),  # (N, 1, L)
            nn.Tanh(),
        )


class SoundDiscriminator(networks.Discriminator):
    """Three convolutions that each make a sound four times as short, phase shuffle between, then two linear layers.

    Args:
        length: samples L of one sound, a multiple of 64.
        width: channels at a quarter of the length; twice and four times as many behind.
        shuffle: the reach of the phase shuffle; 0 for none.
    """

    def __init__(self, length: int = 1024, width: int = 16, classes: int = 0, shuffle: int = 2) -> None:
        _require_sizes(length, width)
        super().__init__((1, length), 8 * width, classes)
        self.layers = nn.Sequential(
            nn.Conv1d(1, width, 16, stride=4, padding=6),  # (N, w, L/4)
            nn.LeakyReLU(0.2),
            PhaseShuffle(shuffle),
            nn.Conv1d(width, 2 * width, 16, stride=4, padding=6),  # (N, 2w, L/16)
            nn.LeakyReLU(0.2),
            PhaseShuffle(shuffle),
            nn.Conv1d(2 * width, 4 * width, 16, stride=4, padding=6),  # (N, 4w, L/64)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(4 * width * (length // 64), 8 * width),
            nn.LeakyReLU(0.2),
        )


def _require_sizes(length: int, width: int) -> None:
    runtime.require_integer("width", width, least=1)
    runtime.require_integer("length", length, least=64)
    if length % 64:
        raise ValueError(f"length must be a multiple of 64, since three layers multiply it by 4, but is {length}")


class PhaseShuffle(nn.Module):
    """Shift each sample's activations (N, C, L) by a random whole number in [-reach, reach]; the ends are mirrored.

    In evaluation mode nothing is shifted (Donahue et al. 2019, section 3.3).
    """

    def __init__(self, reach: int = 2) -> None:
        super().__init__()
        runtime.require_integer("reach", reach, least=0)
        self.reach = reach

    def forward(self, activations: Tensor) -> Tensor:
        """Return the shifted activations (N, C, L).

        Raises:
            ValueError: the shape is another, or L is not above the reach.
        """
        if activations.ndim != 3 or activations.shape[2] <= self.reach:
            raise ValueError(f"a shift by {self.reach} takes (N, C, L), L above it, but got {tuple(activations.shape)}")
        if not self.training or not self.reach:
            return activations
        count, channels, length = activations.shape
        starts = torch.randint(2 * self.reach + 1, (count, 1, 1), device=activations.device)
        places = starts + torch.arange(length, device=activations.device)  # (N, 1, L)
        return pad(activations, (self.reach, self.reach), mode="reflect").gather(2, places.expand(-1, channels, -1))


def load_generator(device: str | torch.device = "cpu") -> SoundGenerator:
    """Return the bundled generator of spoken digits, in evaluation mode: z (N, 32), labels (N,) to (N, 1, 2048)."""
    G = speech_pair()[0]
    G.load_state_dict(load_file(data.asset("speech-gan.safetensors")))  # stored in 16 bits, copied into 32
    return G.to(device).eval().requires_grad_(False)


def speech_pair() -> tuple[SoundGenerator, SoundDiscriminator]:
    """Return (G, D) with fresh weights, of the sizes of the bundled pair for spoken digits."""
    return SoundGenerator(32, 2048, 32, classes=10), SoundDiscriminator(2048, 32, classes=10)


def spectrogram(waves: Tensor, hop: int = 64) -> Tensor:
    """Return the power (N, 129, T) of sounds (N, 1, L): one column for each window of 256 samples, ``hop`` apart.

    Raises:
        DataError: the shape or the range of the sounds is another.
        ValueError: hop is not an integer of at least 1.
    """
    sounds.require_waves(waves)
    runtime.require_integer("hop", hop, least=1)
    window = torch.hann_window(WINDOW, device=waves.device)
    return torch.stft(waves[:, 0], WINDOW, hop, window=window, return_complex=True, pad_mode="constant").abs() ** 2


def bands(waves: Tensor, rate: int, count: int = 16, parts: int = 4) -> Tensor:
    """Return the levels in decibels (N, count · parts) of sounds (N, 1, L): bands of pitch times equal parts of time.

    The bands are triangles, evenly spaced on the mel scale. What is far below the loudest that a sound can be, counts
    as silence, 0 dB.

    Raises:
        DataError: the shape or the range of the sounds is another.
        ValueError: a number is not an integer of at least 1.
    """
    for name, value in (("rate", rate), ("count", count), ("parts", parts)):
        runtime.require_integer(name, value, least=1)
    triangles = _triangles(rate, count).to(waves.device)
    levels = torch.cat([adaptive_avg_pool1d(triangles @ spectrogram(part), parts) for part in waves.split(500)])
    return 10 * (levels + 1).log10().flatten(1)


def _triangles(rate: int, count: int) -> Tensor:
    """Return the weights (count, 129) of the bands."""
    hertz = torch.linspace(0, rate / 2, WINDOW // 2 + 1)
    mel = 2595 * torch.log10(1 + hertz / 700)
    edges = torch.linspace(0, mel[-1].item(), count + 2)
    return (1 - (mel - edges[1:-1, None]).abs() / edges[1]).clamp_min(0)


def pitch(waves: Tensor, rate: int, lowest: float = 100.0, highest: float = 800.0) -> Tensor:
    """Return the pitch (N,) in hertz of sounds (N, 1, L); NaN where no lag makes a sound look like itself.

    The likeness at a lag is the autocorrelation over the mean energy of the two parts that it compares (McLeod and
    Wyvill 2005, equation 9), interpolated fourfold. The first peak of at least 0.9 of the highest is the period.

    Raises:
        DataError: the shape or the range of the sounds is another.
        ValueError: the bounds do not satisfy 0 < lowest < highest < rate / 2, or L is below two of the longest periods.
    """
    sounds.require_waves(waves)
    runtime.require_integer("rate", rate, least=1)
    if not 0 < lowest < highest < rate / 2:
        raise ValueError(f"pitch needs 0 < lowest < highest < {rate / 2:g}, but they are {lowest:g} and {highest:g}")
    if waves.shape[2] * lowest < 2 * rate:
        raise ValueError(f"{waves.shape[2]} samples hold less than two periods of {lowest:g} Hz; raise lowest")
    return torch.cat([_pitch(part[:, 0].double(), rate, lowest, highest) for part in waves.split(250)])


def _pitch(x: Tensor, rate: int, lowest: float, highest: float, fine: int = 4) -> Tensor:
    length, longest = x.shape[1], math.ceil(rate / lowest) + 2
    x = x - x.mean(dim=1, keepdim=True)
    power = torch.fft.rfft(x, 2 * length).abs().square()  # twice as long, so that the ends do not meet
    correlation = fine * torch.fft.irfft(power, 2 * length * fine)[:, : (longest - 1) * fine + 1]
    sums = pad(x.square().cumsum(dim=1), (1, 0))  # (N, L + 1)
    lags = torch.arange(longest, device=x.device)
    energy = (sums[:, length - lags] + sums[:, -1:] - sums[:, lags]) / 2
    energy = interpolate(energy.unsqueeze(1), correlation.shape[1], mode="linear", align_corners=True)[:, 0]
    likeness = correlation / energy.clamp_min(1e-12)
    inner, place = likeness[:, 1:-1], torch.arange(1, likeness.shape[1] - 1, device=x.device)
    allowed = (place >= fine * rate / highest - 1) & (place <= fine * rate / lowest + 1)
    peak = allowed & (inner >= likeness[:, :-2]) & (inner > likeness[:, 2:])
    best = torch.where(peak, inner, 0).amax(dim=1, keepdim=True)
    first = (peak & (inner >= 0.9 * best)).int().argmax(dim=1) + 1
    left, middle, right = (likeness.gather(1, (first + i).unsqueeze(1))[:, 0] for i in (-1, 0, 1))
    offset = (left - right) / (2 * (left - 2 * middle + right))  # of the top of the parabola through the three
    return torch.where(best[:, 0] > 0.5, fine * rate / (first + offset), torch.nan).float()


def cents(pitches: Tensor, targets: Tensor) -> Tensor:
    """Return by how many cents, hundredths of a semitone, pitches (N,) lie above targets (N,), both in hertz."""
    return 1200 * torch.log2(pitches / targets)


def in_tune(pitches: Tensor, targets: Tensor, within: float = 50.0) -> float:
    """Return the share of pitches (N,) within so many cents of their target, (N,) or one row of targets (N, K) each.

    NaN, a sound without pitch, counts as a miss.

    Raises:
        ValueError: the shapes differ, there is no pitch, or a target is not above 0.
    """
    if pitches.ndim != 1 or not len(pitches) or targets.shape[:1] != pitches.shape:
        raise ValueError(
            f"in_tune takes (N,) and (N,) or (N, K), but got {tuple(pitches.shape)}, {tuple(targets.shape)}"
        )
    if not (targets > 0).all():
        raise ValueError("targets must be pitches above 0 Hz")
    runtime.require_number("within", within, strict=True)
    targets = targets.reshape(len(targets), -1)
    return (cents(pitches.unsqueeze(1), targets).abs() < within).any(dim=1).float().mean().item()


class Recogniser(nn.Module):
    """Tells which class a sound is, from its levels in 24 bands and 16 parts of time: one hidden layer.

    Args:
        examples: the sounds from which to take mean and spread of each level.
    """

    def __init__(self, examples: sounds.SoundSet) -> None:
        super().__init__()
        self.describe = functools.partial(bands, rate=examples.rate, count=24, parts=16)
        levels = self.describe(examples.waves)  # (N, 384)
        self.register_buffer("mean", levels.mean(dim=0))
        self.register_buffer("spread", levels.std(dim=0) + 1)
        self.layers = nn.Sequential(
            nn.Linear(384, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, len(examples.classes))
        )

    def forward(self, waves: Tensor) -> Tensor:
        """Return logits (N, classes) for sounds (N, 1, L) in [-1, 1]."""
        return self.layers((self.describe(waves) - self.mean) / self.spread)


def train_recogniser(examples: sounds.SoundSet, steps: int = 600, seed: int = 0) -> Recogniser:
    """Train a recogniser on ``examples``, on their device; levels are disturbed by N(0, 0.3²) on the way.

    Raises:
        ValueError: steps is not an integer of at least 1.
    """
    runtime.require_integer("steps", steps, least=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        recogniser = Recogniser(examples).to(examples.waves.device).train()
        levels = (recogniser.describe(examples.waves) - recogniser.mean) / recogniser.spread
        optimiser = torch.optim.AdamW(recogniser.parameters(), 2e-3, weight_decay=0.05)
        for _ in range(steps):
            chosen = torch.randint(len(levels), (128,), device=levels.device)
            noisy = levels[chosen] + 0.3 * torch.randn_like(levels[chosen])
            loss = cross_entropy(recogniser.layers(noisy), examples.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return recogniser.eval()
