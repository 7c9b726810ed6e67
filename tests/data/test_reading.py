"""Batches of pictures: order, mirroring, crops, what cannot be read, and arrays that are gathered at once."""

import time

import numpy as np
import pytest
from PIL import Image
from sourced import FORMS, as_arrays, png, source, squares

from diffusion_jax.data.examples import Examples
from diffusion_jax.data.pairs import pair_batches
from diffusion_jax.data.pictures.boxes import even_box
from diffusion_jax.data.pictures.cropping import Crop
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.reading import check_share, first_readable, held_out_items, mirrored, picture_batches, rows
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.typing import UserError

GREY = Preprocess(8, HALF, HALF, channels=1)


class Listed:
    """A source of items without `columns`."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return source(as_arrays(tmp_path_factory.mktemp("a") / "x", *squares(30)), validation=0.0)


@pytest.mark.parametrize("flip", [False, True])
def test_arrays_are_gathered_as_they_would_be_read(arrays, flip):
    """The rows, their order and which are mirrored, whatever the way and however many processes."""
    crop = Crop(GREY, "center")
    assert crop.keeps(arrays.columns()["image"])
    fast = picture_batches(arrays, 12, 5, crop, flip=flip)
    slow = picture_batches(Listed([arrays[i] for i in range(30)]), 12, 5, crop, flip=flip)
    for step in (0, 7):
        found, wanted = fast(step), slow(step)
        assert found["image"].dtype == np.uint8 and found["index"].dtype == np.int64
        for key in ("image", "index"):
            np.testing.assert_array_equal(found[key], wanted[key])
        plain = arrays.images[found["index"]]
        turned = (found["image"] != plain).any((1, 2, 3))
        np.testing.assert_array_equal(np.where(turned[:, None, None, None], plain[:, :, ::-1], plain), found["image"])
        assert 0 < turned.sum() < 12 if flip else not turned.any()
        for count in (2, 3):
            shared = {"process_count": count, "flip": flip}
            parts = [picture_batches(arrays, 12, 5, crop, process_index=i, **shared)(step) for i in range(count)]
            for key, value in found.items():
                np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)
    epoch = np.concatenate([fast(step)["index"] for step in range(5)])
    assert sorted(epoch[:30]) == list(range(30)) and sorted(epoch[30:]) == list(range(30))


def test_half_of_all_rows_are_mirrored_each_by_itself():
    images = np.arange(2, dtype=np.uint8).reshape(1, 1, 2, 1).repeat(300, 0)
    turned = np.stack([mirrored(images.copy(), 0, step, 300, range(300))[:, 0, 0, 0] for step in range(20)])
    assert turned.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(6000))
    assert len(np.unique(turned, axis=0)) == 20 and len(np.unique(turned.T, axis=0)) > 290
    np.testing.assert_array_equal(mirrored(images[:7].copy(), 0, 3, 300, range(20, 27))[:, 0, 0, 0], turned[3, 20:27])


def test_crops_keep_the_aspect_where_nothing_is_to_be_distorted():
    """Each pixel holds its row and column: a part of 20 x 10, seen as 6 x 6."""
    place = np.stack(np.broadcast_arrays(np.arange(20)[:, None] * 10, np.arange(10)[None] * 10, 0), -1).astype(np.uint8)
    wide = lambda found: np.ptp(found[..., 0].astype(int)) / max(np.ptp(found[..., 1].astype(int)), 1)  # noqa: E731
    prepare = Preprocess(6, interpolation="bilinear")
    rng = np.random.default_rng(0)
    seen = [Crop(prepare, "random", (0.5, 1.0), distort=False)(place, rng) for _ in range(200)]
    assert np.median([wide(found) for found in seen]) == pytest.approx(1, abs=0.1)
    assert len({found.tobytes() for found in seen}) > 50
    assert min(found[0, 0, 0] for found in seen) < 10 and max(found[-1, 0, 0] for found in seen) > 180
    np.testing.assert_array_equal(Crop(prepare, "center")(place, rng), prepare.pixels(place))
    whole = Crop(prepare, "none")(place, rng)
    np.testing.assert_array_equal(whole, Preprocess(6, resize="squash", interpolation="bilinear").pixels(place))
    assert wide(whole) == pytest.approx(2, abs=0.3)
    assert not Crop(prepare, "random").keeps(place[None, :6, :6])
    assert not Crop(prepare).keeps(place[None, :6, :6, :1])


def test_the_boxes_of_even_crops():
    rng = np.random.default_rng(1)
    for square in (True, False):
        left, top, width, height = np.array([even_box(200, 100, rng, (0.25, 0.5), square) for _ in range(1000)]).T
        np.testing.assert_array_less(np.abs(width - height * (1 if square else 2)), 2)
        share = width * height / (1e4 if square else 2e4)
        assert (
            0.24 < share.min() < 0.27 and 0.48 < share.max() < 0.51 and share.mean() == pytest.approx(0.375, abs=0.01)
        )
        assert (left / (200 - width)).mean() == pytest.approx(0.5, abs=0.04)
        assert left.min() >= 0 and (left + width).max() <= 200 and top.min() >= 0 and (top + height).max() <= 100
    assert even_box(1, 1, rng, (0.1, 0.1), True) == (0, 0, 1, 1)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("form", FORMS)
def test_every_source_is_read_and_its_broken_picture_named(tmp_path, form, caplog):
    images, labels, captions = squares(9, channels=3)
    spec = FORMS[form](tmp_path / form, images, labels, captions)
    crop = Crop(Preprocess(8, HALF, HALF), "random", distort=False)
    batch = picture_batches(source(spec, validation=0.0), 9, 1, crop, flip=True)(2)
    assert batch["image"].shape == (9, 8, 8, 3) and batch["image"].std() > 50
    if form == "arrays":
        return
    broken = FORMS[form](tmp_path / "broken", [*map(png, images[:8]), png(images[8])[:60]], labels, captions)
    place = "example 4" if form == "tfds" else "8"  # TFDS shuffles what it writes
    with pytest.raises(UserError, match=rf"{place}\b.* cannot be read.*; --config.data.on_error=skip leaves such out$"):
        picture_batches(source(broken, validation=0.0), 9, 1, crop)(0)
    read = picture_batches(source(broken, validation=0.0), 4, 1, crop, on_error="skip")
    index = np.concatenate([read(step)["index"] for step in range(9)])
    assert len(set(index.tolist())) == 8 and len(index) == 36
    (line,) = {record.message for record in caplog.records if "is skipped" in record.message}
    assert "1 so far" in line and place in line


def test_a_folder_of_two_thousand_with_twenty_broken_trains_and_names_them(tmp_path, caplog):
    """Every picture is read in an epoch; each broken one is named once, and the next one stands in its place."""
    data = png(np.full((2, 2, 3), 7, np.uint8), "BMP")
    broken = set(range(50, 2000, 100))
    for i in range(2000):
        (tmp_path / f"{i:04d}.bmp").write_bytes(data[:40] if i in broken else data)
    folder = source({"name": "folder", "path": str(tmp_path)})
    read = picture_batches(folder, 250, 0, Crop(Preprocess(2), "center"), flip=True, on_error="skip", error_share=0.01)
    index = np.concatenate([read(step)["index"] for step in range(8)])
    assert set(index.tolist()) == set(range(2000)) - broken and len(index) == 2000
    named = [record.message for record in caplog.records]
    assert len(named) == 20 and all(any(f"{i:04d}.bmp" in line for line in named) for i in broken)
    assert any("(20 so far)" in line for line in named)
    fewer = picture_batches(folder, 250, 0, Crop(Preprocess(2)), on_error="skip", error_share=0.0005)
    with pytest.raises(UserError, match=r"more than 0.0005 of the pictures to train on cannot be read \(2 of 2000\)"):
        fewer(0)


def test_the_share_of_what_cannot_be_read():
    check_share(5, 10, "x", "e")
    check_share(10, 10, "x", "e", 1.0)
    for unread, share, said in ((6, 0.5, "more than half of x"), (1, 0.0, "more than 0 of x")):
        with pytest.raises(UserError, match=said):
            check_share(unread, 10, "x", "e", share)


def test_pairs_are_mirrored_as_pictures_are_and_need_captions():
    words = WordTokenizer(("a",), 4)
    rows = [{"image": np.asarray(Image.linear_gradient("L").rotate(90).resize((8, 8))), "captions": ["a"]}] * 4
    crop = Crop(Preprocess(8), "center")
    plain, turned = (pair_batches(Listed(rows), 4, 2, crop, words, flip=flip)(0)["image"] for flip in (False, True))
    both = picture_batches(Listed(rows), 4, 2, crop, flip=True)(0)["image"]
    np.testing.assert_array_equal(turned, both)
    assert (turned != plain).any() and (turned == plain).all((1, 2, 3)).any()
    with pytest.raises(UserError, match="an example has no caption"):
        pair_batches(Listed([{"image": rows[0]["image"]}]), 1, 2, crop, words)(0)


def test_held_out_pictures_none_of_which_can_be_read_are_one_line():
    broken = Examples(Listed([{"image": b"broken", "name": "a"}] * 3), Preprocess(8).pixels)
    for share, said in (
        (1.0, "none of the held-out pictures can be read; one of them: a"),
        (0.9, "more than 0.9 of the"),
    ):
        with pytest.raises(UserError, match=said):
            held_out_items(broken, 2, "skip", share)


def test_what_stops_at_a_picture_says_how_to_go_on_without_it():
    broken = Examples(Listed([{"image": b"broken", "name": "x.png"}]), Preprocess(8).pixels)
    for call in (lambda: first_readable(broken, "raise"), lambda: held_out_items(broken, 1, "raise")):
        with pytest.raises(UserError, match=r"x.png: .*; --config.data.on_error=skip leaves such out$"):
            call()
    with pytest.raises(UserError) as error:  # of data that have no such key
        first_readable(broken)
    assert "on_error" not in str(error.value)


def test_what_is_the_same_whenever_it_is_read_is_read_once():
    """Crops without chance are kept, mirrored ones unmirrored; random ones are not, nor what does not fit."""
    counted = []

    class Counting(Listed):
        def __getitem__(self, index):
            counted.append(index)
            return super().__getitem__(index)

    source = Counting([{"image": image[..., 0]} for image in squares(12)[0]])
    plain = lambda image, rng: Crop(GREY, "center")(image, rng)  # noqa: E731
    kept, again = (picture_batches(source, 8, 4, make, flip=True) for make in (Crop(GREY, "center"), plain))
    found = [kept(step)["image"] for step in range(6)]
    assert sorted(counted) == list(range(12))
    for step, images in enumerate(found):
        np.testing.assert_array_equal(again(step)["image"], images)
    assert Crop(GREY, "none").fixed == (8, 8, 1) and Crop(GREY, "random").fixed is None
    counted.clear()
    random = picture_batches(source, 8, 4, Crop(GREY, "random"))
    for step in range(6):
        random(step)
    assert len(counted) == 48


@pytest.mark.parametrize(
    ("crop", "resize", "said"),
    [("centre", "shortest", "did you mean 'center'"), ("random", "none", "nearest: crop 'center'")],
)
def test_crops_that_are_none(crop, resize, said):
    with pytest.raises(UserError, match=said):
        Crop(Preprocess(8, resize=resize), crop)


def test_the_first_time_that_too_many_are_broken_is_what_is_said_whichever_thread_says_it():
    def read(example, rng):
        time.sleep(0.0001 * (example % 7))
        raise UserError(f"{example} is broken")

    for seed in range(20):
        batch = rows(range(100), 32, seed, read, on_error="skip", error_share=0.05, workers=16)
        with pytest.raises(UserError, match=r"\(6 of 100\)"):
            batch(0)
