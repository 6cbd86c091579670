"""Sets of images: value ranges, batches, and every source they are loaded from."""

import gzip
import hashlib
import pickle
import shutil
import struct
import time
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gan_tutorial import data, pictures, runtime

ASSETS = Path(data.__file__).parent / "assets"


# Ranges


def test_all_256_values_survive_scaling_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    scaled = data.to_unit_range(pixels)
    assert scaled.dtype == torch.float32
    assert (scaled.min(), scaled.max()) == (-1, 1)
    assert torch.equal(data.to_bytes(scaled), pixels)
    assert torch.equal(data.to_unit_range(pixels.float()), scaled)


@given(st.integers(0, 2**32), st.sampled_from([1, 3]))
def test_to_bytes_rounds_to_the_nearest_value(seed, channels):
    images = torch.rand(2, channels, 5, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    back = data.to_unit_range(data.to_bytes(images))
    assert (back - images).abs().max() <= 1 / 255 + 1e-6


def test_to_bytes_tolerates_rounding_errors_only():
    assert data.to_bytes(torch.full((1, 1, 1, 1), 1 + 5e-5)).item() == 255
    with pytest.raises(data.DataError, match=r"not float32 .* to 1\.001"):
        data.to_bytes(torch.full((1, 1, 1, 1), 1.001))


def test_an_empty_tensor_keeps_its_shape_when_scaled():
    assert data.to_unit_range(torch.empty(0, 1, 2, 2)).shape == (0, 1, 2, 2)


def test_require_images_accepts_gradients_and_half_precision():
    images = torch.zeros(1, 1, 2, 2, requires_grad=True)
    data.require_images(images, (1, 2, 2))
    data.require_images(images.half())
    assert images.requires_grad


# Sets of images


def test_an_image_set_has_a_size_a_shape_and_scaled_images(pictures):
    assert len(pictures) == 40
    assert pictures.shape == (1, 8, 8)
    assert pictures.images.shape == (40, 1, 8, 8)
    assert torch.equal(pictures.images, data.to_unit_range(pictures.pixels))


def test_held_out_images_are_a_fifth_that_the_rest_does_not_have():
    pixels = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(-1, 1, 4, 4)
    images = data.ImageSet(pixels, torch.arange(100) // 10, data.DIGITS, "numbered")
    rest, held = images.hold_out()
    assert len(rest) == 80
    assert len(held) == 20
    both = torch.cat([rest.pixels, held.pixels])[:, 0, 0, 0]
    assert both.sort().values.tolist() == list(range(100))
    assert len(held.labels.unique()) > 5, "drawn from all classes, though the set is in their order"
    assert torch.equal(held.labels, held.pixels[:, 0, 0, 0].long() // 10)
    assert torch.equal(images.hold_out()[1].pixels, held.pixels), "always the same"


@pytest.mark.parametrize("indices", [slice(3, 7), torch.tensor([3, 4, 5, 6])])
def test_a_subset_keeps_images_and_labels_together(pictures, indices):
    part = pictures.subset(indices)
    assert part.pixels[:, 0, 0, 0].tolist() == [3, 4, 5, 6]
    assert part.labels.tolist() == [3, 0, 1, 2]
    assert part.classes == pictures.classes


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 200))
def test_drawn_labels_are_those_of_the_images_none_twice_before_all(labels, count):
    pixels = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    images = data.ImageSet(pixels, torch.tensor(labels), ("a", "b", "c"))
    drawn = images.draw_labels(count, seed=count)
    assert (drawn.dtype, drawn.shape) == (torch.int64, (count,))
    assert torch.equal(drawn, images.draw_labels(count, seed=count))
    rounds = drawn.split(len(labels))
    assert all(part.sort().values.tolist() == sorted(labels) for part in rounds[:-1])
    for label in range(3):
        assert (rounds[-1] == label).sum() <= labels.count(label)


def test_labels_are_drawn_as_the_images_of_a_floor_are(held_out_digits):
    count, reals = 500, []
    for seed in range(20):
        order = torch.randperm(len(held_out_digits), generator=torch.Generator().manual_seed(seed))
        reals.append(held_out_digits.labels[order[:count]])
    drawn = [held_out_digits.draw_labels(count, seed) for seed in range(20)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, reals, strict=True))


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 9))
def test_a_batch_is_a_pure_function_of_seed_and_step(pictures, seed, step, count):
    images, labels = pictures.batch(count, runtime.step_rng(seed, step))
    again, labels_again = pictures.batch(count, runtime.step_rng(seed, step))
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)


def test_a_batch_consists_of_images_of_the_set_with_their_labels(pictures, device):
    images, labels = pictures.to(device).batch(400, runtime.step_rng(0, 0, device))
    assert images.device.type == labels.device.type == device.type
    assert images.shape == (400, 1, 8, 8)
    pixels = data.to_bytes(images.cpu())  # as a GPU's division differs in the last bit
    indices = pixels[:, 0, 0, 0].long()
    assert torch.equal(pixels, pictures.pixels[indices])
    torch.testing.assert_close(images.cpu(), pictures.images[indices], rtol=0, atol=1e-6)
    assert torch.equal(labels.cpu(), pictures.labels[indices])
    assert indices.unique().numel() == 40, "every image is drawn, some of them often"


def test_a_set_on_a_device_is_the_same_set(pictures, device):
    moved = pictures.to(device)
    assert moved.pixels.device.type == device.type
    assert torch.equal(moved.pixels.cpu(), pictures.pixels)
    assert moved.name == pictures.name


# Stacked digits


def test_a_stack_is_three_digits_in_three_channels_and_its_mode_names_them(held_out_digits, device):
    stacks = data.StackedDigits(held_out_digits).to(device)
    images, modes = stacks.batch(50, runtime.step_rng(3, 4, device))
    assert images.shape == (50, *stacks.shape) == (50, 3, 28, 28)
    assert images.device.type == modes.device.type == device.type
    place = {image.numpy().tobytes(): i for i, image in enumerate(held_out_digits.pixels)}
    for stack, mode in zip(data.to_bytes(images).cpu(), modes.tolist(), strict=True):
        found = [place[channel.numpy().tobytes()] for channel in stack.unsqueeze(1)]
        digits = [held_out_digits.labels[i].item() for i in found]
        assert digits == [int(digit) for digit in f"{mode:03}"]


def test_the_digits_of_a_stack_are_drawn_independently():
    pixels = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1)  # each names itself
    stacks = data.StackedDigits(data.ImageSet(pixels, torch.arange(100) // 10, data.DIGITS))
    images, _ = stacks.batch(20_000, runtime.step_rng(0, 0))
    indices = data.to_bytes(images)[:, :, 0, 0].double()  # (20000, 3)
    assert (torch.corrcoef(indices.T) - torch.eye(3)).abs().max() < 0.03  # four deviations
    assert (indices.mean(0) - 49.5).abs().max() < 1


def test_a_batch_of_stacks_is_a_pure_function_of_seed_and_step(held_out_digits):
    stacks = data.StackedDigits(held_out_digits)
    first, again, other = (stacks.batch(8, runtime.step_rng(1, step)) for step in (2, 2, 3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_the_shares_of_the_modes_are_those_of_many_stacks(held_out_digits):
    stacks = data.StackedDigits(held_out_digits)
    assert stacks.shares.sum().item() == pytest.approx(1)
    chosen = torch.randint(len(held_out_digits), (200_000, 3), generator=runtime.step_rng(0, 1))
    modes = held_out_digits.labels[chosen] @ torch.tensor([100, 10, 1])
    counts, expected = modes.bincount(minlength=1000), 200_000 * stacks.shares
    chi_squared = ((counts - expected).square() / expected).sum()
    assert abs(chi_squared - 999) < 5 * (2 * 999) ** 0.5


# The bundled sets


@pytest.mark.parametrize(("name", "sizes"), [("digits", (8000, 2000)), ("fashion", (10_000, 2000))])
def test_the_bundled_sets_are_complete(name, sizes):
    train, test = data.load_images(name), data.load_images(name, "test")
    assert (len(train), len(test)) == sizes
    for images in (train, test):
        assert images.shape == (1, 28, 28)
        assert images.name == name
        counts = images.labels.bincount()
        assert len(counts) == len(images.classes) == 10
        assert counts.min() > 0.8 * counts.float().mean(), "the classes are nearly balanced"
        assert images.pixels.min() == 0
        assert images.pixels.max() == 255
    seen = {image.numpy().tobytes() for image in train.pixels}
    shared = sum(image.numpy().tobytes() in seen for image in test.pixels)
    assert shared <= 2, f"{shared} held-out images are training images too"


def test_bundled_images_are_resized_and_converted_to_colour(held_out_digits):
    images = data.load_images("digits", "test", size=32, channels=3)
    assert images.shape == (3, 32, 32)
    assert torch.equal(images.labels, held_out_digits.labels)
    assert torch.equal(images.pixels[:, 0], images.pixels[:, 2])
    assert abs(images.images.mean() - held_out_digits.images.mean()) < 0.01


@pytest.mark.parametrize("size", [None, 20])
def test_flowers_are_drawn_at_any_size_with_their_number_of_petals_as_class(size):
    train, test = (data.load_images("flowers", split, size=size) for split in data.SPLITS)
    assert (len(train), len(test)) == (8000, 2000)
    assert train.shape == test.shape == (3, size or 32, size or 32)
    assert train.classes == tuple(f"{petals} petals" for petals in range(3, 9))
    assert len(train.labels.unique()) == 6
    seen = {image.numpy().tobytes() for image in train.pixels}
    assert len(seen) == 8000
    assert not any(image.numpy().tobytes() in seen for image in test.pixels)


def test_the_factors_of_flowers_come_with_them():
    images, flowers = data.make_flowers(30, side=24, seed=5)
    assert torch.equal(images.pixels, flowers.draw(24))
    assert torch.equal(images.labels, flowers.petals - 3)
    grey = data.load_images("flowers", "test", size=16, channels=1)
    assert grey.shape == (1, 16, 16)


@pytest.fixture
def copied_assets(tmp_path, monkeypatch) -> Path:
    """A copy of the bundled files that a test may damage."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in ("SHA256SUMS", "digits-test.npz"):
        shutil.copy(ASSETS / name, folder)
    monkeypatch.setattr(data.resources, "files", lambda package: tmp_path)
    return folder


def test_a_bundled_file_is_checked_against_its_checksum(copied_assets):
    assert data.asset("digits-test.npz") == copied_assets / "digits-test.npz"
    content = bytearray((copied_assets / "digits-test.npz").read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    (copied_assets / "digits-test.npz").write_bytes(content)
    with pytest.raises(
        data.DataError, match=r"digits-test\.npz is damaged .*install the package again"
    ):
        data.load_images("digits", "test")


def test_a_missing_bundled_file_is_named(copied_assets):
    with pytest.raises(
        data.DataError, match=r"digits-train\.npz is missing from .*install the package again"
    ):
        data.load_images("digits")
    with pytest.raises(
        data.DataError, match=r"no bundled file is called 'cats'; there are .*digits-test\.npz"
    ):
        data.asset("cats")


def test_every_bundled_file_matches_its_checksum():
    names = {path.name for path in ASSETS.iterdir()} - {"SHA256SUMS", "__pycache__", "__init__.py"}
    listed = {line.split()[1] for line in (ASSETS / "SHA256SUMS").read_text().splitlines()}
    assert {name for name in names if name.endswith((".npz", ".safetensors"))} <= listed
    for name in listed:
        assert data.asset(name).name == name


# Folders


def paint(
    path: Path, colour: tuple[int, ...], size: tuple[int, int] = (12, 10), mode: str = "RGB"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


@pytest.fixture
def zoo(tmp_path) -> Path:
    """Ten red cats in two subfolders and five blue dogs; also files and folders to be ignored."""
    for i in range(10):
        paint(tmp_path / "zoo" / "cats" / ("big" if i % 2 else "small") / f"{i}.png", (200, 0, 0))
    for i in range(5):
        paint(tmp_path / "zoo" / "dogs" / f"{i}.JPEG", (0, 0, 200), size=(9, 30))
    (tmp_path / "zoo" / "empty").mkdir()
    (tmp_path / "zoo" / "notes.txt").write_text("about the animals")
    (tmp_path / "zoo" / "cats" / "._0.png").write_bytes(b"what an archive of another system leaves")
    paint(tmp_path / "zoo" / ".hidden" / "0.png", (0, 200, 0))
    return tmp_path / "zoo"


def test_subfolders_are_classes(zoo):
    images = data.load_images(zoo)
    assert images.classes == ("cats", "dogs")
    assert images.labels.tolist() == [0] * 8 + [1] * 4
    assert images.shape == (3, 32, 32)
    assert (images.pixels[0].amin((1, 2)).tolist()) == [200, 0, 0]
    assert images.pixels[-1, 2].float().mean() == pytest.approx(200, abs=3)  # JPEG


def test_every_fifth_image_of_a_class_is_held_out(tmp_path):
    for i in range(12):
        paint(tmp_path / f"{i:02}.png", (10 * i, 0, 0))
    train, test = data.load_images(str(tmp_path)), data.load_images(str(tmp_path), "test")
    values = [(images.pixels[:, 0, 0, 0] // 10).tolist() for images in (train, test)]
    assert values == [[0, 1, 2, 3, 5, 6, 7, 8, 10, 11], [4, 9]]
    assert train.classes == (tmp_path.name,)


def test_images_of_a_folder_are_converted_to_the_requested_shape(zoo):
    images = data.load_images(zoo, "test", size=20, channels=1)
    assert images.shape == (1, 20, 20)
    assert images.labels.tolist() == [0, 0, 1]
    assert images.pixels[0].unique().item() == pytest.approx(0.299 * 200, abs=1)


def test_long_images_are_cropped_to_a_central_square(tmp_path):
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 255
    Image.fromarray(picture).save(tmp_path / "0.png")
    assert data.load_images(tmp_path, size=10).pixels.unique().tolist() == [255]


@pytest.mark.parametrize(
    "ending", ["jfif", "jpe", "JPG", "gif", "webp", "avif", "tif", "jp2", "tga"]
)
def test_images_are_found_by_all_their_usual_endings(tmp_path, ending):
    if Image.registered_extensions().get(f".{ending.lower()}") not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    paint(tmp_path / f"0.{ending}", (200, 30, 30))
    assert data.load_images(tmp_path).pixels.float().mean((0, 2, 3)).tolist() == pytest.approx(
        [200, 30, 30], abs=3
    )


def test_images_are_read_as_viewers_show_them(tmp_path):
    """The details are in test_pictures.py; here, that turning comes before cropping to a square."""
    picture = np.zeros((10, 30), np.uint8)
    picture[:, :10] = 255  # after a turn to the right, the upper third
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "0.png", exif=exif)
    Image.new("LA", (10, 30), (0, 0)).save(tmp_path / "1.png")
    images = data.load_images(tmp_path, size=10, channels=1)
    assert images.pixels.unique(dim=0).flatten(1).tolist() == [[0] * 100, [255] * 100]


def test_an_empty_subfolder_is_not_a_class(tmp_path):
    paint(tmp_path / "0.png", (0, 0, 0))
    (tmp_path / "empty").mkdir()
    assert len(data.load_images(tmp_path)) == 1


def test_a_folder_without_images_is_refused_with_what_it_contains(tmp_path):
    for name in ("report.pdf", "a.heic", "b.heic"):
        (tmp_path / name).touch()
    with pytest.raises(data.DataError, match=r"has no image .*, but \.heic 2, \.pdf 1"):
        data.load_images(tmp_path)


def test_what_was_read_and_what_not_is_said_in_one_line(zoo, capsys):
    (zoo / "cats" / ".ipynb_checkpoints").mkdir()
    paint(zoo / "cats" / ".ipynb_checkpoints" / "0.png", (0, 200, 0))
    paint(zoo / "runs" / "a" / "samples-000010.png", (0, 200, 0))
    (zoo / "runs" / "a" / "checkpoint.safetensors").touch()
    Image.new("RGB", (9, 30)).save(
        zoo / "dogs" / "3.gif", save_all=True, append_images=[Image.new("RGB", (9, 30), "red")]
    )
    (zoo / "dogs" / "3.JPEG").unlink()
    (zoo / "dogs" / "phone.HEIC").touch()
    (zoo / "dogs" / "all").symlink_to(zoo)
    assert len(data.load_images(zoo, size=16)) == 12
    assert capsys.readouterr().out == (
        "zoo: 12 images, 16×16, colour; cats 8, dogs 4; files of 9×10 to 12×30 pixels; "
        "3 more are in the other split; of 1 with several pictures, only the first; skipped: "
        ".heic 1, .txt 1, empty subfolders 1, folders of runs 1, hidden 3, links to folders 1\n"
    )
    data.load_images(zoo, verbose=False)
    assert not any(capsys.readouterr())


def test_many_images_show_a_progress_bar(zoo, monkeypatch, capsys):
    read = pictures.read

    def slowly(content):
        time.sleep(0.15)  # 12 images: longer than the second after which it appears
        return read(content)

    monkeypatch.setattr(pictures, "read", slowly)
    data.load_images(zoo)
    assert "/12 [" in capsys.readouterr().err


def test_the_fingerprint_of_a_folder_is_that_of_its_images_not_of_its_place(zoo):
    before = data.load_images(zoo).fingerprint
    moved = zoo.rename(zoo.parent / "moved")
    assert data.load_images(moved, size=16, channels=1).fingerprint == before
    assert len(before) == 64
    (moved / "notes.txt").write_text("other words")
    paint(moved / "runs" / "samples.png", (0, 0, 0))
    (moved / "runs" / "checkpoint.safetensors").touch()
    assert data.load_images(moved).fingerprint == before
    seen = {before, data.load_images(moved, "test").fingerprint}
    assert len(seen) == 2
    for change in (
        lambda: paint(moved / "cats" / "big" / "1.png", (201, 0, 0)),
        lambda: paint(moved / "dogs" / "new.png", (0, 0, 0)),
        lambda: (moved / "cats").rename(moved / "tigers"),  # also moves dogs to the first place
        lambda: (moved / "tigers" / "small").rename(moved / "tigers" / "tiny"),
    ):
        change()
        seen.add(data.load_images(moved).fingerprint)
    assert len(seen) == 6


def test_the_fingerprint_of_a_named_set_depends_neither_on_size_nor_on_the_machine():
    train, test = (data.load_images("digits", split).fingerprint for split in data.SPLITS)
    assert data.load_images("digits", size=16, channels=3).fingerprint == train != test
    flowers = {data.load_images("flowers", size=size).fingerprint for size in (8, 12)}
    assert len(flowers) == 1
    assert len(flowers | {train, test}) == 3


def test_a_folder_behind_the_name_of_a_set_is_mentioned(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "checkpoint.safetensors").touch()  # a run is not mentioned
    assert data.load_images("flowers", "test", size=8).name == "flowers"
    assert not recwarn
    (tmp_path / "flowers" / "checkpoint.safetensors").unlink()
    paint(tmp_path / "flowers" / "0.png", (0, 0, 0))
    with pytest.warns(UserWarning, match=r"package's set; .* write \./flowers"):
        assert len(data.load_images("flowers", "test", size=8)) == 2000
    for name in ("./flowers", Path("flowers")):
        assert len(data.load_images(name)) == 1


def test_one_image_is_too_few_for_a_held_out_split(tmp_path):
    paint(tmp_path / "0.png", (0, 0, 0))
    with pytest.raises(data.DataError, match="too few images for a test split"):
        data.load_images(tmp_path, "test")


# torchvision's sets, from small files in its formats


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in the IDX format of MNIST's files."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, packed: bool = False) -> dict[str, np.ndarray]:
    """Write 20 training and 10 test images: unpacked as by torchvision, or packed as by Debian."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = {}
    for split, count in (("train", 20), ("t10k", 10)):
        written[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28))
        written[f"{split}-labels-idx1-ubyte"] = np.arange(count) % 10
    for name, array in written.items():
        content = idx(array)
        path = folder / (name + ".gz" * packed)
        path.write_bytes(gzip.compress(content) if packed else content)
    return written


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path) -> Path:
    """A machine without data sets: an empty home and no system package."""
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    return tmp_path


@pytest.mark.parametrize(("name", "home"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_torchvisions_files_are_read(nothing_installed, name, home):
    written = write_mnist(nothing_installed / "root" / home / "raw")
    for split, part in (("train", "train"), ("test", "t10k")):
        images = data.load_images(name, split, root=nothing_installed / "root")
        assert (images.pixels[:, 0].numpy() == written[f"{part}-images-idx3-ubyte"]).all()
        assert (images.labels.numpy() == written[f"{part}-labels-idx1-ubyte"]).all()
        assert len(images.classes) == 10
        assert images.name == name


def test_files_in_the_cache_at_home_are_found(nothing_installed):
    write_mnist(nothing_installed / "home" / ".cache" / "gan_tutorial" / "MNIST" / "raw")
    assert len(data.load_images("mnist")) == 20


def test_files_of_a_system_package_are_found(nothing_installed):
    written = write_mnist(nothing_installed / "share" / "datasets" / "mnist", packed=True)
    images = data.load_images("mnist", "test", size=32)
    assert images.shape == (1, 32, 32)
    assert (images.labels.numpy() == written["t10k-labels-idx1-ubyte"]).all()
    assert not (nothing_installed / "home").exists(), "no unpacked copy is kept"


def test_the_users_files_take_precedence_over_the_systems(nothing_installed):
    write_mnist(nothing_installed / "share" / "datasets" / "mnist", packed=True)
    raw = nothing_installed / "root" / "MNIST" / "raw"
    write_mnist(raw)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((20, 28, 28))))
    assert data.load_images("mnist", root=nothing_installed / "root").pixels.max() == 0


def test_fashion_mnist_of_the_system():
    if data._system_folder("fashion-mnist") is None:
        pytest.skip("needs a system package such as Debian's dataset-fashion-mnist")
    images = data.load_images("fashion-mnist", "test")
    assert images.labels.bincount().tolist() == [1000] * 10
    whole = {image.numpy().tobytes() for image in images.pixels}
    bundled = data.load_images("fashion", "test")
    assert all(image.numpy().tobytes() in whole for image in bundled.pixels), "a subset"


@pytest.mark.parametrize("keep", [0, 3, 12, 2000])
def test_truncated_files_of_torchvision_are_refused(nothing_installed, keep):
    raw = nothing_installed / "root" / "MNIST" / "raw"
    write_mnist(raw)
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(data.DataError, match=r"mnist cannot be read from .*root.*download=True"):
        data.load_images("mnist", root=nothing_installed / "root")


@pytest.mark.parametrize(
    "damage", [lambda c: c[:40], lambda c: b"no gzip", lambda c: c[:200] + b"\0" * 40 + c[240:]]
)
def test_damaged_files_of_a_system_package_are_refused(nothing_installed, damage):
    folder = nothing_installed / "share" / "datasets" / "mnist"
    write_mnist(folder, packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(data.DataError, match=r"mnist cannot be read"):
        data.load_images("mnist")


def test_the_error_for_missing_files_says_how_to_get_them(nothing_installed):
    with pytest.raises(
        data.DataError, match=r"mnist cannot be read from .*gan_tutorial.*root=.*download=True"
    ):
        data.load_images("mnist")
    with pytest.raises(data.DataError, match="cifar10 cannot be read from"):
        data.load_images("cifar10")


def test_download_is_left_to_torchvision(nothing_installed, monkeypatch):
    def fetch(self):
        write_mnist(Path(self.raw_folder))

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
    assert len(data.load_images("mnist", download=True)) == 20


def test_a_failed_download_is_reported(nothing_installed, monkeypatch):
    def fail(self):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    with pytest.raises(data.DataError, match="no route to host"):
        data.load_images("mnist", download=True)


@pytest.fixture
def cifar(nothing_installed, monkeypatch) -> tuple[Path, np.ndarray]:
    """CIFAR-10 with four images in each file; torchvision's checksums are patched to match."""
    root = nothing_installed / "root"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3072)).astype(np.uint8)

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    sums = [
        [name, write(name, {"data": pixels[4 * i : 4 * i + 4], "labels": [i, 9, 0, 1]})]
        for i, name in enumerate(names)
    ]
    kind = torchvision.datasets.CIFAR10
    meta = write(kind.meta["filename"], {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(kind, "train_list", sums[:5])
    monkeypatch.setattr(kind, "test_list", sums[5:])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": meta})
    return root, pixels.reshape(24, 3, 32, 32)


def test_cifar10_keeps_its_channels_and_rows(cifar):
    root, pixels = cifar
    train, test = (data.load_images("cifar10", split, root=root) for split in data.SPLITS)
    assert (train.pixels.numpy() == pixels[:20]).all()
    assert (test.pixels.numpy() == pixels[20:]).all()
    assert test.labels.tolist() == [5, 9, 0, 1]
    assert test.classes[9] == "class 9"
    assert train.pixels.is_contiguous()


def test_cifar10_is_converted_to_grey(cifar):
    root, pixels = cifar
    grey = data.load_images("cifar10", "test", root=root, channels=1).pixels
    weights = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    expected = (pixels[20:] * weights).sum(1, keepdims=True)
    assert np.abs(grey.numpy() - expected).max() < 1.1  # torchvision rounds down


def test_a_tampered_pickle_of_cifar10_is_not_unpickled(cifar):
    """Unpickling can run code, so the checksum is compared first."""
    root, _ = cifar
    path = root / "cifar-10-batches-py" / "test_batch"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (root / "sprung",))

    path.write_bytes(pickle.dumps({"data": Trap(), "labels": []}))
    with pytest.raises(data.DataError, match="cifar10 cannot be read"):
        data.load_images("cifar10", "test", root=root)
    assert not (root / "sprung").exists()
