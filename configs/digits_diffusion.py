"""A text-conditioned diffusion transformer on handwritten digits, on the frozen text tower of `digits_clip.py`.

Command   diffusion-jax train --config configs/digits_diffusion.py
Variants  eps, x0, flow, edm: other ways of saying the process; `decoder`, told what CLIP makes of captions and of scans, each
          at times: it draws by a text, by an embedding or by both, and is the decoder of unCLIP (docs/unclip.md)
"""

from ml_collections import ConfigDict

ENCODER = "runs/digits/clip"

VARIANTS = {
    "eps": {"prediction": "eps", "loss.space": "eps", "schedule.name": "vp_linear"},
    "x0": {"prediction": "x0", "loss.space": "v"},
    "flow": {"prediction": "velocity", "loss.space": "velocity", "schedule.name": "rectified_flow"},
    "edm": {
        "prediction": "edm",
        "time": "c_noise",
        "schedule.name": "edm",
        "loss.space": "x0",
        "loss.weight": "edm",
        "loss.times": "log_normal",
    },
    "decoder": {
        "workdir": "runs/digits/decoder",
        "condition": {
            "name": "several",
            "parts": {
                "text": {"name": "text", "encoder": ENCODER, "drop": 0.45},
                "picture": {"name": "embedding", "encoder": ENCODER, "drop": 0.35, "cache": None},
            },
            "drop": 0.0,
        },
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "diffusion"
    config.workdir = "runs/digits/diffusion"
    config.seed = 0
    config.steps = 1000
    config.batch_size = 128

    config.data = ConfigDict({"name": "digits", "shift": 0.0})
    config.condition = ConfigDict({"name": "text", "encoder": ENCODER, "drop": 0.12})

    config.model = ConfigDict(
        {
            "name": "dit",
            "patch": 2,
            "width": 96,
            "layers": 4,
            "heads": 4,
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
            "learning_rate": 2e-3,
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

    config.sampler = ConfigDict({"solver": "ddim", "grid": "natural", "num_steps": 20, "guidance_scale": 3.0})

    config.log_every = 25
    config.eval_every = 250
    config.checkpoint_every = 250
    return config
