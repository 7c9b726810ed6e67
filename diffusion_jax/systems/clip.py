"""CLIP as something to train and to ask: its loss, and encoders that give unit-norm embeddings batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.contrastive import infonce, logits
from diffusion_jax.typing import Batch, Context, LossFn, Params, UserError

__all__ = ["LOGIT_SCALE_RANGE", "clip_loss", "in_batches", "text_condition", "unit"]

LOGIT_SCALE_RANGE = (0.0, float(np.log(100.0)))
"""The optimiser clamps `logit_scale` to this after each step (arXiv 2103.00020, section 2.5)."""


def unit(x: Array) -> Array:
    """Rows of x scaled to length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def clip_loss(apply: Callable[..., Any]) -> LossFn:
    """The loss of a batch {"image": [batch, ...], "tokens": [batch, context]}, for `train.fit`.

    Metrics: `accuracy_image` and `accuracy_text`, the share of images (texts) whose own text (image) scores highest in
    the batch, and `logit_scale` as exp(logit_scale).
    """

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], Any]:
        out = apply(params, batch["image"], batch["tokens"], key=key, train=True)
        loss = infonce(out.image, out.text, out.scale)
        scores = logits(out.image, out.text, out.scale)
        own = jnp.diagonal(scores)
        metrics = {
            "accuracy_image": (own >= scores.max(axis=1)).astype(jnp.float32),
            "accuracy_text": (own >= scores.max(axis=0)).astype(jnp.float32),
            "logit_scale": out.scale,
        }
        return loss, metrics, ctx.aux

    return loss_fn


def text_condition(encode_text: Callable[..., Any], params: Params, tokens: Array, length: Array) -> dict[str, Array]:
    """What a diffusion model is conditioned on: the text tower's unit-norm embedding and its per-token features.

    Returns {"pooled": [batch, embed], "tokens": [batch, context, width], "length": [batch]}; features past `length`
    are 0.
    """
    out = encode_text(params, tokens)
    valid = jnp.arange(tokens.shape[1])[None, :] < length[:, None]
    features = jnp.where(valid[:, :, None], out.tokens.astype(jnp.float32), 0.0)
    return {"pooled": unit(out.embedding), "tokens": features, "length": length}


def in_batches(fn: Callable[..., Any], *columns: Sequence[Any] | np.ndarray, size: int = 256) -> Any:
    """fn over rows of `columns`, `size` at a time, joined on the host; the last batch is padded so that fn compiles once.

    Raises UserError when there are no rows, and when the columns differ in length.
    """
    rows = len(columns[0])
    if rows == 0 or any(len(column) != rows for column in columns):
        raise UserError(f"columns of {[len(column) for column in columns]} rows: they must be equal, and one at least")
    size = max(1, min(size, rows))
    parts = []
    for start in range(0, rows, size):
        chunk = [np.asarray(column[start : start + size]) for column in columns]
        count = len(chunk[0])
        padded = [np.concatenate([c, np.repeat(c[-1:], size - count, axis=0)]) for c in chunk]
        parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:count], fn(*padded)))  # noqa: B023
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
