"""The command line of the service."""

import socket
import subprocess
import sys

import pytest
from running import PATIENCE

from gan_tutorial.ship.serving.__main__ import main

BAD_COMMANDS = {
    "no model": ([], "model"),
    "no file": (["nowhere.onnx"], "there is no model at nowhere.onnx"),
    "no such option": (["{model}", "--fast"], "unrecognized arguments: --fast"),
    "no number": (["{model}", "--port", "many"], "invalid int value: 'many'"),
    "no port": (["{model}", "--port", "70000"], "--port must be a port"),
    "no threads": (["{model}", "--threads", "0"], "threads must be an integer from 1"),
    "no images": (["{model}", "--count", "0"], "count must be a finite number above 0, but is 0"),
    "no batch": (["{model}", "--batch", "0"], "batch must be a finite number above 0"),
    "no queue": (["{model}", "--queue", "-1"], "queue must be"),
    "infinite": (["{model}", "--seconds", "inf"], "seconds must be a finite number"),
    "NaN seconds": (["{model}", "--seconds", "nan"], "seconds must be a finite number"),
    "NaN drain": (["{model}", "--drain", "nan"], "--drain must be seconds"),
    "no address": (["{model}", "--host", "256.0.0.1"], "256.0.0.1"),
    "a port that is taken": (["{model}", "--port", "{taken}"], "in use"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_prints_one_line_and_exits(name, digits_onnx, capsys):
    arguments, message = BAD_COMMANDS[name]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"model": digits_onnx, "taken": taken.getsockname()[1]}
        with pytest.raises(SystemExit) as end:
            main([argument.format(**names) for argument in arguments])
    assert end.value.code in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "module", [["gan_tutorial", "serve"], ["gan_tutorial.ship.serving"]], ids=lambda m: m[0]
)
def test_both_commands_start_the_service(module):
    command = [sys.executable, "-m", *module]
    options = {"capture_output": True, "text": True, "check": False, "timeout": PATIENCE}
    done = subprocess.run([*command, "--help"], **options)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m gan_tutorial.ship.serving")
    assert "images in a request; more get 422 (default: 64)" in " ".join(done.stdout.split())
    done = subprocess.run([*command, "nowhere.onnx"], **options)
    assert done.returncode == 1
    message = (
        "error: there is no model at nowhere.onnx (No such file or directory); "
        "write one with gan_tutorial export\n"
    )
    assert done.stderr == message
