"""Diffusion told pictures, and several things at once: trained, gone on with bit for bit, loaded, sampled, guided, refused."""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
sys.path.insert(0, str(Path(__file__).parent.parent / "convert"))
import smallruns as tiny
from test_clip_held import model, weights

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.convert import save_clip
from diffusion_jax.data.text.bpe_learning import learn_vocabulary
from diffusion_jax.systems.table import system_of
from diffusion_jax.typing import Context, UserError

PICTURE = np.linspace(0, 255, 64).reshape(8, 8, 1).astype(np.uint8)
OTHER = PICTURE[::-1].copy()
ENCODER = "{clip}"
ROWS = {  # the condition's keys; two requests that are to be told apart
    "embedding": ({"name": "embedding", "encoder": ENCODER}, PICTURE, OTHER),
    "embedding, cached": ({"name": "embedding", "encoder": ENCODER, "cache": "{cache}"}, PICTURE, OTHER),
    "low resolution": ({"name": "image", "factor": 4}, PICTURE, OTHER),
    "masked": (
        {"name": "image", "kind": "masked"},
        {"image": PICTURE, "mask": np.eye(8)},
        {"image": PICTURE, "mask": np.tri(8).astype(bool)},
    ),
    "text, published": ({"name": "text", "encoder": "{published}", "cache": "{cache}"}, "a seven", "a three"),
    "several": (
        {"name": "several", "drop": 0.1, "parts": {"class": {"name": "label"}, "low": {"name": "image", "drop": 0.3}}},
        {"label": 3, "image": PICTURE},
        {"label": "three"},
    ),
}


def published(folder):
    """A CLIP as others publish theirs, with its vocabulary beside it."""
    learn_vocabulary(["zero one two three four five six seven a digit"] * 3, 20, folder / "words")
    ids = len(json.loads((folder / "words" / "vocab.json").read_text()))
    config = model(text={"vocabulary_size": ids, "context_length": 12})
    beside = {file.name: file.read_bytes() for file in (folder / "words").iterdir()}
    save_clip(folder / "published", config, weights(config), "hf", beside=beside)


@pytest.fixture(scope="module")
def base(once):
    """A folder with `clip`, a run, and `published`, weights."""
    run, weights = once("tiny", tiny.make), once("published", published)
    return {"clip": run / "clip", "published": weights / "published"}


def train(base, workdir, row, **options):
    places = base | {"cache": workdir.parent / "cache"}
    told = {key: value.format(**places) if isinstance(value, str) else value for key, value in row.items()}
    chosen = tiny.SMALL_DIFFUSION | {
        "condition": told,
        "optimizer.schedule": "constant",
        "optimizer.learning_rate": 1e-2,  # so that a few steps tell what is told apart
        "optimizer.warmup_steps": 1,
        "ema.decay": 0.1,
    }
    chosen |= {"workdir": workdir, "eval_every": 3 if row["name"] == "several" else 100, "steps": 3}
    chosen |= {"sampler.num_steps": 3} | options
    return ["train", "--no-progress", "--config", tiny.DIFFUSION, *tiny.flags(chosen)]


SLOW = ("text, published", "low resolution", "masked", "embedding, cached")
"""What is within another row, or nearly so."""
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ROWS]


@pytest.fixture(scope="module", params=MARKED)
def trained(request, base, tmp_path_factory):
    """(a run of 3 steps, its row)."""
    folder = tmp_path_factory.mktemp("told") / "run"
    assert main(train(base, folder, ROWS[request.param][0])) == 0
    return folder, ROWS[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("trained", ROWS, indirect=True)
def test_it_goes_on_bit_for_bit(trained, base, tmp_path):
    folder, (row, *_) = trained
    for steps in (2, 3):
        assert main(train(base, tmp_path / "parts", row, steps=steps, eval_every=100)) == 0
    for leaf in zip(*(jax.tree.leaves(load_run(place).params) for place in (folder, tmp_path / "parts"))):
        np.testing.assert_array_equal(*leaf)


def test_it_draws_what_it_is_told_guided_and_away_from_what_it_is_not_to_be(trained):
    folder, (_, one, other) = trained
    run = load_run(folder)
    drawn = run.generate([one, other, one], seed=3)
    assert drawn.shape == (3, 8, 8, 1)
    np.testing.assert_allclose(run.generate([other], seed=3, start=1), drawn[1:2], atol=1e-5)
    apart = (
        run.generate([other, other], seed=3, guidance_scale=1.0)[:1],
        run.generate([one], seed=3, guidance_scale=1.0),
    )
    assert np.abs(apart[0] - apart[1]).max() > 1e-6
    guided = run.generate([one], seed=3, guidance_scale=4.0)
    away = run.generate([one], seed=3, guidance_scale=4.0, negative=[other])
    assert np.abs(guided - away).max() > 1e-6 < np.abs(guided - apart[1]).max()


@pytest.mark.parametrize("trained", ["embedding"], indirect=True)
def test_another_encoder_and_another_cache_are_one_line(trained, base, tmp_path, capsys):
    folder, (row, *_) = trained
    shutil.copytree(folder, tmp_path / "run")
    tiny.fails(capsys, train(base, tmp_path / "run", row | {"cache": "{cache}"}), "began without a cache")
    tiny.fails(capsys, train(base, tmp_path / "run", row | {"encoder": "{published}"}), "on another image encoder than")
    tiny.fails(capsys, train(base, tmp_path / "n", row | {"encoder": str(tmp_path / "none")}), "there is no run in")
    note = tmp_path / "run" / "image_encoder.json"
    kept = json.loads(note.read_text())
    note.write_text(json.dumps(kept | {"run": "../nowhere"}))
    with pytest.raises(UserError, match=r"there is no image encoder in .*nowhere"):
        load_run(tmp_path / "run")
    note.write_text(json.dumps(kept | {"run": str(base["published"])}))
    with pytest.raises(UserError, match=r"has other weights than those that .* was trained on"):
        load_run(tmp_path / "run")


WRONG = [
    ({"name": "image", "factor": 3}, "'condition.factor' is 3: it divides pictures of 8 x 8; nearest: 2"),
    ({"name": "image", "kind": "masks"}, "condition.kind 'masks' is not known; did you mean 'masked'?"),
    ({"name": "several"}, "'condition.parts' is missing: condition 'several' needs it (a group of conditions by names of"),
    ({"name": "several", "parts": ("label",)}, "'condition.parts' is ('label',); it is a group of conditions by names of"),
    ({"name": "several", "parts": {"a": "label"}}, "'condition.parts.a' is 'label'; it is a group of keys, and 'condition.pa"),
    ({"name": "several", "parts": {}}, "condition 'several' has no parts"),
    ({"name": "several", "parts": {"a": {"name": "none"}}}, "'condition.parts.a.name' is 'none': a part tells one thing"),
    ({"name": "several", "parts": {"a": {"name": "lable"}}}, "did you mean 'label'?"),
    ({"name": "several", "parts": {"a": {"name": "label", "dorp": 0.1}}}, "condition part 'a' takes no 'dorp'; did you"),
    ({"name": "several", "parts": {"a": {"name": "label", "drop": 1.0}}}, "'condition.parts.a.drop' is 1.0; it is a share"),
    ({"name": "several", "parts": {"a": {"name": "label"}, "b": {"name": "label"}}}, "'a' and 'b' both give the entry 'label'"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_what_cannot_be_told_is_one_line(row, said, tmp_path, capsys):
    tiny.fails(capsys, train({}, tmp_path / "run", row), said)
    assert not (tmp_path / "run").exists()


def constants(jaxpr):
    """Bytes of all arrays that a traced program, or one within it, holds."""
    inner = [value for eqn in jaxpr.jaxpr.eqns for value in eqn.params.values() if hasattr(value, "jaxpr")]
    own = sum(np.asarray(leaf).nbytes for leaf in jaxpr.consts if hasattr(leaf, "shape"))
    return own + sum(constants(one) for one in inner if hasattr(one, "consts"))


@pytest.mark.parametrize("trained", ["embedding"], indirect=True)
def test_the_traced_step_holds_no_encoder(trained):
    """Frozen weights are arguments of it."""
    folder, _ = trained
    config = load_run(folder).config
    task = system_of(config).task(config, folder, jax.random.key(0))
    params, frozen = task.network.init(jax.random.key(0)), jax.tree.map(jnp.asarray, task.frozen)
    encoder = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen["condition"]))

    def step(params, frozen, batch, key):
        return task.loss_fn(params, Context(0, params, frozen, None), batch, key)[0]

    traced = jax.make_jaxpr(step)(params, frozen, task.batches(0), jax.random.key(1))
    assert encoder > 30_000 > 10 * constants(traced)
    closed = jax.make_jaxpr(lambda *rest: step(params, frozen, *rest))(task.batches(0), jax.random.key(1))
    assert constants(closed) > encoder
