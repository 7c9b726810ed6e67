"""A tiny autoencoder of the digits, 8 x 8 x 1 to 4 x 4 x 2: what the tests train, and a first run on a laptop.

Command    diffusion-jax train --config configs/digits_vae.py
           diffusion-jax evaluate --run runs/digits/vae
Hardware   NOT RUN
Scores     NOT RUN
Variants   `plain` has no adversary; `vq` has a codebook of 64 rows in place of normal latents
"""

from ml_collections import ConfigDict

VARIANTS = {
    "plain": {"adversary": {"name": "none"}},
    "vq": {
        "model": {
            "name": "vq",
            "codes": 64,
            "channels": (32, 32),
            "layers": 1,
            "latent_channels": 2,
            "groups": 8,
            "middle_attention": False,
            "dtype": "auto",
        },
        "loss": {"codebook": 1.0, "beta": 0.25, "perceptual": "laplacian", "perceptual_weight": 1.0},
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "vae"
    config.workdir = "runs/digits/vae"
    config.seed = 0
    config.steps = 1500
    config.batch_size = 64

    config.data = ConfigDict({"name": "digits", "shift": 0.5})

    config.model = ConfigDict(
        {
            "name": "kl",
            "channels": (32, 32),
            "layers": 1,
            "latent_channels": 2,
            "groups": 8,
            "middle_attention": False,
            "dtype": "auto",
        }
    )
    config.loss = ConfigDict({"kl": 1e-5, "perceptual": "laplacian", "perceptual_weight": 1.0})
    config.adversary = ConfigDict({"name": "patch", "start": 750, "weight": 0.5, "width": 16, "layers": 1, "rate": 1.0})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 50,
            "schedule": "cosine",
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.99})

    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 500
    return config
