"""Each saving of the ladder leaves the result as it was: to the bit, up to rounding, or not, and it is known why."""

import itertools
import shutil

import pytest
import torch

from gan_tutorial import data, ladder, losses, networks, training
from gan_tutorial.ladder import Savings

IMAGES = data.load_images("digits").subset(slice(64))
PAIRS = {
    "mlp": networks.NetworkConfig(kind="mlp", latent_dim=8, hidden=(32, 16), spectral=False),
    "conv": networks.NetworkConfig(latent_dim=8, width=4, spectral=False),
}
ALL = {name: True for name in ladder.NAMES if name not in ("compiled", "graph", "bf16")}


def weights(kind: str, steps: int = 20, workers: int = 0, device: str = "cpu", **savings: bool) -> torch.Tensor:
    """Return all weights of a small pair after some steps."""
    torch.manual_seed(0)
    G, D = (network.to(device) for network in PAIRS[kind].build())
    logs = ladder.train(G, D, IMAGES, Savings(**savings), batch_size=16, workers=workers)
    for _ in range(steps):
        next(logs)
    return torch.cat([p.detach().flatten() for p in [*G.parameters(), *D.parameters()]])


@pytest.fixture(scope="module", params=PAIRS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def usual(kind):
    return weights(kind)


@pytest.mark.parametrize("name", ladder.EXACT)
def test_keeps_every_bit(kind, usual, name):
    assert torch.equal(weights(kind, **{name: True}), usual)


@pytest.mark.parametrize("name", [name for name in ladder.ROUNDED if name in ALL])
def test_keeps_the_weights_up_to_rounding(kind, usual, name):
    torch.testing.assert_close(weights(kind, **{name: True}), usual, rtol=0, atol=2e-5)


def test_reuse_draws_other_noise_and_so_learns_other_weights(kind, usual):
    assert (weights(kind, reuse=True) - usual).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch looks at it, and hides its own warning
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_keeps_the_weights_up_to_rounding():
    torch.testing.assert_close(weights("mlp", steps=5, compiled=True), weights("mlp", steps=5), rtol=0, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU records a graph")
@pytest.mark.parametrize("others", [(), ("tensor", "reuse", "one_pass", "frozen", "no_sync", "fused", "channels_last")])
def test_a_recorded_step_keeps_the_weights_up_to_rounding(kind, others):
    """A GPU adds up in an order that changes from run to run, so the gap is measured against the way of the weights."""
    start = weights(kind, steps=0, device="cuda")
    plain, recorded = (
        weights(kind, device="cuda", **dict.fromkeys(others, True), graph=graph) for graph in (False, True)
    )
    assert (recorded - plain).norm() < 0.01 * (plain - start).norm()


def test_a_graph_is_usable_on_a_gpu_alone():
    assert "graph" not in ladder.usable(torch.device("cpu"))
    assert "graph" in ladder.usable(torch.device("cuda"))


def test_workers_change_nothing():
    assert torch.equal(weights("mlp", steps=3, workers=1), weights("mlp", steps=3))


def test_bf16_rounds_but_learns_the_same_way(kind, usual):
    start = weights(kind, steps=0)
    moved, moved_bf16 = usual - start, weights(kind, bf16=True) - start
    assert torch.nn.functional.cosine_similarity(moved, moved_bf16, dim=0) > 0.9


def test_all_savings_together_are_the_loop_of_the_package():
    """But for where the numbers come from, a step is that of ``training.train``."""
    torch.manual_seed(0)
    config = training.TrainConfig(steps=3, batch_size=16, lr_G=2e-4, lr_D=2e-4, betas=(0.5, 0.999), ema=0.0)
    state = training.TrainState.fresh(*PAIRS["mlp"].build(), config)
    noise, labels = torch.Generator().manual_seed(0), torch.zeros(16, dtype=torch.int64)
    for real in itertools.islice(ladder.batches(IMAGES, True, 16, 0, 0, state.device), 3):
        fake = state.G(torch.randn(16, 8, generator=noise), labels)
        for step in (training.discriminator_step, training.generator_step):
            step(state, real, fake, labels, losses.objective("non_saturating"), config, noise)
    ours = torch.cat([p.detach().flatten() for p in [*state.G.parameters(), *state.D.parameters()]])
    torch.testing.assert_close(weights("mlp", steps=3, **ALL), ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair": networks.NetworkConfig(latent_dim=8, width=4, classes=10)}, "without classes"),
        ({"pair": networks.NetworkConfig(latent_dim=8, width=4, shape=(1, 32, 32))}, r"\(1, 28, 28\)"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, but is 0"),
        ({"workers": -1}, "workers must be an integer of at least 0, but is -1"),
        ({"lr": -1.0}, "[Ll]earning rate"),
        ({"savings": Savings(graph=True)}, "needs a GPU, but the networks are on cpu"),
    ],
)
def test_bad_input_ends_at_the_door(changes, message):
    pair, savings = changes.pop("pair", PAIRS["conv"]), changes.pop("savings", Savings())
    with pytest.raises(ValueError, match=message):
        next(ladder.train(*pair.build(), IMAGES, savings, **changes))
