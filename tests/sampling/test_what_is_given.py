"""Whatever is given instead of what is wanted: a result, or one line that says what it is and what to write.

The suite's own checks of types are taken off (`inspect.unwrap`), as a user does not have them.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_jax import process, sampling
from diffusion_jax.process import VPLinear, bound, exact
from diffusion_jax.sampling import DDIM, DPS, Inpaint
from diffusion_jax.typing import Prediction, UserError

SCHEDULE = VPLinear()
DENOISE = exact.gaussian(SCHEDULE, jnp.zeros(2), 0.5)
X = jnp.array([[0.1, -0.4], [0.3, 0.2]])
TS = np.array([1.0, 0.5, 0.0])
KEY = jax.random.key(0)
MASK = jnp.array([[True, False]])
COND = jnp.ones((2, 1))
NULL = jnp.zeros((1, 1))


def rows(x):
    return x[:, :1]


# name -> (function, its right arguments): the first line of every call that a user writes.
CALLS = {
    "sample": (sampling.sample, [DENOISE, SCHEDULE, DDIM(), X, TS, KEY]),
    "trace": (sampling.trace, [DENOISE, SCHEDULE, DDIM(), X, TS, KEY]),
    "img2img": (sampling.img2img, [DENOISE, SCHEDULE, DDIM(), X, TS, KEY, 0.5]),
    "invert": (sampling.invert, [DENOISE, SCHEDULE, X, TS]),
    "log_likelihood": (sampling.log_likelihood, [DENOISE, SCHEDULE, X]),
    "bits_per_dimension": (sampling.bits_per_dimension, [DENOISE, SCHEDULE, jnp.array([[-1.0, 1.0]]), KEY]),
    "initial_noise": (sampling.initial_noise, [KEY, (2, 2), SCHEDULE]),
    "interpolate": (sampling.interpolate, [X[0], X[1], 3]),
    "slerp": (sampling.slerp, [X, X[::-1], 0.5]),
    "classifier_free": (sampling.classifier_free, [DENOISE, NULL, 2.0]),
    "autoguidance": (sampling.autoguidance, [DENOISE, DENOISE, 2.0]),
    "compose": (sampling.compose, [DENOISE, NULL, [NULL, NULL], [1.0, 1.0]]),
    "interval": (sampling.interval, [DENOISE, DENOISE, SCHEDULE, 0.1, 2.0]),
    "clip_x0": (sampling.clip_x0, [DENOISE, SCHEDULE, -1.0, 1.0]),
    "dynamic_threshold": (sampling.dynamic_threshold, [DENOISE, SCHEDULE, 0.9, 1.0]),
    "pigdm": (functools.partial(inspect.unwrap(sampling.pigdm), schedule=SCHEDULE), [DENOISE, rows, X[:, :1], 0.1]),
    "classifier_guidance": (
        functools.partial(inspect.unwrap(sampling.classifier_guidance), schedule=SCHEDULE),
        [DENOISE, rows, 1.0],
    ),
    "denoising_loss": (process.denoising_loss, [DENOISE, SCHEDULE, X, None, KEY]),
    "variational_bound": (bound.variational_bound, [DENOISE, SCHEDULE, X, None, KEY]),
    "from_x0": (process.from_x0, [rows, SCHEDULE]),
    "denoiser": (process.denoiser, [rows, {}, SCHEDULE, "v", "t"]),
}


class Picture:
    """What PIL's images have, without PIL."""

    def getbands(self):
        return ("R", "G", "B")


class Half:
    """A schedule of one's own that is not whole."""

    t_min, t_max = 0.0, 1.0

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


class Methods(Half):
    def t_max(self):
        return 1.0

    logsnr = t_from_logsnr = Half.alpha


def a_function(x, t, cond=None):
    return Prediction(x, x)


WRONG = [
    None, 0, -1, 3, 0.0, float("nan"), float("inf"), True, "ddim", "", b"x", [], [1.0, 0.0], ["a", "b"], {}, {"a": 1}, (),
    a_function, DDIM, DDIM(), VPLinear, SCHEDULE, Half(), Picture(), DENOISE, KEY, jax.random.split(KEY, 3),
    jax.random.key_data(KEY), np.uint8([[0, 255], [3, 4]]),
    np.zeros((0, 2), np.float32), np.zeros((2, 0), np.float32), np.float32([[np.nan, 1.0]]),
    np.array(["a"]), np.array([None]), np.int64([1, 0]), np.float64([0.0, 0.5, 1.0]), jnp.ones((3, 1)), np.complex64([[1, 2]]),
    np.array(0.5), np.zeros((1, 4, 4, 3), np.float32) + 255, object(), float, lambda: None,
]  # fmt: skip


def outcome(call, arguments):
    """A result, or a UserError of one line; anything else is the test's failure."""
    fn = inspect.unwrap(CALLS[call][0])
    try:
        fn(*arguments)
    except UserError as error:
        return str(error)
    return None


def accepted(message):
    return message is None or (message and "\n" not in message)


@given(st.data())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_wrong_arguments_in_any_place_and_order_are_one_line_or_a_result(data):
    call = data.draw(st.sampled_from(sorted(CALLS)))
    arguments = list(CALLS[call][1])
    for _ in range(data.draw(st.integers(1, 2))):
        arguments[data.draw(st.integers(0, len(arguments) - 1))] = data.draw(st.sampled_from(WRONG))
    if data.draw(st.booleans()):
        arguments = data.draw(st.permutations(arguments))
    assert accepted(outcome(call, arguments))


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_every_wrong_argument_in_every_place_is_one_line_or_a_result(call):
    arguments = CALLS[call][1]
    for place, wrong in itertools.product(range(len(arguments)), WRONG):
        assert accepted(outcome(call, [wrong if i == place else a for i, a in enumerate(arguments)])), (place, wrong)


GREY, FAR = np.zeros((2, 4, 4, 1), np.uint8), np.full((2, 4, 4, 1), 255.0, np.float32)
PICTURES = exact.gaussian(SCHEDULE, jnp.zeros((4, 4, 1)), 0.5)
Z = np.zeros((2, 4, 4, 1), np.float32)
TAKERS = {
    "img2img": lambda x: inspect.unwrap(sampling.img2img)(PICTURES, SCHEDULE, DDIM(), x, TS, KEY, 0.5),
    "invert": lambda x: inspect.unwrap(sampling.invert)(PICTURES, SCHEDULE, x, TS),
    "log_likelihood": lambda x: inspect.unwrap(sampling.log_likelihood)(PICTURES, SCHEDULE, x),
    "bits_per_dimension": lambda x: inspect.unwrap(sampling.bits_per_dimension)(PICTURES, SCHEDULE, x, KEY),
    "Inpaint": lambda x: sampling.sample(
        PICTURES, SCHEDULE, Inpaint(DDIM(), x, jnp.ones((1, 4, 4, 1), bool)), jnp.asarray(Z), TS, KEY
    ),
    "DPS": lambda x: sampling.sample(PICTURES, SCHEDULE, DPS(DDIM(), lambda x: x, x, 0.1), jnp.asarray(Z), TS, KEY),
    "pigdm": lambda x: inspect.unwrap(sampling.pigdm)(PICTURES, lambda x: x, x, 0.1, schedule=SCHEDULE),
    "denoising_loss": lambda x: inspect.unwrap(process.denoising_loss)(PICTURES, SCHEDULE, x, None, KEY),
    "variational_bound": lambda x: inspect.unwrap(bound.variational_bound)(PICTURES, SCHEDULE, x, None, KEY),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_pictures_that_were_never_scaled_are_refused_everywhere(taker):
    for given_, message in [
        (GREY, r"grey levels \(uint8\).*in \[-1, 1\]"), (FAR, "255"), (Z.astype(int), "float32|not an array of floats"),
        (Picture(), "PIL image"), (Z[:0], "at least one example"), (Z + np.nan, "not finite"), (Z + np.inf, "not finite"),
        ("seven.png", "the str 'seven.png'"), (None, "None"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            TAKERS[taker](given_)
        assert "\n" not in str(caught.value), given_


SAMPLE = {"denoise": DENOISE, "schedule": SCHEDULE, "solver": DDIM(), "x1": X, "ts": TS, "key": KEY, "cond": None}
LINES = [
    ({"solver": DDIM}, r"solver is the class DDIM, not one of it: write DDIM\(\)"),
    ({"solver": a_function}, "solver is the function a_function, not a solver such as DDIM"),
    ({"solver": "ddim"}, "solver is the str 'ddim', not a solver"),
    ({"schedule": VPLinear}, r"schedule is the class VPLinear, not one of it: write VPLinear\(\)"),
    ({"schedule": "cosine"}, "schedule is the str 'cosine', not a schedule such as VPLinear"),
    ({"schedule": Half()}, "schedule Half has no logsnr, t_from_logsnr: a schedule has t_min"),
    ({"schedule": Methods()}, "t_max of schedule Methods is a method"),
    (
        {"denoise": SCHEDULE, "schedule": DENOISE},
        "denoise is a VPLinear, not a function .the order is denoise, schedule",
    ),
    ({"denoise": type("Run", (), {"denoise": a_function})()}, r"denoise is a Run, not a function: give its \.denoise"),
    ({"denoise": lambda x, t, cond: x}, r"gives an array of shape \(2, 2\), not a Prediction.*from_x0"),
    ({"denoise": lambda x, t, cond: Prediction(x[:1], x)}, r"gives x0 of shape \(1, 2\).*for xt of shape \(2, 2\)"),
    (
        {"denoise": lambda x: x},
        r"<lambda> fails: TypeError: .*; it was asked with t of shape \[batch\] and with a scalar",
    ),
    ({"key": 0}, r"key is the int 0, not a JAX key: write jax\.random\.key\(0\)"),
    ({"key": np.int64(7)}, r"write jax\.random\.key\(7\)"),
    ({"key": None}, "key is None, not a JAX key"),
    ({"ts": 20}, r"ts is the number 20, not a grid of falling times: write uniform\(20, schedule\)"),
    ({"ts": TS[::-1]}, "a grid falls|grid time"),
    ({"ts": X, "x1": TS}, r"a grid is a list of at least 2 times; ts has shape \(2, 2\)"),
    (
        {"x1": np.ones((2, 2), int)},
        r"array of int64 of shape \(2, 2\), not an array of floats.*x1\.astype\('float32'\)",
    ),
    ({"x1": KEY}, r"x1 is an array of keys of shape \(\), not an array of floats.*the order is denoise"),
    ({"cond": jnp.ones((3, 1))}, r"cond has shape \(3, 1\) for a batch of 2"),
    ({"cond": ["a seven", "a one"]}, r"cond\[0\] is the text 'a seven': encode it first"),
    ({"x1": jnp.ones((2, 3))}, r"xt has shape \(2, 3\), where the data of this mixture have shape \(2,\)"),
]


@pytest.mark.parametrize(("change", "message"), LINES)
def test_sample_says_what_was_given_and_what_to_write(change, message):
    with pytest.raises(UserError, match=message) as caught:
        inspect.unwrap(sampling.sample)(**{**SAMPLE, **change})
    assert "\n" not in str(caught.value)


def test_lists_and_numpy_arrays_are_taken_and_placeholders_pass():
    take = inspect.unwrap(sampling.sample)
    wanted = take(**SAMPLE)
    given_ = {**SAMPLE, "x1": X.tolist(), "ts": TS.tolist(), "key": jax.random.key_data(KEY)}
    np.testing.assert_allclose(take(**given_), wanted, rtol=1e-6)
    jitted = jax.jit(lambda x1, ts, key: take(DENOISE, SCHEDULE, DDIM(), x1, ts, key))
    np.testing.assert_allclose(jitted(X, jnp.asarray(TS, jnp.float32), KEY), wanted, rtol=1e-5)
