"""Several processes train as one; if one of them dies, the others say so and nothing is lost."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import distributed_cases
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gan_tutorial import checkpoints, networks, training
from gan_tutorial.__main__ import main
from gan_tutorial.ship import distributed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
OPTIONS = ["--no-bf16", "--data=digits", "--width=4", "--latent-dim=8", "--batch-size=8"]
OPTIONS += ["--objective=non_saturating", "--device=cpu", "--save-every=5", "--sample-every=1000"]
OPTIONS += ["--minibatch-std=4", "--lr-end=1"]  # for any length of run
CHECKPOINT = checkpoints.Run.CHECKPOINT
PATIENCE = 600  # seconds; a busy machine is slow, not wrong


class Torchrun:
    """A command under torchrun, whose processes end with the block, whatever happens in it."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = [*TORCHRUN, *map(str, arguments)]

    def __enter__(self) -> "Torchrun":
        self.process = subprocess.Popen(
            self.arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.ranks: dict[int, int] = {}
        return self

    def find_ranks(self) -> dict[int, int]:
        """Return the process number of each rank that has been seen."""
        with contextlib.suppress(OSError):  # a process that has just started or ended
            task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
            for child in (task / "children").read_text().split():
                variables = Path(f"/proc/{child}/environ").read_text().split("\0")
                environment = dict(variable.partition("=")[::2] for variable in variables)
                if "RANK" in environment:
                    self.ranks[int(environment["RANK"])] = int(child)
        return self.ranks

    def __exit__(self, *_: object) -> None:
        running = list(self.find_ranks().values())
        if self.process.poll() is None:
            running.append(self.process.pid)
        for number in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.stdout.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two ranks found in all runs of distributed_cases, started once."""
    path = tmp_path_factory.mktemp("cases") / "found"
    with Torchrun(distributed_cases.__file__, path) as started:
        output, _ = started.process.communicate(timeout=PATIENCE)
        assert started.process.returncode == 0, output
    return [torch.load(f"{path}.{rank}") for rank in range(2)]


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key].double() - other[key].double()).abs().max().item() for key in one)


@pytest.mark.parametrize("name", distributed_cases.CASES)
def test_two_ranks_equal_one_process(found, name):
    case = distributed_cases.CASES[name]
    alone = distributed_cases.run(case, distributed.Ranks())
    assert largest_difference(found[0][name], found[1][name]) == 0  # the same bits on every rank
    assert largest_difference(found[0][name], alone) < 1e-9
    key, start = next(iter(distributed_cases.named(distributed_cases.init(case))))
    assert (alone[key] - start).abs().max() > 1e-3


@pytest.mark.parametrize("name", distributed_cases.FLOAT32)
def test_two_ranks_equal_one_process_in_single_precision(found, name):
    alone = distributed_cases.run(distributed_cases.CASES[name], distributed.Ranks(), torch.float32)
    first, second = (ranks["float32"][name] for ranks in found)
    assert largest_difference(first, second) == 0
    if name != distributed_cases.SENSITIVE:
        assert largest_difference(first, alone) < 1e-5


class OneHalf(distributed.Ranks):
    """A process that trains on half of each batch, like a rank keeping its gradients to itself."""

    def rows(self, *batches: Tensor) -> tuple[Tensor, ...]:
        return tuple(batch[: len(batch) // 2] for batch in batches)


def test_where_rounding_grows_it_stays_far_below_a_mistake(found):
    """Adam makes a full step of the smallest gradient, even of one that is mostly rounding.

    In this case one process differs from itself, with the rows of each batch in another order, by
    2e-5 to 5e-3 of how far the weights moved (single weights by 1e-6 to 8e-4; eight such orders).
    """
    case = distributed_cases.CASES[distributed_cases.SENSITIVE]
    start = distributed_cases.init(case)
    weights = [f"G.{name}" for name, _ in start.G.named_parameters()]
    weights += [f"D.{name}" for name, _ in start.D.named_parameters()]

    def vector(tensors: dict[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].detach().flatten() for name in weights])

    two = vector(found[0]["float32"][distributed_cases.SENSITIVE])
    one, half = (
        vector(distributed_cases.run(case, ranks, torch.float32))
        for ranks in (distributed.Ranks(), OneHalf())
    )
    moved = (one - vector(dict(distributed_cases.named(start)))).norm()
    assert (two - one).norm() < 1e-2 * moved
    assert (half - one).norm() > 1e-1 * moved


def test_one_process_takes_the_steps_of_the_core_loop():
    """With one rank nothing is exchanged, no module is replaced, and every bit is the same."""
    case = distributed_cases.CASES["augmented"]
    states = [distributed_cases.init(case) for _ in range(2)]
    modules = list(states[0].G.modules())
    logs = list(
        distributed.train(states[0], distributed_cases.noise(), case.recipe, distributed.Ranks())
    )
    expected = list(training.train(states[1], distributed_cases.noise(), case.recipe))
    assert largest_difference(*(dict(distributed_cases.named(state)) for state in states)) == 0
    assert all(log.tensors == other.tensors for log, other in zip(logs, expected, strict=True))
    assert all(a is b for a, b in zip(states[0].G.modules(), modules, strict=True))


def test_ranks_that_start_differently_are_refused(found):
    for rank in found:
        for change, message in rank["refused"].items():
            assert f"rank 1 and rank 0 differ in {change}" in message


def test_all_ranks_stop_if_one_is_asked_to(found):
    assert [rank["any"] for rank in found] == [[True, False], [True, False]]


def run(*arguments: object) -> int:
    """Run the command line in this process, as the only rank, and return its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def test_a_run_stops_and_saves_if_another_rank_is_asked_to(tmp_path, monkeypatch, capsys):
    asked = iter([False, False, True])
    monkeypatch.setattr(distributed.Ranks, "any", lambda *_: next(asked))
    assert run("train", "--out", tmp_path, "--steps", 9, *OPTIONS) == 128 + signal.SIGTERM
    assert "stopped at step 3; " in capsys.readouterr().err
    assert checkpoints.read_settings(tmp_path / CHECKPOINT)["step"] == 3


def saved_weights(run: Path, step: int) -> dict[str, Tensor]:
    """Return the weights and statistics in a run's checkpoint, which must be of that step."""
    assert checkpoints.read_settings(run / CHECKPOINT)["step"] == step
    tensors = load_file(run / CHECKPOINT)
    return {key: value for key, value in tensors.items() if not key.startswith("opt")}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the ranks are found in /proc")
def test_after_a_kill_the_other_rank_ends_and_any_number_of_ranks_resumes(tmp_path, capfd):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = ("-m", "gan_tutorial", "train", "--out")
    with Torchrun(*command, killed, "--steps", 1_000_000, *OPTIONS) as started:
        path = killed / CHECKPOINT
        while not path.exists() or checkpoints.read_settings(path)["step"] < 10:
            assert started.process.poll() is None, started.process.stdout.read()
            started.find_ranks()
            time.sleep(0.02)
        os.kill(started.find_ranks()[1], signal.SIGKILL)
        output, _ = started.process.communicate(timeout=distributed.TIMEOUT.seconds / 2)
        assert started.process.returncode != 0
        assert "error: another rank has ended" in output
        assert "--resume continues from the last checkpoint" in output
        with pytest.raises(ProcessLookupError):
            os.kill(started.ranks[0], 0)
    step = checkpoints.read_settings(killed / CHECKPOINT)["step"]
    assert step >= 10
    more = ["--steps", step + 10, "--resume", *OPTIONS]
    alone = shutil.copytree(killed, tmp_path / "alone")
    with Torchrun(*command, killed, *more) as started:
        output, _ = started.process.communicate(timeout=PATIENCE)
        assert started.process.returncode == 0, output
        assert output.count(str(killed)) == 1  # rank 0 alone prints where the results are
    assert run("train", "--out", alone, *more) == 0
    assert run("train", "--out", whole, "--steps", step + 10, *OPTIONS) == 0
    expected = saved_weights(whole, step + 10)
    for other in (killed, alone):
        assert largest_difference(saved_weights(other, step + 10), expected) < 1e-3


def connect(batch_size: int = 16, world_size: int = 2, **changes: nn.Module) -> None:
    """Try to train as the first of several ranks, with other networks in the state."""
    recipe = replace(distributed_cases.MLP, batch_size=batch_size)
    state = replace(recipe.init(), **changes)
    with distributed.process_group(distributed.Ranks(0, world_size), state, recipe):
        pass


def test_connecting_compares_the_recipes(monkeypatch):
    """Without a second process: the recipe of the other rank is made up."""

    def gather(starts, own):
        changed = own["settings"].replace('"batch_size": 16', '"batch_size": 32')
        starts[:] = [own, own | {"settings": changed}]

    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(ValueError, match="rank 1 and rank 0 differ in settings"):
        connect(batch_size=16)


def test_a_fingerprint_tells_weights_from_moments():
    recipe = replace(distributed_cases.MLP, batch_size=16, steps=1)
    state = recipe.init()
    list(training.train(state, distributed_cases.noise(), recipe))
    before = distributed.fingerprint(state, {})
    assert distributed.fingerprint(state, {}) == before
    moments = next(iter(state.opt_D.state.values()))
    moments["exp_avg_sq"] += 1
    after = distributed.fingerprint(state, {})
    assert after["moments"] != before["moments"]
    assert after | {"moments": None} == before | {"moments": None}


def read(**changes: str | None) -> distributed.Ranks:
    """Return what Ranks reads from torchrun's variables with changes; None removes a variable."""
    variables = (ENVIRONMENT | changes).items()
    return distributed.Ranks.from_environment({k: v for k, v in variables if v is not None})


REFUSED = {
    "indivisible": (
        lambda: connect(batch_size=15),
        "batch_size must be a multiple of 2 ranks, not 15; use 14",
    ),
    "too many ranks": (
        lambda: connect(batch_size=4, world_size=8),
        "batch_size must be a multiple of 8 ranks, not 4; use 8",
    ),
    "packs": (
        lambda: connect(12, D=networks.Packed(networks.MLPDiscriminator((4, 1, 8, 8), (8,)))),
        "a rank's 6 rows must be a multiple of the pack, 4",
    ),
    "groups": (
        lambda: connect(40, D=networks.ConvDiscriminator((1, 8, 8), 2, minibatch_std=8)),
        "batch_size must be a multiple of 16, 2 ranks times minibatch_std, not 40; use 32",
    ),
    "dropout": (lambda: connect(D=nn.Sequential(nn.Dropout(0.5))), "has its own random numbers"),
    "half an environment": (
        lambda: read(MASTER_ADDR=None),
        "RANK is set without MASTER_ADDR; start with torchrun, or unset RANK, WORLD_SIZE",
    ),
    "no rank": (lambda: read(RANK=None), "WORLD_SIZE is set without RANK"),
    "a word": (
        lambda: read(RANK="first"),
        "RANK must be an integer of at least 0, but is 'first'",
    ),
    "negative": (lambda: read(RANK="-1"), "RANK must be an integer of at least 0, but is '-1'"),
    "no world": (lambda: read(WORLD_SIZE="0"), "WORLD_SIZE must be an integer of at least 1"),
    "a rank too high": (
        lambda: read(RANK="2"),
        "RANK 2, LOCAL_RANK 0 and WORLD_SIZE 2 do not fit",
    ),
    "a port": (
        lambda: read(MASTER_PORT="http"),
        "MASTER_PORT must be an integer of at least 1, but is 'http'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_connecting(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        act()
    assert not torch.distributed.is_initialized()


def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    options = [*OPTIONS, "--minibatch-std=0", "--batch-size=7"]
    arguments = ("--out", tmp_path / "a", "--steps", 2, *options)
    assert run("train", *arguments) == 1
    message = "error: batch_size must be a multiple of 2 ranks, not 7; use 6"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_several_ranks_do_not_train_on_mps(monkeypatch):
    monkeypatch.setattr(distributed, "choose_device", torch.device)
    assert distributed.Ranks().device("mps") == torch.device("mps")
    with pytest.raises(ValueError, match="several ranks train on cpu or cuda, not on mps; start"):
        distributed.Ranks(0, 2, 0).device("mps")


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    chosen = []

    def choose(name: str) -> torch.device:  # which makes a tensor on the current GPU
        assert name != "cuda" or chosen, "on GPU 0, whatever the rank"
        return torch.device(name)

    monkeypatch.setattr(distributed, "choose_device", choose)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert distributed.Ranks(3, 4, 1).device("cuda") == torch.device("cuda", 1)
    assert set(chosen) == {1}
    with pytest.raises(ValueError, match="no GPU for rank 2 of this machine; start at most 2"):
        distributed.Ranks(2, 4, 2).device("cuda")
    with pytest.raises(ValueError, match="must be auto, cpu or cuda for several ranks"):
        distributed.Ranks(1, 2, 1).device("cuda:0")


def test_without_torchrun_there_is_one_rank():
    assert distributed.Ranks.from_environment({}) == distributed.Ranks(0, 1, 0)
