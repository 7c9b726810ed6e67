"""`diffusion-jax unclip`: every action into a picture, and every slip in one line."""

import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.cli.options.unclip import ACTIONS
from diffusion_jax.pipelines.unclip_runs import load_unclip
from diffusion_jax.report.pictures import to_uint8

SHORT = ["--num-steps", "2", "--scale", "1"]


@pytest.fixture(scope="module")
def folder(once):
    return once("unclip", tiny.make_unclip)


@pytest.fixture(scope="module")
def scan(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("scan") / "a.png"
    image = load_run(folder / "decoder").examples("test")[3]["image"]
    Image.fromarray(to_uint8(np.asarray(image))[..., 0], "L").save(place)
    return str(place)


def given(folder, action, scan):
    return ["unclip", action, "--decoder", str(folder / "decoder")] + {
        "generate": ["--prior", str(folder / "prior"), "--prompt", "a two", "--prompt", "a six", "--num-images", "3"],
        "variations": ["--image", scan, "--num-images", "2"],
        "interpolate": ["--image", scan, "--image", scan, "--num-images", "5"],
        "diff": ["--image", scan, "--source", "a two", "--target", "a six", "--theta", "0", "--theta", "0.3"],
        "components": ["--image", scan, "--count", "1", "--count", "8"],
    }[action]


COLUMNS = {"generate": (2, 3), "variations": (1, 3), "interpolate": (1, 5), "diff": (1, 3), "components": (1, 3)}


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_makes_a_picture(folder, action, scan, tmp_path, capsys):
    out = tmp_path / "a.png"
    assert main([*given(folder, action, scan), *SHORT, "--out", str(out)]) == 0
    rows, columns = COLUMNS[action]
    with Image.open(out) as picture:
        assert (picture.height, picture.width) == (10 * rows + 2, 10 * columns + 2)
        assert picture.text["action"] == action
    assert f"{rows * columns} picture" in capsys.readouterr().err


def test_one_picture_may_be_given_back_and_a_sheet_may_not(folder, tmp_path, capsys):
    """Ink on paper both ways."""
    words = ["unclip", "generate", "--decoder", str(folder / "decoder"), "--prompt", "a two", *SHORT]
    one, sheet, back = (str(tmp_path / f"{name}.png") for name in ("one", "sheet", "back"))
    assert main([*words, "--num-images", "1", "--out", one]) == 0
    unclip = load_unclip(folder / "decoder")
    drawn = unclip.generate(["a two"], options={"num_steps": 2})
    np.testing.assert_allclose(unclip.decoder.pictures([one]), drawn, atol=1 / 127)
    with Image.open(one) as picture:
        assert picture.size == (8, 8)
        np.testing.assert_array_equal(unclip.decoder.pictures([picture]), unclip.decoder.pictures([one]))
    assert main([*words, "--num-images", "2", "--out", sheet]) == 0
    capsys.readouterr()
    words = ["unclip", "variations", "--decoder", str(folder / "decoder"), "--out", back]
    tiny.fails(capsys, [*words, "--image", sheet], "is a sheet of 2 pictures: give one picture")


def test_a_folder_of_runs_names_them(folder, tmp_path, capsys):
    words = ["unclip", "generate", "--decoder", str(folder), "--prompt", "a two", "--out", str(tmp_path / "a.png")]
    tiny.fails(capsys, words, "config.json is missing; in it are ", repr(str(folder / "decoder")))


def test_an_action_that_is_none_names_the_nearest(folder, capsys):
    tiny.fails(
        capsys,
        ["unclip", "variation", "--decoder", str(folder / "decoder"), "--out", "a.png"],
        "did you mean 'variations'?",
    )


def test_it_draws_what_the_pipeline_draws(folder, scan, tmp_path):
    unclip = load_unclip(folder / "decoder", prior=folder / "prior")
    drawn = unclip.generate(["a two"] * 2, seed=5, options={"num_steps": 2})
    out = tmp_path / "a.png"
    words = [
        "unclip",
        "generate",
        "--decoder",
        str(folder / "decoder"),
        "--prior",
        str(folder / "prior"),
        "--prompt",
        "a two",
    ]
    assert main([*words, *SHORT, "--num-images", "2", "--seed", "5", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        shown = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(shown[2:10, 2:10], 255 - to_uint8(drawn)[0, ..., 0])


@pytest.mark.parametrize(
    ("action", "more", "said"),
    [
        (
            "generate",
            ["--eta", "0"],
            "--eta does not go with 'generate', where it changes nothing: it is of variations",
        ),
        ("generate", ["--candidates", "0"], "--candidates 0 is not at least 1"),
        ("variations", ["--eta", "nan"], "--eta nan is not finite"),
        ("variations", ["--prior", "x"], "--prior does not go with 'variations'"),
        ("interpolate", ["--image", "a.png"], "goes from one --image to another: give --image twice, not 3 times"),
        ("diff", ["--theta", "2"], "thetas [0.0, 0.3, 2.0] are not numbers from 0 to 1"),
        ("components", ["--count", "9"], "count 9: there are 8 components; nearest: 8"),
        ("variations", ["--num-images", "0"], "--num-images 0 is not at least 1"),
        ("variations", ["--fresh", "--refinements", "2"], "--refinements does not go with --fresh"),
        ("variations", ["--image", "none.png"], "none.png"),
    ],
)
def test_slips(folder, scan, tmp_path, capsys, action, more, said):
    tiny.fails(capsys, [*given(folder, action, scan), *SHORT, *more, "--out", str(tmp_path / "a.png")], said)
    assert not (tmp_path / "a.png").exists()


def test_without_what_an_action_needs(folder, tmp_path, capsys):
    words = ["unclip", "diff", "--decoder", str(folder / "decoder"), "--out", str(tmp_path / "a.png")]
    tiny.fails(capsys, words, "'diff' needs --image")
    words = ["unclip", "generate", "--decoder", str(folder / "decoder"), "--prompt", "a two"]
    tiny.fails(capsys, [*words, "--candidates", "3", "--out", "a.png"], "--candidates needs --prior")
    tiny.fails(capsys, [*words, "--out", "a.jpg"], "--out 'a.jpg' is not a .png file; did you mean 'a.png'?")
