"""What a diffusion model is told, by itself: closed forms of what is made, requests, nulls, drops, caches."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "convert"))
from test_clip_held import model, weights

from diffusion_jax.convert import save_clip
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.diffusion.cached import cached, data_key, embedded
from diffusion_jax.systems.diffusion.conditions import Label, Nothing, Several, condition
from diffusion_jax.systems.diffusion.conditions.image import LowResolution, Masked, hidden, reduced
from diffusion_jax.systems.diffusion.conditions.pictures import Pictures, pictures_of
from diffusion_jax.systems.diffusion.encoder import embedder, load_encoder
from diffusion_jax.typing import UserError

RNG = np.random.default_rng(0)
SHAPE = (8, 8, 1)
CONFIG = ConfigDict({"system": "diffusion", "data": {"name": "digits"}, "condition": {"name": "image"}})
LEVELS = RNG.integers(0, 256, (6, *SHAPE)).astype(np.uint8)
UNIT = (LEVELS / 127.5 - 1).astype(np.float32)


class Data(list):
    """Examples as a list."""


@pytest.fixture(scope="module")
def pictures():
    return Pictures.of(CONFIG, None, Data({"image": one} for one in LEVELS))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    place = tmp_path_factory.mktemp("published") / "clip"
    save_clip(place, model(), weights(model()), "hf")
    return load_encoder(place, texts=False)


def keys(count):
    return jax.random.split(jax.random.key(1), count)


def test_a_low_resolution_copy_holds_the_means_and_a_smooth_one_all(pictures):
    blocks = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)
    made = np.asarray(reduced(jnp.asarray(blocks.repeat(4, axis=1).repeat(4, axis=2)), 4))
    # Bilinear: output i lies at (i + 1/2) / 4 - 1/2 between the two, and stays at them outside.
    share = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    between = np.stack([1 - share, share])
    np.testing.assert_allclose(made, np.einsum("bijc,iy,jx->byxc", blocks, between, between), atol=1e-6)
    np.testing.assert_allclose(reduced(jnp.full((1, 8, 8, 1), 0.3), 2), 0.3, rtol=1e-6)


def test_the_noise_on_a_copy_is_of_the_level_that_is_told(pictures):
    told = LowResolution(pictures, 0.1, 4)
    made = told.made(None, jnp.full((4000, *SHAPE), 0.5), jax.random.key(0))
    level, image = np.asarray(made["level"]), np.asarray(made["image"])
    assert level.min() >= 0 and level.max() < 1 and level.mean() == pytest.approx(0.5, abs=0.02)
    noise = (image - 0.5 * np.cos(np.pi / 2 * level)[:, None, None, None]) / np.sin(np.pi / 2 * level)[
        :, None, None, None
    ]
    assert noise[level > 0.01].std() == pytest.approx(1, abs=0.01) and abs(noise[level > 0.01].mean()) < 0.01


def test_a_copy_that_is_asked_for_has_noise_of_its_own_key_alone_and_nothing_told_stays_so(pictures, tmp_path):
    clean = LowResolution(pictures, 0.1, 4)
    cond = clean.request(list(LEVELS[:2]))
    np.testing.assert_allclose(cond["image"], reduced(jnp.asarray(UNIT[:2]), 4), atol=1e-6)
    drawn = clean.drawn(cond, keys(2))
    np.testing.assert_array_equal(drawn["image"], cond["image"])
    np.testing.assert_array_equal(drawn["level"], [0, 0])
    noisy = LowResolution(pictures, 0.1, 4, sample_level=0.5)
    with_null = {name: np.concatenate([leaf, noisy.null[name]]) for name, leaf in cond.items()}
    drawn = noisy.drawn(with_null, keys(3))
    np.testing.assert_array_equal(drawn["level"], [0.5, 0.5, 1])
    np.testing.assert_array_equal(drawn["image"][2], 0)
    alone = noisy.drawn(clean.request([LEVELS[1]]), keys(3)[1:2])
    np.testing.assert_allclose(alone["image"][0], drawn["image"][1], atol=1e-6)
    assert np.abs(drawn["image"][0] - np.cos(np.pi / 4) * cond["image"][0]).max() > 0.5
    # What comes from a model of the reduced size is not reduced again.
    small = RNG.uniform(-1, 1, (2, 2, 1)).astype(np.float32)
    np.testing.assert_allclose(
        clean.request([small])["image"], jax.image.resize(small[None], (1, *SHAPE), "bilinear"), atol=1e-6
    )
    levels = RNG.integers(0, 256, (2, 2), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "small.png")
    as_levels = clean.request([levels[..., None]])["image"]
    for given in (tmp_path / "small.png", Image.fromarray(levels).convert("RGB")):
        np.testing.assert_allclose(clean.request([given])["image"], as_levels, atol=1e-6)


def test_the_fidelity_of_a_picture_to_what_was_told_of_it(pictures):
    """A picture has the means of its own reduced copy, and the pixels of it that are not hidden; another is off by a number."""
    low, masked, plain = LowResolution(pictures, 0.1, 4), Masked(pictures, 0.1), Label(("a", "b"))
    small = UNIT.reshape(6, 2, 4, 2, 4, 1).mean(axis=(2, 4))
    asked = [LEVELS[0], UNIT[1], small[2]]
    np.testing.assert_allclose(low.fidelity(asked, UNIT[:3]), 120.0, atol=1e-3)
    other = np.clip(UNIT[:3] * 0.5, -1, 1)
    error = ((0.5 * small[:3]) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(low.fidelity(asked, other), 10 * np.log10(4 / error), rtol=1e-3)
    mask = np.zeros((8, 8), bool)
    mask[2:5] = True
    drawn = UNIT[:2].copy()
    drawn[:, mask] = 0.123  # what is hidden is the model's own
    drawn[1, 0, 0] += np.where(drawn[1, 0, 0] > 0, -0.4, 0.4)
    found = masked.fidelity([{"image": LEVELS[0], "mask": mask}, {"image": LEVELS[1], "mask": mask}], drawn)
    np.testing.assert_allclose(found, [120.0, 10 * np.log10(4 / (0.16 / 40))], atol=1e-2)
    assert np.isnan(masked.fidelity([{}], drawn[:1])).all()
    assert plain.fidelity(["a"], UNIT[:1]) is None and Nothing().fidelity([None], UNIT[:1]) is None
    told = Several({"low": low, "class": plain})
    np.testing.assert_allclose(
        told.fidelity([{"label": "a"}, {"image": LEVELS[1], "label": "b"}], UNIT[:2]), [np.nan, 120.0], atol=1e-3
    )
    assert Several({"class": plain}).fidelity(["a"], UNIT[:1]) is None


def test_what_is_hidden_is_a_box_or_a_line_and_some_of_it():
    mask = np.asarray(jax.jit(hidden, static_argnums=1)(jax.random.key(0), (400, 16, 24)))[..., 0]
    assert set(np.unique(mask)) == {0.0, 1.0}
    share = mask.mean(axis=(1, 2))
    assert share.min() > 0 and 0.15 < share.mean() < 0.5

    def box(one):
        rows, columns = one.any(axis=1), one.any(axis=0)
        return np.array_equal(one, np.outer(rows, columns)) and not (np.abs(np.diff(rows)).sum() > 2)

    assert 0.4 < np.mean([box(one == 1) for one in mask]) < 0.62


def test_a_masked_picture_shows_what_is_not_hidden_in_training_as_when_it_is_asked_for(pictures):
    told = Masked(pictures, 0.1)
    made = np.asarray(told.made(None, jnp.asarray(UNIT), jax.random.key(0))["image"])
    mask = made[..., 1:]
    np.testing.assert_allclose(made[..., :1], UNIT * (1 - mask), atol=1e-6)
    for given in (mask[0], mask[0, ..., 0].astype(bool), (mask[0] * 255).astype(np.uint8)):
        np.testing.assert_allclose(told.request([{"image": LEVELS[0], "mask": given}])["image"], made[:1], atol=1e-6)
    # Of a wide picture the middle is taken, and of its mask: columns 10 to 30 of 40, of which those below 15 are hidden.
    wide = Image.fromarray((np.arange(40) < 15).astype(np.uint8).repeat(20).reshape(40, 20).T * 255)
    np.testing.assert_array_equal(
        told.request([{"image": wide, "mask": wide}])["image"][0, :, :, 1], np.tile(np.arange(8) < 2, (8, 1))
    )
    np.testing.assert_array_equal(told.request([{}])["image"], told.null["image"])
    for wrong, said in (
        ({"image": LEVELS[0]}, "a request without 'mask'"),
        ({"mask": mask[0]}, "a request without 'image'"),
        ({"image": LEVELS[0], "mask": np.full((8, 8), 0.5)}, "1 or True where the picture is hidden"),
        ({"image": LEVELS[0], "maks": mask[0]}, "request 'maks' is not known; did you mean 'mask'"),
        (LEVELS[0], "a request is .*, not ndarray"),
    ):
        with pytest.raises(UserError, match=said):
            told.request([wrong])


def test_pictures_of_any_kind_become_what_the_examples_are(pictures, tmp_path):
    Image.fromarray(LEVELS[0, ..., 0]).save(tmp_path / "a.png")
    file = tmp_path / "a.png"
    for given in (file, str(file), file.read_bytes(), Image.open(file), LEVELS[0], UNIT[0], LEVELS[0, ..., 0]):
        np.testing.assert_allclose(pictures(pictures_of("images", given)), UNIT[:1], atol=1e-6)
    save_grid(tmp_path / "ink.png", UNIT[:1], 1)  # dark on white, which the file says
    assert np.asarray(Image.open(tmp_path / "ink.png"))[0, 0] == 255 - LEVELS[0, 0, 0, 0]
    np.testing.assert_allclose(pictures([tmp_path / "ink.png"]), UNIT[:1], atol=1e-6)
    wide = Image.fromarray(np.full((20, 40, 3), (255, 0, 0), np.uint8))
    np.testing.assert_allclose(pictures([wide]), np.full((1, *SHAPE), 76 / 127.5 - 1), atol=1e-6)
    assert len(pictures_of("images", LEVELS)) == 6
    for wrong, said in (
        ([tmp_path / "b.png"], "no image at .*b.png.*nearest: a.png"),
        ([np.zeros((4, 4, 1), np.float32)], r"floats of shape \(4, 4, 1\): the run's are \(8, 8, 1\)"),
        ([np.full(SHAPE, 7.0, np.float32)], r"are not in \[-1, 1\]"),
    ):
        with pytest.raises(UserError, match=said):
            pictures(wrong)
    with pytest.raises(UserError, match="images: int is no picture"):
        pictures_of("images", 3)
    with pytest.raises(UserError, match="is made of pictures"):
        Pictures.of(CONFIG, None, Data([{"image": np.zeros(4, np.float32)}]))


def several(pictures, **drops):
    parts = {"low": LowResolution(pictures, drops.get("low", 0.0)), "class": Label(("a", "b"), drops.get("label", 0.0))}
    return Several(parts, drops.get("all", 0.0))


def test_parts_are_dropped_apart_and_together(pictures):
    told, n = several(pictures, low=0.3, label=0.5, all=0.2), 20_000
    cond = {"label": jnp.zeros(n, int), "image": jnp.ones((n, 1, 1, 1)), "level": jnp.zeros(n)}
    null = {"label": jnp.array([2]), "image": jnp.zeros((1, 1, 1, 1)), "level": jnp.ones(1)}
    out = told.dropped(cond, null, jax.random.key(0))
    label, low = np.asarray(out["label"]) == 2, np.asarray(out["level"]) == 1
    np.testing.assert_array_equal(np.asarray(out["image"]).ravel() == 0, low)
    near = 4 * np.sqrt(0.25 / n)
    assert label.mean() == pytest.approx(0.2 + 0.8 * 0.5, abs=near)
    assert low.mean() == pytest.approx(0.2 + 0.8 * 0.3, abs=near)
    assert (label & low).mean() == pytest.approx(0.2 + 0.8 * 0.3 * 0.5, abs=near)


def test_what_a_request_leaves_out_is_that_parts_null(pictures):
    told = several(pictures)
    assert told.asks == ("label", "image") and told.counts == {"label": 3} and told.guides
    cond = told.request([{"label": "b"}, {"image": LEVELS[0]}, {}, {"label": 0, "image": LEVELS[1]}])
    np.testing.assert_array_equal(cond["label"], [1, 2, 2, 0])
    np.testing.assert_array_equal(cond["level"], [1, 0, 1, 0])
    np.testing.assert_allclose(cond["image"][3], reduced(jnp.asarray(UNIT[1:2]), 4)[0], atol=1e-6)
    np.testing.assert_array_equal(cond["image"][0], 0)
    assert told.listed("prompts", {"label": 1}) == [{"label": 1}]
    shown = told.shown(Data(), Data({"image": one} for one in LEVELS))
    assert [row["label"] for row in shown] == ["a", "b"] * 4 and "image" in shown[5] and "image" not in shown[6]
    for wrong, said in (
        ([{"lable": 1}], "request 'lable' is not known; did you mean 'label'"),
        (["a"], "a request is {'label': ..., 'image': ...}"),
        ([], "the model is asked by"),
    ):
        with pytest.raises(UserError, match=said):
            told.listed("prompts", wrong)
    with pytest.raises(UserError, match="parts 'a' and 'b' both give the entry 'label': drop one"):
        Several({"a": Label(("a", "b")), "b": Label(("c", "d"))})
    one = Several({"class": Label(("a", "b"))})
    assert one.asks == ("label",) and one.listed("labels", "b") == ["b"]
    np.testing.assert_array_equal(one.request(["b"])["label"], [1])
    assert Several({"n": Nothing(), "class": Label(("a", "b"))}).entries == {"label": ()}


@pytest.mark.parametrize(
    ("told", "source", "said"),
    [
        ("text", "classes", r"have no captions; say data.templates=photo to make them of the names of the classes$"),
        ("text", "arrays", r"data 'arrays': the examples have no captions$"),
        ("text", "parquet", r"have no captions; say data.caption_key=NAME where they are called otherwise$"),
        (
            "label",
            "folder",
            r"data 'folder': example 0 has no label, .*; .* in a folder a class are data.name=classes$",
        ),
        ("label", "arrays", r"example 0 has no label, .*; say data.label_key=NAME where it is called otherwise$"),
        (
            "label",
            "tar",
            r"example 0 has no label, .*; it is KEY.cls beside KEY.jpg, or data.label_key=NAME of KEY.json$",
        ),
    ],
)
def test_what_the_data_lack_is_told_with_what_gives_it(told, source, said, monkeypatch):
    # The module, whose name in the package is its function's.
    text = importlib.import_module("diffusion_jax.systems.diffusion.conditions.text")
    monkeypatch.setattr(text, "encoder_of", lambda *rest: None)
    spec = {"name": "text", "encoder": "clip"} if told == "text" else {"name": "label"}
    with pytest.raises(UserError, match=said):
        condition(spec, None, Data([{"image": LEVELS[0]}]), ConfigDict({"data": {"name": source}}))


def test_an_embedding_in_the_step_is_that_of_the_encoder(clip):
    embed, size = embedder(clip, (8, 8, 3))
    assert size == 64
    pixels = RNG.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    unit = (pixels / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(embed(clip.params, jnp.asarray(unit)), clip.encode_image(pixels), atol=1e-5)
    grey = embed(clip.params, jnp.asarray(unit[..., :1]))
    np.testing.assert_allclose(grey, clip.encode_image(pixels[..., :1].repeat(3, axis=-1)), atol=1e-5)
    # Other sizes are resized as the encoder's preparation resizes, which rounds to levels.
    smooth = np.asarray(Image.fromarray(pixels[0]).resize((32, 32), Image.Resampling.BICUBIC))[None]
    larger = embedder(clip, (32, 32, 3))[0](clip.params, jnp.asarray((smooth / 127.5 - 1).astype(np.float32)))
    np.testing.assert_allclose(larger, clip.encode_image(smooth), atol=0.02)
    with pytest.raises(UserError, match="reads no texts"):
        clip.encode_text(["a"])


def test_embeddings_of_a_source_are_those_of_its_pictures_and_broken_ones_are_passed_over(clip):
    embed, _ = embedder(clip, (8, 8, 3))
    rows = RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)

    class Broken(Data):
        def __getitem__(self, place):
            if place == 2:
                raise UserError("picture 2 cannot be read")
            return super().__getitem__(place)

    data = Data({"image": one} for one in rows)
    made = embedded(embed, clip.params, data, size=2)
    np.testing.assert_allclose(made, clip.encode_image(rows), atol=1e-5)
    some = embedded(embed, clip.params, Broken(data), skip=True, size=4)
    np.testing.assert_allclose(some, np.where(np.arange(5)[:, None] == 2, 0, made), atol=1e-6)
    with pytest.raises(UserError, match="picture 2 cannot be read"):
        embedded(embed, clip.params, Broken(data))


def test_outputs_are_made_once_of_a_key_and_whole_or_not_at_all(tmp_path):
    made = []

    whole = {"a": np.arange(12.0).reshape(4, 3)[:, ::-1], "b": np.arange(4)}

    def make():
        made.append(1)
        for part in (slice(0, 3), slice(3, 4)):
            yield {name: array[part] for name, array in whole.items()}

    for key in ({"x": 1}, {"x": 1}, {"x": 2}):
        found = cached(str(tmp_path), "kind", key, 4, make)
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert len(made) == 2 and len(list(tmp_path.iterdir())) == 2

    def fails():
        yield {"a": np.zeros((1, 3))}
        raise UserError("a picture is broken")

    with pytest.raises(UserError, match="a picture is broken"):
        cached(str(tmp_path), "kind", {"x": 3}, 4, fails)
    assert len(list(tmp_path.iterdir())) == 2
    place = next(folder for folder in tmp_path.iterdir() if json.loads((folder / "key.json").read_text()) == {"x": 1})
    (place / "a.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"a\.npy cannot be read .*: remove .*, and it is made again"):
        cached(str(tmp_path), "kind", {"x": 1}, 4, make)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        cached(str(tmp_path / "file"), "kind", {"x": 1}, 4, make)


def test_the_key_of_data_is_another_for_other_pictures_keys_and_preparations(tmp_path):
    def key(images=LEVELS, **more):
        config = ConfigDict({"system": "diffusion", "data": {"name": "digits", **more.pop("data", {})}, **more})
        return data_key(config, Data({"image": one} for one in images))

    assert key() == key()
    assert key() == key(batch_size=3)
    others = [key(LEVELS[::-1]), key(LEVELS[:5]), key(data={"shift": 1.0}), key(preprocess={"size": 8})]
    assert all(other != key() for other in others)
    assert Preprocess(size=8) != Preprocess(size=9)  # equal by value: it stands in the key by its text
