"""Strings by counting, choices against the softmax and its gradient, both models, the report."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import networks, runtime, sampling, training
from gan_tutorial.beyond import text

LETTERS = len(text.ALPHABET)
LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return text.gumbel(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


# Strings


def test_the_splits_hold_every_true_sum_below_100_once():
    train, test = text.sums(), text.sums("test")
    assert (len(train), len(test)) == (4040, 1010)
    every = {f"{a}+{b}={a + b}".ljust(8) for a in range(100) for b in range(100) if a + b < 100}
    assert len(every) == 5050
    assert {*train, *test} == every
    assert text.sums() == train
    with pytest.raises(ValueError, match="split must be one of train, test, but is 'val'"):
        text.sums("val")
    shares = [
        sum(string.index("+") == 1 for string in split) / len(split) for split in (train, test)
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)  # the held-out sums are like the others


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_parse_undoes_what_writes_a_sum(a, b, c):
    assert text.parse(f"{a}+{b}={c}".ljust(8)) == (a, b, c)


@pytest.mark.parametrize(
    "string",
    ["12+7=19", "12+7=19  ", "01+2=3  ", "1+02=3  ", "1+2=03  ", "1+2=123 ", "1+2+3=6 ",
     " 1+2=3  ", "1 +2=3  ", "1+2 =3  ", "12+34567", "1+2=    ", "+2=2    ", "1=1+0   ",
     "1+2=3\n  ", "        "],
)  # fmt: skip
def test_parse_refuses_what_is_not_of_the_grammar(string):
    assert text.parse(string) is None


@given(st.lists(st.text(text.ALPHABET, min_size=8, max_size=8), min_size=1, max_size=4))
def test_decode_undoes_encode(strings):
    letters = text.encode(strings)
    assert letters.dtype == torch.int64
    assert text.decode(letters) == strings
    assert text.decode(torch.nn.functional.one_hot(letters, LETTERS).float()) == strings


def test_batches_are_one_hot_strings_of_the_set(device):
    strings = text.StringSet(text.encode(text.sums())).to(device)
    batch, labels = strings.batch(50, runtime.step_rng(0, 1, device))
    assert batch.shape == (50, *text.SHAPE)
    assert batch.device.type == labels.device.type == torch.device(device).type
    assert (batch.sum(2) == 1).all()
    assert set(text.decode(batch.cpu())) <= set(text.sums())
    assert torch.equal(batch, strings.batch(50, runtime.step_rng(0, 1, device))[0])


# Choices


def test_gumbel_noise_has_the_gumbel_distribution():
    z = torch.tensor([-6.0, -1.0, 0.0, 1.0, 6.0], dtype=torch.double)
    distribution = (-(-text.gumbel(z)).exp()).exp()  # F(g) = exp(-exp(-g)) = Φ(z)
    torch.testing.assert_close(distribution, torch.special.ndtr(z))
    assert torch.isfinite(text.gumbel(torch.tensor([-12.0, 12.0]))).all()
    assert noise(200_000).mean().item() == pytest.approx(0.5772, abs=0.015)  # Euler's constant


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_choices_follow_the_softmax_at_any_temperature(temperature):
    choices = text.choose(LOGITS, noise(200_000, 4), temperature)
    p = LOGITS.softmax(0)
    deviation = (choices.mean(0) - p) / (p * (1 - p) / 200_000).sqrt()
    assert deviation.abs().max() < 4  # Monte Carlo standard errors


def test_a_choice_is_one_hot_forward_and_soft_backward():
    g, weight = noise(6, 4), torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    hard_logits, soft_logits = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(2)) for _ in range(2)
    )
    hard_logits.requires_grad_(), soft_logits.requires_grad_()
    choices = text.choose(hard_logits, g, 0.7)
    assert set(choices.unique().tolist()) == {0.0, 1.0}  # exactly
    assert torch.equal(choices.argmax(1), (hard_logits + g).argmax(1))
    (choices * weight).sum().backward()
    (((soft_logits + g) / 0.7).softmax(1) * weight).sum().backward()
    torch.testing.assert_close(hard_logits.grad, soft_logits.grad)
    assert hard_logits.grad.abs().max() > 0


def test_a_lower_temperature_has_less_bias_and_more_variance():
    f = torch.tensor([1.0, 3.0, -1.0, 0.5], dtype=torch.double)
    logits = LOGITS.double().requires_grad_()
    (exact,) = torch.autograd.grad((logits.softmax(0) * f).sum(), logits)
    bias, spread = [], []
    for temperature in (2.0, 0.5, 0.1):
        many = LOGITS.double().repeat(200_000, 1).requires_grad_()
        (found,) = torch.autograd.grad(
            (text.choose(many, noise(200_000, 4).double(), temperature) * f).sum(), many
        )
        bias.append((found.mean(0) - exact).norm().item())
        spread.append(found.std(0).norm().item())
    assert bias[0] > 2 * bias[1] > 4 * bias[2]
    assert spread[0] < spread[1] < spread[2]


def test_the_schedule_falls_by_a_constant_factor_and_then_stays():
    values = [text.schedule(step, 4, 4.0, 0.25) for step in range(6)]
    assert values == pytest.approx([4, 2, 1, 0.5, 0.25, 0.25])


# Models


@pytest.fixture(scope="module")
def G() -> text.StringGenerator:
    torch.manual_seed(0)
    return text.StringGenerator(5, (12,)).eval()


def test_a_string_is_a_function_of_z_and_not_of_the_temperature(G):
    z = sampling.latents(40, G.latent_dim)
    first = sampling.sample(G, z)
    assert first.shape == (40, *text.SHAPE)
    assert (first.sum(2) == 1).all()
    try:
        G.temperature = 0.1
        assert torch.equal(sampling.sample(G, z), first)
    finally:
        G.temperature = 1.0


def test_letters_follow_the_logits_of_their_plan(G):
    z = sampling.latents(20_000, G.latent_dim)
    z[:, : G.plan] = z[0, : G.plan]  # one plan, many noises
    expected = G.logits(z[:1])[0].softmax(1)
    error = (sampling.sample(G, z).mean(0) - expected) / (expected * (1 - expected) / 20_000).sqrt()
    assert error.abs().max() < 5


def test_both_models_have_about_the_same_size():
    G, model = text.StringGenerator(), text.Recurrent()
    assert networks.count_parameters(model) == pytest.approx(networks.count_parameters(G), rel=0.02)


def test_the_pair_learns_where_only_the_letters_matter():
    torch.manual_seed(0)
    config = replace(
        text.SUMS_CONFIG, steps=80, batch_size=32, lr_G=5e-3, lr_D=5e-3, ema=0.9, r2=0.0
    )
    one = text.StringSet(text.encode(["12+7=19 "]))
    G, D = text.StringGenerator(4, (32,)), networks.MLPDiscriminator(text.SHAPE, (32,))
    state = training.TrainState.init(G, D, config)
    for log in training.train(state, one, config):
        state.G.temperature = text.schedule(log.step, config.steps)
    drawn = sampling.generate(state.G_ema, 200)
    right = (drawn.argmax(2) == one.letters).float().mean().item()
    assert right > 0.5  # 1 of 13 by chance


def test_the_recurrent_model_reads_no_letter_before_its_turn():
    torch.manual_seed(0)
    model, letters = text.Recurrent(8), text.encode(["12+7=19 ", "3+4=7   "])
    before = model(letters)
    letters[:, 4] = 0
    after = model(letters)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5] != after[:, 5]).any()


def test_nats_are_those_of_a_distribution():
    torch.manual_seed(0)
    model = text.Recurrent(8)
    with torch.no_grad():
        model.last.weight.zero_(), model.last.bias.zero_()
    strings = text.encode(text.sums()[:5])
    torch.testing.assert_close(model.nats(strings), torch.full((5,), 8 * math.log(LETTERS)))


def test_drawn_strings_follow_the_model():
    torch.manual_seed(0)
    model = text.Recurrent(8)
    z = torch.randn(4000, 8 * LETTERS, generator=torch.Generator().manual_seed(1))
    drawn = model.sample(z)
    first = torch.bincount(drawn[:, 0], minlength=LETTERS) / 4000
    expected = model(drawn[:1])[0, 0].softmax(0)
    assert ((first - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()
    assert len(model.sample(z, temperature=0.0).unique(dim=0)) == 1  # whatever the noise
    chosen = model(drawn).log_softmax(2).gather(2, drawn.unsqueeze(2)).sum((1, 2))
    torch.testing.assert_close(chosen, -model.nats(drawn))


def test_fit_learns_and_repeats():
    letters = text.encode(text.sums()[:200])
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = text.Recurrent(24)
        torch.seed()  # the batches depend on the seed of fit alone
        runs.append([log["nats"] for log in text.fit(model, letters, 60, 32, lr=1e-2)])
    assert runs[0] == runs[1]
    assert runs[0][0] == pytest.approx(8 * math.log(LETTERS), rel=0.1)
    assert runs[0][-1] < 0.7 * runs[0][0]


# Judging


def test_a_report_counts():
    strings = ["12+7=19 ", "12+7=19 ", "1+1=2   ", "1+1=3   ", "1+1=1   ", "garbage!"]
    assert text.report(strings, ["12+7=19 "]) == (5 / 6, 3 / 6, 1 / 6, 4 / 6, 5 / 6)
    held_out = text.report(text.sums("test"), text.sums())
    assert held_out == (1, 1, 1, 1, 1)


def test_baselines_are_what_they_are_called():
    train = text.sums()
    random, by_place, shuffled = text.baselines(train, 2000).values()
    assert {len(random), len(by_place), len(shuffled)} == {2000}
    assert set("".join(random)) == set(text.ALPHABET)
    assert {string[0] for string in by_place} == set("0123456789")
    assert {string[-1] for string in by_place} == {string[-1] for string in train}
    assert text.report(shuffled, train).valid == 1
    for place in (0, 1):  # question and answer
        known = {string.strip().split("=")[place] for string in train}
        assert {string.strip().split("=")[place] for string in shuffled} <= known
    assert text.baselines(train, 2000)["answers shuffled"] == shuffled


def test_noise_of_another_shape_is_refused():
    for logits, noise_ in ((LOGITS, LOGITS[:3]), (torch.zeros(2, 4), LOGITS)):
        with pytest.raises(AssertionError, match="its own noise"):
            text.choose(logits, noise_)
