"""Picture files: each mode, depth, orientation and transparency as a viewer shows it, or refused.

The files are made here. Most show red (200, 30, 30) on the left and white on the right.
"""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from gan_tutorial import pictures

RED, GREY, WHITE = (200, 30, 30), (81, 81, 81), (255, 255, 255)  # GREY is the grey of RED
SIDE = 16
SRGB = ImageCms.createProfile("sRGB")


def halves(mode="RGB", left=RED, right=WHITE):
    image = Image.new("RGB", (SIDE, SIDE), right)
    image.paste(left, (0, 0, SIDE // 2, SIDE))
    return image.convert(mode)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(depth, colour, pixel, key=None):
    """Return a PNG file of one value, which Pillow cannot write: 16 bits, or a transparent key."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0)
    rows = (b"\0" + (pixel * SIDE)[: max(SIDE * len(pixel) * min(depth, 8) // 8, 1)]) * SIDE
    parts = [chunk(b"IHDR", header)] + ([chunk(b"tRNS", key)] if key else [])
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(bits, kind, pixel, photometric=1, samples=1, extra=()):
    """Return a TIFF file of one value; ``kind`` is 1 for unsigned, 2 for signed, 3 for floats."""
    strip = pixel * SIDE**2
    shorts = struct.pack(f"<{samples}H", *[bits] * samples) + struct.pack(
        f"<{samples}H", *[kind] * samples
    )
    tags = {256: SIDE, 257: SIDE, 259: 1, 262: photometric, 277: samples, 278: SIDE, **dict(extra)}
    entries = {tag: (3, 1, value) for tag, value in tags.items()}
    entries |= {273: (4, 1, 64), 279: (4, 1, len(strip))}
    short = samples <= 2  # then the values are in the entry itself
    for tag, values, place in ((258, bits, 8), (339, kind, 8 + 2 * samples)):
        inside = values | (values << 16 if samples == 2 else 0)
        entries[tag] = (3, samples, inside if short else place)
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", t, *entry) for t, entry in sorted(entries.items()))
    start = (b"II*\0" + struct.pack("<I", 64 + len(strip)) + shorts).ljust(64, b"\0")
    return start + strip + directory + bytes(4)


def corners(content):
    """Return the colours near the left and the right edge of the picture in a file."""
    image = pictures.read(content).image
    assert image.mode == "RGB"
    return image.getpixel((2, SIDE // 2)), image.getpixel((SIDE - 3, SIDE // 2))


def close(found, expected, tolerance):
    return np.abs(np.subtract(found, expected)).max() <= tolerance


# Modes and formats

FORMATS = [kind for kind in pictures.FORMATS if kind in Image.SAVE and kind != "ICO"]
MODES = {  # as shown: the colour on the left
    "1": WHITE, "L": GREY, "LA": GREY, "P": (204, 51, 51), "PA": (204, 51, 51), "RGB": RED,
    "RGBA": RED, "CMYK": RED, "YCbCr": RED, "HSV": RED, "LAB": RED, "I;16": GREY, "I;16B": GREY,
}  # fmt: skip


def in_mode(mode):
    if mode.startswith("I;16"):
        array = np.asarray(halves("L")).astype(">u2" if mode == "I;16B" else "<u2") * 257
        return Image.frombytes(mode, (SIDE, SIDE), array.astype(array.dtype).tobytes())
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(halves(), SRGB, lab, outputMode="LAB")
    if mode == "1":
        return halves("L", left=WHITE).convert("1")
    return halves(mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_shown_in_every_format_that_holds_it(mode):
    tried = []
    for kind in FORMATS:
        try:
            content = encoded(in_mode(mode), kind)
            Image.open(io.BytesIO(content)).load()
        except (OSError, ValueError, KeyError):
            continue  # this format has no such mode, or Pillow cannot read what it wrote
        left, right = corners(content)
        black_or_white = mode.startswith("I;16") and kind in ("AVIF", "GIF", "WEBP")
        if not black_or_white:  # Pillow already clipped the values when it wrote them
            assert close(left, MODES[mode], 12), (kind, left)
            assert close(right, WHITE, 3), (kind, right)
            tried.append(kind)
    assert tried or mode == "HSV"  # of which there are no files


def coloured():
    """Return a picture of colour 3 in a palette of four."""
    image = Image.new("P", (SIDE, SIDE), 3)
    image.putpalette([0, 0, 0, 5, 5, 5, 7, 7, 7, 9, 9, 9])
    image.putpixel((0, 0), 0)  # or Pillow leaves colours out
    return image


BLACK, MIDDLE = (0, 0, 0), (117, 117, 117)
DEEP = b"\x75\x30"  # 30000 of 65535, as are 117 of 255
SWAPPED = struct.pack("<H", 30000)
DEPTHS = {
    "16 bits, PNG": (png(16, 0, DEEP), MIDDLE),
    "16 bits, colour, PNG": (png(16, 2, DEEP * 3), MIDDLE),
    "16 bits, TIFF": (tiff(16, 1, SWAPPED), MIDDLE),
    "16 bits, colour, TIFF": (tiff(16, 1, SWAPPED * 3, 2, 3), MIDDLE),
    "16 bits, white is 0, TIFF": (tiff(16, 1, SWAPPED, 0), (138, 138, 138)),
    "8 bits, white is 0, TIFF": (tiff(8, 1, b"\x40", 0), (191, 191, 191)),
    "12 bits, TIFF": (tiff(12, 1, b"\x75\x37\x53"), MIDDLE),  # two pixels of 1875
    "16 bits, CMYK, TIFF": (tiff(16, 1, bytes(8), 5, 4), WHITE),
    "16 bits, PGM": (b"P5 16 16 65535\n" + DEEP * SIDE**2, MIDDLE),
    "12 bits, PGM": (b"P5 16 16 4095\n" + b"\x07\x53" * SIDE**2, MIDDLE),
    "4 bits, PNG": (png(4, 0, b"\x77"), (119, 119, 119)),
    "1 bit, PNG": (png(1, 0, b"\0"), BLACK),
    # Transparency, over white
    "RGBA": (encoded(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)), "PNG"), WHITE),
    "half of RGBA": (encoded(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)), "PNG"), (127,) * 3),
    "opaque RGBA": (encoded(Image.new("RGBA", (SIDE, SIDE), (*RED, 255)), "PNG"), RED),
    "LA": (encoded(Image.new("LA", (SIDE, SIDE), (0, 0)), "PNG"), WHITE),
    "RGBA, WebP": (
        encoded(Image.new("RGBA", (SIDE, SIDE), 0), "WEBP", lossless=True, exact=True),
        WHITE,
    ),
    "palette": (encoded(coloured(), "PNG", transparency=3), WHITE),
    "palette with opacities": (
        encoded(coloured(), "PNG", transparency=b"\xff\xff\xff\0"),
        WHITE,
    ),
    "another colour of the palette": (encoded(coloured(), "PNG", transparency=2), (9, 9, 9)),
    "palette, GIF": (encoded(coloured(), "GIF", transparency=3), WHITE),
    "key of 1 bit": (png(1, 0, b"\0", b"\0\0"), WHITE),
    "key of 8 bits": (png(8, 0, b"\7", b"\0\7"), WHITE),
    "another key": (png(8, 0, b"\7", b"\0\6"), (7, 7, 7)),
    "key in colour": (png(8, 2, b"\7" * 3, b"\0\7" * 3), WHITE),
    "key of 16 bits": (png(16, 0, DEEP, DEEP), WHITE),
    "another key of 16 bits": (png(16, 0, DEEP, b"\x75\x31"), MIDDLE),
    "key of 16 bits in colour": (png(16, 2, DEEP * 3, DEEP * 3), WHITE),
    "16 bits, LA": (png(16, 4, DEEP + b"\0\0"), WHITE),
    "16 bits, RGBA": (png(16, 6, DEEP * 3 + b"\0\0"), WHITE),
    "16 bits, RGBA, TIFF": (tiff(16, 1, SWAPPED * 3 + b"\0\0", 2, 4, [(338, 2)]), WHITE),
    "multiplied by its opacity": (
        tiff(8, 1, bytes([100, 0, 0, 128]), 2, 4, [(338, 1)]),
        (227, 127, 127),
    ),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_and_transparency_are_shown(name):
    content, expected = DEPTHS[name]
    assert close(corners(content), expected, 1)


# Orientation

UPRIGHT = Image.fromarray(np.array([[[0] * 3, [80] * 3], [[160] * 3, [240] * 3]], np.uint8))
UPRIGHT = UPRIGHT.resize((32, 48), Image.Resampling.NEAREST)
STORED = {  # how a camera stores an upright picture, by the number in EXIF
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", STORED)
def test_photographs_stand_upright(kind, orientation):
    if kind not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    stored = UPRIGHT
    for change in STORED[orientation]:
        stored = stored.transpose(change)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = pictures.read(encoded(stored, kind, exif=exif)).image
    assert shown.size == UPRIGHT.size
    difference = np.asarray(shown).astype(int) - np.asarray(UPRIGHT)
    assert np.abs(difference)[4:-4:8, 4:-4:8].max() < 15  # inside the quarters


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_damaged_exif_data_count_for_nothing(exif):
    assert close(corners(encoded(halves(), "JPEG", exif=exif, quality=95)), [RED, WHITE], 5)


# Colour profiles


def profile():
    """Return a profile that calls blue what sRGB calls red, and red what it calls blue."""
    swap = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    content = bytearray(ImageCms.ImageCmsProfile(SRGB).tobytes())
    for entry in range(struct.unpack_from(">I", content, 128)[0]):
        place = slice(132 + 12 * entry, 136 + 12 * entry)
        content[place] = swap.get(bytes(content[place]), content[place])
    return bytes(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_is_applied(kind):
    if kind not in Image.SAVE:
        pytest.skip("this Pillow cannot write it")
    swapped = encoded(halves(), kind, icc_profile=profile())
    assert close(corners(swapped), [RED[::-1], WHITE], 12)


@pytest.mark.parametrize("given", [b"nonsense", profile()[:200]])
def test_a_profile_that_does_not_fit_counts_for_nothing(given):
    for image in (halves(), halves("CMYK"), halves("L")):
        expected = GREY if image.mode == "L" else RED
        assert close(corners(encoded(image, "TIFF", icc_profile=given)), [expected, WHITE], 1)
    grey = encoded(halves("L"), "TIFF", icc_profile=profile())  # for colour
    assert close(corners(grey), [GREY, WHITE], 1)


# Several pictures in one file


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_pictures_the_first_is_shown_and_all_are_counted(kind):
    if kind not in Image.SAVE_ALL:
        pytest.skip("this Pillow cannot write it")
    more = [halves(left=BLACK), halves(left=WHITE, right=BLACK)]
    picture = pictures.read(encoded(halves(), kind, save_all=True, append_images=more))
    assert picture.frames == 3
    assert close(picture.image.getpixel((2, 8)), RED, 8)


# What is refused


def eps():
    return encoded(halves(), "EPS")


REFUSED = {
    "integers of 32 bits": (tiff(32, 1, struct.pack("<I", 3 * 10**9)), "32-bit integers, and"),
    "signed integers": (tiff(16, 2, SWAPPED), "32-bit integers, and"),
    "floats": (tiff(32, 3, struct.pack("<f", 0.5)), "32-bit floats, and does not say which"),
    "floats, PFM": (encoded(halves("L").convert("F"), "PPM"), "32-bit floats"),
    "a bomb": (
        encoded(Image.new("1", (SIDE * 1000, SIDE * 1000)), "PNG"),
        r"\(256000000 pixels\) exceeds limit",
    ),
    "cut short": (encoded(halves(), "PNG")[:60], "truncated"),
    "empty": (b"", "not a picture that Pillow knows"),
    "text": (b"no picture", "not a picture that Pillow knows"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not a picture that Pillow knows"),
    "a program for a printer": (eps(), "not a picture that Pillow knows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_viewers_do_not_show_alike_is_refused(name):
    content, message = REFUSED[name]
    assert len(content) < 40_000
    with pytest.raises(pictures.PictureError, match=message) as raised:
        pictures.read(content)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_shown_or_refused(kind):
    """Whichever byte is wrong: no other error, no warning from Pillow."""
    rng, whole = random.Random(0), encoded(halves(), kind)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            assert pictures.read(bytes(content[: rng.choice([None, len(whole) // 2])])).image
        except pictures.PictureError:
            refused += 1
    assert refused
