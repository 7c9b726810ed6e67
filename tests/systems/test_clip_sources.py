"""CLIP on every source: its first batch, grey and coloured, or one line where the data have no captions."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax.config import load_config
from diffusion_jax.data.text.bpe_learning import learn_vocabulary
from diffusion_jax.systems.clip.keys import check
from diffusion_jax.systems.clip.task import clip_task
from diffusion_jax.training import validate
from diffusion_jax.typing import UserError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "data"))
from sourced import FORMS, squares  # noqa: E402

SMALL = {"batch_size": "8", "model.vision.width": "16", "model.vision.layers": "1", "model.text.width": "16"}
SMALL |= {"model.vision.image_size": "8", "model.vision.patch": "4", "model.text.layers": "1"}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return learn_vocabulary(["a boot", "a coat"] * 2, 3, tmp_path_factory.mktemp("v"))


def config_of(spec, vocabulary, channels):
    config = load_config(str(ROOT / "configs" / "clip_folder.py"), SMALL)
    with config.unlocked():
        config.data = ConfigDict({**spec, "validation": 0.4, "crop": "center", "flip": True})
        config.tokenizer.path = str(vocabulary)
        config.model.vision.channels = channels
    validate(config)
    return config


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_every_source_and_its_loss(tmp_path, vocabulary, form):
    channels = 1 if form in ("arrays", "tar") else 3
    images, labels, captions = squares(40, channels=channels)
    config = config_of(FORMS[form](tmp_path / "a", images, labels, captions), vocabulary, channels)
    task = clip_task(config, tmp_path / "run", jax.random.key(0))
    batch = task.batches(0)
    assert batch["image"].shape == (8, 8, 8, channels) and batch["image"].dtype == np.uint8
    light = batch["image"].mean((1, 2, 3)) > 100
    assert len(set(batch["identity"][light])) == len(set(batch["identity"][~light])) == 1
    assert batch["identity"][light][0] != batch["identity"][~light][0]
    bare = config_of(FORMS[form](tmp_path / "b", images, labels, None), vocabulary, channels)
    with pytest.raises(UserError, match=r"no captions|no feature 'caption'") as error:
        clip_task(bare, tmp_path / "run", jax.random.key(0))
    assert "\n" not in str(error.value)


def test_pictures_are_seen_in_training_as_they_are_measured():
    config = load_config(str(ROOT / "configs" / "clip_folder.py"), SMALL | {"data.path": str(ROOT / "configs")})
    with config.unlocked():
        config.data.crop, config.tokenizer.path = "none", str(ROOT / "configs")
    with pytest.raises(
        UserError, match=r"training sees pictures whole, squashed, .*; nearest: preprocess.resize 'squash'"
    ):
        check(config)
    with config.unlocked():
        config.preprocess = ConfigDict({"resize": "squash"})
    check(config)


def test_a_grey_tower_embeds_grey_pictures(tmp_path, vocabulary):
    """One weight of the patches a pixel; pictures in colour are made grey for it, as PIL makes them."""
    from diffusion_jax.systems.clip.run import ClipRun, clip_parts

    images, labels, captions = squares(6, channels=1)
    config = config_of(FORMS["arrays"](tmp_path / "a", images, labels, captions), vocabulary, 1)
    network, tokenizer, prepare = clip_parts(config)
    run = ClipRun(tmp_path, config, network, network.init(jax.random.key(0)), tokenizer, prepare)
    wanted = run.encode_image(images)
    np.testing.assert_allclose(run.encode_image(np.repeat(images, 3, -1)), wanted, atol=1e-5)
    np.testing.assert_allclose(run.encode_image([image[..., 0] for image in images]), wanted, atol=1e-5)
    np.testing.assert_allclose(run.encode_image(images / np.float32(127.5) - 1), wanted, atol=1e-5)
    with pytest.raises(UserError, match="the last axis must be 1"):
        run.encode_image(np.zeros((1, 8, 8, 3), np.float32))
