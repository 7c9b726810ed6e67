"""`diffusion-jax sample`, `evaluate` and `report`, and the same from Python."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.sampling import Heun, classifier_free, initial_noise, sample, uniform
from diffusion_jax.sampling.sample import _sample
from diffusion_jax.typing import UserError


def draw(run, out, *extra):
    return main(
        ["sample", "--run", str(run), "--prompt", "a bold seven", "--num-images", "3", "--out", str(out), *extra]
    )


def test_a_png_carries_its_settings(run, tmp_path):
    out = tmp_path / "new" / "seven.png"
    assert (
        draw(run, out, "--negative", "a thin digit", "--guidance-scale", "2.5", "--num-steps", "5", "--seed", "3") == 0
    )
    with Image.open(out) as picture:
        info = dict(picture.info)
    wanted = {"prompt": "a bold seven", "negative": "a thin digit", "guidance_scale": "2.5", "solver": "ddim"}
    wanted |= {"num_steps": "5", "seed": "3", "grid": "uniform", "weights": "ema"}
    assert {name: info[name] for name in wanted} == wanted


def test_an_image_depends_on_its_seed_alone(run, tmp_path):
    names = {
        "a": ("--batch-size", "8"),
        "b": ("--batch-size", "16"),
        "c": ("--seed", "1"),
        "d": ("--weights", "params"),
    }
    for name, extra in names.items():
        assert draw(run, tmp_path / f"{name}.png", "--num-images", "12", *extra) == 0
    pixels = {name: np.asarray(Image.open(tmp_path / f"{name}.png"), np.int32) for name in names}
    assert np.abs(pixels["a"] - pixels["b"]).max() <= 1
    assert np.abs(pixels["a"] - pixels["c"]).max() > 50
    assert np.abs(pixels["a"] - pixels["d"]).max() > 0


@pytest.mark.parametrize(
    "extra",
    [("--solver", "ddpm"), ("--solver", "heun", "--grid", "logsnr"), ("--solver", "euler"), ("--eta", "0.5")],
    ids=lambda e: e[1],
)
def test_every_solver_draws(run, tmp_path, extra):
    assert draw(run, tmp_path / "x.png", *extra) == 0
    assert np.asarray(Image.open(tmp_path / "x.png")).std() > 10


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--solver", "dimm"), ("'dimm'", "did you mean 'ddim'")),
        (("--grid", "unifrom"), ("'unifrom'", "did you mean 'uniform'")),
        (("--eta", "2"), ("eta 2.0", "[0, 1]")),
        (("--solver", "heun", "--eta", "1"), ("heun", "'eta'")),
        (("--num-steps", "0"), ("0", "at least 1")),
        (("--num-images", "0"), ("--num-images 0",)),
        (("--guidance-scale", "nan"), ("guidance", "nan")),
        (("--guidance-scale", "-1"), ("guidance_scale -1", "without a negative prompt")),
        (("--guidance", "apgg"), ("'apgg'", "did you mean 'apg'")),
        (("--guidance", "apg", "--guidance-option", "etaa=1"), ("'etaa'", "did you mean 'eta'")),
        (("--guidance", "cfg_plus_plus"), ("CFG++ 3", "from 0 to 1")),
        (("--guidance", "APG"), ("'APG'", "did you mean 'apg'")),
        (("--guidance", "autoguidance"), ("'autoguidance'", "another model", "diffusion_jax.sampling.autoguidance")),
        (
            ("--guidance", "cfg_plus_plus", "--guidance-scale", "0.5", "--solver", "heun"),
            ("first order", "'heun'", "'ddim'"),
        ),
        (("--guidance-option", "eta=1", "--guidance", "apg", "--guidance-option", "eta=0"), ("eta is given twice",)),
        (("--guidance-option", "interval=5,0.3"), ("[5, 0.3]", "upside down", "[0.3, 5]")),
        (("--guidance-option", "interval=5"), ("interval 5", "low and a high")),
        (("--guidance-option", "interval"), ("'interval'", "KEY=NUMBER")),
        (("--guidance-option", "rescale=x"), ("'rescale=x'", "KEY=NUMBER")),
        (("--guidance-option", "clip=1", "--guidance-option", "threshold=0.9"), ("threshold and clip",)),
        (("--run", "nowhere"), ("'nowhere'", f"(from {Path.cwd()})")),
    ],
)
def test_bad_options_are_one_line(run, tmp_path, capsys, extra, words):
    assert draw(run, tmp_path / "x.png", *extra) == 2
    tiny.one_line(capsys, *words)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("extra", "same"),
    [
        (("--guidance", "classifier_free"), True),
        (("--guidance", "apg", "--guidance-option", "eta=1", "--guidance-option", "momentum=0"), True),
        (("--guidance", "apg"), False),
        (("--guidance", "cfg_zero", "--guidance-option", "zero_above=0.9"), False),
        (("--guidance-option", "rescale=0.9", "--guidance-option", "interval=0.3,2"), False),
    ],
)
def test_guidance_is_chosen_by_name(run, tmp_path, extra, same):
    images = []
    for name, more in (("a.png", ()), ("b.png", extra)):
        assert draw(run, tmp_path / name, "--guidance-scale", "6", *more) == 0
        images.append(np.asarray(Image.open(tmp_path / name), int))
    assert bool(np.abs(images[0] - images[1]).max() <= 1) == same


def test_nothing_is_replaced_unasked_and_only_png_is_written(run, tmp_path, capsys):
    out = tmp_path / "x.png"
    out.write_text("mine")
    assert draw(run, out) == 2
    tiny.one_line(capsys, "exists", "--overwrite")
    assert out.read_text() == "mine"
    assert draw(run, out, "--overwrite") == 0
    capsys.readouterr()
    assert draw(run, tmp_path / "x.jpg") == 2
    tiny.one_line(capsys, "x.jpg", "'x.png'")


def test_unknown_and_too_many_words_are_said_and_sampling_goes_on(run, tmp_path, capsys):
    prompt = "a purple bolt seven " + "thin " * 20
    arguments = ["sample", "--run", str(run), "--prompt", prompt, "--num-images", "1", "--out", str(tmp_path / "x.png")]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "'purple' is not in the vocabulary" in said
    assert "'bolt' is not in the vocabulary and is left out (nearest: 'bold')" in said
    assert "are left out" in said.splitlines()[-2]


def test_a_clip_run_cannot_be_sampled_and_a_misspelt_one_is_named(run, tmp_path, capsys):
    assert draw(run / "clip", tmp_path / "x.png") == 2
    tiny.one_line(capsys, "of system 'clip', which draws nothing")
    assert draw(run.parent / "tinny", tmp_path / "x.png") == 2
    tiny.one_line(capsys, f"did you mean '{run}'")


@pytest.mark.slow
def test_a_text_encoder_that_was_trained_again_is_noticed(own_run, tmp_path, capsys):
    assert main([*tiny.clip_arguments(own_run, seed=5), "--overwrite"]) == 0
    capsys.readouterr()
    assert draw(own_run, tmp_path / "x.png") == 2
    tiny.one_line(capsys, "text encoder", "trained again")


def shards(run, prompts, out, count, *extra):
    arguments = ["sample", "--run", str(run), "--prompts", str(prompts), "--num-images", str(count), "--out", str(out)]
    return main([*arguments, "--shard-size", "10", *extra])


def test_many_images_are_sharded_resumable_and_refuse_other_settings(run, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "many"
    prompts.write_text("a seven\n\na thin two\n an eight \n")
    assert shards(run, prompts, out, 25, "--batch-size", "8") == 0
    files = sorted(out.glob("*.npz"))
    assert [f.name for f in files] == [f"images-00000{i}.npz" for i in range(3)]
    loaded = [np.load(f) for f in files]
    assert [len(x["images"]) for x in loaded] == [10, 10, 5]
    assert loaded[0]["images"].dtype == np.uint8
    assert list(loaded[1]["prompts"][:3]) == ["a thin two", "an eight", "a seven"]
    np.testing.assert_array_equal(np.concatenate([x["index"] for x in loaded]), np.arange(25))
    kept, times = loaded[1]["images"], [f.stat().st_mtime_ns for f in files]
    files[1].unlink()
    assert shards(run, prompts, out, 25, "--batch-size", "8") == 0
    assert "2 of 3 shards are there already" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(files[1])["images"], kept)
    assert files[0].stat().st_mtime_ns == times[0]
    # more images go on, and the shard that was short is completed
    assert shards(run, prompts, out, 30) == 0
    assert [len(np.load(f)["images"]) for f in files] == [10, 10, 10]
    capsys.readouterr()
    assert shards(run, prompts, out, 30, "--seed", "9") == 2
    tiny.one_line(capsys, "seed: 0 -> 9")
    # image i is the same in one batch, in other shards and from Python
    direct = load_run(run).generate(["a thin two"], seed=0, start=10)
    assert np.abs(np.round((np.clip(direct[0], -1, 1) + 1) * 127.5) - kept[0].astype(float)).max() <= 1


def test_a_prompt_file_must_be_there_and_hold_prompts(run, tmp_path, capsys):
    assert shards(run, tmp_path / "none.txt", tmp_path / "out", 3) == 2
    tiny.one_line(capsys, "none.txt", "does not exist")
    (tmp_path / "empty.txt").write_text("\n \n")
    assert shards(run, tmp_path / "empty.txt", tmp_path / "out", 3) == 2
    tiny.one_line(capsys, "holds no prompt")


def test_a_run_from_python_samples_without_recompiling(run):
    loaded = load_run(run)
    assert loaded.schedule.t_max == 1.0
    ts = uniform(4, loaded.schedule)

    def draw(prompt, scale, seed, denoise, negative):
        key = jax.random.key(seed)
        guided = classifier_free(denoise, loaded.null, scale, negative=loaded.encode_text([negative]))
        x1 = initial_noise(key, (2, *loaded.shape), loaded.schedule)
        return sample(guided, loaded.schedule, Heun(), x1, ts, key, loaded.encode_text([prompt] * 2))

    first = draw("a seven", 3.0, 0, loaded.denoise, "a thin digit")
    assert first.shape == (2, 8, 8, 1)
    compiled = _sample._cache_size()
    other = jax.tree.map(lambda w: 1.1 * w, loaded.params)
    changed = {
        "prompt": draw("a thin two", 3.0, 0, loaded.denoise, "a thin digit"),
        "scale": draw("a seven", 1, 0, loaded.denoise, "a thin digit"),
        "seed": draw("a seven", 3.0, 1, loaded.denoise, "a thin digit"),
        "weights": draw("a seven", 3.0, 0, loaded.denoiser(other), "a thin digit"),
        "negative": draw("a seven", 3.0, 0, loaded.denoise, "a bold digit"),
    }
    assert _sample._cache_size() == compiled
    for name, images in changed.items():
        assert jnp.abs(images - first).max() > 1e-6, name


def test_generate_refuses_nothing_to_draw(run):
    with pytest.raises(UserError, match="at least one prompt"):
        load_run(run).generate([])


@pytest.mark.slow
def test_evaluate_and_report(run, own_run, capsys):
    assert main(["report", "--run", str(own_run)]) == 2
    tiny.one_line(capsys, "diffusion-jax evaluate --run")
    assert main(["evaluate", "--run", str(own_run), "--split", "validation", "--samples", "40"]) == 0
    printed = json.loads(capsys.readouterr().out)
    metrics = json.loads((own_run / "report" / "metrics.json").read_text())
    assert printed == metrics
    assert set(metrics["diffusion"]["digit_accuracy"]) >= {"guidance_1", "guidance_3"}
    assert {"frechet", "frechet_real", "frechet_untrained", "diversity", "nearest_training", "negative_prompt"} <= set(
        metrics["diffusion"]
    )
    # an untrained model is worse than one of some steps, and real scans are nearest to real scans
    assert metrics["diffusion"]["frechet_real"] < metrics["diffusion"]["frechet"]
    assert main(["report", "--run", str(own_run)]) == 0
    page = (own_run / "report" / "index.html").read_text()
    assert "<html" in page
    assert "a bold slanted seven" in page
    for name in ("prompts", "negative", "trajectory", "guidance", "losses"):
        assert (own_run / "report" / f"{name}.png").is_file()
    # A diffusion run by itself, whose text encoder lies elsewhere, has the same page.
    alone = own_run / "diffusion"
    shutil.copytree(own_run / "report", alone / "report")
    (alone / "report" / "index.html").unlink()
    assert main(["report", "--run", str(alone)]) == 0
    again = (alone / "report" / "index.html").read_text()
    assert "a bold slanted seven" in again and again.count("<img") == page.count("<img")
    capsys.readouterr()
    for path, said in (
        (own_run / "clip", "is a CLIP run"),
        (own_run / "nothing", "there is no run in"),
    ):
        assert main(["report", "--run", str(path)]) == 2
        tiny.one_line(capsys, said)
    for name in ("report/metrics.json", "report/evaluation.npz", "environment.json"):
        (alone / name).write_bytes((alone / name).read_bytes()[:40])
        assert main(["report", "--run", str(alone)]) == 2
        tiny.one_line(capsys, Path(name).name)
        if name.startswith("report"):
            shutil.copy(own_run / name, alone / name)
