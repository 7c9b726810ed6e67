"""Folders of captioned pictures, what is wrong with them in one line, and batches that do not depend on processes."""

import json
import pickle
import re
import shutil
import tarfile

import numpy as np
import pytest
from captioned import shards, table, write
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.data.pairs import caption_identity, pair_batches
from diffusion_jax.data.pictures.decoding import open_picture
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.captioned import split_of
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.sources.tar_shards import TarShards
from diffusion_jax.data.sources.tfds_captions import TfdsCaptions
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.data.text.bpe_learning import learn_vocabulary
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.typing import Source, UserError

WORDS = WordTokenizer(("a", "red", "green", "blue", "white", "square"), 8)


def refused(said, make):
    with pytest.raises(UserError) as error:
        make()
    assert re.search(said, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_of_any_kind_gives_the_same_source(tmp_path):
    rows = write(tmp_path / "a")
    wanted = CaptionFolder(tmp_path / "a")
    assert isinstance(wanted, Source) and len(wanted) == 24
    assert wanted[3] == {"image": tmp_path / "a" / "003.png", "captions": ["a white square"], "name": "003.png"}
    folder = tmp_path / "a"
    for name, write_table in {
        "metadata.csv": lambda: table(folder, rows, "metadata.csv", ("file_name", "text")),
        "tabs.tsv": lambda: (folder / "tabs.tsv").write_text(
            "".join(f"{a}\t{b}\n" for a, b in [("path", "title"), *rows])
        ),
        "lines.jsonl": lambda: (folder / "lines.jsonl").write_text(
            "\n".join(json.dumps({"image": a, "captions": [b]}) for a, b in rows)
        ),
        "bom.csv": lambda: (folder / "bom.csv").write_bytes(
            b"\xef\xbb\xbf" + "\r\n".join(f"{a},{b}" for a, b in [("image", "caption"), *rows]).encode()
        ),
    }.items():
        write_table()
        found = CaptionFolder(folder, captions=name)
        assert found.names == wanted.names and found.texts == wanted.texts, name
    refused("5 tables in .* say captions=bom.csv", lambda: CaptionFolder(folder))
    for file in folder.glob("*.*sv"):
        file.unlink()
    (folder / "lines.jsonl").unlink()
    for name, caption in rows:
        (folder / name).with_suffix(".txt").write_text(f"{caption}\n")
    assert CaptionFolder(folder).texts == wanted.texts


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=5,
    )
)
def test_captions_with_commas_quotes_and_newlines_come_back(tmp_path_factory, captions):
    folder = tmp_path_factory.mktemp("f")
    (folder / "é 1.png").write_bytes(b"x")
    table(folder, [("é 1.png", caption) for caption in captions])
    assert CaptionFolder(folder).texts == (tuple(dict.fromkeys(caption.strip() for caption in captions)),)


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    folder = tmp_path / "pictures"
    refused("there is no folder .*nothing", lambda: CaptionFolder(tmp_path / "nothing"))
    rows = write(folder)
    refused("did you mean 'pictures'", lambda: CaptionFolder(tmp_path / "picture"))
    refused("there is no table .*; did you mean 'captions.csv'", lambda: CaptionFolder(folder, captions="caption.csv"))
    refused(
        "image_column 'imge' is not known; did you mean 'image'", lambda: CaptionFolder(folder, image_column="imge")
    )
    table(folder, [*rows, ("01.png", "gone"), ("x.png", "gone")])
    refused(
        r"2 pictures of captions.csv do not exist, the first '01.png' \(captions.csv, line 26\); did you mean",
        lambda: CaptionFolder(folder),
    )
    table(folder, [*rows, ("001.png", " ")])
    refused("1 empty captions, the first in captions.csv, line 26", lambda: CaptionFolder(folder))
    assert len(CaptionFolder(folder, empty="drop")) == 24
    table(folder, rows, header=("bild", "caption"))
    refused("none of the columns 'bild', 'caption' is called image", lambda: CaptionFolder(folder))
    assert len(CaptionFolder(folder, image_column="bild")) == 24
    (folder / "captions.csv").write_text("image,caption\n000.png,a,b\n")
    refused("captions.csv, line 2 has another number of columns", lambda: CaptionFolder(folder))
    (folder / "captions.csv").write_bytes(b"image,caption\n000.png,\xff\n")
    refused(r"is not UTF-8 text \(byte 22\)", lambda: CaptionFolder(folder))
    (folder / "captions.csv").unlink()
    refused("no captions in .*: neither a table", lambda: CaptionFolder(folder))
    (folder / "000.txt").write_text("one")
    refused("23 of 24 pictures have no text beside them", lambda: CaptionFolder(folder))
    for line, said in (
        ("{", "lines.jsonl, line 1 is not JSON"),
        ("[1]", "lines.jsonl, line 1 is not a JSON object"),
        ('{"image": "000.png", "caption": 3}', "lines.jsonl, line 1: 3 is not text"),
    ):
        (folder / "lines.jsonl").write_text(line)
        refused(said, lambda: CaptionFolder(folder))
    (tmp_path / "empty").mkdir()
    refused("no pictures in", lambda: CaptionFolder(tmp_path / "empty"))
    refused("split 'val' is not known", lambda: CaptionFolder(folder, split="val"))
    refused("are not at least 0 with a sum below 1", lambda: CaptionFolder(folder, validation=0.7, test=0.4))


def test_splits_are_disjoint_stable_and_of_their_shares(tmp_path):
    rows = write(tmp_path, 200, size=(2, 2))
    parts = {
        s: CaptionFolder(tmp_path, split=s, validation=0.2, test=0.1).names for s in ("train", "validation", "test")
    }
    assert sum(map(len, parts.values())) == 200 and len(set().union(*parts.values())) == 200
    assert abs(len(parts["validation"]) - 40) < 20 and abs(len(parts["test"]) - 20) < 15
    table(tmp_path, rows[::2])
    fewer = CaptionFolder(tmp_path, split="test", validation=0.2, test=0.1).names
    assert set(fewer) == set(parts["test"]) & {name for name, _ in rows[::2]}
    assert split_of("x", {"train": 1.0}) == "train"
    table(tmp_path, rows[:1])
    only = split_of("000.png", {"train": 0.7, "validation": 0.2, "test": 0.1})
    other = "test" if only != "test" else "train"
    refused(
        f"no captioned picture in .* in split '{other}'",
        lambda: CaptionFolder(tmp_path, split=other, validation=0.2, test=0.1),
    )


def stream(source, **options):
    prepare = Preprocess(16)
    image = lambda raw, rng: prepare.random_pixels(raw, rng)  # noqa: E731
    return pair_batches(source, 8, 3, image, WORDS, identity=True, **options)


def test_batches_do_not_depend_on_processes_or_on_where_one_begins(tmp_path):
    write(tmp_path)
    source = CaptionFolder(tmp_path)
    whole = stream(source)
    for step in (0, 5):
        batch = whole(step)
        assert batch["image"].shape == (8, 16, 16, 3) and batch["image"].dtype == np.uint8
        for processes in (2, 4):
            parts = [stream(source, process_index=i, process_count=processes)(step) for i in range(processes)]
            for name, value in batch.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)
    assert (whole(0)["image"] != whole(1)["image"]).any()
    # Three steps of 8 are one epoch of 24: every picture's colour stands six times.
    ids = np.concatenate([whole(step)["identity"] for step in range(3)])
    assert sorted(np.unique(ids, return_counts=True)[1]) == [6, 6, 6, 6]
    tokens, identity = whole(0)["tokens"], whole(0)["identity"]
    same = (tokens[:, None] == tokens[None]).all(-1)
    np.testing.assert_array_equal(same, identity[:, None] == identity[None])


def test_a_picture_that_cannot_be_read_is_named_or_skipped_aloud(tmp_path, caplog):
    write(tmp_path)
    (tmp_path / "004.png").write_bytes(b"no picture")
    source = CaptionFolder(tmp_path)
    steps = range(3)
    with pytest.raises(UserError, match=r"004\.png is not an image"):
        [stream(source)(step) for step in steps]
    skipping = stream(source, on_error="skip")
    first, again = [skipping(step) for step in steps], [stream(source, on_error="skip")(step) for step in steps]
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a["image"], b["image"])
    assert sum("example 4 is skipped" in record.message for record in caplog.records) == 2
    for name in source.names:
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"more than half of the pictures to train on cannot be read \(\d+ of 24\)"):
        stream(source, on_error="skip")(0)
    with pytest.raises(UserError, match="batch_size 8 is not divided by the 3 processes; nearest: 9"):
        stream(source, process_count=3)


def test_identity_is_that_of_the_text():
    found = caption_identity(["a", "b", "a", ""])
    assert found.dtype == np.int32 and found[0] == found[2] and len(set(found.tolist())) == 3 and (found >= 0).all()


def test_folders_of_classes(tmp_path):
    for name in ("red_square", "blue_square"):
        write(tmp_path / name, 2)
    folder = ClassFolder(tmp_path)
    assert folder.class_names == ("blue square", "red square") and folder.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "names.json").write_text(json.dumps({"red_square": "crimson"}))
    named = ClassFolder(tmp_path, tmp_path / "names.json")
    assert named.class_names == ("crimson",) and len(named) == 2
    (tmp_path / "names.json").write_text(json.dumps({"red_squar": "crimson"}))
    refused(
        "1 classes of names.json have no folder, the first 'red_squar'; did you mean 'red_square'",
        lambda: ClassFolder(tmp_path, tmp_path / "names.json"),
    )
    (tmp_path / "names.json").write_text("[]")
    refused("is not a JSON object", lambda: ClassFolder(tmp_path, tmp_path / "names.json"))
    refused("there is no folder", lambda: ClassFolder(tmp_path / "x"))
    refused("no pictures in folders of", lambda: ClassFolder(tmp_path / "red_square"))


def test_a_vocabulary_of_ones_own(tmp_path):
    captions = ["low low low low low", "lower lower", "newest " * 6, "widest " * 3]
    tokenizer = BpeTokenizer.load(learn_vocabulary(captions, 5, tmp_path), context_length=12)
    merges = (tmp_path / "merges.txt").read_text().split("\n")[1:-1]
    # The example of the paper's figure: es, then est, then lo, low; e-s-t stands nine times, l-o seven.
    assert merges[:2] == ["e s", "es t</w>"] and "l o" in merges
    assert tokenizer.vocabulary_size == 512 + 5 + 2
    row = tokenizer.encode(["lowest"])
    assert tokenizer.decode(row["tokens"][0]) == "lowest"
    refused("merges 0 is not at least 1", lambda: learn_vocabulary(captions, 0, tmp_path))
    refused("hold no word", lambda: learn_vocabulary(["", " "], 5, tmp_path))
    refused("too few captions to learn a pair from", lambda: learn_vocabulary(["a cat"], 5, tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_shards_are_read_in_any_order_and_indexed_once(tmp_path, monkeypatch):
    pattern = shards(tmp_path)
    source = TarShards(pattern, validation=0.0)
    assert len(source) == 12 and isinstance(source, Source)
    for i in (11, 0, 6):
        item = source[i]
        assert item["name"] == f"{i:03d}" and item["captions"][0] == f"picture {i:03d}"
        assert item["image"] == (tmp_path / "pictures" / f"{i:03d}.png").read_bytes()
    assert source[0]["captions"] == ["picture 000", "again"]
    assert pickle.loads(pickle.dumps(source))[5]["name"] == "005"
    monkeypatch.setattr("diffusion_jax.data.sources.tar_index.scan", lambda *args: pytest.fail("scanned again"))
    assert TarShards(str(tmp_path / "*.tar"), validation=0.0).names == source.names
    parts = [TarShards(pattern, split=s, validation=0.4) for s in ("train", "validation")]
    assert sorted(parts[0].names + parts[1].names) == sorted(source.names)
    batch = stream(source)(0)
    assert batch["image"].shape == (8, 16, 16, 3)


def test_what_is_wrong_with_shards_is_one_line(tmp_path):
    refused("no shards of .* exist", lambda: TarShards(str(tmp_path / "*.tar")))
    pattern = shards(tmp_path, **{"001": "  ", "002": "{}", "004": "{"})
    source = TarShards(pattern, validation=0.0)
    refused("00.tar: 001 has an empty caption", lambda: source[1])
    refused("002.json has no caption: its keys are ", lambda: source[2])
    refused("00.tar: 004.json is not JSON", lambda: source[4])
    refused("1 shards of .* do not exist, the first .*03.tar", lambda: TarShards(str(tmp_path / "{02..03}.tar")))
    whole = (tmp_path / "01.tar").read_bytes()
    (tmp_path / "01.tar").write_bytes(whole[:2000])
    refused("was cut short after it was indexed", lambda: source[9])
    refused("01.tar' is (cut short|damaged)", lambda: TarShards(pattern))
    (tmp_path / "01.tar").write_bytes(b"abc" * 400)
    refused("01.tar' is damaged or no tar file", lambda: TarShards(pattern))
    with tarfile.open(tmp_path / "01.tar", "w") as archive:
        archive.add(tmp_path / "pictures" / "000.png", "x.png")
    refused("1 of 1 pictures have no .txt or .json, the first 'x'", lambda: TarShards(pattern))


@pytest.mark.filterwarnings("default")
def test_a_prepared_dataset_is_read_without_tensorflow(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    write(tmp_path / "pictures", 4)

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Sequence({"text": tfds.features.Text()})
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "captions": text})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                path = str(tmp_path / "pictures" / f"{i:03d}.png")
                yield i, {"image": path, "captions": [{"text": f"one {i}"}, {"text": f"two {i}"}]}

    Tiny(data_dir=str(tmp_path / "data"), file_format="array_record").download_and_prepare()
    source = TfdsCaptions("tiny", data_dir=str(tmp_path / "data"), caption_key="captions/text")
    assert len(source) == 4
    items = [source[i] for i in range(4)]
    assert sorted(tuple(item["captions"]) for item in items) == [(f"one {i}", f"two {i}") for i in range(4)]
    assert open_picture(items[0]["image"]).size == (26, 20)  # as it is stored: decoded here, as from every source
    make = lambda path="tiny", **more: TfdsCaptions(path, data_dir=str(tmp_path / "data"), **more)  # noqa: E731
    refused("has no feature 'caption': at 'caption' there are", make)
    refused("split of 'tiny' 'tran' is not known; did you mean 'train'", lambda: make(split="tran"))
    refused("version of 'tiny' '1.0.1' is not known; did you mean '1.0.0'", lambda: make(path="tiny:1.0.1"))
    assert len(make(path="tiny:1.0.0", caption_key="captions/text")) == 4
    shutil.copytree(tmp_path / "data" / "tiny" / "1.0.0", tmp_path / "data" / "tiny" / "other" / "1.0.0")
    refused("dataset 'tiny' is prepared as tiny, tiny/other; say which", make)
    refused(
        "dataset 'tinny' is not prepared in .*; did you mean 'tiny'",
        lambda: TfdsCaptions("tinny", data_dir=str(tmp_path / "data")),
    )
