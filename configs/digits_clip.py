"""CLIP on captioned handwritten digits: the text encoder of the demo.

Command   diffusion-jax train --config configs/digits_clip.py
"""

from ml_collections import ConfigDict

VARIANTS = {
    "narrow": {"model.embed": 32, "model.vision.width": 32, "model.text.width": 32},
    "no_augmentation": {"data.shift": 0.0, "data.noise": 0.0},
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "clip"
    config.workdir = "runs/digits/clip"
    config.seed = 0
    config.steps = 600
    config.batch_size = 256

    config.data = ConfigDict({"name": "digits", "shift": 0.5, "noise": 0.4})

    config.model = ConfigDict(
        {
            "name": "clip",
            "embed": 64,
            "vision": {"patch": 2, "width": 64, "layers": 3, "heads": 4, "activation": "quick_gelu"},
            "text": {"context_length": 16, "width": 64, "layers": 2, "heads": 4, "activation": "quick_gelu"},
            "dtype": "auto",
            "scan": False,
        }
    )

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.2,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.99})

    config.log_every = 25
    config.eval_every = 200
    config.checkpoint_every = 200
    return config
