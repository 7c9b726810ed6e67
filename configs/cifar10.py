"""CIFAR-10 by EDM's recipe: the DDPM++ U-Net, log-normal noise, EDM's augmentation, an average by its half-life.

NOT RUN here. Published (arXiv 2206.00364, table 2): FID 1.79, and 1.97 for `unconditional`, 50,000 samples of 35 evaluations
(Heun, 18 steps).

Command    diffusion-jax train --config configs/cifar10.py
Needs      tensorflow-datasets with cifar10 prepared as ArrayRecord, or --config.data.name=parquet
           --config.data.path=FOLDER
Hardware   published: 8 V100, about 2 days for 200 million images; `diffusion-jax config check` says what a step costs. On an
           H100 XLA takes more than a minute to compile it (a first step was done there on random pictures, no more)
Variants   `unconditional` is told nothing; `ncsn` is the NCSN++ U-Net (the VE form of it there);
           `edm2` is EDM2's U-Net of a width of 128 with its own rate and average (no published score at this data)
"""

from ml_collections import ConfigDict

BATCH = 512
IMAGES = 200_000_000
EDM2 = {
    "model": {
        "name": "edm2_unet", "width": 128, "channels": (1, 2, 2), "layers": 3, "attention": (16, 8), "head_dim": 64,
        "dropout_rate": 0.13, "dtype": "auto",
    },
    "optimizer.learning_rate": 0.01,
    "optimizer.schedule": "inverse_sqrt",
    "optimizer.reference_steps": 35_000,
    "optimizer.b2": 0.99,
    "loss.uncertainty": True,
    "loss.times_options.location": -1.2,
    "ema": {"name": "power", "width": 0.1},
    "data.augment": 0.0,
    "data.flip": True,
}  # fmt: skip
VARIANTS = {
    "unconditional": {"condition": {"name": "none"}},
    "ncsn": {"model.preset": "ncsn++-cifar10"},
    "edm2": EDM2,
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "diffusion"
    config.workdir = "runs/cifar10"
    config.seed = 0
    config.steps = IMAGES // BATCH
    config.batch_size = BATCH

    config.data = ConfigDict(
        {"name": "tfds", "path": "cifar10", "validation": 0.02, "crop": "center", "flip": False, "augment": 0.12}
    )
    config.preprocess = ConfigDict({"size": 32, "channels": 3})
    config.condition = ConfigDict({"name": "label", "drop": 0.0})

    config.model = ConfigDict({"name": "unet", "preset": "ddpm++-cifar10", "dropout_rate": 0.13, "dtype": "auto"})
    config.prediction = "edm"
    config.time = "c_noise"
    config.sigma_data = 0.5
    config.schedule = ConfigDict({"name": "edm"})
    config.loss = ConfigDict(
        {
            "space": "x0",
            "weight": "edm",
            "times": "log_normal",
            "times_options": {"location": -1.2, "scale": 1.2},
            "uncertainty": False,
        }
    )

    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "warmup_steps": 10_000_000 // BATCH,
            "schedule": "constant",
            "reference_steps": 70_000,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
        }
    )
    config.ema = ConfigDict({"name": "half_life", "images": 500_000, "ramp": 0.05})

    config.sampler = ConfigDict({"solver": "heun", "grid": "karras", "num_steps": 18, "guidance_scale": 1.0})

    config.log_every = 100
    config.eval_every = 20_000
    config.checkpoint_every = 5000
    return config
