"""LoRA as functions of trees: merges by hand, joined and stacked kernels, convolutions; the adapters alone train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.convert.entries import flatten
from diffusion_jax.nets import Network, UNet
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.lora import init_lora, lora_frozen, lora_loss, merge_lora, merge_loras
from diffusion_jax.train.optim import adamw, muon
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_eval_step, make_train_step
from diffusion_jax.typing import UserError

STABLE = {
    "in_channels": 4, "channels": (16, 32), "layers": 1, "down": ("cross", "plain"), "middle": "cross", "heads": (2, 4),
    "groups": 8, "hearing": {"tokens": 12}, "transformer_layers": (1, 2),
}  # fmt: skip


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def params():
    return {
        "attn": {"qkv": {"kernel": normal(0, 4, 9)}, "out": {"kernel": normal(1, 3, 4), "bias": normal(2, 4)}},
        "blocks": {"layers": {"ff": {"kernel": normal(3, 2, 4, 5), "bias": normal(4, 2, 5)}}},
        "conv": {"kernel": normal(5, 3, 3, 2, 4), "bias": normal(6, 4)},
        "stacked": {"conv": {"kernel": normal(7, 2, 3, 3, 2, 4)}},
        "table": normal(8, 3, 4),
    }


def filled(lora, seed=0):
    """The same tree with B as random as A."""
    leaves, tree = jax.tree.flatten_with_path(lora)
    keys = [jax.tree_util.keystr(path) for path, _ in leaves]
    values = [
        leaf if key.endswith("['alpha']") else normal([seed, i], *leaf.shape)
        for i, (key, (_, leaf)) in enumerate(zip(keys, leaves))
    ]
    return tree.unflatten(values)


def test_rank_one_by_hand():
    lora = {"out": {"A": np.array([[1.0], [2.0]]), "B": np.array([[3.0, 0.0, -1.0]]), "alpha": np.array(4.0)}}
    given = {"out": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    merged = merge_lora(given, lora, 0.5)
    # 1 + 0.5 (4 / 1) a b
    np.testing.assert_array_equal(merged["out"]["kernel"], [[7, 1, -1], [13, 1, -3]])
    assert merged["out"]["bias"] is given["out"]["bias"]


def test_alpha_over_rank_scales_stacked_layers_each_by_its_own():
    lora = filled(init_lora(params(), jax.random.key(0), rank=2, paths=("ff$",), alpha=3.0))
    node = lora["blocks"]["layers"]["ff"]
    assert {name: leaf.shape for name, leaf in node.items()} == {"A": (2, 4, 2), "B": (2, 2, 5), "alpha": (2,)}
    node["alpha"] = np.array([3.0, 8.0], np.float32)
    found = np.asarray(merge_lora(params(), lora)["blocks"]["layers"]["ff"]["kernel"])
    for i, factor in enumerate((1.5, 4.0)):
        wanted = params()["blocks"]["layers"]["ff"]["kernel"][i] + factor * node["A"][i] @ node["B"][i]
        np.testing.assert_allclose(found[i], wanted, atol=1e-5)
    # Of one layer alone, below its number.
    single = {"blocks": {"layers": {"ff": {"1": {name: leaf[1] for name, leaf in node.items()}}}}}
    alone = np.asarray(merge_lora(params(), single)["blocks"]["layers"]["ff"]["kernel"])
    np.testing.assert_array_equal(alone[1], found[1])
    np.testing.assert_array_equal(alone[0], params()["blocks"]["layers"]["ff"]["kernel"][0])


def test_a_joined_kernel_has_an_adapter_a_part():
    lora = filled(init_lora(params(), jax.random.key(0), rank=2, paths=("qkv/[qv]$",)))
    parts = lora["attn"]["qkv"]
    assert parts.keys() == {"q", "v"} and parts["q"]["B"].shape == (2, 3)
    found = np.asarray(merge_lora(params(), lora)["attn"]["qkv"]["kernel"])
    kernel = params()["attn"]["qkv"]["kernel"]
    np.testing.assert_allclose(found[:, :3], kernel[:, :3] + parts["q"]["A"] @ parts["q"]["B"], atol=1e-6)
    np.testing.assert_array_equal(found[:, 3:6], kernel[:, 3:6])
    np.testing.assert_allclose(found[:, 6:], kernel[:, 6:] + parts["v"]["A"] @ parts["v"]["B"], atol=1e-6)
    whole = {"attn": {"qkv": {"A": normal(1, 4, 2), "B": normal(2, 2, 9), "alpha": np.float32(2)}}}
    merged = merge_lora(params(), whole)["attn"]["qkv"]["kernel"]
    np.testing.assert_allclose(merged, kernel + normal(1, 4, 2) @ normal(2, 2, 9), atol=1e-6)


@pytest.mark.parametrize("path", ["^conv$", "^stacked/conv$"])
def test_a_convolution_is_two_in_a_row(path):
    """The change of a kernel is a convolution into r channels and one of 1 x 1 after it."""
    lora = filled(init_lora(params(), jax.random.key(0), rank=2, paths=(path,), alpha=1.0))
    base, merged = params(), merge_lora(params(), lora)
    for name in path.strip("^$").split("/"):
        base, merged, lora = base[name], merged[name], lora[name]
    x = normal(9, 1, 5, 5, 2)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for at in (np.index_exp[0], np.index_exp[1]) if base["kernel"].ndim == 5 else (np.index_exp[:],):
        low = conv(conv(x, lora["A"][at]), lora["B"][at])
        np.testing.assert_allclose(conv(x, merged["kernel"][at]), conv(x, base["kernel"][at]) + 0.5 * low, atol=2e-5)


def test_fresh_adapters_change_nothing_and_are_drawn_by_their_path():
    lora = init_lora(params(), jax.random.key(0), rank=3, paths=(".",), alpha=1.0)
    assert {path.rsplit("/", 1)[0] for path, _ in flatten(lora)} == {
        "attn/qkv/q", "attn/qkv/k", "attn/qkv/v", "attn/out", "blocks/layers/ff", "conv", "stacked/conv"
    }  # fmt: skip
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(lora))
    jax.tree.map(np.testing.assert_array_equal, merge_lora(params(), lora), params())
    alone = init_lora(params(), jax.random.key(0), rank=3, paths=("out$",))
    np.testing.assert_array_equal(alone["attn"]["out"]["A"], lora["attn"]["out"]["A"])
    a = np.asarray(
        init_lora({"x": {"kernel": jnp.zeros((3, 3, 4, 8))}}, jax.random.key(1), rank=64, paths=("x",))["x"]["A"]
    )
    bound = 36**-0.5  # a uniform of variance bound^2 / 3
    assert np.abs(a).max() <= bound and abs(a.std() * 3**0.5 / bound - 1) < 0.05


def test_several_merged_are_linear_in_their_scales():
    one, two = (filled(init_lora(params(), jax.random.key(0), rank=r, paths=(".",)), r) for r in (1, 4))
    found = merge_loras(params(), [(one, 0.7), (two, -0.2)])

    def change(lora):
        return jax.tree.map(lambda a, b: np.asarray(a) - b, merge_lora(params(), lora), params())

    wanted = jax.tree.map(lambda w, a, b: w + 0.7 * a - 0.2 * b, params(), change(one), change(two))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    assert merge_loras(params(), []).keys() == params().keys()


def test_a_kernel_keeps_its_dtype():
    given = {"x": {"kernel": jnp.ones((4, 4), jnp.bfloat16)}}
    lora = filled(init_lora(given, jax.random.key(0), rank=1, paths=("x",)))
    assert merge_lora(given, lora)["x"]["kernel"].dtype == jnp.bfloat16


def test_attention_is_adapted_by_default():
    shapes = jax.eval_shape(Network(lambda rngs: UNet(rngs, **STABLE)).init, jax.random.key(0))
    base = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    found = {path.rsplit("/", 1)[0] for path, _ in flatten(init_lora(base, jax.random.key(0), rank=2))}
    blocks = "middle/attention/blocks/layers"
    here = {path.removeprefix(f"{blocks}/") for path in found if path.startswith(blocks)}
    first, second = {"qkv/q", "qkv/k", "qkv/v", "out"}, {"q", "kv/k", "kv/v", "out"}
    assert here == {f"attn1/{part}" for part in first} | {f"attn2/{part}" for part in second}
    assert len(found) == 8 * 4 and not any("proj" in path or "ff" in path for path in found)


@pytest.mark.parametrize("make", [adamw, lambda *a, **k: muon(*a, hidden=("conv/A$",), **k)], ids=["adamw", "muon"])
def test_the_step_trains_the_adapters_alone(make):
    def loss_fn(given, ctx, batch, key):
        y = jnp.tanh(batch["x"] @ given["attn"]["qkv"]["kernel"]) @ ctx.frozen["readout"]
        more = jnp.sum(given["conv"]["kernel"] ** 2) + jnp.sum(given["blocks"]["layers"]["ff"]["kernel"] ** 2)
        drift = 0.0 if ctx.ema is None else jnp.sum(ctx.ema["attn"]["qkv"]["kernel"])
        return (y - batch["y"]) ** 2 + 0.01 * more, {"drift": drift}, ctx.aux

    base = jax.tree.map(jnp.asarray, params())
    lora = init_lora(base, jax.random.key(0), rank=2, paths=("qkv", "ff", "^conv"))
    tx, ema = make(1e-2, 0, 20, weight_decay=0.1, clip_norm=1.0), Ema(0.9)
    state = init_state(lora, tx, ema, frozen=lora_frozen(base, {"readout": jnp.ones(9)}))
    step = jax.jit(make_train_step(lora_loss(loss_fn, 0.8), tx, ema))
    batch = {"x": normal(1, 8, 4), "y": normal(2, 8)}
    evaluate = jax.jit(make_eval_step(lora_loss(loss_fn, 0.8)))
    first = evaluate(state, batch, jax.random.key(1))
    for _ in range(10):
        state, _ = step(state, batch, jax.random.key(1))
    last = evaluate(state, batch, jax.random.key(1))
    assert last["loss"] < first["loss"] and last["ema_loss"] < first["ema_loss"]
    before, after = dict(flatten(lora)), dict(flatten(state.params))
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        moved = np.abs(np.asarray(after[path]) - np.asarray(leaf)).max()
        assert moved == 0 if path.endswith("/alpha") else moved > 1e-4, path
    jax.tree.map(np.testing.assert_array_equal, state.frozen["base"], params())
    wanted = loss_fn(
        merge_lora(base, state.params, 0.8),
        type("C", (), {"frozen": {"readout": jnp.ones(9)}, "ema": None, "aux": None}),
        batch,
        None,
    )
    np.testing.assert_allclose(last["loss"], jnp.mean(wanted[0]), rtol=1e-5)


def test_gradients_are_those_of_the_chain_rule():
    """dA = s (alpha / r) dW B^T and dB = s (alpha / r) A^T dW, of a part and of each layer of a stack; alpha has none."""
    lora = filled(init_lora(params(), jax.random.key(0), rank=2, paths=("qkv/v", "ff", "^conv"), alpha=3.0))
    x, pictures = jnp.asarray(normal(0, 6, 4)), jnp.asarray(normal(1, 2, 5, 5, 2))

    def loss(given):
        h = jnp.tanh(x @ given["attn"]["qkv"]["kernel"])
        for layer in range(2):
            h = h[:, :5] + jnp.tanh(h[:, -4:] @ given["blocks"]["layers"]["ff"]["kernel"][layer])
        y = jax.lax.conv(pictures.transpose(0, 3, 1, 2), given["conv"]["kernel"].transpose(3, 2, 0, 1), (1, 1), "SAME")
        return jnp.sum(h**2) + jnp.sum(jnp.sin(y))

    @jax.jit
    def grads(lora, base):
        return jax.grad(lambda lora: loss(merge_lora(base, lora, 0.5)))(lora), jax.grad(loss)(
            merge_lora(base, lora, 0.5)
        )

    low, whole = grads(lora, jax.tree.map(jnp.asarray, params()))
    places = {
        ("attn", "qkv", "v"): whole["attn"]["qkv"]["kernel"][:, 6:],
        ("blocks", "layers", "ff"): whole["blocks"]["layers"]["ff"]["kernel"],
        ("conv",): whole["conv"]["kernel"],
    }
    for path, g in places.items():
        node, found = lora, low
        for name in path:
            node, found = node[name], found[name]
        g = 0.75 * np.asarray(g)
        down = np.swapaxes(node["A"], -1, -2) @ g
        np.testing.assert_allclose(found["A"], g @ np.swapaxes(node["B"], -1, -2), rtol=1e-4, atol=1e-4)
        wanted = down.sum((0, 1), keepdims=True) if path == ("conv",) else down
        np.testing.assert_allclose(found["B"], wanted, rtol=1e-4, atol=1e-4)
        assert np.abs(np.asarray(found["A"])).max() > 0.01 and not np.asarray(found["alpha"]).any()


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: init_lora(params(), jax.random.key(0), rank=0), "rank 0 is not a whole number of at least 1"),
        (lambda: init_lora(params(), jax.random.key(0), rank=2, alpha=0.0), "alpha 0.0 is not a finite number above 0"),
        (lambda: init_lora(params(), jax.random.key(0), rank=2, paths=("(",)), "paths '(' is not a regular expression"),
        (lambda: init_lora(params(), jax.random.key(0), rank=2, paths=()), "paths () adapt nothing"),
        (
            lambda: init_lora(params(), jax.random.key(0), rank=2, paths=("table",)),
            "paths 'table' is found in no layer with a kernel; their paths begin with attn, blocks, conv, stacked, table",
        ),
        (lambda: merge_lora(params(), {"ears": {"A": 0}}), "adapts 'ears', which is no layer with a kernel"),
        (lambda: merge_lora(params(), {"table": {"A": 0}}), "adapts 'table', which is no layer with a kernel"),
        (lambda: merge_lora(params(), {"conv": {"q": {}}}), "adapts 'conv/q'; the parts there are none"),
        (lambda: merge_lora(params(), {"attn": {"qkv": {"z": {}}}}), "adapts 'attn/qkv/z'; the parts there are q, k, v"),
        (lambda: merge_lora(params(), {"blocks": {"layers": {"ff": {"2": {}}}}}), "the kernel there is [2, 4, 5]"),
        (
            lambda: merge_lora(params(), {"attn": {"out": {"A": np.ones((3, 2)), "B": np.ones((1, 4)), "alpha": np.ones(())}}}),
            "at 'attn/out' has A [3, 2], B [1, 4], alpha []; with the kernel [3, 4] go [3, 2], [2, 4], []",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(act, said):
    with pytest.raises(UserError) as caught:
        act()
    assert said in str(caught.value) and "\n" not in str(caught.value)
