"""Checkpoints: complete or absent, the same bits back, and runs that survive being killed."""

import csv
import errno
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

from gan_tutorial import (
    checkpoints,
    data,
    metrics,
    networks,
    pictures,
    plotting,
    recipes,
    sampling,
    training,
)
from gan_tutorial.__main__ import main
from gan_tutorial.beyond import audio
from gan_tutorial.classifier import load_classifier
from gan_tutorial.ship import export

CHECKPOINT = checkpoints.Run.CHECKPOINT
SMALL = recipes.Recipe(width=4, latent_dim=8, steps=6, batch_size=8)
IMAGES = data.load_images("digits").subset(slice(200))


def trained(recipe, state=None):
    """Return a state after all steps of a recipe."""
    state = state or recipe.init()
    for _ in training.train(state, IMAGES, recipe):
        pass
    return state


def other_state(recipe=SMALL):
    """Return a state of the same networks with other weights."""
    return replace(recipe, seed=9).init()


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
    recipe = replace(SMALL, r1=0.5)
    state, path = trained(recipe), tmp_path / "a.safetensors"
    checkpoints.save(state, path, {"recipe": asdict(recipe), "note": "six steps"})
    return state, path


def test_what_is_saved_comes_back_with_the_same_bits(saved):
    state, path = saved
    other = other_state()
    assert not same_bits(state, other)
    checkpoints.restore(other, path)
    assert same_bits(state, other)
    settings = checkpoints.read_settings(path)
    assert (settings["note"], settings["step"]) == ("six steps", 6)
    assert recipes.Recipe(**settings["recipe"]) == replace(SMALL, r1=0.5)


@pytest.mark.parametrize("network", networks.NETWORKS)
@pytest.mark.parametrize("objective", ["hinge", "relativistic"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, network, objective):
    recipe = replace(
        SMALL, network=network, objective=objective, classes=10, steps=20, r1=0.1, gp=1.0
    )
    unbroken, broken, resumed = trained(recipe), recipe.init(), other_state(recipe)
    for log in training.train(broken, IMAGES, recipe):
        if log.step == 7:
            checkpoints.save(broken, tmp_path / "a.safetensors", {})
            break
    checkpoints.restore(resumed, tmp_path / "a.safetensors")
    assert same_bits(unbroken, trained(recipe, resumed))


def test_equal_runs_give_equal_files(saved, tmp_path):
    """The library writes the entries of a header in a different order each time."""
    state, path = saved
    settings = {"recipe": {}, "note": "six steps"}
    tensors, metadata = {"w": torch.zeros(2)}, {str(i): "" for i in range(9)}
    assert len({checkpoints.safetensors_file(tensors, metadata) for _ in range(9)}) == 1
    for name in ("one", "two", "three"):
        checkpoints.save(trained(replace(SMALL, r1=0.5)), tmp_path / name, settings)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two == three
    assert safetensors.torch.load(one).keys() == safetensors.torch.load_file(path).keys()
    with safetensors.safe_open(tmp_path / "one", "pt") as file:
        assert json.loads(file.metadata()["settings"]) == settings


def test_a_resumed_run_has_the_rates_of_its_recipe(saved):
    _, path = saved
    recipe = replace(SMALL, steps=7, lr_G=0.5, lr_D=0.25, betas=(0.5, 0.9))
    state = recipe.init()
    checkpoints.restore(state, path)
    trained(recipe, state)
    for optimiser, lr in ((state.opt_G, 0.5), (state.opt_D, 0.25)):
        (group,) = optimiser.param_groups
        assert (group["lr"], group["betas"]) == (lr, (0.5, 0.9))


def test_the_averaged_generator_loads_alone(saved):
    state, path = saved
    G, settings = checkpoints.load_generator(path)
    z = torch.randn(3, 8)
    assert torch.equal(G(z), state.G_ema(z))
    assert settings["step"] == 6
    assert not G.training
    assert not any(parameter.requires_grad for parameter in G.parameters())


def test_loading_leaves_the_random_numbers_of_the_caller_alone(tmp_path):
    before = torch.random.get_rng_state()
    G, settings = checkpoints.load_generator("digits")
    load_classifier("digits")
    audio.load_generator()
    export.to_safetensors(G, tmp_path / "digits.safetensors", settings)
    export.load_safetensors(tmp_path / "digits.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


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


def test_a_file_that_cannot_be_read_is_not_called_damaged(saved, monkeypatch):
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("pathlib.Path.read_bytes", mock.Mock(side_effect=denied))
    with pytest.raises(
        checkpoints.CheckpointError, match=r"cannot be read \(Permission denied\); check its perm"
    ):
        checkpoints.read_settings(saved[1])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_and_the_state_is_unchanged(saved, share):
    state, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    other, untouched = other_state(), other_state()
    with pytest.raises(checkpoints.CheckpointError, match="not a complete safetensors file"):
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
    with pytest.raises(checkpoints.CheckpointError, match="a pickle of torch.save"):
        checkpoints.load_generator(path)
    torch.save({"G": Trap()}, path)
    with pytest.raises(checkpoints.CheckpointError, match="a pickle of torch.save"):
        checkpoints.load_generator(path)
    assert not (tmp_path / "sprung").exists()


def _save_without_end(path, stop):
    """Save one state over another, as a training run does; the target of a process."""
    torch.set_num_threads(1)
    state = SMALL.init()
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
        steps = []
        while len(steps) < 3000 or len(set(steps)) <= 100:
            steps.append(checkpoints.read_settings(path)["step"])
            assert len(steps) < 300_000, "the file was not replaced often enough to test anything"
    finally:
        stop.set()
        writer.join()
    assert steps == sorted(steps)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(
        checkpoints.CheckpointError, match="has the format null, not 'gan_tutorial checkpoint 2'"
    ):
        checkpoints.read_settings(path)


def test_other_networks_are_refused_and_the_state_is_unchanged(saved):
    _, path = saved
    recipe = replace(SMALL, width=6)
    other, untouched = recipe.init(), recipe.init()
    with pytest.raises(checkpoints.CheckpointError, match="other networks: G.layers"):
        checkpoints.restore(other, path)
    assert same_bits(other, untouched)


def test_a_full_disk_keeps_the_old_checkpoint(saved):
    """A process that may write no file above 10 kB fails with a clear error."""
    _, path = saved
    good = path.read_bytes()
    program = f"""
        import resource, torch
        from gan_tutorial import checkpoints, recipes
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        state = recipes.Recipe(width=4, latent_dim=8).init()
        try:
            checkpoints.save(state, {str(path)!r}, {{}})
        except OSError as error:
            print("refused:", error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert "refused:" in run.stdout
    assert "File too large; the previous file is kept" in run.stdout
    assert path.name in run.stdout
    assert path.read_bytes() == good
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def train_quickly(arguments):
    """BatchNorm statistics, which each write needs, are gathered from one batch here, not fifty."""
    sampling.recalibrate_batchnorm = partial(sampling.recalibrate_batchnorm, batches=1)
    main(arguments)


def train_on_a_slow_disk(arguments):
    """A write takes 20 ms here, so that a kill can fall into it."""
    os.fsync = lambda _: time.sleep(0.02)
    train_quickly(arguments)


def test_killed_twenty_times_a_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    """SIGKILL at random moments, also during a write, then the same command with --resume."""
    command = (
        "train --width 4 --latent-dim 8 --batch-size 8 --steps 300 --save-every 1 --device cpu"
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan_tutorial.__main__"])

    def start(out, *more, train=train_quickly):
        process = context.Process(
            target=train, args=([*command.split(), "--out", str(tmp_path / out), *more],)
        )
        process.start()
        return process

    choose, half_written, steps = random.Random(0), 0, []
    checkpoint = tmp_path / "broken" / CHECKPOINT
    partial = checkpoint.with_name(".checkpoint.part.safetensors")
    while len(steps) < 20 or not half_written:  # on a busy machine a kill may miss its write
        kill, before = len(steps), max(steps, default=0)
        process = start("broken", "--resume", train=train_on_a_slow_disk)
        while kill % 4 and not (
            checkpoint.exists() and checkpoints.read_settings(checkpoint)["step"] > before
        ):
            time.sleep(0.005)  # three times in four it is killed after a step, else at any time
            assert process.exitcode is None
        if kill % 4 == 1:
            while not partial.exists() and process.exitcode is None:
                pass  # a write has begun: kill in the middle of it
        else:
            process.join(timeout=choose.uniform(0.0, 0.2))
        assert process.exitcode is None, "the run ended too early: give it more steps"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        half_written += partial.exists()
        # Reading it must never fail.
        steps.append(checkpoints.read_settings(checkpoint)["step"] if checkpoint.exists() else 0)
    for out, more in (("broken", ["--resume"]), ("unbroken", [])):
        process = start(out, *more)
        process.join(timeout=300)
        assert process.exitcode == 0
    assert steps == sorted(steps)
    assert len(set(steps)) > 10, "the kills came too early to test anything"
    recipe = recipes.Recipe(**checkpoints.read_settings(checkpoint)["recipe"])
    broken, unbroken = recipe.init(), other_state(recipe)
    checkpoints.restore(broken, checkpoint)
    checkpoints.restore(unbroken, tmp_path / "unbroken" / CHECKPOINT)
    assert same_bits(broken, unbroken)
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("broken", "unbroken")]
    assert logs[0] == logs[1]
    print(f"killed at steps {steps}, {half_written} of {len(steps)} in a write")


def test_a_run_of_a_version_without_groups_is_resumed(tmp_path):
    run = checkpoints.Run.open(tmp_path, SMALL, "digits")
    del run.settings["recipe"]["minibatch_std"]
    run.save()
    checkpoints.Run.open(tmp_path, SMALL, "digits", resume=True)
    groups = replace(SMALL, minibatch_std=2)
    with pytest.raises(ValueError, match="minibatch_std was 0, is 2; set them as they were"):
        checkpoints.Run.open(tmp_path, groups, "digits", resume=True)


def test_an_old_checkpoint_is_named(saved):
    """Format 1 had other settings; the header says so before anything else is read."""
    _, path = saved
    content = path.read_bytes()
    header = {"format": json.dumps("gan_tutorial checkpoint 1"), "step": "6", "settings": "{}"}
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(content), header))
    with pytest.raises(
        checkpoints.CheckpointError,
        match='has the format "gan_tutorial checkpoint 1", not .*; give a file',
    ):
        checkpoints.load_generator(path)


@pytest.mark.parametrize("name", data.BUNDLED)
def test_the_bundled_generator_makes_the_class_it_is_given(name):
    """The classifier sees nearly all digits, and most clothes, as the class that was given."""
    G, settings = checkpoints.load_generator(name)
    assert (settings["data"], settings["step"]) == (name, 0)
    samples = sampling.generate(G, 1000, seed=5)
    _, seen = load_classifier(name).extract(samples)
    accuracy = (seen == sampling.labels(G, 1000)).float().mean()
    assert accuracy > (0.95 if name == "digits" else 0.8)


def test_the_bundled_flowers_have_the_petals_that_are_asked_for():
    G, settings = checkpoints.load_generator("flowers")
    assert (settings["data"], settings["step"]) == ("flowers", 0)
    report = metrics.flower_report(sampling.generate(G, 600, seed=5), sampling.labels(G, 600))
    assert report.asked > 0.9
    assert report.covered > 60


def test_networks_in_half_precision_sample_and_start_runs_but_cannot_be_resumed(tmp_path):
    recipe = recipes.Recipe(shape=(3, 16, 16), latent_dim=4, width=16, classes=2)
    state, path = recipe.init(), tmp_path / "pair.safetensors"
    checkpoints.save_networks(state, path, {"recipe": asdict(recipe)})
    checkpoints.save(state, tmp_path / "whole.safetensors", {"recipe": asdict(recipe)})
    assert path.stat().st_size < 0.5 * (tmp_path / "whole.safetensors").stat().st_size
    G, _ = checkpoints.load_generator(path)
    ours, theirs = (sampling.generate(network, 20) for network in (state.G_ema, G))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    assert next(G.parameters()).dtype == torch.float32
    other = replace(recipe, seed=1).init()
    checkpoints.warm_start(other, path)
    pairs = zip(state.D.parameters(), other.D.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-3
    with pytest.raises(checkpoints.CheckpointError, match=r"has other networks: G\.\S+ is absent"):
        checkpoints.restore(other, path)


def test_a_warm_start_takes_networks_but_neither_steps_nor_moments():
    state = recipes.preset("best").init()
    checkpoints.warm_start(state, checkpoints.find("digits"))
    G, _ = checkpoints.load_generator("digits")
    for name, value in G.state_dict().items():
        assert torch.equal(state.G.state_dict()[name], value)
        assert torch.equal(state.G_ema.state_dict()[name], value)
    assert state.step == 0
    assert not state.opt_G.state_dict()["state"]
    assert state.G.training


def test_a_warm_start_gives_g_the_average_of_the_other_run(saved):
    state, path = saved
    other, average, last = other_state(), state.G_ema.state_dict(), state.G.state_dict()
    checkpoints.warm_start(other, path)
    for network in (other.G, other.G_ema):
        for name, value in network.state_dict().items():
            assert torch.equal(value, average[name])
    assert not all(torch.equal(value, last[name]) for name, value in average.items())


def test_a_warm_start_from_other_networks_changes_nothing():
    recipe = replace(recipes.preset("best"), width=8)
    state, untouched = recipe.init(), recipe.init()
    with pytest.raises(checkpoints.CheckpointError, match="has other networks"):
        checkpoints.warm_start(state, checkpoints.find("digits"))
    assert same_bits(state, untouched)


def test_what_a_run_writes_is_of_the_average_with_statistics_of_its_own(tmp_path):
    run = checkpoints.Run.open(tmp_path, SMALL, "digits")
    for log in training.train(run.state, IMAGES, SMALL):
        run.record(log, sample_every=6, save_every=6)
    G, _ = checkpoints.load_generator(tmp_path)
    own = sampling.recalibrate_batchnorm(trained(SMALL).G_ema)
    torch.testing.assert_close(G.state_dict(), own.state_dict())
    with Image.open(tmp_path / "samples-000006.png") as picture:
        assert np.array_equal(picture, plotting.tile(sampling.generate(G, 64, SMALL.seed)))
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in row} == {
        "step": 6,
        "d_loss": log["d_loss"],
        "g_loss": log["g_loss"],
    }


def test_the_best_checkpoint_is_kept_after_worse_ones_and_after_a_resume(tmp_path):
    judge = mock.Mock(side_effect=[3.0, 1.0, 2.0, 1.5])
    run = checkpoints.Run.open(tmp_path, SMALL, "digits", judge=judge)
    for step in (1, 2, 3):
        run.state.step = step
        run.save_if_best()
    run.save()
    resumed = checkpoints.Run.open(tmp_path, SMALL, "digits", resume=True, judge=judge)
    resumed.save_if_best()
    kept = checkpoints.read_settings(tmp_path / checkpoints.Run.BEST)
    assert (kept["step"], kept["validation_fd"]) == (2, 1.0)


def test_a_best_checkpoint_without_its_run_is_not_overwritten(tmp_path):
    """As after a kill before the first save, or if the run was moved away."""
    judge = mock.Mock(side_effect=[1.0, 2.0, 0.5])
    run = checkpoints.Run.open(tmp_path, SMALL, "digits", judge=judge)
    run.state.step = 2
    run.save_if_best()
    with pytest.raises(ValueError, match="is of step 2 of a run; move it away, give another --out"):
        checkpoints.Run.open(tmp_path, SMALL, "digits", judge=judge)
    other = replace(SMALL, seed=1)
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        checkpoints.Run.open(tmp_path, other, "digits", resume=True, judge=judge)
    again = checkpoints.Run.open(tmp_path, SMALL, "digits", resume=True, judge=judge)
    assert again.state.step == 0
    kept = []
    for step in (1, 3):
        again.state.step = step
        again.save_if_best()
        best = checkpoints.read_settings(tmp_path / checkpoints.Run.BEST)
        kept.append((best["step"], best["validation_fd"]))
    assert kept == [(2, 1.0), (3, 0.5)]


def test_half_precision_is_saved(tmp_path):
    state, other = SMALL.init(), SMALL.init()
    state.D.bfloat16()
    other.D.bfloat16()
    checkpoints.save(state, tmp_path / "x", {})
    checkpoints.restore(other, tmp_path / "x")
    assert same_bits(state, other)


def test_a_folder_with_the_name_of_a_bundled_pair_hides_it_only_if_it_is_a_run(
    tmp_path, monkeypatch
):
    bundled, here = checkpoints.find("digits"), Path("digits", CHECKPOINT)
    monkeypatch.chdir(tmp_path)
    here.parent.mkdir()  # a folder of images, which train --data digits does not take either
    assert checkpoints.find("digits") == bundled
    assert checkpoints.find("./digits") == here
    here.touch()
    assert checkpoints.find("digits") == here


def test_the_folder_of_a_run_is_known_by_its_files():
    """So that a run inside the data does not become data."""
    assert set(pictures.RUN) == {checkpoints.Run.CHECKPOINT, checkpoints.Run.BEST}
