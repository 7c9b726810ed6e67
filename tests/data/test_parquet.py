"""Parquet files of Hugging Face's layout: columns, classes of the schema, splits by name, row groups, what is wrong."""

import threading

import numpy as np
import pytest
from sourced import NAMES, as_parquet, png, source, squares
from test_label_sources import refused

from diffusion_jax.data.sources import parquet as module

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES, LABELS, CAPTIONS = squares(20)


@pytest.fixture
def spec(tmp_path):
    return as_parquet(tmp_path, IMAGES, LABELS, CAPTIONS)


def test_rows_are_read_in_any_order_over_groups_that_are_kept(spec, monkeypatch):
    found = source(spec, split=None)
    rows = np.random.default_rng(0).permutation(20).tolist()
    assert [found[row]["image"] for row in rows] == [png(IMAGES[row, ..., 0]) for row in rows]
    assert [found[row]["label"] for row in rows] == LABELS[rows].tolist()
    assert found[19]["name"] == "part.parquet/19" and found[19]["where"].endswith("part.parquet, row 19")
    assert found.class_names == NAMES and found.places[:, 1].tolist() == [0] * 7 + [1] * 7 + [2] * 6
    monkeypatch.setattr(module, "KEPT", 0)
    bare = source(spec, split=None)
    assert [bare[row]["captions"] for row in (0, 19, 3)] == [[CAPTIONS[row]] for row in (0, 19, 3)]
    assert len(bare._groups._kept) == 1
    threads = [threading.Thread(target=lambda: [bare[row] for row in rows]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bare[5]["image"] == png(IMAGES[5, ..., 0])


@pytest.mark.parametrize("how", ["names", "folders", "pattern"])
def test_shards_that_are_splits(tmp_path, how):
    for split, part in (("train", slice(0, 12)), ("validation", slice(12, 16)), ("test", slice(16, 20))):
        folder = tmp_path / split if how == "folders" else tmp_path
        name = "0000.parquet" if how == "folders" else f"{split}-00000-of-00001.parquet"
        as_parquet(folder, IMAGES[part], LABELS[part], None, name=name)
    path = str(tmp_path / "*.parquet") if how == "pattern" else str(tmp_path)
    parts = {split: source({"name": "parquet", "path": path}, split=split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 12, "validation": 4, "test": 4}
    assert parts["test"][3]["image"] == png(IMAGES[19, ..., 0]) and "captions" not in parts["test"][3]
    if how != "folders":
        (tmp_path / "more.parquet").write_bytes((tmp_path / "test-00000-of-00001.parquet").read_bytes())
        refused("more.parquet' is named for no split, as .*", source, {"name": "parquet", "path": path}, split="train")


def test_a_split_alone_is_parted_by_shares(tmp_path):
    spec = as_parquet(tmp_path, IMAGES, LABELS, None, name="test-00000-of-00001.parquet")
    assert (
        len(source(spec, split="train", validation=0.3)) + len(source(spec, split="validation", validation=0.3)) == 20
    )


def put(folder, **columns):
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return {"name": "parquet", "path": str(folder / "a.parquet"), "validation": 0.0}


def test_columns_of_other_names_and_kinds(tmp_path):
    data = [png(image[..., 0]) for image in IMAGES[:3]]
    spec = put(tmp_path, img=data, fine_label=["cat", "ape", "cat"], title=[["x", "y"], ["z"], ["w"]])
    found = source(spec)
    assert found.class_names == ("ape", "cat") and found.labels.tolist() == [1, 0, 1]
    assert found[0] | {"where": ""} == {
        "image": data[0], "label": 1, "captions": ["x", "y"], "name": "a.parquet/0", "where": ""
    }  # fmt: skip
    assert source(spec, templates="plain")[1]["captions"] == ["ape"]
    (tmp_path / "b.png").write_bytes(data[1])
    paths = put(tmp_path, image=[{"bytes": None, "path": "b.png"}], kind=[1], note=["n"])
    found = source(paths, label_key="kind", caption_key="note", class_names=NAMES)
    assert found[0]["image"] == tmp_path / "b.png" and found[0]["label"] == 1 and found[0]["captions"] == ["n"]
    assert source(put(tmp_path, image=data, label=[-1, -1, -1])).labels is None  # a contest's test split


def test_what_is_wrong_with_parquet_is_one_line(tmp_path, spec):
    data = (tmp_path / "part.parquet").read_bytes()
    for end in (0, 5, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.parquet").write_bytes(data[:end])
        refused(
            "cut.parquet' is cut short, damaged or no parquet", source, {**spec, "path": str(tmp_path / "cut.parquet")}
        )
    (tmp_path / "cut.parquet").unlink()
    middle = bytearray(data)
    middle[4:44] = bytes(40)  # the header of the first page
    (tmp_path / "part.parquet").write_bytes(middle)
    refused("cut short, damaged or no parquet", lambda: [source(spec, split=None)[i] for i in range(20)])
    refused(
        "1 shards of .* do not exist, .*; did you mean 'part.parquet'",
        source,
        {**spec, "path": str(tmp_path / "parts.parquet")},
    )
    (tmp_path / "none").mkdir()
    refused("no .parquet in", source, {**spec, "path": str(tmp_path / "none")})
    one = [png(IMAGES[0, ..., 0])] * 2
    for columns, options, said in (
        ({"pixels": one}, {}, r"has no column of images \(it has pixels\); say image_key=NAME"),
        ({"image": one}, {"label_key": "kind"}, r"has no column 'kind' \(it has image\)"),
        ({"image": one, "kind": [0, 1]}, {"label_key": "kid"}, "did you mean 'kind'"),
        ({"image": one, "label": [0, -1]}, {}, "row 1 has no label, where others have one"),
        ({"image": one, "label": [0, 2]}, {"class_names": NAMES}, "the label 2 has no name"),
        ({"image": one}, {"templates": "plain"}, "has no labels, which class_names and templates are of"),
    ):
        refused(said, source, {**put(tmp_path, **columns), **options})
    for columns, said in (
        ({"image": [3]}, "row 0: the image is 3, neither bytes nor a struct"),
        ({"image": one[:1], "text": [None]}, "a.parquet, row 0 has an empty caption"),
    ):
        refused(said, lambda columns=columns: source(put(tmp_path, **columns))[0])
