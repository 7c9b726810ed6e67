"""Small U-Nets of each published kind as diffusers' configs, and what goes into them: of the goldens and of their maker."""

import numpy as np

SMALL = {"layers_per_block": 1, "norm_num_groups": 8, "block_out_channels": [32, 48]}
CASES = {
    "ddpm": SMALL
    | {
        "_class_name": "UNet2DModel",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
    "stable": SMALL
    | {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 24,
        "attention_head_dim": [4, 3],
    },
    "karlo": SMALL
    | {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": "identity",
    },
}
TIMES = (17.0, 803.0)


def given(name):
    """(pictures [2, 8, 8, c], condition) of a case."""
    rng = np.random.default_rng(1)
    told = CASES[name]
    x = rng.standard_normal((2, 8, 8, told["in_channels"])).astype(np.float32)
    cond = {}
    if "cross_attention_dim" in told:
        cond["tokens"] = rng.standard_normal((2, 5, 24)).astype(np.float32)
    if told.get("class_embed_type") == "identity":
        cond["embedding"] = rng.standard_normal((2, 128)).astype(np.float32)
    return x, cond
