"""unCLIP's prior on emoji: a causal transformer that draws the image embeddings of `emoji_clip.py`, asked for a text.

Command    make emoji VARIANT=unclip               (CLIP, the decoder of emoji_diffusion.py, this, measuring, the page)
           diffusion-jax train --config configs/emoji_prior.py
Needs      runs/emoji/pictures.npz, which python -m experiments.emoji draws, and a CLIP run on it in runs/emoji/clip
Hardware   2 CPU cores, 18 min, other programs beside it
Scores     once, 5 styles: cosine of a draw to the emoji's own embedding .77 for pairs of subject and style never seen together
           (the better of two .79, the caption's own .66, draws for other captions .15), .44 for subjects never seen (.46, .38,
           .12). The rest is in docs/unclip.md
Variants   `mlp` hears the caption's embedding alone, `unit` is not whitened; NOT RUN
"""

from ml_collections import ConfigDict

ENCODER = "runs/emoji/clip"

VARIANTS = {
    "mlp": {
        "condition.tokens": False,
        "model": {
            "name": "mlp",
            "width": 512,
            "layers": 4,
            "mlp_ratio": 2.0,
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
    config.workdir = "runs/emoji/prior"
    config.seed = 0
    config.steps = 3000
    config.batch_size = 128

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
    config.space = ConfigDict({"name": "embeddings", "encoder": ENCODER, "cache": None, "scaling": "whitened"})
    config.condition = ConfigDict({"name": "text", "encoder": ENCODER, "drop": 0.1, "tokens": True})

    config.model = ConfigDict(
        {
            "name": "prior",
            "width": 128,
            "layers": 4,
            "heads": 4,
            "mlp_ratio": 4.0,
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
            "warmup_steps": 100,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.05,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.998})

    config.sampler = ConfigDict({"solver": "ddpm", "grid": "natural", "num_steps": 25, "guidance_scale": 1.0})

    config.log_every = 50
    config.eval_every = 1500
    config.checkpoint_every = 1000
    return config
