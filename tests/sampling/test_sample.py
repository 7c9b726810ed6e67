"""The driver: one program, keys per example, devices, and errors that name the value."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffusion_jax.process import Cosine, RectifiedFlow, VPLinear, denoiser, exact
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    DPMSolverPP,
    Euler,
    Heun,
    SASolver,
    UniPC,
    classifier_free,
    initial_noise,
    sample,
    trace,
    uniform,
)
from diffusion_jax.typing import Prediction, UserError

SCHEDULE = VPLinear()
SHAPE = (4, 3)
FEW = (DDPM("beta"), Heun(), SASolver())
MORE = (DDIM(), DDIM(0.5), Euler("t"), UniPC(3), DPMSolverPP(2, sde=True))
SOLVERS = [*FEW, *(pytest.param(solver, marks=pytest.mark.slow) for solver in MORE)]


def network(params, x, time, cond, *, key=None, train=False):
    out = jnp.tanh(x @ params["w"])
    return out if cond is None else out + jnp.sum(cond, axis=1)[:, None, None]


def model(scale=1.0):
    w = scale * jax.random.normal(jax.random.key(5), (3, 3))
    return denoiser(network, {"w": w}, SCHEDULE)


def keys_of(key, size):
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))


def test_noise_is_bit_equal_whatever_the_batch(key):
    whole = np.asarray(initial_noise(key, (9, *SHAPE), SCHEDULE))
    for size in (1, 2, 5, 8):
        np.testing.assert_array_equal(initial_noise(key, (size, *SHAPE), SCHEDULE), whole[:size])
    np.testing.assert_array_equal(initial_noise(keys_of(key, 9)[6:], (3, *SHAPE), SCHEDULE), whole[6:])
    np.testing.assert_array_equal(
        jax.jit(lambda k: initial_noise(k, (9, *SHAPE)))(key), initial_noise(key, (9, *SHAPE))
    )


def test_initial_noise_is_normal_with_the_schedules_sigma(key):
    noise = np.asarray(initial_noise(key, (20_000, 2), Cosine(t_max=0.5)))
    assert abs(noise.std() - np.sqrt(0.5)) < 5 * np.sqrt(0.5) / np.sqrt(80_000)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 5 / np.sqrt(20_000)
    assert abs(np.asarray(initial_noise(key, (20_000, 2))).std() - 1) < 5 / np.sqrt(80_000)


def test_the_noise_of_a_step_is_bit_equal_whatever_the_batch(key):
    """A denoiser that says nothing leaves the sampler's own draws."""

    def silent(x, t, cond):
        return Prediction(jnp.zeros_like(x), jnp.zeros_like(x))

    def draw(size):
        return np.asarray(sample(silent, SCHEDULE, DDPM(), jnp.zeros((size, *SHAPE)), [0.9, 0.5, 0.1], key))

    whole = draw(9)
    assert len(np.unique(whole)) == whole.size
    for size in (1, 4, 8):
        np.testing.assert_array_equal(draw(size), whole[:size])
    # neither another step nor the initial noise draws the same numbers
    first = trace(silent, SCHEDULE, DDPM(), jnp.zeros((2, *SHAPE)), [0.9, 0.5, 0.1], key).xs
    ratio = np.asarray(first[1] / first[2])
    assert ratio.std() > 1e-2 * np.abs(ratio).mean()
    assert np.std(np.asarray(first[1]) / np.asarray(initial_noise(key, (2, *SHAPE)))) > 1e-2


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_sample_does_not_depend_on_its_batch(solver, key):
    def draw(keys):
        x1 = initial_noise(keys, (len(keys), *SHAPE), SCHEDULE)
        return np.asarray(sample(model(), SCHEDULE, solver, x1, uniform(6, SCHEDULE), keys))

    keys = keys_of(key, 8)
    whole = draw(keys)
    np.testing.assert_allclose(draw(keys[2:5]), whole[2:5], rtol=1e-5, atol=1e-5)
    one_key = sample(model(), SCHEDULE, solver, initial_noise(key, (8, *SHAPE), SCHEDULE), uniform(6, SCHEDULE), key)
    np.testing.assert_allclose(one_key, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_eight_devices_give_what_one_gives(solver, key):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    keys = keys_of(key, 16)
    x1 = initial_noise(keys, (16, *SHAPE), SCHEDULE)
    cond, null = jax.random.normal(key, (16, 2)), jnp.zeros((1, 2))
    guided = classifier_free(model(), null, 2.0)
    alone = sample(guided, SCHEDULE, solver, x1, uniform(5, SCHEDULE), keys, cond)
    together = sample(
        jax.device_put(guided, copied),
        SCHEDULE,
        solver,
        *jax.device_put((x1,), spread),
        uniform(5, SCHEDULE),
        *jax.device_put((keys, cond), spread),
    )
    assert len(together.sharding.device_set) == 8
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)


def test_other_weights_scales_seeds_and_prompts_do_not_compile_again(key):
    traced = []

    def counted(params, x, time, cond, *, key=None, train=False):
        traced.append(x.shape)
        return network(params, x, time, cond)

    def run(seed, weight, scale, prompt, negative=None):
        keys = keys_of(jax.random.key(seed), 4)
        params = {"w": jnp.full((3, 3), weight)}
        denoise = denoiser(counted, params, VPLinear())
        denoise = classifier_free(denoise, jnp.zeros((1, 2)), scale, negative=negative)
        x1 = initial_noise(keys, (4, *SHAPE), SCHEDULE)
        return sample(denoise, VPLinear(), DDIM(0.5), x1, uniform(3, SCHEDULE), keys, jnp.full((4, 2), prompt))

    first = run(0, 0.1, 1.0, 0.3)
    count = len(traced)
    assert count > 0
    others = [run(1, 0.1, 1.0, 0.3), run(0, 0.2, 1.0, 0.3), run(0, 0.1, 3, 0.3), run(0, 0.1, 1.0, 0.9)]
    others.append(run(0, 0.1, 3.0, 0.3, negative=jnp.ones((1, 2))))
    assert len(traced) == count
    assert all(jnp.abs(other - first).max() > 1e-4 for other in others)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_trace_is_the_sample_with_its_path(solver, key):
    x1, ts = initial_noise(key, (3, *SHAPE), SCHEDULE), uniform(5, SCHEDULE)
    path = trace(model(), SCHEDULE, solver, x1, ts, key)
    np.testing.assert_allclose(path.x0, sample(model(), SCHEDULE, solver, x1, ts, key), rtol=1e-5, atol=1e-6)
    assert path.xs.shape == (6, 3, *SHAPE)
    assert path.x0_hats.shape == (5, 3, *SHAPE)
    np.testing.assert_array_equal(path.xs[0], x1)
    np.testing.assert_array_equal(path.xs[-1], path.x0)
    for x, x0_hat, t in zip(path.xs, path.x0_hats, ts):
        np.testing.assert_allclose(x0_hat, model()(x, jnp.float32(t)).x0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "ts", "calls"), [(DDIM(), [1, 0.5, 0], 2), (Heun(), [1, 0.5, 0], 3), (Heun(), [1, 0.5, 0.1], 4)]
)
def test_evaluations_are_counted_as_they_happen(solver, ts, calls, key):
    seen = []

    def counted(x, t, cond):
        jax.debug.callback(lambda: seen.append(1))
        return model()(x, t)

    path = trace(counted, SCHEDULE, solver, jnp.ones((2, *SHAPE)), ts, key)
    jax.effects_barrier()
    assert int(path.nfe) == len(seen) == calls


def test_the_state_is_float32_at_least(key):
    x1 = jnp.ones((2, *SHAPE), jnp.bfloat16)
    for solver in FEW:
        assert sample(model(), SCHEDULE, solver, x1, uniform(3, SCHEDULE), key).dtype == jnp.float32
    half = denoiser(lambda p, x, *a, **k: x.astype(jnp.bfloat16), {}, SCHEDULE)
    pair = half(jnp.ones((2, 3), jnp.bfloat16), jnp.float32(0.5))
    assert pair.x0.dtype == pair.eps.dtype == jnp.float32


def test_the_whole_call_may_be_jitted_and_differentiated(key):
    x1, ts = initial_noise(key, (3, *SHAPE), SCHEDULE), uniform(4, SCHEDULE)

    def run(scale, x1, key):
        return sample(model(scale), SCHEDULE, Heun(), x1, ts, key)

    np.testing.assert_allclose(jax.jit(run)(1.0, x1, key), run(1.0, x1, key), rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda s: run(s, x1, key).sum())(1.0)
    step = 1e-2
    difference = (run(1.0 + step, x1, key).sum() - run(1.0 - step, x1, key).sum()) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=2e-2)


@dataclasses.dataclass(frozen=True)
class Plain:
    """A schedule of a user who has not heard of pytrees."""

    t_min: float = 0.0
    t_max: float = 1.0

    def alpha(self, t):
        return 1.0 - t

    def sigma(self, t):
        return t

    def logsnr(self, t):
        return RectifiedFlow().logsnr(t)

    def t_from_logsnr(self, logsnr):
        return RectifiedFlow().t_from_logsnr(logsnr)


def test_plain_functions_schedules_and_old_keys_are_taken(key):
    gaussian = exact.gaussian(RectifiedFlow(), jnp.zeros(3), 0.5)
    x1, ts = jax.random.normal(key, (2, 3)), uniform(4)
    wanted = sample(gaussian, RectifiedFlow(), DDPM(), x1, ts, key)
    got = sample(lambda x, t, cond: gaussian(x, t), Plain(), DDPM(), x1, ts, jax.random.key_data(key))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ts": [0.0, 0.5, 1.0]}, r"ts\[0\] = 0 is not in \[0.0001, 1\]"),
        ({"ts": [0.1, 0.5, 1.0]}, r"ts\[1\] = 0.5 is not below ts\[0\] = 0.1"),
        ({"ts": [1.2, 0.0]}, r"ts\[0\] = 1.2"),
        ({"ts": [1.0]}, "at least 2"),
        ({"x1": jnp.ones((4, 3)).at[1, 2].set(jnp.inf)}, "x1 holds a value that is not finite"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, r"key has shape \(3,\) for a batch of 4"),
        ({"cond": {"text": jnp.ones((5, 2))}}, r"cond\['text'\] has shape \(5, 2\) for a batch of 4"),
    ],
)
def test_bad_input_is_named(change, message, key):
    call = {"x1": jnp.ones((4, 3)), "ts": uniform(3), "key": key, "cond": None} | change
    gaussian = exact.gaussian(SCHEDULE, jnp.zeros(3), 0.5)
    for function in (sample, trace):
        with pytest.raises(UserError, match=message):
            function(gaussian, SCHEDULE, DDIM(), **call)
