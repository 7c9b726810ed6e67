"""Tar shards member by member: which picture and caption of a key, links, cuts, names; nothing is lost in silence."""

import io
import json
import re
import tarfile

import pytest
from captioned import shards, told
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.data.sources.shards import expand
from diffusion_jax.data.sources.tar_shards import TarShards
from diffusion_jax.typing import UserError


def png(colour="red"):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()


def pack(path, *entries, format=tarfile.GNU_FORMAT):
    """A tar of (name, bytes), or (name, type, target) of a link; gives its path as a pattern."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, *rest in entries:
            member = tarfile.TarInfo(name)
            if len(rest) == 2:
                member.type, member.linkname = rest
                archive.addfile(member)
            else:
                data = rest[0] if isinstance(rest[0], bytes) else rest[0].encode()
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(path)


def read(pattern, **options):
    return TarShards(pattern, validation=0.0, **options)


def items(source):
    return [(name, source[i]["image"], source[i]["captions"]) for i, name in enumerate(source.names)]


def refused(said, pattern, **options):
    line = told(lambda: items(read(pattern, **options)))[1]
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("texts", "options", "wanted"),
    [
        ({"txt": "plain", "json": '{"caption": "j", "llm": "long"}'}, {}, ["plain"]),
        ({"txt": "plain", "json": '{"caption": "j", "llm": "long"}'}, {"caption_key": "llm"}, ["long"]),
        ({"json": '{"caption": "j"}', "txt": "plain"}, {}, ["plain"]),  # the order in the shard does not matter
        ({"json": '{"llm": [" a ", "", "b"]}', "txt": "plain"}, {"caption_key": "llm"}, ["a", "b"]),
        ({"TXT": "plain"}, {}, ["plain"]),
        ({"JSON": '{"caption": "j"}'}, {}, ["j"]),
        ({"txt": "\ufeffplain\r\n"}, {}, ["plain"]),
    ],
)
def test_the_caption_is_the_one_that_was_named(tmp_path, texts, options, wanted):
    pattern = pack(tmp_path / "a.tar", ("k.png", png()), *((f"k.{ending}", text) for ending, text in texts.items()))
    assert read(pattern, **options)[0]["captions"] == wanted


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ({"txt": "plain"}, {"caption_key": "llm"}, "1 of 1 pictures have no .json, where caption_key is looked up"),
        (
            {"txt": "p", "json": '{"caption": "j"}'},
            {"caption_key": "llm"},
            "has no key 'llm': its keys are 'caption'; say",
        ),
        ({"json": '{"caption": 3}'}, {}, "the caption 3 is not text"),
        ({"json": '{"caption": ["a", null]}'}, {}, "the caption None is not text"),
        ({"json": '{"caption": [" "]}'}, {}, "k has an empty caption"),
        ({"json": "[1]"}, {}, "k.json is not a JSON object"),
        ({"json": '{"caption": "a", "caption": "b"}'}, {}, "has the key 'caption' twice"),
        ({"txt": b"\xff"}, {}, r"k.txt is not UTF-8 text \(byte 0\)"),
        ({"txt": "a", "TXT": "b"}, {}, "'k.txt' and 'k.TXT' are texts of one picture"),
        ({}, {}, "1 of 1 pictures have no .txt or .json, the first 'k'"),
    ],
)
def test_a_caption_that_is_not_there_is_never_replaced(tmp_path, texts, options, said):
    pattern = pack(tmp_path / "a.tar", ("k.png", png()), *((f"k.{ending}", text) for ending, text in texts.items()))
    refused(said, pattern, **options)


def test_a_picture_and_its_mask_are_told_apart_by_image_key(tmp_path):
    both = pack(tmp_path / "a.tar", ("k.jpg", png("red")), ("k.png", png("blue")), ("k.txt", "x"))
    refused("'k' has two pictures, 'k.jpg' and 'k.png'; say .* image_key=jpg .* or image_key=png", both)
    assert read(both, image_key="jpg")[0]["image"] == png("red")
    assert read(both, image_key="PNG")[0]["image"] == read(both, image_key="png;jpg")[0]["image"] == png("blue")
    refused("image_key 'txt' is no ending of a picture", both, image_key="txt")
    named = pack(tmp_path / "b.tar", ("k.seg.png", png("blue")), ("k.jpg", png("red")), ("k.txt", "x"))
    refused("1 of 2 pictures have no .* say image_key=jpg", named)
    assert read(named, image_key="jpg")[0]["image"] == png("red")
    assert read(named, image_key="seg.png")[0]["image"] == png("blue")
    same = pack(tmp_path / "c.tar", ("k.seg.jpg", png("blue")), ("k.jpg", png("red")), ("k.txt", "x"))
    assert [read(same, image_key="jpg")[0]["image"], len(read(same, image_key="jpg"))] == [png("red"), 1]
    raw = pack(tmp_path / "d.tar", ("k.heic", b"x"), ("k.jpg", png()), ("k.txt", "x"))
    refused("'k.heic' is a picture of a kind that is not read", raw)
    assert len(read(raw, image_key="jpg")) == 1


def test_links_lead_to_their_file_or_are_refused(tmp_path):
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    pattern = pack(
        tmp_path / "a.tar",
        ("s/soft.png", soft, "../a.png"),  # may stand before what it leads to
        ("s/soft.txt", "soft"),
        ("a.png", png("green")),
        ("a.txt", "a"),
        ("b.png", hard, "a.png"),
        ("b.txt", hard, "a.txt"),
        ("c.png", soft, "b.png"),
        ("c.txt", "c"),
    )
    source = read(pattern)
    assert sorted(source.names) == ["a", "b", "c", "s/soft"]
    assert {source[i]["image"] for i in range(4)} == {png("green")}
    assert sorted(source[i]["captions"][0] for i in range(4)) == ["a", "a", "c", "soft"]
    for target, said in (
        ("gone.png", "to 'gone.png', which is no member"),
        ("x.png", "in a circle"),
        ("/a.png", "no member"),
    ):
        refused(f"the link 'x.png' leads {said}" if said != "no member" else said,
                pack(tmp_path / "b.tar", ("x.png", soft, target), ("x.txt", "x")))  # fmt: skip
    refused("x.png at byte 0 is no file", pack(tmp_path / "c.tar", ("x.png", tarfile.FIFOTYPE, ""), ("x.txt", "x")))
    again = pack(tmp_path / "d.tar", ("x.png", png()), ("x.txt", "x"), ("./x.png", png("blue")))
    refused("has './x.png' twice, at bytes 512 and 2560", again)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_and_folders_within_keys(tmp_path, format):
    names = ["a/" * 80 + "x" * 120, "é ü/日本", "./dot", "a.b.c", "[x] {y}*?", "-dash"]
    entries = [entry for name in names for entry in ((f"{name}.png", png()), (f"{name}.txt", name))]
    pattern = pack(tmp_path / "a.tar", ("d.png", tarfile.DIRTYPE, ""), ("._a.png", b"mac"), *entries, format=format)
    source = read(pattern)
    assert [source[i]["captions"][0] for i in range(len(source))] == names
    assert source.names == tuple(name.removeprefix("./") for name in names)
    assert read(pattern).names == source.names  # from the index


def test_sparse_members_are_refused(tmp_path):
    # A GNU sparse header: type S, a map of pieces; offsets of plain members would give other bytes.
    member = tarfile.TarInfo("x.png")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:398], header[398:410], header[483:495] = b"00000000000\0", b"00000000000\0", b"00000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header[:512]) + bytes(1024))
    refused(r"x.png at byte 0 is stored in pieces \(sparse\)", str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"\x1f\x8b\x08\x00", "is compressed .gzip.*: gunzip a.tar.gz"),
        (b"BZh91AY", "bunzip2"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b"", "is empty: 0 bytes"),
        (b"PK\x03\x04", "damaged or no tar file"),
        (bytes(600), "no picture in 1 shards"),
    ],
)
def test_what_is_no_plain_tar_says_what_to_do(tmp_path, begin, said):
    (tmp_path / "a.tar.gz").write_bytes(begin)
    refused(said, str(tmp_path / "a.tar.gz"))


def whole_shard(folder):
    pattern = shards(folder, count=3, each=3)
    path = folder / "00.tar"
    return path, path.read_bytes(), items(read(pattern))


def outcome(path, data):
    """The items of the shard with these bytes, or None where it is refused by one line."""
    path.write_bytes(data)
    for index in path.parent.glob("*.index.json"):
        index.unlink()
    found, said = told(lambda: items(read(str(path))))
    assert found is not None or path.name in said
    return found


def test_a_cut_anywhere_is_refused_or_loses_nothing(tmp_path):
    path, data, wanted = whole_shard(tmp_path)
    end = len(data.rstrip(b"\0"))
    end += -end % 512  # the last member's end
    for size in sorted({*range(0, end + 2049, 256), *range(511, end, 512), *range(1, end, 700)}):
        found = outcome(path, data[:size])
        assert found == (wanted if size >= end + 512 else None), size
    said = {
        511: "within the header|no tar file",
        end: f"cut short at byte {end}, after '002.json': tar's end mark is missing",
    }
    for size, text in said.items():
        path.write_bytes(data[:size])
        refused(text, str(path))
    # What the message advises.
    path.write_bytes(data[:end] + bytes(1024))
    assert outcome(path, path.read_bytes()) == wanted
    path.write_bytes(data[:end])
    refused("head -c 1024 /dev/zero >> 00.tar", str(path))
    path.write_bytes(data + data)
    refused(f"goes on at byte {len(data)} behind its end mark, after '002.json'", str(path))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_damage_anywhere_is_refused_or_in_the_bytes_alone(tmp_path_factory, data):
    path, whole, wanted = whole_shard(tmp_path_factory.mktemp("s"))
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "zero", "drop"]))
    if kind == "drop":
        broken = whole[:at] + whole[at + data.draw(st.integers(1, 600)) :]
    else:
        broken = bytearray(whole)
        broken[at] = 0 if kind == "zero" else broken[at] ^ (1 << data.draw(st.integers(0, 7)))
    found = outcome(path, bytes(broken))
    if found is not None:
        assert [name for name, *_ in found] == [name for name, *_ in wanted]


def test_patterns_are_read_as_people_write_paths(tmp_path):
    folder = tmp_path / "my [best] pictures {a}"
    folder.mkdir()
    for name in ("00.tar", "01.tar", "02.TAR", "a-[1].tar"):
        pack(folder / name, ("k.png", png()), ("k.txt", "x"))

    def names(pattern):
        return [path.name for path in expand(str(folder / pattern))]

    assert names("{00..01}.tar") == names("0?.tar") == names("{00,01}.tar") == ["00.tar", "01.tar"]
    assert names("*.tar") == ["00.tar", "01.tar", "a-[1].tar"] and names("*.TAR") == ["02.TAR"]
    assert names("a-[1].tar") == ["a-[1].tar"]
    for pattern, said in (
        ("0[01].tar", "1 shards of .* do not exist"),
        ("02.tar", "did you mean '02.TAR'"),
        (".", "is a folder; name its shards: .*/\\*.tar"),
        ("{00,00}.tar", "have .*00.tar' twice"),
        ("{0..99999999999}.tar", "stands for 100000000000 shards"),
        ("{05..01}.tar", "no shards of .* exist"),
        ("x" * 300, "do not exist"),
    ):
        with pytest.raises(UserError, match=said):
            names(pattern)


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text(max_size=3))))
)
@example({"caption": ""})
@example({"caption": "\ud800"})
def test_any_json_beside_a_picture_is_captions_or_one_line(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("j")
    source = read(pack(folder / "a.tar", ("k.png", png()), ("k.json", json.dumps(record))))
    captions, said = told(lambda: source[0]["captions"])
    assert (
        "a.tar: k" in said
        if captions is None
        else captions and all(isinstance(text, str) and text.strip() for text in captions)
    )
