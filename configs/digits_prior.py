"""unCLIP's prior on handwritten digits: diffusion over the image embeddings of `digits_clip.py`, asked for a text.

Command    diffusion-jax train --config configs/digits_prior.py
Hardware   2 CPU cores: 47 s
Scores     once, test scans: the cosine of what it draws for a scan's caption to its own embedding is .89 (the caption's
           embedding .75; other captions' draws .04)
Variants   once each, on the same CLIP: `transformer`, the paper's causal transformer over the text's tokens, .92 (234 s beside
           other programs); `unit`, not whitened, .89
"""

from ml_collections import ConfigDict

VARIANTS = {
    "transformer": {
        "condition.tokens": True,
        "model": {
            "name": "prior",
            "width": 64,
            "layers": 3,
            "heads": 4,
            "mlp_ratio": 4.0,
            "dropout_rate": 0.0,
            "dtype": "auto",
            "scan": False,
        },
    },
    "unit": {"space.scaling": "unit"},
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "diffusion"
    config.workdir = "runs/digits/prior"
    config.seed = 0
    config.steps = 1000
    config.batch_size = 128

    config.data = ConfigDict({"name": "digits", "shift": 0.0})
    config.space = ConfigDict(
        {"name": "embeddings", "encoder": "runs/digits/clip", "cache": None, "scaling": "whitened"}
    )
    config.condition = ConfigDict({"name": "text", "encoder": "runs/digits/clip", "drop": 0.1, "tokens": False})

    config.model = ConfigDict(
        {
            "name": "mlp",
            "width": 256,
            "layers": 4,
            "mlp_ratio": 2.0,
            "dropout_rate": 0.0,
            "dtype": "auto",
            "scan": False,
        }
    )
    config.schedule = ConfigDict({"name": "cosine"})
    config.prediction = "x0"
    config.time = "t1000"
    config.sigma_data = 0.5
    config.loss = ConfigDict({"space": "x0", "weight": "simple", "times": "stratified"})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 50,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.995})

    config.sampler = ConfigDict({"solver": "ddpm", "grid": "natural", "num_steps": 25, "guidance_scale": 1.0})

    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 500
    return config
