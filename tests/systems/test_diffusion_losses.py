"""The diffusion loss with weightings, importance and learned uncertainty: trained end to end, built from configs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.process import RectifiedFlow, VPLinear, times, uncertainty, weighting
from diffusion_jax.process.importance import Importance
from diffusion_jax.systems.diffusion.loss import diffusion_loss
from diffusion_jax.systems.diffusion.training import _parts
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_eval_step, make_train_step
from diffusion_jax.typing import Context, UserError

MEAN = jnp.array([0.7, -0.4, 0.2])


def network(params, xt, t, cond, *, key=None, train=False):
    """x0 between a learned mean and xt; it reads its own parameters alone."""
    return params["mean"][None] + params["gain"] * xt


def fresh():
    return {"mean": jnp.zeros(3), "gain": jnp.float32(0.2)}


def batch(size=64):
    return {"image": MEAN[None] + 0.3 * jax.random.normal(jax.random.key(8), (size, 3))}


def train(loss_fn, params, aux, steps=60):
    tx = optax.adam(0.05)
    state = init_state(params, tx, aux=aux)
    step = jax.jit(make_train_step(loss_fn, tx))
    metrics = []
    for _ in range(steps):
        state, numbers = step(state, batch(), jax.random.key(1))
        metrics.append(numbers)
    return state, metrics


make_loss = functools.partial(diffusion_loss, network, RectifiedFlow(t_min=0.02), prediction="x0", space="v")


@pytest.mark.parametrize(
    "weight", [weighting.eps_simple(), weighting.min_snr(), weighting.sigmoid()], ids=lambda w: w.name
)
def test_every_space_trains_the_same_network(weight):
    """With a weighting, the space changes neither the loss nor its gradient."""
    found = []
    for space in ("x0", "v", "velocity"):
        loss_fn = diffusion_loss(
            network, VPLinear(t_min=0.2), prediction="x0", space=space, weight=weight, sample_t=times.stratified
        )

        def total(params):
            return loss_fn(params, Context(), batch(), jax.random.key(3))[0].mean()  # noqa: B023

        found.append(jax.value_and_grad(total)(fresh()))
    for other in found[1:]:
        for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(other)):
            np.testing.assert_allclose(a, b, rtol=2e-5)


def test_importance_trains_through_its_state():
    importance = Importance(bins=8, history=4)
    loss_fn = make_loss(weight=weighting.simple(), sample_t=importance)
    state, metrics = train(loss_fn, fresh(), importance.init())
    assert (state.aux["count"] == 4).all()
    assert state.aux["history"].min() > 0
    assert float(metrics[-1]["loss"]) < 0.7 * float(metrics[0]["loss"])
    p = importance.probabilities(state.aux)
    assert float(p.max() / p.min()) > 1.2
    # Frozen, its weighted loss has the mean of the plain one.
    plain, weighted = (
        jnp.mean(
            jnp.array(
                [loss_fn(state.params, Context(aux=state.aux), batch(), jax.random.key(i))[0].mean() for i in range(30)]
            )
        )
        for loss_fn in (make_loss(weight=weighting.simple(), sample_t=times.stratified), loss_fn)
    )
    np.testing.assert_allclose(weighted, plain, rtol=0.05)


def test_the_history_holds_the_losses_before_their_weights():
    importance = Importance(bins=2, history=3)
    history = jnp.array([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])
    aux = {"history": history, "count": jnp.full(2, 3, jnp.int32)}
    loss_fn = make_loss(weight=weighting.simple(), sample_t=importance)
    loss, metrics, after = loss_fn(fresh(), Context(aux=aux), batch(8), jax.random.key(0))
    t, weight = importance.sample(
        aux, jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 0), 8, RectifiedFlow(t_min=0.02)
    )
    expected = importance.update(aux, t, loss / weight, RectifiedFlow(t_min=0.02))
    np.testing.assert_allclose(after["history"], expected["history"], rtol=1e-6)
    assert metrics == {}
    assert float(jnp.abs(weight - 1).max()) > 0.3


def test_a_learned_uncertainty_trains_beside_the_network():
    loss_fn = make_loss(weight=weighting.eps_simple(), sample_t=times.stratified, uncertainty=True)
    params = fresh() | {"uncertainty": uncertainty.init(16)}
    state, metrics = train(loss_fn, params, None, steps=150)
    np.testing.assert_allclose(metrics[0]["loss"], metrics[0]["denoising_loss"], rtol=1e-6)
    assert float(metrics[-1]["loss"]) < float(metrics[0]["loss"]) - 0.3
    assert float(metrics[-1]["denoising_loss"]) < float(metrics[0]["denoising_loss"])
    # u follows the loss of each noise level: loss / e^u is 1 in the mean.
    t = times.stratified(jax.random.key(4), 512, RectifiedFlow(t_min=0.02))
    plain = make_loss(weight=weighting.eps_simple(), sample_t=lambda *_: t)
    loss, _, _ = plain(state.params, Context(), batch(512), jax.random.key(5))
    u = uncertainty.log_variance(state.params["uncertainty"], RectifiedFlow().logsnr(t))
    assert float((loss * jnp.exp(-u)).mean()) == pytest.approx(1.0, abs=0.25)
    assert float(u.std()) > 0.3
    # A loss without it takes no notice of the parameters beside.
    evaluated = make_eval_step(make_loss(weight=weighting.eps_simple(), sample_t=times.stratified))
    assert set(evaluated(state, batch(), jax.random.key(0))) == {"loss"}


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"ctx.aux is Importance"):
        make_loss(weight=weighting.vlb(), sample_t=Importance())(fresh(), Context(), batch(4), jax.random.key(0))
    with pytest.raises(UserError, match=r"process.uncertainty.init"):
        make_loss(weight=weighting.vlb(), sample_t=times.uniform, uncertainty=True)(
            fresh(), Context(), batch(4), jax.random.key(0)
        )


BASE = {"space": "v", "weight": "simple", "times": "stratified"}


@pytest.mark.parametrize("weight", build.WEIGHTS)
def test_every_weight_of_a_config_is_a_weighting(weight):
    made = build.loss(ConfigDict(BASE | {"weight": weight}))
    assert made["weight"] == build.WEIGHTS[weight]()
    assert made["weight"].name == weight
    loss, _, _ = make_loss(weight=made["weight"], sample_t=made["sample_t"])(
        fresh(), Context(), batch(4), jax.random.key(0)
    )
    assert loss.shape == (4,) and bool(jnp.isfinite(loss).all())


@pytest.mark.parametrize("name", build.TIMES)
def test_every_time_of_a_config_trains(name):
    sample_t = build.loss(ConfigDict(BASE | {"times": name}))["sample_t"]
    aux = sample_t.init() if name == "importance" else None
    loss, _, after = make_loss(weight=weighting.simple(), sample_t=sample_t)(
        fresh(), Context(aux=aux), batch(4), jax.random.key(0)
    )
    assert loss.shape == (4,) and bool(jnp.isfinite(loss).all())
    assert (after is None) == (aux is None)


def test_options_of_a_config_reach_the_weighting_and_the_times(key):
    given = {"weight": "min_snr", "weight_options": {"gamma": 3.0}, "times": "mode", "times_options": {"scale": 0.5}}
    made = build.loss(ConfigDict(BASE | given))
    assert made["weight"] == weighting.min_snr(3.0)
    np.testing.assert_array_equal(
        made["sample_t"](key, 5, RectifiedFlow()), times.mode(key, 5, RectifiedFlow(), scale=0.5)
    )
    assert build.loss(BASE | {"times": "importance", "times_options": {"bins": 7}})["sample_t"] == Importance(bins=7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": "min_snr", "weight_options": {"gama": 3.0}}, "'min_snr' takes no 'gama'; did you mean 'gamma'"),
        ({"weight": "vlb", "weight_options": {"gamma": 3.0}}, "'vlb' takes no 'gamma' .it takes nothing"),
        ({"times": "mode", "times_options": {"scal": 1.0}}, "loss.times 'mode' takes no 'scal'; did you mean 'scale'"),
        ({"times": "uniform", "times_options": {"key": 1.0}}, "loss.times 'uniform' takes no 'key'"),
        ({"times": "importance", "times_options": {"bin": 3}}, "takes no 'bin'; did you mean 'bins'"),
        ({"times_options": 3}, "'loss.times_options' is 3; it is a group of keys"),
        ({"wieght": "vlb"}, "loss takes no 'wieght'; did you mean 'weight'"),
        ({"weight": "min_snrr"}, "loss.weight 'min_snrr' is not known; did you mean 'min_snr'"),
        ({"times": "stratifed"}, "did you mean 'stratified'"),
        ({"space": "velocty"}, "loss.space 'velocty' is not known; did you mean 'velocity'"),
        ({"weight": "min_snr", "weight_options": {"gamma": -1.0}}, "gamma -1.0 of weighting 'min_snr' is not above 0"),
    ],
)
def test_a_wrong_loss_group_is_one_line(changed, message):
    with pytest.raises(UserError, match=message) as error:
        build.loss(ConfigDict(BASE | changed))
    assert "\n" not in str(error.value)


def test_held_out_the_network_is_asked_as_in_sampling():
    """Without dropout; and an example stands in several parts of the batch, each of at most so many."""
    asked = []

    def telling(params, xt, t, cond, *, key=None, train=False):
        asked.append(train)
        return xt

    how = {"prediction": "x0", "space": "v", "weight": weighting.eps_simple(), "sample_t": times.stratified}
    for train in (True, False):
        loss_fn = diffusion_loss(telling, RectifiedFlow(t_min=0.02), **how, train=train)
        loss_fn({}, Context(0, {}, None, None), batch(4), jax.random.key(0))
    assert asked == [True, False]
    assert [len(part) for part in _parts(6, 5)] == [5, 5, 5, 5] and [len(part) for part in _parts(6, 50)] == [24]
    (whole,) = _parts(3, None)
    np.testing.assert_array_equal(np.bincount(whole), [4, 4, 4])
