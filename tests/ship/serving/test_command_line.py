"""The command line of the service."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import PATIENCE, started

from gan_tutorial.ship.serving.__main__ import main

BAD_COMMANDS = {
    "no model": ([], "model"),
    "no file": (["nowhere.onnx"], "there is no model at nowhere.onnx"),
    "no such option": (["{model}", "--fast"], "unrecognized arguments: --fast"),
    "no number": (["{model}", "--port", "many"], "invalid int value: 'many'"),
    "no port": (["{model}", "--port", "70000"], "--port must be a port"),
    "no metrics port": (["{model}", "--metrics_port", "-1"], "--metrics_port must be a port"),
    "metrics on a port that nobody is told": (
        ["{model}", "--port", "{taken}", "--metrics_port", "0"],
        "--metrics_port must be a port, but is 0",
    ),
    "metrics on a port that is taken": (
        ["{model}", "--port", "0", "--metrics_port", "{taken}"],
        "in use",
    ),
    "no connections": (["{model}", "--connections", "0"], "connections must be a finite number"),
    "more connections than files": (["{model}", "--connections", "9999999999"], "(ulimit -Hn)"),
    "no IPv6": (["{model}", "--host", "::zz"], "::zz"),
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


def internet_sockets(process: int) -> set[tuple[str, int]]:
    """Return the protocol and the local port of every internet socket of a process."""
    inodes, found = set(), set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        if os.path.lexists(link):  # else closed meanwhile
            inodes.add(str(link.readlink()))
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes:
                found.add((protocol, int(fields[1].rsplit(":")[-1], 16)))
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs Linux")
def test_the_service_has_no_socket_but_its_own(digits_onnx):
    """It asks nobody anything, not even a name server."""
    with started(digits_onnx) as service:
        assert service.ask(body={})[0] == 200
        for _ in range(100):
            assert internet_sockets(service.process.pid) <= {("tcp", service.port)}
            time.sleep(0.02)
        with service.connect(), service.connect():
            assert internet_sockets(service.process.pid), "the control: its own are seen"


@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(digits_onnx, host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with started(digits_onnx, "--host", host) as running:
        assert running.host == host
        for address in ("::1", "127.0.0.1") if host == "::" else ("::1",):
            running.host = address
            assert running.ask(body={})[0] == 200


def test_metrics_can_have_their_own_port(digits_onnx):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started(digits_onnx, "--metrics_port", port) as running:
        assert running.ask(body={})[0] == 200
        assert running.ask("/metrics")[0] == 404
        running.port = port
        assert running.metric("gan_batched_requests_total") == 1
        assert [running.ask(path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
        assert [running.ask(path)[0] for path in ("/", "/generate", "/model")] == [404, 404, 404]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what it does")
def test_a_signal_while_it_starts_stops_it(digits_onnx):
    """Without a handler of its own, the first process of a container would ignore it."""
    command = [sys.executable, "-m", "gan_tutorial.ship.serving", digits_onnx, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> 14 & 1:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "", "it has not begun to serve"
    assert process.returncode == 128 + signal.SIGTERM
