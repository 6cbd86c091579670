"""The explorers: numbers against PyTorch and SciPy in a browser, and each operated from a file."""

import base64
import dataclasses
import functools
import importlib.util
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import nn
from torch.nn.functional import softplus

from gan_tutorial import (
    checkpoints,
    live,
    losses,
    metrics,
    mixtures,
    networks,
    penalties,
    recipes,
    runtime,
    sampling,
    training,
)
from gan_tutorial.beyond import audio, interpretability
from gan_tutorial.live import explore

TIMEOUT = 120_000  # milliseconds; for a busy machine
EXPLORERS = {
    "trainer": live.trainer,
    "game": live.game,
    "losses": live.losses,
    "dirac": live.dirac,
    "latent": lambda: explore.latent(bundled()),
    "classes": lambda: explore.classes(bundled()),
    "directions": lambda: explore.directions(bundled(), *axes()),
    "cover": live.cover,
    "notes": lambda: explore.notes(GENERATORS["sound"](), audio.NOTES, 4000),
}
PROPERTIES = {"slant": interpretability.slant, "thickness": interpretability.thickness}
SCRIPTS = (*live.SHARED, "generator", *EXPLORERS)


@functools.cache
def bundled() -> networks.Generator:
    """Return the conditional generator of digits that comes with the package."""
    return checkpoints.load_generator("digits")[0]


@pytest.fixture
def float64() -> Iterator[None]:
    """JavaScript computes in 64 bits, so PyTorch does too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def numbers(browser: Browser) -> Iterator[Page]:
    """A page with all scripts and no explorer."""
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    for name in SCRIPTS:
        page.add_script_tag(content=live.read(f"{name}.js"))
    yield page
    page.close()


def flat(tensors: object) -> list[list[float]]:
    """Return tensors as lists of all their numbers."""
    return [tensor.detach().flatten().tolist() for tensor in tensors]


def largest_error(given: object, expected: object) -> float:
    """Return the largest difference between two lists of lists of numbers."""
    pairs = zip(given, expected, strict=True)
    return max(np.abs(np.subtract(a, b, dtype=float)).max() for a, b in pairs)


@functools.cache
def axes() -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return the directions of slant and thickness in z, a random one, and the spread of both."""
    G = bundled()
    z, labels = sampling.latents(1000, G.latent_dim, seed=1), sampling.labels(G, 1000)
    images, vectors, spread = sampling.sample(G, z, labels), {}, {}
    for name, measure in PROPERTIES.items():
        values = interpretability.centred(measure(images), labels)
        vectors[name], spread[name] = interpretability.probe(z, values).direction, values.std()
    other = sampling.latents(1, G.latent_dim, seed=5)[0]
    return vectors | {"random": other / other.norm()}, spread


# Forward on x, and back from dy.
RUN_LAYERS = """([layers, weights, x, dy]) => {
    const make = ([kind, ...given]) => new ganLive.numbers[kind](...given);
    const network = new ganLive.numbers.Network(layers.map(make));
    network.parameters.forEach(({ value }, i) => value.set(weights[i]));
    const y = network.forward(Float64Array.from(x)), dx = network.backward(Float64Array.from(dy));
    return [y, dx, ...network.parameters.map(({ gradient }) => gradient)].map(a => [...a]);
}"""


def shape(*given: int) -> dict[str, int]:
    names = ("inputs", "outputs", "side", "kernel", "stride", "padding", "dims")
    return dict(zip(names, given, strict=False))  # dims is 2 unless it is given


@pytest.mark.parametrize(
    ("layers", "network", "size"),
    [
        (
            [["Dense", 3, 7], ["LeakyReLU", 0.2], ["Dense", 7, 5], ["Tanh"], ["Dense", 5, 1]],
            lambda: nn.Sequential(
                nn.Linear(3, 7), nn.LeakyReLU(0.2), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1)
            ),
            (6, 3),
        ),
        (
            [
                ["Convolution", shape(2, 5, 9, 3, 1, 1)],
                ["LeakyReLU"],
                ["Convolution", shape(5, 3, 9, 4, 2, 1)],
            ],
            lambda: nn.Sequential(
                nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 4, stride=2, padding=1)
            ),
            (3, 2, 9, 9),
        ),
        (
            [
                ["TransposedConvolution", shape(4, 3, 5, 4, 2, 1)],
                ["LeakyReLU", 0.2],
                ["TransposedConvolution", shape(3, 2, 10, 3, 1, 0)],
            ],
            lambda: nn.Sequential(
                nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.ConvTranspose2d(3, 2, 3),
            ),
            (2, 4, 5, 5),
        ),
        (
            [
                ["Convolution", shape(2, 5, 12, 4, 2, 1, 1)],
                ["LeakyReLU"],
                ["TransposedConvolution", shape(5, 3, 6, 8, 4, 2, 1)],
            ],
            lambda: nn.Sequential(
                nn.Conv1d(2, 5, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.ConvTranspose1d(5, 3, 8, stride=4, padding=2),
            ),
            (3, 2, 12),
        ),
    ],
    ids=["dense", "convolution", "transposed", "one dimension"],
)
def test_layers_go_forward_and_back_as_pytorch(float64, numbers, layers, network, size):
    torch.manual_seed(0)
    network = network()
    x = torch.randn(size, requires_grad=True)
    y = network(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    gradients = [parameter.grad for parameter in network.parameters()]
    given = numbers.evaluate(RUN_LAYERS, [layers, flat(network.parameters()), *flat([x, dy])])
    assert largest_error(given, flat([y, x.grad, *gradients])) < 1e-12


def test_a_new_layer_has_weights_within_the_bounds_of_pytorch(numbers):
    weights, biases = numbers.evaluate(
        """() => {
            const layer = new ganLive.numbers.Dense(25, 400, ganLive.numbers.uniforms(1));
            return layer.parameters.map(({ value }) => [...value]);
        }"""
    )
    for values in (weights, biases):
        assert stats.kstest(values, stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01


def test_random_numbers_have_their_distributions(numbers):
    uniform, normal, others = numbers.evaluate(
        """() => {
            const { uniforms, normals, array } = ganLive.numbers;
            const draw = seed => [...array(20000).map(uniforms(seed))];
            return [draw(0), [...normals(uniforms(1), 20001)], draw(1)];
        }"""
    )
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(normal, "norm").pvalue > 0.01
    assert len(normal) == 20001
    pairs = (uniform[:-1], uniform[1:]), (uniform, others), (normal[:-1], normal[1:])
    for a, b in pairs:  # neighbours, and neighbouring seeds
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a))


def test_every_objective_is_that_of_the_package(float64, numbers):
    torch.manual_seed(0)
    pairs = 3 * torch.randn(2, 200)
    given = numbers.evaluate(
        """pairs => Object.fromEntries(Object.entries(ganLive.numbers.objectives).map(
            ([name, { d, g }]) => [name, [d, g].map(f => pairs[0].map((r, i) => f(r, pairs[1][i])))]
        ))""",
        pairs.tolist(),
    )
    assert list(given) == list(losses.OBJECTIVES)
    for name, objective in losses.OBJECTIVES.items():
        for r, f, by_d, by_g in zip(*pairs, *given[name], strict=True):
            r, f = r.reshape(1).requires_grad_(), f.reshape(1).requires_grad_()
            d_loss, g_loss = objective.d_loss(r, f), objective.g_loss(r, f)
            d_slopes = torch.autograd.grad(d_loss, (r, f), retain_graph=True)
            (g_slope,) = torch.autograd.grad(g_loss, f)
            assert by_d == pytest.approx([d_loss.item(), *map(float, d_slopes)], abs=1e-12)
            assert by_g == pytest.approx([g_loss.item(), float(g_slope)], abs=1e-12)


RUN_TRAINING = """([settings, G, D, batches]) => {
    const { Training, PRESETS } = ganLive.trainer;
    const training = new Training({ ...PRESETS.first, ...settings });
    for (const [network, weights] of [[training.G, G], [training.average, G], [training.D, D]])
        network.parameters.forEach(({ value }, i) => value.set(weights[i]));
    const logs = batches.map(([real, z, between]) => {
        for (const [key, value] of Object.entries({ real, z, between }))
            training[key] = Float64Array.from(value);
        training.updateD();
        training.updateG();
        return [training.dLoss, training.gLoss, training.penalty];
    });
    const weights = [training.G, training.D, training.average].flatMap(n => n.parameters);
    return [logs, weights.map(({ value }) => [...value])];
}"""
CASES = (
    *({"objective": name} for name in losses.OBJECTIVES),
    {"penalty": "R1", "weight": 0.5},
    {"penalty": "R2", "weight": 0.5},
    {"penalty": "R1 + R2", "weight": 0.5, "objective": "relativistic"},
    {"penalty": "WGAN-GP", "weight": 1.0, "objective": "wasserstein"},
    {"pack": 2, "objective": "relativistic"},
    {"pack": 4, "penalty": "R1 + R2", "weight": 0.1},
    {"pack": 2, "penalty": "WGAN-GP", "weight": 0.5},
    {"optimiser": "plain", "lr_D": 0.1, "lr_G": 0.05},
    {"beta1": 0.5, "beta2": 0.999, "lr_D": 1e-4},
)


def weights_of(D: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of an MLP discriminator, from its first layer to its last."""
    D = getattr(D, "D", D)
    return [*D.layers.parameters(), *D.last.parameters()]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_fifty_steps_of_training_are_those_of_the_package(float64, numbers, settings):
    settings = {"lr_D": 2e-3, "lr_G": 2e-3, "beta1": 0.0, "beta2": 0.99, "pack": 1} | settings
    penalty, weight = settings.get("penalty", "none"), settings.get("weight", 0.0)
    recipe = dataclasses.replace(
        recipes.preset("plane"),
        objective=settings.get("objective", "non_saturating"),
        hidden=(16, 16),
        batch_size=32,
        lr_D=settings["lr_D"],
        lr_G=settings["lr_G"],
        betas=(settings["beta1"], settings["beta2"]),
        lr_end=1.0,
        penalty_noise=0.0,
        r1=weight * ("R1" in penalty),
        r2=weight * ("R2" in penalty),
        gp=weight * (penalty == "WGAN-GP"),
    )
    pack = settings["pack"]
    state = recipes.init_packed(recipe, pack) if pack > 1 else recipe.init()
    if settings.get("optimiser") == "plain":
        state.opt_G = torch.optim.SGD(state.G.parameters(), recipe.lr_G)
        state.opt_D = torch.optim.SGD(state.D.parameters(), recipe.lr_D)
    start = flat(state.G.parameters()), flat(weights_of(state.D))

    ring, batches, logs = mixtures.ring(std=0.1), [], []
    for step in range(50):
        rng = runtime.step_rng(0, step)
        real, labels = ring.batch(recipe.batch_size, rng)
        copy = torch.Generator()
        copy.set_state(rng.get_state())  # the step goes on to draw z, and then t
        z, t = torch.randn(32, 2, generator=copy), torch.rand(32, 1, generator=copy)
        batches.append(flat([real, z, t]))
        log = training.one_step(state, real, labels, recipe, rng)
        logs.append([float(log.get(name, 0)) for name in ("d_loss", "g_loss", "penalty")])

    settings |= {"hidden_G": 16, "hidden_D": 16, "batch_size": 32, "ema": recipe.ema}
    given_logs, given = numbers.evaluate(RUN_TRAINING, [settings, *start, batches])
    expected = [*state.G.parameters(), *weights_of(state.D), *state.G_ema.parameters()]
    assert largest_error(given_logs, logs) < 1e-8
    assert largest_error(given, flat(expected)) < 1e-8
    assert largest_error(given, [*start[0], *start[1], *start[0]]) > 1e-3  # the control: they moved


def test_data_and_mode_report_are_those_of_the_package(numbers):
    for name, mixture in {"ring": mixtures.ring(), "grid": mixtures.grid()}.items():
        points, _ = mixture.batch(3000, torch.Generator().manual_seed(0))
        points = points + 2 * mixture.std * torch.randn(points.shape, generator=torch.Generator())
        centres, std, report = numbers.evaluate(
            """([name, points]) => {
                const data = ganLive.trainer.DATA[name]();
                const report = ganLive.trainer.modeReport(Float64Array.from(points), data);
                return [data.centres, data.std, report];
            }""",
            [name, points.flatten().tolist()],
        )
        np.testing.assert_allclose(centres, mixture.centres, atol=1e-6)
        assert std == mixture.std
        expected = metrics.mode_report(points, mixture)
        assert report["covered"] == expected.covered
        assert report["counts"] == expected.counts.tolist()
        assert report["quality"] == pytest.approx(expected.high_quality)
        assert 0.2 < report["quality"] < 0.9  # the control: some lie outside


def test_samples_of_the_data_lie_at_their_modes(numbers):
    for name in ("ring", "grid", "moons", "draw"):
        covered, quality, count = numbers.evaluate(
            """name => {
                const { DATA, sample, modeReport } = ganLive.trainer, data = DATA[name]();
                const points = sample(data, 4000, ganLive.numbers.uniforms(3));
                const { covered, quality } = modeReport(points, data);
                return [covered, quality, data.count];
            }""",
            name,
        )
        assert covered == count
        assert quality > 0.975  # 1 - exp(-9/2) = 0.989 of one Gaussian; more where they overlap


def test_divergence_is_that_of_scipy(numbers):
    rng = np.random.default_rng(0)
    p, q = rng.random((2, 500)) * (rng.random((2, 500)) > 0.3)  # with zeros
    p, q = p / p.sum(), q / q.sum()
    a, b = rng.normal(size=(2, 1500, 2)) + np.array([[[0, 0]], [[0.7, 0.3]]])
    js, *given, of_samples = numbers.evaluate(
        """([p, q, a, b]) => {
            const { histogram, jensenShannon } = ganLive.trainer;
            const shares = [a, b].map(points => histogram(Float64Array.from(points), 1.7));
            return [jensenShannon(p, q), ...shares.map(s => [...s]), jensenShannon(...shares)];
        }""",
        [p.tolist(), q.tolist(), a.flatten().tolist(), b.flatten().tolist()],
    )
    assert js == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-12)
    edges = np.linspace(-1.7, 1.7, 41)
    for shares, points in zip(given, (a, b), strict=True):
        inside, *_ = np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))
        expected = np.append(inside.ravel(), len(points) - inside.sum()) / len(points)
        np.testing.assert_allclose(shares, expected, atol=1e-12)
        assert shares[-1] > 0.02  # some lie outside
    assert of_samples == pytest.approx(jensenshannon(*given) ** 2, abs=1e-12)


@pytest.mark.parametrize("mean", [-3.0, 0.0, 1.3])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
def test_the_game_is_that_of_the_package(float64, numbers, mean, std):
    for real in ("one", "two"):
        x = torch.linspace(-14, 14, 2801)
        bells = {"one": [(1, 0, 1)], "two": [(0.5, -2, 0.6), (0.5, 2, 0.6)]}[real]
        logs = [math.log(w) + torch.distributions.Normal(m, s).log_prob(x) for w, m, s in bells]
        log_p = torch.stack(logs).logsumexp(0)
        parameters = torch.tensor([mean, math.log(std)], requires_grad=True)
        log_q = torch.distributions.Normal(parameters[0], parameters[1].exp()).log_prob(x)
        given = numbers.evaluate(
            """state => {
                const { play, slope } = ganLive.game;
                const now = play(state), other = play({ ...state, trust: 0.5 });
                const p = [...now.probability];
                return [p, now.js, now.best, now.value, other.value, slope(state)];
            }""",
            {"real": real, "mean": mean, "std": std, "trust": 1},
        )
        D, js, top, value, other, slope = given
        p, q = log_p.exp(), log_q.detach().exp()
        populated = p + q > 1e-200
        expected = losses.optimal_discriminator(p, q)
        np.testing.assert_allclose(np.array(D)[populated], expected[populated], atol=1e-9)
        assert js == pytest.approx(losses.jensen_shannon(p, q, 0.01).item(), abs=1e-6)
        best = (log_p - log_q).detach()
        v = -0.01 * (p * softplus(-best) + log_q.exp() * softplus(best)).sum()
        assert value == top == pytest.approx(v.item(), abs=1e-9)
        assert top == pytest.approx(2 * js - math.log(4), abs=1e-4)
        assert other <= top + 1e-12
        v.backward()
        assert slope == pytest.approx(parameters.grad.tolist(), abs=1e-4)


def test_the_losses_are_those_of_the_package(float64, numbers):
    for name, objective in losses.OBJECTIVES.items():
        for side in ("g", "fake", "real"):
            for o, other in ((-4.0, 0.0), (0.3, 1.2), (5.0, -2.0)):
                slid, partner = torch.tensor([o], requires_grad=True), torch.tensor([other])
                r, f = (slid, partner) if side == "real" else (partner, slid)
                loss = (objective.g_loss if side == "g" else objective.d_loss)(r, f)
                loss.backward()
                call = "a => ganLive.losses.evaluate(...a)"
                given = numbers.evaluate(call, [name, side, o, other])
                assert given == pytest.approx([loss.item(), slid.grad.item()], abs=1e-12)


def dirac_step(state: torch.Tensor, eta: float, gamma: float, turns: str, objective: str):
    """One step of the Dirac-GAN from the package's losses and its penalty, by autograd."""
    game, zero = losses.OBJECTIVES[objective], torch.zeros(1, 1)

    def gradients(theta: torch.Tensor, psi: torch.Tensor) -> tuple[torch.Tensor, ...]:
        theta, psi = 1 * theta, 1 * psi  # partial derivatives: each holds the other weight still

        def D(x: torch.Tensor) -> torch.Tensor:
            return (psi * x).squeeze(1)

        r, f = D(zero), D(theta.reshape(1, 1))
        d_loss = game.d_loss(r, f) + gamma / 2 * penalties.r1(D, zero, zero)
        (of_psi,) = torch.autograd.grad(d_loss, psi, create_graph=True)
        (of_theta,) = torch.autograd.grad(game.g_loss(r, f), theta, create_graph=True)
        return of_theta, of_psi

    theta, psi = state.unbind()
    of_theta, of_psi = gradients(theta, psi)
    next_psi = psi - eta * of_psi
    if turns == "alternating":
        of_theta, _ = gradients(theta, next_psi)
    return torch.stack([theta - eta * of_theta, next_psi])


@pytest.mark.parametrize("objective", ["minimax", "non_saturating"])
@pytest.mark.parametrize("turns", ["alternating", "simultaneous"])
@pytest.mark.parametrize(("eta", "gamma"), [(0.2, 0.0), (0.2, 0.3), (1.0, 2.1)])
def test_the_dirac_gan_is_that_of_autograd(float64, numbers, objective, turns, eta, gamma):
    settings = {"eta": eta, "gamma": gamma, "turns": turns, "objective": objective}
    state, expected = torch.tensor([1.0, 0.8]), []
    for _ in range(31):
        expected.append(state.tolist())
        state = dirac_step(state.requires_grad_(), **settings).detach()
    J = torch.autograd.functional.jacobian(lambda s: dirac_step(s, **settings), torch.zeros(2))
    path, eigenvalues = numbers.evaluate(
        """settings => [
            ganLive.dirac.path([1, 0.8], 30, settings), ganLive.dirac.eigenvalues(settings)
        ]""",
        settings,
    )
    np.testing.assert_allclose(path, expected, atol=1e-10)
    found = [complex(*value) for value in eigenvalues]
    for value in torch.linalg.eigvals(J).tolist():
        assert min(abs(value - other) for other in found) < 1e-9


# A generator's weights on their way to the page.


def trained(G: networks.Generator) -> networks.Generator:
    """Return G in evaluation mode with statistics and scales as after training, not 0 and 1."""
    torch.manual_seed(0)
    for module in G.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 3)
    return G.eval()


GENERATORS = {
    "bundled": bundled,
    "conditional": lambda: trained(networks.ConvGenerator(9, (1, 16, 16), 4, classes=3)),
    "unconditional": lambda: trained(networks.ConvGenerator(20, (1, 28, 28), 8)),
    "one doubling": lambda: trained(networks.ConvGenerator(5, (1, 8, 8), 3)),
    "MLP": lambda: trained(networks.MLPGenerator(12, (1, 10, 10), (30, 40), classes=2)),
    "sound": lambda: trained(audio.SoundGenerator(32, classes=10)),
}
CONVOLVE = {
    ("Convolution", 3): nn.functional.conv1d,
    ("Convolution", 4): nn.functional.conv2d,
    ("TransposedConvolution", 3): nn.functional.conv_transpose1d,
    ("TransposedConvolution", 4): nn.functional.conv_transpose2d,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_folded_layers_are_the_generator(name):
    G = GENERATORS[name]()
    z, y = sampling.latents(50, G.latent_dim), sampling.labels(G, 50)
    first, *others = explore.fold(G)
    bias = first.bias if y is None else first.bias[y]
    x = z.double() @ first.weight.T + bias  # (50, outputs)
    for layer in others:
        x, options = x.relu(), {"stride": layer.stride, "padding": layer.padding}
        if layer.kind == "Dense":
            x = x @ layer.weight.T + layer.bias
            continue
        channels = layer.weight.shape[0 if layer.kind == "TransposedConvolution" else 1]
        if x.ndim == 2:
            dims = layer.weight.ndim - 2
            side = round((x.shape[1] // channels) ** (1 / dims))
            x = x.unflatten(1, (channels, *[side] * dims))
        convolve = CONVOLVE[layer.kind, layer.weight.ndim]
        x = convolve(x, layer.weight, layer.bias, **options)
    expected = sampling.sample(G, z, y)
    torch.testing.assert_close(x.tanh().view_as(expected).float(), expected, atol=1e-5, rtol=0)
    assert expected.std(0).max() > 1e-3  # the control: the images differ


@pytest.mark.parametrize("name", GENERATORS)
def test_the_page_draws_the_images_of_the_generator(numbers, name):
    G = GENERATORS[name]()
    z, y = sampling.latents(500, G.latent_dim, seed=1), sampling.labels(G, 500)
    y = torch.zeros(500, dtype=torch.long) if y is None else y
    given = numbers.evaluate(
        """([packed, zs, ys]) => {
            const G = ganLive.generator.unpack(packed);
            return zs.map((z, i) => [...G.generate(z, ys[i])]);
        }""",
        [explore.pack(G), z.tolist(), y.tolist()],
    )
    expected = sampling.sample(G, z, y if G.classes else None).flatten(1)
    levels = 127.5 * (torch.tensor(given) - expected).abs()
    assert levels.max() < 1
    assert levels.mean() < 0.05


def test_images_that_are_drawn_side_by_side_do_not_mix(numbers):
    z = sampling.latents(2, bundled().latent_dim).tolist()
    alone, beside = numbers.evaluate(
        """([packed, zs]) => {
            const G = ganLive.generator.unpack(packed);
            const alone = zs.map((z, i) => [...G.generate(z, i)]);
            const works = zs.map((z, i) => G.generating(z, i)), beside = [null, null];
            while (beside.includes(null)) {
                for (const [i, work] of works.entries()) {
                    const { done, value } = work.next();
                    if (done && value) beside[i] = [...value];
                }
            }
            return [alone, beside];
        }""",
        [explore.pack(bundled()), z],
    )
    assert beside == alone
    assert alone[0] != alone[1]


def test_what_a_network_has_returned_stays(numbers):
    before, after, second = numbers.evaluate(
        """() => {
            const { mlp, uniforms } = ganLive.numbers;
            const network = mlp([2, 8, 1], 0.2, uniforms(0)), ones = Float64Array.of(1, 1);
            const y = network.forward(Float64Array.of(1, 2, 3, 4)), dx = network.backward(ones);
            const before = [...y, ...dx];
            const second = network.forward(Float64Array.of(-5, 6, 7, -8));
            network.backward(ones);
            return [before, [...y, ...dx], [...second]];
        }"""
    )
    assert before == after
    assert second != before[:2]


def test_a_label_between_two_is_a_mixture_of_their_vectors(numbers):
    G = bundled()
    z, table = sampling.latents(1, G.latent_dim), G.embedding.weight
    label = 0.3 * table[3] + 0.7 * table[8]
    with torch.no_grad():
        expected = G.layers(torch.cat([z, label[None]], dim=1)).flatten()
    given = numbers.evaluate(
        """([packed, z]) => {
            return [...ganLive.generator.unpack(packed).generate(z, [[3, 0.3], [8, 0.7]])];
        }""",
        [explore.pack(G), z[0].tolist()],
    )
    assert 127.5 * (torch.tensor(given) - expected).abs().max() < 1


def test_weights_in_the_page_are_as_exact_as_float16():
    G = GENERATORS["unconditional"]()
    packed = explore.pack(G)
    weights = base64.b64decode(packed["weights"])
    bits = np.unpackbits(np.frombuffer(weights, np.uint8))
    tensors = [tensor for layer in explore.fold(G) for tensor in (layer.weight, layer.bias)]
    for tensor, step in zip(tensors, packed["steps"], strict=True):
        mine, bits = np.split(bits, [explore.BITS * tensor.numel()])
        values = mine.reshape(-1, explore.BITS) @ (1 << np.arange(explore.BITS)[::-1])
        values = step * (values - 2 ** (explore.BITS - 1))
        np.testing.assert_allclose(values, tensor.flatten(), atol=step * 0.501)
    assert len(bits) < 8


def test_latent_vectors_of_the_page(numbers):
    many, few, others, truncated, exact = numbers.evaluate(
        """() => {
            const { latents, truncate, quantile, distribution } = ganLive.generator;
            const lists = vectors => vectors.map(z => [...z]);
            const many = latents(7, 400, 33);
            return [lists(many), lists(latents(7, 3, 33)), lists(latents(8, 3, 33)),
                lists(many.map(z => truncate(z, 0.7))),
                [-3, -0.4, 0, 1.7].map(x => [distribution(x), quantile(distribution(x))])];
        }"""
    )
    assert stats.kstest(np.ravel(many), "norm").pvalue > 0.01
    assert many[:3] == few  # a vector does not depend on how many are drawn
    assert many[0] != others[0]
    within = stats.truncnorm(-0.7, 0.7)
    assert stats.kstest(np.ravel(truncated), within.cdf).pvalue > 0.01
    assert np.abs(truncated).max() <= 0.7
    assert np.corrcoef(np.ravel(many), np.ravel(truncated))[0, 1] > 0.9  # and keeps the order
    expected = [[stats.norm.cdf(x), x] for x in (-3, -0.4, 0, 1.7)]
    np.testing.assert_allclose(exact, expected, atol=1e-4)


def test_the_ways_between_two_vectors_are_those_of_the_package(numbers):
    a, b = sampling.latents(2, 16, seed=2)
    given = numbers.evaluate(
        """([a, b]) => ["lerp", "slerp"].map(name => [0, 0.25, 0.5, 0.75, 1].map(
            t => ganLive.generator[name](a, b, t)))""",
        [a.tolist(), b.tolist()],
    )
    for path, points in zip((sampling.lerp, sampling.slerp), given, strict=True):
        np.testing.assert_allclose(points, path(a, b, 5), atol=1e-5)


def test_slant_and_thickness_are_those_of_the_package(numbers):
    images = sampling.generate(bundled(), 60, seed=3)
    given = numbers.evaluate(
        """images => Object.values(ganLive.directions).map(
            property => images.map(image => property(Float64Array.from(image), 28)))""",
        images.flatten(1).tolist(),
    )
    for values, measure in zip(given, PROPERTIES.values(), strict=True):
        np.testing.assert_allclose(values, measure(images), atol=1e-4)


def sounds() -> torch.Tensor:
    """Return twenty real strings, ten more under noise, and ten of noise: (40, 1, 1024)."""
    waves = audio.plucked_strings(30, seed=2).waves
    noise = 0.3 * torch.randn(20, 1, 1024, generator=torch.Generator().manual_seed(0))
    return torch.cat([waves[:20], waves[20:] + noise[:10], noise[10:]])


def test_measures_of_sounds_are_those_of_the_package(numbers):
    waves = sounds()
    given, shapes, spectra, finer = numbers.evaluate(
        """waves => {
            const { pitch, decayAndBrightness, spectrum, upsample } = ganLive.notes;
            const xs = waves.map(x => Float64Array.from(x)), pitches = xs.map(x => pitch(x, 4000));
            return [pitches, xs.map((x, i) => decayAndBrightness(x, pitches[i], 4000)),
                xs.map(x => [...spectrum(x)]), [...upsample(xs[0], 4)]];
        }""",
        waves[:, 0].tolist(),
    )
    pitches = audio.pitch(waves, 4000)
    given = torch.tensor([math.nan if found is None else found for found in given])
    assert torch.equal(given.isnan(), pitches.isnan())
    assert pitches.isnan().sum() >= 5  # the control: noise has none
    known = ~pitches.isnan()
    assert audio.cents(given[known], pitches[known]).abs().max() < 1
    x = waves[:20, 0].double().numpy()  # the chapter's heights of the first two harmonics
    n, window = np.arange(1024), np.hanning(513)[:-1]
    turns = np.exp(-2j * np.pi * pitches[:20, None].double().numpy() * n / 4000)
    halves = [(x * turns**k).reshape(20, 2, 512) * window for k in (1, 2)]
    (first, later), (second, _) = (np.abs(half.sum(2)).T for half in halves)
    decay = np.log(first / later) / 0.128
    expected = np.stack([decay, 2 * second / first * np.exp(decay * 0.064)], 1)
    np.testing.assert_allclose(shapes[:20], expected, rtol=0.02)
    power = np.abs(np.fft.rfft(waves[:, 0].numpy() * np.hanning(1025)[:-1]))[:, :-1] ** 2
    expected = 10 * np.log10(power / power.max(1, keepdims=True) + 1e-9)
    np.testing.assert_allclose(spectra, expected, atol=0.01)
    smooth = scipy.signal.resample(x[0], 4096)[400:-400]  # except its ends, which wrap around
    np.testing.assert_allclose(finer[400:-400], smooth, atol=0.02)
    np.testing.assert_allclose(finer[::4], x[0], atol=1e-12)


def test_a_real_string_is_that_of_the_package(numbers):
    given = numbers.evaluate(
        """() => [...ganLive.notes.pluck(
            { pitch: 220, decay: 4, brightness: 0.7, phase: 1 }, 1024, 4000)]"""
    )
    values = (torch.tensor([value]) for value in (220.0, 4.0, 0.7, 1.0))
    np.testing.assert_allclose(given, audio.pluck(*values)[0, 0], atol=1e-3)


def test_sounds_in_the_page_differ_little_from_the_generator(numbers):
    G = GENERATORS["sound"]()
    z, y = sampling.latents(50, G.latent_dim, seed=1), sampling.labels(G, 50)
    given = numbers.evaluate(
        """([packed, zs, ys]) => {
            const G = ganLive.generator.unpack(packed);
            return zs.map((z, i) => [...G.generate(z, ys[i])]);
        }""",
        [explore.pack(G, explore.SOUND_BITS), z.tolist(), y.tolist()],
    )
    expected = sampling.sample(G, z, y)[:, 0]
    error = (torch.tensor(given) - expected).square().mean() / expected.square().mean()
    assert error < 10**-3  # 30 dB


def test_the_keyboard_of_the_book_plays_in_tune(numbers):
    """The generator that the chapter on sound has stored, in 8 bits."""
    notebook = Path(__file__).parent.parent / "book/beyond/audio.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    pages = ["".join(output.get("text/html", "")) for output in outputs]
    (page,) = [page for page in pages if 'data-gan-live="notes"' in page]
    stored = json.loads(re.search(r'"notes", (\{.*\})\)</script>', page)[1])
    given = numbers.evaluate(
        """packed => {
            const G = ganLive.generator.unpack(packed);
            return ganLive.generator.latents(1, 100, packed.latent).map(
                (z, i) => [...G.generate(z, i % 10)]);
        }""",
        stored["G"],
    )
    pitches = audio.pitch(torch.tensor(given)[:, None], stored["rate"])
    targets = torch.tensor(list(stored["notes"].values())).repeat(10)
    assert audio.in_tune(pitches, targets) > 0.9


def test_the_cover_has_the_bundled_generator(numbers):
    G, stored = bundled(), json.loads(live.read("cover.json"))
    z, y = sampling.latents(50, G.latent_dim, seed=1), sampling.labels(G, 50)
    given = numbers.evaluate(
        """([packed, zs, ys]) => {
            const G = ganLive.generator.unpack(packed);
            return zs.map((z, i) => [...G.generate(z, ys[i])]);
        }""",
        [stored["G"], z.tolist(), y.tolist()],
    )
    levels = 127.5 * (torch.tensor(given) - sampling.sample(G, z, y).flatten(1)).abs()
    assert levels.max() < 1, "run tools/stills.py cover"
    for name, key in {"slant": "across", "thickness": "up"}.items():
        cosine = torch.tensor(stored[key]) @ axes()[0][name]
        assert cosine > 0.9, "run tools/stills.py cover"


# The explorers themselves, in a page opened from a file, without a network.

STYLE = "<!doctype html><html lang=en><meta charset=utf-8><title>explorer</title>"
VIEWPORT = "<meta name=viewport content='width=device-width, initial-scale=1'>"


@dataclasses.dataclass
class Visit:
    """An open page and what it complained about."""

    page: Page
    messages: list[str]

    def explorer(self, name: str) -> Locator:
        """Return the explorer called ``name``, once it has started."""
        return self.page.locator(f'.gan-live[data-ready="{name}"]')


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all explorers, each as its cell shows it."""
    path = tmp_path_factory.mktemp("live") / "page.html"
    outputs = "".join(show()._repr_html_() for show in EXPLORERS.values())
    path.write_text(f"{STYLE}{VIEWPORT}<main><h1>Explorers</h1>{outputs}</main>", encoding="utf-8")
    return path


def visit(context: BrowserContext, file: Path) -> Visit:
    """Open the page; every request but the page's own is a complaint."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    seen = Visit(page, [])
    page.on("console", lambda message: seen.messages.append(message.text))
    page.on("pageerror", lambda error: seen.messages.append(str(error)))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:")) or seen.messages.append(request.url)
        ),
    )
    page.goto(file.as_uri())
    for name in EXPLORERS:
        seen.explorer(name).wait_for()
    return seen


@pytest.fixture(scope="module")
def desktop(browser: Browser, file: Path) -> Iterator[Visit]:
    """The page at 1280 pixels."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield visit(context, file)
    context.close()


@pytest.fixture(scope="module")
def phone(browser: Browser, file: Path) -> Iterator[Visit]:
    """The page at 360 pixels, touched, for someone who wants no motion."""
    context = browser.new_context(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        reduced_motion="reduce",
    )
    yield visit(context, file)
    context.close()


def choose(explorer: Locator, name: str, value: str) -> None:
    """Choose a value in the list that is called ``name``."""
    choice(explorer, name).select_option(value)


def choice(explorer: Locator, name: str) -> Locator:
    """Return the list that is called ``name``."""
    label = explorer.locator(".gan-live-choice", has_text=re.compile(f"^{name}"))
    return label.locator("select")


def state(explorer: Locator, expression: str) -> object:
    """Evaluate an expression of the explorer's own state, ``e``."""
    return explorer.evaluate(f"root => {{ const e = root.explorer; return {expression}; }}")


def number(explorer: Locator, name: str) -> str:
    """Return what the list of numbers says beside a name."""
    return explorer.locator("dl div", has_text=name).locator("dd").inner_text()


def pixels(explorer: Locator, which: int = 0) -> str:
    """Return a canvas as text, to see whether it changed."""
    return explorer.locator("canvas").nth(which).evaluate("canvas => canvas.toDataURL()")


def violations(page: Page) -> list[str]:
    """Return all of axe-core's findings, with every fold opened."""
    page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {node['html'][:200]}" for v in found for node in v["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_explorers_are_accessible(desktop, theme):
    desktop.page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    desktop.page.evaluate(
        "theme => { document.body.style.background = theme === 'dark' ? '#111' : '#fff';"
        "document.querySelector('h1').style.color = theme === 'dark' ? '#fff' : '#000'; }",
        theme,
    )
    assert violations(desktop.page) == []


def test_explorers_are_accessible_on_a_phone(phone):
    assert violations(phone.page) == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_explorers_fit(desktop, width):
    desktop.page.set_viewport_size({"width": width, "height": 900})
    assert desktop.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    small = """root => [...root.querySelectorAll('button, select, input, summary')]
        .filter(node => node.offsetParent && node.getBoundingClientRect().height < 17)
        .map(node => node.outerHTML)"""
    for name in EXPLORERS:
        assert desktop.explorer(name).evaluate(small) == []
    desktop.page.set_viewport_size({"width": 1280, "height": 900})


def test_every_control_has_a_name(desktop):
    for control in desktop.page.locator(
        ".gan-live :is(button, input, select, canvas:not([aria-hidden]))"
    ).all():
        assert control.evaluate(
            "node => node.ariaLabel || (node.labels?.[0] ?? node).textContent.trim()"
        )


def test_the_theme_repaints(desktop):
    root = desktop.page.locator("html")
    root.evaluate("html => { html.dataset.theme = 'light'; }")
    for name in EXPLORERS:
        explorer = desktop.explorer(name)
        light = drawn(explorer)
        root.evaluate("html => { html.dataset.theme = 'dark'; }")
        assert drawn(explorer) != light
        root.evaluate("html => { html.dataset.theme = 'light'; }")


@pytest.mark.parametrize("name", EXPLORERS)
def test_without_javascript_a_picture_and_its_text_stand_there(browser, file, name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    still = page.locator(".gan-live", has=page.locator(f'[data-gan-live="{name}"]')).locator("img")
    assert still.is_visible()
    assert len(still.get_attribute("alt")) > 100
    assert page.locator(".gan-live-hint").first.is_visible()
    context.close()


def test_the_still_stands_until_the_pictures_are_drawn(browser, file):
    page = browser.new_page()
    page.add_init_script(
        """globalThis.seen = [];
        const look = () => {
            for (const root of document.querySelectorAll(".gan-live"))
                seen.push([root.querySelector("img").hidden, Boolean(root.explorer?.busy)].join());
            requestAnimationFrame(look);
        };
        requestAnimationFrame(look);"""
    )
    page.goto(file.as_uri())
    for name in EXPLORERS:
        page.locator(f'.gan-live[data-ready="{name}"]').wait_for(timeout=TIMEOUT)
    seen = set(page.evaluate("seen"))
    assert {"false,true", "true,false"} <= seen  # drawing behind it, and drawn
    assert "true,true" not in seen
    page.close()


def test_the_trainer_by_keyboard_alone(desktop):
    page, trainer = desktop.page, desktop.explorer("trainer")
    trainer.get_by_role("button", name="Reset").focus()
    page.keyboard.press("Enter")
    assert state(trainer, "e.training.step") == 0
    before = pixels(trainer)
    page.keyboard.press("Shift+Tab")  # Step of G
    page.keyboard.press("Shift+Tab")  # Step of D
    d, g = "[...e.training.D.parameters[0].value]", "[...e.training.G.parameters[0].value]"
    weights = state(trainer, d), state(trainer, g)
    page.keyboard.press("Enter")
    assert state(trainer, d) != weights[0]
    assert state(trainer, g) == weights[1]
    assert "D’s turn" in trainer.locator("[role=status]").inner_text()
    weights = state(trainer, d), state(trainer, g)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # Step of G
    assert state(trainer, d) == weights[0]
    assert state(trainer, g) != weights[1]
    assert number(trainer, "step") == "1"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")  # Play
    page.wait_for_function(
        "root => root.explorer.training.step >= 25", arg=trainer.element_handle()
    )
    page.keyboard.press("Space")  # Pause
    step = state(trainer, "e.training.step")
    page.wait_for_timeout(300)
    assert state(trainer, "e.training.step") == step
    assert number(trainer, "step") == str(step)
    assert pixels(trainer) != before
    assert state(trainer, "e.history.length") >= 2


def test_the_trainer_shows_what_is_ticked(desktop):
    trainer = desktop.explorer("trainer")
    for name in ("data", "samples", "D’s field", "G’s grid", "gradient"):
        box = trainer.get_by_label(name, exact=True)
        before = pixels(trainer)
        box.focus()
        desktop.page.keyboard.press("Space")
        assert pixels(trainer) != before, name
        desktop.page.keyboard.press("Space")


def test_the_trainer_shows_the_field_of_one_d(desktop):
    trainer = desktop.explorer("trainer")
    trainer.evaluate(
        """root => {  // every field that is painted, and D's weights then
            globalThis.painted = [];
            const context = CanvasRenderingContext2D.prototype, put = context.putImageData;
            globalThis.restore = () => { context.putImageData = put; };
            context.putImageData = function (image, ...place) {
                const weights = root.explorer.training.D.parameters.map(({ value }) => [...value]);
                painted.push({ side: image.width, data: [...image.data], weights });
                return put.call(this, image, ...place);
            };
        }"""
    )
    trainer.get_by_role("button", name="Play").click()
    desktop.page.wait_for_function(
        "new Set(painted.slice(8).map(({ data }) => data.join())).size >= 4"
    )
    trainer.get_by_role("button", name="Pause").click()
    shown, matched, mixed = trainer.evaluate(
        """root => {
            restore();
            const { training } = root.explorer, judge = training.likeD(), side = painted[0].side;
            const places = Float32Array.from({ length: 2 * side * side }, (_, i) => {
                const cell = i >> 1, at = i % 2 ? cell / side | 0 : cell % side;
                const place = (((at + 0.5) / side) * 2 - 1) * training.data.reach;
                return i % 2 ? -place : place;
            });
            const opacities = ({ data }) => data.filter((_, i) => i % 4 === 3);
            const fields = painted.map(({ weights }) => {
                judge.parameters.forEach(({ value }, i) => value.set(weights[i]));
                const logits = judge.forward(places);
                const largest = Math.max(0.1, ...logits.map(Math.abs));
                return [...logits].map((o) => 175 * Math.abs(Math.tanh((2.5 * o) / largest)));
            });
            const of_one = (field) =>
                fields.some((other) => field.every((x, i) => Math.abs(x - other[i]) < 1.1));
            const all = painted.slice(8).map(opacities), half = (side * side) / 2;
            const distinct = all.filter((x, i) => i && x.join() !== all[i - 1].join());
            const mixture = [...distinct[0].slice(0, half), ...distinct.at(-1).slice(half)];
            return [distinct.length, all.every(of_one), of_one(mixture)];
        }"""
    )
    assert shown >= 3
    assert matched
    assert not mixed  # so the comparison can fail


def test_the_trainer_plays_on_with_the_average_after_a_single_turn(desktop):
    trainer = desktop.explorer("trainer")
    trainer.get_by_label("average of G").check()
    trainer.get_by_role("button", name="Step of D").click()
    assert not trainer.get_by_label("average of G").is_checked()  # a turn shows G itself
    trainer.get_by_role("button", name="Play").click()
    assert trainer.get_by_label("average of G").is_checked()
    trainer.get_by_role("button", name="Pause").click()


def test_the_trainer_takes_its_settings(desktop):
    trainer = desktop.explorer("trainer")
    trainer.locator("details").evaluate("box => { box.open = true; }")
    choose(trainer, "preset", "film")
    assert state(trainer, "[e.recipe.lr_D, e.recipe.lr_G, e.recipe.beta1]") == [1e-4, 1e-3, 0.5]
    choose(trainer, "preset", "cured")
    assert state(trainer, "[e.recipe.lr_D, e.recipe.lr_G, e.recipe.beta1]") == [1e-3, 1e-3, 0]
    for name in losses.OBJECTIVES:
        choose(trainer, "objective", name)
        assert state(trainer, "e.recipe.objective") == name
    assert choice(trainer, "preset").input_value() == "own"
    trainer.get_by_label("learning rate of D").focus()
    desktop.page.keyboard.press("ArrowRight")
    assert state(trainer, "e.recipe.lr_D") == pytest.approx(1e-3 * 10**0.05)
    choose(trainer, "samples in a pack", "2")
    assert state(trainer, "e.training.D.layers[0].inputs") == 4
    for penalty in ("R1", "R2", "R1 + R2", "WGAN-GP"):
        choose(trainer, "penalty on D", penalty)
        trainer.get_by_role("button", name="Step of D").click()
        assert state(trainer, "e.training.penalty") > 0
    for noise, inputs in (("line", 1), ("uniform", 2), ("normal", 2)):
        choose(trainer, "noise z", noise)
        assert state(trainer, "e.training.G.layers[0].inputs") == inputs
    for name, value in (("width of G", "32"), ("width of D", "16"), ("hidden layers", "3")):
        choose(trainer, name, value)
    sizes = "[e.training.G, e.training.D].map(N => N.parameters.slice(1).map(p => p.value.length))"
    g, d = state(trainer, sizes)  # biases, and weights
    assert (g[::2], d[::2]) == ([32, 32, 32, 2], [16, 16, 16, 1])
    choose(trainer, "preset", "first")
    assert state(trainer, "e.training.D.layers[0].inputs") == 2
    assert state(trainer, "e.training.D.layers.length") == 5


@pytest.mark.parametrize("way", ["Step of G", "Pause"])
def test_the_trainer_says_when_it_has_diverged(desktop, way):
    trainer = desktop.explorer("trainer")
    if way == "Pause":
        trainer.get_by_label("average of G").uncheck()  # which lags behind
        trainer.get_by_role("button", name="Play").click()
    trainer.evaluate(
        """(root, way) => {
            root.explorer.training.G.parameters[0].value.fill(NaN);
            [...root.querySelectorAll("button")].find(b => b.textContent === way).click();
        }""",
        way,
    )
    assert "diverged" in trainer.locator("[role=status]").inner_text()
    assert trainer.get_by_role("button", name="Play").count() == 1
    choose(trainer, "preset", "first")


def test_the_trainer_says_what_it_does_when_the_data_change(desktop):
    trainer = desktop.explorer("trainer")
    said = trainer.locator("[role=status]")
    trainer.get_by_role("button", name="Play").click()
    choose(trainer, "data", "draw")
    assert said.inner_text() == "Training."
    trainer.get_by_role("button", name="Pause").click()
    trainer.get_by_role("button", name="Reset").click()
    assert "then press Play" in said.inner_text()
    label = trainer.locator("canvas").first.get_attribute("aria-label")
    assert label.endswith("space adds a point, the first in place of the spiral.")
    trainer.locator("details").evaluate("box => { box.open = true; }")
    choose(trainer, "samples in a pack", "2")
    assert re.search("no field in the plane. Draw with", said.inner_text())
    choose(trainer, "preset", "first")
    choose(trainer, "data", "ring")


def test_points_are_drawn_by_mouse_and_by_keys(desktop):
    page, trainer = desktop.page, desktop.explorer("trainer")
    choose(trainer, "data", "draw")
    plot = trainer.locator("canvas").first
    trainer.get_by_role("button", name="Clear").click()
    trainer.get_by_role("button", name="Play").click()
    assert "Draw" in trainer.locator("[role=status]").inner_text()  # nothing to learn from
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"], steps=10)
    page.mouse.up()
    drawn = state(trainer, "e.training.data.centres")
    assert len(drawn) >= 8
    assert drawn[0] == pytest.approx([-0.85, 0], abs=0.03)
    assert drawn[-1] == pytest.approx([0.85, 0], abs=0.03)
    plot.focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert state(trainer, "e.training.data.centres.at(-1)") == pytest.approx([0.085, 0.17])
    assert state(trainer, "e.training.data.centres.length") == len(drawn) + 1
    page.keyboard.press("Backspace")
    assert state(trainer, "e.training.data.centres.length") == len(drawn)
    trainer.get_by_role("button", name="Step of D").click()
    trainer.get_by_role("button", name="Step of G").click()
    assert number(trainer, "modes") == "not known"
    choose(trainer, "data", "ring")


@pytest.fixture
def playing(desktop: Visit) -> Iterator[Locator]:
    """The trainer while it learns from one point, with five steps of D per step of G."""
    page, trainer = desktop.page, desktop.explorer("trainer")
    choose(trainer, "data", "draw")
    trainer.get_by_role("button", name="Clear").click()
    trainer.locator("details").evaluate("box => { box.open = true; }")
    trainer.get_by_label("steps of D").fill("5")
    trainer.locator("canvas").first.focus()
    page.keyboard.press("Space")
    trainer.get_by_role("button", name="Play").click()
    page.wait_for_function("root => root.explorer.training.step > 0", arg=trainer.element_handle())
    yield trainer
    choose(trainer, "data", "ring")
    choose(trainer, "preset", "first")


@pytest.mark.parametrize("way", ["Clear", "Backspace"])
def test_the_trainer_stops_when_the_last_point_is_taken_away(playing, desktop, way):
    """Also in the midst of a step, which goes on to draw from the data."""
    playing.evaluate(
        """async (root, way) => {
            const { training } = root.explorer, { updateD, updateG } = training;
            let turns = 0; // of D since that of G
            training.updateG = () => { turns = 0; updateG.call(training); };
            training.updateD = () => { turns += 1; updateD.call(training); };
            while (turns < 1 || turns > 4) await new Promise(requestAnimationFrame);
            const pressed = new KeyboardEvent("keydown", { key: "Backspace" });
            if (way === "Backspace") root.querySelector("canvas").dispatchEvent(pressed);
            else [...root.querySelectorAll("button")].find(b => b.textContent === way).click();
        }""",
        way,
    )
    assert state(playing, "e.training.data.centres") == []
    assert playing.get_by_role("button", name="Play").count() == 1
    assert desktop.messages == []


def test_it_rests_out_of_sight(desktop):
    page, trainer = desktop.page, desktop.explorer("trainer")
    trainer.get_by_role("button", name="Reset").click()
    trainer.get_by_role("button", name="Play").click()
    page.wait_for_function("root => root.explorer.training.step > 0", arg=trainer.element_handle())
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(1000)
    step = state(trainer, "e.training.step")
    page.wait_for_timeout(1000)
    assert state(trainer, "e.training.step") == step
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function(
        f"root => root.explorer.training.step > {step}", arg=trainer.element_handle()
    )
    trainer.get_by_role("button", name="Pause").click()


def test_slow_motion_takes_turns(phone):
    trainer = phone.explorer("trainer")
    choose(trainer, "speed", "slow")
    trainer.get_by_role("button", name="Play").tap()
    said = trainer.locator("[role=status]")
    for player in "DGD":
        said.filter(has_text=f"{player}’s turn").wait_for()
    trainer.get_by_role("button", name="Pause").tap()
    assert state(trainer, "e.training.step") <= 3
    assert not trainer.get_by_label("average of G").is_checked()
    choose(trainer, "speed", "full")


def test_slow_motion_asks_for_one_frame_at_a_time(desktop):
    """And after full speed it begins with D, as the last whole step ended with G."""
    page, trainer = desktop.page, desktop.explorer("trainer")
    trainer.get_by_role("button", name="Step of D").click()
    trainer.get_by_role("button", name="Play").click()
    page.wait_for_function("root => root.explorer.training.step > 9", arg=trainer.element_handle())
    trainer.get_by_role("button", name="Pause").click()
    choose(trainer, "speed", "slow")
    said = trainer.locator("[role=status]")
    said.evaluate(
        """node => {
            globalThis.turns = "";
            globalThis.listener = new MutationObserver(() => {
                turns += /^([DG])’s turn/.exec(node.textContent)?.[1] ?? "";
            });
            listener.observe(node, { childList: true });
        }"""
    )
    trainer.get_by_role("button", name="Play").click()
    page.wait_for_function("turns.length > 3")
    assert page.evaluate("listener.disconnect(), turns").startswith("DGDG")
    asked, frames = page.evaluate(
        """async () => {
            const ask = globalThis.requestAnimationFrame;
            let [asked, frames] = [0, 0];
            globalThis.requestAnimationFrame = (callback) => (asked += 1, ask(callback));
            while (frames < 30) await new Promise((done) => ask(() => done(frames += 1)));
            globalThis.requestAnimationFrame = ask;
            return [asked, frames];
        }"""
    )
    assert frames / 3 < asked <= 1.2 * frames
    trainer.get_by_role("button", name="Pause").click()
    choose(trainer, "speed", "full")


def test_points_are_drawn_by_touch(phone):
    trainer = phone.explorer("trainer")
    choose(trainer, "data", "draw")
    trainer.get_by_role("button", name="Clear").tap()
    plot = trainer.locator("canvas").first
    plot.tap()
    assert state(trainer, "e.training.data.centres.length") == 1
    assert plot.evaluate("canvas => getComputedStyle(canvas).touchAction") == "none"
    choose(trainer, "data", "ring")
    assert (
        plot.evaluate("canvas => getComputedStyle(canvas).touchAction") == "auto"
    )  # the page scrolls


def swipe_up(page: Page, x: float, y: float) -> None:
    """Move a finger up by 80 pixels, starting at (x, y)."""
    at, touch = {"x": x, "y": y}, page.context.new_cdp_session(page).send
    touch("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    for _ in range(8):
        at["y"] -= 10
        touch("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
    touch("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize("near", [True, False])
def test_a_thumb_drags_the_start_and_elsewhere_scrolls_the_page(phone, near):
    page, dirac = phone.page, phone.explorer("dirac")
    dirac.get_by_role("button", name="Reset").tap()
    plane = dirac.locator("canvas").first
    plane.evaluate("node => node.scrollIntoView({ block: 'center', behavior: 'instant' })")
    box = plane.bounding_box()
    x, y = (30 + 3.6 / 5.2 * (box["width"] - 40), 8 + 1.6 / 5.2 * (box["height"] - 48))  # of (1, 1)
    before = page.evaluate("scrollY")
    x, y = (x, y) if near else (60, box["height"] - 60)
    swipe_up(page, box["x"] + x, box["y"] + y)
    if near:
        assert state(dirac, "e.start[1]") > 1.5
        assert page.evaluate("scrollY") == before
    else:
        page.wait_for_function(f"scrollY > {before} + 30", timeout=TIMEOUT)
        assert state(dirac, "e.start") == [1, 1]


@pytest.mark.parametrize("name", ["trainer", "game", "dirac", "latent", "classes", "cover"])
def test_keys_with_a_modifier_are_the_browsers(desktop, name):
    """Alt and ← go back a page; Meta and ↑ go to its beginning."""
    explorer = desktop.explorer(name)
    if name == "trainer":
        choose(explorer, "data", "draw")
    taken = explorer.locator("canvas[tabindex]").first.evaluate(
        """(canvas, keys) => {
            const press = (key, modifier) => !canvas.dispatchEvent(new KeyboardEvent("keydown",
                { key, [modifier]: true, bubbles: true, cancelable: true }));
            return ["none", "altKey", "ctrlKey", "metaKey"].map(
                modifier => keys.map(key => press(key, modifier)));
        }""",
        ["ArrowRight", "ArrowLeft", *["Enter", "Backspace"][: 2 * (name == "trainer")]],
    )
    assert all(taken[0])
    assert not any(map(any, taken[1:]))
    if name == "trainer":
        choose(explorer, "data", "ring")


@pytest.mark.parametrize("control", ["input[type=range]", "select", "button", "canvas[tabindex]"])
def test_keys_do_not_reach_the_page_around(desktop, control):
    """JupyterLab would move to another cell by an arrow, and make this one a heading by a digit."""
    page, dirac = desktop.page, desktop.explorer("dirac")
    page.evaluate(
        """() => {
            globalThis.outside = [];
            const heard = ({ key }) => outside.push(key);
            addEventListener("keydown", heard);
            globalThis.silence = () => removeEventListener("keydown", heard);
        }"""
    )
    dirac.locator(control).first.focus()
    for key in ("ArrowRight", "ArrowUp", "1", "Control+s"):
        page.keyboard.press(key)
    assert page.evaluate("outside") == ["Control", "s"]
    page.evaluate("silence()")
    dirac.get_by_role("button", name="Reset").click()


def test_the_game_by_keys_and_by_mouse(desktop):
    page, game = desktop.page, desktop.explorer("game")
    game.get_by_role("button", name="Reset").click()
    assert number(game, "JS(p, q)") == "0.61"
    plot = game.locator("canvas").first
    plot.focus()
    for _ in range(28):
        page.keyboard.press("ArrowLeft")
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    assert number(game, "JS(p, q)").strip("−") == "0"
    assert number(game, "V(D*, G)") == "−1.386"
    written = game.evaluate(
        """root => {
            const { fillText } = CanvasRenderingContext2D.prototype, written = [];
            CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
                written.push(text);
                fillText.call(this, text, ...place);
            };
            root.querySelector("input[type=range]").dispatchEvent(new Event("input"));
            CanvasRenderingContext2D.prototype.fillText = fillText;
            return written;
        }"""
    )
    assert "V(D, G), from −log 4 to 0" in written
    assert "V(D, G), below −log 4" not in written
    game.get_by_label("as a multiple of D*").focus()
    page.keyboard.press("ArrowRight")
    game.get_by_label("mean of q").focus()
    page.keyboard.press("ArrowRight")
    best, other = (float(number(game, name).replace("−", "-")) for name in ("V(D*, G)", "V(D, G)"))
    assert other <= best
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200 + (box["width"] - 48) / 10, box["y"] + 100, steps=4)
    page.mouse.up()
    assert state(game, "e.state.mean") == pytest.approx(1.05, abs=0.03)  # one unit further


def test_in_the_game_g_learns_by_itself(desktop):
    game = desktop.explorer("game")
    game.get_by_role("button", name="Reset").click()
    game.get_by_label("mean of q").fill("1")
    game.get_by_label("standard deviation of q").fill("1.2")
    game.get_by_role("button", name="Let G learn").click()
    game.locator("[role=status]", has_text="arrived").wait_for()
    assert abs(state(game, "e.state.mean")) < 0.02
    assert number(game, "V(D*, G)") == "−1.386"


def test_the_losses_by_keys_and_by_mouse(desktop):
    page, explorer = desktop.page, desktop.explorer("losses")

    def row(name: str) -> list[str]:
        return explorer.locator("tr", has_text=name).locator("td").all_inner_texts()

    assert row("minimax") == ["−0.018", "−0.018"]
    assert row("least squares") == ["12.5", "−5"]
    before = pixels(explorer)
    explorer.get_by_label("logit o of the sample").focus()
    page.keyboard.press("End")
    assert row("hinge") == ["−6", "−1"]
    assert row("non-saturating")[1] == "−0.002"
    assert pixels(explorer) != before
    choose(explorer, "whose loss", "real")
    assert row("hinge") == ["1", "0"]  # at o = 6, with the other logit 0
    explorer.get_by_label("logit of the other sample").focus()
    page.keyboard.press("Home")
    assert row("relativistic")[0] == "0"
    before = pixels(explorer)
    explorer.get_by_label("relativistic").focus()
    page.keyboard.press("Space")
    assert pixels(explorer) != before
    plot = explorer.locator("canvas").nth(1)
    plot.scroll_into_view_if_needed()
    plot.click(position={"x": 60, "y": 60})
    assert state(explorer, "e.state.logit") < -3
    explorer.get_by_role("button", name="Reset").press("Enter")
    assert row("minimax") == ["−0.018", "−0.018"]
    assert explorer.get_by_label("relativistic").is_checked()


def test_the_dirac_gan_by_keys_and_by_mouse(desktop):
    page, dirac = desktop.page, desktop.explorer("dirac")
    assert number(dirac, "largest") == "1"
    plot = dirac.locator("canvas").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    plot.click(position={"x": 30 + (box["width"] - 40) * 0.75, "y": 8 + (box["height"] - 48) * 0.5})
    assert state(dirac, "e.start") == pytest.approx([1.3, 0], abs=0.02)
    plot.focus()
    page.keyboard.press("ArrowUp")
    assert state(dirac, "e.start[1]") == pytest.approx(0.1, abs=0.02)
    choose(dirac, "steps", "simultaneous")
    assert number(dirac, "largest") == "1.005"
    assert number(dirac, "small distance") == "grows"
    choose(dirac, "steps", "alternating")
    before = pixels(dirac, 1)
    dirac.get_by_label("γ").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert state(dirac, "e.settings.gamma") == pytest.approx(0.3)
    assert float(number(dirac, "largest")) == pytest.approx(math.sqrt(1 - 0.06), abs=1e-4)
    assert pixels(dirac, 1) != before
    dirac.get_by_role("button", name="Play").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "root => root.querySelector('input[max=\"150\"]').value > 3", arg=dirac.element_handle()
    )
    page.keyboard.press("Enter")
    dirac.locator("input[max='150']").focus()
    page.keyboard.press("End")
    assert float(number(dirac, "at this step")) < 0.05


def drawn(explorer: Locator) -> str:
    """Return the explorer's pictures once nothing more is to be drawn."""
    explorer.page.wait_for_function(
        "root => !root.explorer.busy", arg=explorer.element_handle(), timeout=TIMEOUT
    )
    explorer.page.wait_for_timeout(100)  # the measurements follow
    return explorer.evaluate(
        "root => [...root.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()).join()"
    )


def press(explorer: Locator, control: Locator, *keys: str) -> None:
    """Press keys on a control; the pictures must have changed."""
    before = drawn(explorer)
    control.focus()
    for key in keys:
        explorer.page.keyboard.press(key)
    assert drawn(explorer) != before


def test_the_latent_space_by_keys_and_by_mouse(desktop):
    page, latent = desktop.page, desktop.explorer("latent")
    drawn(latent)
    d = bundled().latent_dim
    on_the_line, on_the_arc = (float(number(latent, f"on the {way}")) for way in ("line", "arc"))
    assert on_the_line < 0.85 * math.sqrt(d) < on_the_arc
    t = latent.get_by_label("way from a to b")
    press(latent, t, "Home")
    assert number(latent, "on the line") == number(latent, "on the arc")
    for name in ("Another a", "Another b", "Another seed"):
        press(latent, latent.get_by_role("button", name=name), "Enter")
    variety = float(number(latent, "mean distance"))
    limit = latent.get_by_label("limit c")
    press(latent, limit, "Home")
    assert float(number(latent, "mean distance")) < 0.2 * variety
    short = float(number(latent, "mean length"))
    assert short == pytest.approx(0.1 * math.sqrt(d / 3), rel=0.1)  # uniform within ±0.1
    press(latent, latent.get_by_label("stretched"), "Space")
    assert float(number(latent, "mean length")) == pytest.approx(math.sqrt(d), abs=0.01)
    assert float(number(latent, "mean distance")) > 0.6 * variety
    press(latent, latent.locator("canvas[tabindex]"), "ArrowRight", "ArrowRight")
    assert state(latent, "e.state.t") == pytest.approx(0.1)
    latent.locator("canvas[tabindex]").click(position={"x": 5, "y": 5})
    assert state(latent, "e.state.t") == 0
    latent.get_by_role("button", name="Walk").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("root => root.explorer.state.t > 0.2", arg=latent.element_handle())
    page.keyboard.press("Enter")  # Pause
    press(latent, latent.get_by_role("button", name="Reset"), "Enter")
    assert state(latent, "[e.state.t, e.state.limit]") == [0.5, 3.5]


def test_the_classes_by_keys_and_by_mouse(desktop):
    classes = desktop.explorer("classes")
    drawn(classes)
    seven = classes.get_by_role("button", name="7", exact=True)
    press(classes, seven, "Enter")
    assert seven.get_attribute("aria-pressed") == "true"
    assert classes.locator("[aria-pressed=true]").count() == 1
    gallery = classes.locator("canvas[tabindex]")
    faces = pixels(classes, 0)
    press(classes, gallery, "ArrowRight")
    assert state(classes, "e.state.style") == 1
    assert pixels(classes, 0) != faces  # all digits take the other z
    gallery.click(position={"x": 5, "y": 5})
    assert state(classes, "e.state.style") == 0
    drawn(classes)
    assert pixels(classes, 0) == faces
    variety = float(number(classes, "mean distance"))
    press(classes, classes.get_by_label("limit"), "Home")
    assert float(number(classes, "mean distance")) < 0.2 * variety
    press(classes, classes.get_by_label("share of the other"), "End")  # wholly an 8
    whole = drawn(classes)
    classes.get_by_role("button", name="8", exact=True).click()
    assert drawn(classes) == whole
    assert state(classes, "[e.state.share, e.state.towards]") == [0, 9]  # not with itself
    press(classes, gallery, "ArrowRight")
    assert "z number 2 of 12" in classes.locator("[role=status]").inner_text()
    press(classes, classes.get_by_role("button", name="Another twelve"), "Enter")
    press(classes, classes.get_by_role("button", name="Reset"), "Enter")
    assert state(classes, "[e.state.digit, e.state.share, e.state.limit]") == [3, 0, 3.5]


def test_the_directions_by_keys(desktop):
    directions = desktop.explorer("directions")
    drawn(directions)
    press(directions, directions.get_by_role("slider", name="slant"), "End")
    changes = state(directions, "e.changes")
    assert changes["slant"] > 1.5
    assert abs(changes["thickness"]) < 0.5 * changes["slant"]
    press(directions, directions.get_by_role("slider", name="thickness"), "Home")
    assert state(directions, "e.changes.thickness") < -1
    press(directions, directions.get_by_role("button", name="Reset"), "Enter")
    assert state(directions, "e.changes") == {"slant": 0, "thickness": 0}
    press(directions, directions.get_by_role("button", name="Another ten"), "Enter")
    press(directions, directions.get_by_role("slider", name="random"), "ArrowRight")
    before = drawn(directions)
    choose(directions, "digit", "4")
    assert drawn(directions) != before


def test_the_cover_by_keys_and_by_mouse(desktop):
    page, cover = desktop.page, desktop.explorer("cover")
    drawn(cover)
    plane = cover.locator("canvas[tabindex]")
    press(cover, plane, "ArrowRight", "ArrowUp")
    assert state(cover, "[e.state.x, e.state.y]") == [0.25, 0.25]
    before = pixels(cover, 1)
    inside = plane.bounding_box()["height"] - 6  # the corner itself is rounded
    plane.hover(position={"x": 6, "y": inside})  # nothing is pressed
    moved = "root => root.explorer.state.x < 0"  # the event may come late
    page.wait_for_function(moved, arg=cover.element_handle(), timeout=TIMEOUT)
    drawn(cover)
    assert state(cover, "[e.state.x, e.state.y]") == pytest.approx([-2, -2], abs=0.15)
    assert pixels(cover, 1) != before
    plane.click(position={"x": 40, "y": 40})  # holds the place
    held = state(cover, "[e.state.x, e.state.y]")
    plane.hover(position={"x": 90, "y": 90})
    assert state(cover, "[e.state.x, e.state.y]") == held
    plane.click(position={"x": 90, "y": 90})
    assert state(cover, "[e.state.x, e.state.y]") != held
    press(cover, cover.get_by_role("button", name="Another hand"), "Enter")


def test_the_cover_follows_a_finger(phone):
    cover = phone.explorer("cover")
    drawn(cover)
    before = pixels(cover, 1)
    cover.locator("canvas[tabindex]").tap(position={"x": 5, "y": 5})
    moved = "root => root.explorer.state.x < -1"  # the event may come late
    phone.page.wait_for_function(moved, arg=cover.element_handle(), timeout=TIMEOUT)
    drawn(cover)
    assert pixels(cover, 1) != before


@pytest.mark.parametrize("near", [True, False])
def test_a_thumb_drags_the_mark_of_the_cover_and_elsewhere_scrolls_the_page(phone, near):
    page, cover = phone.page, phone.explorer("cover")
    plane = cover.locator("canvas[tabindex]")
    plane.evaluate("node => node.scrollIntoView({ block: 'center', behavior: 'instant' })")
    plane.tap()  # in the middle
    middle = "root => Math.hypot(root.explorer.state.x, root.explorer.state.y) < 0.05"
    page.wait_for_function(middle, arg=cover.element_handle(), timeout=TIMEOUT)
    start, box = state(cover, "[e.state.x, e.state.y]"), plane.bounding_box()
    before = page.evaluate("scrollY")
    x, y = (0.5, 0.5) if near else (0.1, 0.9)
    swipe_up(page, box["x"] + x * box["width"], box["y"] + y * box["height"])
    if near:
        assert state(cover, "e.state.y") > 0.5
        assert page.evaluate("scrollY") == before
    else:
        assert state(cover, "[e.state.x, e.state.y]") == start
        page.wait_for_function(f"scrollY > {before} + 30", timeout=TIMEOUT)


def listen(page: Page) -> None:
    """Keep what is played from now on in ``played``, and count contexts."""
    page.evaluate(
        """() => {
            globalThis.played = [];
            globalThis.contexts = 0;
            const Context = globalThis.AudioContext;
            globalThis.AudioContext = class extends Context {
                constructor() {
                    super();
                    globalThis.contexts += 1;
                }
            };
            const start = AudioBufferSourceNode.prototype.start;
            AudioBufferSourceNode.prototype.start = function () {
                played.push(this);
                start.call(this);
            };
        }"""
    )


def test_the_keyboard_sounds_when_it_is_played_and_not_before(desktop):
    page, notes = desktop.page, desktop.explorer("notes")
    drawn(notes)
    listen(page)
    assert state(notes, "e.state.sounds") == 0
    notes.get_by_role("button", name="D3, 147 hertz").click()
    page.wait_for_function("played.length && played[0].context.state === 'running'")
    made, sounded, rate = state(
        notes,
        "[[...e.shown.x], [...played[0].buffer.getChannelData(0)], played[0].buffer.sampleRate]",
    )
    assert page.evaluate("contexts") == 1  # made by that key
    assert (len(sounded), rate) == (4096, 16000)
    np.testing.assert_allclose(sounded[: -rate // 100 : 4], made[: -rate // 400], atol=1e-6)
    assert sounded[-1] == pytest.approx(0, abs=0.01)


def test_the_notes_by_keys(desktop):
    page, notes = desktop.page, desktop.explorer("notes")
    key = notes.get_by_role("button", name="A3, 220 hertz")
    press(notes, key, "Enter")
    assert key.get_attribute("aria-pressed") == "true"
    assert notes.locator("[aria-pressed=true]").count() == 1
    choose(notes, "sounds of", "real")
    drawn(notes)
    assert abs(float(number(notes, "pitch measured").split()[0]) - 220) < 1.4  # ±10 cents
    press(notes, notes.get_by_role("button", name="Another sound"), "Enter")
    page.keyboard.press("6")
    drawn(notes)
    assert state(notes, "e.state.note") == 5
    assert number(notes, "pitch asked for") == "293.7 Hz"
    share = notes.get_by_label("share of the next note")
    press(notes, share, "End")
    assert abs(float(number(notes, "pitch measured").split()[0]) - 329.6) < 2.1
    press(notes, share, "Home")
    before = state(notes, "e.cloud.length")
    press(notes, notes.get_by_role("button", name="unheard"), "Enter")
    sounds, shapes = state(notes, "[e.state.sounds, e.cloud.map(s => [s.decay, s.brightness])]")
    assert len(shapes) >= before + 30
    decay, brightness = np.transpose(shapes[-30:])
    assert 1.5 < decay.min() < decay.max() < 8.5
    assert 0.3 < brightness.min() < brightness.max() < 1
    choose(notes, "sounds of", "generated")
    drawn(notes)
    assert state(notes, "e.state.sounds") == sounds  # those were silent
    scale = notes.get_by_role("button", name="Play the scale")
    scale.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("root => root.explorer.state.note === 2", arg=notes.element_handle())
    notes.get_by_role("button", name="Stop").press("Enter")
    drawn(notes)
    assert state(notes, "e.state.sounds") >= sounds + 3
    press(notes, notes.get_by_role("button", name="Reset"), "Enter")
    assert state(notes, "[e.state.note, e.cloud.length]") == [3, 1]  # the one shown


def test_sounds_are_added_of_what_was_chosen_when_it_was_asked_for(desktop):
    notes = desktop.explorer("notes")
    reset = notes.get_by_role("button", name="Reset")
    reset.click()
    drawn(notes)
    add = notes.get_by_role("button", name="unheard")
    add.click()
    choose(notes, "sounds of", "real")
    before = notes.evaluate(
        """async root => {
            const { state } = root.explorer, { sounds } = state;
            const click = (text) => [...root.querySelectorAll("button")].find(
                (node) => node.textContent.startsWith(text)).click();
            click("Add");
            click("D3");
            while (state.sounds === sounds) await new Promise(requestAnimationFrame);
            return root.explorer.cloud.filter((of) => of.source === "real").length;
        }"""
    )
    assert before < 10, "a note that is played goes before those that are not heard"
    drawn(notes)
    found = [tuple(sound) for sound in state(notes, "e.cloud.map(s => [s.source, s.note])")]
    assert min(found.count((source, 3)) for source in ("generated", "real")) >= 28  # of 30
    assert len(found) <= 63
    assert state(notes, "[e.shown.note, e.shown.source]") == [0, "real"]
    sounds = state(notes, "e.state.sounds")
    notes.evaluate(
        """root => {
            globalThis.hold = (repeat) => root.querySelector("button").dispatchEvent(
                new KeyboardEvent("keydown", { code: "Digit2", repeat, bubbles: true }));
        }"""
    )
    for repeat in ("false", "true", "true"):
        notes.page.evaluate(f"hold({repeat})")
        drawn(notes)
    assert state(notes, "e.state.sounds") == sounds + 1  # a key that is held sounds once
    reset.click()


def test_a_note_by_touch(phone):
    notes = phone.explorer("notes")
    before = drawn(notes)
    notes.get_by_role("button", name="C5, 523 hertz").tap()
    assert drawn(notes) != before
    assert state(notes, "e.state.sounds") == 1
    assert notes.get_by_label("share of the next note").is_disabled()


def test_it_starts_where_scripts_are_inserted(desktop):
    """As JupyterLab does: HTML first, and then each script anew."""
    shown = desktop.page.evaluate(
        """html => {
            const output = document.createElement("div");
            output.innerHTML = html;
            document.querySelector("main").append(output);
            for (const script of output.querySelectorAll("script")) {
                const copy = document.createElement("script");
                copy.textContent = script.textContent;
                script.replaceWith(copy);
            }
            return output.querySelector(".gan-live").dataset.ready ?? "not yet";
        }""",
        live.dirac()._repr_html_(),
    )
    assert shown == "not yet"  # it waits for the page to be painted
    inserted = desktop.page.locator('main > div:last-child .gan-live[data-ready="dirac"]')
    inserted.get_by_role("button", name="Play").click()
    inserted.get_by_role("button", name="Pause").click()
    desktop.page.evaluate("document.querySelector('main > div:last-child').remove()")


def test_nothing_was_said_on_the_console(desktop, phone):
    """The last test: after everything that the others did."""
    assert desktop.messages == []
    assert phone.messages == []


def test_a_script_cannot_end_its_element():
    for name in SCRIPTS:
        assert not re.search(r"</?(script|style)|<!--", live.read(f"{name}.js"))


def test_a_page_of_the_book_has_each_script_once():
    extension = Path(__file__).parent.parent / "book/_ext/gan_book.py"
    spec = importlib.util.spec_from_file_location("gan_book", extension)
    book = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(book)
    outputs = (
        live.trainer()._repr_html_()
        + live.trainer("film")._repr_html_()
        + live.game()._repr_html_()
    )
    page = book.keep_first_of_live(outputs)
    names = re.findall(r'data-gan-live="(\w+)"', page)
    assert names == ["style", "numbers", "page", "trainer", "game"]
    assert page.count("ganLive.page.mount(") == 3
    assert len(page) < 0.7 * len(outputs)


def test_a_stored_explorer_is_refreshed():
    now = explore.classes(bundled())._repr_html_()
    assert live.refreshed(now) == now
    old = now.replace("use strict", "use old").replace("base64,U", "base64,V")
    assert old.count("use old") == 4
    assert live.refreshed(old) == now
    other = old.replace('"weights": "', '"weights": "AAAA')
    assert live.refreshed(other) == now.replace('"weights": "', '"weights": "AAAA')  # data stay
    assert live.refreshed("<b>no explorer</b>") == "<b>no explorer</b>"


def test_a_generator_that_does_not_fit_is_refused():
    grey = {"latent_dim": 4, "width": 2}
    plain = networks.ConvGenerator(shape=(1, 8, 8), **grey)
    colour = networks.ConvGenerator(shape=(3, 8, 8), classes=4, **grey)
    with pytest.raises(ValueError, match="at least 2 classes, but G has 0"):
        explore.classes(plain)
    with pytest.raises(ValueError, match="at least 1 classes, but G has 0"):
        explore.directions(plain, {}, {})
    with pytest.raises(ValueError, match=r"square grey images \(1, S, S\), not of \(3, 8, 8\)"):
        explore.latent(colour)
    with pytest.raises(ValueError, match=r"sounds \(1, L\), not of \(3, 8, 8\)"):
        explore.notes(colour, {}, 4000)
    with pytest.raises(ValueError, match="10 classes, but there are 1 pitches"):
        explore.notes(audio.SoundGenerator(classes=10), {"A3": 220.0}, 4000)
    explore.latent(plain)


def test_a_preset_that_the_page_does_not_have_is_refused():
    with pytest.raises(ValueError, match="preset must be one of first, film, cured, but is 'flim'"):
        live.trainer("flim")


def test_an_explorer_says_what_it_is():
    assert repr(live.trainer("film")) == (
        "Explorer(name='trainer', options={'preset': 'film', 'data': 'ring'})"
    )  # the same in every run, since nbval compares it
    for show in EXPLORERS.values():
        html = show()._repr_html_()
        assert len(re.sub(r'"weights": "[^"]*"', "", html)) < 150_000
        assert len(html) < 900_000  # a notebook has 1.5 MB
        assert "http" not in re.sub(r'base64,[^"]*', "", html)
        json.dumps(html)
