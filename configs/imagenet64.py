"""ImageNet at 64 x 64 by EDM2's recipe: its U-Net of width 192, its rate, its uncertainty, its average.

NOT RUN here. Published: EDM2-S FID 1.58 at 63 evaluations (arXiv 2312.02696, table 3); `adm`, ADM's U-Net trained by EDM's
recipe, 1.36 with its stochastic sampler at 511 evaluations (arXiv 2206.00364, section 5).

Command    diffusion-jax train --config configs/imagenet64.py
Needs      tensorflow-datasets with imagenet_resized/64x64 prepared as ArrayRecord, or folders of classes
           (--config.data.name=classes)
Hardware   published: 32 A100, 1 to 2 days; `diffusion-jax config check` says what a step costs.
           --config.mesh.fsdp=8 splits the parameters. Begun on one H100 with random pictures: 256 a batch did not fit its 80 GB
           (49 GiB more were asked for); --config.model.remat=nothing_saveable, which was not tried there, keeps less
Variants   `adm`
"""

from ml_collections import ConfigDict

BATCH = 2048
VARIANTS = {
    "adm": {
        "steps": 2_500_000_000 // 4096,
        "batch_size": 4096,
        "model": {"name": "unet", "preset": "adm-64", "dropout_rate": 0.1, "dtype": "auto", "remat": "dots_saveable"},
        "optimizer.learning_rate": 1e-4,
        "optimizer.schedule": "constant",
        "optimizer.b2": 0.999,
        "loss.uncertainty": False,
        "loss.times_options": {"location": -1.2, "scale": 1.2},
        "ema": {"name": "half_life", "images": 50_000_000, "ramp": 0.05},
    }
}  # fmt: skip


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "diffusion"
    config.workdir = "runs/imagenet64"
    config.seed = 0
    config.steps = 2**31 // BATCH // 2
    config.batch_size = BATCH

    config.data = ConfigDict(
        {"name": "tfds", "path": "imagenet_resized/64x64", "validation": 0.001, "crop": "center", "flip": True}
    )
    config.preprocess = ConfigDict({"size": 64, "channels": 3})
    config.condition = ConfigDict({"name": "label", "drop": 0.0})

    config.model = ConfigDict(
        {
            "name": "edm2_unet",
            "width": 192,
            "channels": (1, 2, 3, 4),
            "layers": 3,
            "attention": (16, 8),
            "head_dim": 64,
            "dropout_rate": 0.0,
            "dtype": "auto",
        }
    )
    config.prediction = "edm"
    config.time = "c_noise"
    config.sigma_data = 0.5
    config.schedule = ConfigDict({"name": "edm"})
    config.loss = ConfigDict(
        {
            "space": "x0",
            "weight": "edm",
            "times": "log_normal",
            "times_options": {"location": -0.8, "scale": 1.6},
            "uncertainty": True,
        }
    )

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 0.01,
            "warmup_steps": 10_000_000 // BATCH,
            "schedule": "inverse_sqrt",
            "reference_steps": 35_000,
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
        }
    )
    config.ema = ConfigDict({"name": "power", "width": 0.1})

    config.sampler = ConfigDict({"solver": "heun", "grid": "karras", "num_steps": 32, "guidance_scale": 1.0})

    config.log_every = 100
    config.eval_every = 20_000
    config.checkpoint_every = 5000
    return config
