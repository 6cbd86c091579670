"""The loop: who is updated by what, the same bits after a break, and what happens when a run diverges."""

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_map_only

from gan_tutorial import losses, metrics, mixtures, networks, training

PENALTIES = {"none": {}, "r1": {"r1": 0.1}, "r2": {"r2": 0.1}, "gp": {"gp": 10.0}, "r1 + r2": {"r1": 1.0, "r2": 1.0}}
SMALL = training.TrainConfig(steps=6, batch_size=4, check_every=2)


def fresh(
    kind: str = "mlp",
    config: training.TrainConfig = SMALL,
    device: str | torch.device = "cpu",
    seed: int = 0,
    classes: int = 0,
    spectral: bool = False,
) -> training.TrainState:
    """Return a state of small networks: for 8×8 pictures, or for points in the plane."""
    torch.manual_seed(seed)
    if kind == "points":
        G = networks.MLPGenerator(3, (2,), hidden=(16,), classes=classes)
        D = networks.MLPDiscriminator((2,), hidden=(16,), classes=classes, spectral=spectral)
    elif kind == "mlp":
        G = networks.MLPGenerator(5, (1, 8, 8), hidden=(16,), classes=classes)
        D = networks.MLPDiscriminator((1, 8, 8), hidden=(16,), classes=classes, spectral=spectral)
    else:
        pair = networks.NetworkConfig(
            kind=kind, shape=(1, 8, 8), latent_dim=5, width=4, classes=classes, spectral=spectral
        )  # fmt: skip
        G, D = pair.build()
    return training.TrainState.fresh(G, D, config, device)


def bits(value: object) -> Iterator[bytes]:
    """Yield everything in nested dictionaries and lists of tensors and plain values, in order."""
    if isinstance(value, torch.Tensor):
        yield value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for key in value:
            yield str(key).encode()
            yield from bits(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from bits(item)
    else:
        yield repr(value).encode()


def same(first: training.TrainState, second: training.TrainState) -> bool:
    return list(bits(first.state_dict())) == list(bits(second.state_dict()))


@pytest.fixture(scope="module")
def samples(pictures) -> dict[str, training.Data]:
    """What each kind of networks learns from."""
    return {"mlp": pictures, "conv": pictures, "points": mixtures.ring()}


# Every combination runs


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", ["mlp", "conv", "points"])
def test_every_objective_trains_with_every_penalty(samples, kind, objective, penalty):
    config = replace(SMALL, **PENALTIES[penalty])
    state = fresh(kind, config)
    before = copy.deepcopy(state.state_dict())
    logs = list(training.train(state, samples[kind], losses.objective(objective), config))
    assert [log.step for log in logs] == [1, 2, 3, 4, 5, 6]
    for name in ("G", "D", "G_ema"):
        still = [key for key, now in getattr(state, name).state_dict().items() if torch.equal(now, before[name][key])]
        assert set(still) <= {"last.bias"}, "only D's last bias, which moves real and generated logits alike, may rest"
    for log in logs:
        numbers = [log.d_loss, log.g_loss, log.real_logit, log.fake_logit]
        assert all(isinstance(x, float) and abs(x) < 1e6 for x in numbers)
        assert hasattr(log, "penalty") == (penalty != "none")


@pytest.mark.parametrize("kind", ["mlp", "conv", "points"])
@pytest.mark.parametrize("objective", ["hinge", "relativistic"])
@pytest.mark.parametrize("spectral", [False, True])
def test_class_conditional_training_moves_the_embeddings(samples, kind, objective, spectral):
    classes = 8 if kind == "points" else 4
    config = replace(SMALL, r1=0.1, gp=1.0, batch_size=32)
    state = fresh(kind, config, classes=classes, spectral=spectral)
    before = copy.deepcopy(state)
    list(training.train(state, samples[kind], losses.objective(objective), config))
    for new, old in ((state.G, before.G), (state.D, before.D)):
        assert (new.embedding.weight != old.embedding.weight).all(1).sum() >= classes - 1, "each label was met"


def test_a_gan_learns_the_ring(device):
    """The loop works as a whole: from nothing to all modes of a wide ring in a few hundred steps."""
    torch.manual_seed(0)
    mixture = mixtures.ring(std=0.05)
    config = training.TrainConfig(
        steps=400, batch_size=128, lr_G=5e-3, lr_D=5e-3, betas=(0.0, 0.9), r1=0.05, ema=0.95, check_every=100
    )  # fmt: skip
    pair = networks.MLPGenerator(8, (2,), hidden=(64, 64)), networks.MLPDiscriminator((2,), hidden=(64, 64))
    state = training.TrainState.fresh(*pair, config, device)
    for _ in training.train(state, mixture, losses.objective("non_saturating"), config):
        pass
    report = metrics.mode_report(state.G_ema(torch.randn(2000, 8).to(device)), mixture)
    assert report.covered >= 7
    assert report.high_quality > 0.4


# Whose gradient?


def step_parts(state: training.TrainState, samples: training.Data, **options) -> tuple:
    config = replace(SMALL, **options)
    rng = training.runtime.step_rng(0, 0, state.device)
    real, labels = samples.batch(4, rng)
    fake = state.G(torch.randn(4, state.G.latent_dim, generator=rng), labels)
    return real, fake, labels, config, rng


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
def test_the_discriminators_step_gives_g_no_gradient(samples, objective):
    state = fresh()
    before = copy.deepcopy(state.G.state_dict())
    real, fake, labels, config, rng = step_parts(state, samples["mlp"], r1=1.0, r2=1.0, gp=1.0)
    training.discriminator_step(state, real, fake, labels, losses.objective(objective), config, rng)
    assert all(p.grad is None for p in state.G.parameters())
    assert all(p.grad is not None for p in state.D.parameters())
    assert list(bits(before)) == list(bits(state.G.state_dict()))


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
def test_the_generators_step_gives_d_no_gradient(samples, objective):
    state = fresh()
    before = copy.deepcopy(state.D.state_dict())
    real, fake, labels, config, rng = step_parts(state, samples["mlp"])
    training.generator_step(state, real, fake, labels, losses.objective(objective), config, rng)
    assert all(p.grad is None for p in state.D.parameters())
    assert all(p.grad is not None for p in state.G.parameters())
    assert list(bits(before)) == list(bits(state.D.state_dict()))


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
def test_the_generators_loss_is_that_of_the_batchs_logits(samples, objective):
    state = fresh()
    real, fake, labels, config, rng = step_parts(state, samples["mlp"])
    expected = losses.objective(objective).g_loss(state.D(real), state.D(fake)).item()
    step = training.generator_step(state, real, fake, labels, losses.objective(objective), config, rng)
    assert step["g_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_average_never_gets_gradients_and_stays_in_evaluation_mode(samples):
    state = fresh("conv")
    for _ in training.train(state, samples["conv"], losses.objective("relativistic"), SMALL):
        assert all(not p.requires_grad and p.grad is None for p in state.G_ema.parameters())
        assert state.G.training
        assert state.D.training
        assert not state.G_ema.training


def test_frozen_layers_stay_frozen_and_the_others_free(samples):
    """Freezing the first layers of a pretrained D is a recipe for small data; the loop must not undo it."""
    state = fresh("conv")
    state.D.layers[0].requires_grad_(False)
    state.G.layers[0].requires_grad_(False)
    before = copy.deepcopy(state)
    list(training.train(state, samples["conv"], losses.objective("hinge"), SMALL))
    for new, old in ((state.D, before.D), (state.G, before.G)):
        assert torch.equal(new.layers[0].weight, old.layers[0].weight)
        assert not torch.equal(
            new.layers[-2 if new is state.G else 2].weight, old.layers[-2 if new is state.G else 2].weight
        )
        assert [p.requires_grad for p in new.parameters()] == [p.requires_grad for p in old.parameters()]


def test_an_interrupt_in_the_generators_step_leaves_d_trainable(samples):
    state = fresh()

    def interrupted(real_logits, fake_logits):
        raise KeyboardInterrupt

    objective = losses.objective("hinge")
    with pytest.raises(KeyboardInterrupt):
        list(training.train(state, samples["mlp"], replace(objective, g_loss=interrupted), SMALL))
    assert all(p.requires_grad for p in state.D.parameters())
    assert len(list(training.train(state, samples["mlp"], objective, SMALL))) == 6


def test_the_penalties_have_their_papers_weights(samples):
    """γ/2 for R1 and R2, λ for WGAN-GP's; and they add up."""
    state = fresh()
    real, fake, labels, _, _ = step_parts(state, samples["mlp"])
    critic = copy.deepcopy(state.D)
    measured = {}
    for name, options in {"r1": {"r1": 3.0}, "r2": {"r2": 3.0}, "both": {"r1": 3.0, "r2": 3.0}}.items():
        other = copy.deepcopy(state)
        config = replace(SMALL, **options)
        step = training.discriminator_step(other, real, fake, labels, losses.objective("hinge"), config, None)
        measured[name] = step["penalty"].item()
    r1, r2 = (training.penalties.r1(critic, x, x).item() for x in (real, fake))
    assert measured["r1"] == pytest.approx(1.5 * r1)
    assert measured["r2"] == pytest.approx(1.5 * r2)
    assert measured["both"] == pytest.approx(1.5 * (r1 + r2))
    rngs = (torch.Generator().manual_seed(0) for _ in range(2))
    gp = training.penalties.gradient_penalty(critic, real, fake, next(rngs)).item()
    step = training.discriminator_step(
        state, real, fake, labels, losses.objective("hinge"), replace(SMALL, gp=10.0), next(rngs)
    )  # fmt: skip
    assert step["penalty"].item() == pytest.approx(10 * gp)


def test_one_step_equals_the_same_step_written_out(samples):
    """Two passes of D, plain Adam, requires_grad toggled by hand: the textbook's loop."""
    config = replace(SMALL, steps=1, ema=0.9)
    state, by_hand = fresh(config=config), fresh(config=config)
    list(training.train(state, samples["mlp"], losses.objective("non_saturating"), config))

    G, D = by_hand.G, by_hand.D
    rates = ((G, config.lr_G), (D, config.lr_D))
    opt_G, opt_D = (torch.optim.Adam(n.parameters(), rate, config.betas, fused=False) for n, rate in rates)
    rng = training.runtime.step_rng(0, 0)
    real, _ = samples["mlp"].batch(4, rng)
    fake = G(torch.randn(4, 5, generator=rng))
    loss = nn.BCEWithLogitsLoss()
    (loss(D(real), torch.ones(4)) + loss(D(fake.detach()), torch.zeros(4))).backward()
    opt_D.step()
    average = {name: 0.9 * p.detach().clone() for name, p in G.named_parameters()}
    loss(D(fake), torch.ones(4)).backward()
    opt_G.step()
    for name, p in G.named_parameters():
        torch.testing.assert_close(state.G.get_parameter(name), p)
        torch.testing.assert_close(state.G_ema.get_parameter(name), average[name] + 0.1 * p)
    for name, p in D.named_parameters():
        torch.testing.assert_close(state.D.get_parameter(name), p)


@pytest.mark.parametrize("kind", ["mlp", "conv", "points"])
@pytest.mark.parametrize("objective", ["hinge", "relativistic"])
def test_bfloat16_products_give_nearly_the_same_gradients_and_leave_weights_in_float32(
    samples, kind, objective, monkeypatch
):
    """bfloat16 keeps 8 bits: gradients differ by about a hundredth, those of G by more, since it meets another D."""
    monkeypatch.setattr(training.runtime, "has_bf16", lambda _: True)
    states = {}
    for bf16 in (False, True):
        config = replace(SMALL, steps=1, batch_size=16, bf16=bf16, r1=1.0)
        states[bf16] = fresh(kind, config)
        (log,) = training.train(states[bf16], samples[kind], losses.objective(objective), config)
        assert all(value.dtype == torch.float32 for value in log.tensors.values())
    for name, bound in (("D", 0.05), ("G", 0.2)):
        whole, short = (
            torch.cat([p.grad.flatten() for p in getattr(states[bf16], name).parameters()]) for bf16 in (False, True)
        )
        assert short.dtype == torch.float32
        error = (whole - short).norm() / whole.norm()
        assert 0 < error < bound
        assert {p.dtype for p in getattr(states[True], name).parameters()} == {torch.float32}


# The running average


@given(st.floats(0, 0.999), st.integers(0, 2**32))
def test_the_average_moves_by_its_decay_and_copies_buffers(decay, seed):
    torch.manual_seed(seed)
    average, network = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    network(torch.randn(5, 2))
    nn.init.normal_(network[1].weight)
    before = copy.deepcopy(average)
    training.update_average(average, network, decay)
    for new, old, current in zip(average.parameters(), before.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(new, decay * old + (1 - decay) * current)
    assert all(torch.equal(a, b) for a, b in zip(average.buffers(), network.buffers(), strict=True))
    assert average[1].num_batches_tracked == 1


def test_without_decay_the_average_is_the_generator(samples):
    config = replace(SMALL, ema=0.0)
    state = fresh("conv", config)
    list(training.train(state, samples["conv"], losses.objective("hinge"), config))
    assert list(bits(state.G.state_dict())) == list(bits(state.G_ema.state_dict()))


# The same bits


@pytest.mark.parametrize("kind", ["mlp", "conv", "points"])
@pytest.mark.parametrize("breaks", [(1,), (2, 3), (1, 4, 5)])
def test_breaks_change_no_bit(samples, device, kind, breaks, monkeypatch):
    """Break, carry the state over to fresh networks as a file would, go on: equal to a run without a break."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # else a GPU's convolutions add up in any order
    config = replace(SMALL, gp=1.0)
    whole = fresh(kind, config, device, spectral=True)
    objective = losses.objective("relativistic")
    list(training.train(whole, samples[kind], objective, config))

    state = fresh(kind, config, device, spectral=True)
    for stop in breaks:
        for log in training.train(state, samples[kind], objective, config):
            if log.step == stop:
                break
        saved = tree_map_only(torch.Tensor, torch.Tensor.contiguous, copy.deepcopy(state.state_dict()))  # as in a file
        state = fresh(kind, config, device, seed=99, spectral=True)
        state.load_state_dict(saved)
        assert state.step == stop
    list(training.train(state, samples[kind], objective, config))
    assert same(state, whole)


def test_a_loaded_state_can_be_loaded_again(samples):
    """Several objectives may start from one saved state: training must not go on inside it."""
    state, objective = fresh("conv"), losses.objective("hinge")
    list(training.train(state, samples["conv"], objective, SMALL))
    saved = copy.deepcopy(state.state_dict())
    before = list(bits(saved))
    state.load_state_dict(saved)
    list(training.train(state, samples["conv"], objective, replace(SMALL, steps=9)))
    assert list(bits(saved)) == before


def test_a_finished_run_has_nothing_to_do(samples):
    state = fresh()
    assert len(list(training.train(state, samples["mlp"], losses.objective("hinge"), SMALL))) == 6
    assert list(training.train(state, samples["mlp"], losses.objective("hinge"), SMALL)) == []
    longer = replace(SMALL, steps=8)
    assert [log.step for log in training.train(state, samples["mlp"], losses.objective("hinge"), longer)] == [7, 8]


def test_other_seeds_train_otherwise_and_the_global_generator_has_no_say(samples):
    states = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        config = replace(SMALL, seed=seed)
        state = fresh(config=config)
        torch.manual_seed(noise)
        list(training.train(state, samples["mlp"], losses.objective("hinge"), config))
        states.append(state)
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_looking_at_the_data_before_training_changes_nothing(samples):
    """The first look at the data passes through D: spectral norm's vectors must not move."""
    state = fresh(spectral=True)
    before = copy.deepcopy(state.state_dict())
    training._require_fit(state, samples["mlp"], 4)
    assert list(bits(before)) == list(bits(state.state_dict()))


# Divergence


class Poisoned:
    """Data that are good until the given batch."""

    def __init__(self, clean: training.Data, bad: int, value: float = float("nan")) -> None:
        self.clean, self.shape, self.bad, self.value, self.seen = clean, clean.shape, bad, value, itertools.count()

    def to(self, device: torch.device) -> "Poisoned":
        return self

    def batch(self, count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        real, labels = self.clean.batch(count, rng)
        return (torch.full_like(real, self.value) if next(self.seen) == self.bad else real), labels


@pytest.mark.parametrize(("bad", "restored"), [(1, 0), (2, 0), (3, 2), (5, 4), (6, 4)])
@pytest.mark.parametrize("kind", ["mlp", "conv", "points"])
def test_a_nan_names_the_step_and_puts_back_the_last_good_state(samples, kind, bad, restored):
    """Batch 0 is the look before the first step, so batch n is that of step n."""
    state, reference = fresh(kind), fresh(kind)
    objective = losses.objective("hinge")
    for log in training.train(reference, samples[kind], objective, SMALL):
        if log.step == restored:
            break
    reference = fresh(kind) if not restored else reference
    poisoned = Poisoned(samples[kind], bad)
    with pytest.raises(
        training.DivergedError, match=rf"d_loss is nan at step {bad};.*that of step {restored} again.*r1"
    ):
        list(training.train(state, poisoned, objective, SMALL))
    assert state.step == restored
    assert same(state, reference)


def test_training_goes_on_after_divergence(samples):
    state, whole = fresh(), fresh()
    objective = losses.objective("hinge")
    with pytest.raises(training.DivergedError):
        list(training.train(state, Poisoned(samples["mlp"], 4), objective, SMALL))
    list(training.train(state, samples["mlp"], objective, SMALL))
    list(training.train(whole, samples["mlp"], objective, SMALL))
    assert same(state, whole)


def test_infinity_counts_too(samples):
    with pytest.raises(training.DivergedError, match="d_loss is inf at step 3"):
        list(training.train(fresh(), Poisoned(samples["mlp"], 3, 1e38), losses.objective("least_squares"), SMALL))


@pytest.mark.parametrize("player", ["d_loss", "g_loss"])
@pytest.mark.parametrize("check_every", [1, 2, 50])
def test_a_nan_gradient_of_a_finite_loss_is_found(samples, player, check_every):
    """sqrt(0 · logits) is 0, but its derivative is NaN: the loss looks well, the weights are lost."""

    def root(real_logits, fake_logits):
        return (0 * fake_logits).abs().sqrt().mean() + fake_logits.mean()

    config = replace(SMALL, check_every=check_every)
    state, untouched = fresh(config=config), fresh(config=config)
    with pytest.raises(training.DivergedError, match="state is that of step 0 again"):
        list(training.train(state, samples["mlp"], replace(losses.objective("hinge"), **{player: root}), config))
    assert same(state, untouched)


# Logs and settings


def test_a_log_reads_numbers_and_names_what_it_has(samples):
    log = next(training.train(fresh(), samples["mlp"], losses.objective("hinge"), SMALL))
    assert log.d_loss == log.tensors["d_loss"].item()
    assert repr(log) == "Log(step=1)"
    assert copy.deepcopy(log).g_loss == log.g_loss
    with pytest.raises(AttributeError, match="measured d_loss, real_logit, fake_logit, g_loss, but not 'penalty'"):
        _ = log.penalty


def test_logits_in_the_log_are_those_of_the_batch(samples):
    state = fresh()
    real, fake, labels, config, rng = step_parts(state, samples["mlp"])
    expected = state.D(real).mean().item(), state.D(fake).mean().item()
    step = training.discriminator_step(state, real, fake, labels, losses.objective("hinge"), config, rng)
    assert (step["real_logit"].item(), step["fake_logit"].item()) == pytest.approx(expected, abs=1e-6)


def test_settings_survive_json_and_whole_numbers():
    config = training.TrainConfig(betas=(0, 0.99), lr_G=1, r1=2)
    assert config.betas == (0.0, 0.99)
    assert isinstance(config.betas[0], float), "Adam refuses an integer 0"
    assert training.TrainConfig(**json.loads(json.dumps(asdict(config)))) == config
    fresh(config=replace(config, lr_G=0.1))


def test_a_fresh_state_is_where_it_should_be(device):
    state = fresh("conv", device=device)
    assert state.device.type == device.type
    assert state.step == 0
    assert all(torch.equal(a, b) for a, b in zip(state.G.parameters(), state.G_ema.parameters(), strict=True))
    ours = {id(p) for p in state.G.parameters()}
    assert ours == {id(p) for group in state.opt_G.param_groups for p in group["params"]}
    assert not ours & {id(p) for p in state.G_ema.parameters()}


def test_the_learning_rates_are_those_of_the_configuration(samples):
    """A state made, or resumed, with other rates goes on with the ones that ``train`` was given."""
    state, wanted = fresh(config=SMALL), replace(SMALL, steps=1, lr_G=0.5, lr_D=0.25, betas=(0.1, 0.2))
    list(training.train(state, samples["mlp"], losses.objective("hinge"), wanted))
    groups = state.opt_G.param_groups + state.opt_D.param_groups
    assert [(group["lr"], group["betas"]) for group in groups] == [(0.5, (0.1, 0.2)), (0.25, (0.1, 0.2))]
