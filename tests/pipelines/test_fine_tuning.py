"""Fine-tuning Stable Diffusion by config: a LoRA or the whole U-Net, on captioned pictures, in the one loop."""

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

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.config import load_config
from diffusion_jax.pipelines import load_pipeline
from diffusion_jax.pipelines.fine_tuning import run as fine_tuned
from diffusion_jax.pipelines.fine_tuning.convert import whole_scale
from diffusion_jax.pipelines.fine_tuning.prompts import Prompts
from diffusion_jax.pipelines.fine_tuning.task import on_table
from diffusion_jax.pipelines.saving import save_pipeline
from diffusion_jax.process import Discrete
from diffusion_jax.process.times import uniform
from diffusion_jax.train.lora import init_lora, merge_lora
from diffusion_jax.typing import UserError

GOLDEN = Path(__file__).parent / "golden"
CONFIG = str(Path(__file__).parents[2] / "configs/stable_diffusion.py")
FEW = {"num_steps": 2, "output": "latent"}
SMALL = {
    "preprocess.size": 16, "steps": 6, "batch_size": 8, "eval_every": 3, "checkpoint_every": 3, "data.validation": 0.2,
    "optimizer.warmup_steps": 1, "sampler.num_steps": 2, "pretrained.remat": None, "ema.decay": 0.1,
}  # fmt: skip


def learn(folder, out, *rest, config=CONFIG, shown=False, **more):
    chosen = SMALL | {
        "pretrained.path": folder / "sd1", "data.path": folder / "pictures", "workdir": out, "optimizer.learning_rate": 0.02
    } | more  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in chosen.items()]
    quiet = [] if shown else ["--no-progress"]
    return main(["train", *quiet, "--config", config, *flags, *rest])


def prepared(folder):
    """A tiny Stable Diffusion, and pictures of one colour that their captions tell."""
    build(GOLDEN / "sd1.json", folder / "sd1")
    (folder / "pictures").mkdir()
    lines = ["image,caption"]
    for place in range(30):
        colour = (220, 30, 30) if place % 2 else (30, 30, 220)
        Image.fromarray(np.full((20, 20, 3), colour, np.uint8)).save(folder / "pictures" / f"{place}.png")
        lines.append(f"{place}.png,a {'red' if place % 2 else 'blue'} cat {place}")
    (folder / "pictures" / "captions.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(once):
    return once("tiny_stable_diffusion", prepared)


@pytest.fixture(scope="module")
def adapted(once, folder):
    """A run of LoRA."""

    def make(place):
        assert learn(folder, place / "run") == 0

    return once("tiny_lora_run", make) / "run"


def written(run, name):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_a_lora_is_learned_and_nothing_else(folder, adapted):
    run, base = load_run(adapted), load_pipeline(folder / "sd1")
    first, last = written(adapted, "val_loss")[0], written(adapted, "val_loss")[-1]
    assert last < 0.99 * first
    leaves = jax.tree_util.tree_leaves_with_path(run.params)
    names = {path[-1].key for path, _ in leaves}
    assert names == {"A", "B", "alpha"} and all(np.all(leaf == 8.0) for path, leaf in leaves if path[-1].key == "alpha")
    assert all(np.abs(leaf).max() > 0 for path, leaf in leaves if path[-1].key == "B")
    jax.tree.map(np.testing.assert_array_equal, run.base.params, base.params)
    size = sum(leaf.size for _, leaf in leaves)
    assert size < 0.2 * sum(leaf.size for leaf in jax.tree.leaves(base.params))


@pytest.mark.slow
def test_it_is_drawn_from_as_a_run_and_as_a_pipeline(folder, adapted, tmp_path):
    run = load_run(adapted)
    with Image.open(adapted / "samples" / "step_000006.png") as shown:
        assert shown.size[0] > shown.size[1]
    out = tmp_path / "cat.png"
    assert main(["sample", "--run", str(adapted), "--prompt", "a red cat", "--num-images", "2", "--out", str(out)]) == 0
    assert out.is_file()
    file = tmp_path / "mine.safetensors"
    assert main(["convert", str(adapted), "--out", str(file)]) == 0
    ours = run.pipeline.generate("a red cat", seed=2, **FEW)
    merged = load_pipeline(folder / "sd1").with_lora(file)
    assert np.abs(merged.generate("a red cat", seed=2, **FEW) - ours).max() <= 1e-5 * np.abs(ours).max()
    plain = run.base.generate("a red cat", seed=2, **FEW)
    assert np.abs(plain - ours).max() > 1e-2 * np.abs(ours).max()


def test_a_file_of_a_lora_has_its_scale_in_its_numbers(folder):
    """Alpha is told beside the tensors, where not all readers look: written it is the rank, and the change the same."""
    base = load_pipeline(folder / "sd1")
    lora = init_lora(base.params, jax.random.key(0), rank=4, alpha=1.0)
    key = jax.random.key(1)
    lora = jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else jax.random.normal(key, leaf.shape), lora)
    whole = whole_scale(jax.tree.map(np.asarray, lora))
    leaves = jax.tree_util.tree_leaves_with_path(whole)
    assert all(np.all(leaf == 4) for path, leaf in leaves if path[-1].key == "alpha")
    both = [jax.tree.leaves(merge_lora(base.params, one)) for one in (lora, whole)]
    for a, b in zip(*both):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_it_goes_on_and_knows_its_pipeline(folder, adapted, tmp_path, capsys):
    """Nothing is trained anew of a finished run; another pipeline's weights are refused."""
    assert learn(folder, adapted) == 0
    weights = next((folder / "sd1" / "unet").glob("*.safetensors"))
    other = tmp_path / "other"
    build(GOLDEN / "sd1.json", other)
    changed = bytearray(weights.read_bytes())
    changed[-2:] = b"\x00\x3c"
    (other / "unet" / weights.name).write_bytes(bytes(changed))
    capsys.readouterr()
    assert learn(folder, adapted, **{"pretrained.path": other}) == 2
    assert "was trained on another pipeline than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "field", "value", "said"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "v_prediction", "another prediction 'eps', not 'v'"),
        ("scheduler/scheduler_config.json", "beta_end", 0.02, "another betas"),
        ("vae/config.json", "scaling_factor", 0.9, "another scale of its latents"),
    ],
)
def test_a_run_is_loaded_with_the_very_pipeline_that_it_began_with(adapted, folder, tmp_path, file, field, value, said):
    """Its autoencoder and its process, too: weights alone do not tell them."""
    base = shutil.copytree(folder / "sd1", tmp_path / "sd1")
    run = shutil.copytree(adapted, tmp_path / "run")
    note = json.loads((run / "pretrained.json").read_text())
    (run / "pretrained.json").write_text(json.dumps(note | {"run": "../sd1"}))
    assert load_run(run).base.path.resolve() == base.resolve()
    told = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps(told | {field: value}))
    with pytest.raises(UserError, match=said) as error:
        load_run(run)
    assert "\n" not in str(error.value)


def test_the_tokenizer_of_a_single_file_is_found_from_any_folder(folder, adapted, tmp_path, monkeypatch):
    """A relative path was said where the training began; the run notes it from its own place."""
    base = load_pipeline(folder / "sd1")
    monkeypatch.chdir(tmp_path)
    noted = Prompts(base, (16, 16), words="words").notes(tmp_path / "runs" / "mine")
    assert noted["pretrained.json"]["tokenizer"] == "../../words"
    run = shutil.copytree(adapted, tmp_path / "run")
    note = json.loads((run / "pretrained.json").read_text())
    (run / "pretrained.json").write_text(json.dumps(note | {"run": str(folder / "sd1"), "tokenizer": "../words"}))
    asked = {}
    monkeypatch.setattr(fine_tuned, "load_pipeline", lambda path, **how: asked.update(how) or base)
    load_run(run)
    assert asked["tokenizer"] == str(tmp_path / "words")


def test_a_folder_is_drawn_from_as_what_was_saved_whatever_the_latents_scale(folder, tmp_path):
    """A mean and a deviation of each channel: XL's folder says them, those of 1 and 2, which have one factor, take them up."""
    base = load_pipeline(folder / "sd1")
    scale, shift = np.array([0.5, 1.0, 2.0, 0.25], np.float32), np.array([0.5, -1.0, 2.0, 0.0], np.float32)
    scaled = {**base.vae.config, "scale": 1.0, "shift": None, "mean": shift.tolist(), "std": (1 / scale).tolist()}
    vae = dataclasses.replace(base.vae, config=scaled, scale=scale, shift=shift)
    x0 = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    there = load_pipeline(save_pipeline(dataclasses.replace(base, vae=vae), tmp_path / "folder", "float32")).vae
    assert there.told["scaling_factor"] == 1 and not {"latents_mean", "shift_factor"} & {
        name for name, value in there.told.items() if value is not None
    }
    pictures = vae.decode(x0)
    np.testing.assert_allclose(there.decode(x0), pictures, rtol=1e-5, atol=1e-5)
    key = jax.random.key(0)
    pictures = np.clip(pictures, -1, 1)
    np.testing.assert_allclose(there.encode(pictures, key), vae.encode(pictures, key), rtol=1e-4, atol=1e-5)
    bare = dataclasses.replace(vae, config=scaled | {"quant": False})
    with pytest.raises(UserError, match="no quant_conv"):
        save_pipeline(dataclasses.replace(base, vae=bare), tmp_path / "other", "float32")
    assert not (tmp_path / "other").exists()


def test_what_a_unet_is_told_is_what_the_pipeline_tells(tmp_path):
    """XL: the features of both encoders, the pooled embedding, sizes; what is dropped is zeros, with the sizes."""
    base = load_pipeline(build(GOLDEN / "xl.json", tmp_path / "xl"))
    told = Prompts(base, (16, 24))
    cond, away = base.condition(["a cat", "red dog"], size=(16, 24))
    found = told.request(["a cat", "red dog"])
    assert {"tokens", "pooled", "ids"} == set(found) == set(told.entries)
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, cond[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(told.null[name], away[name][:1])
    np.testing.assert_array_equal(told.null["ids"], [[16, 24, 0, 0, 16, 24]])
    assert not np.any(told.null["tokens"])


def test_times_are_the_tables_own(key):
    """Every step as often as any, and nothing between them."""
    schedule = Discrete("scaled_linear", num_steps=10)
    t = np.asarray(on_table(uniform, 10)(key, 20_000, schedule))
    steps, counts = np.unique(t, return_counts=True)
    np.testing.assert_allclose(steps, np.arange(1, 11) / 10, rtol=1e-6)
    assert np.abs(counts - 2000).max() < 200  # 4.7 standard deviations
    ends = on_table(lambda key, n, schedule: jnp.array([schedule.t_min, schedule.t_max]), 10)(key, 2, schedule)
    np.testing.assert_allclose(ends, [0.1, 1.0], rtol=1e-6)


@pytest.mark.slow
def test_the_whole_unet_is_learned_and_written_for_diffusers(folder, tmp_path):
    run = tmp_path / "run"
    longer = {"optimizer.learning_rate": 2e-3, "steps": 18, "checkpoint_every": 18}  # measured every third step
    assert learn(folder, run, config=f"{CONFIG}:whole", **longer) == 0
    assert written(run, "val_loss")[-1] < 0.9 * written(run, "val_loss")[0]
    assert main(["convert", str(run), "--out", str(tmp_path / "mine"), "--format", "diffusers"]) == 0
    found = load_run(run)
    there = load_pipeline(tmp_path / "mine")
    jax.tree.map(np.testing.assert_array_equal, there.params, found.params)
    ours = found.pipeline.generate("a red cat", **FEW)
    np.testing.assert_allclose(there.generate("a red cat", **FEW), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_latents_and_captions_on_disk_train_the_same(folder, adapted, tmp_path):
    flags = [f"--config.{key}={value}" for key, value in SMALL.items()]
    flags += [f"--config.pretrained.path={folder / 'sd1'}", f"--config.data.path={folder / 'pictures'}"]
    how = ["--autoencoder", str(folder / "sd1"), "--out", str(tmp_path / "latents"), "--config", CONFIG, *flags]
    assert main(["encode", "--no-progress", *how]) == 0
    cached = {"space.cache": tmp_path / "latents", "condition.cache": tmp_path / "captions"}
    assert learn(folder, tmp_path / "run", **cached) == 0
    assert any((tmp_path / "captions").iterdir())
    for ours, theirs in zip(
        jax.tree.leaves(load_run(tmp_path / "run").params), jax.tree.leaves(load_run(adapted).params)
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)


WRONG = [
    ({"pretrained.path": "{}/nothing"}, "does not exist"),
    ({"trains.rank": 0}, "config key 'trains.rank' is 0"),
    ({"trains.paths": ("atn",)}, "paths 'atn' is found in no layer"),
    ({"preprocess.size": 15}, "15"),
    ({"pretrained.prediction": "v"}, "a folder says it itself"),
    ({"data.augment": 0.1}, "config key 'data.augment' does not exist"),
    ({"data.validation": 0.001}, "hold out more: --config.data.validation=0.2"),
    ({"space.name": "pixels"}, "nearest: 'latents'"),
    ({"loss.space": "eps", "loss.weight": "simple", "loss.times": "importance"}, "between the steps"),
    ({"sampler.solver": "dmp_solver_pp"}, "did you mean 'dpm_solver_pp'"),
]


@pytest.mark.parametrize(("more", "said"), WRONG, ids=[next(iter(more)) for more, _ in WRONG])
def test_what_cannot_be_is_one_line(folder, tmp_path, capsys, more, said):
    more = {key: value.format(folder) if isinstance(value, str) else value for key, value in more.items()}
    assert learn(folder, tmp_path / "run", **more) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_variants_are_whole():
    for name in ("whole", "xl"):
        assert load_config(f"{CONFIG}:{name}").system == "fine_tune"


@pytest.mark.slow
def test_pictures_of_another_size_than_the_model_draws_are_told(folder, adapted, tmp_path, capsys):
    assert learn(folder, tmp_path / "small", shown=True, **{"preprocess.size": 8, "steps": 2}) == 0
    said = capsys.readouterr()
    assert "they are 8 x 8 and the model draws 16 x 16 (preprocess.size)" in said.out + said.err
