"""The training loop: two small update functions, and a generator that yields after every step."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from gan_tutorial import augment, losses, penalties, runtime


class Data(Protocol):
    """What the loop needs of data; ``data.ImageSet`` and ``mixtures.Mixture`` have it."""

    shape: tuple[int, ...]

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return samples (count, *shape) and integer labels (count,)."""

    def to(self, device: torch.device) -> Self:
        """Return the data on ``device``."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; by default, what serves the convolutional pair with spectral norm and the hinge loss well.

    Attributes:
        steps: updates of each network in all, counted from a fresh state.
        batch_size: real, and as many generated, samples in a step.
        lr_G, lr_D: Adam's learning rates.
        betas: Adam's decay rates of the mean gradient and of the mean squared gradient.
        ema: decay of the running average of G's weights; 0 keeps none of the past.
        r1, r2: γ of the penalties on D's gradient at real and at generated samples; 0 for none.
        gp: λ of WGAN-GP's penalty; 0 for none.
        augment: what changes images at random before D sees them, any of ``augment.POLICY``; empty for nothing.
        bf16: multiply matrices in bfloat16, on devices that have instructions for it, penalties apart; weights and
            losses stay in float32.
        check_every: steps between two looks for NaN; each look copies the state, and on a GPU waits for it.
        seed: of the batches and the noise.
    """

    steps: int = 2000
    batch_size: int = 64
    lr_G: float = 2e-3
    lr_D: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.99)
    ema: float = 0.995
    r1: float = 0.0
    r2: float = 0.0
    gp: float = 0.0
    augment: tuple[str, ...] = ()
    bf16: bool = False
    check_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "check_every"):
            runtime.require_integer(name, getattr(self, name), least=1)
        runtime.require_integer("seed", self.seed, least=0)
        for name in ("lr_G", "lr_D"):
            runtime.require_number(name, getattr(self, name), strict=True)
        for name in ("r1", "r2", "gp"):
            runtime.require_number(name, getattr(self, name))
        runtime.require_number("ema", self.ema, below=1.0)
        augment.require_policy(self.augment)
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1), but are {self.betas!r}")
        for beta in self.betas:
            runtime.require_number("each of betas", beta, below=1.0)
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))  # Adam refuses an integer 0
        object.__setattr__(self, "augment", tuple(self.augment))  # JSON gives a list


@dataclass
class TrainState:
    """All that changes while a GAN is trained, so that a run can be saved, resumed and compared.

    Every random draw of a step comes from ``runtime.step_rng(seed, step)``, so ``step`` and the configuration's seed
    stand for the state of the random generator. Networks that draw numbers of their own (dropout) fall outside this.

    Attributes:
        G, D: the two networks, in training mode.
        G_ema: the running average of G's weights, in evaluation mode: the one to sample from.
        opt_G, opt_D: their optimisers.
        step: the number of steps made.
    """

    G: nn.Module
    D: nn.Module
    G_ema: nn.Module
    opt_G: torch.optim.Optimizer
    opt_D: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def fresh(cls, G: nn.Module, D: nn.Module, config: TrainConfig, device: str | torch.device = "cpu") -> Self:
        """Return the state before the first step, with both networks moved to ``device``."""
        layout = torch.channels_last  # the convolutions of a CPU run about a third faster
        G, D = G.to(device, memory_format=layout).train(), D.to(device, memory_format=layout).train()
        fused = runtime.has_fused_adam(device)
        opt_G = torch.optim.Adam(G.parameters(), config.lr_G, config.betas, fused=fused)
        opt_D = torch.optim.Adam(D.parameters(), config.lr_D, config.betas, fused=fused)
        return cls(G, D, copy.deepcopy(G).eval().requires_grad_(False), opt_G, opt_D)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.G.parameters()).device

    def state_dict(self) -> dict:
        """Return references to everything that changes, as nested dictionaries of tensors and plain values."""
        parts = {name: getattr(self, name).state_dict() for name in ("G", "D", "G_ema", "opt_G", "opt_D")}
        return parts | {"step": self.step}

    def load_state_dict(self, saved: dict) -> None:
        """Take over what ``state_dict`` returned for networks and optimisers of the same make."""
        for name in ("G", "D", "G_ema", "opt_G", "opt_D"):
            getattr(self, name).load_state_dict(copy.deepcopy(saved[name]))  # an optimiser would go on in ``saved``
        for optimiser in (self.opt_G, self.opt_D):  # fused Adam pairs numbers by their place in memory
            for parameter, moments in optimiser.state.items():
                for key, value in moments.items():
                    if value.shape == parameter.shape:
                        moments[key] = torch.empty_like(parameter).copy_(value)
        self.step = saved["step"]


@dataclass
class Log:
    """What one step measured. The numbers stay on the device until they are read.

    Attributes:
        step: the number of steps made, this one included.
        tensors: the measured scalars by name, on the device.
    """

    step: int
    tensors: dict[str, Tensor] = field(repr=False)

    def __getattr__(self, name: str) -> float:
        """Return a measured number: d_loss, g_loss, real_logit, fake_logit (means), and penalty where there is one."""
        tensors = self.__dict__.get("tensors", {})
        if name not in tensors:
            raise AttributeError(f"this step measured {', '.join(tensors)}, but not {name!r}")
        return tensors[name].item()


class DivergedError(ArithmeticError):
    """A loss or a weight became NaN or infinite; the state was put back to the last step known to be good."""


def forward(network: nn.Module, inputs: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Return ``network(inputs, labels)``, with matrices multiplied in bfloat16 where settings and device say so."""
    if not (config.bf16 and runtime.has_bf16(inputs.device)):
        return network(inputs, labels)
    with torch.autocast(inputs.device.type, torch.bfloat16):
        return network(inputs, labels).float()


def discriminator_step(
    state: TrainState,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    objective: losses.Objective,
    config: TrainConfig,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Make one step of D on a batch of real and a batch of generated samples; return what it measured."""
    fake = fake.detach()  # D's loss must not reach G
    real, fake = (augment.augment(images, config.augment, rng) for images in (real, fake))
    samples, labels_twice = torch.cat([real, fake]), torch.cat([labels, labels])
    real_logits, fake_logits = forward(state.D, samples, labels_twice, config).chunk(2)  # one pass: D has no BatchNorm
    d_loss = objective.d_loss(real_logits, fake_logits)
    measured = {"d_loss": d_loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}

    def critic(samples: Tensor) -> Tensor:
        return state.D(samples, labels)

    penalty = 0.0
    if config.r1:
        penalty = penalty + config.r1 / 2 * penalties.r1(critic, real, fake)
    if config.r2:
        penalty = penalty + config.r2 / 2 * penalties.r2(critic, real, fake)
    if config.gp:
        penalty = penalty + config.gp * penalties.gradient_penalty(critic, real, fake, rng)
    if isinstance(penalty, Tensor):
        measured["penalty"] = penalty
    state.opt_D.zero_grad()
    (d_loss + penalty).backward()
    state.opt_D.step()
    return {name: value.detach() for name, value in measured.items()}


def generator_step(
    state: TrainState,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    objective: losses.Objective,
    config: TrainConfig,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Make one step of G, whose batch ``fake`` still carries its graph; return what it measured."""
    real, fake = (augment.augment(images, config.augment, rng) for images in (real, fake))  # G learns through it
    real_logits = fake_logits = forward(state.D, fake, labels, config)
    if objective.pairs:
        with torch.no_grad():
            real_logits = forward(state.D, real, labels, config)
    g_loss = objective.g_loss(real_logits, fake_logits)
    state.opt_G.zero_grad()
    g_loss.backward(inputs=[p for p in state.G.parameters() if p.requires_grad])  # through D, but not to its weights
    state.opt_G.step()
    update_average(state.G_ema, state.G, config.ema)
    return {"g_loss": g_loss.detach()}


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``network``: w ← decay · w + (1 - decay) · w_network; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mean, current in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(current)


def train(state: TrainState, data: Data, objective: losses.Objective, config: TrainConfig) -> Iterator[Log]:
    """Train from ``state.step`` to ``config.steps``, and yield a ``Log`` after each step.

    Each yield is a safe point: print, plot, sample, save or break there. Labels go to networks built with classes.

    Raises:
        ValueError: samples do not fit the networks, or D does not return one logit for each.
        DivergedError: a loss or a weight became NaN or infinite. The state is then that of the last check before,
            which the message names, so a caller may save it, lower a learning rate and go on.
    """
    data = data.to(state.device)
    _require_fit(state, data, config.batch_size)
    for optimiser, rate in ((state.opt_G, config.lr_G), (state.opt_D, config.lr_D)):
        for group in optimiser.param_groups:  # a resumed run may go on with other settings
            group |= {"lr": rate, "betas": config.betas}
    good, logs = copy.deepcopy(state.state_dict()), []
    while state.step < config.steps:
        rng = runtime.step_rng(config.seed, state.step, state.device)
        real, labels = data.batch(config.batch_size, rng)
        z = torch.randn(config.batch_size, state.G.latent_dim, generator=rng, device=state.device)
        fake = forward(state.G, z, labels, config)
        measured = discriminator_step(state, real, fake, labels, objective, config, rng)
        measured |= generator_step(state, real, fake, labels, objective, config, rng)
        state.step += 1
        logs.append(Log(state.step, measured))
        if state.step % config.check_every == 0 or state.step == config.steps:
            _require_finite(logs, state, good)
            good, logs = copy.deepcopy(state.state_dict()), []
        yield Log(state.step, measured)


def _require_fit(state: TrainState, data: Data, count: int) -> None:
    """Raise ValueError unless the data fit the networks; batch statistics and weights stay as they are."""
    rng = runtime.step_rng(0, 0, state.device)
    real, labels = data.batch(count, rng)
    if tuple(state.G.shape) != tuple(data.shape):
        raise ValueError(f"G makes samples of shape {tuple(state.G.shape)}, but the data are {tuple(data.shape)}")
    classes, highest = getattr(state.G, "classes", 0), int(getattr(data, "labels", labels).max())
    if classes and highest >= classes:
        raise ValueError(f"the networks know {classes} classes, but the data hold the label {highest}")
    before = copy.deepcopy(state.D.state_dict())  # spectral norm's vectors move with each pass
    with torch.no_grad():
        losses.require_logits(state.D(real, labels), len(real))
    state.D.load_state_dict(before)


def _require_finite(logs: list[Log], state: TrainState, good: dict) -> None:
    """Put ``good`` back into ``state`` and raise DivergedError if a loss since then, or a weight, is not finite."""
    measured = [(name, getattr(log, name), log.step) for log in logs for name in ("d_loss", "g_loss")]
    faults = [f"{name} is {value} at step {step}" for name, value, step in measured if not math.isfinite(value)]
    weights = [*state.G.parameters(), *state.D.parameters()]
    if not torch.stack(torch._foreach_norm(weights)).isfinite().all():  # a finite loss can have a NaN gradient
        faults.append(f"a weight is NaN or infinite after step {state.step}")
    if faults:
        state.load_state_dict(good)
        raise DivergedError(
            f"{faults[0]}; the state is that of step {state.step} again; "
            "lower the learning rates, add a penalty (r1), or look for bad data"
        )
