import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from gan_tutorial import augment, checkpoints, data, networks, recipes, training
from gan_tutorial.__main__ import main
from gan_tutorial.runs import CHECKPOINT

SMALL = [
    "--width",
    "4",
    "--latent-dim",
    "8",
    "--batch-size",
    "8",
    "--device",
    "cpu",
    "--save-every",
    "5",
    "--sample-every",
    "10",
]


def run(*arguments):
    """Run the command line in this process and return its status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


def process(*arguments, **options):
    """Start the command line as a process."""
    command = [sys.executable, "-m", "gan_tutorial", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of 20 steps."""
    out = tmp_path_factory.mktemp("run") / "a"
    assert run("train", "--out", out, "--steps", 20, "--conditional", *SMALL) == 0
    return out


def test_help_teaches(capsys):
    assert run() == 0
    assert "train --data digits" in capsys.readouterr().out
    for command in ("train", "sample", "evaluate"):
        assert run(command, "--help") == 0
        assert "Usage: python -m gan_tutorial" in capsys.readouterr().out


def test_a_run_leaves_a_checkpoint_samples_and_losses(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {CHECKPOINT, "samples-000010.png", "samples-000020.png", "losses.png", "log.csv"}
    with Image.open(trained / "samples-000020.png") as picture:
        assert picture.size == (8 * 30 - 2, 8 * 30 - 2)
    with (trained / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20"]
    assert checkpoints.read_settings(trained / CHECKPOINT)["step"] == 20


def test_a_run_can_be_made_longer(tmp_path):
    for steps in (6, 12):
        assert run("train", "--out", tmp_path / "long", "--steps", steps, "--resume", *SMALL) == 0
    assert run("train", "--out", tmp_path / "whole", "--steps", 12, *SMALL) == 0
    long, whole = (checkpoints.load_generator(tmp_path / name / CHECKPOINT)[0] for name in ("long", "whole"))
    z, labels = torch.randn(2, 8), torch.tensor([3, 4])
    assert torch.equal(long(z, labels), whole(z, labels))


def test_a_lost_log_does_not_stop_a_resumed_run(tmp_path):
    out = tmp_path / "a"
    assert run("train", "--out", out, "--steps", 10, *SMALL) == 0
    (out / "log.csv").unlink()
    assert run("train", "--out", out, "--steps", 20, "--resume", *SMALL) == 0
    assert (out / "log.csv").read_text().splitlines()[1].startswith("20,")


def test_a_folder_of_images_is_learned(tmp_path):
    images = data.load_images("digits").subset(slice(10))
    (tmp_path / "images").mkdir()
    for index, pixels in enumerate(images.pixels):
        Image.fromarray(pixels[0].numpy()).save(tmp_path / "images" / f"{index}.png")
    out = tmp_path / "a"
    assert run("train", "--data", tmp_path / "images", "--size", 16, "--out", out, "--steps", 2, *SMALL) == 0
    assert checkpoints.read_settings(out / CHECKPOINT)["network"]["shape"] == [3, 16, 16]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, kind):
    started = process("train", "--out", tmp_path / "a", "--steps", 100_000, *SMALL)
    while not (tmp_path / "a" / CHECKPOINT).exists():
        time.sleep(0.05)
        assert started.poll() is None, started.stderr.read()
    time.sleep(1)
    started.send_signal(kind)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 128 + kind
    step = checkpoints.read_settings(tmp_path / "a" / CHECKPOINT)["step"]
    assert step > 0
    assert f"stopped at step {step}; the same command with --resume goes on" in err
    assert "Traceback" not in err + out


def test_samples_are_the_same_for_the_same_seed(trained, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            run("sample", trained, "--out", tmp_path / f"{name}.png", "--count", 6, "--columns", 3, "--seed", seed) == 0
        )
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3 * 30 - 2, 2 * 30 - 2)


def test_one_class_can_be_asked_for(trained, tmp_path):
    for label in (3, 4):
        arguments = ("--label", label, "--truncation", 0.5, "--out", tmp_path / f"{label}.png")
        assert run("sample", trained / CHECKPOINT, *arguments) == 0
    assert (tmp_path / "3.png").read_bytes() != (tmp_path / "4.png").read_bytes()


def test_evaluate_prints_a_table_and_json(trained, capsys):
    assert run("evaluate", trained, "--count", 100, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["step"] == 20
    scores, floors = figures["scores"], figures["floors"]
    assert scores["fd"] > floors["fd"] > 0
    assert figures["ratio"] == pytest.approx(scores["fd"] / floors["fd"])
    assert scores["coverage"] < floors["coverage"] <= 1
    assert sum(figures["shares"]) == pytest.approx(1)
    assert run("evaluate", trained, "--count", 100) == 0
    table = capsys.readouterr().out
    assert all(f"{value:.4f}" in table for value in [*scores.values(), *floors.values()])


BAD = {
    "unknown preset": (["train", "--out", "{new}", "--preset", "fast"], "preset must be one of quick, best, article"),
    "warm start from nowhere": (["train", "--out", "{new}", "--warm-start", "{new}"], "there is no checkpoint at"),
    "no such command": (["paint"], "No such command 'paint'"),
    "no out": (["train"], "Missing option '--out'"),
    "no number": (["train", "--out", "{new}", "--steps", "many"], "valid integer"),
    "zero steps": (["train", "--out", "{new}", "--steps", "0"], "steps must be an integer of at least 1"),
    "negative batch": (["train", "--out", "{new}", "--batch-size", "-1"], "batch_size must be"),
    "negative rate": (["train", "--out", "{new}", "--lr-g", "-0.1"], "lr_G must be a number in (0, inf)"),
    "infinite rate": (["train", "--out", "{new}", "--lr-d", "inf"], "lr_D must be"),
    "beta of 1": (["train", "--out", "{new}", "--beta1", "1"], "each of betas must be a number in [0, 1)"),
    "ema of 1": (["train", "--out", "{new}", "--ema", "1"], "ema must be a number in [0, 1)"),
    "NaN penalty": (["train", "--out", "{new}", "--r1", "nan"], "r1 must be a number"),
    "negative seed": (["train", "--out", "{new}", "--seed", "-1"], "seed must be an integer of at least 0"),
    "unknown objective": (["train", "--out", "{new}", "--objective", "bce"], "objective must be one of minimax,"),
    "unknown network": (["train", "--out", "{new}", "--network", "unet"], "network must be one of mlp, conv"),
    "zero width": (["train", "--out", "{new}", "--width", "0"], "width must be an integer of at least 1"),
    "unknown data": (["train", "--out", "{new}", "--data", "faces"], "use one of digits, fashion"),
    "missing data": (["train", "--out", "{new}", "--data", "cifar10", "--root", "{new}"], "download=True"),
    "unknown device": (["train", "--out", "{new}", "--device", "tpu9"], "device must be one that this machine has"),
    "no samples ever": (["train", "--out", "{new}", "--sample-every", "0"], "--sample-every must be"),
    "size that is no multiple of 4": (["train", "--out", "{new}", "--size", "30"], "a multiple of 4"),
    "a file for a folder": (["train", "--out", "{file}"], "{file}"),
    "a run is there": (["train", "--out", "{run}"], "holds a run of 20 steps; add --resume"),
    "other options": (
        ["train", "--out", "{run}", "--resume", "--r1", "1", "--conditional", *SMALL],
        "(r1 was 0.0, is 1.0)",
    ),
    "fewer steps": (
        ["train", "--out", "{run}", "--resume", "--steps", "3", "--conditional", *SMALL],
        "has made 20 steps already",
    ),
    "no run": (["sample", "{new}"], "there is no checkpoint"),
    "not a checkpoint": (["sample", "{file}"], "not a whole safetensors file"),
    "no samples": (["sample", "{run}", "--count", "0"], "count must be an integer of at least 1"),
    "no columns": (["sample", "{run}", "--columns", "0"], "--columns must be an integer of at least 1"),
    "truncation of 0": (["sample", "{run}", "--truncation", "0"], "truncation must be a number in (0, inf)"),
    "unknown class": (["sample", "{run}", "--label", "10"], "--label must be one of the network's 10 classes"),
    "no picture": (["sample", "{run}", "--out", "{new}/a.doc"], "a.doc must end in .png, .jpg or .webp"),
    "too few to judge": (["evaluate", "{run}", "--count", "10"], "sample more"),
    "no classifier": (["evaluate", "{run}", "--data", "cifar10"], "there is a bundled classifier for digits"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_line_and_a_status(name, trained, tmp_path, capsys):
    arguments, message = BAD[name]
    (tmp_path / "file").write_text("not a checkpoint")
    before = {path: path.read_bytes() for path in trained.iterdir()}
    places = {"run": trained, "new": tmp_path / "new", "file": tmp_path / "file"}
    assert run(*(a.format(**places) for a in arguments)) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.format(**places) in err
    assert {path: path.read_bytes() for path in trained.iterdir()} == before


@pytest.mark.parametrize("settings", [{}, {"data": "digits", "objective": "hinge", "network": {}, "train": {}}])
def test_a_checkpoint_of_another_program_is_not_resumed(settings, tmp_path, capsys):
    """One that ``checkpoints.save`` wrote, without the settings of the command line."""
    pair = networks.NetworkConfig(width=4, latent_dim=8)
    state = training.TrainState.fresh(*pair.build(), training.TrainConfig())
    checkpoints.save(state, tmp_path / CHECKPOINT, settings)
    assert run("train", "--out", tmp_path, "--resume", *SMALL) == 1
    err = capsys.readouterr().err
    assert "batch_size was not stated, is 8" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["step,d_loss,g_loss\n1,x,2\n", "step\n1\n", "step,d_loss,g_loss\n1\n"])
def test_a_damaged_log_is_named(text, tmp_path, capsys):
    out = tmp_path / "a"
    assert run("train", "--out", out, "--steps", 10, *SMALL) == 0
    (out / "log.csv").write_text(text)
    capsys.readouterr()
    assert run("train", "--out", out, "--steps", 20, "--resume", *SMALL) == 1
    assert "log.csv is not the log of a run" in capsys.readouterr().err


def test_a_full_disk_ends_in_one_line_and_keeps_the_checkpoint(trained):
    good = (trained / CHECKPOINT).read_bytes()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
    call = "from gan_tutorial.__main__ import main; main()"
    arguments = ["train", "--out", str(trained), "--resume", "--steps", "25", "--conditional", *SMALL]
    ended = subprocess.run(
        [sys.executable, "-c", limit + call, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "File too large; what was there is kept" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert (trained / CHECKPOINT).read_bytes() == good


def test_divergence_ends_in_one_line_and_keeps_a_good_state(tmp_path, capsys):
    out = tmp_path / "a"
    status = run("train", "--out", out, "--steps", 400, "--lr-g", "1e30", "--lr-d", "1e30", "--beta1", "0", *SMALL)
    err = capsys.readouterr().err
    assert status == 1
    assert "lower the learning rates" in err.splitlines()[-1]
    G, settings = checkpoints.load_generator(out / CHECKPOINT)
    assert all(torch.isfinite(parameter).all() for parameter in G.parameters())
    assert settings["step"] < 400


def test_the_module_runs_as_a_process_from_any_folder(tmp_path):
    ended = process("sample", "nowhere", cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    out, err = ended.communicate(timeout=120)
    assert (ended.returncode, out) == (1, "")
    assert err == "error: there is no checkpoint at nowhere; train first, or give another path\n"


def test_options_change_the_preset_and_nothing_else(tmp_path):
    """Labels are used where the preset says so and the data have more than one class."""
    options = ("--preset", "article", "--steps", 1, "--lr-d", 1e-3, "--beta1", 0.25, "--augment", "--batch-size", 4)
    assert run("train", "--out", tmp_path / "a", *options) == 0
    saved = checkpoints.read_settings(tmp_path / "a" / CHECKPOINT)
    expected = recipes.preset("article").variant(
        steps=1, lr_D=1e-3, betas=(0.25, 0.999), augment=augment.POLICY, batch_size=4, check_every=250
    )
    assert {key: saved[key] for key in ("network", "train", "objective")} == json.loads(json.dumps(asdict(expected)))
    assert run("train", "--out", tmp_path / "b", "--steps", 1, "--width", 2, "--batch-size", 4, "--no-conditional") == 0
    assert checkpoints.read_settings(tmp_path / "b" / CHECKPOINT)["network"]["classes"] == 0


def test_a_warm_start_begins_with_the_average_of_another_run(tmp_path):
    assert run("train", "--out", tmp_path / "a", "--steps", 3, *SMALL) == 0
    assert (
        run("train", "--out", tmp_path / "b", "--steps", 1, "--ema", 0.999, "--warm-start", tmp_path / "a", *SMALL) == 0
    )
    old, new = (checkpoints.load_generator(tmp_path / name / CHECKPOINT)[0] for name in "ab")
    distance = max((a - b).abs().max().item() for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert 0 < distance < 1e-4, "one step with a long average moves hardly at all"


def test_the_bundled_pairs_answer_to_their_names(tmp_path, capsys):
    assert run("sample", "digits", "--out", tmp_path / "a.png", "--label", 3) == 0
    assert run("evaluate", "fashion", "--count", 300, "--json") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["scores"]["fd"] < 5 * figures["floors"]["fd"]
    options = ("--preset", "best", "--warm-start", "digits", "--steps", 1, "--batch-size", 4)
    assert run("train", "--out", tmp_path / "b", *options) == 0


def test_a_resumed_run_does_without_what_it_was_warmed_with(tmp_path):
    assert run("train", "--out", tmp_path / "a", "--steps", 3, *SMALL) == 0
    options = ("--out", tmp_path / "b", "--warm-start", tmp_path / "a", *SMALL)
    assert run("train", "--steps", 2, *options) == 0
    (tmp_path / "a" / CHECKPOINT).unlink()
    assert run("train", "--steps", 4, "--resume", *options) == 0
