"""Sources with classes: own splits and shares, names, captions from templates, and what is wrong, in one line."""

import io
import json
import pickle
import re
import tarfile

import numpy as np
import pytest
from sourced import FORMS, NAMES, as_classes, as_folder, as_tar, idx, png, source, squares

from diffusion_jax.data import labels as told
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.data.sources.array_files import parts_at
from diffusion_jax.data.sources.captioned import own_split, split_named
from diffusion_jax.data.sources.classes import class_names_of, numbered, templates_of
from diffusion_jax.data.sources.idx import read_idx
from diffusion_jax.typing import Source, UserError

IMAGES, LABELS, CAPTIONS = squares(20)


def refused(said, make, *given, **options):
    with pytest.raises(UserError) as error:
        make(*given, **options)
    line = str(error.value)
    assert re.search(said, line), line
    assert "\n" not in line and len(line) < 700


def light(item):
    """The label that a picture of `squares` shows."""
    return int(Preprocess(8, channels=1).pixels(item["image"]).mean() > 100)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("captioned", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_source_has_items_of_one_form(tmp_path, form, labelled, captioned):
    if not labelled and (form == "classes" or (captioned and form in ("arrays", "tfds"))):
        return  # their captions are made of the names of classes
    spec = FORMS[form](tmp_path / "x", IMAGES, LABELS if labelled else None, CAPTIONS if captioned else None)
    parts = {split: source(spec, split=split, validation=0.4, test=0.2) for split in ("train", "validation", "test")}
    names = [{part[i]["name"] for i in range(len(part))} for part in parts.values()]
    assert sum(map(len, names)) == len(set().union(*names)) == 20 and all(names)
    if form not in ("tfds",):
        whole = source(spec, split=None)
        assert len(whole) == 20 and isinstance(whole, Source)
    for part in parts.values():
        items = [part[i] for i in range(len(part))]
        has = labelled and form != "folder"
        assert all(
            item.keys() - {"where"}
            == {"image", "name"} | ({"label"} if has else set()) | ({"captions"} if captioned else set())
            for item in items
        )
        if has:
            assert part.class_names == NAMES and [item["label"] for item in items] == [light(item) for item in items]
            assert told.labels_of(part).tolist() == [item["label"] for item in items]
            assert told.label_names(part) == NAMES
        if captioned:
            assert [item["captions"] for item in items] == [[f"a {NAMES[light(item)]}"] for item in items]
        if form != "tfds":
            again = pickle.loads(pickle.dumps(part))
            assert [again[i]["name"] for i in range(len(again))] == [item["name"] for item in items]


def test_the_splits_of_data_that_have_some():
    shares = {"train": 0.75, "validation": 0.25}
    for split, own, wanted in (
        ("train", (), (("",), {"train": 0.65, "validation": 0.25, "test": 0.1})),
        (None, (), (("",), None)),
        ("train", ("train", "validation", "test"), (("train",), None)),
        ("validation", ("train", "validation"), (("validation",), None)),
        ("test", ("train", "test"), (("test",), None)),
        ("train", ("train", "test"), (("train",), shares)),
        ("validation", ("train", "test"), (("train",), shares)),
        (None, ("test", "train"), (("train", "test"), None)),
    ):
        places, found = own_split(split, own, 0.25, 0.1, "x")
        assert (places, found) == wanted or found == pytest.approx(wanted[1])
    refused(r"x has no split 'test' \(there are train\); data.test is 0", own_split, "test", ("train",), 0.1, 0.0, "x")
    refused(r"x has no split 'train' \(there are test\)$", own_split, "train", ("test",), 0.1, 0.1, "x")
    assert split_named("VAL") == split_named("valid") == "validation" and split_named("cats") is None


def test_folders_of_classes_within_folders_of_splits(tmp_path):
    for name, part in (("train", slice(0, 12)), ("val", slice(12, 16)), ("test", slice(16, 20))):
        as_classes(tmp_path / "a" / name, IMAGES[part], LABELS[part], None)
    spec = {"name": "classes", "path": str(tmp_path / "a")}
    sizes = {split: len(source(spec, split=split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 12, "validation": 4, "test": 4}
    assert source(spec, split="test")[0]["name"].startswith("test/boot/")
    (tmp_path / "a" / "val" / "hat").mkdir()
    (tmp_path / "a" / "val" / "hat" / "x.png").write_bytes(png(IMAGES[0][..., 0]))
    refused(r"val/hat' is a class that the split 'train' has not", source, spec, split="validation")
    refused(
        "no pictures in folders of .*: they lie as CLASS/PICTURE.jpg; 1 lie in it directly .*data.name=folder reads those",
        source,
        {"name": "classes", "path": str(tmp_path / "a" / "val" / "hat")},
        split="train",
    )
    (tmp_path / "b.json").write_text(json.dumps({"coat": "a coat", "boot": "a boot"}))
    named = source(
        {"name": "classes", "path": str(tmp_path / "a" / "train"), "classes": str(tmp_path / "b.json")}, split="train"
    )
    assert named.class_names == ("a coat", "a boot") and named[0]["label"] == 0
    photo = source({**spec, "path": str(tmp_path / "a" / "train"), "templates": "photo"}, split="train")
    assert photo[0]["captions"] == ["a photo of a boot."]


def test_shards_with_labels(tmp_path):
    """By KEY.cls, by a key of KEY.json as number or as name, and what is wrong with them."""

    def pack(name, *members):
        with tarfile.open(tmp_path / name, "w") as archive:
            for key, data in members:
                info = tarfile.TarInfo(key)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return {"name": "tar", "path": str(tmp_path / name)}

    data = png(IMAGES[0][..., 0])
    numbers = pack("a.tar", ("x.png", data), ("x.cls", b"2\n"), ("y.png", data), ("y.cls", b"0"))
    found = source(numbers, validation=0.0)
    assert found.class_names == ("0", "1", "2") and found.labels.tolist() == [2, 0] and "captions" not in found[0]
    words = pack(
        "b.tar", ("x.png", data), ("x.json", b'{"kind": "hat"}'), ("y.png", data), ("y.json", b'{"kind": "cap"}')
    )
    found = source(words, validation=0.0, label_key="kind")
    assert found.class_names == ("cap", "hat") and found.labels.tolist() == [1, 0] and "captions" not in found[0]
    assert source(words, validation=0.0, label_key="kind", class_names=("hat", "cap")).labels.tolist() == [0, 1]
    assert "neither KEY.txt nor a known key in KEY.json" in found.uncaptioned
    refused(
        "is no class of hat, hut",
        source,
        words,
        label_key="kind",
        class_names=("hat", "hut"),
    )
    refused(r"x.json has no key 'knd': its keys are 'kind'; say label_key=NAME", source, words, label_key="knd")
    refused("the label 2 has no name: there are 2 class_names", source, numbers, class_names=("a", "b"))
    some = pack("c.tar", ("x.png", data), ("x.cls", b"2"), ("x.txt", b"a"), ("y.png", data), ("y.txt", b"b"))
    refused("1 of 2 pictures have no .cls, as others have, the first 'y'", source, some)
    refused("class_names are given, and no picture", source, pack("d.tar", ("x.png", data)), class_names=NAMES)
    mixed = as_tar(tmp_path / "e", IMAGES[:2], None, ["a", "b"]), pack("f.tar", ("x.png", data))
    (tmp_path / "e" / "0.tar").rename(tmp_path / "g.tar")
    assert mixed
    refused(
        "the pictures of 1 of 2 shards have no text and others have one",
        source,
        {"name": "tar", "path": str(tmp_path / "{f,g}.tar")},
    )
    bad = pack("h.tar", ("x.png", data), ("x.cls", b"-1"))
    refused("the label -1 is below 0", source, bad)
    refused("l.tar' is (cut short|damaged)", source, cut(tmp_path, numbers))


def cut(folder, spec):
    data = (folder / "a.tar").read_bytes()
    (folder / "l.tar").write_bytes(data[:700])
    return {**spec, "path": str(folder / "l.tar")}


def test_a_folder_without_captions_or_pictures(tmp_path):
    spec = as_folder(tmp_path / "a", IMAGES, LABELS, None)
    bare = source(spec, split="train", validation=0.3)
    assert bare.uncaptioned.startswith("no captions in") and "such as '0" in bare.uncaptioned
    (tmp_path / "a" / "000.txt").write_text("one")
    refused("19 of 20 pictures have no text beside them", source, spec)
    (tmp_path / "empty").mkdir()
    refused("no pictures in .*empty", source, {**spec, "path": str(tmp_path / "empty")})
    (tmp_path / "a" / "000.txt").unlink()
    refused("no picture in .* in split 'test': there are 20 in all", source, spec, split="test")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_the_files_of_the_mnist_family(tmp_path, packed, dot):
    ending = ".gz" if packed else ""
    for split, part in (("train", slice(0, 16)), ("t10k", slice(16, 20))):
        (tmp_path / f"{split}-images{dot}idx3-ubyte{ending}").write_bytes(idx(IMAGES[part, ..., 0], packed))
        (tmp_path / f"{split}-labels{dot}idx1-ubyte{ending}").write_bytes(idx(LABELS[part], packed))
    spec = {"name": "arrays", "path": str(tmp_path), "class_names": NAMES}
    parts = {split: source(spec, split=split, validation=0.3) for split in ("train", "validation", "test")}
    np.testing.assert_array_equal(parts["test"].columns()["image"], IMAGES[16:])
    np.testing.assert_array_equal(parts["test"].columns()["label"], LABELS[16:])
    both = np.concatenate([parts["train"].images, parts["validation"].images])
    numbers = np.concatenate([parts["train"].numbers, parts["validation"].numbers])
    np.testing.assert_array_equal(both, IMAGES[:16][numbers])
    assert sorted(numbers) == list(range(16)) and len(parts["validation"]) and parts["train"].class_names == NAMES
    one = source({**spec, "path": str(tmp_path / f"train-images{dot}idx3-ubyte{ending}")}, validation=0.0)
    assert len(one) == 16 and one.labels.tolist() == LABELS[:16].tolist()
    (tmp_path / f"emnist-train-images-idx3-ubyte{ending}").write_bytes(idx(IMAGES[..., 0], packed))
    refused("holds 2 sets of IDX files", source, spec)


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_cut_anywhere_is_one_line(tmp_path, packed):
    data, file = idx(IMAGES[:3, ..., 0], packed), tmp_path / "x.idx"
    for end in range(len(data)):
        file.write_bytes(data[:end])
        refused("cut short|is no IDX file", read_idx, file)
    file.write_bytes(idx(IMAGES[:3, ..., 0]) + b"x")
    refused("goes on behind its end: an array \\(3, 8, 8\\) of uint8 takes 208 bytes, and it has 209", read_idx, file)
    file.write_bytes(data)
    np.testing.assert_array_equal(read_idx(file), IMAGES[:3, ..., 0])
    file.write_bytes(b"\0\0\x0d\x01\0\0\0\x02" + np.array([1.5, -2], ">f4").tobytes())
    assert read_idx(file).tolist() == [1.5, -2] and read_idx(file).dtype == np.float32


@pytest.mark.parametrize(
    ("names", "asked", "splits"),
    [
        (("images", "labels"), {}, {""}),
        (("x", "y"), {}, {""}),
        (("arr_0", "arr_1"), {}, {""}),
        (("x_train", "y_train", "x_test", "y_test"), {}, {"train", "test"}),
        (("train_images", "train_labels", "val_images", "val_labels"), {}, {"train", "validation"}),
        (("pixels", "kinds"), {"image_key": "pixels", "label_key": "kinds"}, {""}),
        (("train/p", "train/k", "t10k/p", "t10k/k"), {"image_key": "{split}/p", "label_key": "{split}/k"}, {"train", "test"}),
    ],
)  # fmt: skip
def test_what_an_npz_calls_its_arrays(tmp_path, names, asked, splits):
    arrays = {name: IMAGES if i % 2 == 0 else LABELS for i, name in enumerate(names)}
    np.savez(tmp_path / "a.npz", **arrays)
    found = parts_at(tmp_path / "a.npz", asked.get("image_key"), asked.get("label_key"))
    assert set(found) == splits
    for part in found.values():
        np.testing.assert_array_equal(part.images, IMAGES)
        np.testing.assert_array_equal(part.labels, LABELS)
    assert (
        len(source({"name": "arrays", "path": str(tmp_path / "a.npz"), **asked}, split="validation", validation=0.4))
        > 3
    )


COLOUR = squares(4, channels=3)[0]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (IMAGES[..., 0], IMAGES),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (COLOUR.astype(np.int64), COLOUR),
        (COLOUR.astype(np.float32), COLOUR),
        (COLOUR / 255, COLOUR),
        (COLOUR / np.float32(127.5) - 1, COLOUR),
        (IMAGES[..., 0] > 100, (IMAGES > 100) * 255),
    ],
    ids=["grey", "colour", "channels second", "int64", "whole floats", "unit", "signed", "bool"],
)
def test_arrays_of_any_kind_become_levels(tmp_path, given, wanted):
    np.save(tmp_path / "a.npy", given)
    found = source({"name": "arrays", "path": str(tmp_path / "a.npy")}, validation=0.0)
    assert found.images.dtype == np.uint8 and "label" not in found[0] and found.class_names == ()
    np.testing.assert_array_equal(found.images, wanted)


@pytest.mark.parametrize(
    ("arrays", "options", "said"),
    [
        ({"images": COLOUR.reshape(4, -1)}, {}, r"images of shape \(4, 192\); give \[n, height, width\]"),
        ({"images": COLOUR * 1.0}, {}, None),
        ({"images": COLOUR * 2.5}, {}, "images of float64 from 0 to .*: give uint8 in 0 .. 255, or floats in"),
        ({"images": COLOUR.astype(int) - 1}, {}, "leave the range"),
        ({"images": np.full((2, 3, 3), np.nan)}, {}, "from nan to nan"),
        ({"images": COLOUR.astype(complex)}, {}, "images of complex128; give uint8"),
        ({"images": COLOUR, "labels": [0, 1, 0]}, {}, "4 images and 3 labels: each image has one"),
        ({"images": COLOUR, "labels": [0, 1, 0, -1]}, {}, "the label -1 is below 0"),
        ({"images": COLOUR, "labels": [0, 1, 0, 2]}, {"class_names": NAMES}, "the label 2 has no name: there are 2"),
        ({"images": COLOUR, "labels": [0.5, 1, 0, 2]}, {}, "labels of float64 are neither whole numbers nor texts"),
        ({"images": COLOUR, "labels": np.eye(4)}, {}, r"labels of shape \(4, 4\); there is one an example"),
        (
            {"images": COLOUR},
            {"class_names": NAMES},
            "has no labels, which class_names and templates are of; say label_key",
        ),
        ({"images": COLOUR}, {"label_key": "label"}, r"has no array 'label' \(it has images\)"),
        ({"images": COLOUR}, {"image_key": "image"}, r"has no array 'image' \(it has images\); did you mean 'images'"),
        (
            {"pixels": COLOUR},
            {},
            r"has no images \(it has pixels\); say image_key=NAME \(train: --config.data.image_key",
        ),
        ({"x_train": COLOUR, "x_test": COLOUR[:, 1:]}, {"split": None}, "the images of its splits differ in shape"),
        ({"images": COLOUR}, {"templates": ("a {} {}",)}, "has no one place {} for the class name"),
        ({"images": COLOUR}, {"templates": "phot"}, "templates 'phot' is not known; did you mean 'photo'"),
        ({"images": np.array([COLOUR[0], None], object)}, {}, "cut short or no .npz of plain numbers"),
    ],
)
def test_what_is_wrong_with_arrays_is_one_line(tmp_path, arrays, options, said):
    np.savez(tmp_path / "a.npz", **arrays)
    spec = {"name": "arrays", "path": str(tmp_path / "a.npz"), "validation": 0.0, **options}
    if said is None:
        assert len(source(spec)) == 4  # whole numbers up to 255 after all
    else:
        refused(said, source, spec)


def test_files_of_arrays_that_are_cut_short_or_others(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    np.save(tmp_path / "b.npy", IMAGES)
    np.save(tmp_path / "b_labels.npy", LABELS)
    assert source({"name": "arrays", "path": str(tmp_path / "b.npy")}).labels is not None
    for name in ("a.npz", "b.npy"):
        data = (tmp_path / name).read_bytes()
        for end in (0, 3, 30, 200, len(data) // 2, len(data) - 30, len(data) - 1):
            (tmp_path / f"cut{name[1:]}").write_bytes(data[:end])
            refused("is cut short or no", source, {"name": "arrays", "path": str(tmp_path / f"cut{name[1:]}")})
    refused(
        "there is no file or folder .*; did you mean 'a.npz'",
        source,
        {"name": "arrays", "path": str(tmp_path / "aa.npz")},
    )
    (tmp_path / "a.zip").write_bytes(b"x")
    refused(
        "is no file of arrays: an .npz, an .npy, an IDX file",
        source,
        {"name": "arrays", "path": str(tmp_path / "a.zip")},
    )
    refused("no arrays in .*of an .npz or .npy give the file", source, {"name": "arrays", "path": str(tmp_path)})
    refused(
        "no file of labels .*; did you mean 'b_labels.npy'",
        source,
        {"name": "arrays", "path": str(tmp_path / "b.npy"), "label_key": "b_label.npy"},
    )


def test_names_of_classes_and_labels(tmp_path):
    (tmp_path / "a.json").write_text('{"1": "coat", "0": "boot"}')
    (tmp_path / "b.json").write_text('["boot", "coat"]')
    (tmp_path / "c.txt").write_text("boot\ncoat\n\n")
    for said in (tmp_path / "a.json", str(tmp_path / "b.json"), tmp_path / "c.txt", NAMES, list(NAMES)):
        assert class_names_of(said) == NAMES
    (tmp_path / "d.json").write_text('{"1": "coat", "2": "boot"}')
    refused("its keys are not the numbers 0 .. 1", class_names_of, tmp_path / "d.json")
    refused("'a' is the name of 2 classes", class_names_of, ("a", "b", "a"))
    refused("the names of classes are a list of texts", class_names_of, ("a", ""))
    for given, names, wanted in (
        (["b", "a", "b"], None, ([1, 0, 1], ("a", "b"))),
        ([b"b", b"a"], None, ([1, 0], ("a", "b"))),
        (["2", "0"], None, ([2, 0], ("0", "1", "2"))),
        (["8", "3"], ("3", "8"), ([1, 0], ("3", "8"))),
        (np.array([[1], [0]], np.uint8), None, ([1, 0], ("0", "1"))),
        ([1.0, 0.0], NAMES, ([1, 0], NAMES)),
    ):
        labels, found = numbered(given, names, "x")
        assert (labels.tolist(), found) == wanted and labels.dtype == np.int64
    refused("x: the label 'c' is no class of boot, coat", numbered, ["c"], NAMES, "x")
    refused("is no number of a class", numbered, [10**7], None, "x")
    assert templates_of(None) == () and templates_of("plain") == ("{}",) and templates_of(["a {}"]) == ("a {}",)
