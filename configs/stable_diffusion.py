"""Fine-tuning Stable Diffusion on captioned pictures of yours: a LoRA of the U-Net's attention, or the whole U-Net.

Command    diffusion-jax train --config configs/stable_diffusion.py --config.pretrained.path=FOLDER --config.data.path=PICTURES
           diffusion-jax convert runs/stable_diffusion/lora --out mine.safetensors
           diffusion-jax sample --pretrained FOLDER --lora mine.safetensors --prompt 'a photo of ...' --out drawn.png
Needs      FOLDER, Stable Diffusion 1, 2 or XL as diffusers keeps it (docs/stable_diffusion.md), and PICTURES, a folder with
           captions.csv (docs/own_pictures.md)
Hardware   NOT RUN on published weights: none are in reach here. What memory it takes: docs/stable_diffusion.md
Scores     NOT RUN
Variants   `whole` trains the whole U-Net at a tenth of the rate, with averaged weights; `xl` is for XL, of 1,024 pixels
"""

from ml_collections import ConfigDict

VARIANTS = {
    "whole": {
        "trains": {"name": "unet"},
        "workdir": "runs/stable_diffusion/whole",
        "optimizer.learning_rate": 1e-5,
        "optimizer.weight_decay": 0.01,
        "ema": {"decay": 0.9999},
    },
    "xl": {"preprocess.size": 1024, "batch_size": 2, "sampler.guidance_scale": 5.0},
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "fine_tune"
    config.workdir = "runs/stable_diffusion/lora"
    config.seed = 0
    config.steps = 2000
    config.batch_size = 4

    config.pretrained = ConfigDict({"path": "stable-diffusion-v1-5", "dtype": "auto", "remat": "nothing_saveable"})
    config.trains = ConfigDict({"name": "lora", "rank": 8})

    config.data = ConfigDict(
        {
            "name": "folder",
            "path": "pictures",
            "validation": 0.05,
            "crop": "center",
            "flip": False,
            "on_error": "skip",
            "workers": 0,
        }
    )
    config.preprocess = ConfigDict({"size": 512})
    config.condition = ConfigDict({"drop": 0.1, "cache": None})
    config.space = ConfigDict({"cache": None})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-4,
            "warmup_steps": 100,
            "schedule": "constant",
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.99})

    config.sampler = ConfigDict({"solver": "dpm_solver_pp", "grid": "natural", "num_steps": 25, "guidance_scale": 7.5})

    config.log_every = 10
    config.eval_every = 500
    config.checkpoint_every = 500
    return config
