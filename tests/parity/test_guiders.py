"""Guidance against diffusers' guiders, on the same pair of predictions; `make test-parity`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import RectifiedFlow, from_pair, to_prediction
from diffusion_jax.sampling import apg, cfg_zero, classifier_free, dynamic_threshold, rescale, sample, trace
from diffusion_jax.sampling.solvers.ddim import DDIM
from diffusion_jax.typing import Prediction

torch = pytest.importorskip("torch")
guiders = pytest.importorskip("diffusers.guiders")
pytestmark = [
    pytest.mark.parity,
    # diffusers' own calls of functions that NumPy and PyTorch have deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SHAPE, T = (4, 6, 6, 3), jnp.float32(0.6)
SCHEDULE = RectifiedFlow()
ARRAYS = list(jax.random.normal(jax.random.key(0), (9, *SHAPE)) + 0.3)
XT, COND, NULL = ARRAYS[:3]


def torched(a):
    return torch.from_numpy(np.array(a))


def saying(kind):
    """A network whose prediction of this kind is its condition."""

    def denoise(xt, t, cond):
        return to_prediction(kind, cond, xt, t, SCHEDULE)

    return denoise


def in_space(kind, pair):
    return from_pair(kind, pair.x0, pair.eps, T, SCHEDULE)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "velocity"])
@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("scale", [0.5, 3.0, 7.5])
def test_classifier_free_and_rescale(kind, phi, scale):
    guider = guiders.ClassifierFreeGuidance(guidance_scale=scale, guidance_rescale=phi)
    wanted = guider.forward(torched(COND), torched(NULL)).pred.numpy()
    guided = rescale(classifier_free(saying(kind), NULL, scale), SCHEDULE, kind, phi)
    np.testing.assert_allclose(in_space(kind, guided(XT, T, COND)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("cap", [5.0, 1e4])
def test_apg_with_momentum_step_by_step(eta, cap):
    """diffusers' `use_original_formulation` is the paper's c + (w - 1) update, and its scale then our w - 1."""
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    scale, beta = 4.0, -0.5
    guider = guiders.AdaptiveProjectedGuidance(
        guidance_scale=scale - 1,
        adaptive_projected_guidance_momentum=beta,
        adaptive_projected_guidance_rescale=cap,
        eta=eta,
        use_original_formulation=True,
    )
    guider.momentum_buffer = MomentumBuffer(beta)
    ts = np.linspace(1.0, 0.2, 4)
    conds, nulls = jnp.stack(ARRAYS[3:6]), jnp.stack(ARRAYS[6:9])

    def denoise(xt, t, cond):
        """x0 that depends on the step: cond says which of the two, weights which is under way."""
        weight = jax.nn.relu(1 - jnp.abs(jnp.asarray(ts[:-1], jnp.float32) - t[0]) / 0.01)
        table = jnp.where(
            cond[:, None] > 0, jnp.moveaxis(conds, 0, 1)[_rows(cond)], jnp.moveaxis(nulls, 0, 1)[_rows(cond)]
        )
        return to_prediction("x0", jnp.tensordot(table, weight, ((1,), (0,))), xt, t, SCHEDULE)

    def _rows(cond):
        return (jnp.abs(cond[:, 0, 0, 0]) - 1).astype(jnp.int32)

    places = jnp.broadcast_to(jnp.arange(1.0, 5.0)[:, None, None, None], SHAPE)
    guided = apg(denoise, -places, scale, schedule=SCHEDULE, eta=eta, momentum=beta, norm_threshold=cap)
    path = trace(guided, SCHEDULE, DDIM(), jnp.asarray(XT), ts, jax.random.key(1), places)
    for step in range(3):
        wanted = guider.forward(torched(ARRAYS[3 + step]), torched(ARRAYS[6 + step])).pred.numpy()
        np.testing.assert_allclose(path.x0_hats[step], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cfg_zero_star(scale):
    guider = guiders.ClassifierFreeZeroStarGuidance(guidance_scale=scale, zero_init_steps=1)
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(1000))
    assert float(guider.forward(torched(COND), torched(NULL)).pred.abs().max()) == 0.0
    standing = cfg_zero(saying("velocity"), NULL, scale, schedule=SCHEDULE, zero_above=0.55)(XT, T, COND)
    np.testing.assert_allclose(in_space("velocity", standing), 0.0, atol=1e-6)
    guider.set_state(step=3, num_inference_steps=10, timestep=torch.tensor(700))
    wanted = guider.forward(torched(COND), torched(NULL)).pred.numpy()
    got = cfg_zero(saying("velocity"), NULL, scale, schedule=SCHEDULE)(XT, T, COND)
    np.testing.assert_allclose(in_space("velocity", got), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.995])
def test_dynamic_threshold(percentile):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=1e9)
    wanted = scheduler._threshold_sample(torched(3.0 * COND)).numpy()

    def denoise(xt, t, cond=None):
        return Prediction(jnp.asarray(3.0 * COND), xt)

    got = dynamic_threshold(denoise, SCHEDULE, percentile)(jnp.asarray(XT), T).x0
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_guided_sample_of_diffusers_steps():
    """Guider and scheduler together: classifier-free guidance under DDIM, as a pipeline runs them."""
    from diffusers import DDIMScheduler

    from diffusion_jax.process import Discrete

    schedule = Discrete("linear", num_steps=1000)
    peer = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=True)
    peer.set_timesteps(5)
    guider = guiders.ClassifierFreeGuidance(guidance_scale=3.0, guidance_rescale=0.5)
    x = torched(XT)
    for step in peer.timesteps:
        c, u = 0.3 * x + torched(COND), 0.2 * x + torched(NULL)
        x = peer.step(guider.forward(c, u).pred, step, x).prev_sample

    def denoise(xt, t, cond):
        gain = jnp.where(cond[:, :1, :1, :1] > 5, 0.3, 0.2)
        return to_prediction("eps", gain * xt + (cond - jnp.where(cond[:, :1, :1, :1] > 5, 10.0, 0.0)), xt, t, schedule)

    guided = rescale(classifier_free(denoise, jnp.asarray(NULL), 3.0), schedule, "eps", 0.5)
    ts = np.append((np.asarray(peer.timesteps) + 1) / 1000, 0.0)
    got = sample(guided, schedule, DDIM(), jnp.asarray(XT), ts, jax.random.key(0), jnp.asarray(COND) + 10.0)
    np.testing.assert_allclose(got, x.numpy(), rtol=1e-4, atol=1e-4)
