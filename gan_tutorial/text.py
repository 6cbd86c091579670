"""Short strings of letters: sums such as ``12+7=19``, choices that a gradient can pass, a generator and its rival.

A string has ``LENGTH`` letters of ``ALPHABET``, spaces at its end included. As a tensor it is one-hot, float
(N, LENGTH, letters), so that a discriminator can read it, or a row of positions in the alphabet, int64 (N, LENGTH).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad

from gan_tutorial import data, networks, runtime

ALPHABET = "0123456789+= "
LENGTH = 8
SHAPE = (LENGTH, len(ALPHABET))
HELD_OUT = 1010  # of 5,050 true sums
SUM = re.compile(r"(0|[1-9]\d?)\+(0|[1-9]\d?)=(0|[1-9]\d?) *")


def sums(split: str = "train") -> tuple[str, ...]:
    """Return true sums of two numbers, all three below 100: 4,040 in ``train``, and the other 1,010 in ``test``.

    Which are held out was drawn once, at random, and is the same in every run.

    Raises:
        ValueError: there is no such split.
    """
    if split not in data.SPLITS:
        raise ValueError(f"split must be one of {', '.join(data.SPLITS)}, but is {split!r}")
    every = [f"{a}+{b}={a + b}".ljust(LENGTH) for a in range(100) for b in range(100 - a)]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    return tuple(every[i] for i in (order[HELD_OUT:] if split == "train" else order[:HELD_OUT]))


def parse(string: str) -> tuple[int, int, int] | None:
    """Return the three numbers of a string ``a+b=c`` of the grammar, or None for any other string.

    A number has one or two digits, and no 0 in front; spaces fill the string to its length, at its end alone.
    """
    found = SUM.fullmatch(string) if len(string) == LENGTH else None
    return found and tuple(map(int, found.groups()))


def encode(strings: Sequence[str]) -> Tensor:
    """Return strings as positions of their letters in the alphabet: int64 (N, LENGTH).

    Raises:
        ValueError: there is no string, or one has another length or a letter that is not in the alphabet.
    """
    if isinstance(strings, str) or not len(strings):
        raise ValueError(f"encode needs a list of at least one string, but got {strings!r}")
    for string in strings:
        if len(string) != LENGTH or not set(string) <= set(ALPHABET):
            raise ValueError(f"a string must have {LENGTH} letters of {ALPHABET!r}, but there is {string!r}; use ljust")
    return torch.tensor([[ALPHABET.index(letter) for letter in string] for string in strings])


def decode(strings: Tensor) -> list[str]:
    """Return strings that are given one-hot (N, LENGTH, letters), or as positions (N, LENGTH), as text.

    Raises:
        ValueError: the shape is another, or a position is not in the alphabet.
    """
    if tuple(strings.shape[1:]) == SHAPE:
        strings = strings.argmax(dim=2)
    _require_letters(strings)
    return ["".join(ALPHABET[letter] for letter in row) for row in strings.tolist()]


def _require_letters(letters: Tensor) -> None:
    if letters.ndim != 2 or letters.shape[1] != LENGTH or letters.dtype != torch.int64:
        raise ValueError(
            f"strings must be positions, int64 (N, {LENGTH}), or one-hot (N, {LENGTH}, {len(ALPHABET)}), "
            f"but are {letters.dtype} {tuple(letters.shape)}"
        )
    if len(letters) and not (letters.min() >= 0 and letters.max() < len(ALPHABET)):
        raise ValueError(f"a position lies outside the alphabet, [0, {len(ALPHABET) - 1}]")


@dataclass(frozen=True)
class StringSet:
    """Strings held as one tensor of positions, int64 (N, LENGTH); a batch comes one-hot, as the loop needs it."""

    letters: Tensor
    shape = SHAPE

    def __post_init__(self) -> None:
        _require_letters(self.letters)

    def to(self, device: str | torch.device) -> Self:
        """Return the set with its tensor on ``device``."""
        return type(self)(self.letters.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` strings with replacement: float32 (count, LENGTH, letters), and labels (count,), all 0."""
        chosen = torch.randint(len(self.letters), (count,), generator=rng, device=rng.device)
        return one_hot(self.letters[chosen], len(ALPHABET)).float(), torch.zeros_like(chosen)


def gumbel(z: Tensor) -> Tensor:
    """Return numbers from the standard Gumbel distribution, -log(-log Φ(z)), for z from N(0, 1), of any shape.

    Φ is the normal distribution function, so Φ(z) is uniform. Then argmax(logits + noise) has the softmax
    distribution (Jang et al. 2017, equation 1; Maddison et al. 2017).

    Raises:
        ValueError: z is not floating point.
    """
    if not z.is_floating_point():
        raise ValueError(f"z must be floating point, drawn from N(0, 1), but is {z.dtype}")
    return -(-torch.special.log_ndtr(z)).log()


def choose(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the choices argmax(logits + noise), one-hot along the last dimension, with a gradient to the logits.

    Backward, a choice counts as softmax((logits + noise) / temperature): the straight-through estimator of
    Jang et al. 2017, section 2.2.

    Args:
        logits: (…, K), unnormalised logarithms of probabilities.
        noise: (…, K) from ``gumbel``, with at least the dimensions of the logits; zeros for the likeliest choice.
        temperature: above 0. The choices do not depend on it, the gradient does.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.
    """
    runtime.require_number("temperature", temperature, strict=True)
    if noise.shape[max(noise.ndim - logits.ndim, 0) :] != logits.shape:
        raise ValueError(
            f"noise must have the shape of the logits, {tuple(logits.shape)}, perhaps with more dimensions in front, "
            f"but has {tuple(noise.shape)}"
        )
    soft = ((logits + noise) / temperature).softmax(dim=-1)
    hard = one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0


def schedule(step: int, steps: int, start: float = 2.0, end: float = 0.5) -> float:
    """Return a temperature that goes from ``start`` at step 0 to ``end`` at ``steps``, by a constant factor a step.

    Raises:
        ValueError: step or steps is no such integer, or a temperature is not above 0.
    """
    runtime.require_integer("steps", steps, least=1)
    runtime.require_integer("step", step, least=0)
    for name, value in (("start", start), ("end", end)):
        runtime.require_number(name, value, strict=True)
    return start * (end / start) ** min(step / steps, 1)


class StringGenerator(networks.Generator):
    """Linear layers from a plan to logits of all letters, and a choice of each letter by the noise that z carries.

    The first ``plan`` numbers of z say what to write; the others, one for each logit, become Gumbel noise. So a
    string is a function of z alone, as an image is. Given the plan, the letters are drawn independently.

    Args:
        plan: numbers of z that the layers see.
        hidden: sizes of the hidden layers, with BatchNorm and ReLU.

    Attributes:
        temperature: of the backward pass; see ``choose``.
    """

    def __init__(self, plan: int = 32, hidden: Sequence[int] = (256, 256)) -> None:
        runtime.require_integer("plan", plan, least=1)
        for size in hidden:
            runtime.require_integer("each number of hidden", size, least=1)
        super().__init__(plan + LENGTH * len(ALPHABET), SHAPE)
        self.plan, self.temperature = plan, 1.0
        self.layers = nn.Sequential()
        width = plan
        for size in hidden:
            self.layers.extend([nn.Linear(width, size, bias=False), nn.BatchNorm1d(size), nn.ReLU()])
            width = size
        self.layers.append(nn.Linear(width, LENGTH * len(ALPHABET)))

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits (N, LENGTH, letters) of all letters for latent vectors (N, latent_dim)."""
        return self.layers(z[:, : self.plan]).unflatten(1, SHAPE)

    def draw(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return strings, one-hot (N, LENGTH, letters), for latent vectors (N, latent_dim)."""
        return choose(self.logits(z), gumbel(z[:, self.plan :].unflatten(1, SHAPE)), self.temperature)


class Recurrent(nn.Module):
    """A GRU that gives the next letter's logits from those before it: an autoregressive model.

    Args:
        width: size of the state; 172 gives about as many parameters as ``StringGenerator`` has.
    """

    def __init__(self, width: int = 172) -> None:
        super().__init__()
        runtime.require_integer("width", width, least=1)
        self.embedding = nn.Embedding(len(ALPHABET) + 1, 16)  # the last one stands for the beginning
        self.memory = nn.GRU(16, width, batch_first=True)
        self.last = nn.Linear(width, len(ALPHABET))

    def forward(self, letters: Tensor) -> Tensor:
        """Return the logits (N, LENGTH, letters) of each letter of strings (N, LENGTH), given those before it."""
        _require_letters(letters)
        before = pad(letters[:, :-1], (1, 0), value=len(ALPHABET))
        return self.last(self.memory(self.embedding(before))[0])

    def nats(self, letters: Tensor) -> Tensor:
        """Return -log p(string) in nats, (N,), for strings (N, LENGTH)."""
        return cross_entropy(self(letters).transpose(1, 2), letters, reduction="none").sum(dim=1)

    @torch.no_grad()
    def draw(self, z: Tensor, temperature: float = 1.0) -> Tensor:
        """Return strings (N, LENGTH), letter by letter, for z (N, LENGTH · letters) from N(0, 1).

        The noise is multiplied by ``temperature``: 1 draws from the model, 0 takes the likeliest letter each time.

        Raises:
            ValueError: z has another shape, or the temperature is negative.
        """
        runtime.require_number("temperature", temperature)
        if z.ndim != 2 or z.shape[1] != LENGTH * len(ALPHABET):
            raise ValueError(f"z must have the shape (N, {LENGTH * len(ALPHABET)}), but has {tuple(z.shape)}")
        letter = torch.full((len(z),), len(ALPHABET), device=z.device)
        state, letters = None, []
        for noise in gumbel(z).unflatten(1, SHAPE).unbind(dim=1):  # (N, letters)
            output, state = self.memory(self.embedding(letter.unsqueeze(1)), state)
            letter = (self.last(output.squeeze(1)) + temperature * noise).argmax(dim=1)
            letters.append(letter)
        return torch.stack(letters, dim=1)


def fit(
    model: Recurrent, letters: Tensor, steps: int, batch_size: int = 64, rate: float = 8e-3, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """Train by maximum likelihood on strings (N, LENGTH); yield the step and the batch's mean nats for each string.

    Adam's rate falls to 0 along a cosine.

    Raises:
        ValueError: the strings, or a number, are out of range.
    """
    _require_letters(letters)
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        runtime.require_integer(name, value, least=1)
    runtime.require_number("rate", rate, strict=True)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rng = runtime.step_rng(seed, step, letters.device)
        chosen = torch.randint(len(letters), (batch_size,), generator=rng, device=letters.device)
        loss = model.nats(letters[chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        fall.step()
        yield step + 1, loss.item()


class Report(NamedTuple):
    """What a program says of strings, each a share in [0, 1].

    Attributes:
        valid: of all strings, those of the grammar.
        true: of all strings, those whose sum is right.
        unseen: of all strings, those that are true and not in the training set.
        novel: of all strings, those that are not in the training set, true or not.
        distinct: the number of different strings, over the number of strings.
    """

    valid: float
    true: float
    unseen: float
    novel: float
    distinct: float


def report(strings: Sequence[str], training: Sequence[str]) -> Report:
    """Judge strings, given those that the model was trained on.

    Raises:
        ValueError: there is no string.
    """
    if isinstance(strings, str) or not len(strings):
        raise ValueError(f"report needs a list of at least one string, but got {strings!r}")
    seen, count = set(training), len(strings)
    numbers = [parse(string) for string in strings]
    true = [s for s, found in zip(strings, numbers, strict=True) if found and found[0] + found[1] == found[2]]
    return Report(
        valid=sum(found is not None for found in numbers) / count,
        true=len(true) / count,
        unseen=sum(s not in seen for s in true) / count,
        novel=sum(s not in seen for s in strings) / count,
        distinct=len(set(strings)) / count,
    )
