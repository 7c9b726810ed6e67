"""Diffusion on a folder a class of one's own pictures (docs/own_pictures.md leads through it).

Command    diffusion-jax train --config configs/picture_classes.py --config.data.path=pictures
Needs      pictures/CLASS/PICTURE, or pictures/train/CLASS/PICTURE with val and test beside; any size, any of PIL's formats
Hardware   a laptop for 32 pixels; an accelerator for more: `diffusion-jax config check` says what a step costs
Variants   `unconditional` is told nothing; `flow` is rectified flow; `edm` is EDM's preconditioning, noise and augmentation;
           `small` is of a size for two cores and a minute or two; so is `small_unconditional`, told nothing; `latent` works in
           the latents of configs/picture_vae.py (docs/latents.md), `small_latent` in those of its `small`
"""

from ml_collections import ConfigDict

EDM = {
    "prediction": "edm",
    "time": "c_noise",
    "schedule.name": "edm",
    "loss.space": "x0",
    "loss.weight": "edm",
    "loss.times": "log_normal",
    "sampler.solver": "heun",
}
SMALL = {
    "steps": 1000,
    "batch_size": 64,
    "preprocess.size": 16,
    "model.width": 96,
    "model.layers": 4,
    "model.heads": 4,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 50,
    "ema.decay": 0.995,
    "eval_every": 500,
    "checkpoint_every": 500,
    "sampler.num_steps": 20,
}
UNCONDITIONAL = {"condition": {"name": "none"}, "sampler.guidance_scale": 1.0}
LATENT = {
    "space": {"name": "latents", "autoencoder": "runs/picture_vae"},
    "model.patch": 1,
}
VARIANTS = {
    "unconditional": UNCONDITIONAL,
    "flow": {"prediction": "velocity", "loss.space": "velocity", "schedule.name": "rectified_flow"},
    "edm": EDM | {"data.augment": 0.12, "data.flip": False},
    "latent": LATENT,
    "small": SMALL,
    "small_latent": SMALL | LATENT | {"preprocess.size": 32},
    "small_unconditional": SMALL | UNCONDITIONAL,
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "diffusion"
    config.workdir = "runs/picture_classes"
    config.seed = 0
    config.steps = 20_000
    config.batch_size = 128

    config.data = ConfigDict(
        {
            "name": "classes",
            "path": "pictures",
            "validation": 0.05,
            "test": 0.0,
            "crop": "center",  # random: another part of the picture every time; none: all of it, squashed
            "crop_scale": (0.9, 1.0),
            "flip": True,  # half of them mirrored: not where left and right differ
            "augment": 0.0,  # EDM's augmentation, 0.12 for small data; it flips by itself
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
    config.space = ConfigDict({"name": "pixels"})
    config.condition = ConfigDict({"name": "label", "drop": 0.1})

    config.model = ConfigDict(
        {
            "name": "dit",
            "patch": 2,
            "width": 384,
            "layers": 12,
            "heads": 6,
            "mlp_ratio": 4.0,
            "dropout_rate": 0.0,
            "dtype": "auto",
            "scan": False,
        }
    )
    config.schedule = ConfigDict({"name": "cosine"})
    config.prediction = "v"
    config.time = "t1000"
    config.sigma_data = 0.5
    config.loss = ConfigDict({"space": "v", "weight": "simple", "times": "stratified"})

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 3e-4,
            "warmup_steps": 500,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.9995})

    config.sampler = ConfigDict({"solver": "ddim", "grid": "natural", "num_steps": 50, "guidance_scale": 2.0})

    config.log_every = 50
    config.eval_every = 1000
    config.checkpoint_every = 1000
    return config
