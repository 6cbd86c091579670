"""Each speedup keeps the result to the bit, or up to rounding, or for a known reason does not."""

import itertools
import shutil
from dataclasses import replace

import pytest
import torch

from gan_tutorial import data, recipes, records, training
from gan_tutorial.ship import speed
from gan_tutorial.ship.speed import Speedups

IMAGES = data.load_images("digits").subset(slice(64))
RECIPES = {
    "mlp": recipes.Recipe(network="mlp", latent_dim=8, hidden=(32, 16), spectral=False),
    "conv": recipes.Recipe(latent_dim=8, width=4, spectral=False),
}
ALL = {name: True for name in speed.NAMES if name not in ("compiled", "graph", "bf16")}


def weights(
    kind: str, steps: int = 20, workers: int = 0, device: str = "cpu", **speedups: bool
) -> torch.Tensor:
    """Return all weights of small networks after some steps."""
    torch.manual_seed(0)
    G, D = (network.to(device) for network in RECIPES[kind].build())
    loop = speed.train(G, D, IMAGES, Speedups(**speedups), batch_size=16, workers=workers)
    for _ in range(steps):
        next(loop)
    return torch.cat([p.detach().flatten() for p in [*G.parameters(), *D.parameters()]])


@pytest.fixture(scope="module", params=RECIPES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def usual(kind):
    return weights(kind)


@pytest.mark.parametrize("name", speed.EXACT)
def test_keeps_every_bit(kind, usual, name):
    assert torch.equal(weights(kind, **{name: True}), usual)


@pytest.mark.parametrize("name", [name for name in speed.ROUNDED if name in ALL])
def test_keeps_the_weights_up_to_rounding(kind, usual, name):
    torch.testing.assert_close(weights(kind, **{name: True}), usual, rtol=0, atol=2e-5)


def test_reuse_has_other_noise_and_so_learns_other_weights(kind, usual):
    assert (weights(kind, reuse=True) - usual).abs().max() > 1e-4


@pytest.mark.filterwarnings(  # PyTorch itself reads it, and hides its own warning
    "ignore:The .grad attribute of a Tensor"
)
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_keeps_the_weights_up_to_rounding():
    compiled = weights("mlp", steps=5, compiled=True)
    torch.testing.assert_close(compiled, weights("mlp", steps=5), rtol=0, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU records a graph")
@pytest.mark.parametrize("others", [(), tuple(ALL)])
def test_a_recorded_step_keeps_the_weights_up_to_rounding(kind, others):
    """A GPU's sums have no fixed order, so the bound is relative to how far the weights moved."""
    start = weights(kind, steps=0, device="cuda")
    switches = dict.fromkeys(others, True)
    plain = weights(kind, device="cuda", **switches)
    recorded = weights(kind, device="cuda", **switches, graph=True)
    assert (recorded - plain).norm() < 0.01 * (plain - start).norm()


@pytest.mark.parametrize("bf16", [False, True])
def test_only_a_gpu_can_use_a_graph_and_bf16_needs_a_device_where_it_pays(bf16, monkeypatch):
    monkeypatch.setattr(speed.runtime, "has_bf16", lambda _: bf16)
    for name, graph in (("cpu", False), ("cuda", True)):
        usable = speed.usable(torch.device(name))
        assert ("graph" in usable, "bf16" in usable) == (graph, bf16)


def test_workers_change_nothing():
    assert torch.equal(weights("mlp", steps=3, workers=1), weights("mlp", steps=3))


def test_bf16_rounds_but_moves_the_weights_the_same_way(kind, usual, monkeypatch):
    monkeypatch.setattr(training, "has_bf16", lambda _: True)
    start = weights(kind, steps=0)
    moved, moved_bf16 = usual - start, weights(kind, bf16=True) - start
    assert not torch.equal(moved, moved_bf16)
    assert torch.nn.functional.cosine_similarity(moved, moved_bf16, dim=0) > 0.9


def test_all_speedups_together_are_the_loop_of_the_package():
    """Except for the source of its random numbers, a step is that of ``training.train``."""
    torch.manual_seed(0)
    recipe = replace(
        RECIPES["mlp"], objective="non_saturating", lr_G=2e-4, lr_D=2e-4, betas=(0.5, 0.999)
    )
    state = training.TrainState.init(*recipe.build(), recipe)
    noise, labels = torch.Generator().manual_seed(0), torch.zeros(16, dtype=torch.int64)
    for real in itertools.islice(speed.batches(IMAGES, True, 16, 0, 0, state.device), 3):
        fake = state.G(torch.randn(16, 8, generator=noise), labels)
        training.update_discriminator(state, real, fake, labels, recipe, noise)
        training.update_generator(state, real, fake, labels, recipe, noise)
    parameters = [*state.G.parameters(), *state.D.parameters()]
    expected = torch.cat([p.detach().flatten() for p in parameters])
    torch.testing.assert_close(weights("mlp", steps=3, **ALL), expected, rtol=0, atol=1e-6)


def test_speeds_are_those_of_loops_in_turn():
    order = []

    def loop(name):
        while True:
            order.append(name)
            yield torch.zeros(()), torch.zeros(())

    speeds = speed.steps_per_second({name: loop(name) for name in "ab"}, steps=2, rounds=3)
    assert order == list("aabb") * 4  # the first round is not measured
    assert all(value > 0 for value in speeds.values())


def test_the_table_has_a_line_for_every_switch_with_its_ratio_to_the_faster_usual_loop():
    record = records.load("speed")
    lines = speed.table(record).splitlines()
    result = record["pairs"]["MLP"]
    (line,) = (line for line in lines[:14] if line.split()[:1] == ["fused"])
    ratio = result["alone"]["fused"] / max(result["usual"], result["2 workers"])
    assert line.split()[2] == f"{ratio:.2f}"
    assert {line.split()[0] for line in lines if line} >= set(result["alone"])
