"""The published priors by name: keyword arguments of `nets.PriorTransformer` (unCLIP: arXiv 2204.06125, section 2.2).

"karlo-prior" is of Karlo's public weights: embeddings of CLIP ViT-L/14, times in steps from 0 to 999, of which it says x0.
"""

from __future__ import annotations

from typing import Any

from diffusion_jax.typing import one_of

__all__ = ["PRIOR_MODELS", "prior_model"]

PRIOR_MODELS: dict[str, dict[str, Any]] = {
    "karlo-prior": {
        "dim": 768, "out_dim": 768, "pooled": 768, "context": 768, "context_length": 77, "width": 2048, "layers": 20,
        "heads": 32, "mlp_ratio": 4.0, "query": True, "pooled_norm": False, "norm_in": False, "time_width": 2048,
        "time_act": "silu", "time_scale": 1.0,
    },
}  # fmt: skip


def prior_model(name: str) -> dict[str, Any]:
    """The keywords of a prior by its name. UserError for no such name."""
    return dict(PRIOR_MODELS[one_of("model", name, PRIOR_MODELS)])
