"""An autoencoder of one's own pictures for latent diffusion, 32 x 32 x 3 to 8 x 8 x 4 (docs/latents.md leads through it).

Command    diffusion-jax train --config configs/picture_vae.py --config.data.path=pictures
           diffusion-jax evaluate --run runs/picture_vae
Needs      a folder of pictures, as deep as one likes; those of a folder a class, or with captions, will do
Hardware   a laptop for 32 pixels; an accelerator for more: `diffusion-jax config check` says what a step costs
Variants   `plain` has no adversary; `vq` has a codebook of 512 rows in place of normal latents; `small` is for two cores
"""

from ml_collections import ConfigDict

VARIANTS = {
    "plain": {"adversary": {"name": "none"}},
    "vq": {
        "model": {
            "name": "vq",
            "codes": 512,
            "channels": (64, 128, 128),
            "layers": 2,
            "latent_channels": 4,
            "groups": 32,
            "middle_attention": True,
            "dtype": "auto",
        },
        "loss": {"codebook": 1.0, "beta": 0.25, "perceptual": "laplacian", "perceptual_weight": 1.0},
    },
    "small": {
        "steps": 1000,
        "batch_size": 16,
        "model.channels": (16, 32, 48),
        "model.layers": 1,
        "model.groups": 8,
        "model.middle_attention": False,
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 50,
        "adversary.start": 600,
        "adversary.width": 32,
        "ema.decay": 0.99,
        "eval_every": 500,
        "checkpoint_every": 500,
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "vae"
    config.workdir = "runs/picture_vae"
    config.seed = 0
    config.steps = 20_000
    config.batch_size = 32

    config.data = ConfigDict(
        {
            "name": "folder",
            "path": "pictures",
            "validation": 0.05,
            "test": 0.0,
            "crop": "center",  # as the diffusion model's: random is refused where latents are encoded once
            "flip": True,
            "on_error": "raise",  # skip: go on without pictures that cannot be read
            "error_share": 0.1,  # but not without more than these
            "workers": 0,
        }
    )
    config.preprocess = ConfigDict(
        {
            "size": 32,
            "channels": 3,  # 1: grey
            "resize": "shortest",
            "interpolation": "lanczos",
            "exif": True,
            "background": "white",  # behind what is transparent
        }
    )

    config.model = ConfigDict(
        {
            "name": "kl",
            "channels": (64, 128, 128),
            "layers": 2,
            "latent_channels": 4,
            "groups": 32,
            "middle_attention": True,
            "dtype": "auto",
        }
    )
    config.loss = ConfigDict({"kl": 1e-2, "perceptual": "laplacian", "perceptual_weight": 1.0})
    config.adversary = ConfigDict(
        {"name": "patch", "start": 10_000, "weight": 0.1, "width": 64, "layers": 2, "rate": 1.0}
    )

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 3e-4,
            "warmup_steps": 500,
            "schedule": "cosine",
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.999})

    config.log_every = 50
    config.eval_every = 2000
    config.checkpoint_every = 2000
    return config
