"""CLIP's loss function with its options, on a tiny CLIP that drops patches at random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.nets import CLIP, Network
from diffusion_jax.parallel.mesh import make_mesh, put_batch
from diffusion_jax.systems.clip.loss import clip_loss
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step
from diffusion_jax.typing import Context, UserError

BATCH = 16
VISION = {"image_size": 8, "patch": 2, "channels": 3, "width": 8, "layers": 1, "heads": 2, "patch_dropout": 0.5}
TEXT = {"vocabulary_size": 11, "context_length": 4, "width": 8, "layers": 1, "heads": 2}


def tiny(**options):
    return Network(lambda rngs: CLIP(rngs, embed=6, vision=VISION, text=TEXT, **options))


@pytest.fixture(scope="module")
def network():
    return tiny(logit_bias=True)


def batch_of(seed=0, **columns):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
    return {"image": image, "tokens": rng.integers(1, 11, (BATCH, 4)).astype(np.int32), **columns}


def encoders(network):
    return {"encoders": (network.method("encode_image"), network.method("encode_text"))}


def outcome(loss_fn):
    """(params, batch, key) -> ((_, (losses, metrics)), gradient of a weighted mean of the losses)."""
    weights = jnp.linspace(-1.0, 2.0, BATCH)

    def weighed(params, batch, key):
        losses, metrics, _ = loss_fn(params, Context(), batch, key)
        return (losses * weights).mean(), (losses, metrics)

    return jax.jit(jax.value_and_grad(weighed, has_aux=True))


def close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), got, wanted)


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_every_way_gives_the_same_loss_metrics_and_gradients(network, loss, key):
    """In blocks, over eight devices, in micro-batches, and each with the others: with the random patches of the plain run."""
    params = network.init(key)
    batch = batch_of(identity=np.arange(BATCH) // 2)
    plain = outcome(clip_loss(network.apply, loss=loss))
    wanted = plain(params, batch, key)
    assert ("logit_bias" in wanted[0][1][1]) is (loss == "sigmoid")
    another = plain(params, batch, jax.random.key(1))
    assert float(jnp.abs(another[0][1][0] - wanted[0][1][0]).max()) > 1e-4, "the patches dropped matter"
    mesh = make_mesh(4, 2)
    every = {"mesh": mesh, "chunk": 5, "micro_batches": 2, **encoders(network)}
    ways = {"infonce": [{"micro_batches": 4, **encoders(network)}, every], "sigmoid": [{"chunk": 5}, every]}[loss]
    for options in ways:
        placed = put_batch(batch, mesh) if "mesh" in options else batch
        close(outcome(clip_loss(network.apply, loss=loss, **options))(params, placed, key), wanted)


def test_repeated_captions_are_positives(network, key):
    """With one identity for all, every image finds its own, and the loss cannot fall below log B."""
    params = network.init(key)
    loss_fn = jax.jit(clip_loss(network.apply, chunk=3))
    losses, metrics, _ = loss_fn(params, Context(), batch_of(identity=np.zeros(BATCH, np.int32)), key)
    assert float(losses.min()) >= np.log(BATCH) - 1e-5
    assert float(metrics["accuracy_image"].min()) == 1.0 and float(metrics["accuracy_text"].min()) == 1.0
    alone, _, _ = loss_fn(params, Context(), batch_of(identity=np.arange(BATCH)), key)
    assert float(jnp.abs(alone - losses).max()) > 1e-3
    np.testing.assert_allclose(alone, loss_fn(params, Context(), batch_of(), key)[0], rtol=1e-5)


def test_a_training_step_with_every_option(network, key):
    """Through `train`: the step's mean loss is the mean of the losses, and SGD moves the temperature and the bias."""
    mesh = make_mesh(4, 2)
    loss_fn = clip_loss(network.apply, loss="sigmoid", mesh=mesh, chunk=5, micro_batches=2, **encoders(network))
    tx = optax.sgd(0.1)
    state = init_state(network.init(key), tx, mesh=mesh)
    state, metrics = jax.jit(make_train_step(loss_fn, tx))(state, put_batch(batch_of(), mesh), key)
    assert {"loss", "grad_norm", "accuracy_image", "accuracy_text", "logit_scale", "logit_bias"} == set(metrics)
    assert float(metrics["logit_scale"]) == pytest.approx(10.0, rel=1e-5) and float(metrics["logit_bias"]) == -10.0
    assert float(state.params["logit_bias"]) != -10.0


def test_options_that_do_not_go_together_are_named(network, key):
    with pytest.raises(UserError, match="loss 'sigmod' is not known; did you mean 'sigmoid'"):
        clip_loss(network.apply, loss="sigmod")
    with pytest.raises(UserError, match=r"micro_batches 4 needs encoders=\(encode_image, encode_text\); nearest: 1"):
        clip_loss(network.apply, micro_batches=4)
    with pytest.raises(UserError, match="micro_batches 0 is not a number of micro-batches"):
        clip_loss(network.apply, micro_batches=0, **encoders(network))
    plain = tiny()
    with pytest.raises(UserError, match="loss 'sigmoid' needs a network with logit_bias=True"):
        jax.eval_shape(clip_loss(plain.apply, loss="sigmoid"), plain.init(key), Context(), batch_of(), key)
