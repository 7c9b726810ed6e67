"""Small networks of unCLIP as diffusers' configs, and what goes into them: of the goldens, of their maker, of parity."""

import numpy as np

SMALL = {
    "_class_name": "PriorTransformer",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "embedding_dim": 12,
    "num_embeddings": 7,
}
PRIORS = {
    "karlo": SMALL,
    "norms and sizes": SMALL
    | {
        "embedding_proj_dim": 10,
        "clip_embed_dim": 14,
        "time_embed_dim": 20,
        "time_embed_act_fn": "gelu",
        "norm_in_type": "layer",
        "embedding_proj_norm_type": "layer",
    },
    "without a query": SMALL | {"added_emb_type": None, "additional_embeddings": 3},
    "without a text": SMALL | {"encoder_hid_proj_type": None, "num_embeddings": 0},
}
PROJECTION = {
    "_class_name": "UnCLIPTextProjModel",
    "clip_extra_context_tokens": 4,
    "clip_embeddings_dim": 12,
    "time_embed_dim": 128,
    "cross_attention_dim": 24,
}
BLOCKS = {"block_out_channels": [32, 64, 96, 128], "layers_per_block": 3}
DECODER = BLOCKS | {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 16,
    "class_embed_type": "identity",
    "resnet_time_scale_shift": "scale_shift",
}
UPSAMPLER = BLOCKS | {
    "_class_name": "UNet2DModel",
    "sample_size": 256,
    "in_channels": 6,
    "out_channels": 3,
    "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
    "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
    "add_attention": False,
}
TIMES, LENGTH = (17.0, 803.0), (4, 7)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def of_prior(name):
    """(embeddings [2, 12], condition) of a case."""
    told = PRIORS[name]
    cond = {"pooled": normal(2, 2, told.get("embedding_proj_dim", 12))}
    if told["num_embeddings"]:
        cond |= {"tokens": normal(3, 2, told["num_embeddings"], 12), "length": np.array(LENGTH)}
    return normal(1, 2, 12), cond


def of_projection():
    """(the picture's embedding, the text's, its tokens, how many count)."""
    return normal(1, 2, 12), normal(2, 2, 12), normal(3, 2, 7, 12), np.array(LENGTH)
