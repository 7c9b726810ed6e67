"""Emoji in five styles: a small autoencoder for latent diffusion, 32 x 32 x 3 to 8 x 8 x 4, on a CPU.

Command    make emoji VARIANT=latent                       (this, then a diffusion model of its latents, measures and a page)
           diffusion-jax train --config configs/emoji_vae.py
           diffusion-jax evaluate --run runs/emoji/vae
Needs      runs/emoji/pictures.npz, which python -m experiments.emoji draws
Hardware   2 CPU cores: about 40 min alone (12,000 steps beside other programs: 29 min)
Scores     once, 5 styles: what comes back of 772 pictures of subjects never seen has PSNR 25.6 dB (24 was aimed at; 25.0
           after half of the steps) and SSIM .860, and 84% are read as their style; blurred by a pixel they have 16.5 dB. By
           a schedule of 12,000 steps of its own it ends at 23.8 dB, without attention in the middle at 23.1 (26 min), and
           4,000 steps of 16 without it and with an adversary gave 21.3. As many numbers of a linear map, 256 principal
           components of 8,000 pictures, give 23.7 dB of others of the same subjects: 32 x 32 x 3 to 8 x 8 x 4 is twelvefold
Variants   `patch` has an adversary; `vq` has a codebook of 512 rows in place of normal latents; `small` is for trying out
"""

from ml_collections import ConfigDict

VARIANTS = {
    "patch": {
        "adversary": {"name": "patch", "start": 24000, "weight": 0.1, "width": 32, "layers": 2, "rate": 1.0},
    },
    "vq": {
        "model": {
            "name": "vq",
            "codes": 512,
            "channels": (24, 48, 64),
            "layers": 1,
            "latent_channels": 4,
            "groups": 8,
            "middle_attention": False,
            "dtype": "auto",
        },
        "loss": {"codebook": 1.0, "beta": 0.25, "perceptual": "laplacian", "perceptual_weight": 1.0},
    },
    "small": {
        "steps": 200,
        "batch_size": 16,
        "model.channels": (8, 16, 16),
        "optimizer.warmup_steps": 20,
        "eval_every": 100,
        "checkpoint_every": 100,
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "vae"
    config.workdir = "runs/emoji/vae"
    config.seed = 0
    config.steps = 32000
    config.batch_size = 8

    config.data = ConfigDict(
        {
            "name": "experiments.emoji.source:Emoji",
            "path": "runs/emoji/pictures.npz",
            "fingerprint": None,
            "tones": 2,
            "validation": 0.05,
            "test": 0.1,
            "pairs": 0.3,
            "captions": 5,
            "crop": "center",
            "flip": False,
            "workers": 0,
        }
    )
    config.preprocess = ConfigDict({"size": 32, "channels": 3})

    config.model = ConfigDict(
        {
            "name": "kl",
            "channels": (24, 48, 64),
            "layers": 1,
            "latent_channels": 4,
            "groups": 8,
            "middle_attention": True,
            "dtype": "auto",
        }
    )
    config.loss = ConfigDict({"kl": 1e-3, "perceptual": "laplacian", "perceptual_weight": 1.0})
    config.adversary = ConfigDict({"name": "none"})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "schedule": "cosine",
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.998})

    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 1000
    return config
