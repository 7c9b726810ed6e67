"""Kinds of guidance by name, for one test a property, and the exact denoiser of conditions that they guide."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, VPLinear
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling import (
    apg,
    autoguidance,
    cfg_plus_plus,
    cfg_zero,
    classifier_free,
    classifier_guidance,
    clip_guidance,
    clip_x0,
    dynamic_threshold,
    interval,
    rescale,
)
from diffusion_jax.typing import Prediction, pytree_dataclass

BATCH, DIM, STD = 4, 3, 0.6
SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow(), VE(), EDM()]


@pytree_dataclass
class Conditional:
    """The exact denoiser of N(cond, STD^2 I): what a perfect network of conditions would say."""

    schedule: Any

    def __call__(self, xt, t, cond=None):
        alpha, sigma = (expand(f(jnp.asarray(t)), xt) for f in (self.schedule.alpha, self.schedule.sigma))
        residual = (xt - alpha * cond) / (alpha**2 * STD**2 + sigma**2)
        return Prediction(cond + alpha * STD**2 * residual, sigma * residual)


def close(got, wanted, rtol=2e-5, atol=2e-6):
    np.testing.assert_allclose(got.x0, wanted.x0, rtol=rtol, atol=atol)
    np.testing.assert_allclose(got.eps, wanted.eps, rtol=rtol, atol=atol)


def same(got, wanted):
    np.testing.assert_array_equal(got.x0, wanted.x0)
    np.testing.assert_array_equal(got.eps, wanted.eps)


def adds_up(pair, x, t, schedule):
    alpha, sigma = (expand(f(jnp.asarray(t)), x) for f in (schedule.alpha, schedule.sigma))
    scale = float(jnp.max(jnp.abs(x)) + jnp.max(jnp.abs(alpha * pair.x0)))
    np.testing.assert_allclose(alpha * pair.x0 + sigma * pair.eps, x, atol=2e-6 * scale)


@pytree_dataclass
class Shifted:
    """A weaker model: its condition is off."""

    base: Any

    def __call__(self, xt, t, cond=None):
        return self.base(xt, t, 0.5 * cond)


def energy(x, t, cond):
    return -0.5 * jnp.sum((x - cond) ** 2, axis=-1)


# name: (denoise, null, scale, schedule) -> guided; all but CFG++ keep the pair, all but it are the identity at scale 1
METHODS = {
    "classifier_free": lambda d, n, w, s: classifier_free(d, n, w),
    "rescale": lambda d, n, w, s: rescale(classifier_free(d, n, w), s, "v", 0.7),
    "apg": lambda d, n, w, s: apg(d, n, w, schedule=s, eta=0.2, momentum=-0.5, norm_threshold=0.8),
    "cfg_zero": lambda d, n, w, s: cfg_zero(d, n, w, schedule=s),
    "autoguidance": lambda d, n, w, s: autoguidance(d, Shifted(d), w),
    "interval": lambda d, n, w, s: interval(classifier_free(d, n, w), d, s, 0.1, 5.0),
    "clip": lambda d, n, w, s: clip_x0(classifier_free(d, n, w), s, -0.9, 0.9),
    "threshold": lambda d, n, w, s: dynamic_threshold(classifier_free(d, n, w), s, 0.9, 0.5),
    "classifier": lambda d, n, w, s: classifier_guidance(d, energy, w, schedule=s),
    "classifier_x0": lambda d, n, w, s: classifier_guidance(d, energy, w, schedule=s, of="x0"),
    "clip_guidance": lambda d, n, w, s: clip_guidance(d, jnp.tanh, jnp.ones((1, DIM)), w, schedule=s),
    "cfg_plus_plus": lambda d, n, w, s: cfg_plus_plus(d, n, 0.1 * w),
}  # fmt: skip
IDENTITY = ("classifier_free", "rescale", "apg", "cfg_zero", "autoguidance", "interval")
