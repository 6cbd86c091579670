"""Both pairs of networks: sizes, ranges, labels, packing, normalisation and initial weights."""

import pytest
import torch
from torch import nn

from gan_tutorial import mixtures, networks, penalties, recipes, runtime, training

PAIRS = {
    "mlp": (networks.MLPGenerator, networks.MLPDiscriminator),
    "conv": (networks.ConvGenerator, networks.ConvDiscriminator),
}


def linears(network: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]


def test_the_default_mlps_are_the_articles_networks():
    G, D = networks.MLPGenerator(), networks.MLPDiscriminator()
    assert linears(G) == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    assert linears(D.layers) + linears(D.last) == [(784, 1024), (1024, 512), (512, 256), (256, 1)]
    assert [type(m) for m in G.layers][1::2] == [nn.ReLU, nn.ReLU, nn.ReLU, nn.Unflatten]
    assert type(G.layers[-1]) is nn.Tanh
    assert [m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 3
    assert not any(isinstance(m, nn.Sigmoid) for m in D.modules()), "the losses take logits"


def test_parameters_are_counted_as_by_hand():
    G, D = networks.MLPGenerator(), networks.MLPDiscriminator()
    for network, expected in ((G, 1_486_352), (D, 1_460_225)):
        by_hand = sum(inputs * outputs + outputs for inputs, outputs in linears(network))
        assert networks.count_parameters(network) == by_hand == expected
    G.layers[0].requires_grad_(False)
    assert networks.count_parameters(G) == 1_486_352 - 100 * 256 - 256


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 12, 12)])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("spectral", [False, True])
def test_a_discriminator_takes_the_samples_of_its_generator(kind, shape, classes, spectral):
    recipe = recipes.Recipe(
        network=kind, shape=shape, latent_dim=5, width=4, classes=classes, spectral=spectral
    )
    G, D = recipe.build()
    labels = torch.tensor([0, 2, 1]) if classes else None
    samples = G(10 * torch.randn(3, 5), labels)
    assert samples.shape == (3, *shape)
    assert samples.abs().max() <= 1
    assert D(samples, labels).shape == (3,)


def convolutions(network: nn.Module) -> list[tuple[int, int]]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, kinds)]


def test_the_convolutional_pair_takes_every_side_that_is_4_to_7_times_a_power_of_two():
    sides = {least << doublings for least in range(4, 8) for doublings in range(1, 6)}
    sides = sorted(side for side in sides if side <= 128)
    assert list(networks.SIDES) == sides
    for side in range(1, 140):
        recipe = recipes.Recipe(shape=(3, side, side), latent_dim=2, width=1)
        if side in sides:
            G, D = recipe.build()
            samples = G(torch.randn(2, 2))
            assert samples.shape == (2, 3, side, side)
            assert D(samples).shape == (2,)
        else:
            with pytest.raises(ValueError, match=r"S = 8, 10, 12, .*112 or 128, .* but got \(3, "):
                recipe.build()


@pytest.mark.parametrize(
    ("side", "of_G", "of_D"),
    [
        (8, [(3, 3), (3, 1)], [(1, 3), (3, 6)]),
        (28, [(6, 6), (6, 3), (3, 1)], [(1, 3), (3, 6), (6, 12)]),
        (
            128,
            [(24, 24), (24, 24), (24, 12), (12, 6), (6, 3), (3, 1)],
            [(1, 3), (3, 6), (6, 12), (12, 24), (24, 24), (24, 24)],
        ),
    ],
)
def test_the_channels_double_as_the_side_halves_up_to_eight_times_the_width(side, of_G, of_D):
    G, D = recipes.Recipe(shape=(1, side, side), width=3).build()
    assert convolutions(G) == of_G
    assert convolutions(D) == of_D
    assert D.last.in_features == 24


@pytest.mark.parametrize("side", [16, 28, 128])
def test_every_pixel_of_a_sample_depends_on_z_and_reaches_the_logit(side):
    torch.manual_seed(0)
    G, D = recipes.Recipe(shape=(1, side, side), latent_dim=3, width=2).build()
    samples = G(torch.randn(16, 3))  # BatchNorm keeps the untrained signal alive
    assert samples.std(dim=0).min() > 1e-3
    image = (torch.rand(1, 1, side, side) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(D(image).sum(), image)
    assert (gradient != 0).all()


def test_the_pair_for_28_pixels_starts_from_the_weights_that_it_always_had():
    """So that runs of earlier versions can be repeated; their files load in test_checkpoints."""
    with runtime.seeded(3):
        G, D = recipes.preset("hinge").build()
    sizes = [p.double().abs().sum().item() for p in (*G.parameters(), *D.parameters())]
    assert sum(sizes) == pytest.approx(21176.2793, abs=1e-3)


def test_points_in_the_plane_are_not_limited_to_the_range_of_tanh():
    torch.manual_seed(0)
    G, D = networks.MLPGenerator(4, (2,), hidden=(8,)), networks.MLPDiscriminator((2,), hidden=(8,))
    points = G(1000 * torch.randn(16, 4))
    assert points.shape == (16, 2)
    assert points.abs().max() > 1
    assert D(points).shape == (16,)


def test_a_discriminator_without_hidden_layers_is_linear():
    D = networks.MLPDiscriminator((2,), hidden=())
    x = torch.randn(5, 2)
    torch.testing.assert_close(D(x), x @ D.last.weight[0] + D.last.bias)
    labelled = networks.MLPDiscriminator((2,), hidden=(), classes=2)
    assert labelled(x, torch.zeros(5, dtype=torch.int64)).shape == (5,)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_generators_sample_depends_on_its_label(kind):
    torch.manual_seed(0)
    G, _ = recipes.Recipe(network=kind, shape=(1, 8, 8), latent_dim=5, width=4, classes=3).build()
    z = torch.randn(1, 5)
    first, second = (G.eval()(z, torch.tensor([label])) for label in (0, 1))
    assert (first - second).abs().max() > 1e-3
    inner = torch.cat([z, G.embedding(torch.tensor([1]))], dim=1)
    torch.testing.assert_close(second.flatten(), G.layers(inner).flatten())


@pytest.mark.parametrize("kind", PAIRS)
def test_a_discriminator_projects_its_features_onto_the_label(kind):
    """Miyato and Koyama 2018, equation 3: logit = ⟨embedding[y], features⟩ + w·features + b."""
    torch.manual_seed(0)
    _, D = recipes.Recipe(network=kind, shape=(1, 8, 8), width=4, classes=3, spectral=False).build()
    images, labels = torch.rand(4, 1, 8, 8) * 2 - 1, torch.tensor([0, 2, 2, 1])
    features = D.layers(images)
    expected = torch.stack(
        [D.last(f)[0] + D.embedding.weight[y] @ f for f, y in zip(features, labels, strict=True)]
    )
    torch.testing.assert_close(D(images, labels), expected)


def test_labels_are_ignored_by_networks_without_classes():
    G, D = recipes.Recipe(shape=(1, 8, 8), latent_dim=5, width=4, spectral=False).build()
    z = torch.randn(2, 5)
    assert torch.equal(G(z, torch.tensor([7, 8])), G(z))
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(D(images, torch.tensor([7, 8])), D(images))


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("spectral", [False, True])
def test_a_logit_depends_on_its_own_sample_only(kind, spectral):
    """So real and fake samples may share a pass, and gradient penalties are per sample."""
    torch.manual_seed(0)
    _, D = recipes.Recipe(network=kind, shape=(1, 8, 8), width=4, spectral=spectral).build()
    D.eval()
    images = torch.rand(6, 1, 8, 8) * 2 - 1
    alone = torch.cat([D(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(D(images), alone)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in D.modules())


@pytest.mark.parametrize("pack", [1, 2, 3])
def test_packing_gives_neighbours_in_the_batch_one_logit(pack):
    torch.manual_seed(0)
    D = networks.MLPDiscriminator((pack, 2), hidden=(8,))
    points = torch.randn(6, 2)
    packs = torch.stack([points[i : i + pack] for i in range(0, 6, pack)])
    assert torch.equal(networks.Packed(D)(points), D(packs))


@pytest.mark.parametrize("pack", [1, 2, 4])
def test_a_penalty_on_packs_is_that_of_a_discriminator_of_whole_packs(pack):
    torch.manual_seed(0)
    D = networks.MLPDiscriminator((pack, 2), hidden=(8,)).double()
    packed = networks.Packed(D)
    real, fake = torch.randn(2, 8, 2, dtype=torch.float64)
    whole = [points.reshape(-1, pack, 2) for points in (real, fake)]
    for penalty in (penalties.r1, penalties.r2):
        torch.testing.assert_close(penalty(packed, real, fake), penalty(D, *whole))
    rng = torch.Generator().manual_seed(0)
    noisy = penalties.approximate_gradient_norm(packed, real, packed(real), 1e-4, rng)
    rng.manual_seed(0)
    by_pack = penalties.approximate_gradient_norm(D, whole[0], D(whole[0]), 1e-4, rng)
    torch.testing.assert_close(noisy, by_pack)
    linear = nn.Linear(2 * pack, 1, bias=False).double()  # the slope is the same everywhere

    def D_linear(points):
        return linear(points.reshape(-1, 2 * pack)).squeeze(1)

    expected = (linear.weight.norm() - 1).square()
    torch.testing.assert_close(penalties.gradient_penalty(D_linear, real, fake), expected)


def test_a_change_of_one_point_changes_the_logits_of_its_pack_only():
    torch.manual_seed(0)
    D = networks.Packed(networks.MLPDiscriminator((2, 2), hidden=(8,)))
    points = torch.randn(6, 2)
    changed = points.clone()
    changed[3] += 1
    moved = D(points) != D(changed)
    assert moved.tolist() == [False, True, False]


def test_a_packed_discriminator_works_for_images():
    torch.manual_seed(0)
    D = networks.MLPDiscriminator((2, 1, 4, 4), hidden=(8,))
    packed, images = networks.Packed(D), torch.rand(4, 1, 4, 4)
    assert list(packed.shape) == [1, 4, 4]
    assert torch.equal(packed(images), D(images.reshape(2, 2, 1, 4, 4)))


def test_a_packed_discriminator_trains():
    torch.manual_seed(0)
    G = networks.MLPGenerator(2, (2,), (8,))
    D = networks.Packed(networks.MLPDiscriminator((2, 2), (8,)))
    config = training.TrainConfig(objective="relativistic", steps=5, batch_size=8, r1=0.1, gp=1.0)
    state = training.TrainState.init(G, D, config)
    before = [p.clone() for p in (*G.parameters(), *D.parameters())]
    logs = list(training.train(state, mixtures.ring(), config))
    assert state.step == len(logs) == 5
    for old, new in zip(before, (*state.G.parameters(), *state.D.parameters()), strict=True):
        assert new.isfinite().all()
        last_bias = old.shape == (1,)  # a relativistic loss does not depend on it
        assert not torch.equal(old, new) or last_bias


@pytest.mark.parametrize("group", [2, 3, 6])
def test_the_minibatch_standard_deviation_is_that_of_pytorch(group):
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    out = networks.MinibatchStd(group)(features)
    assert torch.equal(out[:, :5], features)
    by_group = [part.std(0, correction=0).mean() for part in features.split(group)]
    torch.testing.assert_close(out[::group, 5], torch.stack(by_group), rtol=1e-4, atol=1.1e-4)
    assert torch.equal(out[:, 5], out[::group, 5].repeat_interleave(group))


def test_the_minibatch_standard_deviation_of_equal_samples_has_a_finite_derivative():
    features = torch.ones(4, 3, requires_grad=True)
    out = networks.MinibatchStd(4)(features)
    out.sum().backward()
    assert out[:, 3].max().item() == pytest.approx(1e-4)
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("group", [-4, 0, 1, 2.5])
def test_a_group_has_at_least_two_samples(group):
    with pytest.raises(ValueError, match="group_size must be an integer of at least 2"):
        networks.MinibatchStd(group)
    assert str(networks.MinibatchStd(4)) == "MinibatchStd(4)"


def test_a_group_of_another_size_is_refused():
    D = networks.ConvDiscriminator((1, 8, 8), width=2, minibatch_std=4)
    with pytest.raises(ValueError, match="groups of 4 samples, so it needs a multiple .* got 6"):
        D(torch.zeros(6, 1, 8, 8))


def test_with_groups_a_logit_depends_on_its_group_and_on_no_other():
    torch.manual_seed(0)
    D = networks.ConvDiscriminator((1, 8, 8), width=2, classes=3, minibatch_std=4)
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    changed = images.clone()
    changed[5] *= -1
    moved = D(images, labels) != D(changed, labels)
    assert moved.tolist() == 4 * [False] + 4 * [True] + 4 * [False]
    inside = [0, 1, 2, 3, 6, 4, 7, 5, 8, 9, 10, 11]  # the order in a group does not matter
    torch.testing.assert_close(D(images[inside], labels[inside]), D(images, labels)[inside])


def test_every_pixel_receives_equally_many_contributions():
    """No checkerboard: with weights of 1, constant input gives constant output off the border."""
    G = networks.ConvGenerator(latent_dim=5, width=4)
    upscaling = [m for m in G.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(upscaling) == 2
    for layer in upscaling:
        nn.init.ones_(layer.weight)
        written = layer(torch.ones(1, layer.in_channels, 7, 7))
        assert written.shape[-1] == 14
        inner = written[0, 0, 1:-1, 1:-1]
        assert inner.max() - inner.min() < 1e-5
    crooked = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, bias=False)
    nn.init.ones_(crooked.weight)
    inner = crooked(torch.ones(1, 1, 7, 7))[0, 0, 1:-1, 1:-1]
    assert inner.max() - inner.min() > 1, "the control: its kernel is not a multiple of the stride"


@pytest.mark.parametrize("kind", PAIRS)
def test_spectral_norm_makes_the_largest_singular_value_one(kind):
    torch.manual_seed(0)
    _, D = recipes.Recipe(network=kind, shape=(1, 8, 8), width=4, classes=3, spectral=True).build()
    networks.initialise(D, std=0.5)
    images, labels = torch.rand(2, 1, 8, 8) * 2 - 1, torch.tensor([0, 1])
    for _ in range(100):  # each pass in training mode is one step of the power iteration
        D(images, labels)
    layers = [m for m in D.eval().modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    assert len(layers) == 5
    for layer in layers:
        raw = layer.parametrizations.weight.original.flatten(1)
        assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, abs=0.02)
        expected = raw / torch.linalg.svdvals(raw)[0]
        torch.testing.assert_close(layer.weight.flatten(1), expected, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("spectral", [False, True])
def test_initialise_sets_weights_and_biases_but_not_batch_norm(kind, spectral):
    torch.manual_seed(0)
    for network in recipes.Recipe(network=kind, shape=(1, 28, 28), spectral=spectral).build():
        assert networks.initialise(network, std=0.1) is network
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.unique().item() == 1
                assert not module.bias.any()
            elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                parametrised = spectral and hasattr(module, "parametrizations")
                weight = module.parametrizations.weight.original if parametrised else module.weight
                margin = 5 * 0.1 / weight.numel() ** 0.5  # five standard errors of the mean
                assert abs(weight.mean()) < margin
                assert abs(weight.std() - 0.1) < margin
                assert module.bias is None or not module.bias.any()


def test_wider_convolutional_networks_have_more_parameters():
    narrow, wide = (recipes.Recipe(width=width).build() for width in (4, 8))
    for small, large in zip(narrow, wide, strict=True):
        assert networks.count_parameters(small) < networks.count_parameters(large)
