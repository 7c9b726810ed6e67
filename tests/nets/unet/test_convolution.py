"""Group norm, the filters that change a size, and the convolutions that do: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from called import Layer

from diffusion_jax.nets.unet.convolution import Conv, GroupNorm, Resample, Shrunk, double, halve, nearest_to
from diffusion_jax.typing import UserError

BINOMIAL = (1, 3, 3, 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_group_norm_has_mean_0_and_variance_1_in_each_group_of_each_example():
    network = Layer(lambda rngs: GroupNorm(6, 3, eps=0.0))
    x = 3 + 2 * normal(0, 2, 4, 5, 6)
    y = np.asarray(network.apply(network.init(jax.random.key(0)), jnp.asarray(x))).reshape(2, 20, 3, 2)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((1, 3)), 1, rtol=1e-5)


def test_group_norm_has_the_derivatives_of_its_formula_in_both_modes_and_twice():
    params = {"scale": 1 + 0.3 * normal(1, 6), "bias": normal(2, 6)}
    x, dx, g = normal(3, 2, 3, 4, 6), normal(4, 2, 3, 4, 6), normal(5, 2, 3, 4, 6)

    def formula(x):
        grouped = x.reshape(2, 12, 3, 2)
        y = (grouped - grouped.mean((1, 3), keepdims=True)) / jnp.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
        scale, bias = (jnp.broadcast_to(params[name], x.shape) for name in ("scale", "bias"))
        return (y.reshape(x.shape) * scale + bias) ** 2

    for norm in ("saved", "plain"):
        network = Layer(lambda rngs: GroupNorm(6, 3, norm=norm))  # noqa: B023

        def ours(x):
            return network.apply(params, x) ** 2  # noqa: B023

        def backward(f, x):
            return jax.grad(lambda x: (f(x) * g).sum())(x)

        np.testing.assert_allclose(jax.jvp(ours, (x,), (dx,))[1], jax.jvp(formula, (x,), (dx,))[1], atol=2e-5)
        np.testing.assert_allclose(backward(ours, x), backward(formula, x), atol=2e-5)
        twice = [jax.jvp(lambda x: backward(f, x), (x,), (dx,))[1] for f in (ours, formula)]  # noqa: B023
        np.testing.assert_allclose(*twice, atol=2e-4)


@pytest.mark.parametrize(("channels", "groups", "nearest"), [(48, 32, 24), (7, 2, 1), (8, 0, 1)])
def test_groups_that_do_not_divide_are_refused_with_the_nearest(channels, groups, nearest):
    with pytest.raises(UserError, match=f"{channels} channels are not divided by {groups} groups.*nearest: {nearest}"):
        GroupNorm(channels, groups)


@pytest.mark.parametrize("taps", [(1, 1), BINOMIAL])
def test_what_doubles_is_four_times_the_adjoint_of_what_halves(taps):
    x, y = normal(0, 2, 6, 8, 3), normal(1, 2, 3, 4, 3)
    ahead = np.vdot(np.asarray(halve(jnp.asarray(x), taps)), y)
    assert 4 * ahead == pytest.approx(np.vdot(x, np.asarray(double(jnp.asarray(y), taps))), rel=1e-4)


@pytest.mark.parametrize("taps", [(1, 1), BINOMIAL])
def test_filters_keep_a_constant_away_from_the_edges(taps):
    x = jnp.ones((1, 8, 8, 2))
    np.testing.assert_allclose(halve(x, taps)[:, 1:-1, 1:-1], 1, rtol=1e-6)
    np.testing.assert_allclose(double(x, taps)[:, 1:-1, 1:-1], 1, rtol=1e-6)
    assert halve(x, taps).shape == (1, 4, 4, 2) and double(x, taps).shape == (1, 16, 16, 2)


def test_the_binomial_filter_by_hand():
    """A ramp over one axis: halved, its own values at the middle of the taps; doubled, quarters between neighbours."""
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    np.testing.assert_allclose(halve(ramp, BINOMIAL)[0, 1:-1, 2, 0], [2.5, 4.5], rtol=1e-6)
    np.testing.assert_allclose(double(ramp, BINOMIAL)[0, 1:-1, 5, 0], np.arange(14) / 2 + 0.25, rtol=1e-6)


def test_an_odd_size_is_halved_down_and_the_nearest_pixels_go_to_any_size():
    x = normal(0, 1, 5, 7, 2)
    np.testing.assert_allclose(halve(jnp.asarray(x))[0, 1, 2], x[0, 2:4, 4:6].mean((0, 1)), rtol=1e-6)
    y = np.asarray(nearest_to(jnp.asarray(x), 9, 13))
    for row in range(9):
        for column in range(13):
            np.testing.assert_array_equal(y[0, row, column], x[0, row * 5 // 9, column * 7 // 13])
    np.testing.assert_array_equal(nearest_to(jnp.asarray(x), 10, 14), double(jnp.asarray(x)))


def direct(x, kernel, bias, stride, before, after):
    """A convolution written out."""
    x = np.pad(x.astype(np.float64), ((0, 0), (before, after), (before, after), (0, 0)))
    size = kernel.shape[0]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.empty((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.einsum("bhwc,hwco->bo", patch, kernel) + bias
    return y


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, None), (1, 1, None), (5, 1, None), (3, 2, (0, 1)), (3, 2, None)]
)
def test_a_convolution_is_its_sum(size, stride, padding):
    network = Layer(lambda rngs: Conv(2, 3, size, rngs, stride=stride, padding=padding))
    params = {"kernel": normal(1, size, size, 2, 3), "bias": normal(2, 3)}
    x = normal(3, 2, 6, 5, 2)
    before, after = padding or ((size - 1) // 2,) * 2
    found = network.apply(params, jnp.asarray(x))
    np.testing.assert_allclose(found, direct(x, params["kernel"], params["bias"], stride, before, after), atol=1e-5)


def test_what_changes_a_size_is_its_convolution():
    params = {"conv": {"kernel": normal(1, 3, 3, 2, 2), "bias": normal(2, 2)}}
    kernel, bias, x = params["conv"]["kernel"], params["conv"]["bias"], normal(3, 1, 6, 6, 2)
    for padding, around in ((1, (1, 1)), (0, (0, 1))):
        network = Layer(lambda rngs: Resample(2, "down", rngs, padding=padding))  # noqa: B023
        np.testing.assert_allclose(
            network.apply(params, jnp.asarray(x)), direct(x, kernel, bias, 2, *around), atol=1e-5
        )
    network = Layer(lambda rngs: Resample(2, "up", rngs))
    twice = np.asarray(double(jnp.asarray(x)))
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x)), direct(twice, kernel, bias, 1, 1, 1), atol=1e-5)
    with pytest.raises(UserError, match="padding 2"):
        Layer(lambda rngs: Resample(2, "down", rngs, padding=2))


@pytest.mark.parametrize("filter", ["box", "binomial"])
def test_a_step_of_the_pyramid_halves(filter):
    network = Layer(lambda rngs: Shrunk(2, 3, filter, rngs))
    params = network.init(jax.random.key(0))
    assert network.apply(params, jnp.ones((1, 8, 6, 2))).shape == (1, 4, 3, 3)
    flat = {"conv": {"kernel": jnp.zeros((3, 3, 2, 3)).at[1, 1, 0, 0].set(1.0), "bias": jnp.zeros(3)}}
    inner = network.apply(flat, jnp.ones((1, 8, 8, 2)))[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.broadcast_to([1.0, 0.0, 0.0], inner.shape), rtol=1e-6)
