"""What a DiT is told beside the time: what each entry does, what follows from a condition, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from diffusion_jax.build import diffusion_network
from diffusion_jax.nets import DiT, Network
from diffusion_jax.nets.layers import Linear
from diffusion_jax.parallel.rules import path_of
from diffusion_jax.systems.table import keys
from diffusion_jax.typing import UserError

SMALL = {"image_size": 4, "channels": 1, "width": 8, "layers": 1, "heads": 1}
SHAPE = (4, 4, 1)
SPEC = {"name": "dit", "width": 8, "layers": 1, "heads": 1, "dtype": "float32"}


class Leveller(nnx.Module):
    """A network of one's own with keys of its own that a DiT is given by its condition."""

    reads = ("label",)

    def __init__(self, rngs, entries, counts, level: int = 3, classes: int = 2):
        self.layer = Linear(level, classes, rngs)
        assert (entries, counts) in (({"label": ()}, {"label": 3}), ({"label": ()}, {}))


class Sized(Leveller):
    """And one that says itself what follows, of today's two arguments, by names of its own."""

    @staticmethod
    def sizes(x, told):
        return {"entries": told, "counts": {}}


def network(**given):
    return Network(lambda rngs: DiT(rngs, **SMALL, **given))


def flat(params):
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_what_it_begins_with_does_not_depend_on_what_else_it_reads():
    before = flat(network(pooled=3, context=5).init(jax.random.key(4)))
    after = flat(network(pooled=3, context=5, classes=4, embedding=2, level=True, augment=9).init(jax.random.key(4)))
    assert set(after) - set(before) == {
        "label", "embedding/kernel", "embedding/bias", "augment/kernel",
        "level_in/kernel", "level_in/bias", "level_out/kernel", "level_out/bias",
    }  # fmt: skip
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf)


def test_a_label_is_a_row_of_the_table_and_zeros_of_augmentation_say_nothing():
    """c of the label is its row: a network whose rows are equal does not tell labels apart, and the last is one of them."""
    net = network(classes=3, augment=2)
    leaves, tree = jax.tree.flatten(net.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = tree.unflatten([leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    x = jnp.ones((3, *SHAPE))

    @jax.jit
    def told(params, label, augment):
        return net.apply(params, x, jnp.ones(3), {"label": label, "augment": augment})

    def out(params, label, augment=0.0):
        return np.asarray(told(params, jnp.array(label), jnp.full((3, 2), augment)))

    drawn = out(params, [0, 1, 2])
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3 < np.abs(drawn[1] - drawn[2]).max()
    rows = params["label"]
    swapped = out({**params, "label": rows[jnp.array([2, 1, 0])]}, [2, 1, 0])
    np.testing.assert_allclose(swapped, drawn, atol=1e-6)
    deaf = {**params, "augment": jax.tree.map(jnp.zeros_like, params["augment"])}
    np.testing.assert_array_equal(out(deaf, [0, 1, 2], 5.0), drawn)
    assert np.abs(out(params, [0, 1, 2], 5.0) - drawn).max() > 1e-3


def test_sizes_follow_from_the_condition():
    entries = {"label": (), "embedding": (7,), "image": (4, 4, 2), "level": (), "augment": (9,)}
    net = diffusion_network(SPEC, SHAPE, entries, {"label": 11})
    shapes = {path: leaf.shape for path, leaf in flat(jax.eval_shape(net.init, jax.random.key(0))).items()}
    assert shapes["label"] == (11, 8) and shapes["embedding/kernel"] == (7, 8) and shapes["augment/kernel"] == (9, 8)
    assert shapes["patchify/proj/kernel"] == (2 * 2 * (1 + 2), 8) and shapes["final/kernel"] == (8, 2 * 2 * 1)
    assert "level_in/kernel" in shapes and "pooled/kernel" not in shapes


WRONG = [
    ({"label": ()}, {}, "reads 'label' by a table: the condition does not say in `counts` how many rows"),
    ({"image": (8, 8, 1)}, {}, r"shape \(8, 8, 1\), not \(4, 4, 'channels'\)"),
    ({"image": (4, 4)}, {}, r"shape \(4, 4\), not \(4, 4, 'channels'\)"),
    ({"tokens": (3, 5)}, {}, "reads 'tokens' with their 'length'"),
    ({"guidance": ()}, {}, "cannot read the condition's entry 'guidance'"),
]


@pytest.mark.parametrize(("entries", "counts", "said"), WRONG, ids=lambda value: str(value)[:20])
def test_a_condition_that_it_cannot_be_made_for_is_one_line(entries, counts, said):
    with pytest.raises(UserError, match=said) as error:
        diffusion_network(SPEC, SHAPE, entries, counts)
    assert "\n" not in str(error.value)


def test_an_image_of_another_shape_is_refused_when_it_is_given():
    net = network(image=2)
    params = net.init(jax.random.key(0))
    with pytest.raises(UserError, match=r"joins an 'image' of \(4, 4, 2\) an example; given \(4, 4, 1\)"):
        net.apply(params, jnp.ones((1, *SHAPE)), jnp.ones(1), {"image": jnp.ones((1, 4, 4, 1))})


def test_a_network_of_ones_own_keeps_its_keys_and_is_told_the_counts_if_it_asks():
    name = f"{__name__}:Leveller"
    config = {"system": "diffusion", "model": {"name": name}}
    assert {"model.level", "model.classes"} <= set(keys(ConfigDict(config)))
    assert "model.counts" not in keys(ConfigDict(config))
    diffusion_network({"name": name, "level": 4}, SHAPE, {"label": ()}, {"label": 3})
    diffusion_network({"name": f"{__name__}:Sized", "level": 4}, SHAPE, {"label": ()}, {"label": 3})
