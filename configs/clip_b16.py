"""CLIP ViT-B/16 as OpenAI trained it (arXiv 2103.00020, table 18), on CC12M-like shards or TFDS captions, on a pod.

Command    diffusion-jax train --config configs/clip_b16.py --config.data.path='shards/{00000..01242}.tar' \\
               --config.tokenizer.path=bpe_simple_vocab_16e6.txt.gz --distributed
Needs      shards of KEY.jpg with KEY.txt (data.name "tar"), or a prepared TFDS dataset (variant `coco`); CLIP's vocabulary
Hardware   meant for 128 accelerators of 16 GB or more, the same command on every host (docs/devices.md); 11 epochs of CC12M
NOT RUN    here, for there was neither the data nor an accelerator: no time and no score is claimed. What was run is the
           same code on small data (docs/own_pictures.md) and the compiled memory of its loss (docs/contrastive.md).
           Published for comparison: ViT-B/16 on 400M pairs, 32 epochs, ImageNet zero-shot 68.3%.
Variants   siglip: the sigmoid loss; flip: half of the patches dropped; accumulate: 4 micro-batches with all negatives
"""

from ml_collections import ConfigDict

VARIANTS = {
    "siglip": {
        "model.preset": "ViT-B-16-SigLIP",
        "model.text": {"context_length": 64},
        "loss.name": "sigmoid",
        "tokenizer.name": "siglip",
        "preprocess": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize": "squash", "exif": True},
    },
    "flip": {"model.vision.patch_dropout": 0.5},
    "accumulate": {"loss.micro_batches": 4},
    "coco": {
        "data": {
            "name": "tfds",
            "path": "coco_captions",
            "data_dir": None,
            "caption_key": "captions/text",
            "on_error": "skip",
        }
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "clip"
    config.workdir = "runs/clip_b16"
    config.seed = 0
    config.steps = 4000
    config.batch_size = 32768

    config.data = ConfigDict(
        {
            "name": "tar",
            "path": "shards/{00000..01242}.tar",
            "image_key": None,  # the ending of the pictures, such as jpg, where KEY has several; None: the only one
            "caption_key": None,  # of KEY.json; None: KEY.txt, or the first known key of KEY.json, such as caption
            "index": None,  # the folder of the shards' indices; None: beside them
            "validation": 0.001,
            "crop": "random",
            "crop_scale": (0.9, 1.0),
            "on_error": "skip",
            "workers": 0,
            "eval_pairs": 2048,
        }
    )
    config.tokenizer = ConfigDict({"name": "bpe", "path": "bpe_simple_vocab_16e6.txt.gz"})
    config.preprocess = ConfigDict(
        {
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
            "resize": "shortest",
            "exif": True,  # photographs as their camera was held
        }
    )
    config.zero_shot = ConfigDict({"path": "", "templates": "seven"})  # a folder a class, measured in the loop
    config.locked = ()

    config.model = ConfigDict(
        {
            "name": "clip",
            "preset": "ViT-B-16-quickgelu",
            "vision": {"image_size": 224, "patch_dropout": 0.0},
            "text": {"context_length": 77},
            "dtype": "auto",
            "scan": True,
            "remat": "dots_with_no_batch_dims_saveable",
        }
    )
    config.loss = ConfigDict({"name": "infonce", "chunk": 2048, "micro_batches": 1, "identity": True})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 5e-4,
            "warmup_steps": 2000,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.2,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.9998})

    config.log_every = 20
    config.eval_every = 500
    config.checkpoint_every = 500
    return config
