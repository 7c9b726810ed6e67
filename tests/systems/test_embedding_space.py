"""Diffusion over the embeddings of a CLIP: their scale, in the step as from the cache, gone on with, drawn, refused."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main
from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.systems.diffusion.data import training_batches
from diffusion_jax.systems.diffusion.likelihood import bits_per_dim
from diffusion_jax.typing import UserError


def train(once, workdir, model="{'name': 'mlp', 'width': 16, 'layers': 2}", condition=None, cache=None, **options):
    clip = once("tiny", tiny.make) / "clip"
    told = {"name": "label"} if condition is None else condition
    space = {"name": "embeddings", "encoder": str(clip), "cache": cache}
    chosen = tiny.SMALL | {"optimizer.warmup_steps": 1, "optimizer.schedule": "constant", "ema.decay": 0.1, "steps": 3}
    chosen |= {
        "sampler.num_steps": 3,
        "eval_every": 3,
        "space": space,
        "model": model,
        "condition": told,
        "workdir": workdir,
    }
    return ["train", "--no-progress", "--config", tiny.DIFFUSION, *tiny.flags(chosen | options)]


@pytest.fixture(scope="module")
def folder(once, tmp_path_factory):
    place = tmp_path_factory.mktemp("vectors") / "run"
    assert main(train(once, place)) == 0
    return place


def test_in_the_place_of_what_cannot_be_read_stands_the_next_with_what_is_told_of_it():
    x0 = np.arange(10.0).reshape(5, 2)
    x0[[1, 2, 4]] = np.nan
    config = ConfigDict({"seed": 3, "batch_size": 5, "data": {"name": "digits"}})
    made = training_batches(config, [{}], (), lambda rows, rng: {"label": rows}, x0)(1)
    assert sorted(made["cond"]["label"]) == [0, 0, 3, 3, 3]
    np.testing.assert_array_equal(made["x0"], x0[made["cond"]["label"]])
    with pytest.raises(UserError, match="no example can be read"):
        training_batches(config, [{}], (), lambda rows, rng: None, np.full((2, 2), np.nan))


def same(a, b, **tolerance):
    for one, other in zip(*(jax.tree.leaves(load_run(place).params) for place in (a, b))):
        np.testing.assert_allclose(one, other, **tolerance)


def test_embeddings_are_of_unit_scale_within_and_of_unit_norm_without(folder):
    space = load_run(folder).space
    images = jnp.asarray(load_digits("test").columns()["image"][:20])
    x0 = space.encode(space.frozen, {"image": images})
    assert space.shape == (8,) and x0.shape == (20, 8)
    np.testing.assert_allclose((x0**2).mean(axis=1), 1, rtol=1e-5)
    clip = space.encoder.clip
    np.testing.assert_allclose(space.decode(None, x0), clip.encode_image(np.asarray(images)), atol=1e-5)
    np.testing.assert_array_equal(space.decode(None, jnp.zeros((1, 8))), 0)


@pytest.mark.slow
def test_from_the_cache_it_learns_what_it_learns_in_the_step(folder, once, tmp_path):
    assert main(train(once, tmp_path / "run", cache=str(tmp_path / "kept"), eval_every=100)) == 0
    same(folder, tmp_path / "run", rtol=2e-4, atol=2e-5)
    (table,) = (tmp_path / "kept").rglob("embedding.npy")
    assert np.load(table).shape == (len(load_digits("train")), 8)


@pytest.mark.slow
def test_texts_lead_to_embeddings_by_their_own_vector(once, tmp_path, capsys):
    clip = str(once("tiny", tiny.make) / "clip")
    told = {"name": "text", "encoder": clip, "tokens": False, "cache": str(tmp_path / "kept")}
    tiny.fails(
        capsys, train(once, tmp_path / "run", condition={**told, "tokens": True}), "cannot read the condition's entry"
    )
    assert main(train(once, tmp_path / "run", condition=told, eval_every=100)) == 0
    run = load_run(tmp_path / "run")
    assert dict(run.condition.entries) == {"pooled": (8,)} and (run.condition.null["pooled"] != 0).any()
    drawn = run.generate(["a seven", "a thin three"], seed=1, negative="a zero")
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [True, False])
def test_a_prior_is_told_texts_and_written_where_diffusers_has_such_a_one(once, tmp_path, capsys, tokens):
    told = {"name": "text", "encoder": str(once("tiny", tiny.make) / "clip"), "tokens": tokens}
    model = "{'name': 'prior', 'width': 16, 'layers': 2}"
    assert main(train(once, tmp_path / "run", model=model, condition=told, eval_every=100, prediction="x0")) == 0
    run = load_run(tmp_path / "run")
    texts = ["a seven", "a thin three"]
    drawn = run.generate(texts, seed=1)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(run.params["mean"], 0)
    np.testing.assert_array_equal(run.params["std"], 1)
    asked = ["convert", str(tmp_path / "run"), "--out", str(tmp_path / "prior")]
    if tokens:  # of 16 features, and the embedding has 8
        tiny.fails(capsys, asked, "PriorTransformer has no context 16, only 8")
        return
    assert main(asked) == 0
    written, x, time = load_pretrained(tmp_path / "prior"), jnp.asarray(drawn), jnp.array([17.0, 803.0])
    cond = {name: jnp.asarray(value) for name, value in run.condition.tell(texts).items()}
    np.testing.assert_allclose(
        *(jax.jit(of.network.apply)(of.params, x, time, cond) for of in (written, run)), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_it_goes_on_bit_for_bit(folder, once, tmp_path, cached):
    kept = {"cache": str(tmp_path / "kept"), "eval_every": 100} if cached else {"eval_every": 100}
    assert main(train(once, tmp_path / "whole", **kept)) == 0
    for steps in (2, 3):
        assert main(train(once, tmp_path / "parts", **kept, steps=steps)) == 0
    same(tmp_path / "whole", tmp_path / "parts", rtol=0, atol=0)


def test_vectors_are_drawn_guided_and_written_as_numbers(folder, tmp_path, capsys):
    run = load_run(folder)
    drawn = run.generate([3, "four"], seed=1, guidance_scale=2.0)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    assert np.abs(run.generate([4], seed=1, guidance_scale=2.0) - drawn[:1]).max() > 1e-6
    assert np.abs(run.generate([3], seed=1, guidance_scale=2.0, negative=[5]) - drawn[:1]).max() > 1e-6
    out = ["sample", "--run", str(folder), "--label", "3", "--num-images", "4", "--seed", "1", "--guidance-scale", "2"]
    assert main([*out, "--format", "npz", "--out", str(tmp_path / "shards")]) == 0
    with np.load(next((tmp_path / "shards").glob("*.npz"))) as shard:
        np.testing.assert_allclose(shard["images"][0], drawn[0], atol=1e-5)
    tiny.fails(capsys, [*out, "--out", str(tmp_path / "a.png")], "the run draws arrays of shape (8,), no pictures")
    with pytest.raises(
        UserError, match=r"bits per dimension are of pixels, and the run in .* works in the space 'embeddings'"
    ):
        bits_per_dim(run)


def test_what_does_not_go_together_is_one_line(folder, once, tmp_path, capsys):
    def fails(said, **options):
        tiny.fails(capsys, train(once, tmp_path / "run", **options), said)
        assert not (tmp_path / "run").exists()

    fails("a DiT draws square pictures", model="{'name': 'dit', 'width': 16, 'layers': 1, 'heads': 2}")
    fails("model 'mlp' draws vectors [size], not arrays (8, 8, 1); nearest: 'dit'", space={"name": "pixels"})
    kept = str(tmp_path / "kept")
    fails("'data.shift' is 0.5, and with 'space.cache' x0 is made once", cache=kept, **{"data.shift": 0.5})
    fails("'data.augment' is 0.1, and with 'space.cache' x0 is made once", cache=kept, **{"data.augment": 0.1})
    low = {"name": "image"}
    fails("model 'mlp' cannot read the condition's entry 'image'", condition=low)
    embedding = {"name": "embedding", "encoder": str(once("tiny", tiny.make) / "clip")}
    fails("set config key 'condition.cache', or leave", condition=embedding, cache=str(tmp_path / "kept"))
    note = folder / "space_encoder.json"
    text = note.read_text()
    note.write_text(text.replace("clip", "nowhere"))
    try:
        with pytest.raises(UserError, match="there is no encoder of the space in"):
            load_run(folder)
    finally:
        note.write_text(text)
