"""CLIP on emoji with captions of name, tags, skin tone and style: the text encoder of `emoji_diffusion.py`.

Command    make emoji                                       (this, the diffusion on it, measuring, the page; experiments/emoji)
           diffusion-jax train --config configs/emoji_clip.py
Needs      runs/emoji/pictures.npz and runs/emoji/vocabulary, which python -m experiments.emoji makes
Hardware   2 CPU cores: 4 min (700 steps of 256)
Scores     once, 5 styles, 772 pictures of subjects never seen: recall@5 within a style 22.9%, 6.9 times chance; the style that
           its name says is right in 57.5%
Variants   `small` is for trying out: a few steps of narrow towers
"""

from ml_collections import ConfigDict

VARIANTS = {
    "small": {
        "steps": 20,
        "optimizer.warmup_steps": 5,
        "batch_size": 32,
        "model.vision.layers": 1,
        "model.text.layers": 1,
        "data.eval_pairs": 64,
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "clip"
    config.workdir = "runs/emoji/clip"
    config.seed = 0
    config.steps = 700
    config.batch_size = 256

    config.data = ConfigDict(
        {
            "name": "experiments.emoji.source:Emoji",
            "path": "runs/emoji/pictures.npz",
            "fingerprint": None,  # of the pictures, which the script says: a run goes on with the same ones alone
            "tones": 2,
            "validation": 0.05,
            "test": 0.1,
            "pairs": 0.3,
            "captions": 5,
            "crop": "random",
            "crop_scale": (0.75, 1.0),
            "flip": False,  # letters, hands and arrows point where they point
            "on_error": "raise",
            "workers": 0,
            "eval_pairs": 512,
        }
    )
    config.tokenizer = ConfigDict({"name": "bpe", "path": "runs/emoji/vocabulary"})
    config.preprocess = ConfigDict(
        {
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "resize": "shortest",
            "interpolation": "bicubic",
            "exif": False,
        }
    )

    config.model = ConfigDict(
        {
            "name": "clip",
            "embed": 96,
            "vision": {"image_size": 32, "patch": 8, "width": 96, "layers": 3, "heads": 4, "activation": "gelu"},
            "text": {"context_length": 20, "width": 96, "layers": 3, "heads": 4, "activation": "gelu"},
            "dtype": "auto",
            "scan": False,
        }
    )
    # Captions that leave the style unsaid stand at several pictures: each is right for all of them.
    config.loss = ConfigDict({"name": "infonce", "chunk": 0, "micro_batches": 1, "identity": True})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 70,
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
    config.eval_every = 350
    config.checkpoint_every = 350
    return config
