"""What CLIP draws by itself: pixels that climb its similarity to a prompt, and why that is no drawing.

From grey noise, Adam on the pixels of an image in [-1, 1] (through tanh) that maximises the cosine of CLIP's image embedding
to the prompt's. It ends higher than any real scan stands, in images that nobody would call a digit: an encoder says how well an
image fits, and not which images there are. That is what a diffusion model knows.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax.data.sources.digits import PROMPTS
from diffusion_jax.metrics import nearest_distance
from diffusion_jax.systems.clip.run import ClipRun
from experiments.digits.measures import Evaluation
from experiments.digits.reader import fit_reader

__all__ = ["climbed", "evaluate_clip_alone"]

STEPS, RATE, EACH = 200, 0.05, 10


def climbed(clip: ClipRun, prompts: list[str], shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(images [n, *shape] in [-1, 1] of the largest cosine that gradients find to each prompt, those cosines [n])."""
    texts = jnp.asarray(clip.encode_text(prompts))
    start = 0.3 * jax.random.normal(jax.random.key(seed), (len(prompts), *shape))
    images, cosines = _climb(clip.image_encoder, texts, start)
    return np.asarray(images), np.asarray(cosines)


@functools.partial(jax.jit, static_argnames=("steps",))
def _climb(encoder: Any, texts: jax.Array, start: jax.Array, steps: int = STEPS) -> tuple[jax.Array, jax.Array]:
    tx = optax.adam(RATE)

    def cosines(free: jax.Array) -> jax.Array:
        z = encoder(jnp.tanh(free))
        return (z * texts).sum(axis=1) / jnp.linalg.norm(z, axis=1)

    def step(carry: Any, _: None) -> Any:
        free, state = carry
        grads = jax.grad(lambda x: -cosines(x).sum())(free)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(free, updates), state), None

    (free, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=steps)
    return jnp.tanh(free), cosines(free)


def evaluate_clip_alone(clip: ClipRun, train: Any, held_out: Any, into: Evaluation, seed: int = 0) -> None:
    """The cosine of such images beside that of real scans, and what the independent reader reads in them."""
    scans, real = train.columns(), held_out.columns()
    reader = fit_reader(scans["image"], scans["label"])
    labels = np.repeat(np.arange(len(PROMPTS)), EACH)
    images, cosines = climbed(clip, [PROMPTS[label] for label in labels], scans["image"].shape[1:], seed)
    own = (clip.encode_image(real["image"]) * clip.encode_text(list(PROMPTS))[real["label"]]).sum(axis=1)
    into.put("clip_alone.cosine", float(cosines.mean()))
    into.put("clip_alone.cosine_real", float(own.mean()))
    into.put("clip_alone.digit_accuracy", reader.accuracy(images, labels))
    rows, all_real, all_scans = (x.reshape(len(x), -1) for x in (images, real["image"], scans["image"]))
    into.put(
        "clip_alone.nearest_training",
        float(nearest_distance(rows, all_scans).mean() / nearest_distance(all_real, all_scans).mean()),
    )
    into.arrays["clip_alone"] = images[:: EACH // 2][: 2 * len(PROMPTS)].reshape(len(PROMPTS), 2, *images.shape[1:])
