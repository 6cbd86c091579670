"""What the service answers, and its page in a browser."""

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import PATIENCE, in_process, run
from test_pages import NARROW, WIDE, Visit, assert_fits, violations, visit

from gan_tutorial import arrays, checkpoints, plotting, sampling
from gan_tutorial.recipes import Recipe
from gan_tutorial.ship import export
from gan_tutorial.ship.serving.model import OnnxGenerator


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/healthz", "/readyz", "/metrics", "/model", "/openapi.json"]
)
def test_answers_with_200(service, path):
    status, body, headers = service.ask(path)
    assert status == 200
    assert body
    assert headers["x-content-type-options"] == "nosniff"


def test_the_process_has_no_pytorch(service):
    maps = Path(f"/proc/{service.process.pid}/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what a process has loaded")
    assert "onnxruntime" in maps.read_text()
    assert "torch" not in maps.read_text()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


def test_a_png_holds_the_images_of_the_seed(service, digits_onnx):
    generator = OnnxGenerator(digits_onnx)
    options = {"count": 6, "seed": 3, "class": 7, "truncation": 1.5, "shift": [1, -2]}
    status, body, headers = service.ask(body=options)
    assert (status, headers["content-type"]) == (200, "image/png")
    first, second = np.array(generator.card.directions[:2], np.float32)
    z = arrays.latents(6, 64, 3, 1.5) + first - 2 * second
    images = generator(z, arrays.labels(6, 10, 7))
    found, expected = pixels(body), arrays.tile(arrays.to_bytes(images))[..., 0]
    assert found.shape == (2 * 30 - 2, 3 * 30 - 2)
    assert abs(found.astype(int) - expected).max() <= 1  # another order of the sum of the shifts


@pytest.mark.parametrize("options", [{}, {"label": 7}, {"truncation": 1.5}])
def test_a_seed_gives_the_same_picture_in_the_book_and_in_the_service(service, options):
    """As PyTorch's network and onnxruntime's differ in the last bits, a pixel may differ by 1."""
    G, _ = checkpoints.load_generator("digits")
    expected = plotting.tile(sampling.generate(G, 20, seed=11, **options))[..., 0]
    request = {{"label": "class"}.get(name, name): value for name, value in options.items()}
    status, body, _ = service.ask(body={"count": 20, "seed": 11} | request)
    assert status == 200
    difference = abs(pixels(body).astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_an_array_holds_the_values(service):
    status, body, _ = service.ask(body={"count": 3, "seed": 9, "format": "array"})
    answer = json.loads(body)
    assert (status, answer["shape"]) == (200, [3, 1, 28, 28])
    G, _ = checkpoints.load_generator("digits")
    expected = sampling.generate(G, 3, seed=9).numpy()
    np.testing.assert_allclose(np.array(answer["samples"]), expected, atol=2e-4)


def test_an_empty_object_has_defaults(service):
    explicit = {"count": 1, "seed": 0, "format": "png"}
    assert service.ask(body={})[:2] == service.ask(body=explicit)[:2]


NO_JSON = {
    "nothing": b"",
    "no JSON": b"count=3",
    "half of it": b'{"count": 3',
    "no UTF-8": b'{"count": 3, "format": "\xff"}',
    "deep": b"[" * 1000,
}
BAD_VALUES = {
    "a list": b"[]",
    "null": b"null",
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


@pytest.mark.parametrize("name", NO_JSON | BAD_VALUES)
def test_an_invalid_body_gets_400_or_422_and_a_reason(service, name):
    status, body, headers = service.ask(body=(NO_JSON | BAD_VALUES)[name])
    expected = 400 if name in NO_JSON else 422
    assert (status, headers["content-type"]) == (expected, "application/json")
    assert len(json.loads(body)["detail"]) > 10


def test_other_methods_and_paths_are_refused(service):
    assert service.ask("/generate")[0] == 405
    assert service.ask("/healthz", body={})[0] == 405
    assert service.ask("/nowhere")[0] == 404
    assert service.ask("/static/../../etc/passwd")[0] == 404
    for n in range(20):
        service.ask(f"/nowhere/{n}")
    assert service.ask("/metrics")[1].count(b'gan_requests_total{path="other"') == 1


def test_a_seed_gives_the_same_picture_alone_and_under_load(service):
    bodies = [{"count": 1 + i % 7, "seed": i % 12, "format": "png"} for i in range(96)]
    alone = [service.ask(body=body)[1] for body in bodies[:84]]
    calls = service.metric("gan_batched_requests_total")
    batches = service.metric("gan_batch_pictures_count")
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda body: service.ask(body=body), bodies * 2))
    assert {status for status, *_ in answers} == {200}
    for i, (_, body, _) in enumerate(answers):
        assert body == alone[i % 96 % 84]
    calls = service.metric("gan_batched_requests_total") - calls
    batches = service.metric("gan_batch_pictures_count") - batches
    assert calls == len(answers)
    assert batches < calls, "no two requests shared a batch"


class Paused(OnnxGenerator):
    """A generator that sets ``called`` and waits for ``go``."""

    def __init__(self, path: Path) -> None:
        self.called, self.go = threading.Event(), threading.Event()
        self.go.set()
        super().__init__(path)  # computes the probe
        self.called.clear()
        self.go.clear()

    def __call__(self, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        self.called.set()
        assert self.go.wait(PATIENCE)
        return super().__call__(z, labels)

    async def is_called(self) -> None:
        """Wait until a batch is in the generator, and so no longer in the queue."""
        assert await asyncio.to_thread(self.called.wait, PATIENCE)


def test_a_full_queue_answers_503_and_stays_ready(digits_onnx):
    async def play() -> None:
        generator = Paused(digits_onnx)
        async with in_process(generator, queue=3) as (client, _):
            first = asyncio.create_task(client.post("/generate", json={"seed": 0}))
            await generator.is_called()
            waiting = [
                asyncio.create_task(client.post("/generate", json={"seed": seed}))
                for seed in (1, 2, 3)
            ]
            async with asyncio.timeout(PATIENCE):
                while "gan_waiting_requests 3.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.01)
            refused = await client.post("/generate", json={"seed": 4})
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["detail"] == "3 requests are waiting; try again"
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/healthz")).status_code == 200
            generator.go.set()
            assert [(await answer).status_code for answer in (first, *waiting)] == [200] * 4
            text = (await client.get("/metrics")).text
            assert "gan_batch_pictures_count 2.0" in text, "the three that waited were one batch"
            assert 'gan_requests_total{path="/generate",status="503"} 1.0' in text

    run(play())


def test_a_request_that_takes_too_long_gets_503_and_is_not_computed(digits_onnx):
    async def play() -> None:
        generator = Paused(digits_onnx)
        async with in_process(generator, seconds=1) as (client, state):
            first = asyncio.create_task(client.post("/generate", json={}))
            await generator.is_called()
            second = await client.post("/generate", json={"count": 5})
            assert second.status_code == 503
            assert second.json()["detail"] == "not generated within 1 s; try again"
            assert (await first).status_code == 503
            generator.go.set()
            assert (await client.post("/generate", json={})).status_code == 200
            text = (await client.get("/metrics")).text
            assert "gan_batched_requests_total 2.0" in text, "the second was cancelled in the queue"
            assert state.accepted == 4

    run(play())


def test_a_generator_of_points_without_classes(tmp_path):
    async def play(generator: OnnxGenerator) -> None:
        async with in_process(generator) as (client, _):
            refused = await client.post("/generate", json={"class": 0})
            assert refused.status_code == 422
            assert refused.json()["detail"] == "class: this generator has no classes"
            answer = await client.post("/generate", json={"count": 3})
            assert answer.json()["shape"] == [3, 2]
            png = await client.post("/generate", json={"format": "png"})
            assert png.status_code == 422
            assert "this generator makes points" in png.json()["detail"]

    recipe = Recipe(network="mlp", shape=(2,), latent_dim=2, hidden=(8,))
    export.to_onnx(recipe.init().G, tmp_path / "points.onnx", {"recipe": asdict(recipe)})
    run(play(OnnxGenerator(tmp_path / "points.onnx")))


# The page


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def page(request, browser, service) -> Iterator[Visit]:
    context = browser.new_context(viewport=request.param, has_touch=request.param == NARROW)
    seen = visit(context, f"http://127.0.0.1:{service.port}/", "page")
    seen.page.get_by_text("Shown: seed 0").wait_for()
    yield seen
    context.close()


def test_the_page_shows_images_and_is_accessible(page):
    assert_fits(page)
    assert violations(page.page, "light") == []
    picture = page.page.locator("#picture")
    alt = "20 generated pictures in a grid, of all classes in turn, seed 0"
    assert picture.get_attribute("alt") == alt
    assert picture.evaluate("image => image.naturalWidth") == 5 * 30 - 2
    usable = "element => element.labels.length === 1 && element.offsetHeight >= 40"
    for element in page.page.locator("input, select").all():
        assert element.evaluate(usable)


def test_the_page_can_be_used_by_keyboard(page):
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
    page.page.get_by_role("button", name="Reset").press("Enter")
    status.filter(has_text="seed 0, directions 0, 0, 0, 0").wait_for()
    assert_fits(page)


def test_the_page_shows_errors(page):
    page.page.get_by_label("Seed").fill("-1")
    page.page.get_by_role("status").filter(has_text="Failed: seed").wait_for()
    page.page.get_by_label("Seed").fill("12")
    page.page.get_by_role("status").filter(has_text="Shown: seed 12").wait_for()


def test_the_documentation_loads_nothing_from_other_hosts(browser, service):
    context = browser.new_context(viewport=WIDE)
    seen = visit(context, f"http://127.0.0.1:{service.port}/docs", "docs")
    seen.page.locator("#operations-default-generate_generate_post").click()
    seen.page.locator(".body-param__example", has_text='"truncation"').wait_for()
    assert (seen.foreign, seen.messages) == ([], [])
    context.close()
