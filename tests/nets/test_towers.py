"""CLIP's and SigLIP's towers: patch dropout, hidden states, the ResNet's frozen norms, attention pooling, published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled

from diffusion_jax.nets import CLIP, CLIP_MODELS, ModifiedResNet, Network, VisionTransformer, clip_model
from diffusion_jax.nets.vit import drop_patches
from diffusion_jax.typing import UserError

VISION = {"image_size": 8, "channels": 1, "patch": 2, "width": 32, "layers": 3, "heads": 4}
TEXT = {"vocabulary_size": 20, "context_length": 10, "width": 32, "layers": 2, "heads": 4}
SIGLIP = {"init": "glorot", "eps": 1e-6, "activation": "gelu_tanh"}
RESNET = {"tower": "resnet", "image_size": 32, "channels": 1, "width": 8, "layers": (2, 1, 1, 1)}
TOKENS = jnp.array([[18, 3, 4, 19, 0, 0, 0, 0, 0, 0], [18, 3, 19, 0, 0, 0, 0, 0, 0, 0], [18, *range(1, 9), 19]])


def clip(kind="vit", **vision):
    if kind == "siglip":
        vision = {**VISION, **SIGLIP, "pool": "map", **vision}
        text = {**TEXT, **SIGLIP, "pool": "last"}
        return Compiled(lambda rngs: CLIP(rngs, embed=32, vision=vision, text=text, logit_bias=True))
    vision = {**(RESNET if kind == "resnet" else VISION), **vision}
    return Compiled(lambda rngs: CLIP(rngs, embed=16, vision=vision, text=TEXT))


def pictures(kind, batch=3):
    size = 32 if kind == "resnet" else 8
    return jax.random.normal(jax.random.key(5), (batch, size, size, 1))


# As open_clip 3.3 counts the parameters and statistics of these models (tests/parity compares every output).
COUNTS = {
    "ViT-B-32": 151277313, "ViT-L-14-336": 427944193, "ViT-H-14": 986109441, "ViT-g-14": 1366678273,
    "ViT-bigG-14": 2539567105, "RN50": 102060385, "RN101": 119793505, "RN50x4": 178410361, "RN50x16": 291173137,
    "RN50x64": 623668929, "ViT-B-16-SigLIP": 203155970, "ViT-SO400M-14-SigLIP-384": 877960498,
    "ViT-B-32-SigLIP2-256": 376856066, "ViT-gopt-16-SigLIP2-384": 1871885426,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_published_models_have_their_size(name):
    network = Network(lambda rngs: CLIP(rngs, **clip_model(name)))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == COUNTS[name]


def test_names_of_models():
    assert clip_model("ViT-B-32-quickgelu")["text"]["activation"] == "quick_gelu"
    assert clip_model("ViT-B-32", text={"context_length": 248})["text"]["context_length"] == 248
    assert CLIP_MODELS["ViT-B-32"]["text"].keys() < clip_model("ViT-B-32")["text"].keys()
    with pytest.raises(UserError, match="did you mean 'ViT-B-32'"):
        clip_model("vit-b-32")
    with pytest.raises(UserError, match="did you mean 'ViT-B-32'"):
        clip_model("ViT-B-33")


@pytest.mark.parametrize("kind", ["vit", "siglip", "resnet"])
def test_towers_answer_with_tokens_pooled_penultimate_and_embedding(kind, key):
    network = clip(kind)
    params = network.init(key)
    out = network.method("encode_image")(params, pictures(kind))
    tokens, width = {"vit": (17, 32), "siglip": (16, 32), "resnet": (1, 256)}[kind]
    assert out.tokens.shape == (3, tokens, width) and out.pooled.shape == (3, width)
    assert out.embedding.shape == (3, 32 if kind == "siglip" else 16)
    states = network.method("image_states")(params, pictures(kind))
    if kind == "resnet":
        np.testing.assert_allclose(states[-2].reshape(out.penultimate.shape), out.penultimate, atol=1e-6)
        assert [s.shape[1] for s in states] == [8, 8, 4, 2, 1]
    else:
        assert states.shape == (4, 3, tokens, 32)
        np.testing.assert_allclose(states[-2], out.penultimate, atol=1e-5)
    text = network.method("encode_text")(params, TOKENS)
    hidden = network.method("text_states")(params, TOKENS)
    assert hidden.shape == (3, 3, 10, 32)
    np.testing.assert_allclose(hidden[-2], text.penultimate, atol=1e-5)
    end = (9, 9, 9) if kind == "siglip" else (3, 2, 9)
    np.testing.assert_allclose(text.pooled, jnp.stack([text.tokens[i, e] for i, e in enumerate(end)]), atol=1e-6)


def test_dropped_patches_are_a_subset_in_order_and_an_examples_own(key):
    x = jnp.arange(5 * 16.0).reshape(5, 16, 1)
    kept = np.asarray(drop_patches(x, 0.5, key))[:, :, 0]
    assert kept.shape == (5, 8)
    for row, values in enumerate(kept):
        assert (np.diff(values) > 0).all() and (values // 16 == row).all()
    assert len({tuple(values % 16) for values in kept}) > 1
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
    np.testing.assert_array_equal(drop_patches(x, 0.5, keys)[:, :, 0], kept)
    # The masks of a part of the batch are the part of its masks: micro-batches see what the whole batch would.
    np.testing.assert_array_equal(drop_patches(x[2:4], 0.5, keys[2:4])[:, :, 0], kept[2:4])
    assert drop_patches(x, 0.99, key).shape == (5, 1, 1)
    share = np.asarray(drop_patches(jnp.tile(jnp.arange(16.0)[None, :, None], (4000, 1, 1)), 0.75, key))
    counts = np.bincount(share.astype(int).ravel(), minlength=16)
    assert np.abs(counts / 1000 - 1).max() < 5 * np.sqrt(0.75 / 1000)


def test_patch_dropout_acts_in_training_alone(key):
    dropping, plain = clip(patch_dropout=0.5), clip()
    params = plain.init(key)
    images = pictures("vit")
    encode = dropping.method("encode_image")
    np.testing.assert_array_equal(
        encode(params, images).embedding, plain.method("encode_image")(params, images).embedding
    )
    trained = encode(params, images, key=key, train=True)
    assert trained.tokens.shape == (3, 9, 32)
    assert np.abs(np.asarray(trained.embedding - encode(params, images).embedding)).max() > 1e-3
    with pytest.raises(ValueError, match="needs a key"):
        encode(params, images, train=True)
    with pytest.raises(UserError, match=r"patch_dropout 1.0 is not in \[0, 1\)"):
        clip(patch_dropout=1.0)


def test_resnet_norms_use_their_statistics(key):
    network = clip("resnet")
    params = network.init(key)
    assert not np.asarray(params["visual"]["layer1"]["first"]["bn3"]["scale"]).any()
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(key, p.shape), params)
    params["visual"]["layer1"]["rest"]["layers"]["bn1"]["var"] = jnp.full((1, 8), 0.25)
    encode = network.method("encode_image")
    plain = encode(params, pictures("resnet")).embedding
    # Statistics and gains say the same thing twice: a larger variance is a smaller gain.
    other = jax.tree.map(lambda p: p, params)
    norm = other["visual"]["bn1"]
    norm["scale"], norm["var"] = norm["scale"] * 2, 4 * (norm["var"] + 1e-5) - 1e-5
    np.testing.assert_allclose(encode(other, pictures("resnet")).embedding, plain, atol=1e-4)


def test_attention_pooling_of_equal_tokens_is_their_value(key):
    """With every token the same the softmax does not matter: the pooled feature is a closed form of that token."""
    from diffusion_jax.nets.vit import AttentionPool

    pool = Network(
        lambda rngs: AttentionPool(8, 2, 16, rngs, activation="gelu_tanh", eps=1e-6, norm="saved", dtype=jnp.float32)
    )
    params = pool.init(key)
    token = jax.random.normal(key, (1, 8))
    x = jnp.tile(token[:, None], (1, 5, 1))
    import flax.nnx as nnx

    graph, state = nnx.split(
        AttentionPool(8, 2, 16, nnx.Rngs(0), activation="gelu_tanh", eps=1e-6, norm="saved", dtype=jnp.float32)
    )
    nnx.replace_by_pure_dict(state, params)
    module = nnx.merge(graph, state)
    value = token @ params["attn"]["kv_proj"]["kernel"][:, 8:] + params["attn"]["kv_proj"]["bias"][None, 8:]
    y = value @ params["attn"]["out_proj"]["kernel"] + params["attn"]["out_proj"]["bias"][None]
    np.testing.assert_allclose(module(x), y + module.mlp(module.ln(y)), atol=1e-5)


def test_siglip_starts_where_its_paper_does(key):
    params = clip("siglip").init(key)
    assert float(params["logit_scale"]) == pytest.approx(np.log(10)) and float(params["logit_bias"]) == -10
    kernel = np.asarray(params["visual"]["blocks"]["layers"]["attn"]["in_proj"]["kernel"])
    assert np.abs(kernel).max() <= (3 / 32) ** 0.5 and np.abs(kernel).max() > 0.99 * (3 / 32) ** 0.5
    out = clip("siglip").apply(params, pictures("siglip"), TOKENS)
    assert float(out.scale) == pytest.approx(10) and float(out.bias) == -10
    assert clip().apply(clip().init(key), pictures("vit"), TOKENS).bias is None


def test_an_end_token_that_is_not_the_largest(key):
    grown = Compiled(
        lambda rngs: CLIP(rngs, embed=16, vision=VISION, text={**TEXT, "vocabulary_size": 25, "end_token": 19})
    )
    plain = Compiled(lambda rngs: CLIP(rngs, embed=16, vision=VISION, text={**TEXT, "vocabulary_size": 25}))
    params = grown.init(key)
    tokens = jnp.array([[18, 23, 4, 19, 0, 0, 0, 0, 0, 0]])
    found = grown.method("encode_text")(params, tokens)
    np.testing.assert_allclose(found.pooled[0], found.tokens[0, 3], atol=1e-6)
    other = plain.method("encode_text")(params, tokens)
    np.testing.assert_allclose(other.pooled[0], other.tokens[0, 1], atol=1e-6)


def test_towers_that_mix_the_families(key):
    """CLIPA's means, rows without a mask, the first place, no projection: from what the tokens say, in NumPy."""

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    images = pictures("vit", 2)
    for after in (False, True):
        network = clip(pool="avg", pre_norm=False, norm_after_pool=after)
        params = network.init(key)
        assert "ln_pre" not in params["visual"]
        out = network.method("encode_image")(params, images)
        patches = np.asarray(out.tokens)[:, 1:]  # ln_post has gain 1 and bias 0 as it is made
        wanted = norm(patches.mean(1)) if after else norm(patches).mean(1)
        np.testing.assert_allclose(out.pooled, wanted, atol=1e-5)

    def text(embed, **options):
        network = Compiled(lambda rngs: CLIP(rngs, embed=embed, vision=VISION, text={**TEXT, **options}))
        params = network.init(key)
        return params["text"], lambda tokens: network.method("encode_text")(params, tokens)

    other = TOKENS.at[:, -1].set(5)
    params, encode = text(32, pool="first", causal=False, projected=False)
    assert "proj" not in params
    out = encode(TOKENS)
    np.testing.assert_array_equal(out.embedding, out.tokens[:, 0])
    assert np.abs(encode(other).pooled - out.pooled).max() > 1e-3  # no mask hides the last word from the first place
    params, encode = text(16, pool="last", causal=True, proj_bias=False)
    assert set(params["proj"]) == {"kernel"}
    out = encode(TOKENS)
    np.testing.assert_array_equal(out.pooled, out.tokens[:, -1])
    np.testing.assert_allclose(encode(other).tokens[:, :-1], out.tokens[:, :-1], atol=1e-6)
    with pytest.raises(UserError, match="width 32 without a projection gives 32 features, not 16"):
        text(16, projected=False)


def test_towers_refuse_what_does_not_fit(key):
    def abstract(network, *given, method="encode_image"):
        return jax.eval_shape(network.method(method), jax.eval_shape(network.init, key), *given)

    with pytest.raises(UserError, match=r"images of shape \(9, 9, 1\): this tower takes \(8, 8, 1\)"):
        abstract(clip(), jnp.zeros((2, 9, 9, 1)))
    with pytest.raises(UserError, match=r"images of shape \(8, 8, 1\): this tower takes \(32, 32, 1\)"):
        abstract(clip("resnet"), jnp.zeros((2, 8, 8, 1)))
    with pytest.raises(UserError, match="token rows of length 11: this tower takes 10"):
        abstract(clip(), jnp.zeros((2, 11), int), method="encode_text")
    with pytest.raises(UserError, match="token rows of length 9: this tower takes 10"):
        abstract(clip("siglip"), jnp.zeros((2, 9), int), method="encode_text")
    with pytest.raises(UserError, match="image_size 40 is not divided by 32; nearest: 32"):
        clip("resnet", image_size=40)
    with pytest.raises(UserError, match="four numbers of at least 1"):
        Network(lambda rngs: ModifiedResNet(rngs, layers=(1, 2)))
    with pytest.raises(UserError, match="tower 'resnt' is not known; did you mean 'resnet'"):
        clip(tower="resnt")
    assert Network(lambda rngs: VisionTransformer(rngs, **{**VISION, "image_size": 9}, trim=True)) is not None
