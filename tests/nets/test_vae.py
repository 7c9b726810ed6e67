"""Autoencoders: sizes, closed forms of posterior, quantiser and tiles, precision, and what is refused."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion_jax.nets import (
    VAE_MODELS,
    VQ,
    AutoencoderKL,
    Network,
    Posterior,
    complete_vae,
    sliced,
    tiled,
    vae_keywords,
    vae_model,
)
from diffusion_jax.nets.vae.tiles import _blended
from diffusion_jax.typing import UserError

SMALL = {"channels": (8, 16), "layers": 1, "groups": 4}


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def made(make, dtype=jnp.float32, **more):
    """(network, stirred parameters, encode, decode, both compiled)."""
    network = Network(lambda rngs: make(rngs, **SMALL, dtype=dtype, **more))
    params = jax.jit(Network(lambda rngs: make(rngs, **SMALL, **more)).init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    params = tree.unflatten([leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    return network, params, *(jax.jit(network.method(name)) for name in ("encode", "decode"))


@pytest.mark.parametrize(
    ("name", "count", "factor", "latents"),
    [
        ("kl-f8", 83_653_863, 8, 4),
        pytest.param("kl-f4", 55_312_063, 4, 3, marks=pytest.mark.slow),
        ("vq-f4", 55_322_782, 4, 3),
        pytest.param("kl-f16", 69_610_963, 16, 16, marks=pytest.mark.slow),
        pytest.param("vq-f8", 67_717_295, 8, 4, marks=pytest.mark.slow),
        pytest.param("flux-vae", 83_819_683, 8, 16, marks=pytest.mark.slow),
    ],
)
def test_the_published_ones_have_their_sizes(name, count, factor, latents):
    """kl-f8's, FLUX's and vq-f4's counts are those of the published weights."""
    make, keywords = vae_keywords(vae_model(name))
    network = Network(lambda rngs: make(rngs, **keywords))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count
    x = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    encoded = jax.eval_shape(network.method("encode"), params, x)
    z = encoded.mean if make is AutoencoderKL else encoded
    assert z.shape == (2, 64 // factor, 32 // factor, latents)
    assert jax.eval_shape(network.method("decode"), params, z).shape == x.shape


def test_every_published_one_is_in_the_page_with_its_size():
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    assert all(f"`{name}`" in page for name in VAE_MODELS)
    assert all(
        f"{count:,}" in page for count in (83_653_863, 55_312_063, 55_322_782, 69_610_963, 67_717_295, 83_819_683)
    )


def test_an_encoder_halves_by_a_plain_convolution_of_what_has_zeros_below_and_to_the_right():
    """Every other row and column of one of stride 1 over a picture with one more row and column."""
    change = AutoencoderKL(nnx.Rngs(0), **SMALL).encoder.down[0].change
    x = random(1, 6, 8, 8)
    kernel = jnp.asarray(change.conv.kernel[...])
    longer = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    plain = jax.lax.conv_general_dilated(longer, kernel, (1, 1), "VALID", dimension_numbers=numbers)
    assert plain.shape == (1, 5, 7, 8)
    np.testing.assert_allclose(change(x), plain[:, ::2, ::2], atol=1e-6)


def test_logvars_are_clipped_and_the_distance_is_that_of_normal_distributions():
    moments = jnp.stack([jnp.array([0.0, 1.0, -2.0, 3.0]), jnp.array([0.0, -50.0, 40.0, 1.0])], axis=-1)[:, None, None]
    posterior = Posterior.of(moments)
    np.testing.assert_array_equal(posterior.logvar[:, 0, 0, 0], [0.0, -30.0, 20.0, 1.0])
    wanted = [0.0, 0.5 * (1 + math.exp(-30) - 1 + 30), 0.5 * (4 + math.exp(20) - 1 - 20), 0.5 * (9 + math.e - 1 - 1)]
    np.testing.assert_allclose(posterior.kl(), wanted, rtol=1e-6)
    # As the mean of log q - log p over samples: both by the formula of their densities.
    mean, std = 0.7, 0.5
    z = mean + std * np.random.default_rng(0).standard_normal(200_000)
    estimate = np.mean(-((z - mean) ** 2) / (2 * std**2) - math.log(std) + z**2 / 2)
    one = Posterior(jnp.full((1, 1, 1, 1), mean), jnp.full((1, 1, 1, 1), 2 * math.log(std)))
    np.testing.assert_allclose(one.kl()[0], estimate, atol=5e-3)


def test_a_sample_is_the_mean_and_deviations_of_its_own_key():
    mean, logvar = random(3, 2, 2, 4), random(3, 2, 2, 4, seed=1)
    posterior, key = Posterior(mean, logvar), jax.random.key(5)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    z = posterior.sample(key)
    np.testing.assert_array_equal(z, posterior.sample(keys))
    for i in range(3):
        eps = jax.random.normal(jax.random.fold_in(key, i), (2, 2, 4))
        np.testing.assert_allclose(z[i], mean[i] + jnp.exp(logvar[i] / 2) * eps, atol=1e-6)
    many = Posterior(jnp.full((1, 100, 100, 1), 2.0), jnp.full((1, 100, 100, 1), 2 * math.log(3.0))).sample(key)
    assert float(many.mean()) == pytest.approx(2.0, abs=0.15) and float(many.std()) == pytest.approx(3.0, abs=0.1)


def test_there_and_back_goes_through_a_sample_with_a_key_and_the_mean_without():
    network, params, encode, decode = made(AutoencoderKL)
    x, key = random(2, 4, 8, 3), jax.random.key(2)
    posterior, both = encode(params, x), jax.jit(network.apply)
    np.testing.assert_allclose(both(params, x)[0], decode(params, posterior.mean), atol=1e-5)
    np.testing.assert_allclose(both(params, x, key=key)[0], decode(params, posterior.sample(key)), atol=1e-5)


CODED = {"codes": 40, "dim": 3, "latent_channels": 4}


def test_a_latent_becomes_its_nearest_row_and_the_gradient_passes():
    network, params, _, decode = made(VQ, **CODED)
    h, rows = random(2, 3, 4, 3), np.asarray(params["codebook"]["rows"], np.float64)
    quantize = jax.jit(network.method("quantize"))
    found = quantize(params, h)
    distances = ((np.asarray(h, np.float64)[..., None, :] - rows) ** 2).sum(-1)
    np.testing.assert_array_equal(found.indices, distances.argmin(-1))
    np.testing.assert_array_equal(found.zq, rows[distances.argmin(-1)].astype(np.float32))
    error = distances.min(-1).mean((1, 2)) / 3
    np.testing.assert_allclose(found.commitment, error, rtol=1e-5)
    np.testing.assert_allclose(found.codebook, error, rtol=1e-5)
    np.testing.assert_allclose(found.loss(0.3), 1.3 * error, rtol=1e-5)
    again = quantize(params, found.zq)
    np.testing.assert_array_equal(again.indices, found.indices)
    np.testing.assert_allclose(decode(params, found.zq), decode(params, h), atol=1e-6)

    weight = random(2, 3, 4, 3, seed=3)

    def through(h, params):
        return (network.method("quantize")(params, h).zq * weight).sum()

    of_latents, of_params = jax.jit(jax.grad(through, argnums=(0, 1)))(h, params)
    np.testing.assert_array_equal(of_latents, weight)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_params))


@pytest.mark.parametrize("legacy", [True, False])
def test_beta_weighs_the_codebook_as_published_or_the_commitment_as_in_the_paper(legacy):
    network, params, _, _ = made(VQ, **CODED)
    h = random(1, 2, 2, 3)

    def loss(h, params):
        return network.method("quantize")(params, h).loss(0.25, legacy=legacy).sum()

    of_latents, of_params = jax.jit(jax.grad(loss, argnums=(0, 1)))(h, params)
    found = network.method("quantize")(params, h)
    pull = 2 * (np.asarray(h) - np.asarray(found.zq)) / h.size
    np.testing.assert_allclose(of_latents, pull * (1.0 if legacy else 0.25), rtol=1e-4, atol=1e-7)
    wanted = np.zeros(params["codebook"]["rows"].shape)
    np.add.at(wanted, np.asarray(found.indices), -pull * (0.25 if legacy else 1.0))
    np.testing.assert_allclose(of_params["codebook"]["rows"], wanted, rtol=1e-4, atol=1e-7)


def test_a_fresh_codebook_is_uniform_within_one_over_its_codes():
    rows = Network(lambda rngs: VQ(rngs, **SMALL, codes=200)).init(jax.random.key(0))["codebook"]["rows"]
    assert rows.shape == (200, 3) and float(jnp.abs(rows).max()) <= 1 / 200
    assert float(rows.std()) == pytest.approx(1 / 200 / math.sqrt(3), rel=0.05)


def test_what_is_quantised_trains_encoder_codebook_and_decoder():
    network, params, _, _ = made(VQ, **CODED)
    x = random(2, 4, 4, 3)

    def loss(params):
        images, quantized = network.apply(params, x)
        return ((images - x) ** 2).mean() + quantized.loss().mean()

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_slices_and_one_tile_are_the_whole():
    _, params, _, decode = made(AutoencoderKL)
    z = random(3, 4, 3, 4)
    run, whole = functools.partial(decode, params), decode(params, z)
    np.testing.assert_allclose(sliced(run, z), whole, atol=1e-5)
    for tile in (4, 8):
        np.testing.assert_array_equal(tiled(run, z, tile), whole)


def test_tiles_of_what_looks_at_each_latent_alone_are_the_whole():
    """Repeating pixels, and taking means of 2 x 2: blending equal numbers changes none, at any size and either way."""
    up = functools.partial(jax.image.resize, method="nearest")
    for height, width, tile in ((11, 7, 4), (4, 13, 8)):
        z = random(2, height, width, 3)
        doubled = jnp.repeat(jnp.repeat(z, 2, 1), 2, 2)
        np.testing.assert_allclose(
            tiled(lambda z: up(z, (2, 2 * z.shape[1], 2 * z.shape[2], 3)), z, tile), doubled, atol=1e-6
        )
        np.testing.assert_allclose(
            tiled(lambda x: x.reshape(2, x.shape[1] // 2, 2, -1, 2, 3).mean((2, 4)), doubled, 2 * tile), z, atol=1e-6
        )


def test_where_tiles_overlap_the_second_fades_in():
    """Each tile is the number of its call: rows in common are a ramp from one to the next."""
    calls = []

    def run(z):
        calls.append(z.shape)
        return jnp.full(z.shape, len(calls) - 1.0)

    y = tiled(run, jnp.zeros((1, 14, 8, 1)), 8, 0.5)
    assert calls == [(1, h, w, 1) for h in (8, 8, 6, 2) for w in (8, 4)]
    # Down the first column stand tiles 0, 2, 4 and 6, each 4 rows after the one before; the last has 2 rows in common.
    column = [0, 0, 0, 0, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5]
    np.testing.assert_allclose(y[0, :, 0, 0], column)
    np.testing.assert_allclose(y[0, 0, :, 0], [0, 0, 0, 0, 0, 0.25, 0.5, 0.75])
    first, second = jnp.ones((1, 1, 3, 1)), jnp.full((1, 1, 2, 1), 5.0)
    np.testing.assert_allclose(_blended(first, second, 4, 2)[0, 0, :, 0], [1.0, 3.0])
    np.testing.assert_array_equal(_blended(first, second, 0, 2), second)


@pytest.mark.parametrize("make", [AutoencoderKL, VQ])
def test_bfloat16_computes_what_float32_does_and_answers_in_float32(make):
    more = CODED if make is VQ else {}
    _, params, encode, decode = made(make, **more)
    _, _, rough_encode, rough_decode = made(make, jnp.bfloat16, **more)
    x = random(2, 8, 8, 3)
    z = random(2, 4, 4, 3 if make is VQ else 4, seed=1)
    pairs = [(encode(params, x), rough_encode(params, x)), (decode(params, z), rough_decode(params, z))]
    for exact, rough in zip(*map(jax.tree.leaves, zip(*pairs))):
        assert exact.dtype == rough.dtype == jnp.float32
        assert 1e-6 < np.abs(exact - rough).max() / np.abs(exact).max() < 0.03


def test_residual_sums_beyond_float16_are_not_rounded():
    """Blocks and attention begin by adding 0: numbers that float16 makes infinite, and bfloat16 coarse, pass as they are."""
    decoder = AutoencoderKL(nnx.Rngs(0), **SMALL, dtype=jnp.bfloat16).decoder
    x = 1e6 + random(1, 4, 4, 16)
    assert x.dtype == jnp.float32 and len(np.unique(x.astype(jnp.bfloat16))) == 1
    np.testing.assert_array_equal(decoder.middle(x), x)
    # Where a level changes width, its convolution of one pixel stands in the sum, and is not rounded either.
    block = decoder.up[-1].blocks[0]
    assert block.shortcut is not None
    kernel = block.shortcut.kernel[...].reshape(block.shortcut.kernel.shape[-2:])
    wanted = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(block(x), wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda n, p: n.method("encode")(p, jnp.zeros((1, 9, 8, 3))), "9 x 8 is not halved 1 times: .* nearest: 8 x 8"),
        (
            lambda n, p: n.method("encode")(p, jnp.zeros((1, 8, 8, 1))),
            "pictures of 1 channels: this autoencoder takes 3",
        ),
        (
            lambda n, p: n.method("decode")(p, jnp.zeros((1, 8, 8, 3))),
            "latents of 3 channels: this autoencoder takes 4",
        ),
        (lambda n, p: tiled(lambda z: z, jnp.zeros((1, 8, 8, 3)), 5), "tile 5 has an overlap of 1.25 rows.*nearest: 4"),
        (lambda n, p: tiled(lambda z: z[:, ::4, ::4], jnp.zeros((1, 48, 8, 3)), 24), "which become 1.5: .*nearest: 32"),
        (lambda n, p: tiled(lambda z: z, jnp.zeros((1, 8, 8, 3)), 0), "tile 0 is not a whole number of at least 1"),
        (lambda n, p: tiled(lambda z: z, jnp.zeros((1, 8, 8, 3)), 4, 1.0), r"overlap 1.0 is not in \[0, 1\)"),
        (lambda n, p: AutoencoderKL(nnx.Rngs(0), **SMALL, dtype=jnp.float16), "dtype 'float16'.*nearest: 'bfloat16'"),
        (lambda n, p: AutoencoderKL(nnx.Rngs(0), **SMALL, attends=(True,)), "attends are 1 for 2 levels"),
        (lambda n, p: AutoencoderKL(nnx.Rngs(0), **SMALL | {"groups": 3}), "8 channels are not divided by 3 groups"),
        (lambda n, p: vae_model("kl-f7"), "model 'kl-f7' is not known; did you mean 'kl-f"),
        (lambda n, p: complete_vae({"kind": "kl", "mean": (5,) * 4}), "mean and std of latents are told together"),
        (lambda n, p: complete_vae({"kind": "kl", "std": (2,) * 4}), "mean and std of latents are told together"),
        (
            lambda n, p: complete_vae({"kind": "kl", "mean": (5,) * 4, "std": (2,) * 4, "shift": 3.0}),
            "a mean a channel and shift 3.0: one of them is not read",
        ),
        (lambda n, p: complete_vae({"kind": "gan"}), "kind 'gan' is not known"),
        (lambda n, p: complete_vae({"kind": "kl", "chanels": 3}), "'chanels' is not known; did you mean 'channels'"),
    ],
)
def test_what_is_not_possible_is_one_line(run, said):
    network, params, _, _ = made(AutoencoderKL)
    with pytest.raises(UserError, match=said) as caught:
        run(network, params)
    assert "\n" not in str(caught.value)
