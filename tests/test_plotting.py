"""Grids of images, figures in the house style, and players that need no kernel."""

import base64
import io
import itertools
import json
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from gan_tutorial import data, plotting


@pytest.fixture(autouse=True)
def nothing_stays_open():
    """Every figure is detached from pyplot, or a notebook would show it twice."""
    yield
    assert plt.get_fignums() == []


def picture(figure: Figure) -> np.ndarray:
    """Return a figure's pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


# Tiles


def test_tile_places_images_row_by_row():
    values = torch.arange(0, 50, 10, dtype=torch.uint8).reshape(5, 1, 1, 1)
    images = data.to_unit_range(values.expand(5, 1, 4, 6))
    canvas = plotting.tile(images, columns=3)
    assert canvas.dtype == np.uint8
    assert canvas.shape == (2 * 4 + 2, 3 * 6 + 4, 3), "two pixels of padding"
    for index in range(5):
        top, left = 6 * (index // 3), 8 * (index % 3)
        assert (canvas[top : top + 4, left : left + 6] == 10 * index).all()
    assert (canvas[4:6] == 128).all(), "padding is mid-grey"
    assert (canvas[:, 6:8] == 128).all()
    assert (canvas[6:, 14:] == 128).all(), "empty cells too"


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_tile_makes_the_smallest_square_by_default(count, columns):
    rows = -(-count // columns)
    canvas = plotting.tile(torch.zeros(count, 1, 3, 3))
    assert canvas.shape == (5 * rows - 2, 5 * columns - 2, 3)


def test_tile_keeps_colour(pictures):
    colours = torch.stack([torch.ones(2, 2), torch.zeros(2, 2), -torch.ones(2, 2)]).unsqueeze(0)
    assert plotting.tile(colours)[0, 0].tolist() == [255, 128, 0]
    grey = plotting.tile(pictures.images)
    assert (grey == grey[..., :1]).all()


def test_a_grid_of_images_is_a_figure(pictures):
    (axes,) = plotting.image_grid(pictures.images[:6], columns=3).axes
    assert axes.images[0].get_array().shape == plotting.tile(pictures.images[:6], 3).shape


def test_a_saved_grid_reads_back(pictures, tmp_path):
    plotting.save_grid(pictures.images[:6], tmp_path / "new" / "grid.png", columns=2)
    with Image.open(tmp_path / "new" / "grid.png") as saved:
        assert (np.asarray(saved) == plotting.tile(pictures.images[:6], 2)).all()
    plotting.save_grid(pictures.images[:6], str(tmp_path / "grid.jpg"))
    with Image.open(tmp_path / "grid.jpg") as saved:
        assert saved.format == "JPEG"


def test_a_grid_that_cannot_be_saved_leaves_no_file(pictures, tmp_path, monkeypatch):
    def fail(self, file):
        file.write_bytes(b"half a pi")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        plotting.save_grid(pictures.images, tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []


# Figures


def test_curves_have_a_legend_labels_and_an_axis():
    figure = plotting.curves(
        {"G": [3, 2, 1], "D": [1, 2, 3]}, x=[10, 20, 30], xlabel="step", ylabel="loss"
    )
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["G", "D"]
    assert axes.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert axes.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert [text.get_text() for text in axes.get_legend().texts] == ["G", "D"]


def test_rows_of_images_are_labelled(pictures):
    images = pictures.images
    figure = plotting.image_rows(
        {"real": images[:4], "generated": images[4:8]}, columns="abcd", title="both"
    )
    (axes,) = figure.axes
    shown = axes.images[0].get_array()
    assert (shown == plotting.tile(images[:8], columns=4)).all()
    rows = dict(zip(axes.get_yticks(), (t.get_text() for t in axes.get_yticklabels()), strict=True))
    assert rows == {4.0: "real", 14.0: "generated"}, "at the middle of each row of 8 pixels"
    columns = [t.get_text() for t in axes.get_xticklabels()]
    assert (columns, axes.get_xticks().tolist()) == (list("abcd"), [4.0, 14.0, 24.0, 34.0])
    assert axes.get_title() == "both"


def test_the_house_style_is_readable_on_a_dark_page():
    figure, axes = plotting.subplots()
    axes.plot([0, 1])
    assert axes.lines[0].get_color() == plotting.BLUE
    pixels = picture(figure)
    assert (pixels[0] == 255).all()
    assert pixels.shape == (396, 704, 3), "a fixed size: 6.4 × 3.6 inches at 110 dots"


def test_the_house_style_becomes_the_default_on_request_only():
    with plt.rc_context():
        plt.rcdefaults()
        plotting.subplots()
        assert mpl.rcParams["axes.grid"] is False
        plotting.use_house_style()
        assert mpl.rcParams["axes.grid"] is True
        style = {key: value for key, value in plotting.STYLE.items() if key != "figure.figsize"}
        assert all(mpl.rcParams[key] == value for key, value in style.items())


# Players


class Elements(HTMLParser):
    """The elements of a page as (tag, attributes), and the text inside each tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.text, self.inside = [], {}, None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, text: str) -> None:
        self.text[self.inside] = self.text.get(self.inside, "") + text

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def frames(count: int = 3) -> list[np.ndarray]:
    return [np.full((4, 5, 3), 80 * i, np.uint8) for i in range(count)]


def decode(uri: str) -> Image.Image:
    head, content = uri.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_player_contains_its_frames_and_shows_the_last():
    labels = ["step 0", "p(x|y) < 1", 'the "last"']
    page = Elements(plotting.Player(frames(), labels, alt="grey > black", width=50)._repr_html_())
    images = page.all("img")
    assert [image["alt"] for image in images] == [f"grey > black ({label})" for label in labels]
    assert ["display:block" in image["style"] for image in images] == [False, False, True]
    for index, image in enumerate(images):
        shown = decode(image["src"])
        assert shown.size == (50, 40), "enlarged by a whole factor"
        assert abs(np.asarray(shown.convert("RGB")).astype(int) - 80 * index).max() <= 3
    (slider,) = page.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "2")
    assert slider["aria-valuetext"] == labels[-1]
    assert json.loads(page.all("div")[0]["data-labels"]) == labels
    assert page.text["output"] == labels[-1]
    assert "document.getElementById('" + page.all("div")[0]["id"] in page.text["script"]


def test_a_player_loads_nothing():
    page = plotting.Player(frames(), ["a", "b", "c"], alt="grey")._repr_html_()
    assert "http" not in page
    assert all(image["src"].startswith("data:") for image in Elements(page).all("img"))


def test_players_on_one_page_have_different_ids():
    player = plotting.Player(frames(), ["a", "b", "c"], alt="grey")
    names = {Elements(player._repr_html_()).all("div")[0]["id"] for _ in range(3)}
    assert len(names) == 3


def test_a_player_works_below_an_older_one_of_its_id(browser, monkeypatch):
    """As after a kernel's restart, when the numbers begin anew."""
    pages = []
    for _ in range(2):
        monkeypatch.setattr(plotting, "_player_numbers", itertools.count())
        pages.append(plotting.Player(frames(), ["a", "b", "c"], alt="grey")._repr_html_())
    assert pages[0] == pages[1]
    page = browser.new_page()
    page.set_content("".join(pages))
    buttons = page.get_by_role("button")
    buttons.nth(1).click()
    assert buttons.all_inner_texts() == ["Play", "Pause"]
    page.close()


def test_a_player_scales_figures_down():
    figures = [plotting.curves({"a": [0, i]}, [0, 1]) for i in range(2)]
    player = plotting.Player(figures, ["0", "1"], alt="a line that rises", width=200, seconds=3)
    width = decode(player.pictures[0]).width
    assert width == pytest.approx(400, abs=2), "twice the width, for screens of high resolution"
    assert player._repr_html_().endswith(",1500)</script>"), "3 s for 2 frames"
    wide = plotting.Player(figures, ["0", "1"], alt="a line", width=4000)
    assert decode(wide.pictures[0]).width == 1024
