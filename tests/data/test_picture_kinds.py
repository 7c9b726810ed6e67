"""Pictures of every kind, the same from every source: modes, 16 bits, alpha, palettes, orientation, several frames."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sourced import FORMS, png, source

from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.pictures.survey import survey
from diffusion_jax.typing import UserError

SIZE = 6
WHITE = (255, 255, 255)


def noise(*channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, *channels), dtype=np.uint8)


RGB, GREY, ALPHA = noise(3), noise(), noise(seed=1)


def repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def over(colours, alpha, background=WHITE):
    """Exact compositing in float64, to the nearest level."""
    share = alpha[..., None].astype(np.float64) / 255
    return np.round(colours * share + np.array(background) * (1 - share))


def png_16(array, colour, transparent=None):
    """A PNG of 16 bits written by hand: Pillow writes none of red, green and blue."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour, 0, 0, 0)
    seen = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    parts = chunk(b"IHDR", header) + seen + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def kinds():
    """{name: (bytes, RGB where alpha is dropped, RGB over white, whether it is grey)}."""
    found = {}
    for name, array, colours, grey in (
        ("RGB", RGB, RGB, False),
        ("L", GREY, repeated(GREY), True),
        ("1", (GREY > 127).astype(np.uint8) * 255, repeated((GREY > 127).astype(np.uint8) * 255), True),
    ):
        picture = Image.fromarray(array)
        found[name] = png(picture.convert("1") if name == "1" else picture), colours, colours, grey
    la = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    found["LA"] = png(la), repeated(GREY), over(repeated(GREY), ALPHA), True
    found["RGBA"] = png(np.dstack([RGB, ALPHA])), RGB, over(RGB, ALPHA), False
    palette = Image.fromarray(RGB).quantize(16)
    colours, seen = np.asarray(palette.convert("RGB")), np.arange(0, 256, 16)[np.asarray(palette)]
    found["P"] = png(palette), colours, colours, False
    found["P transparent"] = png(palette, transparency=bytes(range(0, 256, 16))), colours, over(colours, seen), False
    key = tuple(RGB[2, 3].tolist())
    hidden = (RGB[2, 3] != RGB).any(-1) * 255
    found["RGB transparent"] = png(Image.fromarray(RGB), transparency=key), RGB, over(RGB, hidden), False
    hidden = (GREY[1, 1] != GREY) * 255
    shown = over(repeated(GREY), hidden)
    found["L transparent"] = png(Image.fromarray(GREY), transparency=int(GREY[1, 1])), repeated(GREY), shown, True
    # The low bytes differ: where the high ones alone were looked at, more would be transparent.
    deep = (np.repeat(GREY[:, :1], SIZE, 1).astype(np.uint16) << 8) + np.arange(SIZE, dtype=np.uint16)
    high, hidden = (deep >> 8).astype(np.uint8), (deep != deep[0, 2]) * 255
    found["16 bits"] = png_16(deep, 0), repeated(high), repeated(high), True
    found["16 bits transparent"] = (
        png_16(deep, 0, (int(deep[0, 2]),)),
        repeated(high),
        over(repeated(high), hidden),
        True,
    )
    wide = (RGB.astype(np.uint16) << 8) + 77
    found["16 bits RGB"] = png_16(wide.reshape(SIZE, -1, 3), 2), RGB, RGB, False
    found["16 bits TIFF"] = png(Image.fromarray(deep), "TIFF"), repeated(high), repeated(high), True
    turned = Image.Exif()
    turned[0x0112] = 6
    right = np.rot90(RGB, -1)
    found["turned"] = png(Image.fromarray(RGB), exif=turned.tobytes()), right, right, False
    frames = [Image.fromarray(noise(3, seed=seed)) for seed in (0, 5, 6)]
    found["animated"] = png(frames[0], save_all=True, append_images=frames[1:]), RGB, RGB, False
    first = Image.fromarray(GREY)
    moving = png(first, "GIF", save_all=True, append_images=[Image.fromarray(noise(seed=7))])
    found["animated GIF"] = moving, repeated(GREY), repeated(GREY), False  # a palette, of greys
    for name, picture in (("CMYK", Image.fromarray(RGB).convert("CMYK")), ("JPEG", Image.fromarray(RGB))):
        data = png(picture, "JPEG", quality=100)
        colours = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        found[name] = data, colours, colours, False
    return found


KINDS = kinds()


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_what_pil_shows(tmp_path, name):
    """By bytes, by path and by image; dropping alpha and over white; in colour and in grey."""
    data, dropped, shown, _ = KINDS[name]
    (tmp_path / "picture").write_bytes(data)
    for image in (data, tmp_path / "picture"):
        np.testing.assert_array_equal(Preprocess(SIZE, exif=True).pixels(image), dropped)
        for white in ("white", "#fff", WHITE):
            found = Preprocess(SIZE, exif=True, background=white).pixels(image)
            assert np.abs(found - shown).max() <= 1  # PIL composites in integers
        grey = Preprocess(SIZE, HALF, HALF, exif=True, channels=1).pixels(image)
        luma = np.round(dropped @ np.array([19595, 38470, 7471]) / 65536)
        assert grey.shape == (SIZE, SIZE, 1) and np.abs(grey[..., 0] - luma).max() <= 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("form", [name for name in FORMS if name != "arrays"])
def test_every_source_gives_the_same_picture(tmp_path, form):
    spec = FORMS[form](tmp_path / form, [data for data, *_ in KINDS.values()], np.arange(len(KINDS)) % 2, None)
    found = source(spec, validation=0.0)
    places = {item["name"].rpartition("/")[2].partition(".")[0]: item for item in (found[i] for i in range(len(found)))}
    for prepare in (Preprocess(SIZE, exif=True), Preprocess(SIZE, exif=True, background="teal", channels=1)):
        made = sorted(prepare.pixels(item["image"]).tobytes() for item in places.values())
        assert made == sorted(prepare.pixels(data).tobytes() for data, *_ in KINDS.values())
    assert found.pictures and found.levels == 256


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_an_array_is_the_picture_of_its_file(channels):
    array = noise(*channels)
    stored = png(array[..., 0] if channels == (1,) else array)
    for prepare in (Preprocess(SIZE), Preprocess(SIZE, background="black"), Preprocess(SIZE, channels=1)):
        np.testing.assert_array_equal(prepare.pixels(array), prepare.pixels(stored))


def test_grey_on_the_device_and_in_any_range():
    """PIL's L after the resize or before it, the same levels on the host and under jit; one mean of the three."""
    images = np.random.default_rng(3).integers(0, 256, (2, 11, 9, 3), dtype=np.uint8)
    for rgb in ("after", "before"):
        prepare = Preprocess(5, HALF, HALF, channels=1, rgb=rgb)
        wanted = prepare.batch(images)
        assert wanted.shape == (2, 5, 5, 1)
        np.testing.assert_allclose(prepare.on_device(images), wanted, atol=1e-6)
    grey = Preprocess(5, (0.2, 0.4, 0.6), (0.5, 0.25, 0.125), channels=1)
    mean, std = (np.dot([19595, 38470, 7471], values) / 65536 for values in (grey.mean, grey.std))
    np.testing.assert_allclose(grey.normalise(np.full((1, 1, 1), 51, np.uint8)), (0.2 - mean) / std, rtol=1e-6)
    unit = np.random.default_rng(4).uniform(-1, 1, (2, 5, 5, 1)).astype(np.float32)
    np.testing.assert_allclose(grey.to_unit_range(grey.from_unit_range(unit)), unit, atol=1e-6)
    with pytest.raises(UserError, match="the last axis must be 1"):
        grey.normalise(images)


@pytest.mark.parametrize("name", KINDS)
def test_whether_it_is_grey_is_told_by_its_header(tmp_path, name):
    data, *_, grey = KINDS[name]
    (tmp_path / "picture").write_bytes(data)
    for image in (data, tmp_path / "picture"):
        assert list(survey([{"image": image}]).channels) == [1 if grey else 3]


def test_premultiplied_alpha_is_read_where_it_is_seen_over_a_colour():
    picture = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA))).convert("La")
    found = Preprocess(SIZE, background="white").pixels(picture)
    assert np.abs(found - over(repeated(GREY), ALPHA)).max() <= 3  # two roundings more


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 2}, "channels 2 of a preprocessed image are neither 3 nor 1; nearest: 3"),
        ({"background": "withe"}, "background 'withe' is no colour; did you mean 'white'"),
        ({"background": (0, 0)}, "three levels in 0 .. 255"),
        ({"background": (0, 0, 256)}, "three levels in 0 .. 255"),
        ({"resize": "non"}, "resize 'non' is not known; did you mean 'none'"),
    ],
)
def test_what_is_no_preparation(options, said):
    with pytest.raises(UserError, match=said):
        Preprocess(SIZE, **options)


def test_a_picture_of_another_size_where_nothing_is_resized(tmp_path):
    prepare = Preprocess(SIZE, resize="none")
    np.testing.assert_array_equal(prepare.pixels(RGB), RGB)
    (tmp_path / "a.png").write_bytes(png(RGB[1:]))
    with pytest.raises(UserError, match=r"a\.png: a picture of 5 x 6 where resize='none' takes 6 x 6 alone; nearest"):
        prepare.pixels(tmp_path / "a.png")
    with pytest.raises(UserError, match="takes 6 x 6 alone"):
        prepare.on_device(RGB[None, 1:])
    with pytest.raises(UserError, match="nothing for a random part"):
        prepare.random_pixels(RGB, np.random.default_rng(0))
    assert Preprocess(SIZE, crop=4, resize="none").pixels(RGB).tolist() == RGB[1:5, 1:5].tolist()
