"""What pictures are compared in: pixels, a network's features with weights of any value, a CLIP's, one's own."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax.nets.efficientnet import EfficientNet
from diffusion_jax.nets.functional import Network
from diffusion_jax.systems.clip.run import load_clip
from diffusion_jax.systems.diffusion import features as named
from diffusion_jax.systems.diffusion.features import features_named, lite0_edge
from diffusion_jax.typing import UserError


def images(count, edge=8, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, edge, edge, channels)).astype(np.float32)


def test_pixels_are_the_images():
    given = images(5)
    np.testing.assert_array_equal(features_named("pixels")(given), given.reshape(5, 64))


def random_lite0():
    shapes = jax.eval_shape(Network(lambda rngs: EfficientNet(rngs)).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    scale = {"kernel": 0.2, "var": 0.0}

    def leaf(path, shape):
        name = path[-1].key
        return (rng.normal(size=shape.shape) * scale.get(name, 0.1) + (name in ("var", "scale"))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def test_a_network_sees_a_picture_and_not_its_batch(monkeypatch):
    """Grey is three equal channels, what lies outside of [-1, 1] is clipped, and 66 pictures are two batches."""
    monkeypatch.setattr(named, "load_lite0", random_lite0)
    monkeypatch.setattr(named, "SMALLEST", 32)
    see, given = features_named("lite0"), images(66)
    found = see(given)
    assert found.shape == (66, 1280) and found.std(axis=0).max() > 1e-3
    np.testing.assert_allclose(see(given[64:]), found[64:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(see(np.repeat(given[:2], 3, axis=-1)), found[:2], rtol=1e-4, atol=1e-5)
    bright = np.where(given[:2] > 0, 3.0, given[:2]).astype(np.float32)
    np.testing.assert_allclose(see(bright), see(np.clip(bright, -1, 1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="no pictures of 1 or 3 channels"):
        see(np.zeros((2, 7), np.float32))


@pytest.mark.parametrize(("shape", "edge"), [((28, 28), 64), ((32, 32), 64), ((64, 48), 128), ((256, 256), 224)])
def test_small_pictures_are_seen_larger(shape, edge):
    assert lite0_edge(*shape) == edge


def test_a_clip_gives_its_embeddings(once):
    folder = once("tiny", tiny.make)
    given = images(4)
    found = features_named(str(folder))(given)
    np.testing.assert_array_equal(found, load_clip(folder).encode_image(given))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_ones_own_function_and_what_it_must_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeing.py").write_text(
        "def brightness(images):\n    return images.mean(axis=(1, 2))\n\n\n"
        "def flat(images):\n    return images.ravel()\n\n\nNUMBER = 3\n"
    )
    given = images(3)
    np.testing.assert_allclose(features_named("seeing:brightness")(given), given.mean(axis=(1, 2)), rtol=1e-6)
    with pytest.raises(UserError, match=r"'seeing:flat' give \(192,\) for 3 images"):
        features_named("seeing:flat")(given)
    with pytest.raises(UserError, match="are a int: a function of images is needed"):
        features_named("seeing:NUMBER")
    with pytest.raises(UserError, match="features 'lite1' are none of pixels, lite0"):
        features_named("lite1")
