"""configs/clip_b16.py: the recipe as it is written, on a tower small enough for a test; and its true sizes by shape."""

import json
import math

import jax
import pytest
import smallruns as tiny
from captioned import shards

from diffusion_jax.config import load_config
from diffusion_jax.systems.clip.network import clip_network, clip_sizes
from diffusion_jax.training import train_run

CONFIG = str(tiny.ROOT / "configs" / "clip_b16.py")


@pytest.mark.slow
def test_the_recipe_trains_on_shards(tmp_path):
    tiny.make_pictures(tmp_path)
    pattern = shards(tmp_path / "shards", count=48, each=24)
    own = tiny.SMALL | {
        "data.path": pattern,
        "data.validation": 0.25,
        "tokenizer.path": tmp_path / "vocabulary",
        "workdir": tmp_path / "run",
        "steps": 4,
        "eval_every": 4,
        "model.vision.patch_dropout": 0.5,
    }
    config = load_config(f"{CONFIG}:flip", {key: str(value) for key, value in own.items()})
    with config.unlocked():
        config.model.vision.update({"width": 32, "layers": 2, "heads": 2, "patch": 8, "image_size": 32})
        config.model.text.update({"width": 32, "layers": 2, "heads": 2, "context_length": 12})
        config.model.embed = 16
    lines = [
        json.loads(line) for line in (train_run(config, progress=False) / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4, 4] and {"val_loss_ema", "val_i2t_r1"} <= lines[-1].keys()


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("", 149.62), (":flip", 149.62), (":accumulate", 149.62), (":coco", 149.62), (":siglip", 203.16)],
)
def test_its_model_has_the_published_size(variant, millions):
    config = load_config(CONFIG + variant)
    network = clip_network(config.model)
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.006)
    assert config.loss.name == ("sigmoid" if "logit_bias" in params else "infonce")
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), "float32")
    tokens = jax.ShapeDtypeStruct((2, clip_sizes(config.model)["text"]["context_length"]), "int32")
    out = jax.eval_shape(lambda p, *x: network.apply(p, *x, key=jax.random.key(0), train=True), params, images, tokens)
    assert out.image.shape == out.text.shape and out.image.shape[0] == 2
