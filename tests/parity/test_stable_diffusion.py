"""Stable Diffusion's pipelines against diffusers': the same folder, prompts and noise on both sides."""

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import jax  # noqa: E402
import stable_folders as folders  # noqa: E402

from diffusion_jax.pipelines import Sizes, load_pipeline  # noqa: E402
from diffusion_jax.pipelines.text_to_image import ENCODED, MASKED  # noqa: E402
from diffusion_jax.systems.diffusion.loss import example_keys  # noqa: E402

PROMPTS, NEGATIVE = ["a cat", "red dog"], ["dog", ""]
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "zero_snr": (
        "DDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """kind -> a folder of it, made once."""
    root, found = tmp_path_factory.mktemp("stable"), {}

    def make(kind, **options):
        name = "-".join([kind, *map(str, options.values())])
        if name not in found:
            found[name] = folders.stable(root / name, kind, **options)
        return found[name]

    return make


def with_scheduler(folder, name):
    kind, fields = SCHEDULERS[name]
    folders.with_scheduler(folder, kind, **fields)


def peer(folder, kind=None):
    pipe = (kind or diffusers.DiffusionPipeline).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def nhwc(x):
    return np.moveaxis(x.numpy(), 1, -1)


def compare(ours, theirs, pipe, pipeline):
    """Final latents within 1e-4 of the peer's largest absolute value, pictures within 1e-3."""
    theirs = nhwc(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    with torch.no_grad():
        pictures = pipe.vae.decode(nchw(theirs) / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    assert np.abs(pipeline.decode(ours) - nhwc(pictures)).max() <= 1e-3


@pytest.mark.parametrize("steps", [12, 20])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_every_scheduler(made, kind, name, steps):
    folder = made(kind)
    with_scheduler(folder, name)
    noise, pipe, pipeline = folders.noise(2), peer(folder), load_pipeline(folder)
    with torch.no_grad():
        theirs = pipe(
            PROMPTS, negative_prompt=NEGATIVE, num_inference_steps=steps, guidance_scale=5.0, latents=nchw(noise),
            output_type="latent",
        ).images  # fmt: skip
    ours = pipeline.generate(
        PROMPTS, negative=NEGATIVE, num_steps=steps, guidance_scale=5.0, noise=noise, output="latent"
    )
    compare(ours, theirs, pipe, pipeline)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "xl"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance_rescale": 0.7}, {"guidance": {"rescale": 0.7}}),
        ({"clip_skip": 1}, {"clip_skip": 1}),
        ({"height": 16, "width": 24}, {"size": (16, 24)}),
    ],
    ids=["plain", "unguided", "rescale", "clip_skip", "size"],
)
def test_options(made, kind, theirs, ours):
    if kind != "xl" and "clip_skip" in theirs:
        pytest.skip("transformers 5 broke diffusers' clip_skip of Stable Diffusion 1 and 2: see test_text_states.py")
    folder = made(kind)
    with_scheduler(folder, "ddim")
    noise, pipe, pipeline = folders.noise(2), peer(folder), load_pipeline(folder)
    if "height" in theirs:
        noise = np.random.default_rng(0).standard_normal((2, 8, 12, 4)).astype(np.float32)
    with torch.no_grad():
        wanted = pipe(PROMPTS, num_inference_steps=6, latents=nchw(noise), output_type="latent", **theirs).images
    compare(pipeline.generate(PROMPTS, num_steps=6, noise=noise, output="latent", **ours), wanted, pipe, pipeline)


def test_two_prompts_and_sizes_of_xl(made):
    folder, noise = made("xl"), folders.noise(2)
    with_scheduler(folder, "euler")
    pipe, pipeline = peer(folder), load_pipeline(folder)
    with torch.no_grad():
        wanted = pipe(
            PROMPTS, prompt_2=["dog", "a red cat"], negative_prompt=NEGATIVE, negative_prompt_2=["cat", "a"],
            original_size=(30, 20), crops_coords_top_left=(2, 3), target_size=(18, 17), num_inference_steps=5,
            latents=nchw(noise), output_type="latent",
        ).images  # fmt: skip
    ours = pipeline.generate(
        PROMPTS, second=["dog", "a red cat"], negative=NEGATIVE, negative_second=["cat", "a"], num_steps=5, noise=noise,
        sizes=Sizes(original_size=(30, 20), crop=(2, 3), target_size=(18, 17)), output="latent",
    )  # fmt: skip
    compare(ours, wanted, pipe, pipeline)


def drawn(monkeypatch, modules, noise, encoded):
    """What the peer draws: `noise` for the latents, `encoded` in turn for the samples of the autoencoder's posterior."""
    turns = iter(encoded)
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(
        kind, "sample", lambda self, generator=None: self.mean + self.std * nchw(next(turns))[: len(self.mean)]
    )
    for module in modules:
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: nchw(noise))


def posterior(seed, count, place, shape=(8, 8, 4)):
    keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys(seed, 0, count), place)
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, shape))(keys))


@pytest.mark.parametrize("strength", [0.5, 0.8])
@pytest.mark.parametrize(
    ("kind", "name"), [("sd1", "ddim"), ("sd1", "dpmpp_2m"), ("sd1", "pndm"), ("xl", "euler"), ("refiner", "ddim")]
)
def test_image_to_image(made, kind, name, strength, monkeypatch):
    folder, noise = made(kind), folders.noise(2)
    with_scheduler(folder, name)
    xl = kind != "sd1"
    cls = diffusers.StableDiffusionXLImg2ImgPipeline if xl else diffusers.StableDiffusionImg2ImgPipeline
    pipe, pipeline = peer(folder, cls), load_pipeline(folder)
    drawn(monkeypatch, [__import__(cls.__module__, fromlist=["x"])], noise, [posterior(0, 2, ENCODED)])
    image = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = pipe(
            PROMPTS,
            image=nchw(image),
            strength=strength,
            num_inference_steps=10,
            guidance_scale=4.0,
            output_type="latent",
        ).images
    ours = pipeline.generate(
        PROMPTS, image=image, strength=strength, num_steps=10, guidance_scale=4.0, noise=noise, output="latent"
    )
    compare(ours, wanted, pipe, pipeline)


@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize("name", ["ddim", "pndm", "euler"])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting(made, channels, name, strength, monkeypatch):
    folder, noise = made("sd1", channels=channels, image="Inpaint"), folders.noise(2)
    with_scheduler(folder, name)
    cls = diffusers.StableDiffusionInpaintPipeline
    pipe, pipeline = peer(folder, cls), load_pipeline(folder)
    image = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    mask = np.zeros((2, 16, 16, 1), np.float32)
    mask[:, 4:12, 6:], mask[1, :5] = 1, 1
    encoded = [posterior(0, 2, ENCODED)] if channels == 4 or strength < 1 else []
    encoded.append(posterior(0, 2, MASKED))
    drawn(monkeypatch, [__import__(cls.__module__, fromlist=["x"])], noise, encoded)
    with torch.no_grad():
        wanted = pipe(
            PROMPTS, image=nchw(image), mask_image=nchw(mask), strength=strength, num_inference_steps=10, height=16, width=16,
            guidance_scale=4.0, output_type="latent",
        ).images  # fmt: skip
    ours = pipeline.generate(
        PROMPTS,
        image=image,
        mask=mask,
        strength=strength,
        num_steps=10,
        guidance_scale=4.0,
        noise=noise,
        output="latent",
    )
    compare(ours, wanted, pipe, pipeline)
