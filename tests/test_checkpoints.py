import json
import multiprocessing
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import safetensors.torch
import torch

from gan_tutorial import checkpoints, data, features, losses, networks, recipes, sampling, training
from gan_tutorial.__main__ import main
from gan_tutorial.runs import CHECKPOINT

PAIR = networks.NetworkConfig(width=4, latent_dim=8, spectral=True)
IMAGES = data.load_images("digits").subset(slice(200))
HINGE = losses.objective("hinge")


def fresh(config, seed=0, pair=PAIR):
    torch.manual_seed(seed)
    return training.TrainState.fresh(*pair.build(), config)


def flat(state):
    """Every tensor and number of a state, by its path."""
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(state.state_dict())
    return {str(path): value for path, value in leaves}


def same_bits(one, other):
    one, other = flat(one), flat(other)
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


@pytest.fixture
def saved(tmp_path):
    """A state after six steps, and where it is saved."""
    config = training.TrainConfig(steps=6, batch_size=8, r1=0.5)
    state = fresh(config)
    for _ in training.train(state, IMAGES, HINGE, config):
        pass
    path = tmp_path / "a.safetensors"
    checkpoints.save(state, path, {"network": PAIR.as_dict(), "note": "six steps"})
    return state, path


def test_what_is_saved_comes_back_with_the_same_bits(saved):
    state, path = saved
    other = fresh(training.TrainConfig(), seed=1)
    assert not same_bits(state, other)
    checkpoints.restore(other, path)
    assert same_bits(state, other)
    assert checkpoints.read_settings(path) == {
        "network": json.loads(json.dumps(PAIR.as_dict())),
        "note": "six steps",
        "step": 6,
    }


@pytest.mark.parametrize("kind", networks.NETWORKS)
@pytest.mark.parametrize("objective", ["hinge", "relativistic"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, kind, objective):
    pair = networks.NetworkConfig(kind=kind, width=4, latent_dim=8, classes=10, spectral=True)
    config = training.TrainConfig(steps=20, batch_size=8, r1=0.1, gp=1.0)
    unbroken = fresh(config, pair=pair)
    for _ in training.train(unbroken, IMAGES, losses.objective(objective), config):
        pass
    broken = fresh(config, pair=pair)
    for log in training.train(broken, IMAGES, losses.objective(objective), config):
        if log.step == 7:
            checkpoints.save(broken, tmp_path / "a.safetensors", {})
            break
    resumed = fresh(config, seed=9, pair=pair)
    checkpoints.restore(resumed, tmp_path / "a.safetensors")
    for _ in training.train(resumed, IMAGES, losses.objective(objective), config):
        pass
    assert same_bits(unbroken, resumed)


def test_the_averaged_generator_loads_alone(saved):
    state, path = saved
    G, settings = checkpoints.load_generator(path)
    z = torch.randn(3, 8)
    assert torch.equal(G(z), state.G_ema(z))
    assert settings["step"] == 6
    assert not G.training
    assert not any(parameter.requires_grad for parameter in G.parameters())


def test_a_checkpoint_without_its_networks_says_so(saved):
    state, path = saved
    checkpoints.save(state, path, {})
    with pytest.raises(checkpoints.CheckpointError, match="does not say which networks"):
        checkpoints.load_generator(path)


def test_a_state_with_nan_is_not_saved_over_a_good_one(saved):
    state, path = saved
    good = path.read_bytes()
    with torch.no_grad():
        next(state.G.parameters())[0] = torch.nan
    with pytest.raises(checkpoints.CheckpointError, match="NaN"):
        checkpoints.save(state, path, {})
    assert path.read_bytes() == good


def test_settings_must_be_plain_values(saved):
    state, path = saved
    with pytest.raises(checkpoints.CheckpointError, match="plain values"):
        checkpoints.save(state, path, {"where": object()})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="there is no checkpoint at .*nowhere"):
        checkpoints.read_settings(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_and_the_state_is_unchanged(saved, share):
    state, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    other, untouched = fresh(training.TrainConfig(), seed=1), fresh(training.TrainConfig(), seed=1)
    with pytest.raises(checkpoints.CheckpointError, match="not a whole safetensors file"):
        checkpoints.restore(other, path)
    assert same_bits(other, untouched)


def test_any_changed_byte_is_noticed(saved):
    _, path = saved
    whole = bytearray(path.read_bytes())
    choose = random.Random(0)
    for _ in range(60):
        place = choose.randrange(len(whole))
        tampered = bytearray(whole)
        tampered[place] ^= 1 << choose.randrange(8)
        path.write_bytes(tampered)
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.read_settings(path)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'sprung')!r}, 'w').close()",)

    path = tmp_path / "trap.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(checkpoints.CheckpointError, match="not a whole safetensors file"):
        checkpoints.load_generator(path)
    torch.save({"G": Trap()}, path)
    with pytest.raises(checkpoints.CheckpointError, match="not a whole safetensors file"):
        checkpoints.load_generator(path)
    assert not (tmp_path / "sprung").exists()


def _save_without_end(path, stop):
    """Save one state over another, as a training does; the target of a process."""
    torch.set_num_threads(1)
    state = fresh(training.TrainConfig())
    while not stop.is_set():
        with torch.no_grad():
            next(state.G.parameters()).add_(1e-3)
        state.step += 1
        checkpoints.save(state, path, {})


def test_a_checkpoint_can_be_read_while_a_run_replaces_it(tmp_path):
    context, path = multiprocessing.get_context("spawn"), tmp_path / "a.safetensors"
    stop = context.Event()
    writer = context.Process(target=_save_without_end, args=(path, stop))
    writer.start()
    try:
        while not path.exists():
            time.sleep(0.05)
            assert writer.exitcode is None
        steps = [checkpoints.read_settings(path)["step"] for _ in range(3000)]
    finally:
        stop.set()
        writer.join()
    assert steps == sorted(steps)
    assert len(set(steps)) > 100, "the file was not replaced often enough to test anything"


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(checkpoints.CheckpointError, match="not a gan_tutorial checkpoint"):
        checkpoints.read_settings(path)


def test_other_networks_are_refused_and_the_state_is_unchanged(saved):
    _, path = saved
    pair = networks.NetworkConfig(width=6, latent_dim=8)
    other, untouched = (fresh(training.TrainConfig(), pair=pair) for _ in range(2))
    with pytest.raises(checkpoints.CheckpointError, match="other networks: G.layers"):
        checkpoints.restore(other, path)
    assert same_bits(other, untouched)


def test_a_full_disk_keeps_the_old_checkpoint(saved):
    """A process that may write no file above 10 kB fails with a clear error; what was saved stays whole."""
    _, path = saved
    good = path.read_bytes()
    program = f"""
        import resource, torch
        from gan_tutorial import checkpoints, networks, training
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        pair = networks.NetworkConfig(width=4, latent_dim=8, spectral=True)
        state = training.TrainState.fresh(*pair.build(), training.TrainConfig())
        try:
            checkpoints.save(state, {str(path)!r}, {{}})
        except OSError as error:
            print("refused:", error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert "refused:" in run.stdout
    assert "File too large; what was there is kept" in run.stdout
    assert path.name in run.stdout
    assert path.read_bytes() == good
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_killed_twenty_times_a_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, capsys, monkeypatch):
    """SIGKILL at random moments, also while a checkpoint is written; each time the same command with --resume."""
    command = "train --data digits --width 4 --latent-dim 8 --batch-size 8 --steps 1000 --save-every 1 --device cpu"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of several runs would wait for each other
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan_tutorial.__main__"])

    def start(out, *more):
        process = context.Process(target=main, args=([*command.split(), "--out", str(tmp_path / out), *more],))
        process.start()
        return process

    choose, half_written, steps = random.Random(0), 0, []
    checkpoint = tmp_path / "broken" / CHECKPOINT
    partial = checkpoint.with_name(".checkpoint.part.safetensors")
    for kill in range(20):
        before = max(steps, default=0)
        process = start("broken", "--resume")
        while kill % 4 and not (checkpoint.exists() and checkpoints.read_settings(checkpoint)["step"] > before):
            time.sleep(0.005)  # three times of four it is killed after it has come further, else perhaps before
            assert process.exitcode is None
        if kill % 4 == 1:
            while not partial.exists() and process.exitcode is None:
                pass  # a write has begun: kill in the middle of it
        else:
            process.join(timeout=choose.uniform(0.0, 0.2))
        assert process.exitcode is None, "the run ended before it was killed 20 times: give it more steps"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        half_written += partial.exists()
        steps.append(checkpoints.read_settings(checkpoint)["step"] if checkpoint.exists() else 0)  # never unreadable
    for out, more in (("broken", ["--resume"]), ("unbroken", [])):
        process = start(out, *more)
        process.join(timeout=300)
        assert process.exitcode == 0
    assert steps == sorted(steps)
    assert half_written > 0, "no kill fell into a write"
    assert len(set(steps)) > 10, "the kills came too early to test anything"
    config, pair = training.TrainConfig(), networks.NetworkConfig(width=4, latent_dim=8, classes=10)
    broken, unbroken = (fresh(config, seed, pair) for seed in (1, 2))
    checkpoints.restore(broken, checkpoint)
    checkpoints.restore(unbroken, tmp_path / "unbroken" / CHECKPOINT)
    assert same_bits(broken, unbroken)
    assert (tmp_path / "broken" / "log.csv").read_text() == (tmp_path / "unbroken" / "log.csv").read_text()
    with capsys.disabled():
        print(f"\nkilled at steps {steps}, {half_written} of 20 in a write")


@pytest.mark.parametrize("name", data.BUNDLED)
def test_the_bundled_pair_draws_what_it_is_asked_for(name):
    """A hundred samples of each class: the classifier takes nearly all digits, and most clothes, for what was asked."""
    G, settings = checkpoints.load_generator(checkpoints.bundled(name))
    assert (settings["data"], settings["step"]) == (name, 0)
    labels = torch.arange(1000).remainder(10)
    samples = sampling.sample(G, sampling.latents(1000, G.latent_dim, seed=5), labels)
    _, seen = features.load_classifier(name).describe(samples)
    assert (seen == labels).float().mean() > (0.95 if name == "digits" else 0.8)


def test_a_warm_start_takes_networks_but_neither_steps_nor_moments():
    state = recipes.preset("best").fresh()
    checkpoints.warm_start(state, checkpoints.bundled("digits"))
    G, _ = checkpoints.load_generator(checkpoints.bundled("digits"))
    for name, value in G.state_dict().items():
        assert torch.equal(state.G.state_dict()[name], value)
        assert torch.equal(state.G_ema.state_dict()[name], value)
    assert state.step == 0
    assert not state.opt_G.state_dict()["state"]
    assert state.G.training


def test_a_warm_start_from_other_networks_changes_nothing():
    state = recipes.preset("best").variant(width=8).fresh()
    before = [p.clone() for p in state.D.parameters()]
    with pytest.raises(checkpoints.CheckpointError, match="holds other networks"):
        checkpoints.warm_start(state, checkpoints.bundled("digits"))
    assert all(torch.equal(a, b) for a, b in zip(before, state.D.parameters(), strict=True))
