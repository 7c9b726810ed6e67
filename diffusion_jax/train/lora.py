"""LoRA (arXiv 2106.09685): low-rank adapters of a network's kernels, as functions from parameter trees to parameter trees.

An adapter of a layer y = x W, W [in, out], is W + s (alpha / r) A B with A [in, r], B [r, out] and the rank r (eq. 3; there the
factors are transposed). A convolution [rows, columns, in, out] has A [rows, columns, in, r] and B [1, 1, r, out], so that the
same product of the last two axes is its change. Stacked layers have stacked adapters: one more axis before both.

A tree of adapters is a nested dict like the network's, without what is not adapted: at the path of a layer, in the place of
its kernel and bias, lies {"A", "B", "alpha"}. Where q, k and v lie side by side in one kernel (`JOINED`), each part has its own
adapter, {"q": {"A", "B", "alpha"}, "k": .., "v": ..}, as published files have it; one {"A", "B", "alpha"} over the whole
kernel is as good. Where the adapters of stacked layers differ in rank, or some layers have none, the layers that have one lie
below their number, {"0": {"A", "B", "alpha"}, "3": ..}. `alpha` is a leaf, so that a tree says all of itself, which takes no
gradient and does not decay.

Training: `lora_loss` makes a loss of the network's parameters one of the adapters', and the same step trains them alone:

    lora = init_lora(base, key, rank=8)
    state = init_state(lora, tx, ema, frozen=lora_frozen(base, frozen))
    step = make_train_step(lora_loss(loss_fn), tx, ema)

The kernels are merged anew in each step. That takes memory for the merged kernels and for their whole gradients, of those that
are adapted; the optimizer's state and the checkpoints are of the adapters alone. What is frozen lies whole on every device.

These functions lie beside `lock` because both say by patterns of paths what trains. `convert.lora` reads and writes files.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, PyTree, UserError, whole_number

__all__ = ["ATTENTION", "JOINED", "init_lora", "lora_frozen", "lora_loss", "merge_lora", "merge_loras"]

ATTENTION = (
    r"(^|/)(attn\d*|attention|attentions/\d+)/(q|out|q_proj|out_proj|(qkv|kv|text_kv|in_proj|kv_proj)/[qkv])$",
)
"""Adapters of every attention's q, k, v and output, as PEFT's target modules to_q, to_k, to_v and to_out.0 (U-Nets), q_proj,
k_proj, v_proj and out_proj (CLIP)."""
JOINED = {"qkv": ("q", "k", "v"), "in_proj": ("q", "k", "v"), **dict.fromkeys(("kv", "text_kv", "kv_proj"), ("k", "v"))}
"""The layers whose kernel is several side by side, by name, and the parts in their order."""


def init_lora(
    params: Params, key: Array, *, rank: int, paths: Sequence[str] = ATTENTION, alpha: float | None = None
) -> Params:
    """Fresh adapters of `rank` for the layers in whose path a pattern is found; merged they change nothing, since B is 0.

    Paths are those of adapters: "down/0/attentions/0/blocks/layers/attn2/q", and ".../attn2/kv/v" for a part of a joined
    kernel. A is uniform within +-1/sqrt(fan in), as PEFT's by default. `alpha` (default: the rank, a scale of 1) is above 0.
    An adapter depends on the key and its own path, not on which others there are. Shapes: see the module; float32.

    Raises UserError for a pattern that is no regular expression or finds no layer with a kernel, a rank that is no whole number
    of at least 1 and an alpha that is not finite and above 0.
    """
    rank = whole_number("rank", rank, 1)
    alpha = float(rank) if alpha is None else alpha
    if not 0 < alpha < math.inf:
        raise UserError(f"alpha {alpha} is not a finite number above 0; usual: the rank, {rank}")
    if not paths:
        raise UserError("paths () adapt nothing; leave them out for those of every attention")
    patterns = {pattern: _compile(pattern) for pattern in paths}
    found = dict.fromkeys(patterns, 0)
    lora: Params = {}
    for layer, kernel in _kernels(params):
        parts = JOINED.get(layer.rsplit("/", 1)[-1], ())
        for path in [f"{layer}/{part}" for part in parts] or [layer]:
            hits = [pattern for pattern, compiled in patterns.items() if compiled.search(path)]
            for pattern in hits:
                found[pattern] += 1
            if hits:
                own = jax.random.fold_in(key, zlib.crc32(path.encode()))
                *above, name = path.split("/")
                place = lora
                for folder in above:
                    place = place.setdefault(folder, {})
                place[name] = _fresh(kernel.shape, max(len(parts), 1), own, rank, alpha)
    for pattern, count in found.items():
        if not count:
            raise UserError(
                f"paths {pattern!r} is found in no layer with a kernel; their paths begin with {', '.join(sorted(params))}"
            )
    return lora


def merge_lora(params: Params, lora: Params, scale: float | Array = 1.0) -> Params:
    """`params` with W + scale (alpha / r) A B in the place of every adapted kernel W; what is not adapted is shared.

    A kernel keeps its dtype; the product is taken in float32 at least. Differentiable in `lora` (all but alpha), `params` and
    `scale`. Raises UserError for adapters of what is not in `params`, and for shapes that do not fit.
    """
    return _merged(params, lora, scale, "")


def merge_loras(params: Params, loras: Sequence[tuple[Params, float | Array]]) -> Params:
    """`params` with several trees of adapters merged, each (lora, its scale): W + sum_i scale_i (alpha_i / r_i) A_i B_i."""
    for lora, scale in loras:
        params = merge_lora(params, lora, scale)
    return params


def lora_frozen(base: Params, frozen: PyTree = None) -> dict[str, Any]:
    """What `lora_loss` reads as ctx.frozen: the network's own parameters, and what the loss itself reads there."""
    return {"base": base, "frozen": frozen}


def lora_loss(loss_fn: LossFn, scale: float = 1.0) -> LossFn:
    """`loss_fn` as a loss of the adapters of ctx.frozen["base"], see `lora_frozen`; its ctx.ema is merged as well."""

    def loss(lora: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], PyTree]:
        base = ctx.frozen["base"]
        ema = None if ctx.ema is None else merge_lora(base, ctx.ema, scale)
        return loss_fn(merge_lora(base, lora, scale), ctx._replace(ema=ema, frozen=ctx.frozen["frozen"]), batch, key)

    return loss


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"paths {pattern!r} is not a regular expression: {error}") from error


def _kernels(params: Params, prefix: str = "") -> list[tuple[str, Any]]:
    """(path of the layer, its kernel) of every layer that has one."""
    found = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            found += _kernels(dict(value), f"{prefix}{name}/")
        elif name == "kernel" and prefix and value.ndim > 1:
            found.append((prefix[:-1], value))
    return found


def _fresh(shape: tuple[int, ...], parts: int, key: Array, rank: int, alpha: float) -> Params:
    *before, features_in, features_out = shape
    stack = before[: len(shape) % 2]
    spatial = before[len(stack) :]
    bound = math.prod((*spatial, features_in)) ** -0.5
    return {
        "A": jax.random.uniform(key, (*before, features_in, rank), jnp.float32, -bound, bound),
        "B": jnp.zeros((*stack, *(1 for _ in spatial), rank, features_out // parts), jnp.float32),
        "alpha": jnp.full(stack, alpha, jnp.float32),
    }


def _merged(params: Params, lora: Params, scale: float | Array, path: str) -> Params:
    if "kernel" in params:
        return params | {"kernel": _added(jnp.asarray(params["kernel"]), lora, scale, path[:-1])}
    made = dict(params)
    for name, part in lora.items():
        if not isinstance(params.get(name), dict):
            raise UserError(f"the LoRA adapts {path + name!r}, which is no layer with a kernel of these parameters")
        made[name] = _merged(params[name], part, scale, f"{path}{name}/")
    return made


def _added(kernel: Array, lora: Params, scale: float | Array, path: str) -> Array:
    """A kernel with the adapters at its place: one, those of its parts, or those of single layers of a stack."""
    if "A" in lora:
        return _with_product(kernel, lora, scale, path)
    if all(name.isdigit() for name in lora):
        for name, part in lora.items():
            if kernel.ndim % 2 == 0 or int(name) >= len(kernel):
                raise UserError(f"the LoRA adapts {f'{path}/{name}'!r}, and the kernel there is {list(kernel.shape)}")
            kernel = kernel.at[int(name)].set(_added(kernel[int(name)], part, scale, f"{path}/{name}"))
        return kernel
    names = JOINED.get(path.rsplit("/", 1)[-1], ())
    for name in lora:
        if name not in names:
            raise UserError(f"the LoRA adapts {f'{path}/{name}'!r}; the parts there are {', '.join(names) or 'none'}")
    parts = jnp.split(kernel, len(names), axis=-1)
    return jnp.concatenate(
        [
            _added(part, lora[name], scale, f"{path}/{name}") if name in lora else part
            for name, part in zip(names, parts)
        ],
        axis=-1,
    )


def _with_product(kernel: Array, lora: Params, scale: float | Array, path: str) -> Array:
    if lora.keys() != {"A", "B", "alpha"}:
        raise UserError(f"the LoRA at {path!r} holds {', '.join(lora)}; an adapter holds A, B, alpha")
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    a, b, alpha = (jnp.asarray(lora[name], wide) for name in ("A", "B", "alpha"))
    rank, stack = a.shape[-1], kernel.shape[: kernel.ndim % 2]
    spatial = (1,) * (kernel.ndim - len(stack) - 2)
    wanted = ((*kernel.shape[:-1], rank), (*stack, *spatial, rank, kernel.shape[-1]), stack)
    if (a.shape, b.shape, alpha.shape) != wanted:
        raise UserError(
            f"the LoRA at {path!r} has A {list(a.shape)}, B {list(b.shape)}, alpha {list(alpha.shape)}; with the kernel "
            f"{list(kernel.shape)} go {', '.join(str(list(shape)) for shape in wanted)}"
        )
    factor = scale * jax.lax.stop_gradient(alpha) / rank
    change = factor.reshape(*stack, *(1 for _ in range(kernel.ndim - len(stack)))) * jnp.matmul(
        a, b, precision=jax.lax.Precision.HIGHEST
    )
    return (kernel.astype(change.dtype) + change).astype(kernel.dtype)
