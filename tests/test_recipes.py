"""Recipes: named settings, the networks they build, and the states they start."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from gan_tutorial import checkpoints, metrics, mixtures, networks, recipes, sampling, training


@pytest.mark.parametrize("name", [name for name in recipes.PRESETS if name != "plane"])
def test_a_preset_trains(name, pictures, device):
    recipe = replace(recipes.preset(name), steps=2, batch_size=8, shape=pictures.shape, width=4)
    state = recipe.init(device)
    assert [log.step for log in training.train(state, pictures, recipe)] == [1, 2]
    assert sampling.generate(state.G_ema, 3).shape == (3, *pictures.shape)


@pytest.mark.parametrize("pack", [1, 2])
def test_the_preset_for_the_plane_trains_with_and_without_packs(pack, device):
    recipe = replace(recipes.preset("plane"), steps=2)
    assert recipe.hidden == (128, 128, 128)
    state = recipe.init(device) if pack == 1 else recipes.init_packed(recipe, pack, device)
    assert [log.step for log in training.train(state, mixtures.grid(), recipe)] == [1, 2]
    points = torch.randn(4, 2, device=device)
    assert len(state.D(points).unique()) == 4 / pack


def test_packing_changes_the_discriminator_alone():
    recipe = replace(recipes.preset("plane"), seed=3)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    packed, again = recipes.init_packed(recipe, 2), recipes.init_packed(recipe, 2)
    plain = recipe.init()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(packed.G.state_dict(), plain.G.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(packed.D.state_dict(), again.D.state_dict(), rtol=0, atol=0)
    assert networks.count_parameters(packed.D) > networks.count_parameters(plain.D)
    bounded = recipes.init_packed(replace(recipe, spectral=True, penalty_noise=0.0), 2).D
    weights = [m.weight for m in bounded.modules() if isinstance(m, torch.nn.Linear)]
    for weight in weights:
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, rel=0.5)
    assert any("parametrizations" in name for name in bounded.state_dict())


@pytest.mark.parametrize(
    ("name", "preset"), [("digits", "best"), ("fashion", "best"), ("flowers", "flowers")]
)
def test_the_bundled_networks_have_the_recipe_that_their_card_names(name, preset):
    path = checkpoints.find(name)
    recipe = recipes.Recipe(**checkpoints.read_settings(path)["recipe"])
    assert recipe == recipes.preset(preset)
    assert f"the preset `{preset}` on the " in path.with_suffix(".md").read_text(encoding="utf-8")


def test_the_article_has_its_settings():
    article = recipes.preset("article")
    G, D = article.build()
    assert (networks.count_parameters(G), networks.count_parameters(D)) == (1_486_352, 1_460_225)
    assert (article.lr_G, article.lr_D, article.betas) == (2e-4, 2e-4, (0.5, 0.999))
    assert article.batch_size == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "transformer"}, "network must be one of mlp, conv"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"width": 1.5}, "width"),
        ({"classes": -1}, "classes"),
        ({"minibatch_std": -1}, "minibatch_std must be an integer of at least 0"),
        ({"minibatch_std": 1}, "minibatch_std must be 0 or at least 2"),
        (
            {"minibatch_std": 8, "batch_size": 20},
            "batch_size must be a multiple of minibatch_std, 8, but is 20; use 16, or minibatch_",
        ),
        ({"minibatch_std": 8, "batch_size": 4}, "but is 4; use 8"),
    ],
)
def test_a_recipe_refuses_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(recipes.preset("quick"), **changes)


def test_an_mlp_has_no_groups_that_a_batch_must_hold():
    recipe = replace(recipes.preset("quick"), network="mlp", minibatch_std=8, batch_size=6)
    _, D = recipe.build()
    assert not any(isinstance(module, networks.MinibatchStd) for module in D.modules())


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ValueError, match="preset must be one of quick, best, hinge, article, flowers, plane"
    ):
        recipes.preset("slow")


def test_a_convolutional_pair_refuses_other_shapes():
    with pytest.raises(ValueError, match="S = 8, .* or 128, .* got"):
        replace(recipes.preset("quick"), shape=(1, 30, 30)).build()


def test_weights_depend_on_the_recipes_seed_alone(pictures):
    recipe = replace(recipes.preset("quick"), shape=pictures.shape, width=4)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = recipe.init()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = recipe.init(), replace(recipe, seed=1).init()
    weights = [next(state.G.parameters()) for state in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_numbers_of_numpy_and_pytorch_become_plain_ones():
    """Else a run would train to its end, and then not be saved."""
    given = recipes.Recipe(
        seed=np.int64(1),
        width=np.int32(4),
        lr_G=np.float32(0.5),
        ema=torch.tensor(0.5),
        shape=torch.Size((1, 8, 8)),
        hidden=np.array([8, 4]),
        betas=[np.float64(0.5), 0],
    )
    plain = recipes.Recipe(
        seed=1, width=4, lr_G=0.5, ema=0.5, shape=(1, 8, 8), hidden=(8, 4), betas=(0.5, 0.0)
    )
    assert given == plain
    assert json.dumps(asdict(given)) == json.dumps(asdict(plain))
    assert given.build()[0].shape == (1, 8, 8)


@pytest.mark.parametrize("name", recipes.PRESETS)
def test_a_recipe_survives_json(name):
    recipe = recipes.preset(name)
    assert recipes.Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe


def test_equal_rates_without_momentum_find_every_mode_of_the_ring():
    recipe = replace(  # one entry of benchmarks/plane.py, where all five seeds find them
        recipes.preset("plane"),
        objective="non_saturating",
        steps=1000,
        batch_size=64,
        lr_G=1e-3,
        lr_D=1e-3,
        lr_end=1.0,
        betas=(0.0, 0.99),
        r1=0.0,
        penalty_noise=0.0,
    )
    state = recipe.init()
    for _ in training.train(state, mixtures.ring(), recipe):
        pass
    report = metrics.mode_report(sampling.generate(state.G_ema, 2000), mixtures.ring())
    assert report.covered == 8
    assert report.high_quality > 0.3
