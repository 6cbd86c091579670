"""Shapes of strokes of known size, directions of networks in which they are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import checkpoints, data, networks, sampling
from gan_tutorial.beyond import interpretability

SIZE = 28
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIZE) - 13.5, torch.arange(SIZE) - 13.5, indexing="ij")


def grey(ink: torch.Tensor) -> torch.Tensor:
    """Return ink (H, W) in [0, 1] as one image (1, 1, H, W) in [-1, 1]."""
    return 2 * ink[None, None] - 1


def bar(thick: float = 3.0, lean: float = 0.0, length: float = 18.0) -> torch.Tensor:
    """Return an image of a bar with soft edges; ``lean`` is in pixels to the right per pixel up."""
    across = (COLUMNS + lean * ROWS).abs() / math.sqrt(1 + lean**2)
    ink = (thick / 2 + 0.5 - across).clamp(0, 1) * (length / 2 + 0.5 - ROWS.abs()).clamp(0, 1)
    return grey(ink)


@pytest.fixture(scope="module")
def G() -> networks.Generator:
    torch.manual_seed(0)
    return networks.ConvGenerator(6, (1, 8, 8), width=4, classes=3).eval()


@given(st.floats(-0.8, 0.8))
def test_slant_is_that_of_a_sheared_bar(lean):
    assert interpretability.slant(bar(lean=lean)).item() == pytest.approx(lean, abs=0.03)


def test_slant_is_positive_where_the_top_leans_to_the_right():
    image = torch.full((1, 1, 9, 9), -1.0)
    for row in range(9):
        image[0, 0, row, 8 - row] = 1  # from the lower left to the upper right
    assert interpretability.slant(image).item() == pytest.approx(1)
    assert interpretability.slant(image.flip(3)).item() == pytest.approx(-1)


@pytest.mark.parametrize("lean", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("thick", [2.0, 3.0, 4.0])
def test_thickness_is_that_of_a_bar(thick, lean):
    length = 18.0
    expected = thick * length / (thick + length)  # 2 · area / perimeter, ends and all
    assert interpretability.thickness(bar(thick, lean, length)).item() == pytest.approx(
        expected, rel=0.12
    )


def test_thickness_does_not_depend_on_the_length_of_a_ring():
    radius = (ROWS**2 + COLUMNS**2).sqrt()
    for middle in (5, 8, 11):
        ring = grey((2 - (radius - middle).abs()).clamp(0, 1))  # 3 pixels thick
        assert interpretability.thickness(ring).item() == pytest.approx(3, rel=0.1)


def test_width_is_the_deviation_after_the_slant_is_undone():
    ink = torch.zeros(SIZE, SIZE)
    ink[4:24, 8], ink[4:24, 19] = 1, 1  # two columns, 11 apart
    upright = interpretability.width(grey(ink)).item()
    assert upright == pytest.approx(5.5, abs=1e-4)
    sheared = torch.zeros(SIZE, SIZE)
    for row in range(4, 24):
        sheared[row] = ink[row].roll(round((13.5 - row) * 0.4))
    assert interpretability.slant(grey(sheared)).item() == pytest.approx(0.4, abs=0.02)
    assert interpretability.width(grey(sheared)).item() == pytest.approx(upright, abs=0.05)


@pytest.mark.parametrize("name", ["slant", "thickness", "width"])
def test_a_shape_is_invariant_to_translation_and_has_a_gradient(name):
    measure = getattr(interpretability, name)
    image = bar(lean=0.3, length=12).requires_grad_()
    value = measure(image)
    torch.testing.assert_close(measure(image.roll((2, -3), (2, 3))), value, rtol=1e-3, atol=1e-4)
    (slope,) = torch.autograd.grad(value.sum(), image)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0
    together = measure(torch.cat([bar(2), image, bar(4)]))
    torch.testing.assert_close(together[1:2], value, rtol=1e-4, atol=1e-5)


def test_slant_is_a_regression_of_across_on_up():
    ink = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)).double()
    up, across = np.mgrid[6:-1:-1, 0:9]
    slope = np.polyfit(up.ravel(), across.ravel(), 1, w=np.sqrt(ink.flatten().numpy()))[0]
    assert interpretability.slant(grey(ink)).item() == pytest.approx(slope, abs=1e-9)


def test_centred_removes_the_means_of_the_classes_and_nothing_else():
    labels = torch.arange(12) % 3
    values = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    result = interpretability.centred(values + 10 * labels[:, None], labels)
    for label in range(3):
        mine = labels == label
        torch.testing.assert_close(
            result[mine], values[mine] - values[mine].mean(0), rtol=1e-4, atol=1e-5
        )


def test_sefa_finds_the_singular_vectors_of_the_columns_that_multiply_z(G):
    found = interpretability.sefa(G)
    A = G.layers[0].weight.detach()[:, :6]
    eigenvectors = np.linalg.eigh((A.T @ A).double().numpy())[1]  # (6, 6), the largest last
    cosines = (found.numpy().T * eigenvectors[:, ::-1]).sum(0)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-4)
    torch.testing.assert_close(found @ found.T, torch.eye(6), rtol=0, atol=1e-5)
    stretch = (A @ found.T).norm(dim=0)
    torch.testing.assert_close(stretch, torch.linalg.svdvals(A), rtol=1e-4, atol=1e-6)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(interpretability.sefa(G, 2), found[:2])
    assert len(interpretability.sefa(G, 20)) == 6


def test_ganspace_on_a_linear_layer_gives_its_singular_vectors():
    z = sampling.latents(2000, 5)
    V = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    noise = torch.randn(5, 40, generator=torch.Generator().manual_seed(2))
    mixing = torch.eye(5, 40) + 0.01 * noise
    activations = z @ V @ torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5])) @ mixing
    found = interpretability.ganspace(z, activations.reshape(2000, 4, 10), 3)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert ((found @ V).diagonal().abs() > 0.99).all()


def test_ganspace_agrees_with_numpy():
    z = sampling.latents(60, 5)
    activations = torch.tanh(z @ torch.randn(5, 30, generator=torch.Generator().manual_seed(0)))
    a = activations.double().numpy()
    components = np.linalg.eigh(np.cov(a.T))[1][:, :-3:-1]  # (30, 2), the largest first
    coordinates = (a - a.mean(0)) @ components
    fits, *_ = np.linalg.lstsq(coordinates, z.double().numpy(), rcond=None)  # (2, 5)
    fits /= np.linalg.norm(fits, axis=1, keepdims=True)
    found = interpretability.ganspace(z, activations, 2).double().numpy()
    np.testing.assert_allclose(np.abs((found * fits).sum(1)), 1, atol=1e-5)


def test_a_probe_recovers_a_linear_property():
    z = sampling.latents(400, 8)
    slope = torch.linspace(-1, 1, 8)
    values = z @ slope + 3
    noise = slope.norm() * torch.randn(400, generator=torch.Generator().manual_seed(1))
    exact, rough = interpretability.probe(z, values), interpretability.probe(z, values + noise)
    torch.testing.assert_close(exact.slope, slope, rtol=1e-4, atol=1e-5)
    assert exact.intercept.item() == pytest.approx(3, abs=1e-5)
    torch.testing.assert_close(exact.direction, slope / slope.norm(), rtol=1e-4, atol=1e-5)
    new = sampling.latents(4000, 8, seed=1)
    values = new @ slope + 3
    noise = slope.norm() * torch.randn(4000, generator=torch.Generator().manual_seed(2))
    assert exact.r2(new, values) == pytest.approx(1, abs=1e-6)
    expected = 1 - (1 + 9 / 400) / 2  # as much noise as signal, and 9 coefficients from 400 values
    assert rough.r2(new, values + noise) == pytest.approx(expected, abs=0.04)
    assert exact.r2(new, torch.randn(4000, generator=torch.Generator().manual_seed(3))) < 0


def test_a_walk_moves_every_z_by_every_step():
    z, direction = sampling.latents(3, 4), torch.tensor([0.0, 1, 0, 0])
    path = interpretability.walk(z, direction, [-2, 0, 1.5])
    assert path.shape == (3, 3, 4)
    torch.testing.assert_close(path[1], z)
    torch.testing.assert_close(path[2] - z, 1.5 * direction.expand(3, 4))


def test_the_bundled_digits_lean_along_their_first_direction():
    G, _ = checkpoints.load_generator("digits")
    z, labels = sampling.latents(40, G.latent_dim), sampling.labels(G, 40)
    path = interpretability.walk(z, interpretability.sefa(G, 1)[0], [-2, 0, 2])
    images = [sampling.sample(G, points, labels) for points in path]
    slants = [interpretability.slant(batch).mean().item() for batch in images]
    assert abs(slants[2] - slants[0]) > 0.5
    assert sorted(slants) in (slants, slants[::-1])


def test_an_ablated_unit_outputs_0_inside_the_block(G):
    z, labels = sampling.latents(5, 6), torch.arange(5) % 3
    relu, seen = G.layers[3], []
    handle = relu.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    before = sampling.sample(G, z, labels)
    handle.remove()
    with interpretability.ablate(relu, [1, 2]):
        handle = relu.register_forward_hook(lambda layer, inputs, output: seen.append(output))
        during = sampling.sample(G, z, labels)
        handle.remove()
    plain, ablated = seen
    assert plain[:, [1, 2]].abs().max() > 0
    assert not ablated[:, [1, 2]].any()
    assert torch.equal(ablated[:, 0], plain[:, 0])
    assert (during - before).abs().max() > 1e-4
    assert torch.equal(sampling.sample(G, z, labels), before), "the hook is gone"


def test_ablation_ends_after_an_error(G):
    z, labels = sampling.latents(2, 6), torch.arange(2)
    before = sampling.sample(G, z, labels)
    with pytest.raises(ZeroDivisionError), interpretability.ablate(G.layers[3], [0]):
        raise ZeroDivisionError
    assert torch.equal(sampling.sample(G, z, labels), before)


def test_inversion_finds_generated_images(G):
    z, labels = sampling.latents(6, 6, seed=1), torch.arange(6) % 3
    images = sampling.sample(G, z, labels)
    brief = interpretability.invert(G, images, labels, starts=3, steps=1)
    long = interpretability.invert(G, images, labels, starts=3, steps=200)
    assert long.z.shape == (6, 6)
    assert long.errors.shape == (6, 3)
    found = (sampling.sample(G, long.z, labels) - images).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(found, long.errors.amin(dim=1), rtol=1e-4, atol=1e-7)
    assert (found < 0.1 * brief.errors.amin(dim=1)).all()
    again = interpretability.invert(G, images, labels, starts=3, steps=1)
    assert torch.equal(again.z, brief.z), "a function of its seed"


@pytest.mark.parametrize("training", [True, False])
def test_inversion_does_not_change_the_generator(G, training):
    G.train(training)
    next(m for m in G.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()  # frozen
    modes = [module.training for module in G.modules()]
    before = {name: value.clone() for name, value in G.state_dict().items()}
    interpretability.invert(G, torch.zeros(2, 1, 8, 8), torch.arange(2), starts=1, steps=2)
    assert [module.training for module in G.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert all(parameter.grad is None for parameter in G.parameters())
    G.eval()


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda G: interpretability.slant(torch.full((2, 1, 8, 8), -1.0)),
            AssertionError,
            "an image has no ink",
        ),
        (
            lambda G: interpretability.slant(2 * torch.eye(8)[2].expand(1, 1, 8, 8).mT - 1),
            AssertionError,
            "ink in one row alone",
        ),
        (
            lambda G: interpretability.Probe(torch.ones(4), torch.tensor(0.0)).r2(
                torch.ones(5, 4), torch.ones(5, 1)
            ),
            AssertionError,
            r"values must be \(5,\), not \(5, 1\)",
        ),
        (
            lambda G: interpretability.width(torch.zeros(2, 3, 8, 8)),
            data.DataError,
            r"must have the shape \(N, 1, 8, 8\)",
        ),
        (
            lambda G: interpretability.thickness(torch.full((1, 1, 8, 8), 255.0)),
            data.DataError,
            "to 255; see",
        ),
        (
            lambda G: interpretability.slant(torch.full((1, 1, 8, 8), math.nan)),
            data.DataError,
            "nan",
        ),
        (
            lambda G: interpretability.probe(torch.zeros(5, 4), torch.zeros(5)),
            AssertionError,
            "more samples than coefficients",
        ),
        (
            lambda G: interpretability.invert(G, torch.zeros(2, 3, 8, 8), torch.arange(2)),
            data.DataError,
            "must have the shape",
        ),
        (
            lambda G: interpretability.invert(G, torch.full((2, 1, 8, 8), 2.0), torch.arange(2)),
            data.DataError,
            "to 2; see",
        ),
    ],
)
def test_input_that_would_give_wrong_numbers_is_refused(G, act, error, message):
    with pytest.raises(error, match=message):
        act(G)
