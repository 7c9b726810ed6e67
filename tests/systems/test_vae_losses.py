"""What trains an autoencoder, by closed forms: KL, hinge, adaptive weight, gradients that part, the step at which it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import Compiled

from diffusion_jax.nets import Posterior
from diffusion_jax.nets.patch_discriminator import PatchDiscriminator, most_layers
from diffusion_jax.nets.vae.autoencoder_kl import AutoencoderKL
from diffusion_jax.nets.vae.vq import VQ
from diffusion_jax.systems.vae.loss import (
    DISCRIMINATOR,
    Adversary,
    Latent,
    adaptive_weight,
    autoencoder_loss,
    hinge,
)
from diffusion_jax.systems.vae.perceptual import laplacian, perceptual_named
from diffusion_jax.train.optim import adamw, muon, parted
from diffusion_jax.typing import Context, UserError

SMALL = {"in_channels": 1, "out_channels": 1, "channels": (8, 8), "layers": 1, "groups": 4, "middle_attention": False}
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)), jnp.float32)


@pytest.fixture(scope="module")
def networks():
    network = Compiled(lambda rngs: AutoencoderKL(rngs, latent_channels=2, **SMALL))
    judge = Compiled(lambda rngs: PatchDiscriminator(rngs, channels=1, width=8, layers=1))
    params = network.init(jax.random.key(0)) | {DISCRIMINATOR: judge.init(jax.random.key(1))}
    return network, judge, params


def gradient(loss, params, step=0):
    def mean(params):
        per_example, metrics, _ = loss(params, Context(jnp.int32(step)), {"image": X}, jax.random.key(2))
        return per_example.mean(), metrics

    return jax.jit(jax.grad(mean, has_aux=True))(params)


def apart(grads):
    """(the autoencoder's, the discriminator's)."""
    return {name: leaf for name, leaf in grads.items() if name != DISCRIMINATOR}, grads[DISCRIMINATOR]


def test_the_kl_of_a_normal_is_that_of_its_closed_form():
    """Of N(m, s^2) from N(0, 1): 0 at m = 0, s = 1; m^2 / 2 at s = 1; (s^2 - 1 - ln s^2) / 2 at m = 0."""
    mean, logvar = jnp.zeros((4, 1, 1, 1)), jnp.zeros((4, 1, 1, 1))
    mean, logvar = mean.at[1].set(3.0), logvar.at[2].set(np.log(4.0)).at[3].set(-2.0)
    wanted = [0.0, 4.5, (4 - 1 - np.log(4)) / 2, (np.exp(-2) - 1 + 2) / 2]
    np.testing.assert_allclose(Posterior(mean, logvar).kl(), wanted, rtol=1e-6)


def test_the_terms_of_the_loss_are_what_the_module_says(networks):
    network, _, params = networks
    loss = autoencoder_loss(network.apply, latent=Latent(kl=0.5), distance=laplacian, perceptual_weight=3.0)
    ctx = Context(0, frozen={"perceptual": None})
    total, metrics, _ = loss(params, ctx, {"image": X}, jax.random.key(2))
    made, posterior = network.apply(params, X, key=jax.random.fold_in(jax.random.key(2), 0), train=True)
    pixels = np.abs(np.asarray(X - made)).mean(axis=(1, 2, 3))
    wanted = pixels + 3.0 * laplacian(None, X, made) + 0.5 * posterior.kl() / 64
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"], pixels, rtol=1e-5)
    held = autoencoder_loss(network.apply, train=False)(params, Context(), {"image": X}, jax.random.key(5))[0]
    made, posterior = network.apply(params, X)
    wanted = np.abs(np.asarray(X - made)).mean(axis=(1, 2, 3)) + 1e-6 * posterior.kl() / 64
    np.testing.assert_allclose(held, wanted, rtol=1e-5)


def test_a_codebook_has_terms_of_its_own():
    network = Compiled(lambda rngs: VQ(rngs, latent_channels=2, codes=8, **SMALL))
    params = network.init(jax.random.key(0))
    made, found = network.apply(params, X)
    for legacy, terms in (
        (True, found.commitment + 0.25 * found.codebook),
        (False, 0.25 * found.commitment + found.codebook),
    ):
        loss = autoencoder_loss(network.apply, latent=Latent(codebook=2.0, legacy=legacy))
        total, metrics, _ = loss(params, Context(), {"image": X}, jax.random.key(2))
        np.testing.assert_allclose(total, jnp.abs(X - made).mean(axis=(1, 2, 3)) + 2.0 * terms, rtol=1e-5)
        np.testing.assert_allclose(metrics["codebook"], terms, rtol=1e-5)
    grads = gradient(autoencoder_loss(network.apply), params)[0]
    assert np.abs(grads["codebook"]["rows"]).max() > 0 and np.abs(grads["encoder"]["conv_in"]["kernel"]).max() > 0
    with pytest.raises(UserError, match="as a Posterior or a Quantized, not a tuple"):
        autoencoder_loss(lambda params, x, **how: (x, ()))({}, Context(), {"image": X}, jax.random.key(0))


def test_the_hinge_is_one_at_nothing_and_zero_beyond_the_margins():
    logits = jnp.asarray([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]])[:, :, None, None]
    np.testing.assert_allclose(hinge(logits, -logits), [1.0, 0.0, 1.0])
    np.testing.assert_allclose(hinge(logits, jnp.zeros_like(logits)), [1.0, 0.5, 1.0])
    np.testing.assert_allclose(
        hinge(jnp.zeros_like(logits), logits), [1.0, (0 + (3 + 2) / 2 + 1) / 2, (1 + (0 + 4) / 2) / 2]
    )


def test_the_adaptive_weight_of_a_linear_decoder_is_exact():
    """x' = K h of one pixel: the gradient in K of a loss is its gradient in x' times h, so that |h| cancels but for 1e-4."""
    h, rec, adversary = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in ([3.0, 4.0], [6.0, 8.0], [0.0, 2.0]))
    _, pull = jax.vjp(lambda kernel: h @ kernel, jnp.zeros((2, 2)))
    weight = adaptive_weight(lambda gradient: pull(gradient)[0], rec, adversary, 0.5)
    np.testing.assert_allclose(weight, 0.5 * (10 * 5) / (2 * 5 + 1e-4), rtol=1e-6)
    assert adaptive_weight(lambda gradient: pull(gradient)[0], rec, 0 * adversary, 0.5) == 0.5 * 1e4  # bounded


def of_shape_1(x, made):
    """As the package lpips gives it."""
    return jnp.abs(x - made).mean(axis=(1, 2, 3), keepdims=True)


def test_the_weight_is_bounded_as_the_published_one(networks):
    """Latent diffusion bounds the ratio of the sum over N numbers by 1e4: here, where it is of the mean, by 1e4 / N."""
    network, judge, params = networks
    quiet = params | {DISCRIMINATOR: jax.tree.map(lambda leaf: 1e-9 * leaf, params[DISCRIMINATOR])}
    loss = autoencoder_loss(network.apply, adversary=Adversary(judge.apply, 0, 0.5))
    bright = {"image": 1e6 * X}  # far from what comes back, so that the ratio is beyond it
    _, metrics, _ = jax.jit(loss)(quiet, Context(jnp.int32(0)), bright, jax.random.key(2))
    np.testing.assert_allclose(metrics["adaptive_weight"], 0.5 * 1e4 / X[0].size, rtol=1e-6)


@pytest.mark.slow
def test_the_weight_in_the_loss_is_that_of_the_whole_networks_gradients(networks):
    network, judge, params = networks
    loss = autoencoder_loss(network.apply, distance=laplacian, adversary=Adversary(judge.apply, 0, 0.75))
    ctx = Context(jnp.int32(0), frozen={"perceptual": None})
    _, metrics, _ = jax.jit(loss)(params, ctx, {"image": X}, jax.random.key(2))

    def rec(params):
        made = network.apply(params, X, key=jax.random.fold_in(jax.random.key(2), 0), train=True)[0]
        return (jnp.abs(X - made).mean(axis=(1, 2, 3)) + laplacian(None, X, made)).mean()

    def fooled(params):
        made = network.apply(params, X, key=jax.random.fold_in(jax.random.key(2), 0), train=True)[0]
        return -judge.apply(params[DISCRIMINATOR], made).mean()

    a, b = (jnp.linalg.norm(jax.grad(f)(params)["decoder"]["end"]["conv"]["kernel"]) for f in (rec, fooled))
    np.testing.assert_allclose(metrics["adaptive_weight"], 0.75 * a / (b + 1e-4), rtol=1e-4)


def test_the_gradients_of_the_two_networks_part_exactly(networks):
    """Each is that of its own loss alone, to the last bit of what is the same sum."""
    network, judge, params = networks
    whole, metrics = gradient(autoencoder_loss(network.apply, adversary=Adversary(judge.apply, 0, 0.5)), params)
    weight = float(metrics["adaptive_weight"])

    def made(params):
        return network.apply(params, X, key=jax.random.fold_in(jax.random.key(2), 0), train=True)

    def of_autoencoder(params):
        x, posterior = made(params)
        rec = jnp.abs(X - x).mean() + 1e-6 * posterior.kl().mean() / 64
        return rec - weight * judge.apply(params[DISCRIMINATOR], x).mean()

    def of_discriminator(params):
        x = made(params)[0]
        return hinge(judge.apply(params[DISCRIMINATOR], X), judge.apply(params[DISCRIMINATOR], x)).mean()

    ours, theirs = apart(whole)
    for found, wanted in (
        (ours, apart(jax.jit(jax.grad(of_autoencoder))(params))[0]),
        (theirs, apart(jax.jit(jax.grad(of_discriminator))(params))[1]),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), found, wanted)
        assert optax.tree.norm(found) > 0
    # A discriminator of zeros says nothing to the autoencoder, and an autoencoder that is right has nothing to learn of it.
    silent = params | {DISCRIMINATOR: jax.tree.map(jnp.zeros_like, params[DISCRIMINATOR])}
    alone = gradient(autoencoder_loss(network.apply), params)[0]
    quiet = apart(gradient(autoencoder_loss(network.apply, adversary=Adversary(judge.apply, 0, 0.5)), silent)[0])[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), quiet, apart(alone | {DISCRIMINATOR: 0})[0]
    )


def test_nothing_of_the_adversary_counts_before_its_step(networks):
    network, judge, params = networks
    loss = autoencoder_loss(network.apply, adversary=Adversary(judge.apply, 5, 0.5))
    alone = gradient(autoencoder_loss(network.apply), params)[0]
    before, told = gradient(loss, params, 4)
    ours, theirs = apart(before)
    assert optax.tree.norm(theirs) == 0 and told["adaptive_weight"] == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), ours, apart(alone)[0])
    assert optax.tree.norm(apart(gradient(loss, params, 5)[0])[1]) > 0


def test_each_network_is_stepped_by_itself(networks):
    """A gradient of the one that a bound makes smaller leaves the other's step as it is; the rate is a factor."""
    params = {"a": jnp.ones(2), DISCRIMINATOR: {"b": jnp.ones(2)}}
    tx = parted(adamw(1e-1, 0, 10, "constant", b1=0.0, b2=0.0, clip_norm=1.0), {f"^{DISCRIMINATOR}/": 0.5})
    state = tx.init(params)
    steps, _ = tx.update({"a": jnp.array([1e-3, -2e-3]), DISCRIMINATOR: {"b": jnp.array([1e6, -1.0])}}, state, params)
    np.testing.assert_allclose(steps["a"], [-0.1, 0.1], rtol=1e-4)
    np.testing.assert_allclose(steps[DISCRIMINATOR]["b"][0], -0.05, rtol=1e-4)
    with pytest.raises(UserError, match="apart '\\^nothing' is not known"):
        parted(tx, {"^nothing": 1.0}).init(params)


def test_muon_turns_the_kernels_of_either_network():
    """A part that has none of them is AdamW's, and a pattern that no part has is refused."""
    hidden = ("blocks/kernel$",)
    params = {"blocks": {"kernel": jnp.ones((3, 3))}, DISCRIMINATOR: {"b": jnp.ones(2)}}
    tx = parted(muon(1e-1, 0, 10, "constant", hidden=hidden), {f"^{DISCRIMINATOR}/": 1.0}, hidden)
    gradient = {
        "blocks": {"kernel": jnp.diag(jnp.array([3.0, 2.0, 1.0]))},
        DISCRIMINATOR: {"b": jnp.array([1.0, -9.0])},
    }
    steps, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(
        steps["blocks"]["kernel"], -0.02 * np.sqrt(3) * np.eye(3), atol=0.35 * 0.02 * np.sqrt(3)
    )  # of Newton-Schulz: 0.68 to 1.13
    np.testing.assert_allclose(steps[DISCRIMINATOR]["b"], [-0.1, 0.1], rtol=1e-4)
    with pytest.raises(UserError, match="hidden 'nothing' is not known"):
        parted(muon(1e-1, 0, 10, hidden=("nothing",)), {f"^{DISCRIMINATOR}/": 1.0}, ("nothing",)).init(params)


def test_the_discriminator_sees_patches_of_each_picture_alone():
    for layers, side in ((1, 6), (2, 12), (3, 24)):
        judge = Compiled(lambda rngs, layers=layers: PatchDiscriminator(rngs, channels=1, width=8, layers=layers))
        params = judge.init(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (2, side, side, 1))
        both = judge.apply(params, x)
        assert both.shape == (2, 1, 1, 1) and most_layers(side) == layers == most_layers(side + 1)
        np.testing.assert_allclose(judge.apply(params, x[1:]), both[1:], atol=1e-6)
        with pytest.raises(UserError, match=f"{side - 2} x {side} is too small for a discriminator of {layers} layers"):
            jax.eval_shape(judge.apply, params, x[:, 2:])
    assert most_layers(4) == 0


def test_the_pyramid_sees_every_scale_once():
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    np.testing.assert_array_equal(laplacian(None, x, x), 0)
    # A constant is lost by no blur: nothing at the fine levels, and its size at the last, whose weight is 2^2.
    np.testing.assert_allclose(laplacian(None, x, x + 0.5), [2.0, 2.0], rtol=1e-4)
    # Of pixels that alternate everything is at the finest level but at the edge, which is repeated.
    waves = jnp.broadcast_to(jnp.asarray([1.0, -1.0] * 128)[None, None, :, None], (1, 8, 256, 1))
    np.testing.assert_allclose(laplacian(None, waves, 0 * waves), 1.0, rtol=0.01)
    assert perceptual_named("none") is None
    with pytest.raises(UserError, match=r"loss\.perceptual 'lpisp' is neither of 'none' and 'laplacian'"):
        perceptual_named("lpisp")
    mine = perceptual_named(f"{__name__}:of_shape_1")
    with pytest.raises(
        UserError, match=r"loss\.perceptual .* an array of shape \(2, 1, 1, 1\) for 2 pictures: .* \(2,\)"
    ):
        mine.distance(None, X[:2], X[:2])
