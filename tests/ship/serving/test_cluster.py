"""The service under Ray Serve: the same pictures from two replicas, and what a killed one loses."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_repository import ROOT

from gan_tutorial import arrays
from gan_tutorial.ship.serving.model import OnnxGenerator

RAY = ROOT / ".venv" / "ray" / "bin" / "python"
ONGOING = 8  # deploy/cluster.py
CLIENTS = 24
PATIENCE = 120

pytestmark = pytest.mark.skipif(not RAY.exists(), reason="make ray was not run")


def command(*arguments: object) -> list[str]:
    return [str(RAY), str(ROOT / "deploy" / "cluster.py"), *map(str, arguments)]


@pytest.fixture(scope="module")
def port(digits_onnx, tmp_path_factory) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    errors = tmp_path_factory.mktemp("ray") / "stderr"
    with (
        errors.open("w") as stderr,
        # short, since the paths of sockets have a limit
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as logs,
        subprocess.Popen(
            command(digits_onnx, "--replicas", 2, "--port", port),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"RAY_TMPDIR": logs},
            cwd=errors.parent,  # not the repository: Ray's processes must find the package
        ) as process,
    ):
        watchdog = threading.Timer(4 * PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout.readline().startswith("serving digits on"), errors.read_text()
            yield port
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, errors.read_text()
        finally:
            watchdog.cancel()
            process.kill()


def ask(port: int, body: object, kind: str = "application/json") -> tuple[int, bytes, dict]:
    """Send one request; return status, body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/generate", content, {"Content-Type": kind})
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    found = response.status, response.read(), headers
    connection.close()
    return found


def test_both_replicas_draw_the_pictures_of_the_file_and_in_batches(port, digits_onnx):
    generator = OnnxGenerator(digits_onnx)
    bodies = [{"count": 3, "seed": seed, "format": "array"} for seed in range(20)] * 10
    with ThreadPoolExecutor(CLIENTS) as crowd:
        answers = list(crowd.map(lambda body: ask(port, body), bodies))
    assert {status for status, _, _ in answers} == {200}
    assert len({headers["x-replica"] for _, _, headers in answers}) == 2
    assert max(int(headers["x-largest-batch"]) for _, _, headers in answers) > 1
    for body, (_, content, _) in zip(bodies, answers, strict=True):
        z = arrays.latents(3, generator.card.latent_dim, body["seed"])
        expected = generator(z, arrays.labels(3, len(generator.card.classes)))
        np.testing.assert_allclose(json.loads(content)["samples"], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"{", "application/json", 400, "JSON"),
        ({"count": 65}, "application/json", 422, "count"),
        ({"seed": "1"}, "application/json", 422, "seed"),
        ({"count": 1}, "text/plain", 415, "application/json"),
    ],
)
def test_what_is_wrong_gets_the_answer_of_the_service(port, body, kind, status, says):
    found, content, headers = ask(port, body, kind)
    assert found == status
    assert says in json.loads(content)["detail"]
    assert headers["content-type"] == "application/json"


def test_a_killed_replica_loses_no_more_than_it_had_taken(port):
    """The clients count what they send and what they get, until a new replica has answered."""
    with ThreadPoolExecutor(CLIENTS) as crowd:  # one after the other they may all go to one
        answers = crowd.map(lambda seed: ask(port, {"count": 8, "seed": seed}), range(20 * CLIENTS))
        first = {headers["x-replica"] for _, _, headers in answers}
    assert len(first) == 2
    victim, expected = min(first, key=int), dict.fromkeys(range(8))
    for seed in expected:
        status, expected[seed], _ = ask(port, {"count": 8, "seed": seed})
        assert status == 200
    end, seen, sent, killed = time.monotonic() + PATIENCE, set(first), Counter(), []

    def client(number: int) -> Counter:
        got, seed = Counter(), number % len(expected)
        while len(seen) < 3 and time.monotonic() < end:
            sent[number] += 1
            try:
                status, content, headers = ask(port, {"count": 8, "seed": seed})
            except (OSError, http.client.HTTPException) as error:
                got[type(error).__name__] += 1
                continue
            right = status != 200 or content == expected[seed]
            got[status if right else "another picture"] += 1
            seen.add(headers.get("x-replica", victim))
            if killed and status == 200:
                got["after"] += headers["x-replica"] != victim
        return got

    with ThreadPoolExecutor(CLIENTS) as crowd:
        clients = [crowd.submit(client, number) for number in range(CLIENTS)]
        time.sleep(1)
        os.kill(int(victim), signal.SIGKILL)
        killed.append(victim)
    got = sum((client.result() for client in clients), Counter())
    after = got.pop("after")
    print(f"sent {sent.total()}, got {dict(got)}; {after} answers after the kill")
    assert not Path(f"/proc/{victim}").exists()
    assert len(seen) == 3, "no new replica has answered"
    assert got.total() == sent.total()
    assert set(got) <= {200, 500, 503}
    assert sent.total() - got[200] <= ONGOING
    assert after > CLIENTS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.onnx"], "error: there is no model at"),
        (["nowhere.onnx", "--replicas", "0"], "error: --replicas must be 1 or more"),
        ([__file__], "is not a complete ONNX file"),
        (["{model}", "--port", "70000"], "port must be 0-65535"),
        (["{model}", "--port", "{port}"], "Address already in use"),
        (["{model}", "--host", "203.0.113.1"], "Cannot assign requested address"),
    ],
)
def test_a_bad_argument_is_one_line(arguments, says, port, digits_onnx, tmp_path):
    arguments = [word.format(model=digits_onnx, port=port) for word in arguments]
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert says in line
