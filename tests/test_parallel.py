"""Several processes train as one does; and when one of them dies, the others say so and nothing is lost."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import parallel_cases
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gan_tutorial import checkpoints, networks, parallel, training
from gan_tutorial.__main__ import main
from gan_tutorial.runs import CHECKPOINT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
SMALL = {
    "data": "digits", "width": 4, "latent-dim": 8, "batch-size": 8, "objective": "non_saturating", "device": "cpu",
    "save-every": 5, "sample-every": 1000,
}  # fmt: skip
OPTIONS = ["--no-bf16", *(text for name, value in SMALL.items() for text in (f"--{name}", str(value)))]


class Started:
    """A command under torchrun, whose processes end with the block, whatever happens in it."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = [*TORCHRUN, *map(str, arguments)]

    def __enter__(self) -> "Started":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self.arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.ranks: dict[int, int] = {}
        return self

    def look(self) -> dict[int, int]:
        """Return the process number of each rank that has been seen."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in children:
                told = dict(part.partition("=")[::2] for part in Path(f"/proc/{child}/environ").read_text().split("\0"))
                if "RANK" in told:
                    self.ranks[int(told["RANK"])] = int(child)
        except OSError:
            pass  # a process that has just begun or ended
        return self.ranks

    def __exit__(self, *_: object) -> None:
        self.look()
        for number in [*self.ranks.values(), *([self.process.pid] if self.process.poll() is None else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.stdout.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two ranks found in one start: all runs of parallel_cases."""
    path = tmp_path_factory.mktemp("cases") / "found"
    with Started(parallel_cases.__file__, path) as started:
        output, _ = started.process.communicate(timeout=120)
        assert started.process.returncode == 0, output
    return [torch.load(f"{path}.{rank}") for rank in range(2)]


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key].double() - other[key].double()).abs().max().item() for key in one)


@pytest.mark.parametrize("name", parallel_cases.CASES)
def test_two_ranks_equal_one_process(found, name):
    alone = parallel_cases.run(parallel_cases.CASES[name], parallel.Ranks())
    assert farthest(found[0][name], found[1][name]) == 0  # the same bits on every rank
    assert farthest(found[0][name], alone) < 1e-9
    start = parallel_cases.fresh(parallel_cases.CASES[name])
    assert farthest({"w": next(start.G.parameters())}, {"w": alone[f"G.{next(start.G.named_parameters())[0]}"]}) > 1e-3


@pytest.mark.parametrize("name", parallel_cases.FLOAT32)
def test_two_ranks_equal_one_process_in_single_precision(found, name):
    alone = parallel_cases.run(parallel_cases.CASES[name], parallel.Ranks(), torch.float32)
    assert farthest(found[0]["float32"][name], found[1]["float32"][name]) == 0
    assert farthest(found[0]["float32"][name], alone) < 1e-5


def test_ranks_that_begin_differently_are_refused(found):
    for told in found:
        for change, message in told["refused"].items():
            assert f"rank 1 begins with other {change} than rank 0" in message


def test_ranks_agree_to_stop_if_one_is_asked_to(found):
    assert [told["any"] for told in found] == [[True, False], [True, False]]


def run(*arguments: object) -> int:
    """Run the command line in this process, which trains alone, and return its status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the weights and statistics in a run's checkpoint, which must have made that many steps."""
    assert checkpoints.read_settings(run / CHECKPOINT)["step"] == step
    tensors = load_file(run / CHECKPOINT)
    return {key: value for key, value in tensors.items() if not key.startswith("opt")}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the ranks are found through /proc")
def test_after_a_kill_the_other_rank_ends_and_any_number_goes_on(tmp_path, capfd):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with Started("-m", "gan_tutorial", "train", "--out", killed, "--steps", 1_000_000, *OPTIONS) as started:
        while not (killed / CHECKPOINT).exists() or checkpoints.read_settings(killed / CHECKPOINT)["step"] < 10:
            assert started.process.poll() is None, started.process.stdout.read()
            started.look()
            time.sleep(0.02)
        os.kill(started.look()[1], signal.SIGKILL)
        start = time.monotonic()
        output, _ = started.process.communicate(timeout=30)
        assert started.process.returncode != 0
        assert time.monotonic() - start < 30
        assert "error: another rank has ended" in output
        assert "--resume goes on from the last checkpoint" in output
        with pytest.raises(ProcessLookupError):
            os.kill(started.ranks[0], 0)
    step = checkpoints.read_settings(killed / CHECKPOINT)["step"]
    assert step >= 10
    more = ["--steps", step + 10, "--resume", *OPTIONS]
    alone = shutil.copytree(killed, tmp_path / "alone")
    with Started("-m", "gan_tutorial", "train", "--out", killed, *more) as started:
        output, _ = started.process.communicate(timeout=60)
        assert started.process.returncode == 0, output
        assert output.count("checkpoint, samples and losses are in") == 1  # rank 0 alone speaks
    assert run("train", "--out", alone, *more) == 0
    assert run("train", "--out", whole, "--steps", step + 10, *OPTIONS) == 0
    for other in (killed, alone):
        assert farthest(weights(other, step + 10), weights(whole, step + 10)) < 1e-3


def joined(batch_size: int = 16, count: int = 2, **networks_of_state: nn.Module) -> None:
    """Try to train a small state as the first of several ranks."""
    config = training.TrainConfig(steps=1, batch_size=batch_size)
    state = training.TrainState.fresh(*parallel_cases.MLP.build(), config)
    for name, network in networks_of_state.items():
        setattr(state, name, network)
    with parallel.joined(state, config, parallel.Ranks(0, count)):
        pass


def ranks(**changes: str | None) -> parallel.Ranks:
    """Return what Ranks reads from torchrun's variables with changes; None takes one away."""
    environment = {key: value for key, value in (WHOLE | changes).items() if value is not None}
    return parallel.Ranks.from_environment(environment)


REFUSED = {
    "indivisible": (lambda: joined(batch_size=15), "2 ranks must divide the batch, but batch_size is 15; give 14, 16"),
    "too many ranks": (
        lambda: joined(batch_size=4, count=8),
        "8 ranks must divide the batch, but batch_size is 4; give 8",
    ),
    "packs": (
        lambda: joined(batch_size=12, D=networks.Packed(networks.MLPDiscriminator((4, 1, 8, 8), (8,)))),
        "packs of 4 must divide each rank's 6 samples",
    ),
    "dropout": (lambda: joined(D=nn.Sequential(nn.Dropout(0.5))), "draws random numbers of its own"),
    "half an environment": (lambda: ranks(MASTER_ADDR=None), "RANK is set, but MASTER_ADDR not; start with torchrun"),
    "no rank": (lambda: ranks(RANK=None), "WORLD_SIZE is set, but RANK not"),
    "a word": (lambda: ranks(RANK="first"), "RANK must be an integer of at least 0, but is 'first'"),
    "a negative": (lambda: ranks(RANK="-1"), "RANK must be an integer of at least 0, but is '-1'"),
    "no ranks at all": (lambda: ranks(WORLD_SIZE="0"), "WORLD_SIZE must be an integer of at least 1"),
    "a rank too high": (lambda: ranks(RANK="2"), "RANK 2 and LOCAL_RANK 0 must be below WORLD_SIZE, which is 2"),
    "a port": (lambda: ranks(MASTER_PORT="http"), "MASTER_PORT must be an integer of at least 1, but is 'http'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_inputs_end_at_the_door(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        act()
    assert not torch.distributed.is_initialized()


def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    for key, value in WHOLE.items():
        monkeypatch.setenv(key, value)
    assert run("train", "--out", tmp_path / "a", "--steps", 2, *OPTIONS, "--batch-size", 7) == 1
    assert "error: 2 ranks must divide the batch, but batch_size is 7; give 6, 8" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_without_torchrun_nothing_changes():
    assert parallel.Ranks.from_environment({}) == parallel.Ranks(0, 1, 0)
    state = parallel_cases.fresh(parallel_cases.CASES["batchnorm"])
    kinds = [type(module) for module in state.G.modules()]
    with parallel.joined(state, parallel_cases.CONFIG, parallel.Ranks()):
        assert [type(module) for module in state.G.modules()] == kinds
        assert not state.G._forward_hooks
        assert not state.opt_G._optimizer_step_pre_hooks
