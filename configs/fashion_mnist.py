"""Fashion-MNIST: a small DiT that draws clothes by their class, on a CPU.

Command    make fashion DATA=FOLDER                        (training, measuring, the page; experiments/fashion)
           diffusion-jax train --config configs/fashion_mnist.py --config.data.path=FOLDER
Needs      FOLDER with train-images-idx3-ubyte.gz and the three other files: the Debian package dataset-fashion-mnist has them
           (apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion, no root needed: then
           fashion/usr/share/datasets/fashion-mnist), and so has the data set's own repository
Hardware   2 CPU cores: training 23 min 27 s (6,000 steps of 32, editors beside it), the reader 7 min, measuring
           21 min
Scores     by a reader that is right on 92.0% of real test pictures: class right 85.4% at guidance 1 (10,000 samples of DDPM,
           50 steps, a solver that was chosen by this reader, on 1,500 samples of an earlier model), 94.4, 98.0, 98.6 and 99.8%
           at 1.5, 2, 3 and 5 (500 each). Frechet distance in its features 5.05 at guidance 1 (10,000 real training pictures
           0.15, blurred test pictures 42.4); of 500: 6.13 there, 4.96, 10.2, 20.9 and 34.1 at the other scales (real 1.43).
           Diversity within a class, over that of real pictures: 0.91, 0.83, 0.79, 0.75 and 0.72
Variants   `unconditional` is told nothing: after 2,500 of the 6,000 steps a Frechet distance of 26.4 (1,000 samples). `text` is
           told captions of the class, by the CLIP of configs/fashion_clip.py: after 1,500 steps class right 80.6% and Frechet
           distance 18.4 at guidance 1 (1,000 samples). `unet` is a U-Net of as many operations, on one H100 2 min 14 s:
           class right 88.6% and Frechet distance 2.07 at guidance 1 (10,000 samples); the DiT there in 1 min 44 s: 85.3%, 4.94.
           `latent` diffuses the 7 x 7 x 4 latents of configs/fashion_vae.py, in 6,008 steps, as many operations, on 2 CPU cores
           that others used too in 59 min 35 s (measuring 39 min 54 s): class right 86.0% and Frechet distance 3.82 at guidance
           1 (10,000 samples, by another reader, right on 91.8%: real 0.16, blurred 39.3); 4.69 of 500 there, 6.04, 10.9, 18.4
           and 23.2 at the other scales (real 1.49), class right 94.8, 96.8, 98.2 and 99.8%. In 1,502 steps, a quarter, 81.7%
           and 10.6 (1,000 samples)
"""

from ml_collections import ConfigDict

NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
VARIANTS = {
    "unet": {
        "steps": 4800,  # as many operations as 6,000 of the DiT
        "model": {
            "name": "unet",
            "channels": (24, 48, 48),
            "layers": 1,
            "attention": (7,),
            "head_dim": 24,
            "dtype": "auto",
        },
    },
    "latent": {
        "steps": 6008,  # as many operations as 6,000 of the pixels: its patches hold 4 numbers where theirs hold 16
        "space": {"name": "latents", "autoencoder": "runs/fashion/vae"},
        "workdir": "runs/fashion/latent",
        "model.patch": 1,
    },
    "unconditional": {"condition": {"name": "none"}, "sampler.guidance_scale": 1.0},
    "text": {
        "data.templates": "plain",
        "condition": {"name": "text", "encoder": "runs/fashion/clip", "drop": 0.1},
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = "diffusion"
    config.workdir = "runs/fashion/diffusion"
    config.seed = 0
    config.steps = 6000
    config.batch_size = 32  # of a budget of images: twice the steps of 64

    config.data = ConfigDict(
        {
            "name": "arrays",
            "path": "fashion-mnist",
            "class_names": NAMES,
            "templates": None,
            "validation": 0.02,
            "crop": "center",
            "flip": False,  # shoes point to the left
            "augment": 0.0,
            "workers": 0,
        }
    )
    config.preprocess = ConfigDict({"size": 28, "channels": 1})
    config.space = ConfigDict({"name": "pixels"})
    config.condition = ConfigDict({"name": "label", "drop": 0.05})

    config.model = ConfigDict(
        {
            "name": "dit",
            "patch": 4,
            "width": 128,
            "layers": 6,
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
            "name": "muon",
            "learning_rate": 3e-3,
            "warmup_steps": 200,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.998})

    config.sampler = ConfigDict({"solver": "ddim", "grid": "natural", "num_steps": 30, "guidance_scale": 2.0})

    config.log_every = 50
    config.eval_every = 2000
    config.checkpoint_every = 1000
    return config
