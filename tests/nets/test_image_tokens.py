"""A picture's embedding as tokens beside the text's: DiT and U-Net, with a text and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.build import diffusion_network
from diffusion_jax.typing import UserError

SPECS = {
    "dit": {"name": "dit", "patch": 2, "width": 8, "layers": 1, "heads": 2, "dtype": "float32"},
    "unet": {
        "name": "unet", "channels": (8, 16), "layers": 1, "attention": (4,), "heads": 2, "groups": 4, "dtype": "float32",
    },
}  # fmt: skip
TEXT = {"tokens": (5, 6), "length": ()}
PICTURE = {"embedding": (3,)}


def randomised(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params)


@pytest.mark.parametrize(
    ("name", "text"),
    [("dit", True), ("dit", False), ("unet", False), pytest.param("unet", True, marks=pytest.mark.slow)],
)
def test_the_picture_is_attended_to_and_the_end_of_the_text_is_not(name, text):
    entries = PICTURE | (TEXT if text else {})
    network = diffusion_network({**SPECS[name], "image_tokens": 2}, (8, 8, 1), entries)
    params = randomised(network.init(jax.random.key(0)))
    rng = np.random.default_rng(1)
    x, t = jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32), jnp.array([100.0, 700.0])
    cond = {"embedding": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)}
    if text:
        cond |= {"tokens": jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32), "length": jnp.array([2, 5])}

    @jax.jit
    def out(params, cond):
        return network.apply(params, x, t, cond)

    def squared(params):
        return (out(params, cond) ** 2).sum()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(squared))(params))
    of_maps = [leaf for path, leaf in grads if "tokens_in" in str(path) or "image_map" in str(path)]
    assert of_maps and all(np.abs(leaf).max() > 0 for leaf in of_maps)
    if text:
        hidden = cond["tokens"].at[0, 2:, 0].add(3.0)
        np.testing.assert_allclose(out(params, cond | {"tokens": hidden}), out(params, cond), atol=1e-5)
        seen = cond["tokens"].at[0, 1, 0].add(3.0)
        assert np.abs(out(params, cond | {"tokens": seen}) - out(params, cond))[0].max() > 1e-4


@pytest.mark.parametrize("name", SPECS)
def test_without_an_embedding_there_are_none(name):
    with pytest.raises(UserError, match="image_tokens 2 are made of a picture's embedding, and the condition has none"):
        diffusion_network({**SPECS[name], "image_tokens": 2}, (8, 8, 1), TEXT).init(jax.random.key(0))
