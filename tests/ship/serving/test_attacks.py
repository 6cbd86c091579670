"""Attacks on the connections: each is cut or answered, costs little, and stops no one else."""

import contextlib
import re
import resource
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import HEAD, PATIENCE, Process, started

from gan_tutorial.ship.serving import server

MB = 1_000_000
HALF = b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: "
WHOLE = b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
ARRAYS = b'{"count": 64, "format": "array"}'  # 400 kB of response
TWENTY = 20 * (HEAD + b"Content-Length: %d\r\n\r\n" % len(ARRAYS) + ARRAYS)


def memory(running: Process) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) / 1000


def wait_until_idle(running: Process) -> None:
    """Return once a process has used no processor time for half a second."""
    used, before = None, -1
    while used != before:
        before = used
        stat = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
        used = int(stat[11]) + int(stat[12])  # utime, stime
        time.sleep(0.5)


def sockets(running: Process) -> int:
    """Return the number of open sockets of a process."""
    count = 0
    for file in Path(f"/proc/{running.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += file.readlink().name.startswith("socket:")
    return count


@pytest.fixture(scope="module")
def target(digits_onnx) -> Iterator[Process]:
    """A service with small limits, whose memory hardly grows and which writes no error."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells the memory of a process")
    with started(digits_onnx, "--seconds", 1, "--connections", 64) as running:
        before = memory(running)
        yield running
        assert memory(running) < before + 30
        running.process.send_signal(signal.SIGTERM)
        assert not running.process.stderr.read()


def is_closed(connection: socket.socket, send: bytes = b"") -> bytes:
    """Keep sending ``send`` until the service closes the connection; return what came."""
    received, end = b"", time.monotonic() + PATIENCE
    connection.settimeout(0.1)
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # what came before the end can still be read
            connection.sendall(send)
        try:
            data = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return received
        if not data:
            return received
        received += data
    raise AssertionError("the service kept the connection")


@pytest.mark.parametrize("first", [b"", WHOLE], ids=["first request", "second request"])
def test_headers_that_come_slowly_are_cut(target, first):
    with target.connect() as connection:
        if first:
            connection.sendall(first)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(HALF)
        assert is_closed(connection, send=b"a").startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("first", [b"", WHOLE], ids=["new", "after a response"])
def test_a_silent_connection_is_closed(target, first):
    with target.connect() as connection:
        connection.sendall(first)
        assert is_closed(connection).count(b"HTTP/1.1 ") == bool(first)


def test_a_body_that_comes_slowly_gets_408(target):
    with target.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 4000\r\n\r\n")
        assert is_closed(connection, send=b" ").startswith(b"HTTP/1.1 408 ")


def test_headers_without_an_end_are_refused(target):
    with target.connect() as connection:
        connection.sendall(HALF)
        assert is_closed(connection, send=bytes(65536)).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_goes_on_after_413_is_cut(target):
    with target.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
        taken = 0
        with contextlib.suppress(OSError):
            while taken < 10 * server.DISCARDED:
                taken += connection.send(bytes(65536))
    assert taken < server.DISCARDED + 16 * MB  # the rest lay in the system's buffers


def ask_for_much(running: Process) -> socket.socket:
    """Return a connection that asks for more than the system's buffers hold."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((running.host, running.port))
    reader.sendall(TWENTY)
    return reader


def test_a_client_that_reads_nothing_is_cut(target):
    before, computed = sockets(target), target.metric("gan_batched_requests_total")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(ask_for_much(target))
        while target.metric("gan_batched_requests_total") == computed:
            pass
        while sockets(target) > before:
            assert memory(target) < 400
    assert target.ask(body={})[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
    ids=["TLS", "no ASCII", "no length", "two lengths", "no chunk"],
)
def test_what_is_no_http_gets_400(target, garbage):
    with target.connect() as connection:
        connection.sendall(garbage)
        assert is_closed(connection).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_has_closed_its_sending_half_is_answered(target):
    with target.connect() as connection:
        request = HEAD + b"Content-Length: 2\r\n\r\n{}"
        connection.sendall(2 * request)
        connection.shutdown(socket.SHUT_WR)
        assert is_closed(connection).count(b"HTTP/1.1 200 OK") == 2


def test_half_a_request_makes_room_for_whole_ones(digits_onnx):
    with (
        started(digits_onnx, "--connections", 4, "--seconds", PATIENCE) as running,
        contextlib.ExitStack() as stack,
    ):
        halves = [stack.enter_context(running.connect()) for _ in range(12)]
        for half in halves:
            half.sendall(HALF)
        assert running.ask(body={})[0] == 200
        assert [is_closed(half) for half in halves[:8]] == [b""] * 8, "the oldest go"
        halves[-1].sendall(b"\r\n\r\n")
        assert halves[-1].recv(100).startswith(b"HTTP/1.1 200 ")


def test_where_all_connections_are_being_answered_one_more_gets_503(digits_onnx):
    with (
        started(digits_onnx, "--connections", 2, "--seconds", PATIENCE) as running,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            reader = stack.enter_context(ask_for_much(running))
            assert reader.recv(1), "it is being answered, and reads no more"
            # uvicorn counts a task for a moment after its end, and could answer 503 meanwhile
            wait_until_idle(running)
        assert running.ask("/healthz")[0] == 503


def test_a_slow_reader_gets_its_whole_response(digits_onnx):
    """Also after ``seconds``, if within three times as long, and while others want connections."""
    asked = b'{"count": 2000, "format": "array"}'  # 9 MB of response, more than the system buffers
    options = ("--seconds", 8, "--connections", 2, "--count", 2000, "--values", 2000 * 784)
    with started(digits_onnx, *options) as running, contextlib.ExitStack() as stack:
        reader = stack.enter_context(running.connect())
        reader.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(asked) + asked)
        received = reader.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 ")
        for _ in range(2):
            stack.enter_context(running.connect())
        time.sleep(9)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        while len(body) < length:
            data = reader.recv(2**20)
            assert data, f"cut after {len(body)} of {length} bytes"
            body += data


def test_who_has_read_a_long_response_makes_room_again(digits_onnx):
    asked = b'{"count": 1000, "format": "array"}'  # 5 MB
    options = ("--seconds", PATIENCE, "--connections", 2, "--count", 1000, "--values", 10**6)
    with started(digits_onnx, *options) as running, contextlib.ExitStack() as stack:
        reader = stack.enter_context(running.connect())
        reader.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(asked) + asked)
        received = reader.recv(65536)
        time.sleep(0.5)  # the service has handed the whole response to the system by now
        head, _, body = received.partition(b"\r\n\r\n")
        left = int(re.search(rb"content-length: (\d+)", head)[1]) - len(body)
        while left:
            left -= len(reader.recv(min(left, 2**20)))
        reader.sendall(HALF)
        assert running.ask("/healthz")[0] == 200
        silent = [stack.enter_context(running.connect()) for _ in range(2)]
        assert is_closed(reader) == b""
        silent[-1].sendall(WHOLE)
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 200 ")


def test_probes_are_answered_while_clients_hold_all_connections(digits_onnx):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--connections", 2, "--seconds", PATIENCE, "--metrics_port", port)
    with started(digits_onnx, *options) as running, contextlib.ExitStack() as stack:
        for _ in range(2):
            reader = stack.enter_context(ask_for_much(running))
            assert reader.recv(1)
            wait_until_idle(running)
        assert running.ask("/healthz")[0] == 503
        running.port = port
        for _ in range(3 * server.INSIDE):  # silent ones make room here, too
            stack.enter_context(running.connect())
        assert [running.ask(path)[0] for path in ("/healthz", "/readyz", "/metrics")] == 3 * [200]
        threads = re.search(
            r"Threads:\s*(\d+)", Path(f"/proc/{running.process.pid}/status").read_text()
        )
        assert int(threads[1]) < server.INSIDE


def test_what_is_no_http_after_a_request_gets_400_after_its_answer(target):
    with target.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(ARRAYS), ARRAYS))
        connection.sendall(b"zz\r\n\r\n")
        received = is_closed(connection)
    head, _, rest = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    assert rest[length:].startswith(b"HTTP/1.1 400 ")


def test_what_follows_a_refused_body_is_not_answered(target):
    """Not even with the traceback of a second response to one request, which the fixture sees."""
    with target.connect() as connection:
        chunk = b"%x\r\n%s\r\n" % (5000, b" " * 5000)
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert connection.recv(20).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"zz\r\n")
        assert b"HTTP/1.1" not in is_closed(connection)


@pytest.mark.skipif(not shutil.which("prlimit"), reason="prlimit is not installed")
def test_more_half_requests_than_files_stop_no_one(digits_onnx):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with (
            started(digits_onnx, files=1024) as running,
            contextlib.ExitStack() as stack,
        ):
            for n in range(1100):
                stack.enter_context(running.connect()).sendall(HALF)
                if n % 100 == 99:
                    assert running.ask(body={})[0] == 200
            running.process.kill()
            assert not running.process.stderr.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
