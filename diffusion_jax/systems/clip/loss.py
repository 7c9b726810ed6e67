"""CLIP as something to train and to ask: its loss, and encoders that give unit-norm embeddings batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from diffusion_jax.contrastive import found, in_micro_batches, infonce, sigmoid_loss
from diffusion_jax.nets.clip import CLIPOutput
from diffusion_jax.typing import Batch, Context, LossFn, Params, UserError, one_of

__all__ = ["LOGIT_SCALE_RANGE", "clip_loss", "in_batches", "text_condition", "unit"]

LOGIT_SCALE_RANGE = (0.0, float(np.log(100.0)))
"""The optimiser clamps `logit_scale` to this after each step (arXiv 2103.00020, section 2.5)."""


def unit(x: Array) -> Array:
    """Rows of x scaled to length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def clip_loss(
    apply: Callable[..., Any],
    *,
    loss: str = "infonce",
    encoders: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    micro_batches: int = 1,
    mesh: Mesh | None = None,
    axes: tuple[str, ...] = ("data", "fsdp"),
    chunk: int | None = None,
) -> LossFn:
    """The loss of a batch {"image": [batch, ...], "tokens": [batch, context]}, for `train.loop.fit`.

    `loss` is "infonce" (CLIP) or "sigmoid" (SigLIP; the network has a `logit_bias`). With "identity" [batch] in the batch,
    integers, pairs of equal identity are one another's positives. `mesh`, `axes` and `chunk` are those of
    `contrastive.infonce`: without them the [batch, batch] logits are made whole. With `micro_batches` above 1 the two
    `encoders` (a network's methods "encode_image" and "encode_text") take the place of `apply`; they see so many parts
    of the batch in turn, and negatives, gradients and random masks stay those of the whole batch
    (`contrastive.in_micro_batches`); parameters are then those of `nets.CLIP`, with "logit_scale" at the top.

    Metrics: `accuracy_image` and `accuracy_text`, the share of images (texts) whose own text (image) scores highest in
    the batch; `logit_scale` as exp(logit_scale); for "sigmoid" also `logit_bias`.

    Raises UserError for an unknown loss, micro_batches above 1 without encoders, "sigmoid" without a bias (at the first
    call), and for what `contrastive.infonce` and `contrastive.in_micro_batches` refuse.
    """
    one_of("loss", loss, ("infonce", "sigmoid"))
    embed = apply
    if micro_batches != 1:
        if encoders is None:
            raise UserError(f"micro_batches {micro_batches} needs encoders=(encode_image, encode_text); nearest: 1")
        embed = _embed_in_parts(encoders, micro_batches, mesh, axes)
    spread: dict[str, Any] = {"mesh": mesh, "axes": axes, "chunk": chunk}

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], Any]:
        identity = batch.get("identity")
        options = spread | {"identity": None if identity is None else jnp.asarray(identity)}
        out = embed(params, batch["image"], batch["tokens"], key=key, train=True)
        if loss == "infonce":
            per_example = infonce(out.image, out.text, out.scale, **options)
        elif out.bias is None:
            raise UserError("loss 'sigmoid' needs a network with logit_bias=True; nearest: loss 'infonce'")
        else:
            per_example = sigmoid_loss(out.image, out.text, out.scale, out.bias, **options)
        image_finds, text_finds = found(out.image, out.text, **options)
        metrics = {
            "accuracy_image": image_finds.astype(jnp.float32),
            "accuracy_text": text_finds.astype(jnp.float32),
            "logit_scale": out.scale,
        }
        if loss == "sigmoid":
            metrics["logit_bias"] = out.bias
        return per_example, metrics, ctx.aux

    return loss_fn


def _embed_in_parts(
    encoders: tuple[Callable[..., Any], Callable[..., Any]], count: int, mesh: Mesh | None, axes: tuple[str, ...]
) -> Callable[..., Any]:
    """What `nets.CLIP` as a function gives, by two encoders that see `count` micro-batches."""

    def parts(encode: Callable[..., Any]) -> Callable[..., Any]:
        # The embedding alone leaves a micro-batch: features of every token would be kept for the whole batch.
        def embedding(params: Params, x: Array, *, key: Array | None, train: bool) -> Array:
            return unit(encode(params, x, key=key, train=train).embedding)

        return in_micro_batches(embedding, count, mesh=mesh, axes=axes)

    encode_image, encode_text = (parts(encode) for encode in encoders)

    def embed(params: Params, images: Array, tokens: Array, *, key: Array | None, train: bool) -> CLIPOutput:
        image = encode_image(params, images, key=key, train=train)
        text = encode_text(params, tokens, key=key, train=train)
        return CLIPOutput(image, text, jnp.exp(params["logit_scale"]), params.get("logit_bias"))

    return embed


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
