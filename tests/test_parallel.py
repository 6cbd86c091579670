"""Several processes train as one does; and when one of them dies, the others say so and nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import parallel_cases
import pytest
import torch
from torch import nn

from gan_tutorial import checkpoints, losses, networks, parallel, training
from gan_tutorial.__main__ import main
from gan_tutorial.runs import CHECKPOINT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
OPTIONS = (
    "--data digits --width 4 --latent-dim 8 --batch-size 8 --objective non_saturating --device cpu --no-bf16"
    " --save-every 5 --sample-every 1000"
).split()


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
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass
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


def weights(run: Path) -> dict[str, torch.Tensor]:
    header, tensors = checkpoints._read(run / CHECKPOINT)
    assert header["step"] == STEPS
    return {key: value for key, value in tensors.items() if not key.startswith("opt")}


STEPS = 40


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
