"""One function written for one time, for one time an example, and the library's own: everywhere the same answers.

The data are N(MEAN, STD^2), of which everything is known. Every public function that takes a denoiser is a row of CALLS, asked
with a batch as large as an example, another one, and one example.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import VPLinear, bound, denoiser, denoising_loss, exact, from_x0, learned_gamma
from diffusion_jax.process.asking import ask, predict
from diffusion_jax.process.loss import loss_at
from diffusion_jax.sampling import (
    DDIM,
    DPS,
    AdaptiveODE,
    EDMStochastic,
    Heun,
    Inpaint,
    apg,
    autoguidance,
    bits_per_dimension,
    cfg_plus_plus,
    cfg_zero,
    classifier_free,
    classifier_guidance,
    clip_guidance,
    clip_x0,
    compose,
    dynamic_threshold,
    img2img,
    interval,
    invert,
    log_likelihood,
    pigdm,
    rescale,
    sample,
    trace,
)
from diffusion_jax.sampling.guidance.steered import Steered
from diffusion_jax.typing import Prediction, UserError

DIM = 3
MEAN, STD = jnp.array([[0.4, -0.3, 0.7]]), 0.6
SCHEDULE = VPLinear()
KEY = jax.random.key(0)
GAMMA = learned_gamma(KEY, hidden=4)
TS = np.array([1.0, 0.5, 0.1, 0.0])


def pair(xt, alpha, sigma):
    residual = (xt - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    return Prediction(MEAN + alpha * STD**2 * residual, sigma * residual)


def for_one_time(xt, t, cond):
    """As in the README: alpha(t) * xt. On [batch] times it goes wrong, in silence where the batch has DIM examples."""
    made = pair(xt, SCHEDULE.alpha(t), SCHEDULE.sigma(t))
    return made if cond is None else Prediction(made.x0 + 0 * cond, made.eps)


def for_times(xt, t, cond):
    """As networks are written: [batch] times. It refuses a scalar."""
    made = pair(xt, SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None])
    return made if cond is None else Prediction(made.x0 + 0 * cond, made.eps)


def for_stacked_times(xt, t, cond):
    """As equinox's users write: one example, and a vmap of both."""

    def one(x, s):
        return jax.tree.map(lambda leaf: leaf[0], pair(x[None], SCHEDULE.alpha(s), SCHEDULE.sigma(s)))

    return jax.vmap(one)(xt, t)


class Own(Steered):
    """A rule of one's own with a memory, written for one time."""

    def start(self, xt):
        return jnp.zeros(xt.shape)

    def step(self, xt, t, cond, memory):
        return for_one_time(xt, t, cond), memory + SCHEDULE.alpha(t) * xt


def x0s(size):
    return MEAN + STD * jax.random.normal(jax.random.key(size), (size, DIM))


def noises(size):
    return jax.random.normal(jax.random.key(size), (size, DIM))


def ones(size):
    return jnp.ones((size, 1))


def sampled(denoise, size, solver=None, cond=None, ts=TS):
    return sample(denoise, SCHEDULE, solver or DDIM(), noises(size), ts, KEY, cond)


def asked(steered, size, cond=None):
    """Of one time and of one an example."""
    times = jnp.linspace(0.2, 0.9, size)
    return steered(x0s(size), jnp.float32(0.4), cond), steered(x0s(size), times, cond)


NULL = jnp.zeros((1, 1))
CALLS = {
    "sample": lambda d, n: sampled(d, n),
    "sample, adaptive": lambda d, n: sampled(d, n, AdaptiveODE(1e-3, 1e-3), ts=np.array([1.0, 0.001])),
    "sample, churned": lambda d, n: sampled(d, n, EDMStochastic()),
    "sample, inpainting": lambda d, n: sampled(d, n, Inpaint(DDIM(), MEAN, jnp.array([[True, False, False]]))),
    "sample, DPS": lambda d, n: sampled(d, n, DPS(Heun(), lambda x: x[:, :1], MEAN[:, :1], 0.1)),
    "trace": lambda d, n: trace(d, SCHEDULE, DDIM(), noises(n), TS, KEY),
    "log_likelihood": lambda d, n: log_likelihood(d, SCHEDULE, x0s(n), rtol=1e-3, atol=1e-3).log_prob,
    "bits_per_dimension": lambda d, n: bits_per_dimension(
        d, SCHEDULE, jnp.round(x0s(n)).clip(-1, 1), KEY, levels=3, rtol=1e-3, atol=1e-3
    ),
    "invert": lambda d, n: invert(d, SCHEDULE, x0s(n), TS),
    "img2img": lambda d, n: img2img(d, SCHEDULE, DDIM(), x0s(n), TS, KEY, 0.6),
    "learned schedule": lambda d, n: sample(d, GAMMA, DDIM(), noises(n), np.array([1.0, 0.5, 0.0]), KEY),
    "denoising_loss": lambda d, n: denoising_loss(d, SCHEDULE, x0s(n), None, KEY),
    "loss_at": lambda d, n: loss_at(d, SCHEDULE, x0s(n), noises(n), jnp.linspace(0.2, 0.9, n)),
    "variational_bound": lambda d, n: bound.variational_bound(d, SCHEDULE, x0s(n), None, KEY).total,
    "diffusion, 10 steps": lambda d, n: bound.diffusion(d, SCHEDULE, x0s(n), None, KEY, 10),
    "classifier_free": lambda d, n: asked(classifier_free(d, NULL, 2.0), n, ones(n)),
    "apg": lambda d, n: asked(apg(d, NULL, 2.0, schedule=SCHEDULE), n, ones(n)),
    "cfg_plus_plus": lambda d, n: asked(cfg_plus_plus(d, NULL), n, ones(n)),
    "cfg_zero": lambda d, n: asked(cfg_zero(d, NULL, 2.0, schedule=SCHEDULE), n, ones(n)),
    "rescale": lambda d, n: asked(rescale(classifier_free(d, NULL, 2.0), SCHEDULE, "v"), n, ones(n)),
    "autoguidance": lambda d, n: asked(autoguidance(d, exact.gaussian(SCHEDULE, MEAN[0], 1.0)), n),
    "compose": lambda d, n: asked(compose(d, NULL, [NULL, NULL + 1], [1.0, 0.5]), n),
    "interval": lambda d, n: asked(interval(d, exact.gaussian(SCHEDULE, MEAN[0], 1.0), SCHEDULE, 0.5, 2.0), n),
    "clip_x0": lambda d, n: asked(clip_x0(d, SCHEDULE), n),
    "dynamic_threshold": lambda d, n: asked(dynamic_threshold(d, SCHEDULE), n),
    "classifier_guidance": lambda d, n: asked(
        classifier_guidance(d, lambda x, t, c: -jnp.sum((SCHEDULE.alpha(t) * x) ** 2, axis=1), schedule=SCHEDULE), n
    ),
    "classifier_guidance, of x0": lambda d, n: asked(
        classifier_guidance(d, lambda x, t, c: -SCHEDULE.alpha(t) * jnp.sum(x**2, 1), schedule=SCHEDULE, of="x0"), n
    ),
    "clip_guidance": lambda d, n: asked(clip_guidance(d, lambda x: x, MEAN, 2.0, schedule=SCHEDULE), n),
    "pigdm": lambda d, n: asked(pigdm(d, lambda x: x[:, :1], MEAN[:, :1], 0.1, schedule=SCHEDULE), n),
    "guided, adaptive": lambda d, n: sampled(
        classifier_free(d, NULL, 2.0), n, AdaptiveODE(1e-3, 1e-3), ones(n), np.array([1.0, 0.001])
    ),
}
STYLES = {
    "one time": for_one_time,
    "times": for_times,
    "stacked times": for_stacked_times,
    "x0 of one time": from_x0(lambda xt, t, cond: for_one_time(xt, t, cond).x0, SCHEDULE),
    "x0 of times": from_x0(lambda xt, t, cond: for_times(xt, t, cond).x0, SCHEDULE),
}
SIZES = (DIM, 2, 1)  # as large as an example, another, and alone
QUICK = ("sample", "log_likelihood", "denoising_loss", "variational_bound")


def compare(call, styles, sizes):
    own = exact.gaussian(SCHEDULE, MEAN[0], STD)
    for size in sizes:
        wanted = jax.tree.leaves(CALLS[call](own, size))
        for style in styles:
            for got, want in zip(jax.tree.leaves(CALLS[call](STYLES[style], size)), wanted, strict=True):
                np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3, err_msg=f"{call}, {style}, {size}")


@pytest.mark.parametrize("call", QUICK)
def test_both_styles_are_right_where_the_batch_is_as_large_as_an_example(call):
    compare(call, ("x0 of one time", "times"), (DIM,))


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_every_function_gives_all_styles_the_answer_of_the_exact_denoiser(call):
    # Each is a program of its own, and those with error control take long to compile.
    compare(call, *((("one time", "times"), (DIM,)) if "adaptive" in call else (STYLES, SIZES)))


def test_a_rule_of_ones_own_with_a_memory_is_asked_as_it_is_written():
    for size in SIZES:
        times = jnp.linspace(0.2, 0.9, size)
        want = exact.gaussian(SCHEDULE, MEAN[0], STD)(x0s(size), times)
        np.testing.assert_allclose(Own()(x0s(size), times).x0, want.x0, rtol=1e-5, atol=1e-6)


def test_what_is_found_is_remembered_and_nothing_is_computed_for_it():
    seen = []

    def denoise(xt, t, cond):
        seen.append(t.shape)
        return Prediction(xt, t[:, None] * xt)

    for _ in range(3):
        predict(denoise, jnp.ones((2, 4)), 0.5)
    assert seen == [(1016,), (1048,), (2,), (2,), (2,)]


def test_times_that_are_used_up_in_a_function_of_one_time_stay_with_their_examples():
    """A mean over t, or its first, is right for a batch only where it is asked about one example at a time."""
    found = ask(lambda x, t: x * jnp.mean(t), jnp.ones((3, 2)), jnp.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(found, [[0.1] * 2, [0.2] * 2, [0.3] * 2], rtol=1e-6)


LABELS = jnp.ones((3, 2))
X3 = jnp.ones((3, 2))


def mistaken(x, t):
    raise ValueError("my own mistake")


REFUSED = [
    (
        lambda x, t, c: Prediction(x, x[:, : t.item()]),
        0.5,
        r"^<lambda> fails: \w+Error: .*; it was asked with t of shape \[batch\] and with a scalar, for examples of",
    ),
    (
        lambda x, t, c: Prediction(LABELS * x, t * x),
        jnp.linspace(0, 1, 3),
        "what belongs to an example goes through cond",
    ),
    (lambda x, t, c: x, 0.5, r"gives an array of shape \(3, 2\), not a Prediction"),
    (lambda x, t, c: (x, x), 0.5, "gives a tuple, not a Prediction"),
    (lambda x, t, c: None, 0.5, "gives None, not a Prediction.*is there a return"),
    (
        lambda x, t, c: Prediction(x[:, :1], x),
        0.5,
        r"gives x0 of shape \(3, 1\) and type float32 for xt of shape \(3, 2\)",
    ),
    (from_x0(lambda x, t, c: None, VPLinear()), 0.5, r"^<lambda> gives None, not an array: is there a return\?"),
    (from_x0(lambda x, t, c: 1.0, VPLinear()), 0.5, "^<lambda> gives a float, not an array"),
    (denoiser(lambda params, x, t, c, key, train: None, {}, VPLinear()), 0.5, "^<lambda> gives None, not an array"),
    (
        denoiser(lambda params, x, t, c, key, train: jnp.zeros(x[0, 0, 0]), {}, VPLinear()),
        0.5,
        r"^Denoiser fails: IndexError: .*; an example of xt has shape \(2,\)",
    ),
    (lambda x, t, c: mistaken(x, t), 0.5, r"^<lambda> fails: ValueError: my own mistake; it was asked"),
    (lambda x, t, c: Prediction(x, x > 0), 0.5, r"gives eps of shape \(3, 2\) and type bool"),
    (lambda x, t, c: Prediction(x, None), 0.5, "gives eps of shape .* and type NoneType"),
    (lambda x, t, c: Prediction(x, x), jnp.ones(2), r"a time t of shape \(2,\) does not fit a batch of 3"),
]


@pytest.mark.parametrize(("fn", "t", "message"), REFUSED)
def test_what_is_no_prediction_is_one_line(fn, t, message):
    with pytest.raises(UserError, match=message) as caught:
        predict(fn, X3, t)
    assert "\n" not in str(caught.value)
