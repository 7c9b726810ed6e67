"""CLIP on Fashion-MNIST with captions of the classes: the text encoder of variant `text` of `fashion_mnist.py`.

Command    make fashion DATA=FOLDER VARIANT=text, which learns the vocabulary of the captions first
Variants   `narrow` is of half the widths
Needs      what `fashion_mnist.py` needs
"""

from ml_collections import ConfigDict

NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
VARIANTS = {"narrow": {"model.embed": 32, "model.vision.width": 48, "model.text.width": 32}}
TEMPLATES = ("a {}", "a picture of a {}", "a small grey picture of a {}", "{}")


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "clip"
    config.workdir = "runs/fashion/clip"
    config.seed = 0
    config.steps = 500
    config.batch_size = 128

    config.data = ConfigDict(
        {
            "name": "arrays",
            "path": "fashion-mnist",
            "class_names": NAMES,
            "templates": TEMPLATES,
            "validation": 0.02,
            "crop": "center",
            "workers": 0,
            "eval_pairs": 512,
        }
    )
    config.tokenizer = ConfigDict({"name": "bpe", "path": "runs/fashion/vocabulary"})
    config.preprocess = ConfigDict({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "channels": 1})

    config.model = ConfigDict(
        {
            "name": "clip",
            "preset": "",
            "embed": 64,
            "vision": {
                "image_size": 28, "channels": 1, "patch": 4, "width": 96, "layers": 3, "heads": 4, "activation": "gelu",
            },
            "text": {"context_length": 24, "width": 64, "layers": 2, "heads": 4, "activation": "gelu"},
            "dtype": "auto",
            "scan": False,
        }
    )  # fmt: skip
    config.loss = ConfigDict({"name": "infonce", "chunk": 0, "micro_batches": 1, "identity": True})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 50,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.98})

    config.log_every = 25
    config.eval_every = 250
    config.checkpoint_every = 250
    return config
