"""The command line: what each command leaves behind, and one line for each bad input."""

import asyncio
import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from gan_tutorial import (
    augment,
    checkpoints,
    data,
    metrics,
    recipes,
    records,
    sampling,
    training,
)
from gan_tutorial.__main__ import SETTINGS, announce_time, expectation, main, may_know
from gan_tutorial.ship.serving.app import Service
from gan_tutorial.ship.serving.limits import Limits, ServerState
from gan_tutorial.ship.serving.model import OnnxGenerator

CHECKPOINT = checkpoints.Run.CHECKPOINT
SMALL = "--width 4 --latent-dim 8 --batch-size 8 --device cpu --save-every 5 --sample-every 10"
SMALL += " --lr-end 1"  # an extended run has the rates of one that long from the start


def run(command):
    """Run the command line in this process and return its status."""
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command))
    return end.value.code or 0


def process(command, **options):
    """Start the command line as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "gan_tutorial", *shlex.split(command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of 20 steps."""
    out = tmp_path_factory.mktemp("run") / "a"
    assert run(f"train --out {out} --steps 20 --conditional {SMALL}") == 0
    return out


def test_help_teaches(capsys):
    assert run("") == 0
    assert "train --data digits" in capsys.readouterr().out
    for command in ("train", "sample", "evaluate", "export"):
        assert run(f"{command} --help") == 0
        assert f"Usage: python -m gan_tutorial {command}" in capsys.readouterr().out


def test_every_setting_of_a_recipe_is_an_option():
    from_data, not_offered = {"shape", "classes"}, {"hidden"}
    names = {field.name for field in fields(recipes.Recipe)} - from_data - not_offered
    assert set(SETTINGS) == names - {"betas"} | {"beta1", "beta2"}
    assert all(text.endswith(".") for text in SETTINGS.values())


def test_a_run_leaves_a_checkpoint_samples_and_losses(trained):
    assert {path.name for path in trained.iterdir()} == {
        CHECKPOINT,
        "samples-000010.png",
        "samples-000020.png",
        "losses.png",
        "log.csv",
    }
    with Image.open(trained / "samples-000020.png") as picture:
        assert picture.size == (8 * 30 - 2, 8 * 30 - 2)
    with (trained / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20"]
    assert checkpoints.read_settings(trained / CHECKPOINT)["step"] == 20


def test_keep_best_keeps_the_checkpoint_that_is_nearest_to_validation_images(tmp_path):
    out, other = tmp_path / "a", tmp_path / "b"
    assert run(f"train --out {out} --steps 15 --keep-best --lr-g 0.05 {SMALL}") == 0
    images, validation = data.load_images("digits").hold_out()
    judge = metrics.Evaluator("digits", train=images, held_out=validation)

    def distance(path):
        G, _ = checkpoints.load_generator(path)
        z = sampling.latents(len(validation), G.latent_dim, seed=1)
        return judge.fd(sampling.sample(G, z, images.draw_labels(len(validation), seed=1)))

    saved = {}  # what an unbroken run has after 5, 10 and 15 steps
    for steps in (5, 10, 15):
        more = f"train --out {other} --steps {steps} --resume --keep-best --lr-g 0.05 {SMALL}"
        assert run(more) == 0
        saved[steps] = distance(other / CHECKPOINT)
    best = out / checkpoints.Run.BEST
    settings = checkpoints.read_settings(best)
    assert settings["step"] == min(saved, key=saved.get)
    assert settings["validation_fd"] == pytest.approx(min(saved.values()), rel=1e-6)
    assert distance(best) == pytest.approx(min(saved.values()), rel=1e-6)
    resumed = checkpoints.read_settings(other / checkpoints.Run.BEST)
    assert [resumed[key] for key in ("step", "validation_fd")] == [
        settings[key] for key in ("step", "validation_fd")
    ]
    assert run(f"evaluate {best} --count 100") == 0


def test_with_keep_best_the_networks_never_see_the_validation_images(tmp_path, monkeypatch):
    spy = mock.Mock(wraps=training.train)
    monkeypatch.setattr(training, "train", spy)
    monkeypatch.setattr(metrics, "Evaluator", lambda *_, **__: mock.Mock(fd=lambda _: 1.0))
    assert run(f"train --out {tmp_path}/a --steps 1 --keep-best {SMALL}") == 0
    _, images, _ = spy.call_args.args
    others, _ = data.load_images("digits").hold_out()
    assert torch.equal(images.pixels, others.pixels)
    assert torch.equal(images.labels, others.labels)


def test_keep_best_also_judges_the_networks_that_a_run_starts_from(trained, tmp_path, monkeypatch):
    judge = mock.Mock(fd=mock.Mock(side_effect=[1.0, 2.0]))
    monkeypatch.setattr(metrics, "Evaluator", lambda *_, **__: judge)
    options = f"--steps 1 --keep-best --conditional --warm-start {trained} {SMALL}"
    assert run(f"train --out {tmp_path}/a {options}") == 0
    best = checkpoints.read_settings(tmp_path / "a" / checkpoints.Run.BEST)
    assert (best["step"], best["validation_fd"]) == (0, 1.0)


def test_keep_best_warns_of_networks_that_may_know_the_validation_images(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(metrics, "Evaluator", lambda *_, **__: mock.Mock(fd=lambda _: 1.0))
    part, options = tmp_path / "part", f"--steps 1 --keep-best --conditional {SMALL}"
    assert run(f"train --out {part} {options}") == 0
    for start in (trained, part):
        capsys.readouterr()
        assert run(f"train --out {tmp_path}/{start.name}-on --warm-start {start} {options}") == 0
        warning = f"warning: {start} may have learnt from the validation images of --keep-best"
        assert (warning in capsys.readouterr().err) == (start == trained)


@pytest.mark.parametrize(
    ("before", "known"),
    [
        ({"data": "digits"}, True),
        ({"data": "mnist"}, True),
        ({"data": "photos"}, True),  # a folder may hold anything
        ({"data": "fashion"}, False),
        ({"data": "fashion", "warm_start": "other"}, True),
        ({"data": "digits", "keep_best": True, "fingerprint": "a"}, False),
        ({"data": "digits", "keep_best": True, "fingerprint": "b"}, True),
        ({"data": "digits", "keep_best": True, "fingerprint": "a", "warm_start": "other"}, True),
    ],
)
def test_which_networks_may_know_the_validation_images(before, known, monkeypatch):
    monkeypatch.setattr(checkpoints, "read_settings", lambda _: before)
    images = replace(data.load_images("digits"), fingerprint="a")
    assert may_know("digits", "digits", images) == known
    assert not may_know("no-such-run", "digits", images), "a resumed run has no need of it"


def test_keep_best_is_refused_where_nothing_judges_and_cannot_be_changed_later(tmp_path, capsys):
    assert run(f"train --out {tmp_path / 'a'} --keep-best --size 32 {SMALL}") == 1
    err = capsys.readouterr().err
    assert "--keep-best judges images (1, 28, 28) of digits, mnist, fashion, fashion-mnist, " in err
    assert "not (1, 32, 32) of digits; omit it" in err
    out = tmp_path / "b"
    assert run(f"train --out {out} --steps 5 {SMALL}") == 0
    assert run(f"train --out {out} --steps 10 --resume --keep-best {SMALL}") == 1
    assert "keep_best was False, is True" in capsys.readouterr().err


def test_a_run_can_be_made_longer(tmp_path):
    for steps in (6, 12):
        assert run(f"train --out {tmp_path}/long --steps {steps} --resume {SMALL}") == 0
    assert run(f"train --out {tmp_path}/whole --steps 12 {SMALL}") == 0
    long, _ = checkpoints.load_generator(tmp_path / "long")
    whole, _ = checkpoints.load_generator(tmp_path / "whole")
    z, labels = torch.randn(2, 8), torch.tensor([3, 4])
    assert torch.equal(long(z, labels), whole(z, labels))


def test_a_resumed_run_has_the_log_of_an_unbroken_one(tmp_path, trained):
    out = tmp_path / "a"
    assert run(f"train --out {out} --steps 15 --conditional {SMALL}") == 0
    assert run(f"train --out {out} --steps 20 --conditional --resume {SMALL}") == 0
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (out, trained)]
    assert [line for line in logs[0] if not line.startswith("15,")] == logs[1]
    (out / "log.csv").unlink()
    assert run(f"train --out {out} --steps 30 --conditional --resume {SMALL}") == 0
    assert (out / "log.csv").read_text().splitlines()[1].startswith("30,")


def test_a_folder_of_images_is_learned(tmp_path):
    images = data.load_images("digits").subset(slice(10))
    (tmp_path / "images").mkdir()
    for index, pixels in enumerate(images.pixels):
        Image.fromarray(pixels[0].numpy()).save(tmp_path / "images" / f"{index}.png")
    out = tmp_path / "a"
    assert run(f"train --data {tmp_path}/images --size 16 --out {out} --steps 2 {SMALL}") == 0
    recipe = checkpoints.read_settings(out / CHECKPOINT)["recipe"]
    assert (recipe["shape"], recipe["classes"]) == ([3, 16, 16], 0)


@pytest.fixture
def animals(tmp_path):
    """A folder of two classes, each with four images."""
    for index in range(8):
        path = tmp_path / "animals" / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (30 * index, 0, 0)).save(path)
    return tmp_path / "animals"


def test_data_that_moved_are_resumed_and_data_that_changed_are_not(animals, tmp_path, capsys):
    out = tmp_path / "a"

    def train(folder, steps):
        return run(f"train --data {folder} --size 16 --out {out} --steps {steps} --resume {SMALL}")

    assert train(animals, 1) == 0
    assert capsys.readouterr().out.startswith("animals: 8 images, 16×16, colour; cats 4, dogs 4;")
    moved = animals.rename(tmp_path / "moved")
    assert train(moved, 2) == 0
    (moved / "dogs").rename(moved / "bears")  # now the first class
    capsys.readouterr()
    assert train(moved, 3) == 1
    err = capsys.readouterr().err
    assert f"the images in {moved} are not those that {out} began with; put them back, or" in err
    (moved / "bears").rename(moved / "dogs")  # what the message says
    assert train(moved, 3) == 0


def test_the_names_of_classes_are_in_checkpoint_export_and_service(animals, tmp_path, capsys):
    out = tmp_path / "a"
    assert run(f"train --data {animals} --size 16 --out {out} --steps 1 {SMALL}") == 0
    assert checkpoints.read_settings(out / CHECKPOINT)["class_names"] == ["cats", "dogs"]
    for form in ("onnx", "safetensors"):
        capsys.readouterr()
        assert run(f"export {out} --format {form} --out {tmp_path}/model.{form}") == 0
        assert "holds G of 2 classes (cats, dogs), " in capsys.readouterr().out
    generator = OnnxGenerator(tmp_path / "model.onnx")
    service = Service(generator, Limits(), ServerState())
    with ThreadPoolExecutor(1) as thread:  # the browser's event loop may be running in this one
        card = thread.submit(asyncio.run, service.model()).result()
    assert card["classes"] == ("cats", "dogs")


def test_a_run_inside_the_data_does_not_become_data(animals, capsys):
    out = animals / "runs" / "a"
    for steps in (10, 20):
        command = f"train --data {animals} --size 16 --out {out} --steps {steps} --resume {SMALL}"
        assert run(command) == 0
        assert (out / "samples-000010.png").exists()
    assert "animals: 8 images" in capsys.readouterr().out.splitlines()[-3]


@pytest.fixture
def photographs(tmp_path):
    """A folder of 40 colour images of mixed sizes, formats and modes."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = [("jpg", "RGB"), ("png", "RGBA"), ("webp", "RGB"), ("tif", "CMYK"), ("bmp", "RGB")]
    for index in range(40):
        ending, mode = kinds[index % 5]
        height, width = rng.integers(20, 200, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{index:02}.{ending}")
    return folder


def test_colour_photographs_are_learned_resumed_sampled_and_exported(photographs, tmp_path, capsys):
    out = tmp_path / "a"
    command = f"train --data {photographs} --size 64 --channels 3 --out {out} {SMALL}"
    assert run(f"{command} --steps 16") == 0
    printed = capsys.readouterr()
    read, expected, _ = printed.out.splitlines()
    assert read.startswith("photographs: 32 images, 64×64, colour; one class; files of ")
    assert read.endswith("; 8 more are in the other split")
    assert expected.startswith("32 images: with 100 digits a narrow pair ended at FD ")
    assert re.search(r"\ba step takes \S+ s here, the 1 to come about \d", printed.err)
    assert run(f"{command} --steps 20 --resume") == 0
    settings = checkpoints.read_settings(out / CHECKPOINT)
    assert (settings["step"], settings["recipe"]["shape"]) == (20, [3, 64, 64])
    assert run(f"sample {out} --out {out}/a.png --count 6 --columns 3") == 0
    for name, (columns, rows) in {"samples-000020.png": (8, 8), "a.png": (3, 2)}.items():
        with Image.open(out / name) as picture:
            assert picture.size == (66 * columns - 2, 66 * rows - 2)
    capsys.readouterr()
    assert run(f"evaluate {out} --count 100") == 1
    err = capsys.readouterr().err
    assert "evaluate needs 65 held-out images, a fifth of 325; " in err
    assert "photographs has 8; add images, or judge by eye with sample" in err
    assert err.count("\n") == 1
    assert run(f"export {out} --out {out}/model.onnx") == 0
    assert OnnxGenerator(out / "model.onnx").card.shape == (3, 64, 64)


def test_the_announced_time_is_that_of_ten_steps_after_the_first_five(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def logs():
        for step in range(101, 121):  # a resumed run
            now[0] += 60 if step <= 105 else 2
            yield training.Log(step, {"d_loss": torch.zeros(())})

    assert [log.step for log in announce_time(logs(), 200)] == list(range(101, 121))
    assert capsys.readouterr().err == "a step takes 2 s here, the 85 to come about 02:50\n"


def test_a_run_on_ones_own_images_is_judged(tmp_path, capsys):
    """Of any size, in colour, with or without classes; by the features of an untrained network."""
    folder, rng = tmp_path / "own", np.random.default_rng(0)
    folder.mkdir()
    for index, pixels in enumerate(rng.integers(0, 256, (325, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    assert run(f"train --data {folder} --size 8 --out {tmp_path}/a --steps 2 {SMALL}") == 0
    capsys.readouterr()
    assert run(f"evaluate {tmp_path}/a --count 100 --json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["features"] == "untrained network"
    assert "shares" not in figures
    assert figures["ratio"] > 3
    assert run(f"evaluate {tmp_path}/a --count 100") == 0
    table = capsys.readouterr().out
    assert f"{figures['scores']['fd']:.4f}" in table
    assert "compare runs on the same images only" in table
    folder.rename(tmp_path / "moved")
    assert run(f"evaluate {tmp_path}/a --count 100") == 1
    assert f"there is no folder '{folder}'; give --data with a folder" in capsys.readouterr().err
    assert run(f"evaluate {tmp_path}/a --count 100 --data {tmp_path}/moved") == 0
    assert capsys.readouterr().out == table


def test_what_to_expect_is_what_the_record_says():
    record = records.load("small")
    ends = {}
    for trial in record["runs"]:
        last = sorted(curve[-1][1] for curve in trial["curves"])
        ends[trial["images"], trial["augmentation"]] = last[len(last) // 2] / record["floor"]
    for count, nearest in ((10, 100), (200, 100), (300, 500), (1900, 500)):
        line = expectation(count)
        assert line.startswith(f"{count} images: with {nearest} digits ")
        assert f"ended at FD {ends[nearest, 'none']:.0f} floors" in line
        assert f"--augment it ended at {ends[nearest, 'all of DiffAugment']:.0f}" in line
        assert ("by heart" in line) == (nearest == 100)
    assert "8,000 to 10,000" in expectation(2000)


def test_flowers_are_learned_by_their_number_of_petals(tmp_path):
    assert run(f"train --data flowers --size 16 --out {tmp_path}/a --steps 2 {SMALL}") == 0
    recipe = checkpoints.read_settings(tmp_path / "a" / CHECKPOINT)["recipe"]
    assert (recipe["shape"], recipe["classes"]) == ([3, 16, 16], 6)
    assert run(f"export {tmp_path}/a --out {tmp_path}/model.onnx") == 0
    assert OnnxGenerator(tmp_path / "model.onnx").card.classes[0] == "3 petals"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, kind):
    started = process(f"train --out {tmp_path}/a --steps 100000 {SMALL} --save-every 100000")
    checkpoint = tmp_path / "a" / CHECKPOINT
    while not checkpoint.exists():
        time.sleep(0.05)
        assert started.poll() is None, started.stderr.read()
    time.sleep(1)
    started.send_signal(kind)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 128 + kind
    step = checkpoints.read_settings(checkpoint)["step"]
    assert step > 0
    assert f"stopped at step {step}; the same command with --resume continues" in err
    assert "Traceback" not in err + out


def test_samples_are_the_same_for_the_same_seed(trained, tmp_path):
    options = "--count 6 --columns 3"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.png"
        assert run(f"sample {trained} --out {out} {options} --seed {seed}") == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3 * 30 - 2, 2 * 30 - 2)


def test_samples_can_be_of_one_class(trained, tmp_path):
    for label in (3, 4):
        options = f"--label {label} --truncation 0.5 --out {tmp_path}/{label}.png"
        assert run(f"sample {trained / CHECKPOINT} {options}") == 0
    assert (tmp_path / "3.png").read_bytes() != (tmp_path / "4.png").read_bytes()


def test_evaluate_prints_a_table_and_json(trained, capsys):
    assert run(f"evaluate {trained} --count 100 --json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["step"] == 20
    scores, floors = figures["scores"], figures["floors"]
    assert scores["fd"] > floors["fd"] > figures["fd_floor_std"] > 0
    assert figures["ratio"] == pytest.approx(scores["fd"] / floors["fd"])
    assert scores["coverage"] < floors["coverage"] <= 1
    assert sum(figures["shares"]) == pytest.approx(1)
    assert run(f"evaluate {trained} --count 100") == 0
    table = capsys.readouterr().out
    for value in (*scores.values(), *floors.values(), figures["fd_floor_std"]):
        assert f"{value:.4f}" in table


def test_evaluate_draws_z_as_asked_and_labels_from_those_of_the_training_images(capsys):
    assert run("evaluate digits --count 100 --seed 3 --truncation 1 --json") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    G, _ = checkpoints.load_generator("digits")
    z, train = sampling.latents(100, G.latent_dim, 3, truncation=1), data.load_images("digits")
    expected = metrics.Evaluator("digits").report(
        sampling.sample(G, z, train.draw_labels(100, seed=3))
    )
    assert scores == pytest.approx(expected.scores, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_model_cards_quote_what_evaluate_prints(name, capsys):
    card = " ".join(checkpoints.find(name).with_suffix(".md").read_text(encoding="utf-8").split())

    def quoted(pattern):
        found = re.search(pattern.replace("#", r"([\d.]+)"), card)
        return [float(number) for number in found.groups()]

    assert "2,000 samples: " in card
    assert run(re.search(r"`(evaluate .*?)`", card)[1] + " --count 2000 --json") == 0
    figures = json.loads(capsys.readouterr().out)
    scores, floors = figures["scores"], figures["floors"]
    fd = [scores["fd"], figures["ratio"], floors["fd"], figures["fd_floor_std"]]
    assert quoted("FD # to .*? # times .*? floor of # ± #, ") == pytest.approx(fd, rel=0.03)
    for key in ("precision", "recall", "density", "coverage"):
        assert quoted(rf"{key} # \(.*?#\)") == pytest.approx([scores[key], floors[key]], abs=0.01)
    G, _ = checkpoints.load_generator(name)
    judge, train, ratios = metrics.Evaluator(name), data.load_images(name), []
    for seed in range(10):
        z, labels = sampling.latents(2000, G.latent_dim, seed), train.draw_labels(2000, seed)
        ratios.append(judge.ratio(sampling.sample(G, z, labels)))
    found = [min(ratios), max(ratios), statistics.mean(ratios)]
    assert quoted("seeds 0 to 9 FD is # to # floors, mean #. ") == pytest.approx(found, abs=0.06)


def test_exported_weights_are_named(trained, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert run(f"export {trained} --format safetensors --out {out}") == 0
    assert f"{out} holds G" in capsys.readouterr().out
    assert out.stat().st_size > 0


COMMANDS = ("train", "sample", "evaluate", "export")
BAD = {
    "unknown preset": (
        "train --out {new} --preset fast",
        "--preset must be one of quick, best, hinge, article, flowers, but is 'fast'",
    ),
    "a preset for points": (
        "train --out {new} --preset plane",
        "best, hinge, article, flowers, but is 'plane'",
    ),
    "warm start from nowhere": (
        "train --out {new} --warm-start {new}",
        "there is no checkpoint at",
    ),
    "warm start from other networks": (
        "train --out {new} --warm-start {run}",
        "has other networks; to match them, add --latent-dim 8 --width 4",
    ),
    "warm start from networks without groups": (
        "train --out {new} --warm-start digits",
        "has other networks; to match them, add --minibatch-std 0 --width 24",
    ),
    "a batch without whole groups": (
        "train --out {new} --batch-size 20",
        "batch_size must be a multiple of minibatch_std, 8, but is 20; use 16, or minibatch_std 0",
    ),
    "no such command": ("paint", "No such command 'paint'"),
    "no out": ("train", "Missing option '--out'"),
    "no number": ("train --out {new} --steps many", "Invalid value for '--steps'"),
    "zero steps": ("train --out {new} --steps 0", "steps must be an integer of at least 1"),
    "negative batch": ("train --out {new} --batch-size -1", "batch_size must be"),
    "negative rate": ("train --out {new} --lr-g -0.1", "lr_G must be a number in (0, inf)"),
    "infinite rate": ("train --out {new} --lr-d inf", "lr_D must be"),
    "beta of 1": ("train --out {new} --beta1 1", "beta1 must be a number in [0, 1)"),
    "ema of 1": ("train --out {new} --ema 1", "ema must be a number in [0, 1)"),
    "NaN penalty": ("train --out {new} --r1 nan", "r1 must be a number"),
    "negative seed": ("train --out {new} --seed -1", "--seed must be an integer of at least 0"),
    "a seed beyond int64": ("train --out {new} --seed 18446744073709551616", "--seed must be"),
    "unknown objective": (
        "train --out {new} --objective bce",
        "objective must be one of minimax,",
    ),
    "unknown network": ("train --out {new} --network unet", "network must be one of mlp, conv"),
    "zero width": ("train --out {new} --width 0", "width must be an integer of at least 1"),
    "more than there is memory": (
        "train --out {new} --width 100000000",
        "bytes at once); lower --batch-size, --width, --latent-dim or --size",
    ),
    "images larger than memory": (
        "train --out {new} --data flowers --network mlp --size 1000000",
        "bytes at once); lower --batch-size, --width, --latent-dim or --size",
    ),
    "a size beyond": ("train --out {new} --network mlp --size 1" + 30 * "0", "size must be"),
    "a batch beyond": (
        "train --out {new} --batch-size 1" + 30 * "0",
        "from 1 to 9223372036854775807",
    ),
    "a latent vector beyond": ("train --out {new} --latent-dim 1" + 30 * "0", "latent_dim must be"),
    "too many samples": ("sample {run} --count 10000000", "lower --count or change --columns"),
    "samples beyond": ("sample {run} --count 1" + 30 * "0", "count must be an integer from 1 to"),
    "too wide a row": ("sample {run} --columns 1000000000", "lower --count or change --columns"),
    "columns beyond": ("sample {run} --columns 1" + 30 * "0", "--columns must be"),
    "a long picture": (
        "sample {run} --out {new}/a.webp --count 600 --columns 1",
        "but a picture has at most 80,000,000 pixels, 16,383 a side",
    ),
    "too many to judge": (
        "evaluate {run} --count 100001",
        "--count must be an integer from 65 to 100000",
    ),
    "the images' folder for the run's": (
        "train --data {pictures} --out {pictures}",
        "--out {pictures} holds images of --data {pictures}; give a folder of its own",
    ),
    "a class for the run's folder": (
        "train --data {pictures} --out {pictures}/cats",
        "/cats holds images of --data {pictures}; give a folder of its own",
    ),
    "unknown data": ("train --out {new} --data faces", "digits, fashion, flowers, mnist"),
    "missing data": (
        "train --out {new} --data cifar10 --root {new}",
        "cannot be read from {new} (Dataset not found or corrupted.); "
        "give its place with root= (--root FOLDER), or let torchvision fetch it with "
        "download=True (--download)",
    ),
    "missing data to judge by": ("evaluate {run} --data cifar10 --root {new}", "(--root FOLDER)"),
    "two channels": (
        "train --out {new} --channels 2",
        "channels must be 1, grey, or 3",
    ),
    "unknown device": (
        "train --out {new} --device tpu9",
        "there is no device 'tpu9' here; use one of auto, cpu",
    ),
    "no samples ever": ("train --out {new} --sample-every 0", "--sample-every must be"),
    "no checkpoint ever": ("train --out {new} --save-every 0", "--save-every must be"),
    "size that does not fit": (
        "train --out {new} --size 30",
        "S = 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112 or 128",
    ),
    "size that does not fit, before a folder is read": (
        "train --out {new} --data {new} --size 30",
        "16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112 or 128",
    ),
    "a file for a folder": (
        "train --out {file}",
        "{file} cannot be a folder, as {file} is a file; give another folder with --out",
    ),
    "a folder below a file": ("train --out {file}/a/b", "{file}/a/b cannot be a folder, as {file}"),
    "a run is there": ("train --out {run}", "holds a run of 20 steps; add --resume"),
    "other options": (
        f"train --out {{run}} --resume --r1 1 --conditional {SMALL}",
        "has other settings: r1 was 0.2, is 1.0; set them as they were, or start from its networks",
    ),
    "fewer steps": (
        f"train --out {{run}} --resume --steps 3 --conditional {SMALL}",
        "has 20 steps; give a larger --steps",
    ),
    "no run": ("sample {new}", "there is no checkpoint"),
    "not a checkpoint": ("sample {file}", "not a safetensors file; give a file that"),
    "no samples": ("sample {run} --count 0", "count must be an integer of at least 1"),
    "no columns": ("sample {run} --columns 0", "--columns must be an integer of at least 1"),
    "truncation of 0": ("sample {run} --truncation 0", "truncation must be a number in (0, inf)"),
    "negative sampling seed": ("sample {run} --seed -1", "seed must be an integer of at least 0"),
    "unknown class": ("sample {run} --label 10", "label must be an integer from 0 to 9"),
    "class of an unconditional network": (
        "sample {unconditional} --label 1",
        "the generator has no classes",
    ),
    "no picture": ("sample {run} --out {new}/a.doc", "a.doc must end in .png, .jpg or .webp"),
    "too few to judge": (
        "evaluate {run} --count 10",
        "--count must be an integer from 65 to 100000",
    ),
    "unknown format": ("export {run} --format pickle", "--format must be one of onnx, safetensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_ends_in_one_line_and_a_status(name, trained, tmp_path, capsys):
    command, message = BAD[name]
    names = ("new", "file", "unconditional", "pictures")
    places = {"run": trained} | {name: tmp_path / name for name in names}
    (places["pictures"] / "cats").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(places["pictures"] / "cats" / "0.png")
    places["file"].write_text("not a checkpoint")
    if "{unconditional}" in command:
        recipe = recipes.Recipe(width=4, latent_dim=8)
        checkpoints.Run.open(places["unconditional"], recipe, "digits").save()
    before = {path: path.read_bytes() for path in trained.iterdir()}
    assert run(command.format(**places)) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.format(**places) in err
    if (name := command.split()[0]) in COMMANDS:
        named = set(re.findall(r"--[a-z][a-z0-9-]+", err.replace(str(tmp_path), "")))
        assert run(f"{name} --help") == 0
        assert named <= set(re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out))
    assert {path: path.read_bytes() for path in trained.iterdir()} == before
    assert not places["new"].exists()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB",
            "error: the GPU lacks the memory for it (20.00 GiB at once); lower --count\n",
        ),
        (
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "error: the GPU lacks the memory for it; lower --count\n",
        ),
        (
            "Storage size calculation overflowed with sizes=[9223372036854775807, 1]",
            "error: this machine lacks the memory for it; lower --count\n",
        ),
        ("", "error: this machine lacks the memory for it; lower --count\n"),
    ],
)
def test_memory_that_cannot_be_had_ends_in_one_line(trained, message, said, monkeypatch, capsys):
    def full(*_, **__):
        raise RuntimeError(message + "\nC++ frames") if message else MemoryError

    monkeypatch.setattr(sampling, "generate", full)
    assert run(f"sample {trained}") == 1
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "message",
    [
        "mat1 and mat2 shapes cannot be multiplied (4x9 and 8x4)",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_a_fault_of_the_program_is_not_called_one_of_memory(message, trained, monkeypatch):
    monkeypatch.setattr(sampling, "generate", mock.Mock(side_effect=RuntimeError(message)))
    with pytest.raises(RuntimeError, match=re.escape(message)):
        main(["sample", str(trained)])


def test_a_run_that_fails_before_its_first_step_can_be_begun_anew(tmp_path, monkeypatch, capsys):
    """With a smaller batch, as the message says. Other networks of 0 steps are not overwritten."""
    command = f"train --out {tmp_path}/a --steps 2 {SMALL} --batch-size 16"
    with monkeypatch.context() as patch:
        full = mock.Mock(side_effect=RuntimeError("CUDA out of memory."))
        patch.setattr(training, "one_step", full)
        assert run(command) == 1
    assert "lower --batch-size" in capsys.readouterr().err
    assert run(f"{command} --batch-size 8") == 0
    assert run(command) == 1
    assert "holds a run of 2 steps; add --resume" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    shutil.copy(checkpoints.find("digits"), tmp_path / "b" / CHECKPOINT)
    assert run(f"train --out {tmp_path}/b --steps 2 {SMALL}") == 1
    assert "holds a run of 0 steps" in capsys.readouterr().err


def test_download_is_asked_of_torchvision_only_with_the_option(tmp_path, monkeypatch):
    fetch = mock.Mock(side_effect=RuntimeError("no network"))
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))  # no system package
    for command in (f"train --data mnist --out {tmp_path}/a", "evaluate digits --data mnist"):
        fetch.reset_mock()
        assert run(f"{command} --root {tmp_path}/root") == 1
        fetch.assert_not_called()
        assert run(f"{command} --root {tmp_path}/root --download") == 1
        fetch.assert_called_once_with()


@pytest.mark.parametrize("settings", [{}, {"data": "digits", "recipe": {}}, {"recipe": "best"}])
def test_a_checkpoint_of_another_program_is_not_resumed(settings, tmp_path, capsys):
    """One that ``checkpoints.save`` wrote, without the settings of the command line."""
    state = recipes.Recipe(width=4, latent_dim=8).init()
    checkpoints.save(state, tmp_path / CHECKPOINT, settings)
    assert run(f"train --out {tmp_path} --resume {SMALL}") == 1
    err = capsys.readouterr().err
    assert "batch_size was not set, is 8" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["step,d_loss,g_loss\n1,x,2\n", "step\n1\n", "step,d_loss,g_loss\n1\n", "1" * 200_000],
)
def test_a_damaged_log_is_named(text, tmp_path, capsys):
    out = tmp_path / "a"
    assert run(f"train --out {out} --steps 10 {SMALL}") == 0
    (out / "log.csv").write_text(text)
    capsys.readouterr()
    assert run(f"train --out {out} --steps 20 --resume {SMALL}") == 1
    assert "log.csv is not the log of a run" in capsys.readouterr().err


def test_a_full_disk_ends_in_one_line_and_keeps_the_checkpoint(trained):
    good = (trained / CHECKPOINT).read_bytes()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
    call = "from gan_tutorial.__main__ import main; main()"
    command = f"train --out {trained} --resume --steps 25 --conditional {SMALL}"
    ended = subprocess.run(
        [sys.executable, "-c", limit + call, *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "File too large" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert (trained / CHECKPOINT).read_bytes() == good


@pytest.mark.parametrize("sample_every", [10, 3])
def test_divergence_ends_in_one_line_and_keeps_a_good_state(sample_every, tmp_path, capsys):
    """Also if samples are due more often than checkpoints: none shows a diverged generator."""
    rates = "--lr-g 1e30 --lr-d 1e30 --beta1 0"
    options = f"{SMALL} --sample-every {sample_every} --save-every 10"
    assert run(f"train --out {tmp_path} --steps 400 {rates} {options}") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "lower the learning rates, add a penalty (r1)" in error
    G, settings = checkpoints.load_generator(tmp_path)
    assert all(torch.isfinite(parameter).all() for parameter in G.parameters())
    assert settings["step"] < 400
    with (tmp_path / "log.csv").open() as file:
        assert all(int(row["step"]) <= settings["step"] for row in csv.DictReader(file))
    advice = re.search(r"to go on from it, add (--warm-start \S+) and another --out$", error)[1]
    assert run(f"train --out {tmp_path}/b --steps 4 --r1 1 {advice} {options}") == 0  # as it says
    assert run(f"train --out {tmp_path} --resume --steps 400 --r1 1 {options}") == 1
    assert f"start from its networks: --warm-start {tmp_path} with" in capsys.readouterr().err


def test_what_is_kept_after_a_divergence_has_statistics_of_its_own(tmp_path, monkeypatch):
    """Like all that a run writes: the average's BatchNorm does not have those of G."""
    one_step = training.one_step

    def diverging(state, *others):
        if state.step == 7:
            next(state.G.parameters()).data.fill_(torch.nan)
        return one_step(state, *others)

    monkeypatch.setattr(training, "one_step", diverging)
    assert run(f"train --out {tmp_path} --steps 10 {SMALL}") == 1
    G, settings = checkpoints.load_generator(tmp_path)
    assert settings["step"] == 5
    own = sampling.recalibrate_batchnorm(G)
    torch.testing.assert_close(G.state_dict(), own.state_dict())


def test_the_module_runs_as_a_process_from_any_folder(tmp_path):
    ended = process("sample nowhere", cwd=tmp_path)
    out, err = ended.communicate(timeout=120)
    assert (ended.returncode, out) == (1, "")
    assert err == "error: there is no checkpoint at nowhere; train first, or give another\n"


def test_serve_becomes_the_service(tmp_path):
    ended = process(f"serve {tmp_path}/model.onnx")
    out, err = ended.communicate(timeout=120)
    assert (ended.returncode, out) == (1, "")
    assert err.startswith("error: ")
    assert "model.onnx" in err


def test_options_change_the_preset_and_nothing_else(tmp_path):
    """Labels are used if the preset uses them and the data have more than one class."""
    options = "--steps 1 --lr-d 1e-3 --beta1 0.25 --augment --batch-size 4"
    assert run(f"train --out {tmp_path}/a --preset article {options}") == 0
    expected = replace(
        recipes.preset("article"),
        steps=1,
        lr_D=1e-3,
        betas=(0.25, 0.999),
        augment=augment.POLICY,
        batch_size=4,
    )
    saved = checkpoints.read_settings(tmp_path / "a" / CHECKPOINT)
    assert saved["recipe"] == json.loads(json.dumps(asdict(expected)))
    for flag, classes in (("", 10), ("--no-conditional", 0)):
        out = tmp_path / f"classes-{classes}"
        assert run(f"train --out {out} --steps 1 --width 2 --batch-size 8 {flag}") == 0
        assert checkpoints.read_settings(out / CHECKPOINT)["recipe"]["classes"] == classes


def test_a_warm_start_begins_with_the_average_of_another_run(tmp_path):
    assert run(f"train --out {tmp_path}/a --steps 3 {SMALL}") == 0
    options = f"--steps 1 --ema 0.999 --warm-start {tmp_path}/a"
    assert run(f"train --out {tmp_path}/b {options} {SMALL}") == 0
    old, new = (checkpoints.load_generator(tmp_path / name)[0] for name in "ab")
    pairs = zip(old.parameters(), new.parameters(), strict=True)
    distance = max((a - b).abs().max().item() for a, b in pairs)
    assert 0 < distance < 1e-4, "one step with a long average moves hardly at all"


def test_the_bundled_pairs_answer_to_their_names(tmp_path, capsys):
    assert run(f"sample digits --out {tmp_path}/a.png --label 3") == 0
    assert run("evaluate fashion --count 300 --json") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["scores"]["fd"] < 5 * figures["floors"]["fd"]
    options = f"--out {tmp_path}/b --warm-start digits --steps 1 --batch-size 4"
    assert run(f"train {options} --network mlp --size 16") == 1
    err = capsys.readouterr().err
    advice = re.search(r"to match them, add (--.*)$", err)[1]
    assert advice == "--network conv --size 28 --channels 1 --minibatch-std 0 --width 24"
    assert run(f"train {options} {advice}") == 0


def test_a_run_is_not_judged_by_other_images_unawares(tmp_path, monkeypatch, capsys):
    """The folder of its images is kept as it was given, and may mean another one elsewhere."""
    for place, level in (("a", 40), ("b", 200)):
        (tmp_path / place / "many").mkdir(parents=True)
        for i in range(330):
            image = Image.new("L", (8, 8), level + i % 50)
            image.save(tmp_path / place / "many" / f"{i}.png")
    monkeypatch.chdir(tmp_path / "a")
    assert run(f"train --out run --data many --size 8 --steps 2 {SMALL}") == 0
    assert run("evaluate run --count 66") == 0
    monkeypatch.chdir(tmp_path / "b")
    assert run("evaluate ../a/run --count 66") == 1
    assert "many does not hold the images that ../a/run learnt from" in capsys.readouterr().err
    for images in ("../a/many", "many"):
        assert run(f"evaluate ../a/run --count 66 --data {images}") == 0


@pytest.mark.parametrize("name", [CHECKPOINT, "best.safetensors"])
def test_an_export_does_not_replace_a_run(trained, tmp_path, name, capsys):
    there = tmp_path / name
    there.write_bytes((trained / CHECKPOINT).read_bytes())
    before = there.read_bytes()
    assert run(f"export {there} --format safetensors --out {there}") == 1
    assert "may be a run's, which could not go on" in capsys.readouterr().err
    assert there.read_bytes() == before
    assert run(f"export {there} --out {tmp_path}") == 1
    says = f"{tmp_path} is a folder; give a file, such as {tmp_path}/model.onnx"
    assert says in capsys.readouterr().err


def test_a_start_with_another_number_of_classes_is_named_alone(tmp_path, capsys):
    for i in range(40):
        place = tmp_path / "three" / "abc"[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 5 * i).save(place / f"{i}.png")
    options = f"--data {tmp_path}/three --size 28 --channels 1 --conditional --steps 1"
    assert run(f"train --out {tmp_path}/x {options} --warm-start digits --batch-size 8") == 1
    says = "has 10 classes, the data 3; take data in 10 classes, or start from other networks"
    assert says in capsys.readouterr().err


def test_a_resumed_run_does_not_need_what_it_started_from(tmp_path):
    assert run(f"train --out {tmp_path}/a --steps 3 {SMALL}") == 0
    options = f"--out {tmp_path}/b --warm-start {tmp_path}/a {SMALL}"
    assert run(f"train --steps 2 {options}") == 0
    (tmp_path / "a" / CHECKPOINT).unlink()
    assert run(f"train --steps 4 --resume {options}") == 0


def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys):
    """The lock ends with the process that holds it, even if that is killed."""
    command = f"train --out {tmp_path}/a --resume --steps 100000 {SMALL}"
    first = process(command)
    while not (tmp_path / "a" / CHECKPOINT).exists():
        time.sleep(0.05)
        assert first.poll() is None, first.stderr.read()
    assert run(command) == 1
    message = f"another process is training in {tmp_path}/a; wait for it, stop it, or give another"
    assert message in capsys.readouterr().err
    assert run(f"sample {tmp_path}/a --out {tmp_path}/a.png --count 1") == 0, "reading is free"
    first.kill()
    first.communicate()
    step = checkpoints.read_settings(tmp_path / "a" / CHECKPOINT)["step"]
    assert run(command.replace("100000", str(step + 5))) == 0
    assert not (tmp_path / "a" / ".lock").exists()


def test_a_file_system_without_locks_is_trained_on(tmp_path, monkeypatch):
    failing = mock.Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr("filelock.FileLock.acquire", failing)
    assert run(f"train --out {tmp_path}/a --steps 1 {SMALL}") == 0
    failing.side_effect = PermissionError(errno.EACCES, "Permission denied")
    assert run(f"train --out {tmp_path}/b --steps 1 {SMALL}") == 1
    assert failing.call_count == 2


def test_a_machine_without_home_and_utf8_will_do(tmp_path, monkeypatch, capsys):
    """A home that cannot be written, an encoding without ×, a name that is not UTF-8."""
    names = {name: os.fsdecode(os.fsencode(tmp_path / name) + b" \xff") for name in "abc"}
    odd = {"HOME": "/dev/null", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    started = process(
        f"train --out '{names['a']}' --steps 2 {SMALL}", env={**os.environ, **odd}, errors="replace"
    )
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert out.splitlines()[-1].endswith(r"a \udcff")
    assert r"28\xd728" in out
    a, b, c = (shlex.quote(names[name]) for name in "abc")
    assert run(f"sample {a} --count 1 --out {b}.png") == 0
    assert run(f"export {a} --out {b}.onnx") == 0
    assert run(f"export {a} --out {b}.safetensors --format safetensors") == 0
    assert OnnxGenerator(f"{names['b']}.onnx").card.name == "digits"
    monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError("no home directory.")))
    capsys.readouterr()
    assert run(f"train --out {c} --data mnist {SMALL}") == 1
    err = capsys.readouterr().err
    assert "mnist cannot be read from the home folder (no home directory.); give its place" in err


def test_serve_on_windows_waits_for_a_process(monkeypatch):
    """Its execv splits arguments at spaces."""
    call = mock.Mock(return_value=3)
    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(sys, "platform", "win32")
    assert run("serve 'my model.onnx' --port 0") == 3
    module = ["-m", "gan_tutorial.ship.serving"]
    call.assert_called_once_with([sys.executable, *module, "my model.onnx", "--port", "0"])
