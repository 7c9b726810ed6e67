import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.train.ema import Ema, HalfLife, PowerFunction, power_of_width
from diffusion_jax.typing import UserError


@settings(max_examples=20, deadline=None)
@given(decay=st.floats(0.0, 0.999), count=st.integers(1, 12))
def test_without_warmup_it_is_the_geometric_sum(decay, count):
    values = np.random.default_rng(count).normal(size=count + 1)
    ema, average = Ema(decay, warmup=False), {"w": jnp.float32(values[0])}
    for n in range(count):
        average = ema.update(average, {"w": jnp.float32(values[n + 1])}, n)
    powers = decay ** np.arange(count - 1, -1, -1)
    expected = decay**count * values[0] + (1 - decay) * np.sum(powers * values[1:])
    np.testing.assert_allclose(average["w"], expected, atol=1e-5)


def test_warmup_decay_by_hand():
    ema = Ema(0.5)
    np.testing.assert_allclose([ema.decay_at(n) for n in (0, 1, 7, 8, 100)], [0.1, 2 / 11, 8 / 17, 0.5, 0.5], rtol=1e-6)


def test_warmup_has_the_product_form():
    # For a constant target 1 from 0, 1 - ema is the product of the decays: prod (1 + n)/(10 + n) = N! 9! / (N + 9)!.
    average = {"w": jnp.zeros(())}
    for n in range(5):
        average = Ema(0.999).update(average, {"w": jnp.ones(())}, n)
    np.testing.assert_allclose(1 - average["w"], 1 / 2002, rtol=1e-4)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_outside_is_refused(decay):
    with pytest.raises(UserError, match=f"ema decay {decay}"):
        Ema(decay)


def run(average, values):
    """The average after each of the values."""
    ema, found = np.float32(0.0), []
    for step, value in enumerate(values):
        ema = average.update({"p": jnp.float32(ema)}, {"p": jnp.float32(value)}, step)["p"]
        found.append(float(ema))
    return found


def test_a_half_life_halves_what_is_remembered():
    values = [1.0] + [0.0] * 40
    average = HalfLife(batch_size=8, images=64.0, ramp=0.0)
    kept = np.array(run(average, values)) / (1 - float(average.decay_at(0)))
    np.testing.assert_allclose(kept[8:] / kept[:-8], 0.5, rtol=1e-5)
    # With a ramp the first step is taken whole, and before 64 / 0.5 images the past of half the images is halved.
    ramped = HalfLife(batch_size=8, images=64.0, ramp=0.5)
    assert float(ramped.decay_at(0)) == 0.0
    for step in (1, 4, 15, 16, 100):
        assert float(ramped.decay_at(step)) == pytest.approx(2 ** (-8 / min(64, step * 4)), rel=1e-5)


@pytest.mark.parametrize(("width", "power"), [(0.05, 16.97), (0.1, 6.94), (1 / (2 * 3**0.5), 0.0)])
def test_a_power_function_has_its_width(width, power):
    found = power_of_width(width)
    assert found == pytest.approx(power, abs=0.005)
    assert np.sqrt(found + 1) / ((found + 2) * np.sqrt(found + 3)) == pytest.approx(width, rel=1e-9)


def test_a_power_function_weighs_a_step_by_its_share_of_training():
    """The recursion's weights, worked out in float64, against s^g over their sum; the mean and the width of the profile."""
    average, steps = PowerFunction(0.1), 400
    power = power_of_width(0.1)
    keep = np.array([float(average.decay_at(step)) for step in range(steps)])
    weights = (1 - keep) * np.append(np.cumprod(keep[:0:-1])[::-1], 1.0)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    s = np.arange(1, steps + 1) / steps
    # A step's weight is the integral of the power function over it.
    np.testing.assert_allclose(weights, s ** (power + 1) - (s - 1 / steps) ** (power + 1), atol=1e-6)
    mean = (weights * s).sum()
    assert mean == pytest.approx((power + 1) / (power + 2), abs=0.002)
    assert np.sqrt((weights * (s - mean) ** 2).sum()) == pytest.approx(0.1, abs=0.002)
    assert run(average, [3.0, 3.0, 3.0]) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HalfLife(8, images=0.0), "ema images 0.0"),
        (lambda: HalfLife(8, ramp=-1.0), "ema ramp -1.0"),
        (lambda: HalfLife(0), "ema batch_size 0"),
        (lambda: PowerFunction(0.0), r"ema width 0.0 is not in \(0, 0.289\]"),
        (lambda: PowerFunction(0.3), "ema width 0.3"),
    ],
)
def test_averages_that_cannot_be_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
