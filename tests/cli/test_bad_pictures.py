"""Pictures, labels and conditions that are wrong: one line before anything is written, with what is nearest."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import smallruns as tiny
from PIL import Image
from test_any_pictures import CLASSES, SMALL

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from sourced import FORMS, as_classes, as_folder, as_parquet, as_tar, idx, squares

FOLDER = str(tiny.ROOT / "configs" / "picture_folder.py")


def fails(capsys, tmp_path, said, config=CLASSES, **options):
    """`train` ends with one line that holds what is `said`, and leaves no run behind."""
    options = {key.replace("__", "."): value for key, value in options.items()}
    chosen = SMALL | {"workdir": tmp_path / "run"} | options
    tiny.fails(capsys, ["train", "--no-progress", "--config", config, *tiny.flags(chosen)], *said)
    assert not (tmp_path / "run").exists()


def cut(file, share=0.6):
    whole = Path(file).read_bytes()
    Path(file).write_bytes(whole[: int(share * len(whole))])


def test_a_folder_without_pictures(tmp_path, capsys):
    (tmp_path / "data" / "boot").mkdir(parents=True)
    fails(capsys, tmp_path, ["no pictures in"], data__path=tmp_path / "data")
    fails(capsys, tmp_path, ["no pictures in"], FOLDER, data__path=tmp_path / "data")
    fails(capsys, tmp_path, ["there is no folder", "did you mean 'data'"], data__path=tmp_path / "dato")


def test_labels_that_the_data_have_not(tmp_path, capsys):
    images, labels, captions = squares(20)
    as_folder(tmp_path / "data", images, labels, captions)
    told = {"condition": "{}", "condition.name": "label"}
    said = ["data 'folder': example 0 has no label", "in a folder a class are data.name=classes"]
    fails(capsys, tmp_path, said, FOLDER, data__path=tmp_path / "data", **told)
    as_classes(tmp_path / "one", images, np.zeros(20, int), None)
    fails(capsys, tmp_path, ["1 class (boot)", "condition.name=none"], data__path=tmp_path / "one")


def test_captions_that_the_data_have_not(tmp_path, capsys):
    images, labels, _ = squares(20)
    as_classes(tmp_path / "data", images, labels, None)
    text = {"condition.name": "text", "condition.encoder": tmp_path / "clip"}
    fails(capsys, tmp_path, ["there is no run in"], data__path=tmp_path / "data", **text)


def test_what_the_network_cannot_read(tmp_path, capsys):
    images, labels, _ = squares(20)
    as_classes(tmp_path / "data", images, labels, None)
    own = {"condition": "{}", "condition.name": "tests_own:Wrong"}
    fails(capsys, tmp_path, ["there is no module 'tests_own'"], data__path=tmp_path / "data", **own)
    fails(capsys, tmp_path, ["did you mean 'label'"], data__path=tmp_path / "data", **{"condition.name": "lable"})


def test_pictures_grey_and_coloured(tmp_path, capsys):
    images, labels, _ = squares(20)
    as_classes(tmp_path / "data", images, labels, None)
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "data" / "boot" / "red.png")
    fails(capsys, tmp_path, ["preprocess.channels"], data__path=tmp_path / "data", preprocess__channels="none")


@pytest.mark.parametrize("form", ["tar", "parquet", "arrays", "idx"])
def test_a_file_cut_short(form, tmp_path, capsys):
    images, labels, _ = squares(20)
    if form == "idx":
        (tmp_path / "data").mkdir()
        for name, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            for split in ("train", "t10k"):
                (tmp_path / "data" / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        cut(tmp_path / "data" / "train-images-idx3-ubyte.gz")
        spec = {"name": "arrays", "path": str(tmp_path / "data")}
    else:
        make = {"tar": as_tar, "parquet": as_parquet, "arrays": FORMS["arrays"]}[form]
        spec = make(tmp_path / "data", images, labels, None)
        cut(spec["path"])
    options = {f"data.{key}": str(value) for key, value in spec.items()}
    fails(capsys, tmp_path, ["cut short" if form in ("tar", "idx") else Path(spec["path"]).name], **options)
