"""Limits of the body, clients that disconnect, and a graceful stop."""

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from running import HEAD, PATIENCE, Process, in_process, run, started

from gan_tutorial.ship.serving.model import OnnxGenerator


@pytest.fixture(scope="module")
def strict(digits_onnx) -> Iterator[Process]:
    """A service with small limits."""
    with started(digits_onnx, "--count", 4, "--seconds", 2, "--body", 200) as running:
        yield running


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_gets_413(service, chunked):
    body = b'{"seed": ' + b"1" * 10_000_000 + b"}"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for content, status in ((body, 413), (b"{}", 200)):  # the connection can be used again
            chunks = (content[i : i + 65536] for i in range(0, len(content), 65536))
            connection.request(
                "POST",
                "/generate",
                chunks if chunked else content,
                {"Content-Type": "application/json"},
                encode_chunked=chunked,
            )
            response = connection.getresponse()
            assert response.status == status
            assert response.read()


def test_a_body_of_exactly_the_limit_is_read(service):
    assert service.ask(body=b"{}".ljust(4096))[0] == 200
    assert service.ask(body=b"{}".ljust(4097))[0] == 413


def test_options_change_the_limits(strict):
    assert strict.ask(body={"count": 4})[0] == 200
    assert strict.ask(body={"count": 5})[0] == 422
    assert strict.ask(body=b"{}".ljust(201))[0] == 413


def test_a_body_that_does_not_arrive_gets_408(strict):
    with strict.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"was not received within 2 s" in response


def test_clients_that_disconnect_do_no_harm(service):
    before = service.metric("gan_requests_total")
    head = HEAD + b"Content-Length: "
    whole = head + b'13\r\n\r\n{"count": 64}'
    for sent in (head + b"20\r\n\r\n{", b"POST /gen", b"\x16\x03\x01", b"", whole):
        with service.connect() as connection:
            connection.sendall(sent)
    assert service.ask(body={"count": 2})[0] == 200
    assert service.metric("gan_requests_total") > before


def test_the_middleware_stops_reading_at_its_limits(digits_onnx):
    async def slowly(parts: int, pause: float) -> AsyncIterator[bytes]:
        for _ in range(parts):
            await asyncio.sleep(pause)
            yield b" " * 60

    async def play() -> None:
        generator = OnnxGenerator(digits_onnx)
        async with in_process(generator, body=100, seconds=1) as (client, state):
            large = await client.post("/generate", content=slowly(1000, 0))
            assert large.status_code == 413
            assert large.json()["detail"] == "the body must not exceed 100 bytes"
            late = await client.post("/generate", content=slowly(2, 2))
            assert (late.status_code, late.headers["connection"]) == (408, "close")
            state.stopping = True
            for path in ("/", "/docs", "/model", "/healthz"):
                response = await client.get(path)
                assert (response.status_code, response.headers["connection"]) == (200, "close")
            assert (await client.get("/readyz")).json()["detail"] == "stopping"
            assert state.accepted == state.answered == 7

    run(play())


@dataclass
class Tally:
    """What happened to the requests of some clients."""

    statuses: Counter = field(default_factory=Counter)
    incomplete: int = 0

    def client(self, port: int, seed: int) -> None:
        """Send requests on one connection, and on a new one when asked to, until none opens."""
        body = json.dumps({"count": 8, "seed": seed}).encode()
        head = HEAD + b"Content-Length: %d\r\n\r\n"
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                    stream, close = connection.makefile("rb"), False
                    while not close:
                        connection.sendall(head % len(body) + body)
                        first = stream.readline()
                        if not first:  # not accepted
                            return
                        headers = http.client.parse_headers(stream)
                        size = int(headers["content-length"])
                        complete = len(stream.read(size)) == size
                        self.statuses[int(first.split()[1])] += complete
                        self.incomplete += not complete
                        close = headers["connection"] == "close"
            except OSError:
                return


def test_a_request_that_its_client_cuts_short_is_not_answered(digits_onnx):
    with started(digits_onnx, "--drain", 0) as running:
        for _ in range(3):
            with running.connect() as connection:
                connection.sendall(HEAD + b"Content-Length: 9\r\n\r\n{")
        while 'status="499"' not in running.ask("/metrics")[1].decode():
            pass
        asked = running.metric("gan_requests_total") + 1
        running.process.send_signal(signal.SIGTERM)
        out, _ = running.process.communicate(timeout=PATIENCE)
    answered, accepted = map(int, re.search(r"stopped: (\d+) of (\d+) requests", out).groups())
    assert (answered, accepted) == (asked - 3, asked)


def test_a_stop_under_load_answers_every_accepted_request(digits_onnx):
    with started(digits_onnx, "--drain", 0.5) as running:
        tally = Tally()
        clients = [
            threading.Thread(target=tally.client, args=(running.port, seed)) for seed in range(16)
        ]
        for client in clients:
            client.start()
        others = 0
        while tally.statuses[200] < 100:
            assert running.ask("/readyz")[0] == 200
            others += 1
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
        for client in clients:
            client.join(PATIENCE)
        out = running.process.stdout.read()
        err = running.process.stderr.read()
    counts = re.search(r"stopped: (\d+) of (\d+) requests answered", out).groups()
    answered, accepted = map(int, counts)
    assert answered == accepted
    assert tally.incomplete == 0
    assert set(tally.statuses) == {200}
    assert tally.statuses[200] == accepted - others
    assert not err


def test_while_stopping_it_is_alive_but_not_ready(digits_onnx):
    with started(digits_onnx, "--drain", 3 * PATIENCE) as running:
        running.process.send_signal(signal.SIGTERM)
        status, body, headers = running.ask("/readyz")
        while status == 200:  # until the signal arrives
            status, body, headers = running.ask("/readyz")
        assert (status, json.loads(body)["detail"]) == (503, "stopping")
        assert headers["connection"] == "close"
        assert running.ask("/healthz")[0] == 200
        assert running.ask(body={"count": 1})[0] == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0  # at once, not after draining
