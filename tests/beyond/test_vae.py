"""A VAE's parts against closed forms and quadrature, and training against its objective."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal, kl_divergence

from gan_tutorial import data, networks, sampling, training
from gan_tutorial.beyond import vae
from gan_tutorial.recipes import Recipe

SMALL = Recipe(shape=(1, 8, 8), latent_dim=3, width=4, classes=4, spectral=False)
CONFIG = vae.VAEConfig(steps=150, batch_size=32, lr=1e-2, ema=0.9, bf16=False)


@pytest.fixture(scope="module")
def small_digits() -> data.ImageSet:
    """Five hundred of the bundled digits, 8×8."""
    return data.load_images("digits", size=8).subset(slice(500))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(**changes: object) -> vae.VAE:
    torch.manual_seed(0)
    return vae.VAE(*replace(SMALL, **changes).build()).eval()


def trained(
    images, device="cpu", classes=10, shape=(1, 8, 8), **changes: object
) -> tuple[vae.VAEState, list[training.Log]]:
    config = replace(CONFIG, **changes)
    state = vae.VAEState.init(replace(SMALL, classes=classes, shape=shape), config, device)
    return state, list(vae.train(state, images, config))


@given(st.floats(-5, 5), st.floats(-8, 4))
def test_kl_is_that_of_two_normals(mean, log_variance):
    q = vae.Gaussian(*(torch.tensor([[x]], dtype=torch.float64) for x in (mean, log_variance)))
    expected = kl_divergence(Normal(q.mean, (q.log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl(), expected, rtol=1e-6, atol=1e-9)
    assert (q.kl() >= 0).all()


def test_kl_is_the_mean_log_ratio():
    q = vae.Gaussian(torch.tensor([[0.0, 1.0, -2.0]]), torch.tensor([[0.0, -2.0, 0.5]]))
    many = vae.Gaussian(*(part.expand(400_000, 3) for part in q))
    z = many.sample(rng())
    std = (q.log_variance / 2).exp()
    estimate = (Normal(q.mean, std).log_prob(z) - Normal(0, 1).log_prob(z)).mean(0)
    torch.testing.assert_close(estimate, q.kl()[0], rtol=0.01, atol=0.005)
    assert q.kl()[0, 0] == 0


def test_kl_is_accurate_near_the_prior():
    tiny = torch.tensor([[1e-3]])
    q = vae.Gaussian(torch.zeros(1, 1), tiny)  # v²/4 for a small v, lost by exp(v) - 1
    assert q.kl().item() == pytest.approx(1e-6 / 4, rel=0.05)


def test_samples_have_the_mean_and_the_standard_deviation():
    parameters = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.0, -3.0]])
    q = vae.Gaussian(*(part.expand(50_000, 2) for part in parameters))
    z = q.sample(rng())
    torch.testing.assert_close(z.mean(0), q.mean[0], rtol=0, atol=0.02)
    torch.testing.assert_close(z.std(0), (q.log_variance[0] / 2).exp(), rtol=0.02, atol=0)
    assert torch.equal(z, q.sample(rng()))
    assert not torch.equal(z, q.sample(rng(1)))


def test_gradients_flow_through_a_sample():
    mean = torch.zeros(5, 2, requires_grad=True)
    log_variance = torch.full((5, 2), -1.0, requires_grad=True)
    z = vae.Gaussian(mean, log_variance).sample(rng())
    by_mean, by_variance = torch.autograd.grad(z.sum(), (mean, log_variance))
    torch.testing.assert_close(by_mean, torch.ones(5, 2))
    torch.testing.assert_close(by_variance, z.detach() / 2)  # z = exp(v / 2) · noise


def test_bernoulli_is_the_probability_of_black_and_white_pixels():
    logits = torch.randn(4, 1, 3, 3, generator=rng())
    bits = torch.bernoulli(torch.full((4, 1, 3, 3), 0.5), generator=rng(1))
    expected = Bernoulli(logits=logits).log_prob(bits).sum((1, 2, 3))
    torch.testing.assert_close(vae.bernoulli_log_likelihood(logits, 2 * bits - 1), expected)


def test_a_grey_pixel_is_the_mean_over_black_and_white():
    logits, black = torch.randn(1, 1, 1, 1, generator=rng()), torch.full((1, 1, 1, 1), -1.0)
    of_black, of_white, of_grey = (
        vae.bernoulli_log_likelihood(logits, pixel) for pixel in (black, -black, black + 2 * 0.3)
    )
    torch.testing.assert_close(of_grey, 0.3 * of_white + 0.7 * of_black)


def test_gaussian_is_the_density_of_normal_pixels():
    logits = torch.randn(4, 1, 3, 3, generator=rng())
    images = torch.rand(4, 1, 3, 3, generator=rng(1)) * 2 - 1
    expected = Normal((logits / 2).tanh(), 0.2).log_prob(images).sum((1, 2, 3))
    result = vae.gaussian_log_likelihood(logits, images, 0.2)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", vae.LIKELIHOODS)
def test_a_confident_error_is_costly_but_finite(likelihood):
    config = vae.VAEConfig(likelihood=likelihood)
    logits = torch.full((1, 1, 2, 2), 1000.0, requires_grad=True)
    value = config.log_likelihood(logits, torch.full((1, 1, 2, 2), -1.0))
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert value.item() < -40
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("likelihood", vae.LIKELIHOODS)
def test_the_elbo_is_log_p_minus_the_divergence_from_the_posterior(pictures, likelihood):
    """With one latent number, log p(x) and the true posterior are integrals over a line."""
    config = replace(CONFIG, likelihood=likelihood, std=0.5)
    net, images, labels = model(latent_dim=1), pictures.images[:6], pictures.labels[:6]
    with torch.no_grad():
        net.head[-1].bias += 0.5  # away from the prior
        net.decoder.layers[-2].weight *= 10  # z matters
    line = torch.linspace(-8, 8, 2001)
    with torch.no_grad():
        logs = torch.stack(
            [
                config.log_likelihood(
                    net.logits(line[:, None], label.expand(2001)), image.expand(2001, -1, -1, -1)
                )
                for image, label in zip(images, labels, strict=True)
            ]
        ).double()  # (6, 2001)
        joint = logs + Normal(0.0, 1.0).log_prob(line).double()
        log_p = joint.logsumexp(1) + math.log(16 / 2000)
        q = net.encode(images, labels)
        density = Normal(q.mean, (q.log_variance / 2).exp()).log_prob(line).double()
        log_ratio = density - (joint - log_p[:, None])  # of q and the posterior
        gap = (density.exp() * log_ratio).sum(1) * 16 / 2000  # their KL divergence
        estimates = torch.stack(
            [vae.terms(net, images, labels, config, rng(i)).objective() for i in range(400)]
        ).double()
    assert (gap > 0.05).all()
    error = estimates.std(0) / math.sqrt(400)
    assert ((estimates.mean(0) - (log_p - gap)).abs() < 5 * error + 0.01).all()
    assert (estimates.mean(0) < log_p + 5 * error).all()


def test_beta_weighs_the_divergence():
    parts = vae.Terms(torch.tensor([-5.0]), torch.tensor([[1.0, 2.0]]))
    assert parts.objective().item() == -8
    assert parts.objective(0.5).item() == -6.5


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("network", networks.NETWORKS)
def test_logits_are_those_of_the_generator_itself(network, classes):
    net = model(network=network, classes=classes, hidden=(16,))
    z, labels = sampling.latents(5, 3), torch.arange(5) % 4 if classes else None
    torch.testing.assert_close(
        (net.logits(z, labels) / 2).tanh(), net.decoder(z, labels), rtol=1e-5, atol=1e-5
    )
    assert net.logits(z, labels).shape == (5, 1, 8, 8)
    assert vae.encode(net, torch.zeros(5, 1, 8, 8), labels).mean.shape == (5, 3)


def test_codes_do_not_depend_on_the_batch(pictures):
    net = model()
    whole, parts = (
        vae.encode(net, pictures.images, pictures.labels, batch_size=size) for size in (40, 7)
    )
    for one, other in zip(whole, parts, strict=True):
        assert one.shape == (40, 3)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not whole.mean.requires_grad


def test_the_encoder_reads_the_label(pictures):
    net, images = model(), pictures.images[:4]
    one, other = (vae.encode(net, images, torch.full((4,), label)).mean for label in (0, 1))
    assert ((one - other).abs() > 1e-3).any(1).all()


def mean_elbo(logs: list[training.Log]) -> float:
    return sum(log["elbo"] for log in logs) / len(logs)


def test_the_elbo_rises(small_digits, device):
    state, logs = trained(small_digits, device)
    assert [log.step for log in logs] == list(range(1, 151))
    assert mean_elbo(logs[-10:]) > mean_elbo(logs[:10]) + 5
    last = logs[-1]
    assert last["elbo"] == pytest.approx(last["log_likelihood"] - last["kl"], abs=1e-2)
    data.require_images(sampling.generate(state.average.decoder, 8), (1, 8, 8))


def test_a_large_beta_empties_the_code_and_a_small_one_fills_it(small_digits):
    images, labels = small_digits.images, small_digits.labels
    nats, errors = [], []
    for beta in (0.01, 50.0):
        net = trained(small_digits, beta=beta)[0].average
        q = vae.encode(net, images, labels)
        decoded = sampling.sample(net.decoder, q.mean, labels)
        nats.append(q.kl().sum(1).mean().item())
        errors.append((decoded - images).square().mean().item())
    assert nats[0] > 3
    assert nats[1] < 0.1
    assert errors[0] < 0.95 * errors[1]


def test_a_seed_gives_the_same_bits_also_when_interrupted(small_digits):
    first, _ = trained(small_digits, steps=6)
    second, _ = trained(small_digits, steps=3)
    for _ in vae.train(second, small_digits, replace(CONFIG, steps=6)):
        pass
    other, _ = trained(small_digits, steps=6, seed=1)
    first, second, other = (
        torch.cat([weight.flatten() for weight in state.model.parameters()])
        for state in (first, second, other)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_every_weight_learns_and_the_average_follows(small_digits):
    before = dict(vae.VAEState.init(replace(SMALL, classes=10), CONFIG).model.named_parameters())
    state, _ = trained(small_digits, steps=3, ema=0.5)
    for (name, now), slow in zip(
        state.model.named_parameters(), state.average.parameters(), strict=True
    ):
        assert not torch.equal(now, before[name]), name
        assert not torch.equal(now, slow), name
        assert not torch.equal(slow, before[name]), name
    assert not state.average.training
    assert not any(parameter.requires_grad for parameter in state.average.parameters())


def test_building_a_state_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    vae.VAEState.init(SMALL, CONFIG)
    assert torch.equal(torch.rand(3), expected)


def test_bernoulli_pixels_are_black_or_white_with_the_right_mean():
    means = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    pixels = vae.sample_pixels(means.expand(4000, -1, -1, -1), CONFIG)
    assert set(pixels.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(pixels.mean(0, keepdim=True), means, rtol=0, atol=0.08)
    assert torch.equal(vae.sample_pixels(means, CONFIG), vae.sample_pixels(means, CONFIG))
    assert not torch.equal(
        vae.sample_pixels(means, CONFIG), vae.sample_pixels(means, CONFIG, seed=1)
    )


def test_gaussian_pixels_have_the_standard_deviation_and_the_range():
    gaussian = replace(CONFIG, likelihood="gaussian", std=0.1)
    pixels = vae.sample_pixels(torch.zeros(50, 1, 8, 8), gaussian)
    assert pixels.std().item() == pytest.approx(0.1, rel=0.05)
    wide = vae.sample_pixels(torch.zeros(50, 1, 8, 8), replace(gaussian, std=5))
    data.require_images(wide)


def test_greyness_is_the_variance_of_sampled_pixels():
    assert vae.greyness(torch.ones(2, 1, 8, 8)).tolist() == [0, 0]
    assert vae.greyness(torch.zeros(2, 1, 8, 8)).tolist() == [1, 1]
    means = torch.full((20_000, 1, 1, 1), 0.6)
    variance = vae.sample_pixels(means, CONFIG).var().item()
    assert variance == pytest.approx(vae.greyness(means[:1]).item(), rel=0.03)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda p: vae.VAEConfig(likelihood="poisson"),
            "one of bernoulli, gaussian, but is 'poisson'",
        ),
        (lambda p: vae.VAEConfig(std=0), r"std must be a number in \(0, inf\), but is 0"),
        (lambda p: vae.VAEConfig(beta=-1), r"beta must be a number in \[0, inf\), but is -1"),
        (lambda p: vae.VAEConfig(beta=math.nan), "beta must be a number"),
        (lambda p: vae.VAEConfig(ema=1.0), r"ema must be a number in \[0, 1\), but is 1.0"),
        (lambda p: vae.VAEConfig(steps=1.5), "steps must be an integer of at least 1, but is 1.5"),
        (lambda p: vae.VAEConfig(batch_size=0), "batch_size must be"),
        (lambda p: vae.VAEConfig(seed=-1), "seed must be"),
        (lambda p: vae.VAEConfig(lr="fast"), "lr must be a number"),
        (
            lambda p: vae.VAE(networks.MLPGenerator(2, (2,)), SMALL.build()[1]),
            "with tanh at its end",
        ),
        (lambda p: model(spectral=True), "give D spectral=False"),
        (lambda p: model(minibatch_std=4), "give D minibatch_std=0"),
        (
            lambda p: trained(p, classes=4, shape=(1, 16, 16)),
            r"classes \(\(1, 16, 16\), 4\), but the data have \(\(1, 8, 8\), 4\)",
        ),
        (
            lambda p: trained(p, classes=3),
            r"\(\(1, 8, 8\), 3\), but the data have \(\(1, 8, 8\), 4\)",
        ),
        (
            lambda p: vae.encode(model(), torch.full((2, 1, 8, 8), 255.0)),
            "to 255; see",
        ),
        (lambda p: vae.encode(model(), torch.zeros(2, 1, 9, 9)), "must have the shape"),
    ],
)
def test_a_bad_input_is_refused_with_advice(pictures, act, message):
    with pytest.raises(ValueError, match=message) as raised:
        act(pictures)
    assert "\n" not in str(raised.value)
