"""Towers and the diffusion transformer: structure, initialisation by moments, masks, and differentiation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled

from diffusion_jax.nets import CLIP, DiT, Network
from diffusion_jax.typing import UserError

VISION = {"image_size": 8, "channels": 1, "patch": 2, "width": 32, "layers": 2, "heads": 4}
TEXT = {"vocabulary_size": 20, "context_length": 10, "width": 32, "layers": 2, "heads": 4}


def clip(**options):
    return Compiled(
        lambda rngs: CLIP(rngs, embed=16, vision={**VISION, **options}, text={**TEXT, **options}),
    )


def dit(**options):
    config = {
        "image_size": 8,
        "channels": 1,
        "patch": 2,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "pooled": 6,
        "context": 5,
    }
    return Compiled(lambda rngs: DiT(rngs, **{**config, **options}))


def condition(size=3):
    return {
        "pooled": jnp.linspace(-1, 1, size * 6).reshape(size, 6),
        "tokens": jnp.sin(jnp.arange(size * 4 * 5.0)).reshape(size, 4, 5),
        "length": jnp.array([4, 2, 1])[:size],
    }


def shake(params, key, scale=0.05):
    """Parameters away from their zero initialisation, so that every path carries something."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [p + scale * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)])


@pytest.mark.parametrize(
    ("name", "vision", "text", "embed", "millions"),
    [
        ("B/32", (32, 768, 12, 12, 224), (512, 8), 512, 151.28),
        ("B/16", (16, 768, 12, 12, 224), (512, 8), 512, 149.62),
        ("L/14", (14, 1024, 24, 16, 224), (768, 12), 768, 427.62),
        ("L/14@336", (14, 1024, 24, 16, 336), (768, 12), 768, 427.94),
    ],
)
def test_published_parameter_counts(name, vision, text, embed, millions):
    patch, width, layers, heads, size = vision
    network = Network(
        lambda rngs: CLIP(
            rngs,
            embed=embed,
            vision={"image_size": size, "patch": patch, "width": width, "layers": layers, "heads": heads},
            text={"width": text[0], "heads": text[1]},
        )
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 2) == millions


@pytest.mark.parametrize(("width", "layers", "heads", "millions"), [(384, 12, 6, 32.96), (1152, 28, 16, 675.13)])
def test_dit_has_the_parameters_of_its_paper(width, layers, heads, millions):
    """DiT-S/2 and XL/2 as published: with the label table, the doubled output (learned variance) and frozen positions."""
    network = Network(
        lambda rngs: DiT(rngs, image_size=32, channels=4, patch=2, width=width, layers=layers, heads=heads, pooled=None)
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    labels, second_half, positions = 1001 * width, (width + 1) * 16, 256 * width
    assert round((count + labels + second_half + positions) / 1e6, 2) == millions


def test_text_initialisation_has_openais_moments():
    wide = Network(
        lambda rngs: CLIP(
            rngs,
            embed=64,
            vision={**VISION, "width": 128, "layers": 1},
            text={**TEXT, "vocabulary_size": 2000, "width": 128, "layers": 3, "context_length": 77},
        )
    )
    params = wide.init(jax.random.key(0))
    text, layers = params["text"], params["text"]["blocks"]["layers"]
    narrow = 128**-0.5 * 6**-0.5
    expected = {
        "token": (text["token_embedding"], 0.02),
        "position": (text["positional_embedding"], 0.01),
        "in_proj": (layers["attn"]["in_proj"]["kernel"], 128**-0.5),
        "out_proj": (layers["attn"]["out_proj"]["kernel"], narrow),
        "c_fc": (layers["mlp"]["c_fc"]["kernel"], 256**-0.5),
        "c_proj": (layers["mlp"]["c_proj"]["kernel"], narrow),
        "projection": (text["proj"]["kernel"], 128**-0.5),
        "visual projection": (params["visual"]["proj"]["kernel"], 128**-0.5),
        "visual positions": (params["visual"]["positional_embedding"], 128**-0.5),
        # a uniform distribution on +-width^-1/2 has this standard deviation
        "visual c_fc": (params["visual"]["blocks"]["layers"]["mlp"]["c_fc"]["kernel"], (128 * 3) ** -0.5),
    }
    for name, (leaf, std) in expected.items():
        tolerance = 4 * std / np.sqrt(2 * leaf.size)
        assert abs(float(leaf.std()) - std) < tolerance, name
        assert abs(float(leaf.mean())) < 4 * std / np.sqrt(leaf.size), name
    assert float(params["logit_scale"]) == pytest.approx(np.log(1 / 0.07))
    assert not np.asarray(layers["attn"]["in_proj"]["bias"]).any()


def test_text_feature_stands_at_the_end_token_and_ignores_what_follows(key):
    network = clip()
    params = network.init(key)
    tokens = jnp.array([[18, 3, 4, 19, 0, 0, 0, 0, 0, 0], [18, 3, 4, 19, 7, 7, 7, 7, 7, 7]])
    out = network.method("encode_text")(params, tokens)
    np.testing.assert_allclose(out.pooled[0], out.pooled[1], atol=1e-6)
    np.testing.assert_allclose(out.pooled[0], out.tokens[0, 3], atol=1e-6)
    other = network.method("encode_text")(params, tokens.at[0, 2].set(5))
    assert np.abs(np.asarray(other.pooled[0] - out.pooled[0])).max() > 1e-3


def test_clip_embeddings_are_unit_and_scale_is_exp(key):
    network = clip()
    out = network.apply(network.init(key), jnp.ones((3, 8, 8, 1)), jnp.full((3, 10), 19))
    np.testing.assert_allclose(jnp.linalg.norm(out.image, axis=-1), np.ones(3), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(out.text, axis=-1), np.ones(3), atol=1e-5)
    assert float(out.scale) == pytest.approx(1 / 0.07, rel=1e-5)


def test_dit_ignores_tokens_past_their_length(key):
    network = dit()
    params = shake(network.init(key), key)
    x, t, cond = jax.random.normal(key, (3, 8, 8, 1)), jnp.array([10.0, 500.0, 990.0]), condition()
    past = jnp.arange(4)[None, :, None] >= cond["length"][:, None, None]
    changed = {**cond, "tokens": jnp.where(past, 9.0, cond["tokens"])}
    np.testing.assert_array_equal(network.apply(params, x, t, cond), network.apply(params, x, t, changed))


def test_networks_refuse_shapes_that_do_not_fit():
    with pytest.raises(UserError, match="image_size 9 is not divided by patch 2"):
        dit(image_size=9)
    with pytest.raises(UserError, match="width 30 is not divided"):
        dit(width=30, heads=4)
    for shape in ((2, 8, 8), (2, 32, 32, 1), (2, 8, 8, 3)):
        drawn = r"this network draws \(8, 8, 1\); given " + re.escape(str(shape[1:]))
        with pytest.raises(UserError, match=drawn):
            jax.eval_shape(lambda p, x: dit().apply(p, x, jnp.ones(2)), dit().init(jax.random.key(0)), jnp.ones(shape))
    with pytest.raises(ValueError, match="needs a condition with 'pooled'"):
        jax.eval_shape(lambda p: dit().apply(p, jnp.ones((1, 8, 8, 1)), jnp.ones(1)), dit().init(jax.random.key(0)))
