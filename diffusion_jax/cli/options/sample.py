"""The arguments of `diffusion-jax sample`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.pretrained import of_pretrained
from diffusion_jax.cli.options.words import Help, distributed

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    sample = commands.add_parser(
        "sample",
        help="draw images from a run",
        formatter_class=Help,
        description="Draw images into a PNG grid whose metadata holds the settings, or, for a file of requests or with\n"
        "--format, into a folder of files that can be resumed. A run is asked for what it was told in training: a\n"
        "--prompt, a --label, an --image, or several of them; one that draws unasked takes none.",
        epilog="examples: diffusion-jax sample --run runs/digits --prompt 'a bold seven' --out seven.png\n"
        "          diffusion-jax sample --run runs/digits --prompt 'a two' --negative 'a slanted two' --out two.png\n"
        "          diffusion-jax sample --run runs/digits --prompt two --guidance apg --guidance-option eta=0.2 --out a.png\n"
        "          diffusion-jax sample --run runs/digits --prompts prompts.txt --num-images 5000 --out samples\n"
        "          diffusion-jax sample --run runs/shoes --label sneaker --label 7 --num-images 16 --out shoes.png\n"
        "          diffusion-jax sample --run runs/shoes --label sneaker --num-images 500 --format png --out sneakers\n"
        "          diffusion-jax sample --pretrained stable-diffusion-v1-5 --prompt 'a lighthouse' --num-images 2 --out l.png\n"
        "          diffusion-jax sample --pretrained model.safetensors --tokenizer vocabulary --lora style.safetensors=0.7 "
        "--prompt 'a pier' --out p.png",
    )
    source = sample.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="the run's folder, such as runs/digits")
    source.add_argument(
        "--pretrained",
        metavar="PATH",
        help="a folder of Stable Diffusion 1, 2 or XL as diffusers keeps it, or one .safetensors file in its authors' layout, "
        "in place of a run; asked by --prompt, and from a picture by --image, or by --image and --mask where only what is "
        "white there is drawn anew; or a folder of DiT, asked by --label",
    )
    of_pretrained(sample)
    which = sample.add_mutually_exclusive_group()
    which.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        default=[],
        help="what to draw, in words; this and the next three may be repeated, and are then taken in turn",
    )
    which.add_argument(
        "--prompts",
        metavar="FILE",
        help="a file with a request a line, taken in turn: a prompt, a class, a picture's path, or of a run that asks for "
        'several things {"label": "sneaker", "prompt": "a red one"}',
    )
    sample.add_argument(
        "--label", metavar="CLASS", action="append", default=[], help="a class to draw, by its name or number"
    )
    sample.add_argument("--image", metavar="FILE", action="append", default=[], help="a picture that the run draws by")
    sample.add_argument(
        "--mask",
        metavar="FILE",
        action="append",
        default=[],
        help="with --image, of a run that fills in what is hidden: a picture that is white there",
    )
    sample.add_argument(
        "--negative",
        metavar="TEXT",
        help="what to keep away from, in words: not at guidance scale 1, where it would change nothing. It takes the place of "
        "nothing told, so that of a run asked for several things it tells none of the others",
    )
    sample.add_argument("--negative-label", metavar="CLASS", help="a class to keep away from, as --negative")
    sample.add_argument(
        "--guidance-scale",
        type=float,
        metavar="W",
        help="1 is no guidance, nor is less of --pretrained, which is published with 0 (default: the config's; of --pretrained "
        "7.5, of XL 5, of DiT 4, of latent consistency 8.5)",
    )
    sample.add_argument(
        "--guidance", metavar="NAME", help="classifier_free, apg, cfg_plus_plus or cfg_zero (default: the config's)"
    )
    sample.add_argument(
        "--guidance-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the guidance, such as eta=0.2 of apg, or a limit: rescale=0.7, threshold=0.99, clip=1 or "
        "interval=0.3,5; repeat it for several",
    )
    sample.add_argument(
        "--solver",
        metavar="NAME",
        help="adaptive_ode, ancestral, consistency, ddim, ddpm, deis, dpm_solver, dpm_solver_pp, edm_stochastic, euler, "
        "euler_ancestral, euler_maruyama, exponential_euler, heun, ipndm, lms, pndm, predictor_corrector, restart, "
        "sa_solver or unipc (default: the config's; of --pretrained the folder's scheduler)",
    )
    sample.add_argument(
        "--solver-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the solver, such as order=3 of dpm_solver_pp; repeat it for several (`config show` lists them)",
    )
    sample.add_argument("--eta", type=float, help="DDIM's noise, from 0 (none) to 1 (as DDPM)")
    sample.add_argument(
        "--grid",
        metavar="NAME",
        help="discrete, karras, logsnr, natural (the schedule's), quadratic or uniform (default: the config's)",
    )
    sample.add_argument(
        "--num-steps",
        type=int,
        metavar="N",
        help="solver steps (default: the config's; of --pretrained 50, of latent consistency 4)",
    )
    sample.add_argument(
        "--num-images", type=int, metavar="N", default=8, help="how many images (of --prompts one a line)"
    )
    sample.add_argument("--seed", type=int, default=0, help="image i is a function of the seed and of i")
    sample.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        default=256,
        help="images at a time; of --pretrained 4 a device where it is not given",
    )
    sample.add_argument("--shard-size", type=int, metavar="N", default=1000, help="images an .npz file of a folder")
    sample.add_argument(
        "--format",
        choices=("npz", "png"),
        help="what a folder holds: .npz shards, or a .png an image and what was asked in metadata.jsonl (default: npz)",
    )
    sample.add_argument("--weights", choices=("ema", "params"), default="ema", help="averaged or raw weights")
    sample.add_argument(
        "--scale",
        type=int,
        metavar="N",
        default=12,
        help="pixels of the PNG a pixel of an image, fewer for an edge above 384 (--pretrained: 1)",
    )
    sample.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="the PNG file, or the folder of files, whose name has no file's ending",
    )
    sample.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    distributed(sample)
