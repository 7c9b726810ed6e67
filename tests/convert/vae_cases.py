"""Small autoencoders of each kind as diffusers' configs, and what goes into them: of the goldens and of their maker."""

import numpy as np

SMALL = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 16,
}
CASES = {
    "kl": SMALL | {"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.18215},
    "kl, wide latents": SMALL
    | {
        "_class_name": "AutoencoderKL",
        "latent_channels": 8,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
    },
    "vq": SMALL
    | {
        "_class_name": "VQModel",
        "latent_channels": 4,
        "num_vq_embeddings": 64,
        "vq_embed_dim": 3,
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    },
}
TILED = "kl"
"""The case of which encoding and decoding by tiles is recorded as well."""


def pictures():
    """[2, 12, 24, 3] in [-1, 1]: of tiles of 16 one row of two."""
    return np.random.default_rng(1).uniform(-1, 1, (2, 12, 24, 3)).astype(np.float32)
