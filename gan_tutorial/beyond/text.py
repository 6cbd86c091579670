"""Character strings such as ``12+7=19``: a language of sums, a GAN and a GRU that write it.

A string has ``LENGTH`` letters of ``ALPHABET``, with spaces as padding. Strings as a tensor are
one-hot, float (N, LENGTH, letters), for a discriminator, or indices, int64 (N, LENGTH).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad

from gan_tutorial import checks, networks, runtime, training

ALPHABET = "0123456789+= "
LENGTH = 8
SHAPE = (LENGTH, len(ALPHABET))
HELD_OUT = 1010  # of 5,050 true sums
SUM = re.compile(r"(0|[1-9]\d?)\+(0|[1-9]\d?)=(0|[1-9]\d?) *", re.ASCII)

SUMS_CONFIG = training.TrainConfig(
    objective="relativistic",
    steps=3500,
    batch_size=128,
    lr_G=1e-3,
    lr_D=1e-3,
    betas=(0.5, 0.99),
    r1=1.0,
    r2=1.0,
)
"""How the chapter trains on sums."""


def sums(split: str = "train") -> tuple[str, ...]:
    """Return the true sums a+b=c with all numbers below 100: 4,040 in ``train``, 1,010 in ``test``.

    The split is random but fixed.

    Raises:
        ValueError: there is no such split.
    """
    checks.require_choice("split", split, ("train", "test"))
    every = [f"{a}+{b}={a + b}".ljust(LENGTH) for a in range(100) for b in range(100 - a)]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = {"train": order[HELD_OUT:], "test": order[:HELD_OUT]}[split]
    return tuple(every[i] for i in chosen)


def parse(string: str) -> tuple[int, int, int] | None:
    """Return the three numbers of a string ``a+b=c``, or None if it is not valid.

    A number has one or two digits and no leading 0; spaces pad the string at its end.
    """
    found = SUM.fullmatch(string) if len(string) == LENGTH else None
    return found and tuple(map(int, found.groups()))


def encode(strings: Sequence[str]) -> Tensor:
    """Return strings as indices into the alphabet: int64 (N, LENGTH)."""
    index = {letter: i for i, letter in enumerate(ALPHABET)}
    return torch.tensor([[index[letter] for letter in string] for string in strings])


def decode(strings: Tensor) -> list[str]:
    """Return strings that are one-hot (N, LENGTH, letters), or indices (N, LENGTH), as text."""
    letters = strings.argmax(dim=2) if strings.ndim == 3 else strings
    return ["".join(ALPHABET[letter] for letter in row) for row in letters.tolist()]


@dataclass(frozen=True)
class StringSet:
    """Strings held as one tensor of indices, int64 (N, LENGTH)."""

    letters: Tensor

    def to(self, device: str | torch.device) -> Self:
        """Return the set with its tensor on ``device``."""
        return type(self)(self.letters.to(device))

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a random batch, drawn with replacement.

        Returns:
            float32 (count, LENGTH, letters), one-hot, and labels (count,), all 0.
        """
        chosen = torch.randint(len(self.letters), (count,), generator=rng, device=rng.device)
        return one_hot(self.letters[chosen], len(ALPHABET)).float(), torch.zeros_like(chosen)


def gumbel(z: Tensor) -> Tensor:
    """Return standard Gumbel noise -log(-log Φ(z)) for z from N(0, 1), of any shape.

    Φ is the normal distribution function, so Φ(z) is uniform. Then argmax(logits + noise) has the
    softmax distribution (Jang et al. 2017, equation 1; Maddison et al. 2017).
    """
    return -(-torch.special.log_ndtr(z)).log()


def choose(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Return argmax(logits + noise), one-hot in the last dimension, with a gradient to the logits.

    The gradient is that of softmax((logits + noise) / temperature): the straight-through estimator
    (Jang et al. 2017, section 2.2).

    Args:
        logits: (…, K), unnormalised log-probabilities.
        noise: (…, K) from ``gumbel``, perhaps with more dimensions in front; zeros for the mode.
        temperature: above 0; only the gradient depends on it.
    """
    assert noise.shape[-logits.ndim :] == logits.shape, "each logit needs its own noise"
    soft = ((logits + noise) / temperature).softmax(dim=-1)
    hard = one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0


def schedule(step: int, steps: int, start: float = 2.0, end: float = 0.5) -> float:
    """Return a temperature that falls from ``start`` to ``end`` by a constant factor per step."""
    return start * (end / start) ** min(step / steps, 1)


class StringGenerator(networks.Generator):
    """Linear layers from a plan to the logits of all letters, and a choice of each letter.

    The first ``plan`` numbers of z are the input of the layers; the others, one for each logit,
    become Gumbel noise. So a string is a function of z alone, and given the plan, its letters are
    independent.

    Args:
        plan: how many numbers of z are the input of the layers.
        hidden: sizes of the hidden layers, each with BatchNorm and ReLU.

    Attributes:
        temperature: of the backward pass; see ``choose``.
    """

    def __init__(self, plan: int = 32, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(plan + LENGTH * len(ALPHABET), SHAPE)
        self.plan, self.temperature = plan, 1.0
        self.layers = nn.Sequential()
        width = plan
        for size in hidden:
            block = [nn.Linear(width, size, bias=False), nn.BatchNorm1d(size), nn.ReLU()]
            self.layers.extend(block)
            width = size
        self.layers.append(nn.Linear(width, LENGTH * len(ALPHABET)))

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits (N, LENGTH, letters) for latent vectors (N, latent_dim)."""
        return self.layers(z[:, : self.plan]).unflatten(1, SHAPE)

    def noise(self, z: Tensor) -> Tensor:
        """Return the Gumbel noise (N, LENGTH, letters) of latent vectors (N, latent_dim)."""
        return gumbel(z[:, self.plan :]).unflatten(1, SHAPE)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return strings, one-hot (N, LENGTH, letters), for latent vectors (N, latent_dim)."""
        return choose(self.logits(z), self.noise(z), self.temperature)


class Recurrent(nn.Module):
    """An autoregressive model: a GRU reads the letters so far and returns logits of the next one.

    Args:
        width: size of the state; 172 gives about as many parameters as ``StringGenerator`` has.
    """

    def __init__(self, width: int = 172) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET) + 1, 16)  # and a start token, the last index
        self.memory = nn.GRU(16, width, batch_first=True)
        self.last = nn.Linear(width, len(ALPHABET))

    def forward(self, letters: Tensor) -> Tensor:
        """Return the logits (N, LENGTH, letters) of each letter of strings (N, LENGTH).

        Those of a letter depend on the letters before it only.
        """
        before = pad(letters[:, :-1], (1, 0), value=len(ALPHABET))  # (N, LENGTH)
        states, _ = self.memory(self.embedding(before))  # (N, LENGTH, width)
        return self.last(states)

    def nats(self, letters: Tensor) -> Tensor:
        """Return -log p(string) in nats, (N,), for strings (N, LENGTH)."""
        return cross_entropy(self(letters).transpose(1, 2), letters, reduction="none").sum(dim=1)

    @torch.no_grad()
    def sample(self, z: Tensor, temperature: float = 1.0) -> Tensor:
        """Return strings (N, LENGTH), sampled letter by letter.

        Args:
            z: (N, LENGTH · letters) from N(0, 1).
            temperature: factor of the Gumbel noise; 1 samples from the model, 0 is greedy.
        """
        letter = torch.full((len(z),), len(ALPHABET), device=z.device)
        state, letters = None, []
        for noise in gumbel(z).unflatten(1, SHAPE).unbind(dim=1):  # (N, letters)
            output, state = self.memory(self.embedding(letter.unsqueeze(1)), state)
            logits = self.last(output.squeeze(1))  # (N, letters)
            letter = (logits + temperature * noise).argmax(dim=1)
            letters.append(letter)
        return torch.stack(letters, dim=1)


def fit(
    model: Recurrent,
    letters: Tensor,
    steps: int,
    batch_size: int = 64,
    lr: float = 8e-3,
    seed: int = 0,
) -> Iterator[training.Log]:
    """Train by maximum likelihood on strings (N, LENGTH); yield a log of ``nats`` after each step.

    With Adam, and a learning rate that decays to 0 along a cosine. ``nats`` is the mean of a batch.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rng = runtime.step_rng(seed, step, letters.device)
        chosen = torch.randint(len(letters), (batch_size,), generator=rng, device=letters.device)
        loss = model.nats(letters[chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        yield training.Log(step + 1, {"nats": loss.detach()})


class Report(NamedTuple):
    """Fractions of the strings, by quality, each in [0, 1].

    Attributes:
        valid: of the form a+b=c; see ``parse``.
        true: valid, and the sum is right.
        unseen: true, and not in the training set.
        novel: not in the training set, true or not.
        distinct: number of different strings over the number of strings.
    """

    valid: float
    true: float
    unseen: float
    novel: float
    distinct: float


def report(strings: Sequence[str], seen: Sequence[str]) -> Report:
    """Judge strings of a model, given its training set ``seen``."""
    known, count = set(seen), len(strings)
    numbers = [(string, parse(string)) for string in strings]
    valid = [(string, found) for string, found in numbers if found]
    true = [string for string, (a, b, c) in valid if a + b == c]
    return Report(
        valid=len(valid) / count,
        true=len(true) / count,
        unseen=sum(string not in known for string in true) / count,
        novel=sum(string not in known for string in strings) / count,
        distinct=len(set(strings)) / count,
    )


def baselines(strings: Sequence[str], count: int, seed: int = 0) -> dict[str, list[str]]:
    """Return ``count`` strings of each of three baselines, by name.

    Letters at random; each place by itself, with the frequencies of its letters in ``strings``; and
    ``shuffle_answers``.
    """

    def rng() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    letters = encode(strings)
    random = torch.randint(len(ALPHABET), (count, LENGTH), generator=rng())
    rows = torch.randint(len(letters), (count, LENGTH), generator=rng())
    return {
        "letters at random": decode(random),
        "each place by itself": decode(letters.gather(0, rows)),
        "answers shuffled": shuffle_answers(strings, count, rng()),
    }


def shuffle_answers(strings: Sequence[str], count: int, rng: torch.Generator) -> list[str]:
    """Return ``count`` valid strings, each the question of one sum with the answer of another.

    There are at most ``len(strings)``.
    """
    questions = torch.randperm(len(strings), generator=rng)[:count].tolist()
    answers = torch.randperm(len(strings), generator=rng)[:count].tolist()
    parts = [string.strip().split("=") for string in strings]
    pairs = zip(questions, answers, strict=True)
    return [f"{parts[i][0]}={parts[j][1]}".ljust(LENGTH) for i, j in pairs]
