"""Guidance by name, in configs and from Python, and the page that `experiments/steering` writes."""

import argparse
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallruns import DIFFUSION, ROOT

from diffusion_jax.build import guidance as steering
from diffusion_jax.cli.keyvalues import guidance_of
from diffusion_jax.config import load_config
from diffusion_jax.process import Cosine
from diffusion_jax.sampling import DDIM, classifier_free, clip_guidance, initial_noise, sample, uniform
from diffusion_jax.systems.table import load_run
from diffusion_jax.training import validate
from diffusion_jax.typing import Prediction, UserError, texts_of


def model(xt, t, cond=None):
    return Prediction(0.5 * xt + cond, jnp.tanh(xt - cond))


def test_a_group_is_what_its_functions_make():
    x, cond, null = jnp.ones((2, 3)), jnp.array([[0.3], [0.7]]), jnp.zeros((1, 1))
    schedule = Cosine()

    def made(spec, scale=3.0):
        guided = steering.guided(spec, model, null, scale, schedule=schedule, prediction="v")
        return guided(x, jnp.float32(0.5), cond).x0

    plain = model(x, 0.5, cond).x0
    wanted = classifier_free(model, null, 3.0)(x, jnp.float32(0.5), cond).x0
    for spec in (None, "classifier_free", {"name": "classifier_free"}, {"interval": (0.1, 10.0)}):
        np.testing.assert_array_equal(made(spec), wanted)
    np.testing.assert_array_equal(made({"interval": (2.0, 10.0)}), plain)
    np.testing.assert_array_equal(made(None, 1), plain)
    assert float(jnp.abs(made({"clip": 0.5})).max()) <= 0.5
    assert float(jnp.abs(made({"threshold": 0.5})).max()) <= 1.0
    for spec in ("apg", "cfg_zero", {"rescale": 0.7}):
        assert float(jnp.abs(made(spec) - wanted).max()) > 1e-3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("apgg", "guidance 'apgg' is not known; did you mean 'apg'"),
        ({"name": "apg", "momentun": 0.1}, "takes no 'momentun'; did you mean 'momentum'"),
        ({"rescal": 0.1}, "takes no 'rescal'; did you mean 'rescale'"),
        ({"interval": 3.0}, "'sampler.guidance.interval' is 3.0; it is a low and a high noise level"),
        ({"clip": 1.0, "threshold": 0.9}, "threshold and clip are two ways"),
        (5, "'sampler.guidance' is 5; it is one of apg"),
        ("compose", "call diffusion_jax.sampling.compose in Python"),
    ],
)
def test_a_config_with_a_wrong_guidance_is_refused_before_training(spec, message):
    config = load_config(DIFFUSION)
    with config.unlocked():
        config.sampler.guidance = spec
    with pytest.raises(UserError, match=message):
        validate(config)


def test_the_command_takes_a_guidance_that_a_config_names():
    for said in ("apg", {"name": "apg"}):
        arguments = argparse.Namespace(guidance=None, guidance_option=["eta=0.2"])
        assert guidance_of(arguments, {"guidance": said}) == {"name": "apg", "eta": 0.2}
        assert guidance_of(argparse.Namespace(guidance=None, guidance_option=[]), {"guidance": said})["name"] == "apg"
    assert guidance_of(argparse.Namespace(guidance=None, guidance_option=[]), {}) is None


def test_numbers_of_a_guidance_are_finite():
    for spec, said in (
        ({"rescale": float("nan")}, "rescale nan of guidance 'classifier_free' is not finite"),
        ({"name": "apg", "eta": float("inf")}, "eta inf of guidance 'apg' is not finite"),
        ({"interval": (0.3, float("nan"))}, "is not finite"),
    ):
        with pytest.raises(UserError, match=said):
            steering.check(spec)
    assert steering.check({"interval": (0.3, float("inf"))})["interval"] == (0.3, float("inf"))


def test_a_configs_guidance_is_what_a_run_samples_with(run):
    loaded = load_run(run)
    plain = loaded.generate(["a seven"] * 2, guidance_scale=5.0)
    with loaded.config.unlocked():
        loaded.config.sampler.guidance = {"name": "classifier_free", "clip": 0.2}
    clipped = loaded.generate(["a seven"] * 2, guidance_scale=5.0)
    assert np.abs(plain).max() > 0.3 and np.abs(clipped).max() <= 0.2 + 1e-5
    back = loaded.generate(["a seven"] * 2, guidance_scale=5.0, guidance="classifier_free")
    np.testing.assert_allclose(back, plain, atol=1e-5)


def test_scales_and_negative_prompts_by_image(run):
    loaded = load_run(run)
    prompts, options = ["a seven", "a two", "a one"], {"num_steps": 5}
    several = loaded.generate(prompts, guidance_scale=[1.0, 4.0, 8.0], batch_size=2, **options)
    for i, scale in enumerate((1.0, 4.0, 8.0)):
        alone = loaded.generate(prompts[i : i + 1], guidance_scale=scale, start=i, **options)
        np.testing.assert_allclose(several[i : i + 1], alone, atol=1e-4)
    away = loaded.generate(prompts, guidance_scale=4.0, negative=["thin", "bold", ""], **options)
    alone = loaded.generate(prompts, guidance_scale=4.0, negative="bold", **options)
    np.testing.assert_allclose(away[1], alone[1], atol=2e-5)
    assert np.abs(away[0] - alone[0]).max() > 2e-4
    for options, message in [
        ({"guidance_scale": [1.0, 2.0]}, "guidance_scale has 2 entries for 3 prompts"),
        ({"negative": ["thin", "bold"]}, "negative has 2 entries for 3 prompts"),
        ({"guidance_scale": [1.0, 2.0, float("nan")]}, "is not finite"),
        ({"guidance": "cfg_plus_plus", "guidance_scale": 0.5, "solver": "heun"}, "'heun' is not; nearest: 'ddim'"),
    ]:
        with pytest.raises(UserError, match=message):
            loaded.generate(prompts, **options)
    with pytest.raises(UserError, match="negative is a dict, which is not text"):
        texts_of("negative", {"name": "thin"})


def test_a_runs_clip_guides_and_compiles_once(run):
    loaded = load_run(run)
    x1 = initial_noise(jax.random.key(0), (2, *loaded.shape), loaded.schedule)
    cond, text = loaded.encode_text(["a seven"] * 2), loaded.clip.encode_text(["a seven"])

    def draw(scale):
        led = clip_guidance(loaded.denoise, loaded.clip.image_encoder, text, scale, schedule=loaded.schedule, of="xt")
        return sample(led, loaded.schedule, DDIM(), x1, uniform(3), jax.random.key(0), cond)

    from diffusion_jax.sampling.sample import _sample

    first, before = draw(0.0), _sample._cache_size()
    second = draw(20.0)
    assert _sample._cache_size() == before and float(jnp.abs(first - second).max()) > 1e-3

    def likeness(images):
        embedding = loaded.clip.encode_image(np.asarray(images))
        return (embedding * text).sum(axis=1).mean()

    assert likeness(second) > likeness(first)


@pytest.mark.slow
def test_the_page_of_the_experiment(own_run):
    command = [
        sys.executable,
        str(ROOT / "experiments" / "steering"),
        "--run",
        str(own_run),
        "--split",
        "validation",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((own_run / "report" / "steering.json").read_text())
    assert {row["method"] for row in found["guidance"]} >= {
        "no guidance",
        "classifier-free",
        "APG",
        "CFG++",
        "autoguidance",
    }
    assert len(found["inpainting"]) == 3 and len(found["inversion"]) == 4
    page = (own_run / "report" / "steering.html").read_text()
    for heading in ("Guidance, method by method", "Drawing the missing half", "How likely are real scans?"):
        assert heading in page
    assert "http://" not in page and "https://" not in page
    assert (own_run / "report" / "steering.png").read_bytes()[:4] == b"\x89PNG"
