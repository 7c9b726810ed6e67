"""The variational bound on -log p(x0), in nats an example (VDM, arXiv 2107.00630, section 3.3 and appendices A, E, F).

    -log p(x0) <= KL(q(z_1 | x0) || p(z_1)) + E[-log p(x0 | z_0)] + diffusion

- **Prior.** q(z_1 | x0) = N(alpha x0, sigma^2) at t_max, p(z_1) = N(0, sigma(t_max)^2), from which sampling begins. The
  variances are equal: KL = (alpha / sigma)^2 |x0|^2 / 2.
- **Reconstruction**, z_0 at t_min. Of data with a density: x0 | z_0 ~ N(z_0 / alpha, (sigma / alpha)^2), whose
  expectation over z_0 is d / 2 (1 + log 2 pi - logsnr(t_min)) exactly. Of data of 256 levels (eq. 8 and appendix E):
  p(x0 | z_0) is proportional to N(z_0; alpha x0, sigma^2) over the levels of each entry.
- **Diffusion.** The reverse step from t to s < t is q(z_s | z_t, x0) with x0_hat for x0: its KL is (SNR(s) - SNR(t)) / 2
  |x0 - x0_hat|^2 = expm1(l(s) - l(t)) / 2 |eps - eps_hat|^2 with l = logsnr, for every schedule. T steps of equal length
  are estimated by T times one of them (eq. 13); as T grows the bound falls to the integral of |eps - eps_hat|^2 / 2 over
  l (eq. 18), which knows the schedule by its ends alone. So l itself is drawn uniformly here, whatever the schedule, and
  no rate of it is needed.

Where the schedule's logsnr is clipped (at +-20, as at t = 0 without noise) the bound is that of the process between the
clips: without noise at t_min the density of a finite model has no bound at all. A network has to be asked where it was
trained: give the schedule the t_min of training.

For Gaussian data N(m, s^2) and the exact denoiser, E |eps - eps_hat|^2 = s^2 e^l / (1 + s^2 e^l) a dimension, and the
diffusion term is [log(1 + s^2 e^l)] / 2 between the ends (I-MMSE).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.process.arguments import check_cond, check_denoise, check_schedule, data, one_key, whole
from diffusion_jax.process.asking import predict
from diffusion_jax.process.sde import coefficients, noised
from diffusion_jax.process.times import strata
from diffusion_jax.typing import DenoiseFn, PyTree, Schedule, UserError

__all__ = [
    "Bound",
    "bits_per_dim",
    "diffusion",
    "eps_error",
    "level_reconstruction",
    "prior_kl",
    "reconstruction",
    "step_kl",
    "variational_bound",
]

Images = Float[Array, "batch *shape"]
PerExample = Float[Array, " batch"]


class Bound(NamedTuple):
    """The three parts of the bound in nats, each [batch]."""

    prior: Array
    reconstruction: Array
    diffusion: Array

    @property
    def total(self) -> Array:
        """The bound on -log p(x0) in nats, [batch]."""
        return self.prior + self.reconstruction + self.diffusion


def bits_per_dim(nats: PerExample, entries: int) -> PerExample:
    """Nats an example of `entries` numbers [batch] as bits a dimension.

    From a density in [-1, 1], bits for 8-bit data that were dequantised uniformly are log2(127.5) more.
    """
    if entries < 1:
        raise UserError(f"entries {entries} of an example are not at least 1")
    return nats / (entries * math.log(2.0))


def _sum(x: Images) -> PerExample:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _entries(x0: Images) -> int:
    return math.prod(x0.shape[1:])


def _ends(schedule: Schedule, dtype: jnp.dtype) -> tuple[Array, Array, Array, Array]:
    """(t, logsnr) of the clean end and of the noisy one, within the clip of logsnr."""
    clean = schedule.logsnr(jnp.asarray(schedule.t_min, dtype))
    noisy = schedule.logsnr(jnp.asarray(schedule.t_max, dtype))
    return _time_of(schedule, clean), clean, _time_of(schedule, noisy), noisy


def _time_of(schedule: Schedule, logsnr: Array) -> Array:
    return jnp.clip(schedule.t_from_logsnr(logsnr), schedule.t_min, schedule.t_max)


def prior_kl(schedule: Schedule, x0: Images) -> PerExample:
    """KL(N(alpha x0, sigma^2) || N(0, sigma^2)) at t_max, exact, in nats an example."""
    check_schedule(schedule)
    x0 = data("x0", x0, clean=True)
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    t = jnp.asarray(schedule.t_max, x0.dtype)
    ratio = schedule.alpha(t) / schedule.sigma(t)
    return 0.5 * ratio**2 * _sum(x0**2)


def reconstruction(schedule: Schedule, x0: Images) -> PerExample:
    """E[-log N(x0; z / alpha, (sigma / alpha)^2)] at t_min, exact, in nats an example; for data with a density."""
    check_schedule(schedule)
    x0 = data("x0", x0, clean=True)
    dtype = jnp.promote_types(x0.dtype, jnp.float32)
    clean = _ends(schedule, dtype)[1]
    return jnp.broadcast_to(0.5 * _entries(x0) * (1.0 + math.log(2.0 * math.pi) - clean), x0.shape[:1])


def level_reconstruction(schedule: Schedule, x0: Images, key: Array, levels: int = 256) -> PerExample:
    """-log p(x0 | z_0) in nats an example at one draw of z_0, for x0 = 2 k / (levels - 1) - 1 with whole k.

    Entries off the levels count as the nearest one. Raises UserError for fewer than 2 levels.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise UserError(f"levels {levels!r:.60} are not at least 2; images of 8 bits have 256")
    check_schedule(schedule)
    x0, key = data("x0", x0, clean=True), one_key(key)
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    t, logsnr, _, _ = _ends(schedule, x0.dtype)
    index = jnp.clip(jnp.round(0.5 * (x0 + 1.0) * (levels - 1)), 0, levels - 1)
    table = 2.0 * jnp.arange(levels, dtype=x0.dtype) / (levels - 1) - 1.0
    alpha, sigma = coefficients(schedule, t, x0)
    z = x0 + sigma / alpha * jax.random.normal(key, x0.shape, x0.dtype)
    logits = -0.5 * jnp.exp(logsnr) * (z[..., None] - table.reshape((1,) * x0.ndim + (levels,))) ** 2
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), index.astype(jnp.int32)[..., None], axis=-1)
    return -_sum(log_p[..., 0])


def eps_error(
    denoise: DenoiseFn, schedule: Schedule, x0: Images, eps: Images, t: PerExample, cond: PyTree = None
) -> PerExample:
    """|eps - eps_hat|^2, the sum over each example's entries at its time t.

    Where noise prevails it is SNR |x0 - x0_hat|^2, its equal, which is also right where alpha, and with it eps -
    eps_hat, vanishes.
    """
    pair, logsnr = predict(denoise, noised(schedule, x0, eps, t), t, cond), schedule.logsnr(t)
    return jnp.where(logsnr > 0, _sum((eps - pair.eps) ** 2), jnp.exp(logsnr) * _sum((x0 - pair.x0) ** 2))


def step_kl(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: Images,
    eps: Images,
    s: PerExample,
    t: PerExample,
    cond: PyTree = None,
) -> PerExample:
    """The KL of the reverse step from t down to s < t at noise eps, in nats an example."""
    return 0.5 * jnp.expm1(schedule.logsnr(s) - schedule.logsnr(t)) * eps_error(denoise, schedule, x0, eps, t, cond)


def _checked(denoise: Any, schedule: Any, x0: Any, cond: PyTree, key: Any) -> Array:
    """x0 as an array, after all that is given was looked at."""
    order = " (the order is denoise, schedule, x0, cond, key)"
    check_denoise(denoise, order)
    check_schedule(schedule, order)
    one_key(key)
    x0 = data("x0", x0, clean=True, order=order)
    check_cond(cond, x0.shape[0])
    return x0


def diffusion(
    denoise: DenoiseFn, schedule: Schedule, x0: Images, cond: PyTree, key: Array, num_steps: int | None = None
) -> PerExample:
    """An unbiased estimate of the diffusion term of each example, in nats: one time and one noise each.

    The times are stratified over the batch. `num_steps` None is continuous time; else the process of so many steps of
    equal length in t. Raises UserError for num_steps below 1.
    """
    if num_steps is not None:
        whole("num_steps", num_steps)
    x0, key = _checked(denoise, schedule, x0, cond, key), one_key(key)
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    eps = jax.random.normal(jax.random.fold_in(key, 1), x0.shape, x0.dtype)
    u = strata(jax.random.fold_in(key, 0), x0.shape[0]).astype(x0.dtype)
    t_clean, clean, t_noisy, noisy = _ends(schedule, x0.dtype)
    if num_steps is None:
        t = _time_of(schedule, noisy + (clean - noisy) * u)
        return 0.5 * (clean - noisy) * eps_error(denoise, schedule, x0, eps, t, cond)
    index = jnp.clip(jnp.floor(u * num_steps), 0, num_steps - 1)
    s, t = (t_clean + (t_noisy - t_clean) * (step / num_steps) for step in (index, index + 1.0))
    return num_steps * step_kl(denoise, schedule, x0, eps, s, t, cond)


def variational_bound(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: Images,
    cond: PyTree,
    key: Array,
    *,
    num_steps: int | None = None,
    levels: int | None = None,
) -> Bound:
    """An unbiased estimate of the bound on -log p(x0 | cond) of each example, by its parts, in nats.

    x0 [batch, ...]; `levels` None takes the data as having a density (the bound is on a differential entropy and may be
    negative), 256 as 8-bit images at 2 k / 255 - 1. `num_steps` as in `diffusion`. Average over keys and examples.
    """
    x0, key = _checked(denoise, schedule, x0, cond, key), one_key(key)
    key_diffusion, key_reconstruction = (jax.random.fold_in(key, i) for i in range(2))
    steps = diffusion(denoise, schedule, x0, cond, key_diffusion, num_steps)
    if levels is None:
        return Bound(prior_kl(schedule, x0), reconstruction(schedule, x0), steps)
    rebuilt = level_reconstruction(schedule, x0, key_reconstruction, levels)
    return Bound(prior_kl(schedule, x0), rebuilt, steps)
