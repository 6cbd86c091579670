"""The service, as a process on a free port and in this one: statuses, limits, batches, page, a stop without loss."""

import asyncio
import contextlib
import http.client
import importlib.metadata
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import kubernetes_validate
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from test_pages import NARROW, WIDE, Visit, assert_fits, violations, visit
from test_repository import ROOT, pins

from gan_tutorial import batching, checkpoints, drawing, export, networks, serve
from gan_tutorial.batching import Batcher, QueueFullError
from gan_tutorial.door import Door, Limits, Traffic

PATIENCE = 60  # seconds; a busy machine is slow, not wrong


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The bundled generator of digits as ONNX."""
    path = tmp_path_factory.mktemp("model") / "digits.onnx"
    export.to_onnx(*checkpoints.load_generator(checkpoints.bundled("digits"))[:1], path, {"data": "digits"})
    return path


@dataclass
class Process:
    """A running service."""

    process: subprocess.Popen
    port: int

    def ask(
        self, path: str = "/generate", body: object = None, method: str | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send one request on a connection of its own; return status, body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, content)
            answer = connection.getresponse()
            return answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()}

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = self.ask("/metrics")[1].decode()
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)))

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@contextlib.contextmanager
def started(model: Path, *options: object) -> Iterator[Process]:
    """Start the service on a free port; stop it at the end."""
    command = [sys.executable, "-m", "gan_tutorial.serve", str(model), "--port", "0", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            greeting = process.stdout.readline()
            assert greeting.startswith("serving digits on http://127.0.0.1:"), process.stderr.read()
            yield Process(process, int(greeting.rsplit(":")[-1]))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service(model) -> Iterator[Process]:
    """A service with the usual limits."""
    with started(model) as running:
        yield running
        assert running.process.poll() is None, "it ended by itself"


@pytest.fixture(scope="module")
def strict(model) -> Iterator[Process]:
    """A service that waits for half a second."""
    with started(model, "--count", 4, "--seconds", 0.5, "--body", 200) as running:
        yield running


def finish(play: Coroutine[None, None, None]) -> None:
    """Run a coroutine to its end, in a thread of its own: in this one the browser's event loop may be running."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, play).result()


# As a process


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/readyz", "/metrics", "/model", "/openapi.json"])
def test_answers_by_200(service, path):
    status, body, headers = service.ask(path)
    assert status == 200
    assert body
    assert headers["x-content-type-options"] == "nosniff"


def test_the_process_has_no_pytorch(service):
    maps = Path(f"/proc/{service.process.pid}/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what a process has loaded")
    assert "onnxruntime" in maps.read_text()
    assert "torch" not in maps.read_text()


def test_a_png_holds_the_pictures_of_the_seed(service, model):
    generator = drawing.OnnxGenerator(model)
    status, body, headers = service.ask(body={"count": 6, "seed": 3, "class": 7, "truncation": 1.5, "shift": [1, -2]})
    assert (status, headers["content-type"]) == (200, "image/png")
    z = drawing.moved(drawing.latents(6, 64, 3, 1.5), generator.card.directions, [1, -2])
    expected = drawing.tile(generator.draw(z, generator.labels(6, 7)))
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.size == (3 * 30 - 2, 2 * 30 - 2)
        assert np.array_equal(np.asarray(picture), expected)


def test_an_array_holds_the_numbers(service, model):
    generator = drawing.OnnxGenerator(model)
    status, body, _ = service.ask(body={"count": 3, "seed": 9, "format": "array"})
    answer = json.loads(body)
    assert (status, answer["shape"]) == (200, [3, 1, 28, 28])
    expected = generator.draw(drawing.latents(3, 64, 9), generator.labels(3))
    np.testing.assert_allclose(np.array(answer["samples"]), expected, atol=1e-4)


def test_a_body_of_defaults_is_enough(service):
    assert service.ask(body={})[:2] == service.ask(body={"count": 1, "seed": 0, "format": "png"})[:2]


BAD_BODIES = {
    "nothing": b"",
    "no JSON": b"count=3",
    "half of it": b'{"count": 3',
    "no UTF-8": b'{"count": 3, "format": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 1000,
    "zero": b'{"count": 0}',
    "negative": b'{"count": -1}',
    "too many": b'{"count": 65}',
    "huge": b'{"count": 1000000000000000000000000}',
    "more digits than Python reads": b'{"count": 1' + b"0" * 4000 + b"}",
    "a fraction": b'{"count": 1.5}',
    "a float": b'{"count": 3.0}',
    "a text": b'{"count": "3"}',
    "yes": b'{"count": true}',
    "a list of counts": b'{"count": [3]}',
    "null count": b'{"count": null}',
    "NaN count": b'{"count": NaN}',
    "infinite count": b'{"count": Infinity}',
    "negative seed": b'{"seed": -1}',
    "huge seed": b'{"seed": 9007199254740992}',
    "NaN seed": b'{"seed": NaN}',
    "no truncation": b'{"truncation": 0}',
    "NaN truncation": b'{"truncation": NaN}',
    "infinite truncation": b'{"truncation": -Infinity}',
    "beyond floats": b'{"truncation": 1e400}',
    "text for truncation": b'{"truncation": "1"}',
    "unknown class": b'{"class": 10}',
    "negative class": b'{"class": -1}',
    "a name for a class": b'{"class": "7"}',
    "five directions": b'{"shift": [0, 0, 0, 0, 0]}',
    "NaN in shift": b'{"shift": [NaN]}',
    "far": b'{"shift": [1e9]}',
    "shift of texts": b'{"shift": ["1"]}',
    "shift is a number": b'{"shift": 1}',
    "other format": b'{"format": "gif"}',
    "other word": b'{"cuont": 3}',
    "label for class": b'{"label": 3}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_what_does_not_fit_is_refused_by_422_and_a_reason(service, name):
    status, body, headers = service.ask(body=BAD_BODIES[name])
    assert (status, headers["content-type"]) == (422, "application/json")
    assert len(json.loads(body)["detail"]) > 10


def test_other_ways_and_places_are_refused(service):
    assert service.ask("/generate")[0] == 405
    assert service.ask("/healthz", body={})[0] == 405
    assert service.ask("/nowhere")[0] == 404
    assert service.ask("/static/../../etc/passwd")[0] == 404
    for n in range(20):
        service.ask(f"/nowhere/{n}")
    assert service.ask("/metrics")[1].count(b'gan_requests_total{path="other"') == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_by_413(service, chunked):
    body = b'{"seed": ' + b"1" * 10_000_000 + b"}"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for content, status in ((body, 413), (b"{}", 200)):  # the connection is as good as before
            parts = (content[i : i + 65536] for i in range(0, len(content), 65536))
            connection.request("POST", "/generate", parts if chunked else content, encode_chunked=chunked)
            answer = connection.getresponse()
            assert answer.status == status
            assert answer.read()


def test_a_body_of_just_the_limit_is_read(service):
    assert service.ask(body=b"{}".ljust(4096))[0] == 200
    assert service.ask(body=b"{}".ljust(4097))[0] == 413


def test_fewer_may_be_asked_for_where_the_limits_say_so(strict):
    assert strict.ask(body={"count": 4})[0] == 200
    assert strict.ask(body={"count": 5})[0] == 422
    assert strict.ask(body=b"{}".ljust(201))[0] == 413


def test_a_body_that_never_comes_is_refused_by_408(strict):
    with strict.connect() as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"has not come within 0.5 s" in answer


def test_clients_that_go_away_leave_the_service_as_it_was(service):
    before = service.metric("gan_requests_total")
    for cut in (
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{",
        b"POST /gen",
        b"\x16\x03\x01",
        b"",
    ):
        with service.connect() as connection:
            connection.sendall(cut)
    with service.connect() as connection:
        connection.sendall(b'POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{"count": 64}')
    status, _, _ = service.ask(body={"count": 2})
    assert status == 200
    assert service.metric("gan_requests_total") > before


def test_the_same_seed_is_the_same_picture_alone_and_in_a_crowd(service):
    wanted = [{"count": 1 + i % 7, "seed": i % 12, "format": "png"} for i in range(96)]
    alone = [service.ask(body=body)[1] for body in wanted[:84]]
    calls, batches = service.metric("gan_batched_requests_total"), service.metric("gan_batch_pictures_count")
    with ThreadPoolExecutor(32) as crowd:
        answers = list(crowd.map(lambda body: service.ask(body=body), wanted * 2))
    assert {status for status, *_ in answers} == {200}
    for i, (_, body, _) in enumerate(answers):
        assert body == alone[i % 96 % 84]
    calls = service.metric("gan_batched_requests_total") - calls
    assert calls == len(answers)
    assert service.metric("gan_batch_pictures_count") - batches < calls, "no two requests shared a batch"


@dataclass
class Tally:
    """What happened to the requests of some clients."""

    answers: Counter = field(default_factory=Counter)
    unanswered: int = 0
    cut: int = 0

    def client(self, port: int, seed: int) -> None:
        """Ask again and again on one connection, and on another when told to leave, until there is none."""
        body = json.dumps({"count": 8, "seed": seed}).encode()
        request = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                    stream, leave = connection.makefile("rb"), False
                    while not leave:
                        connection.sendall(request)
                        first = stream.readline()
                        if not first:
                            self.unanswered += 1
                            return
                        headers = http.client.parse_headers(stream)
                        size = int(headers["content-length"])
                        whole = len(stream.read(size)) == size
                        self.answers[int(first.split()[1])] += whole
                        self.cut += not whole
                        leave = headers["connection"] == "close"
            except OSError:
                return


def test_a_stop_under_load_loses_no_request_that_was_taken_in(model):
    with started(model, "--drain", 0.5) as running:
        tally = Tally()
        clients = [threading.Thread(target=tally.client, args=(running.port, seed)) for seed in range(16)]
        for client in clients:
            client.start()
        others = 0
        while tally.answers[200] < 100:
            assert running.ask("/readyz")[0] == 200
            others += 1
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
        for client in clients:
            client.join(PATIENCE)
        last = running.process.stdout.read()
        err = running.process.stderr.read()
    answered, accepted = map(int, re.search(r"stopped: (\d+) of (\d+) requests answered", last).groups())
    assert answered == accepted
    assert tally.cut == 0
    assert set(tally.answers) == {200}
    assert tally.answers[200] == accepted - others
    assert not err


def test_while_it_stops_it_is_alive_and_not_ready(model):
    with started(model, "--drain", 5) as running:
        running.process.send_signal(signal.SIGTERM)
        status, body, headers = running.ask("/readyz")
        while status == 200:  # the signal is on its way
            status, body, headers = running.ask("/readyz")
        assert (status, json.loads(body)["detail"], headers["connection"]) == (503, "stopping", "close")
        assert running.ask("/healthz")[0] == 200
        assert running.ask(body={"count": 1})[0] == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(4) == 0


# In this process, where a test decides how long a picture takes


class Slow(drawing.OnnxGenerator):
    """A generator that draws when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = threading.Event()
        self.draw = self._draw_later

    def _draw_later(self, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        assert self.go.wait(PATIENCE)
        return drawing.OnnxGenerator.draw(self, z, labels)


@contextlib.asynccontextmanager
async def inside(generator: drawing.OnnxGenerator, **limits: float) -> AsyncIterator[tuple[httpx.AsyncClient, Traffic]]:
    traffic, chosen = Traffic(), Limits(**limits)
    service = serve.Service(generator, chosen, traffic)
    app = serve.application(service)
    door = Door(app, chosen, traffic, service.registry)
    async with (
        service.lifespan(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://service") as client,
    ):
        yield client, traffic


def test_a_full_queue_is_answered_by_503_and_is_not_ready(model):
    async def play() -> None:
        generator = Slow(model)
        async with inside(generator, queue=3) as (client, _):
            first = asyncio.create_task(client.post("/generate", json={"seed": 0}))
            await asyncio.sleep(0.2)  # in the thread, and so no more in the queue
            waiting = [asyncio.create_task(client.post("/generate", json={"seed": seed})) for seed in (1, 2, 3)]
            await asyncio.sleep(0.2)
            assert "gan_waiting_requests 3.0" in (await client.get("/metrics")).text
            refused = await client.post("/generate", json={"seed": 4})
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["detail"] == "3 requests wait already; try again"
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
            generator.go.set()
            assert [(await answer).status_code for answer in (first, *waiting)] == [200] * 4
            assert (await client.get("/readyz")).status_code == 200
            text = (await client.get("/metrics")).text
            assert "gan_batch_pictures_count 2.0" in text, "the three that waited were one batch"
            assert 'gan_requests_total{path="/generate",status="503"} 1.0' in text

    finish(play())


def test_what_takes_too_long_is_answered_by_503_and_not_drawn(model):
    async def play() -> None:
        generator = Slow(model)
        async with inside(generator, seconds=0.2) as (client, traffic):
            first = asyncio.create_task(client.post("/generate", json={}))
            await asyncio.sleep(0.05)
            second = await client.post("/generate", json={"count": 5})
            assert (second.status_code, second.json()["detail"]) == (503, "not drawn within 0.2 s; try again")
            assert (await first).status_code == 503
            generator.go.set()
            assert (await client.post("/generate", json={})).status_code == 200
            text = (await client.get("/metrics")).text
            assert "gan_batched_requests_total 2.0" in text, "the second was given up before its turn"
            assert traffic.accepted == 4

    finish(play())


def test_the_door_reads_no_more_and_waits_no_longer_than_it_may(model):
    async def slowly(parts: int, pause: float) -> AsyncIterator[bytes]:
        for _ in range(parts):
            await asyncio.sleep(pause)
            yield b" " * 60

    async def play() -> None:
        async with inside(drawing.OnnxGenerator(model), body=100, seconds=0.2) as (client, traffic):
            large = await client.post("/generate", content=slowly(1000, 0))
            assert (large.status_code, large.json()["detail"]) == (413, "the body may have 100 bytes")
            late = await client.post("/generate", content=slowly(2, 1))
            assert (late.status_code, late.headers["connection"]) == (408, "close")
            traffic.stopping = True
            for path in ("/", "/docs", "/model", "/healthz"):
                answer = await client.get(path)
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert (await client.get("/readyz")).json()["detail"] == "stopping"
            assert traffic.accepted == traffic.answered == 7

    finish(play())


def test_a_generator_without_classes_and_one_of_points(tmp_path):
    async def play(generator: drawing.OnnxGenerator) -> None:
        async with inside(generator) as (client, _):
            assert (await client.post("/generate", json={"class": 0})).status_code == 422
            answer = await client.post("/generate", json={"count": 3})
            assert answer.json()["shape"] == [3, 2]
            png = await client.post("/generate", json={"format": "png"})
            assert png.status_code == 422
            assert "this generator draws points" in png.json()["detail"]

    config = networks.NetworkConfig(kind="mlp", shape=(2,), latent_dim=2, hidden=(8,))
    export.to_onnx(config.build()[0], tmp_path / "points.onnx", {"network": config.as_dict()})
    finish(play(drawing.OnnxGenerator(tmp_path / "points.onnx")))


def test_a_fault_in_one_batch_is_told_and_the_next_has_its_chance():
    def draw(z: np.ndarray, _: None) -> np.ndarray:
        if np.isnan(z).any():
            raise ArithmeticError("NaN")
        return z * 2

    async def play() -> None:
        batcher = Batcher(draw)
        task = asyncio.create_task(batcher.run())
        with pytest.raises(ArithmeticError):
            await batcher(np.full((1, 2), np.nan), None)
        assert (await batcher(np.ones((1, 2)), None)).tolist() == [[2, 2]]
        task.cancel()

    finish(play())


def test_batches_keep_their_size_and_their_order():
    sizes = []

    def draw(z: np.ndarray) -> np.ndarray:
        sizes.append(len(z))
        return z

    async def play() -> None:
        batcher = Batcher(draw, most=8, queue=50)
        calls = [asyncio.create_task(batcher(np.full((1 + i % 3, 1), i))) for i in range(20)]
        large = asyncio.create_task(batcher(np.full((30, 1), -1)))
        await asyncio.sleep(0)
        task = asyncio.create_task(batcher.run())
        for i, call in enumerate(calls):
            assert (await call).tolist() == [[i]] * (1 + i % 3)
        assert len(await large) == 30
        task.cancel()

    finish(play())
    assert sum(sizes) == sum(1 + i % 3 for i in range(20)) + 30
    assert sizes[-1] == 30
    assert max(sizes[:-1]) <= 8
    assert len(sizes) < 10


def test_a_queue_has_an_end():
    async def play() -> None:
        batcher = Batcher(lambda z: z, queue=2)
        waiting = [asyncio.create_task(batcher(np.zeros((1, 1)))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="2 requests wait already"):
            await batcher(np.zeros((1, 1)))
        for task in waiting:
            task.cancel()

    finish(play())
    for sizes in ({"most": 0}, {"queue": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            batching.Batcher(lambda z: z, **sizes)


# The command line


BAD_COMMANDS = {
    "no model": ([], "model"),
    "nothing there": (["nowhere.onnx"], "there is no model at nowhere.onnx"),
    "no such option": (["{model}", "--fast"], "unrecognized arguments: --fast"),
    "no number": (["{model}", "--port", "many"], "invalid int value: 'many'"),
    "no port": (["{model}", "--port", "70000"], "--port must be a port"),
    "no threads": (["{model}", "--threads", "0"], "threads must be an integer from 1"),
    "no pictures": (["{model}", "--count", "0"], "count must be a finite number above 0, but is 0"),
    "no queue": (["{model}", "--queue", "-1"], "queue must be"),
    "for ever": (["{model}", "--seconds", "inf"], "seconds must be a finite number"),
    "NaN seconds": (["{model}", "--seconds", "nan"], "seconds must be a finite number"),
    "never": (["{model}", "--drain", "nan"], "--drain"),
    "no address": (["{model}", "--host", "256.0.0.1"], "256.0.0.1"),
    "a port that is taken": (["{model}", "--port", "{taken}"], "in use"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_ends_in_one_line_and_a_status(name, model, capsys):
    arguments, message = BAD_COMMANDS[name]
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        serve.main([argument.format(model=model, taken=taken.getsockname()[1]) for argument in arguments])
    assert end.value.code in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("arguments", [["nowhere.onnx"], ["--help"]])
def test_the_package_hands_over_to_the_service(arguments):
    command = [sys.executable, "-m", "gan_tutorial", "serve", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if arguments == ["--help"]:
        assert ended.returncode == 0
        assert "usage: python -m gan_tutorial.serve" in ended.stdout
    else:
        assert ended.returncode == 1
        assert ended.stderr == "error: there is no model at nowhere.onnx; write one with gan_tutorial export\n"


# The page


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def page(request, browser, service) -> Iterator[Visit]:
    context = browser.new_context(viewport=request.param, has_touch=request.param == NARROW)
    seen = visit(context, f"http://127.0.0.1:{service.port}/", "page")
    seen.page.get_by_text("Drawn: seed 0").wait_for()
    yield seen
    context.close()


def test_the_page_draws_and_is_described(page):
    assert_fits(page)
    assert violations(page.page, "light") == []
    picture = page.page.locator("#picture")
    assert picture.get_attribute("alt") == "20 generated pictures in a grid, of all classes in turn, seed 0"
    assert picture.evaluate("image => image.naturalWidth") == 5 * 30 - 2
    for field_ in page.page.locator("input, select").all():
        assert field_.evaluate("element => element.labels.length === 1 && element.offsetHeight >= 40")


def test_the_page_is_used_by_keyboard(page):
    pixels = "image => image.decode().then(() => image.src)"
    picture, status = page.page.locator("#picture"), page.page.get_by_role("status")
    before = picture.evaluate(pixels)
    for name, keys, expected in (
        ("Direction 2", ["ArrowRight"] * 4, "directions 0, 1, 0, 0"),
        ("Direction 2", ["Home"], "directions 0, -3, 0, 0"),
        ("Seed", ["Backspace", "7"], "seed 7"),
    ):
        page.page.get_by_label(name).focus()
        for key in keys:
            page.page.keyboard.press(key)
        status.filter(has_text=expected).wait_for()
    page.page.get_by_label("Class").select_option("3")
    page.page.get_by_alt_text("all of class 3, seed 7").wait_for()
    assert picture.evaluate(pixels) != before
    page.page.get_by_role("button", name="Back to the start").press("Enter")
    status.filter(has_text="seed 0, directions 0, 0, 0, 0").wait_for()
    assert_fits(page)


def test_the_page_says_what_went_wrong(page):
    page.page.get_by_label("Seed").fill("-1")
    page.page.get_by_role("status").filter(has_text="Not drawn: seed").wait_for()
    page.page.get_by_label("Seed").fill("12")
    page.page.get_by_role("status").filter(has_text="Drawn: seed 12").wait_for()


def test_the_description_of_the_interface_needs_no_other_machine(browser, service):
    context = browser.new_context(viewport=WIDE)
    seen = visit(context, f"http://127.0.0.1:{service.port}/docs", "docs")
    seen.page.locator("#operations-default-generate_generate_post").click()
    seen.page.locator(".body-param__example", has_text='"truncation"').wait_for()
    assert (seen.foreign, seen.messages) == ([], [])
    context.close()


# Container and cluster


def deployed() -> dict[str, str]:
    """Return the versions in deploy/requirements.txt."""
    lines = (ROOT / "deploy" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_container_has_the_versions_of_the_book_and_all_that_they_need():
    here, there = deployed(), pins()
    assert {name: version for name, version in here.items() if there.get(name) != version} == {}
    for name in here:
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in here, f"{name} needs {text}"
    assert "torch" not in here


def test_the_container_has_every_module_that_the_service_loads():
    program = "import sys, gan_tutorial.serve; print(*(n for n in sys.modules if n.startswith('gan_tutorial')))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    container = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    copied = set(re.findall(r"gan_tutorial/(\w+)\.py", container))
    assert copied == {name.removeprefix("gan_tutorial").removeprefix(".") or "__init__" for name in loaded}
    assert "gan_tutorial/page.html" in container
    for path in re.findall(r"(?:deploy|gan_tutorial)/[\w.]+", container):
        assert (ROOT / path).is_file(), path


def test_the_container_is_small_and_not_root():
    container = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    assert re.search(r"^FROM python:[\d.]+-slim$", container, flags=re.MULTILINE)
    user = re.search(r"^USER (\d+)$", container, flags=re.MULTILINE)
    assert int(user[1]) > 0
    assert container.index("USER") < container.index("ENTRYPOINT")
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", container, flags=re.MULTILINE)[1])
    assert entry[:3] == ["python", "-m", "gan_tutorial.serve"]


@pytest.fixture
def manifests() -> dict[str, dict]:
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_manifests_are_what_kubernetes_knows(manifests, version):
    assert set(manifests) == {"Deployment", "Service", "HorizontalPodAutoscaler"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_manifest_would_be_found(manifests):
    manifests["HorizontalPodAutoscaler"]["spec"]["minReplica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests["HorizontalPodAutoscaler"], "1.31", strict=True)


def test_manifests_fit_each_other_and_the_service(manifests):
    deployment, service = manifests["Deployment"]["spec"], manifests["Service"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "pictures"
    (port,) = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    file = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    assert f'"--port", "{port["containerPort"]}"' in file
    assert f"USER {pod['securityContext']['runAsUser']}" in file
    probed = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert probed == {"/readyz", "/healthz"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert {"cpu", "memory"} == set(container["resources"]["limits"])
    drain = float(container["args"][container["args"].index("--drain") + 1])
    readiness = container["readinessProbe"]
    assert drain > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > drain + 30
