"""One prompt, picture or text is one, wherever several are taken; what is none of them, or nothing, is one line."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_run
from diffusion_jax.config import load_config, parse_overrides
from diffusion_jax.systems.clip.run import ClipRun, clip_parts
from diffusion_jax.typing import UserError, texts_of, whole_number


@pytest.fixture(scope="module")
def diffusion(run):
    return load_run(run)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A CLIP on pictures, and one of them."""
    folder = tiny.make_pictures(tmp_path_factory.mktemp("own"))
    _, _, _, name, *overrides = tiny.folder_arguments(folder, folder / "run")
    config = load_config(name, parse_overrides(overrides))
    network, tokenizer, preprocess = clip_parts(config)
    run = ClipRun(folder, config, network, network.init(jax.random.key(0)), tokenizer, preprocess)
    return run, folder / "pictures" / "000.png"


def bare(method):
    """A bound method without the tests' type checker, as a user has it."""
    return functools.partial(inspect.unwrap(method.__func__), method.__self__)


def test_a_text_alone_is_one(diffusion):
    several = diffusion.generate(["a seven"], num_steps=4)
    assert several.shape == (1, 8, 8, 1)
    np.testing.assert_array_equal(diffusion.generate("a seven", num_steps=4), several)
    np.testing.assert_array_equal(diffusion.clip.encode_text("a seven"), diffusion.clip.encode_text(["a seven"]))
    assert len(diffusion.encode_text("a seven")["pooled"]) == len(diffusion.clip.condition("a seven")["length"]) == 1
    assert texts_of("texts", np.array(["a", "b"])) == texts_of("texts", (c for c in "ab")) == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "none is given, give at least one"),
        (None, "a NoneType, which is not text"),
        (3, "a int, which is not text"),
        (b"a seven", "a bytes, which is not text"),
        ({"a": 1}, "a dict, which is not text"),
        ({"a"}, "a set, which is not text"),
        (["a", 3], r"\[1\] is a int, which is not text"),
        ([["a"]], r"\[0\] is a list"),
    ],
)
def test_what_is_no_text_is_one_line(diffusion, given, said):
    for call in (diffusion.generate, diffusion.encode_text, diffusion.clip.encode_text, diffusion.clip.condition):
        with pytest.raises(UserError, match=said):
            bare(call)(given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": True}, "seed True is not a whole number from 0"),
        ({"seed": 1.0}, "seed 1.0 is not a whole number"),
        ({"seed": -1}, "seed -1 is not a whole number from 0 to 4294967295; nearest: 0"),
        ({"seed": "1"}, "seed '1' is not a whole number"),
        ({"start": -1}, "start -1 is not a whole number"),
        ({"batch_size": 0}, "batch_size 0 is not a whole number of at least 1; nearest: 1"),
        ({"batch_size": 2.5}, "batch_size 2.5 is not a whole number"),
        ({"num_steps": True}, "num_steps True is not a whole number"),
        ({"num_steps": 10**9}, "num_steps 1000000000 is more than 100000; usual are"),
        ({"guidance_scale": "3"}, "guidance scale '3' is not a number"),
        ({"guidance_scale": True}, "guidance scale True is not a number"),
        ({"guidance_scale": [[1.0]]}, "is not a number, or one an image"),
        ({"guidance_scale": [1.0, [2.0]]}, "is not a number, or one an image"),
        ({"guidance_scale": float("inf")}, "guidance scale inf is not finite"),
        ({"solver_options": {"eta": float("nan")}}, "eta nan of the solver is not a finite number"),
        ({"negative": 3}, "negative is a int, which is not text"),
        ({"negative": []}, "negative: none is given"),
    ],
    ids=str,
)
def test_generates_numbers_are_checked(diffusion, options, said):
    with pytest.raises(UserError, match=said):
        bare(diffusion.generate)("a seven", **options)


def test_whole_numbers_of_numpy_are_whole():
    assert whole_number("n", np.int64(3), 1) == 3


def test_a_picture_alone_is_one(photographs, diffusion):
    run, file = photographs
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    pixels = np.asarray(picture)
    wanted = run.encode_image([file])
    assert wanted.shape == (1, 16)
    for one in (file, str(file), file.read_bytes(), picture, pixels, [pixels], pixels[None], iter([picture])):
        np.testing.assert_allclose(run.encode_image(one), wanted, atol=1e-6)
    assert run.encode_image([str(file), picture, pixels]).shape == (3, 16)
    small = np.asarray(picture.resize((16, 16)))
    unit = small.astype(np.float32) / 127.5 - 1
    for one in (unit, jnp.asarray(unit), [unit], unit[None]):
        np.testing.assert_allclose(run.encode_image(one), run.encode_image(small[None]), atol=1e-5)
    assert run.encode_image(pixels[..., 0]).shape == (1, 16)  # grey
    scan = np.zeros((8, 8, 1), np.float32)
    assert diffusion.clip.encode_image(scan).shape == diffusion.clip.encode_image([scan]).shape == (1, 8)


NOT_PICTURES = [
    (None, "images is a NoneType"),
    (3, "images is a int"),
    ({"a": 1}, "images is a dict"),
    ([], "holds no picture: give at least one"),
    (np.zeros((0, 8, 8, 1), np.float32), "give one picture at least"),
    (np.zeros((8, 8, 3, 0), np.float32), "images of shape"),
    (np.full((1, 16, 16, 3), 200.0), "are not in \\[-1, 1\\]; clip them, or rescale 0 .. 255"),
    (np.full((1, 16, 16, 3), np.nan), "are not in \\[-1, 1\\]"),
    (np.zeros((16, 16)), "images of shape \\(16, 16\\)"),
    ([np.zeros((16, 16, 3)), np.zeros((8, 8, 3))], "float images of a list have one shape"),
]


@pytest.mark.parametrize(("given", "said"), NOT_PICTURES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_picture_is_one_line(photographs, diffusion, given, said):
    for run in (photographs[0], diffusion.clip):
        with pytest.raises(UserError, match=said):
            run.encode_image(given)


def test_other_pictures_that_a_run_does_not_take(photographs, diffusion):
    for given, said in (
        (np.zeros((1, 16, 16, 3), np.int64), "an image of int64: give uint8"),
        (["nothing.png"], "no image at nothing.png"),
        ([None], "NoneType is not an image"),
        (np.zeros((1, 16, 16, 3), bool), "an image of bool"),
    ):
        with pytest.raises(UserError, match=said):
            photographs[0].encode_image(given)
    for given in (np.zeros((8, 8, 1), np.uint8), Image.new("L", (8, 8)), "a.png", [np.zeros((8, 8, 1), np.uint8)]):
        with pytest.raises(UserError, match="give floats in"):
            diffusion.clip.encode_image(given)
    with pytest.raises(UserError, match="batch_size 0 is not a whole number"):
        photographs[0].encode_image(photographs[1], batch_size=0)
