"""Every text of a user's through one reader: marks, line ends, other encodings, JSON that is none."""

import json

import pytest

from diffusion_jax.cli.asking import read_requests
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.data.text.bpe_learning import learn_vocabulary
from diffusion_jax.data.text.text_files import read_json, read_lines, read_text
from diffusion_jax.systems.clip.measures import read_templates
from diffusion_jax.typing import UserError

NAMES = [
    "prompts.txt", "templates.txt", "table.csv", "table.jsonl", "table.json", "a.txt", "classes.json",
    "v/vocab.json", "v/merges.txt",
]  # fmt: skip
BOM = b"\xef\xbb\xbf"


def captions(folder):
    return CaptionFolder(folder, captions="table.csv").texts


def readers(folder):
    """(the file, what reads it, its text) of every kind of text that a user gives."""
    (folder / "a.png").write_bytes(b"x")
    (folder / "a" / "b").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "x.png").write_bytes(b"x")
    learn_vocabulary(["low lower lowest"], 3, folder / "v")
    vocabulary, merges = ((folder / "v" / name).read_text() for name in ("vocab.json", "merges.txt"))
    return {
        "prompts.txt": (lambda p: read_requests(str(p)), "a seven\na two\n"),
        "templates.txt": (lambda p: read_templates(str(p)), "a {}\n{}\n"),
        "table.csv": (lambda p: captions(folder), "image,caption\na.png,red\n"),
        "table.jsonl": (lambda p: CaptionFolder(folder, captions=p.name).texts, '{"image": "a.png", "text": "red"}\n'),
        "table.json": (lambda p: CaptionFolder(folder, captions=p.name).texts, '{"a.png": "red"}\n'),
        "a.txt": (lambda p: CaptionFolder(folder).texts, "red\nblue\n"),
        "classes.json": (lambda p: ClassFolder(folder, p).class_names, '{"a": "red"}\n'),
        "v/vocab.json": (lambda p: BpeTokenizer.load(p.parent), vocabulary),
        "v/merges.txt": (lambda p: BpeTokenizer.load(p.parent), merges),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_and_windows_line_ends_change_nothing_and_other_encodings_are_named(tmp_path, name):
    read, text = readers(tmp_path)[name]
    file = tmp_path / name
    if name == "a.txt":  # a picture without a text in a folder of its own would be refused
        (tmp_path / "a" / "x.png").unlink()
    found = []
    for data in (
        text.encode(),
        BOM + text.encode(),
        BOM + text.replace("\n", "\r\n").encode(),
        text.rstrip("\n").encode(),
    ):
        file.write_bytes(data)
        found.append(read(file))
    assert found[0] and all(other == found[0] for other in found[1:]), found
    for data, said in (
        (text.encode() + b"\xe9\n", rf"is not UTF-8 text \(byte {len(text)}\)"),
        (BOM + text.encode() + b"\xe9\n", rf"is not UTF-8 text \(byte {len(text) + 3}\)"),
        (text.encode("utf-16"), r"is UTF-16, not UTF-8 text \(byte 0\)"),
        (b"\x00" + text.encode(), "is not a text: byte 0 is 0x00"),
    ):
        file.write_bytes(data)
        with pytest.raises(UserError, match=said) as error:
            read(file)
        assert file.name in str(error.value) and "\n" not in str(error.value)


def test_lines_end_at_line_ends_alone(tmp_path):
    (tmp_path / "p").write_text("one\x0ctwo\u2028three\x85four\r five \n\n", newline="")
    assert read_lines(tmp_path / "p") == ["one\x0ctwo\u2028three\x85four", "five"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "has the key 'c' twice"),
        ("[" * 100_000, "is nested too deeply"),
        ("9" * 5000, "is not JSON: Exceeds the limit"),
    ],
)
def test_json_that_is_none_is_one_line(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_json(tmp_path / "x.json")


def test_what_is_no_file_is_one_line(tmp_path):
    for path, said in (
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "too long"),
        ("a\0b", "no name of a file"),
    ):
        with pytest.raises(UserError, match=said):
            read_text(path)


@pytest.mark.parametrize("value", [{"a": [1], "b": 0}, {"a": None}, {"a": True}, 3, None, [["a", 0]]])
def test_a_vocabulary_of_wrong_types_is_one_line(tmp_path, value):
    (tmp_path / "vocab.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="does not map symbols to the ids"):
        BpeTokenizer.load(tmp_path)


@pytest.mark.parametrize("line", ["a photo", "{} and {}"])
def test_a_template_without_one_place_is_named(tmp_path, line):
    (tmp_path / "t").write_text(f"a {{}}\n{line}\n")
    with pytest.raises(UserError, match=r"places \{\} for the class name; 1 is needed"):
        read_templates(str(tmp_path / "t"))
