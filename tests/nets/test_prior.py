"""unCLIP's prior and the projection for its decoder: what sees what, what is hidden, scale, sizes, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled
from flax import nnx

from diffusion_jax.build import diffusion_network
from diffusion_jax.nets import Network, PriorTransformer, TextProjection, UNet, prior_model, unet_model
from diffusion_jax.typing import UserError

SMALL = {"dim": 6, "pooled": 5, "context": 4, "context_length": 7, "width": 16, "layers": 2, "heads": 2}
LENGTH = np.array([7, 3, 1, 0])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(**given):
    """(network, parameters away from their start, where the answer is 0)."""
    made = Compiled(lambda rngs: PriorTransformer(rngs, **{**SMALL, **given}))
    leaves, tree = jax.tree.flatten(made.init(jax.random.key(0)))
    return made, tree.unflatten([leaf + 0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def told(size=4, **more):
    return {"pooled": normal(1, size, 5), "tokens": normal(2, size, 7, 4), "length": jnp.asarray(LENGTH), **more}


X, T = normal(3, 4, 6), jnp.array([0.0, 17.0, 500.0, 999.0])


def test_a_place_sees_itself_and_what_stands_before_it():
    module = PriorTransformer(nnx.Rngs(0), **SMALL)

    @jax.jit
    def states(tokens, xt):
        cond = {"pooled": normal(1, 1, 5), "tokens": tokens, "length": jnp.array([7])}
        return module.blocks(module.sequence(xt, T[:1], cond)[0])[0]

    tokens, xt = normal(2, 1, 7, 4), X[:1]
    before = states(tokens, xt)
    assert before.shape == (7 + 4, 16)
    for j in range(7):
        moved = np.abs(states(tokens.at[0, j].add(1.0), xt) - before).max(axis=1)
        assert (moved[:j] == 0).all() and (moved[j:] > 1e-4).all()
    moved = np.abs(states(tokens, xt + 1.0) - before).max(axis=1)
    assert (moved > 1e-4).tolist() == [False] * 9 + [True, True]


@pytest.mark.parametrize("query", [True, False])
def test_what_a_length_hides_does_not_matter_and_all_else_does(query):
    net, params = network(query=query)
    cond = told()
    found = net.apply(params, X, T, cond)
    hidden = (np.arange(7)[None] >= LENGTH[:, None])[..., None]
    other = {**cond, "tokens": jnp.where(hidden, 9.0, cond["tokens"])}
    np.testing.assert_array_equal(net.apply(params, X, T, other), found)
    slope = jax.jit(jax.grad(lambda tokens: jnp.sin(net.apply(params, X, T, {**cond, "tokens": tokens})).sum()))(
        cond["tokens"]
    )
    assert ((np.abs(slope).max(axis=-1, keepdims=True) > 0) == ~hidden).all()


def test_padding_may_be_left_out():
    net, params = network()
    whole = net.apply(params, X, T, told())
    for i, length in enumerate(LENGTH):
        cond = {name: value[i : i + 1] for name, value in told().items()}
        cut = {**cond, "tokens": cond["tokens"][:, :length]}
        np.testing.assert_allclose(
            net.apply(params, X[i : i + 1], T[i : i + 1], cut), whole[i : i + 1], atol=2e-6, rtol=1e-5
        )


def test_it_is_told_a_vector_alone():
    net, params = network(context=None, context_length=None)
    found = net.apply(params, X, T, {"pooled": told()["pooled"]})
    assert found.shape == (4, 6) and "context_in" not in params and params["positional_embedding"].shape == (4, 16)
    # As of an empty text, with the positions of what follows it.
    whole, more = network()
    shared = {
        **more,
        **params,
        "positional_embedding": more["positional_embedding"].at[7:].set(params["positional_embedding"]),
    }
    empty = told(length=jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(whole.apply(shared, X, T, empty), found, atol=2e-6, rtol=1e-5)


def test_the_scale_is_of_mean_and_deviation_that_no_gradient_reaches():
    net, params = network(out_dim=3)
    x = normal(4, 4, 3)
    back = net.method("denormalize")(params, x)
    np.testing.assert_allclose(back, np.asarray(x) * np.asarray(params["std"]) + np.asarray(params["mean"]), rtol=1e-5)
    np.testing.assert_allclose(net.method("normalize")(params, back), x, atol=1e-5)
    slopes = jax.grad(lambda params: net.method("denormalize")(params, x).sum())(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slopes))
    fresh = network(out_dim=3)[0].init(jax.random.key(0))
    np.testing.assert_array_equal(net.method("denormalize")(fresh, x), x)


def test_dropout_is_of_training():
    net, params = network(dropout_rate=0.5)
    still = net.apply(params, X, T, told())
    np.testing.assert_array_equal(still, network()[0].apply(params, X, T, told()))
    shaken = net.apply(params, X, T, told(), key=jax.random.key(1), train=True)
    assert np.abs(shaken - still).max() > 1e-2
    with pytest.raises(ValueError, match="needs a key"):
        net.apply(params, X, T, told(), train=True)


def test_the_size_of_karlos():
    """diffusers' PriorTransformer of its default config has as many, its clip_mean and clip_std among them."""
    net = Network(lambda rngs: PriorTransformer(rngs, **prior_model("karlo-prior")))
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == KARLO


KARLO = 1_022_030_080
ENTRIES = {"pooled": (5,), "tokens": (7, 4), "length": ()}
SPEC = {"name": "prior", "width": 16, "layers": 1, "heads": 2, "dtype": "float32"}


def test_sizes_follow_from_the_condition():
    for entries, places in ((ENTRIES, 11), ({"pooled": (5,)}, 4)):
        shapes = jax.eval_shape(diffusion_network(SPEC, (6,), entries).init, jax.random.key(0))
        assert shapes["positional_embedding"].shape == (places, 16) and shapes["pooled_in"]["kernel"].shape == (5, 16)
        assert shapes["final"]["kernel"].shape == (16, 6) and ("context_in" in shapes) == ("tokens" in entries)


WRONG = [
    ((8, 8, 1), ENTRIES, {}, r"draws vectors \[size\], not arrays \(8, 8, 1\); nearest: 'dit'"),
    ((6,), {"pooled": (5,), "tokens": (7, 4)}, {}, "reads 'tokens' with their 'length'"),
    ((6,), {"tokens": (7, 4), "length": ()}, {}, "needs a condition with 'pooled'; the config's gives tokens, length"),
    ((6,), {}, {}, "needs a condition with 'pooled'; the config's gives nothing"),
    ((6,), {**ENTRIES, "embedding": (3,)}, {}, "cannot read the condition's entry 'embedding'"),
    ((6,), ENTRIES, {"width": 15, "heads": 3}, "width 15 is not divided by 2"),
    ((6,), ENTRIES, {"heads": 3}, "width 16 is not divided by 3 heads"),
    ((6,), ENTRIES, {"time_act": "tanh"}, "activation 'tanh' is not known"),
    ((6,), ENTRIES, {"context_length": 3}, "takes no 'context_length'"),
]


@pytest.mark.parametrize(("shape", "entries", "keywords", "said"), WRONG, ids=[row[-1][:24] for row in WRONG])
def test_what_it_cannot_be_made_for_is_one_line(shape, entries, keywords, said):
    with pytest.raises(UserError, match=said) as error:
        diffusion_network({**SPEC, **keywords}, shape, entries)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused_when_it_is_given():
    net, params = network()
    cond = told()
    for x, given, said in (
        (X[:, :5], cond, r"draws vectors of 6; given \(5,\)"),
        (X, {**cond, "tokens": normal(0, 4, 8, 4)}, "reads 7 tokens at most; given 8"),
        (X, {name: cond[name] for name in ("pooled", "tokens")}, "needs a condition with 'length'"),
    ):
        with pytest.raises(UserError, match=said):
            jax.eval_shape(net.apply, params, x, T, given)
    with pytest.raises(UserError, match="context 4 and context_length None: tokens have both, or neither"):
        network(context_length=None)
    with pytest.raises(UserError, match="did you mean 'karlo-prior'"):
        prior_model("karlo-priors")


PROJECTION = {"embedding": 5, "tokens": 4, "width": 6, "context": 7, "count": 2}


def test_the_projection_is_its_formula():
    net = Compiled(lambda rngs: TextProjection(rngs, **PROJECTION))
    leaves, tree = jax.tree.flatten(net.init(jax.random.key(0)))
    params = tree.unflatten([leaf + 0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    z, y, s, length = normal(1, 3, 5), normal(2, 3, 5), normal(3, 3, 4, 4), jnp.array([4, 2, 0])
    found = net.apply(params, z, y, s, length)

    def mapped(name, x):
        return np.asarray(x) @ params[name]["kernel"] + params[name]["bias"][None]

    np.testing.assert_allclose(found["embedding"], mapped("text", y) + mapped("image", z), atol=1e-5)
    own = mapped("image_tokens", z)
    np.testing.assert_allclose(found["tokens"][:, :2], np.stack([own[:, ::2], own[:, 1::2]], axis=1), atol=1e-5)
    said = mapped("text_tokens", s.reshape(12, 4))
    said = (said - said.mean(1, keepdims=True)) / np.sqrt(said.var(1, keepdims=True) + 1e-5)
    said = said * params["norm_text"]["scale"][None] + params["norm_text"]["bias"][None]
    np.testing.assert_allclose(found["tokens"][:, 2:].reshape(12, 7), said, atol=1e-5)
    assert found["length"].tolist() == [6, 4, 2]
    null = net.apply(params, None, y, s, length)
    given = net.apply(params, jnp.broadcast_to(params["null_embedding"][None], (3, 5)), y, s, length)
    jax.tree.map(np.testing.assert_array_equal, null, given)
    for wrong, reason in (
        ((z, y[:, :4], s), "reads embedding of 5 features; given 4"),
        ((z, y, s[..., :3]), "reads tokens of 4 features; given 3"),
        ((z[:, :4], y, s), "of picture and text have one shape"),
    ):
        with pytest.raises(UserError, match=reason):
            net.apply(params, *wrong, length)


@pytest.mark.slow  # tests/pipelines/test_karlo_folder.py holds both to diffusers' numbers
def test_what_it_gives_is_a_condition_of_karlos_decoder_whose_length_hides_the_texts_end():
    sizes = unet_model("karlo-decoder", {"channels": (16, 32), "layers": 1, "down": ("plain", "added"), "head_dim": 8})
    sizes |= {"context": 12, "groups": 8}
    sizes["hearing"] |= {"tokens": 12, "embedding": 64}
    decoder = Network(lambda rngs: UNet(rngs, **sizes))
    projection = Network(lambda rngs: TextProjection(rngs, embedding=5, tokens=4, width=64, context=12))
    made, params = projection.init(jax.random.key(0)), decoder.init(jax.random.key(1))
    leaves, tree = jax.tree.flatten(params)
    params = tree.unflatten([leaf + 0.1 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    s, length, x = normal(3, 2, 5, 4), jnp.array([5, 2]), normal(4, 2, 8, 8, 3)

    def drawn(tokens):
        cond = projection.apply(made, normal(1, 2, 5), normal(2, 2, 5), tokens, length)
        assert cond["tokens"].shape == (2, 4 + 5, 12) and cond["embedding"].shape == (2, 64)
        return np.asarray(jax.jit(decoder.apply)(params, x, jnp.array([17.0, 803.0]), cond))

    found = drawn(s)
    assert found.shape == (2, 8, 8, 6)
    np.testing.assert_allclose(drawn(s.at[1, 2:].set(9.0)), found, atol=1e-5)
    moved = np.abs(drawn(s.at[:, 1].add(1.0)) - found).reshape(2, -1).max(axis=1)
    assert (moved > 1e-4).all()
