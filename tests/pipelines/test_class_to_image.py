"""DiT from a folder and from Meta's file: what diffusers drew with the same folder, and what a user may do with it."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from described import build
from PIL import Image

from diffusion_jax.cli import main
from diffusion_jax.convert.dit import save_dit
from diffusion_jax.nets import DIT_MODELS
from diffusion_jax.nets.layers import sincos_positions
from diffusion_jax.pipelines import class_to_image, load_pipeline
from diffusion_jax.sampling import DDPM, UniPC
from diffusion_jax.systems.diffusion.pretrained import load_network
from diffusion_jax.systems.vae.pretrained import load_vae_network
from diffusion_jax.typing import UserError

GOLDEN = Path(__file__).parent / "golden"
FEW = {"num_steps": 2, "output": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(GOLDEN / "dit.json", tmp_path_factory.mktemp("pipelines") / "dit")


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder)


def test_it_draws_what_diffusers_draws(pipeline):
    """DDPM with noise in every step, guidance of all channels; the golden file was made by `make_pipeline_goldens`."""
    with np.load(GOLDEN / "dit.npz") as golden:
        labels = ["golden retriever", 1]
        latents = pipeline.generate(
            labels, num_steps=4, guidance_scale=3.0, noise=golden["noise"], output="latent", batch_size=1
        )
        assert np.abs(latents - golden["latents"]).max() <= 1e-4 * np.abs(golden["latents"]).max()
        assert np.abs(pipeline.decode(golden["latents"]) - golden["images"]).max() <= 1e-4


def test_a_picture_is_a_function_of_seed_and_place(pipeline):
    both = pipeline.generate([207, 1], seed=3, **FEW)
    np.testing.assert_allclose(pipeline.generate(1, seed=3, start=1, **FEW), both[1:], rtol=1e-5, atol=1e-5)
    assert np.abs(pipeline.generate([207, 1], seed=4, **FEW) - both).max() > 0.1


def test_the_fourth_channel_is_the_classes_own(pipeline):
    """In one step to clean data: x0 is affine in eps, so that what is not guided is what is drawn at scale 1."""
    one = {"solver": "ddim", "grid": np.array([0.5, 0.0]), "output": "latent", "seed": 5}
    plain, guided, three = (
        pipeline.generate(207, guidance_scale=scale, guidance=how, **one)
        for scale, how in ((1.0, None), (4.0, None), (4.0, {"channels": 3}))
    )
    np.testing.assert_allclose(three[..., :3], guided[..., :3], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(three[..., 3], plain[..., 3], rtol=1e-5, atol=1e-4)
    assert np.abs(guided[..., 3] - plain[..., 3]).max() > 0.1
    away = pipeline.generate(207, negative="goldfish", guidance_scale=4.0, **one)
    assert np.abs(away - guided).max() > 0.1


@pytest.mark.slow
def test_any_solver_takes_the_schedulers_place(pipeline):
    assert np.isfinite(pipeline.generate("tench", **FEW, solver=UniPC(2), grid="karras")).all()
    fixed, learned = (pipeline.generate(0, **FEW, solver=DDPM(kind)) for kind in ("posterior", "learned_range"))
    assert np.abs(fixed - learned).max() > 1e-3


def test_names(pipeline):
    assert pipeline.label_ids(["tench", "Tinca Tinca", "207", "GOLDFISH", 999]).tolist() == [0, 0, 207, 1, 999]
    assert len(pipeline.class_names) == 1000 and pipeline.class_names[5] == "5"


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        ("golden retreiver", {}, "label 'golden retreiver' is none of the classes; did you mean 'golden retriever'"),
        ("crane", {}, "label 'crane' is the name of the classes 134, 517: give the number of one"),
        (1000, {}, r"label 1000 is not in 0 .. 999; nearest: 999"),
        ([], {}, "labels are empty"),
        ([1, 2], {"negative": [1, 2, 3]}, "negative has 3 labels for 2"),
        ([1], {"negative": 0, "guidance_scale": 0.5}, "is no guidance, so that a negative changes nothing"),
        (1, {"noise": np.zeros((2, 8, 8, 4))}, r"noise has shape \(2, 8, 8, 4\); 1 pictures of this size need"),
        (1, {"guidance": {"channels": 5}}, "channels 5 are guided of 4 that there are; nearest: 4"),
        (1, {"guidance": {"channels": 0}}, "channels 0 is not a whole number of at least 1; nearest: 1"),
        (1, {"output": "latents"}, "output 'latents' is not known; did you mean 'latent'"),
        (1, {"solver": "dimm"}, "solver 'dimm' is not known; did you mean 'ddim'"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(pipeline, labels, given, message):
    with pytest.raises(UserError, match=message) as caught:
        pipeline.generate(labels, **{**FEW, **given})
    assert "\n" not in str(caught.value)


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.rmtree(f / "transformer"), "lacks the folder 'transformer'"),
        (lambda f: edit(f / "model_index.json", vae=[None, None]), "names no vae: a DiTPipeline needs it"),
        (lambda f: edit(f / "model_index.json", unet=["diffusers", "UNet2DModel"]), "the part 'unet' is not read here"),
        (lambda f: edit(f / "model_index.json", id2label={"1000": "none"}), "no name of one of the 1000 classes"),
        (lambda f: edit(f / "model_index.json", _class_name="DitPipeline"), "did you mean 'DiTPipeline'"),
    ],
    ids=["transformer", "vae", "unet", "id2label", "class"],
)
def test_a_folder_that_is_not_whole_is_named(folder, tmp_path, change, message):
    shutil.copytree(folder, tmp_path / "broken")
    change(tmp_path / "broken")
    with pytest.raises(UserError, match=message) as caught:
        load_pipeline(tmp_path / "broken")
    assert "\n" not in str(caught.value)


def test_metas_file(folder, pipeline, tmp_path, monkeypatch):
    """The same weights in Meta's layout are drawn from with three guided channels and the variance of the network."""
    small = {**pipeline.config, "time_shift": 0.0, "eps": 1e-6}
    monkeypatch.setitem(DIT_MODELS, "dit-small", small)
    file = tmp_path / "DiT.safetensors"
    params = jax.tree.map(np.asarray, pipeline.params)
    save_dit(file, small, params, layout="meta", positions=sincos_positions(4, 4, small["width"]))
    found = load_pipeline(file, model="dit-small", vae=folder / "vae")
    assert found.guided_channels == 3 and found.scheduler.learned_variance and found.class_names[3] == "3"
    assert found.generate([3], **FEW).shape == (1, 8, 8, 4)
    joined = class_to_image(
        load_network(file, model="dit-small"), load_vae_network(folder / "vae"), names={3: "great white shark"}
    )
    np.testing.assert_array_equal(joined.generate("great white shark", **FEW), found.generate(3, **FEW))
    for given, message in (
        ({"model": "dit-small"}, "model and vae are given together"),
        ({"model": "dit-xl-2-265", "vae": folder / "vae"}, "did you mean 'dit-xl-2-256'"),
        ({}, "holds weights and no vocabulary"),
    ):
        with pytest.raises(UserError, match=message):
            load_pipeline(file, **given)


@pytest.mark.slow
def test_from_the_command_line(folder, tmp_path, capsys):
    out = tmp_path / "dog.png"
    how = [
        "sample",
        "--pretrained",
        str(folder),
        "--num-steps",
        "2",
        "--num-images",
        "2",
        "--guidance-option",
        "channels=3",
    ]
    how += ["--out", str(out)]
    assert main([*how, "--label", "golden retriever", "--label", "517"]) == 0
    with Image.open(out) as picture:
        assert picture.size == (38, 20)  # two of 16 x 16, and paper around
    (tmp_path / "asked.txt").write_text("tench\n134\n")
    many = ["--prompts", str(tmp_path / "asked.txt"), "--format", "png", "--out", str(tmp_path / "many")]
    assert main([*how[:-2], *many]) == 0
    assert len(list((tmp_path / "many").glob("*.png"))) == 2
    capsys.readouterr()
    for wrong, said in (
        (["--label", "golden retreiver"], "did you mean 'golden retriever'"),
        (["--prompt", "a dog"], "takes no --prompt: it asks for --label"),
        (["--label", "1", "--size", "32"], "this DiT draws 16 x 16 alone; nearest: 16"),
        (["--label", "1", "--strength", "0.5"], "holds a DiT"),
        ([], "give --label"),
    ):
        assert main([*how, "--overwrite", *wrong]) != 0
        said_ = capsys.readouterr().err
        assert said in said_ and "Traceback" not in said_, said_


def test_a_guidance_without_a_scale_has_its_own(pipeline):
    """4, of CFG++ 0.6."""
    for guidance, scale in ((None, 4.0), ("cfg_plus_plus", 0.6)):
        how = {**FEW, "guidance": guidance, "solver": "ddim", "seed": 2}
        np.testing.assert_array_equal(pipeline.generate(1, **how), pipeline.generate(1, guidance_scale=scale, **how))
