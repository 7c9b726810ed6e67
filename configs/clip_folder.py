"""CLIP on a folder of one's own: pictures with captions (docs/own_pictures.md leads through it).

Command    diffusion-jax train --config configs/clip_folder.py --config.data.path=pictures --config.tokenizer.path=vocabulary
Needs      a folder of pictures with captions.csv; a vocabulary: CLIP's, or one learned from the captions
Hardware   measured on 2 CPU cores with the pictures of docs/own_pictures.md, which has times and scores
Variants   `finetune` begins with published weights of ViT-B/32 (--config.weights.path=...), the vision tower locked
"""

from ml_collections import ConfigDict

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
VARIANTS = {
    "finetune": {
        "model.preset": "ViT-B-32-quickgelu",
        "model.vision": {},
        "model.text": {},
        "model.embed": 512,
        "locked": ("^visual/",),
        "preprocess": {
            "mean": OPENAI[0],
            "std": OPENAI[1],
            "resize": "shortest",
            "interpolation": "bicubic",
            "exif": True,
        },
        "optimizer.learning_rate": 1e-5,
        "optimizer.weight_decay": 0.2,
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "clip"
    config.workdir = "runs/clip_folder"
    config.seed = 0
    config.steps = 300
    config.batch_size = 64

    config.data = ConfigDict(
        {
            "name": "folder",
            "path": "pictures",
            "image_column": None,  # None: the first known one, such as image and caption
            "caption_column": None,
            "validation": 0.1,
            "crop": "random",
            "crop_scale": (0.9, 1.0),
            "on_error": "raise",
            "workers": 0,
            "eval_pairs": 512,
        }
    )
    config.tokenizer = ConfigDict({"name": "bpe", "path": "vocabulary"})
    config.preprocess = ConfigDict(
        {
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "resize": "shortest",
            "interpolation": "bicubic",
            "exif": True,
        }
    )
    config.zero_shot = ConfigDict({"path": "", "templates": "photo"})  # a folder a class, measured in the loop
    config.weights = ConfigDict(
        {"path": "", "model": "", "preprocess": "same"}
    )  # "config": prepared otherwise than theirs
    config.locked = ()

    config.model = ConfigDict(
        {
            "name": "clip",
            "preset": "",
            "embed": 64,
            "vision": {"image_size": 64, "patch": 8, "width": 96, "layers": 4, "heads": 4, "activation": "gelu"},
            "text": {"context_length": 32, "width": 96, "layers": 3, "heads": 4, "activation": "gelu"},
            "dtype": "auto",
            "scan": False,
        }
    )
    config.loss = ConfigDict({"name": "infonce", "chunk": 0, "micro_batches": 1, "identity": True})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 30,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.98})

    config.log_every = 20
    config.eval_every = 100
    config.checkpoint_every = 100
    return config
