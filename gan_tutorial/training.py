"""The training loop: two small update functions, and an iterator that yields after every step."""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from gan_tutorial import checks, losses, penalties
from gan_tutorial.augment import AUGMENTATIONS, augment
from gan_tutorial.runtime import GraphedStep, has_bf16, has_fused_adam, has_graphs, step_rng


class Data(Protocol):
    """What the loop needs from a data set, such as ``data.ImageSet`` or ``mixtures.Mixture``."""

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return samples (count, …) and int64 labels (count,)."""

    def to(self, device: torch.device) -> Self:
        """Return the data on ``device``."""


CHANGING = (
    "penalty_noise compares two passes of D, but each changes D, as spectral norm does; set "
    "penalty_noise to 0 (--penalty-noise 0), or leave spectral norm out (--no-spectral)"
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the objective and the loop; the defaults suit the convolutional pair.

    Attributes:
        objective: name of the losses, one of ``losses.OBJECTIVES``.
        steps: total number of steps, one update of D and one of G each, including those before a
            resume.
        batch_size: real samples in a step, and as many generated ones.
        lr_G, lr_D: Adam's learning rates.
        lr_end: what both learning rates are multiplied by at the end of the run; they fall linearly
            from the first step on. 1, the maximum, keeps them constant. With less, a run
            extended later has had lower rates than one of that length from the start.
        betas: Adam's decay rates for the moving averages of the gradient and of its square.
        ema: decay of the moving average of G's weights, in [0, 1); with 0 it is a copy of G.
        r1, r2: γ of the penalties γ/2 · ‖∇D‖² at real and at generated samples; 0 for none.
        penalty_noise: s of the finite difference by which R1 and R2 are approximated, which is
            faster; 0 for the exact gradients. (``penalties.approximate_gradient_norm`` says what
            is approximated if D has a ``networks.MinibatchStd``.)
        gp: γ of WGAN-GP's penalty; 0 for none.
        augment: random changes of real and generated images before D sees them, names from
            ``augment.AUGMENTATIONS``.
        bf16: run the networks under bfloat16 autocast where that pays (``runtime.has_bf16``);
            penalties, weights and losses stay in float32.
        seed: of the batches, the noise, augmentation and the points of WGAN-GP's penalty; in
            ``recipes.Recipe.init``, of the initial weights too.

    Raises:
        ValueError: a setting is out of range.
    """

    objective: str = "hinge"
    steps: int = 2000
    batch_size: int = 64
    lr_G: float = 2e-3
    lr_D: float = 1e-3
    lr_end: float = 1.0
    betas: tuple[float, float] = (0.0, 0.99)
    ema: float = 0.995
    r1: float = 0.0
    r2: float = 0.0
    penalty_noise: float = 0.0
    gp: float = 0.0
    augment: tuple[str, ...] = ()
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (setting.name for setting in fields(self)):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        checks.require_choice("objective", self.objective, losses.OBJECTIVES)
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            checks.require_integer(name, getattr(self, name), least)
        for name in ("lr_G", "lr_D", "r1", "r2", "penalty_noise", "gp"):
            checks.require_number(name, getattr(self, name), strict=name.startswith("lr"))
        checks.require_number("ema", self.ema, below=1.0)
        checks.require_number("lr_end", self.lr_end, most=1.0)
        if self.bf16 and self.penalty_noise:
            advice = "set penalty_noise to 0 (--penalty-noise 0), or leave bf16 out (--no-bf16)"
            raise ValueError(f"bf16 rounds too coarsely for penalty_noise; {advice}")
        object.__setattr__(self, "augment", tuple(self.augment))
        for name in self.augment:
            checks.require_choice("augment", name, AUGMENTATIONS)
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, but is {self.betas!r}")
        for name, beta in zip(("beta1", "beta2"), self.betas, strict=True):
            checks.require_number(name, beta, below=1.0)
        # Adam refuses an integer 0
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))


def _plain(value: object) -> object:
    """Return a setting with Python's numbers for NumPy's and PyTorch's, and tuples for lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


@dataclass
class TrainState:
    """Everything that changes during training, so that a run can be saved, resumed and compared.

    The random numbers of a step come from ``step_rng(seed, step)``, so a run that is resumed with
    the same seed on the same machine, with the same number of threads, repeats the uninterrupted
    one: bit for bit on a CPU, and on a GPU with ``torch.use_deterministic_algorithms(True)``.
    Layers with random numbers of their own (dropout) are an exception.

    Attributes:
        G: the generator, in training mode: ``G(z, labels)``, with ``G.latent_dim`` and ``G.shape``.
        D: the discriminator, in training mode: ``D(samples, labels)``, without BatchNorm, since
            real and generated samples share one pass (``networks.MinibatchStd`` keeps them apart,
            if its groups divide the batch).
        G_ema: a copy of G in evaluation mode, whose parameters are the moving average of G's, and
            whose buffers are G's: the one to sample from (with BatchNorm, once
            ``sampling.recalibrate_batchnorm`` has given it statistics of its own).
        opt_G, opt_D: their optimisers.
        step: the number of steps done.
    """

    G: nn.Module
    D: nn.Module
    G_ema: nn.Module
    opt_G: torch.optim.Optimizer
    opt_D: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def init(
        cls, G: nn.Module, D: nn.Module, recipe: TrainConfig, device: str | torch.device = "cpu"
    ) -> Self:
        """Return the state before the first step; moves both networks to ``device`` in place."""
        layout = torch.channels_last  # convolutions on a CPU are a third faster
        G = G.to(device, memory_format=layout).train()
        D = D.to(device, memory_format=layout).train()
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        fused = has_fused_adam(device)
        opt_G = torch.optim.Adam(G.parameters(), recipe.lr_G, recipe.betas, fused=fused)
        opt_D = torch.optim.Adam(D.parameters(), recipe.lr_D, recipe.betas, fused=fused)
        return cls(G, D, G_ema, opt_G, opt_D)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.G.parameters()).device

    def state_dict(self) -> dict:
        """Return everything that changes, by reference; copy it to keep it during training."""
        parts = ("G", "D", "G_ema", "opt_G", "opt_D")
        return {name: getattr(self, name).state_dict() for name in parts} | {"step": self.step}

    def load_state_dict(self, saved: dict) -> None:
        """Load what ``state_dict`` returned for the same networks and optimisers."""
        for name in ("G", "D", "G_ema"):
            getattr(self, name).load_state_dict(saved[name])
        for name in ("opt_G", "opt_D"):
            part = copy.deepcopy(saved[name])  # the optimiser would go on to change ``saved``
            for group in part["param_groups"]:
                group["fused"] = has_fused_adam(self.device)  # for this device, not the file's
            getattr(self, name).load_state_dict(part)
        # Fused Adam needs moments with the strides of the weights; those of a file may have others.
        for optimiser in (self.opt_G, self.opt_D):
            for parameter, moments in optimiser.state.items():
                for key, value in moments.items():
                    if value.shape == parameter.shape:
                        moments[key] = torch.empty_like(parameter).copy_(value)
        self.step = saved["step"]


@dataclass
class Log:
    """The measurements of one step; ``log["d_loss"]`` returns a float.

    Reading a number waits for the device to finish the step, so read only what you show.

    Attributes:
        step: the number of steps done, including this one.
        tensors: scalars by name, on the device: d_loss (without penalties), g_loss, real_logit and
            fake_logit (means over the batch), and penalty (weighted sum) if there is one.
    """

    step: int
    tensors: dict[str, Tensor] = field(repr=False)

    def __getitem__(self, name: str) -> float:
        """Return a measurement as a number; on a GPU this is a synchronisation point."""
        return self.tensors[name].item()


class DivergedError(ArithmeticError):
    """A loss or a weight became NaN or infinite; the message says which state was restored."""


def forward(
    network: nn.Module, inputs: Tensor, labels: Tensor | None, recipe: TrainConfig
) -> Tensor:
    """Return ``network(inputs, labels)``, under bfloat16 autocast if enabled and supported."""
    if not (recipe.bf16 and has_bf16(inputs.device)):
        return network(inputs, labels)
    with torch.autocast(inputs.device.type, torch.bfloat16, cache_enabled=False):  # for graphs
        return network(inputs, labels).float()


def discriminator_loss(
    state: TrainState,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    recipe: TrainConfig,
    rng: torch.Generator,
    part: tuple[int, int] = (0, 1),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return D's loss, penalties included, and measurements by name.

    Args:
        part: (k, n) if the inputs are part k, from 0, of a batch split across n processes. The
            random numbers are drawn for the whole batch, so the results do not depend on n.
    """
    fake = fake.detach()  # D's loss does not train G
    real = augment(real, recipe.augment, rng, part)
    fake = augment(fake, recipe.augment, rng, part)
    samples, labels_twice = torch.cat([real, fake]), torch.cat([labels, labels])
    logits = forward(state.D, samples, labels_twice, recipe)
    real_logits, fake_logits = logits.chunk(2)  # (N,), (N,)
    d_loss = losses.OBJECTIVES[recipe.objective].d_loss(real_logits, fake_logits)
    log = {"d_loss": d_loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}

    def D(samples: Tensor) -> Tensor:  # in float32, as penalties differentiate twice
        return state.D(samples, labels)

    def squared_norms(points: Tensor, logits: Tensor) -> Tensor:
        if recipe.penalty_noise:
            scale = recipe.penalty_noise
            return penalties.approximate_gradient_norm(D, points, logits, scale, rng, part)
        return penalties.squared_gradient_norm(D, points)

    terms = []
    if recipe.r1:
        terms.append(recipe.r1 / 2 * squared_norms(real, real_logits).mean())
    if recipe.r2:
        terms.append(recipe.r2 / 2 * squared_norms(fake, fake_logits).mean())
    if recipe.gp:
        terms.append(recipe.gp * penalties.gradient_penalty(D, real, fake, rng, part))
    if terms:
        log["penalty"] = sum(terms)
    return d_loss + log.get("penalty", 0.0), log


def generator_loss(
    state: TrainState,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    recipe: TrainConfig,
    rng: torch.Generator,
    part: tuple[int, int] = (0, 1),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return G's loss and measurements by name; ``fake`` must still be attached to G's graph.

    Args:
        part: as for ``discriminator_loss``.
    """
    objective = losses.OBJECTIVES[recipe.objective]
    real = augment(real, recipe.augment, rng, part)
    fake = augment(fake, recipe.augment, rng, part)
    fake_logits = forward(state.D, fake, labels, recipe)  # (N,)
    real_logits = fake_logits.detach()  # a placeholder, unless the loss compares with real samples
    if objective.pairs:
        with torch.no_grad():
            real_logits = forward(state.D, real, labels, recipe)
    g_loss = objective.g_loss(real_logits, fake_logits)
    return g_loss, {"g_loss": g_loss}


def update_discriminator(
    state: TrainState,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    recipe: TrainConfig,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Update D once, on a real and a generated batch; return measurements by name."""
    loss, log = discriminator_loss(state, real, fake, labels, recipe, rng)
    state.opt_D.zero_grad()
    loss.backward()
    state.opt_D.step()
    return {name: value.detach() for name, value in log.items()}


def update_generator(
    state: TrainState,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    recipe: TrainConfig,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Update G once, through its batch ``fake``; return measurements by name."""
    loss, log = generator_loss(state, real, fake, labels, recipe, rng)
    state.opt_G.zero_grad()
    trained = [p for p in state.G.parameters() if p.requires_grad]
    loss.backward(inputs=trained)  # through D, but accumulate gradients only in G
    state.opt_G.step()
    return {name: value.detach() for name, value in log.items()}


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Set each w of the average to decay · w + (1 - decay) · w_network; copy the buffers."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for target, source in zip(average.buffers(), network.buffers(), strict=True):
        target.copy_(source)


def train(state: TrainState, data: Data, recipe: TrainConfig, graph: bool = True) -> Iterator[Log]:
    """Train from ``state.step`` to ``recipe.steps``; yield a ``Log`` after each step.

    The state is complete at each yield: print, plot, sample, save or stop there. After a divergence
    it holds NaN, which ``stop_on_nan`` looks for and ``checkpoints.save`` refuses. As with every
    Python generator, nothing runs before the first iteration.

    Args:
        graph: on a GPU, replay one recorded step (``runtime.GraphedStep``).
            Off for networks or losses that look at values, or if you change the state at a yield.

    Raises:
        ValueError: the data do not fit the networks.
    """
    data = prepare(state, data, recipe)  # on the device, checked
    recorded = graph and has_graphs(state.device)
    step = GraphedStep(one_step, state.opt_G, state.opt_D) if recorded else one_step
    while state.step < recipe.steps:
        set_learning_rates(state, recipe)
        rng = step_rng(recipe.seed, state.step, state.device)  # for all random numbers
        real, labels = data.batch(recipe.batch_size, rng)  # (N, *shape), (N,)
        log = step(state, real, labels, recipe, rng)
        state.step += 1
        yield Log(state.step, log)


def one_step(
    state: TrainState, real: Tensor, labels: Tensor, recipe: TrainConfig, rng: torch.Generator
) -> dict[str, Tensor]:
    """Update D, G and the average once, on a real batch; return measurements by name."""
    z = torch.randn(len(real), state.G.latent_dim, generator=rng, device=rng.device)
    fake = forward(state.G, z, labels, recipe)  # (N, *shape), for both updates
    log = update_discriminator(state, real, fake, labels, recipe, rng)
    log |= update_generator(state, real, fake, labels, recipe, rng)
    update_ema(state.G_ema, state.G, recipe.ema)
    return log


def set_learning_rates(state: TrainState, recipe: TrainConfig) -> None:
    """Give both optimisers the learning rates of the step to come.

    On a GPU they are numbers of float32, as a recorded step holds them.
    """
    factor = 1 - (1 - recipe.lr_end) * state.step / recipe.steps
    for optimiser, lr in ((state.opt_G, recipe.lr_G), (state.opt_D, recipe.lr_D)):
        rate = factor * lr
        if has_graphs(state.device):
            rate = torch.tensor(rate, dtype=torch.float32).item()
        for group in optimiser.param_groups:
            group["lr"] = rate


@torch.no_grad()
def prepare(state: TrainState, data: Data, recipe: TrainConfig) -> Data:
    """Return the data on the networks' device, once checked; set the optimisers' betas.

    Raises:
        ValueError: ``check_first_batch`` finds a fault.
    """
    data = data.to(state.device)
    check_first_batch(state, data, recipe)
    for optimiser in (state.opt_G, state.opt_D):
        for group in optimiser.param_groups:  # a resumed run may have other settings
            group["betas"] = recipe.betas
    return data


def check_first_batch(state: TrainState, data: Data, recipe: TrainConfig) -> None:
    """Raise ValueError unless G's samples fit the data, and D returns a finite logit for each.

    With ``penalty_noise``, also if a pass changes D.

    A D that cannot take the samples at all raises its own error, or PyTorch's.
    """
    real, labels = data.batch(recipe.batch_size, step_rng(recipe.seed, 0, state.device))
    made, given = tuple(state.G.shape), tuple(real.shape[1:])
    if made != given:
        raise ValueError(f"G makes samples {made}, but the data are {given}; build G for {given}")
    if recipe.augment and real.ndim != 4:
        raise ValueError(f"augment changes images (N, C, H, W), but the data are {given}")
    for name, network in (("G", state.G), ("D", state.D)):
        if classes := getattr(network, "classes", 0):
            largest = int(getattr(data, "labels", labels).max())  # of all, if the data have them
            if largest >= classes:
                fault = f"{name} has {classes} classes, but the data have label {largest}"
                raise ValueError(fault)
    D = copy.deepcopy(state.D)  # as spectral norm changes in each pass
    logits = D(real, labels)
    buffers = zip(D.buffers(), state.D.buffers(), strict=True)
    changed = any(not torch.equal(after, before) for after, before in buffers)
    if changed and recipe.penalty_noise and (recipe.r1 or recipe.r2):
        raise ValueError(CHANGING)
    count = len(real) // getattr(D, "pack", 1)  # networks.Packed has one for each pack
    if logits.shape != (count,):
        raise ValueError(f"D must return logits {(count,)}, not {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("D returns NaN or infinity for the first batch; check data and weights")


def stop_on_nan(
    logs: Iterable[Log], state: TrainState, every: int = 50, last: int | None = None
) -> Iterator[Log]:
    """Pass on the logs of ``train``; if a loss or a weight is not finite, roll back and raise.

    ``for log in stop_on_nan(train(state, data, recipe), state, last=recipe.steps)``

    Args:
        logs: what ``train`` yields.
        state: the state that is trained.
        every: steps between two checks, each of which copies the state. Logs in between are passed
            on unchecked; save after checked steps.
        last: a step that is always checked before its log is passed on: ``recipe.steps``, to save
            there. Without it the last steps are checked once ``logs`` ends.

    Raises:
        DivergedError: a d_loss, a g_loss, a parameter of G or D, or a moment of Adam is not finite.
            ``state`` is that of the last check, or the initial one: save it, or continue with lower
            learning rates.
        ValueError: ``every`` is below 1.
    """
    checks.require_integer("every", every, least=1)
    good, unchecked = copy.deepcopy(state.state_dict()), []
    for log in logs:
        unchecked.append(log)
        if log.step % every == 0 or log.step == last:
            _restore_if_diverged(unchecked, state, good)
            good, unchecked = copy.deepcopy(state.state_dict()), []
        yield log
    _restore_if_diverged(unchecked, state, good)


def _restore_if_diverged(logs: list[Log], state: TrainState, good: dict) -> None:
    """Restore ``good`` and raise DivergedError if a loss of ``logs`` or a weight is not finite."""
    faults = [
        f"{name} is {log[name]} at step {log.step}"
        for log in logs
        for name in ("d_loss", "g_loss")
        if not math.isfinite(log[name])
    ]
    weights = [*state.G.parameters(), *state.D.parameters()]
    moments = [
        moment
        for optimiser in (state.opt_G, state.opt_D)
        for values in optimiser.state.values()
        for name, moment in values.items()
        if name.startswith("exp_avg")
    ]
    for name, tensors in (("a weight", weights), ("a moment of Adam", moments)):
        largest = nn.utils.get_total_norm(tensors, norm_type=math.inf)
        if not largest.isfinite():  # a finite loss may have a NaN gradient
            faults.append(f"{name} is NaN or infinite after step {state.step}")
    if faults:
        state.load_state_dict(good)
        advice = "lower the learning rates, add a penalty (r1), or look for bad data"
        raise DivergedError(f"{faults[0]}; restored the state of step {state.step}; {advice}")
