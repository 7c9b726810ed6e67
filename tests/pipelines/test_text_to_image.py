"""Stable Diffusion from a folder: what diffusers drew with the same one, and what a user may do with it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described import build
from PIL import Image

from diffusion_jax.cli import main
from diffusion_jax.pipelines import Sizes, load_pipeline
from diffusion_jax.pipelines.checks import falling, guiding, number, solves
from diffusion_jax.pipelines.folder import read_index
from diffusion_jax.pipelines.loading import _scheduler_of, _size_of
from diffusion_jax.pipelines.pictures import masks_of, sizes_of
from diffusion_jax.sampling import UniPC
from diffusion_jax.sampling.sample import _sample
from diffusion_jax.typing import UserError

GOLDEN = Path(__file__).parent / "golden"
PROMPTS, NEGATIVE = ["a cat", "red dog"], ["dog", ""]
FEW = {"num_steps": 2, "output": "latent"}
LONG = np.full((32, 16, 3), 255, np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: build(GOLDEN / f"{kind}.json", root / kind) for kind in ("sd1", "xl")}


@pytest.fixture(scope="module")
def pipeline(folders):
    return load_pipeline(folders["sd1"])


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_it_draws_what_diffusers_draws(folders, kind):
    """Weights in float16, two encoders in XL, DDIM and Euler; the golden file was made by `make_pipeline_goldens`."""
    with np.load(GOLDEN / f"{kind}.npz") as golden:
        found = load_pipeline(folders[kind])
        latents = found.generate(
            PROMPTS, negative=NEGATIVE, num_steps=4, guidance_scale=3.0, noise=golden["noise"], output="latent"
        )
        assert np.abs(latents - golden["latents"]).max() <= 1e-4 * np.abs(golden["latents"]).max()
        images = found.decode(golden["latents"])
        assert images.dtype == np.float32 and np.abs(images - golden["images"]).max() <= 1e-4


def test_weights_in_bfloat16_draw_nearly_the_same(folders, pipeline):
    half = load_pipeline(folders["sd1"], param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((half.params, half.encoders[0].params))} == {jnp.dtype("bfloat16")}
    jax.tree.map(np.testing.assert_array_equal, half.params, pipeline.rounded().params)
    ours, exact = (one.generate(PROMPTS, seed=3, **FEW) for one in (half, pipeline))
    assert ours.dtype == np.float32 and 0 < np.abs(ours - exact).max() < 0.05 * np.abs(exact).max()
    with pytest.raises(UserError, match="in whose rounding a LoRA is lost"):
        half.with_lora("style.safetensors")


def test_a_picture_is_a_function_of_seed_and_place(pipeline):
    both = pipeline.generate(PROMPTS, seed=3, **FEW)
    second = pipeline.generate(PROMPTS[1], seed=3, start=1, **FEW)
    np.testing.assert_allclose(second, both[1:], rtol=1e-5, atol=1e-5)
    one_by_one = pipeline.generate(PROMPTS, seed=3, batch_size=1, **FEW)
    np.testing.assert_allclose(one_by_one, both, rtol=1e-5, atol=1e-5)
    assert np.abs(pipeline.generate(PROMPTS, seed=4, **FEW) - both).max() > 0.1


def test_a_picture_goes_back_to_noise_and_returns(pipeline):
    """Refined inversions undo DDIM's steps, on a grid fine enough for the random network; without them less."""
    picture = pipeline.generate(PROMPTS[0], seed=5, num_steps=2)
    latent = np.asarray(pipeline.vae.encode(jnp.asarray(picture)))
    grid, errors = np.linspace(0.1, 0.002, 25), []
    for refinements in (0, 4):
        noise = pipeline.invert(picture, PROMPTS[0], grid=grid, refinements=refinements)
        assert noise.shape == latent.shape
        how = {"solver": "ddim", "grid": grid, "guidance_scale": 1.0, "output": "latent"}
        back = pipeline.generate(PROMPTS[0], noise=noise, **how)
        errors.append(np.abs(back - latent).max() / np.abs(latent).max())
    assert errors[1] <= 0.01 and errors[1] < 0.2 * errors[0], errors


def test_other_prompts_scales_seeds_and_weights_compile_nothing(pipeline):
    pipeline.generate("a cat", seed=1, guidance_scale=3.0, **FEW)
    before = _sample._cache_size()
    halved = jax.tree.map(lambda leaf: 0.5 * leaf, pipeline.params)
    other = dataclasses.replace(pipeline, params=halved)
    for one in (pipeline, other):
        one.generate("red dog", negative="a cat", seed=2, guidance_scale=5.0, **FEW)
    assert _sample._cache_size() == before


@pytest.mark.slow
def test_any_solver_and_grid_take_the_schedulers_place(pipeline):
    noise = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    fine = pipeline.generate("a cat", num_steps=60, solver="ddim", noise=noise, guidance_scale=1.0, output="latent")
    for how in ({"solver": UniPC(3), "grid": "karras"}, {"solver": "dpm_solver_pp"}, {"grid": np.linspace(1, 0, 25)}):
        found = pipeline.generate("a cat", num_steps=24, noise=noise, guidance_scale=1.0, output="latent", **how)
        # The same ODE: what is left is DDIM's own error in 60 steps.
        assert np.abs(found - fine).mean() < 0.1 * np.abs(fine).mean(), how


def test_where_the_mask_is_black_the_picture_stays(pipeline):
    image = np.random.default_rng(1).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[:, 8:] = 1
    found = pipeline.generate("a cat", image=image, mask=mask, num_steps=3, seed=1, output="latent")
    begun = pipeline.generate("a cat", image=image, mask=mask, num_steps=3, seed=1, strength=0.5, output="latent")
    np.testing.assert_array_equal(found[:, :, :4], begun[:, :, :4])
    assert np.abs(found[:, :, 4:] - begun[:, :, 4:]).max() > 0.01


def test_a_picture_has_the_size_that_is_seen(pipeline, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (24, 16)).save(tmp_path / "turned.jpg", exif=exif)
    assert pipeline.pixels(image=tmp_path / "turned.jpg") == (24, 16)


def test_each_mask_belongs_to_its_picture():
    """Or one of either to all."""
    square, long = np.ones((16, 16), bool), np.ones((32, 16), bool)
    owns = sizes_of([np.zeros((16, 16, 3), np.uint8), LONG])
    assert owns == [(16, 16), (32, 16)]
    for masks, beside in (([square, long], owns), ([square, square], owns), (square, owns), ([long, long], owns[1:])):
        assert masks_of(masks, (16, 16), beside).all()
    with pytest.raises(UserError, match="mask is 32 x 16, the picture 16 x 16"):
        masks_of(long, (16, 16), owns)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 15}, "size 15 x 15 is not divided by 2; nearest: 16 x 16"),
        ({"size": (16, 17)}, "size 16 x 17 is not divided by 2; nearest: 16 x 16"),
        (
            {"noise": np.zeros((1, 8, 8, 4))},
            r"noise has shape \(1, 8, 8, 4\); 2 pictures of this size need \(2, 8, 8, 4\)",
        ),
        ({"mask": np.ones((16, 16))}, "a mask hides a part of a picture: give `image`"),
        ({"strength": 0.5}, "strength 0.5 says how far a picture is noised: give `image`"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "strength": 1.5}, r"strength 1.5 is not in \(0, 1\]; nearest: 1$"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "mask": np.ones((8, 8))}, "mask is 8 x 8, the picture 16 x 16"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "mask": np.zeros((16, 16))}, "mask has no white"),
        (
            {"image": np.zeros((16, 16, 3), np.uint8), "mask": np.full((16, 16), 255.0)},
            r"mask of floats reaches 255: .* \[0, 1\]",
        ),
        (
            {"image": [np.zeros((16, 16, 3), np.uint8), LONG], "mask": [LONG, np.ones((16, 16))], "size": 16},
            "mask is 32 x 16, the picture 16 x 16",
        ),
        (
            {"image": [np.zeros((16, 16, 3), np.uint8), LONG], "mask": [np.ones((16, 16))] * 3, "size": 16},
            "mask has 3 pictures, image has 2",
        ),
        ({"image": []}, "no picture: image and mask are one picture"),
        ({"image": np.full((16, 16, 3), 2.0, np.float32)}, "image of floats reaches 2"),
        ({"negative": ["a", "b", "c"]}, "negative has 3 texts for 2 prompts"),
        ({"second": "a dog"}, "a second prompt is for XL's second text encoder"),
        ({"clip_skip": 7}, "skipping 7 of the text encoder's 3 blocks"),
        ({"solver": "dimm"}, "solver 'dimm' is not known; did you mean 'ddim'"),
        ({"output": "images"}, "output 'images' is not known; did you mean 'image'"),
        ({"guidance": "cfg_plus_plus", "solver": "heun"}, "guidance 'cfg_plus_plus' needs a solver of first order"),
        ({"tile": 12}, "tile 12 is not divided by 8: .* whole latents of 2 pixels; nearest: 16"),
        ({"guidance_scale": -1.0}, "guidance_scale -1 is negative; nearest: 0"),
        (
            {"guidance_scale": 0.5, "negative": "a dog"},
            "a guidance_scale of 1 or less is no guidance, so that a negative changes nothing",
        ),
        ({"grid": np.array([1.0])}, r"grid is array\(\[1.\]\): it is a name, or two times at least that fall"),
        ({"grid": np.array([0.5, 1.0])}, "two times at least that fall"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_input_is_one_line(pipeline, given, message):
    with pytest.raises(UserError, match=message) as caught:
        pipeline.generate(PROMPTS, **{**FEW, **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: number("strength", "x", "0.8"), "strength is 'x', not a finite number; usual: 0.8"),
        (lambda: guiding("7.5", 7.5), "guidance_scale is '7.5', not a finite number"),
        (lambda: guiding(float("inf"), 7.5), "guidance_scale is inf, not a finite number"),
        (lambda: falling(3), "grid is 3: it is a name"),
        (lambda: falling(["a", "b"]), "it is a name, or two times"),
        (lambda: solves(5), "solver is 5: it is a name, or one of this library"),
        (lambda: solves(UniPC), "solver is <class .*UniPC.*: it is a name, or one of this library"),
    ],
)
def test_what_is_of_another_type_is_one_line(ask, message):
    with pytest.raises(UserError, match=message):
        ask()


def test_a_scale_of_1_and_below_is_no_guidance(pipeline):
    """0 is what is published for turbo models: the prompt's own prediction, where the formula has the empty one's."""
    plain, none = (pipeline.generate(PROMPTS, **{**FEW, "guidance_scale": scale}) for scale in (1.0, 0.0))
    np.testing.assert_array_equal(none, plain)
    assert np.abs(plain[0] - plain[1]).max() > 1e-3  # the prompts are heard
    assert guiding(0.3, 7.5, "cfg_plus_plus") == 0.3 and guiding(0.3, 7.5, "apg") == 1  # CFG++ acts from 0 to 1
    pipeline.generate(PROMPTS[:1], **{**FEW, "guidance_scale": 0.0, "negative": ""})


def test_what_is_left_out_of_a_text_is_said(pipeline):
    """As a warning where nothing listens, of whichever text."""
    long, lines = " ".join(["cat"] * 90), []
    for given in ({"negative": long}, {"negative": ["", long]}):
        with pytest.warns(UserWarning, match="cat") as warned:
            pipeline.generate(PROMPTS, **{**FEW, **given})
        assert len(warned) == 1 and "\n" not in str(warned[0].message)
    pipeline.generate([long], **FEW, say=lines.append)
    assert str(warned[0].message) in lines


def damaged(folder, place, change):
    shutil.copytree(folder, place)
    change(place)
    return place


def edit(path, **fields):
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, **fields}))


def told_late(folder, part, **fields):
    """A part that cannot be read, beside others whose weights are damaged: these are not read before it is refused."""
    edit(folder / part / "config.json", **fields)
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"")


BROKEN = [
    (lambda f: shutil.rmtree(f / "vae"), "lacks the folder 'vae', which model_index.json names"),
    (lambda f: (f / "model_index.json").unlink(), "is no folder of a pipeline: model_index.json is missing"),
    (
        lambda f: edit(f / "model_index.json", _class_name="StableDiffusionPipelin"),
        "did you mean 'StableDiffusionPipeline'",
    ),
    (
        lambda f: edit(f / "model_index.json", unet=["diffusers", "UNet3DConditionModel"]),
        "unet 'UNet3DConditionModel' is not",
    ),
    (
        lambda f: edit(f / "model_index.json", controlnet=["diffusers", "ControlNetModel"]),
        "the part 'controlnet' is not read",
    ),
    (lambda f: edit(f / "unet" / "config.json", cross_attention_dim=16), "conv|attn2|parts of two models"),
    (lambda f: edit(f / "scheduler" / "scheduler_config.json", beta_schedule="linaer"), "beta_schedule"),
    (
        lambda f: edit(f / "unet" / "config.json", sample_size="64"),
        "config.json': sample_size '64' is not a whole number",
    ),
    (lambda f: edit(f / "unet" / "config.json", sample_size=[8, 12]), r"sample_size \[8, 12\] is not square"),
    (lambda f: told_late(f, "unet", dual_cross_attentoin=True), "dual_cross_attentoin True is not known; did you mean"),
    (lambda f: told_late(f, "vae", norm_num_groups=0), "norm_num_groups 0 is not a whole number"),
    (lambda f: told_late(f, "vae", latent_channels=5), "takes 4 channels, and latents have 5"),
    (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "lacks scheduler/scheduler_config.json"),
    (lambda f: (f / "tokenizer" / "merges.txt").unlink(), "merges.txt"),
    (
        lambda f: (f / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(
            (f / "vae" / "diffusion_pytorch_model.fp16.safetensors").read_bytes()[:-100]
        ),
        "diffusion_pytorch_model.fp16.safetensors",
    ),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message[:30] for _, message in BROKEN])
def test_a_folder_that_is_not_whole_is_named(folders, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load_pipeline(damaged(folders["sd1"], tmp_path / "broken", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "version", "size", "drawn"),
    [
        ("StableDiffusionPipeline", "0.6.0.dev0", 8, 64),
        ("StableDiffusionImg2ImgPipeline", "0.8.1", 8, 64),
        ("StableDiffusionInpaintPipeline", "0.8.1", [8, 8], 8),
        ("StableDiffusionPipeline", "0.8.1", 96, 96),
        ("StableDiffusionPipeline", "0.9.0", 8, 8),
        ("StableDiffusionPipeline", "0.10.2", 8, 8),
        ("StableDiffusionPipeline", None, 8, 8),
        ("StableDiffusionPipeline", "0.8.1", None, 64),
        ("LatentConsistencyModelPipeline", "0.8.1", 8, 8),
    ],
)
def test_old_folders_draw_in_the_size_of_the_model(folders, tmp_path, name, version, size, drawn):
    """diffusers' pipelines of Stable Diffusion correct a U-Net's config of before 0.9."""
    folder = tmp_path / "old"
    shutil.copytree(folders["sd1"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    edit(folder / "model_index.json", _class_name=name)
    edit(folder / "unet" / "config.json", _diffusers_version=version, sample_size=size)
    assert _size_of(read_index(folder)) == drawn


@pytest.mark.parametrize(
    ("name", "scheduler", "changed"),
    [
        ("StableDiffusionPipeline", "DDIMScheduler", {"steps_offset": 1, "clip_sample": False}),
        ("StableDiffusionImg2ImgPipeline", "PNDMScheduler", {"steps_offset": 1, "skip_prk_steps": False}),
        ("StableDiffusionInpaintPipeline", "DDIMScheduler", {"steps_offset": 1, "clip_sample": True}),
        ("StableDiffusionInpaintPipeline", "PNDMScheduler", {"steps_offset": 1, "skip_prk_steps": True}),
        ("StableDiffusionImg2ImgPipeline", "LCMScheduler", {"shortens": False}),
        ("LatentConsistencyModelImg2ImgPipeline", "LCMScheduler", {"shortens": True, "clip_sample": True}),
        ("LatentConsistencyModelImg2ImgPipeline", "DDIMScheduler", {"shortens": False, "steps_offset": 0}),
    ],
)
def test_each_pipeline_changes_its_scheduler_as_diffusers_does(folders, tmp_path, name, scheduler, changed):
    folder = tmp_path / "told"
    shutil.copytree(folders["sd1"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    edit(folder / "model_index.json", _class_name=name, scheduler=["diffusers", scheduler])
    given = {"_class_name": scheduler, "steps_offset": 0, "clip_sample": True, "skip_prk_steps": False}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(given))
    found = _scheduler_of(read_index(folder))
    assert {key: {**found.fields, "shortens": found.shortens}[key] for key in changed} == changed


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.slow
def test_from_the_command_line(folders, tmp_path, capsys):
    out = tmp_path / "cat.png"
    how = ["--pretrained", str(folders["sd1"]), "--num-steps", "2", "--out", str(out)]
    assert main(["sample", *how, "--prompt", "a cat", "--num-images", "2"]) == 0
    assert size_of(out) == (38, 20)  # two of 16 x 16, and paper around
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    begun = ["--image", str(tmp_path / "grey.png"), "--strength", "0.5", "--overwrite", "--num-images", "1"]
    assert main(["sample", *how, "--prompt", "a cat", "--negative", "dog", *begun]) == 0
    assert size_of(out) == (16, 16)
    Image.fromarray(np.full((20, 80, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    (tmp_path / "asked.txt").write_text("a cat\nred dog\n")
    rest = [
        "--prompts",
        str(tmp_path / "asked.txt"),
        "--num-images",
        "3",
        "--format",
        "png",
        "--out",
        str(tmp_path / "many"),
    ]
    assert main(["sample", *how[:4], *rest]) == 0
    assert len(list((tmp_path / "many").glob("*.png"))) == 3
    options = ["--solver", "dpm_solver_pp", "--solver-option", "order=3"]
    shards = ["--prompt", "a cat", "--format", "npz", "--num-images", "2", "--out", str(tmp_path / "shards")]
    assert main(["sample", *how[:4], *options, *shards]) == 0
    note = json.loads((tmp_path / "shards" / "settings.json").read_text())
    assert note["solver"] == "dpm_solver_pp" and note["solver_options"] == {"order": 3}
    other = shutil.copytree(folders["sd1"], tmp_path / "other")
    edit(other / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert main(["sample", "--pretrained", str(other), *how[2:4], *rest]) == 2
    assert "holds images of other settings" in capsys.readouterr().err
    for wrong, said in (
        (["--weights", "params", "--prompt", "a"], "--weights does not go with --pretrained"),
        (["--prompt", "a", "--size", "15"], "size 15 x 15 is not divided by 2; nearest: 16 x 16"),
        (["--prompt", "a", "--strength", "0.5"], "give `image`"),
        (["--prompt", "a", "--crop", "0x8"], "--crop: this U-Net is told none"),
        (["--prompt", "a", "--second", "b"], "a second prompt is for XL's second text encoder"),
        (["--prompt", "a", "--image", str(tmp_path / "wide.png")], "say --size; nearest to its form: 8 x 32"),
        (["--label", "3"], "takes no --label: it asks for --prompt"),
        ([], "give --prompt"),
    ):
        assert main(["sample", *how, "--overwrite", *wrong]) != 0
        said_ = capsys.readouterr().err
        assert said in said_ and "Traceback" not in said_, said_


@pytest.mark.slow
def test_what_xl_is_told_from_the_command_line(folders, tmp_path):
    """As from Python, and noted in a folder's settings."""
    told = ["--second", "red dog", "--original-size", "16x24", "--crop", "0x2", "--clip-skip", "1", "--num-steps", "2"]
    rest = ["--prompt", "a cat", "--num-images", "1", "--format", "npz", "--out", str(tmp_path / "cats"), *told]
    assert main(["sample", "--pretrained", str(folders["xl"]), *rest]) == 0
    drawn = np.load(next((tmp_path / "cats").glob("*.npz")))
    pipeline = load_pipeline(folders["xl"])
    sizes = Sizes(original_size=(16, 24), crop=(0, 2))
    ours = pipeline.generate("a cat", second="red dog", clip_skip=1, sizes=sizes, num_steps=2, seed=0)
    found = drawn[drawn.files[0]]
    found = found / 127.5 - 1 if found.dtype == np.uint8 else found
    assert np.abs(found - ours).max() <= 0.01
    assert json.loads((tmp_path / "cats" / "settings.json").read_text())["sizes"] == {
        "original_size": [16, 24],
        "crop": [0, 2],
    }
