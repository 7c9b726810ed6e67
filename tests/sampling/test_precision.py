"""The adaptive solver on denoisers that round: tolerances that fit them, and a line where a tolerance cannot be met."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import MEAN, STD, gaussian, variance

from diffusion_jax.process import Cosine, VPLinear, exact
from diffusion_jax.sampling import AdaptiveODE, Heun, sample, trace, uniform
from diffusion_jax.sampling.solvers.adaptive_ode import rounding
from diffusion_jax.typing import Prediction, UserError

SCHEDULE, DIMENSIONS = Cosine(), 16
MEANS = jnp.stack([jnp.linspace(0.2, 1, DIMENSIONS), -jnp.linspace(0.2, 1, DIMENSIONS)])
X1 = jax.random.normal(jax.random.key(1), (8, DIMENSIONS))
INTERVAL = np.array([1.0, 0.0])


def guided(dtype):
    """Guidance of scale 3 towards one of two blobs, by two v networks that compute in `dtype`."""
    both, one = exact.mixture(SCHEDULE, MEANS, jnp.full(2, 0.3)), exact.gaussian(SCHEDULE, MEANS[0], 0.3)

    def denoise(x, t, cond):
        alpha, sigma = (jnp.broadcast_to(f(t), x.shape[:1])[:, None] for f in (SCHEDULE.alpha, SCHEDULE.sigma))

        def v(model):
            pair = model(x.astype(dtype).astype(jnp.float32), t)
            return (alpha * pair.eps - sigma * pair.x0).astype(dtype).astype(jnp.float32)

        v = v(both) + 3.0 * (v(one) - v(both))
        return Prediction(alpha * x - sigma * v, sigma * x + alpha * v)

    return denoise


def run(dtype, solver):
    return trace(guided(dtype), SCHEDULE, solver, X1, INTERVAL, jax.random.key(0))


def test_default_tolerances_fit_the_precision():
    coarse = run(jnp.bfloat16, AdaptiveODE(max_steps=60))
    assert np.isfinite(coarse.x0).all()
    assert int(coarse.nfe.max()) < 80  # 1,045 at 1e-5
    # Guidance makes 5 roundings of 2^-8 of one; entries are of size 2.
    fine = sample(guided(jnp.float32), SCHEDULE, Heun(), X1, uniform(400), jax.random.key(0))
    assert float(jnp.abs(coarse.x0 - fine).max()) < 10 * 2**-8


def test_adaptive_error_follows_its_tolerance():
    schedule = VPLinear()
    x1 = jnp.linspace(-2, 2, 9)[:, None]
    wanted = MEAN + STD * (x1 - schedule.alpha(1.0) * MEAN) / jnp.sqrt(variance(schedule, 1.0))
    found, counts = [], []
    with jax.enable_x64(True):
        model = gaussian(schedule)
        for tolerance in (1e-3, 1e-5, 1e-7):
            solver = AdaptiveODE(tolerance, tolerance)
            path = trace(model, schedule, solver, x1.astype(jnp.float64), np.array([1.0, 0.0]), jax.random.key(0))
            found.append(float(jnp.abs(path.x0 - wanted).max()))
            counts.append(int(path.nfe.max()))
    assert found[0] < 0.05 and found[1] < found[0] / 10 and found[2] < found[1] / 10
    assert counts[0] < counts[1] < counts[2]


def test_a_tolerance_below_the_rounding_is_explained():
    solver = AdaptiveODE(1e-5, 1e-5, max_steps=60)
    x0 = run(jnp.bfloat16, solver).x0
    lost = int(np.isinf(x0).any(axis=1).sum())
    assert lost > 0
    assert solver.explain(x0) == (
        f"{lost} of 8 samples did not arrive within max_steps 60 of AdaptiveODE at rtol 1e-05 and atol 1e-05: a tolerance "
        "below the network's own rounding (0.004 in bfloat16) is never met, so take larger ones, or more max_steps"
    )
    assert solver.explain(np.zeros((3, 2))) is None
    with pytest.raises(UserError, match=r"rtol -1.0 and atol None must be above 0"):
        AdaptiveODE(rtol=-1.0)


def test_the_rounding_of_a_function_is_that_of_its_coarsest_type():
    x = jnp.ones((2, 2))
    coarse = lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    assert rounding(lambda x: x + 1, x) == 2**-24
    assert rounding(coarse, x) == 2**-8
    assert rounding(lambda x: x.astype(jnp.float16), x) == 2**-11
    assert rounding(jax.jit(lambda x: jax.lax.cond(x[0, 0] > 0, coarse, lambda x: x, x)), x) == 2**-8
    assert rounding(lambda x: jax.lax.scan(lambda c, _: (coarse(c), None), x, None, 3)[0], x) == 2**-8
    assert rounding(lambda x: x, x) == 0.0
