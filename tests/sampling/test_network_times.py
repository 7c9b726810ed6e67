"""What a network sees of the time travels with the grid, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import Discrete, RectifiedFlow, denoiser
from diffusion_jax.process.network_time import on_grid
from diffusion_jax.sampling import (
    DDIM,
    DPMSolverPP,
    Heun,
    classifier_free,
    discrete,
    invert,
    karras,
    rescale,
    sample,
    trace,
)
from diffusion_jax.sampling.carried import carried, rounded
from diffusion_jax.sampling.grids import exactly
from diffusion_jax.typing import UserError


def tells_time(params, x, time, cond, *, key=None, train=False):
    """A network of x0 that says nothing but what it sees."""
    return jnp.broadcast_to(time[:, None], x.shape)


def seen_along(ts, schedule, time="index", wrap=lambda model: model, solver=None):
    model = wrap(denoiser(tells_time, {}, schedule, prediction="x0", time=time))
    path = trace(model, schedule, solver or DDIM(), jnp.ones((2, 1)), ts, jax.random.key(0))
    return np.asarray(path.x0_hats)[:, 1, 0]


@settings(max_examples=10, deadline=None)
@given(num_steps=st.integers(2, 40), length=st.sampled_from([50, 1000, 1100]))
def test_on_any_grid_it_is_float64s(num_steps, length):
    schedule = Discrete(num_steps=length)
    for ts in (karras(num_steps, schedule), discrete(num_steps, schedule)):
        exact = (length * ts[:-1] - 1.0).astype(np.float32)
        np.testing.assert_array_equal(seen_along(ts, schedule), np.maximum(exact, 0))
    whole = discrete(num_steps, schedule)
    assert (seen_along(whole, schedule) == np.round(length * whole[:-1] - 1)).all()


def test_without_the_grid_digits_are_lost():
    """The difference that the issue is about is there: some 3e-5 of a step, and none at a step of the table."""
    schedule, ts = Discrete(), karras(30, Discrete())
    exact = on_grid("index", schedule, ts)[:-1]
    model = denoiser(tells_time, {}, schedule, prediction="x0", time="index")
    alone = np.array([model(jnp.ones((1, 1)), jnp.float32(t)).x0[0, 0] for t in ts[:-1]], np.float64)
    lost = np.abs(alone - exact).max()
    assert 1e-5 < lost < 2e-4
    assert np.abs(seen_along(ts, schedule) - exact).max() <= 2**-15  # half a unit of float32 below 1024


@pytest.mark.parametrize("time", ["t", "t1000", "logsnr", "c_noise", "index"])
def test_a_flow_is_told_too(time):
    schedule, ts = RectifiedFlow(t_min=0.01, t_max=0.99), np.linspace(0.99, 0.01, 8)
    values = {
        "t": ts,
        "t1000": 1000 * ts,
        "index": 1000 * ts - 1,
        "logsnr": 2 * np.log((1 - ts) / ts),
        "c_noise": np.log(ts / (1 - ts)) / 4,
    }
    rtol = 1e-6 if time in ("logsnr", "c_noise") else 0
    np.testing.assert_allclose(
        seen_along(ts, schedule, time), values[time][:-1].astype(np.float32), rtol=rtol, atol=rtol
    )


def test_through_guidance_and_upwards():
    schedule, ts = Discrete(), karras(7, Discrete())
    exact = on_grid("index", schedule, ts)[:-1].astype(np.float32)

    def guided(model):
        return rescale(classifier_free(model, cond, guidance_scale=1.5), schedule, "x0", 0.0)

    cond = {"label": jnp.zeros((2,))}
    model = denoiser(tells_time, {}, schedule, prediction="x0", time="index")
    path = trace(guided(model), schedule, DDIM(), jnp.ones((2, 1)), ts, jax.random.key(0), cond)
    np.testing.assert_allclose(np.asarray(path.x0_hats)[:, 0, 0], exact, rtol=2e-7)
    # Up from clean data the first step asks at its upper end, ts[-2], and the last at the one below the noisiest.
    model, asked = recorder(schedule)
    invert(model, schedule, jnp.ones((2, 1)), ts).block_until_ready()
    assert set(asked()) == set(exact[1:])


def recorder(schedule):
    """(a denoiser, a function that gives the times that its network saw so far)."""
    seen = []

    def network(params, x, time, cond, *, key=None, train=False):
        jax.debug.callback(lambda value: seen.append(value[0]), time)
        return jnp.zeros_like(x)

    def asked():
        jax.effects_barrier()
        return np.float32(seen)

    return denoiser(network, {}, schedule, prediction="x0", time="index"), asked


def test_between_the_grids_times_the_formula_holds():
    """A single-step solver has a stage within each step, at which the grid says nothing; its ends are the grid's."""
    schedule = Discrete()
    ts = karras(6, schedule)
    model, asked = recorder(schedule)
    sample(
        model, schedule, DPMSolverPP(2, multistep=False), jnp.ones((2, 1)), ts, jax.random.key(0)
    ).block_until_ready()
    exact = on_grid("index", schedule, ts)[:-1].astype(np.float32)
    stages = sorted(set(asked()) - set(exact))
    assert len(stages) == 5 and set(exact) <= set(asked())
    middles = exactly(
        schedule.t_from_logsnr, 0.5 * (exactly(schedule.logsnr, ts[:-2]) + exactly(schedule.logsnr, ts[1:-1]))
    )
    np.testing.assert_allclose(stages, np.sort(1000 * middles - 1), rtol=2e-5)


def test_a_published_sampler_says_it_itself():
    """Samplers whose network hears another time than the noise has: `seen` is kept by the driver."""
    schedule, ts = Discrete(), karras(5, Discrete())
    said = np.array([901.0, 777.25, 500.0, 3.0, 0.5, 0.0])
    model = denoiser(tells_time, {}, schedule, prediction="x0", time="index")
    told = carried(model, ts, rounded(ts, jnp.ones(())), said)
    path = trace(told, schedule, DDIM(), jnp.ones((2, 1)), ts, jax.random.key(0))
    np.testing.assert_array_equal(np.asarray(path.x0_hats)[:, 0, 0], said[:-1].astype(np.float32))
    with pytest.raises(UserError, match=r"seen has shape \(3,\) for a grid of \(6,\)"):
        carried(model, ts, rounded(ts, jnp.ones(())), said[:3])


def test_another_grid_does_not_recompile():
    schedule, count = Discrete(), []

    def network(params, x, time, cond, *, key=None, train=False):
        count.append(1)
        return jnp.zeros_like(x)

    model = denoiser(network, {}, schedule, prediction="x0", time="index")
    for grid in (karras(6, schedule), discrete(6, schedule)):
        sample(model, schedule, DDIM(), jnp.ones((2, 1)), grid, jax.random.key(0))
        traced = len(count)
    assert traced == len(count) == 1


@pytest.mark.parametrize("last", [0.0, 0.001])
def test_an_inversion_asks_at_the_time_that_it_goes_to(last):
    """By the recursion written out: eps is asked of x at t, and told the next time."""
    schedule = Discrete("scaled_linear")
    ts = np.array([0.961, 0.721, 0.481, 0.241, last])

    def apply(params, x, time, cond, *, key=None, train=False):
        return 0.4 * x + 0.1 * jnp.sin(time / 300)[:, None]

    model = denoiser(apply, {}, schedule, prediction="eps", time="index")
    start = jnp.array([[0.3, -1.2], [0.8, 0.1]])
    found = invert(model, schedule, start, ts, asked="target")
    x, up = np.asarray(start, np.float64), ts[::-1]
    alpha, sigma = (np.asarray(exactly(part, up)) for part in (schedule.alpha, schedule.sigma))
    for step in range(4):
        eps = 0.4 * x + 0.1 * np.sin((1000 * up[step + 1] - 1) / 300)
        x = alpha[step + 1] * (x - sigma[step] * eps) / alpha[step] + sigma[step + 1] * eps
    np.testing.assert_allclose(found, x, rtol=2e-6, atol=2e-6)
    plain = invert(model, schedule, start, ts)
    assert np.abs(plain - x).max() > 1e-3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"asked": "end"}, "asked 'end'"),
        ({"asked": "target", "refinements": 1}, "without refinements"),
        ({"asked": "target", "solver": Heun()}, "goes with DDIM or Euler"),
    ],
)
def test_an_inversion_that_cannot_be_asked_so_is_refused(how, said):
    schedule, x = Discrete(), jnp.ones((1, 2))
    model = denoiser(tells_time, {}, schedule, prediction="x0", time="index")
    with pytest.raises(UserError, match=said):
        invert(model, schedule, x, [0.9, 0.5], **how)
    with pytest.raises(UserError, match="the denoiser holds none"):
        invert(lambda xt, t, cond: model(xt, t, cond), schedule, x, [0.9, 0.5], asked="target")
