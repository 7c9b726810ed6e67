"""Folders as people have them: one picture under several names, tables of every kind, odd names, what is no picture."""

import inspect
import io
import json
import os
import re
import unicodedata

import numpy as np
import pytest
from captioned import table, told, write
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.data.pictures.decoding import open_picture
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.captioned import setting, split_of, split_shares, texts_of
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.typing import UserError, nearest_path


def refused(said, make):
    with pytest.raises(UserError) as error:
        make()
    assert re.search(said, str(error.value)), str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def file(folder, name, data=b"x"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    "other",
    [
        "./a.jpg",
        "sub/../a.jpg",
        "sub//..//a.jpg",
        "a.jpg ",
        "link.jpg",
        "hard.jpg",
        "folder/a.jpg",
        "{folder}/a.jpg",
        ".\\a.jpg",
    ],
)
def test_two_names_of_a_file_are_one_picture_in_one_split(tmp_path, other):
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        file(tmp_path, name)
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    os.link(tmp_path / "a.jpg", tmp_path / "hard.jpg")
    (tmp_path / "folder").symlink_to(tmp_path)
    name = other.replace("{folder}", str(tmp_path))
    for rows in (
        [("a.jpg", "one"), (name, "two"), ("b.jpg", "b")],
        [(name, "two"), ("b.jpg", "b"), ("a.jpg", "one")],
    ):
        table(tmp_path, rows)
        source = CaptionFolder(tmp_path)
        assert sorted(source.names) == ["a.jpg", "b.jpg"]
        assert sorted(source.texts[source.names.index("a.jpg")]) == ["one", "two"]
        parts = []
        for split in ("train", "validation"):
            found, said = told(lambda split=split: CaptionFolder(tmp_path, split=split, validation=0.5).names)
            parts += found or ()
            assert found or "no captioned picture" in said
        assert sorted(parts) == ["a.jpg", "b.jpg"]


def test_names_of_windows_and_macos_are_found(tmp_path):
    file(tmp_path, "sub/a.jpg")
    file(tmp_path, unicodedata.normalize("NFD", "é.jpg"))
    file(tmp_path, os.fsdecode(b"\xff.jpg"))
    table(tmp_path, [("sub\\a.jpg", "x"), (unicodedata.normalize("NFC", "é.jpg"), "y")])
    assert CaptionFolder(tmp_path).names == ("sub/a.jpg", unicodedata.normalize("NFD", "é.jpg"))
    (tmp_path / "captions.csv").unlink()
    for name in ("sub/a", unicodedata.normalize("NFD", "é"), os.fsdecode(b"\xff")):
        file(tmp_path, f"{name}.TXT", b"x")
    assert len(CaptionFolder(tmp_path)) == 3  # hashed though no UTF-8
    shares = {"train": 0.5, "test": 0.5}
    for word in ("é", "ü", "日本", "ñandú"):
        assert split_of(unicodedata.normalize("NFD", word), shares) == split_of(word, shares)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CAPTIONS.CSV", "image,caption\na.JPG,x\n"),
        ("c.csv", "image;caption\na.JPG;x\n"),
        ("c.csv", "sep=;\r\nimage;caption\r\na.JPG;x\r\n"),
        ("c.csv", "filepath\ttitle\na.JPG\tx\n"),
        ("C.TSV", "image\tcaption\na.JPG\tx\n"),
        ("c.csv", "image, caption\na.JPG, x\n"),
        ("c.csv", '"image";"caption"\r\n"a.JPG";"x"\r\n'),
        ("c.csv", ",image,caption\n0,a.JPG,x\n"),
        ("c.csv", "image,caption\ra.JPG,x\r"),
        ("C.JSONL", '{"image": "a.JPG", "caption": "x"}\n\n'),
        ("captions.json", '[{"file_name": "a.JPG", "text": ["x"]}]'),
        ("Captions.JSON", '{"a.JPG": "x"}'),
        ("a.TXT", "x\r\n"),
    ],
)
def test_tables_in_capitals_and_with_any_separator(tmp_path, name, text):
    file(tmp_path, "a.JPG")
    file(tmp_path, ".hidden.csv", b"no table")
    file(tmp_path, "._a.JPG", b"what macOS leaves")
    (tmp_path / name).write_text(text, newline="")
    source = CaptionFolder(tmp_path)
    assert source.names == ("a.JPG",) and source.texts == (("x",),)


LONG = "a very long caption " * 30


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "c.csv",
            f"image,caption\n{LONG},a.jpg\n",
            r"the column 'caption' names a picture: the two columns are swapped",
        ),
        ("c.csv", f"image,caption\n{LONG},b\n", "1 pictures of c.csv do not exist, the first 'a very"),
        ("c.csv", "image,caption,caption\na.jpg,b,c\n", "the column 'caption' stands 2 times in the header"),
        ("c.csv", "a.jpg,a red square\na.jpg,x\n", "'image,caption' above"),
        (
            "c.csv",
            "Image,caption\na.jpg,x\n",
            "say image_column=Image .train: --config.data.image_column=Image; evaluate",
        ),
        ("c.csv", "", "is empty"),
        ("c.csv", "image,caption\n", "no captioned picture in .*: 0 have captions"),
        ("c.csv", 'image,caption\na.jpg,"x\n', "c.csv, line 2: unexpected end of data"),
        ("c.csv", f'image,caption\na.jpg,"{"x" * 140000}"\n', "c.csv, line 2: field larger than field limit"),
        ("c.csv", "image,caption\nA.JPG,x\n", "do not exist, the first 'A.JPG' .*; did you mean 'a.jpg'"),
        ("c.csv", "image,caption\nd.jpg,x\n", "do not exist, the first 'd.jpg'"),
        ("c.csv", "image,caption\ngone.jpg,x\n", "do not exist, the first 'gone.jpg'"),
        (
            "c.csv",
            "image,caption\na.jpg, \n",
            r"empty=drop \(train: --config.data.empty=drop; evaluate: --on-error=skip\)",
        ),
        ("c.jsonl", '{"image": 3, "caption": "x"}', "c.jsonl, line 1: 3 is not text"),
        ("c.jsonl", '{"image": "a.jpg", "caption": null}', "c.jsonl, line 1: None is not text"),
        (
            "c.jsonl",
            '{"image": "a.jpg", "caption": "x", "caption": "y"}',
            "c.jsonl, line 1 has the key 'caption' twice",
        ),
        ("c.jsonl", '{"image": "a\\u0000.jpg", "caption": "x"}', "do not exist"),
        ("c.jsonl", '{"image": "\\ud800.jpg", "caption": "x"}', "do not exist"),
        ("captions.json", '"x"', "is neither a list of objects"),
        ("captions.json", '{"a.jpg": {"x": 1}}', "is neither a list of objects"),
        ("captions.json", '{"a.jpg": 3}', "captions.json, entry 1: 3 is not text"),
        ("captions.json", "[3]", "captions.json, entry 1 is not a JSON object: 3"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path, name, text, said):
    file(tmp_path, "a.jpg")
    (tmp_path / "d.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / name).write_text(text, newline="")
    refused(said, lambda: CaptionFolder(tmp_path))


def test_pictures_with_texts_beside_them(tmp_path):
    file(tmp_path, "a.jpg")
    file(tmp_path, "a.txt", b"x")
    (tmp_path / "d.jpg").mkdir()  # a folder, in which there is a picture
    file(tmp_path, "d.jpg/b.png")
    file(tmp_path, "d.jpg/b.txt", b"one\rtwo")
    file(tmp_path, ".cache/a.jpg")
    store = tmp_path.parent / f"{tmp_path.name}-store"
    file(store, "c.jpg")
    file(store, "c.txt", b"linked")
    (tmp_path / "linked").symlink_to(store)
    (tmp_path / "linked" / "again").symlink_to(tmp_path)
    source = CaptionFolder(tmp_path)
    assert dict(zip(source.names, source.texts)) == {
        "a.jpg": ("x",),
        "d.jpg/b.png": ("one", "two"),
        "linked/c.jpg": ("linked",),
    }
    for name, said in (
        ("a.png", "'a.jpg' and 'a.png' in .* share 'a.txt'"),
        ("a.TXT", "'a.TXT' and 'a.txt' in .* are texts of one picture"),
        ("e.HEIC", "1 pictures in .* are of a kind that is not read, the first .*e.HEIC'"),
    ):
        file(tmp_path, name, b"x")
        refused(said, lambda: CaptionFolder(tmp_path))
        (tmp_path / name).unlink()
    (tmp_path / "e.jpg").symlink_to("nowhere")
    file(tmp_path, "e.txt", b"x")
    refused("e.jpg' is a link to nothing", lambda: CaptionFolder(tmp_path))
    for name in ("a.npz", "a-idx3-ubyte.gz", "a.parquet", "a.TAR"):
        file(tmp_path, name)
    for path, said in (
        (tmp_path / "a.jpg", "is a file; give the folder"),
        (tmp_path / "a.npz", "is a file, which data.name=arrays reads; give the folder"),
        (tmp_path / "a-idx3-ubyte.gz", "is a file, which data.name=arrays reads"),
        (tmp_path / "a.parquet", "is a file, which data.name=parquet reads"),
        (tmp_path / "a.TAR", "is a file, which data.name=tar reads"),
        (tmp_path / LONG, "there is no folder"),
        ("a\0", "no"),
    ):
        refused(said, lambda path=path: CaptionFolder(path))
        refused(said, lambda path=path: ClassFolder(path))


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("nothere.png", ["a_number.png", "mask.png"], None),
        ("nothing", ["inp", "digits"], None),
        ("caat.png", ["a.png", "Cat.jpg", "cats.txt"], "Cat.jpg"),
        ("cat.png", ["cat.jpg", "cat.jpeg", "CAT.PNG"], "CAT.PNG"),
        ("7.png", ["1.png", "12.png"], "1.png"),
        ("runs/digit", ["runs/inp", "runs/digits"], "runs/digits"),
        ("", ["a", ".b"], None),
    ],
)
def test_a_name_is_near_by_its_stem(name, names, near):
    assert nearest_path(name, names) == near


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = write(tmp_path / "p", 2)
    source = CaptionFolder("~/p")
    assert len(source) == len(rows) and source[0]["image"].is_file()


def test_folders_of_classes_that_would_mismeasure(tmp_path):
    file(tmp_path, "cat/deep/er/a.JPG")
    file(tmp_path, "dog/b.png")
    file(tmp_path, "dog/.c.png")
    (tmp_path / "dog" / "d.png").mkdir()
    (tmp_path / "bird").mkdir()
    refused(
        "1 of 3 class folders in .* have no picture, the first 'bird': .*--classes=FILE", lambda: ClassFolder(tmp_path)
    )
    (tmp_path / "n.json").write_text('{"cat": "a cat", "bird": "a bird"}')
    assert ClassFolder(tmp_path, tmp_path / "n.json").class_names == ("a cat", "a bird")  # named, so meant
    (tmp_path / "bird").rmdir()
    found = ClassFolder(tmp_path)
    assert [p.name for p in found.files] == ["a.JPG", "b.png"] and found.labels.tolist() == [0, 1]
    file(tmp_path, "loose.jpg")
    refused("1 pictures in .* lie in no class's folder, the first 'loose.jpg'", lambda: ClassFolder(tmp_path))
    for name in ("val", "train"):
        file(tmp_path, f"s/{name}/cat/a.jpg")
    refused("are splits .train, val., not classes: give .*train'", lambda: ClassFolder(tmp_path / "s"))
    for value, said in (
        ('{"cat": 3}', "is not a JSON object"),
        ('{"cat": "a", "cat": "b"}', "has the key 'cat' twice"),
    ):
        (tmp_path / "n.json").write_text(value)
        refused(said, lambda: ClassFolder(tmp_path, tmp_path / "n.json"))


@pytest.mark.parametrize("shares", [(float("nan"), 0.0), ("0.1", 0.0), (True, 0.0), (-0.1, 0.0), (0.6, 0.6)])
def test_shares_that_are_none(shares):
    refused("are not at least 0 with a sum below 1", lambda: inspect.unwrap(split_shares)(None, *shares))


def test_captions_of_one_picture():
    assert texts_of([" a", "", "b "], "x") == ["a", "b"] and texts_of("a", "x") == ["a"]
    for value, said in (
        (3, "x: the caption 3 is not text"),
        ([None], "None is not text"),
        ([], "x has an empty caption"),
    ):
        refused(said, lambda value=value: texts_of(value, "x"))
    assert setting("empty", "drop") == "empty=drop (train: --config.data.empty=drop)"


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=12).filter(
    lambda name: len(name.encode()) < 200
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=4))
@example({"-a": "x", "[b]": "y", "c d": "z", '"q"': "quoted", "é": "accent", "a\nb": "line"})
def test_pictures_of_any_name_come_back_under_it(tmp_path_factory, captions):
    folder = tmp_path_factory.mktemp("n")
    rows = [(f"{name}.png", caption) for name, caption in captions.items()]
    for name, _ in rows:
        file(folder, name)
    wanted = {name: caption.strip() for name, caption in rows if caption.strip()}
    for write_table in (
        lambda: table(folder, rows),
        lambda: (folder / "captions.csv").rename(folder / "old") and None,
        lambda: (folder / "captions.json").write_text(json.dumps(dict(rows))) and None,
    ):
        write_table()
        if not any((folder / name).exists() for name in ("captions.csv", "captions.json")):
            continue
        source, _ = told(lambda: CaptionFolder(folder, empty="drop"))
        found = {} if source is None else {name: texts[0] for name, texts in zip(source.names, source.texts)}
        assert found == wanted


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["c.csv", "c.tsv", "c.jsonl", "captions.json"]), st.booleans())
def test_a_table_of_any_bytes_is_a_source_or_one_line(tmp_path_factory, data, name, headed):
    folder = tmp_path_factory.mktemp("b")
    file(folder, "a.jpg")
    start = {"c.csv": b"image,caption\na.jpg,", "c.tsv": b"image\tcaption\na.jpg\t"}.get(
        name, b'{"image": "a.jpg", "caption": '
    )
    file(folder, name, (start if headed else b"") + data)
    source, said = told(lambda: CaptionFolder(folder))
    assert said or len(source) == 1


def encoded():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
        yield kind, out.getvalue()


ENCODED = dict(encoded())


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_pictures_cut_and_flipped_are_read_or_one_line(kind, data):
    whole = ENCODED[kind]
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        broken = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            broken[data.draw(st.integers(0, min(len(whole), 300) - 1))] = data.draw(st.integers(0, 255))
    picture, said = told(lambda: open_picture(bytes(broken), exif=True))
    assert "an image of" in said if picture is None else picture.width >= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_orientation_is_obeyed_whatever_the_kind_of_file(kind):
    assert open_picture(ENCODED[kind], exif=True).size == (9, 7)
    assert open_picture(ENCODED[kind]).size == ((9, 7) if kind == "TIFF" else (7, 9))  # Pillow itself turns a TIFF


def test_paths_that_are_no_pictures(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    file(tmp_path, "e.jpg", b"")
    for path, said in (
        (tmp_path / "x.jpg", "Is a directory"),
        (tmp_path / "e.jpg", "e.jpg is not an image that Pillow reads: it is empty"),
        ("a\0b", "no name of a file"),
        ("x" * 300, "too long"),
    ):
        refused(said, lambda path=path: open_picture(path))
