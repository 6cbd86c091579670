"""Recipes: named settings, their variants, and the states that they start."""

import json
from dataclasses import asdict

import pytest
import torch

from gan_tutorial import metrics, mixtures, networks, recipes, sampling, training


@pytest.mark.parametrize("name", recipes.PRESETS)
def test_a_preset_trains(name, pictures, device):
    recipe = recipes.preset(name).variant(steps=2, batch_size=8, shape=pictures.shape, width=4)
    state = recipe.fresh(device)
    assert [log.step for log in recipe.run(state, pictures)] == [1, 2]
    labels = torch.arange(3) if recipe.network.classes else None
    samples = sampling.sample(state.G_ema, sampling.latents(3, recipe.network.latent_dim), labels)
    assert samples.shape == (3, *pictures.shape)


def test_the_plane_has_its_own(device):
    recipe = recipes.PLANE.variant(steps=2)
    state = recipe.fresh(device)
    assert [log.step for log in recipe.run(state, mixtures.grid())] == [1, 2]
    assert recipe.network.hidden == (128, 128, 128)


def test_the_article_has_its_settings():
    article = recipes.preset("article")
    G, D = article.network.build()
    assert (networks.count_parameters(G), networks.count_parameters(D)) == (1_486_352, 1_460_225)
    assert (article.train.lr_G, article.train.lr_D, article.train.betas) == (2e-4, 2e-4, (0.5, 0.999))
    assert article.train.batch_size == 128


def test_a_variant_changes_what_it_names_and_nothing_else():
    quick = recipes.preset("quick")
    other = quick.variant(width=8, r1=0.5, objective="relativistic", spectral=False)
    assert (other.network.width, other.network.spectral) == (8, False)
    assert (other.train.r1, other.objective) == (0.5, "relativistic")
    assert other.variant(width=quick.network.width, r1=0.0, objective="hinge", spectral=True) == quick
    assert quick.variant() == quick


def test_weights_come_from_the_recipes_seed_alone(pictures):
    recipe = recipes.preset("quick").variant(shape=pictures.shape, width=4)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = recipe.fresh()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = recipe.fresh(), recipe.variant(seed=1).fresh()
    weights = [next(state.G.parameters()) for state in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("recipe", [*recipes.PRESETS.values(), recipes.PLANE])
def test_a_recipe_survives_json(recipe):
    saved = json.loads(json.dumps(asdict(recipe)))
    again = recipes.Recipe(
        network=networks.NetworkConfig(**saved["network"]),
        objective=saved["objective"],
        train=training.TrainConfig(**saved["train"]),
    )
    assert again == recipe


def test_the_recipe_for_the_plane_finds_every_mode_of_the_ring_early():
    recipe = recipes.PLANE.variant(steps=1500)
    state = recipe.fresh()
    for _ in recipe.run(state, mixtures.ring()):
        pass
    report = metrics.mode_report(sampling.sample(state.G_ema, sampling.latents(2000, 2)), mixtures.ring())
    assert report.covered == 8
    assert report.high_quality > 0.5
