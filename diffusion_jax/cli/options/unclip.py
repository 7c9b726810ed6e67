"""The arguments of `diffusion-jax unclip`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help, moved

__all__ = ["ACTIONS", "OPTIONS", "add"]

ACTIONS = ("generate", "variations", "interpolate", "diff", "components")
OPTIONS: dict[str, tuple[str, ...]] = {
    "prompt": ("generate",),
    "prior": ("generate",),
    "candidates": ("generate",),
    "prior_steps": ("generate",),
    "prior_guidance_scale": ("generate",),
    "untold": ("generate",),
    "image": ("variations", "interpolate", "diff", "components"),
    "num_images": ("generate", "variations", "interpolate"),
    "eta": ("variations",),
    "fresh": ("variations", "interpolate"),
    "even": ("interpolate",),
    "source": ("diff",),
    "target": ("diff",),
    "theta": ("diff",),
    "count": ("components",),
    "data": ("components",),
    "refinements": ("variations", "interpolate", "diff"),
}
"""Which actions an option is of; what is not here is of all."""


def add(commands: Any) -> None:
    """Adds the command."""
    unclip = commands.add_parser(
        "unclip",
        help="draw through a CLIP's embeddings: text to picture, variations, ways between, diffs",
        formatter_class=Help,
        description="Draw by unCLIP: a --decoder run that is told the embeddings of pictures, a --prior run that draws them\n"
        "from a text, and --upsampler runs that enlarge, all of one CLIP. One PNG, a row a prompt or a picture.\n"
        "  generate     --prompt: the prior's embedding, decoded; without --prior the text's own embedding\n"
        "  variations   --image: pictures of the same embedding; the first column is the picture\n"
        "  interpolate  --image A --image B: from one to the other\n"
        "  diff         --image, --source and --target: the picture moved along what two captions differ in\n"
        "  components   --image: decoded from more and more principal components of its embedding",
        epilog="examples: diffusion-jax unclip generate --decoder runs/digits/diffusion --prior runs/digits/prior "
        "--prompt 'a bold seven' --out seven.png\n"
        "          diffusion-jax unclip variations --decoder runs/digits/diffusion --image seven.png --out others.png\n"
        "          diffusion-jax unclip interpolate --decoder runs/digits/diffusion --image a.png --image b.png --out way.png\n"
        "          diffusion-jax unclip diff --decoder runs/digits/diffusion --image a.png --source 'a thin digit' "
        "--target 'a bold digit' --out bold.png\n"
        "          diffusion-jax unclip components --decoder runs/digits/diffusion --image a.png --out parts.png",
    )
    unclip.add_argument("action", choices=ACTIONS, help="what to do")
    source = unclip.add_mutually_exclusive_group(required=True)
    source.add_argument("--decoder", metavar="DIR", help="a diffusion run told an image embedding")
    source.add_argument(
        "--pretrained",
        metavar="DIR",
        help="a folder of Karlo as diffusers keeps it, in place of --decoder, --prior and --upsampler",
    )
    unclip.add_argument("--prior", metavar="DIR", help="a diffusion run in the space of embeddings, asked for a prompt")
    unclip.add_argument(
        "--upsampler", metavar="DIR", action="append", default=[], help="a run that enlarges; repeat it for several"
    )
    unclip.add_argument(
        "--prompt", metavar="TEXT", action="append", default=[], help="what to draw; repeat it for several"
    )
    unclip.add_argument("--image", metavar="FILE", action="append", default=[], help="a picture; repeat it for several")
    unclip.add_argument(
        "--num-images", type=int, metavar="N", help="pictures a row (default: generate and variations 4, interpolate 8)"
    )
    unclip.add_argument(
        "--candidates", type=int, metavar="N", default=2, help="embeddings that the best is chosen among"
    )
    unclip.add_argument("--untold", action="store_true", help="the decoder sees the embedding alone, not the prompt")
    unclip.add_argument(
        "--prior-steps", type=int, metavar="N", help="solver steps of the prior (default: its config's)"
    )
    unclip.add_argument(
        "--prior-guidance-scale", type=float, metavar="W", help="guidance of the prior (default: its config's)"
    )
    unclip.add_argument(
        "--eta", type=float, default=1.0, help="DDIM's noise: 0 draws the picture again, 1 the most variety"
    )
    unclip.add_argument(
        "--fresh",
        action="store_true",
        help="from noise of its own, in place of the noise that the pictures are inverted to",
    )
    unclip.add_argument(
        "--even",
        action="store_true",
        help="at equal distances of what CLIP sees, of four times as many pictures, in place of equal angles",
    )
    unclip.add_argument("--source", metavar="TEXT", help="what the picture shows, in words")
    unclip.add_argument("--target", metavar="TEXT", help="what it is to show")
    unclip.add_argument(
        "--theta",
        type=float,
        metavar="SHARE",
        action="append",
        default=[],
        help="how far the embedding is turned, 0 to 1 of the angle; repeat it (default: 0 0.1 0.2 0.3 0.4)",
    )
    unclip.add_argument(
        "--count",
        type=int,
        metavar="K",
        action="append",
        default=[],
        help="principal components; repeat it (default: 1, 2, 4, ... and all)",
    )
    moved(unclip)
    unclip.add_argument(
        "--refinements", type=int, metavar="N", default=3, help="fixed-point iterations of a step of the inversion"
    )
    unclip.add_argument(
        "--guidance-scale",
        type=float,
        metavar="W",
        help="guidance of the decoder (default: generate its config's, else 1)",
    )
    unclip.add_argument(
        "--num-steps", type=int, metavar="N", help="solver steps (default: generate the config's, else 50)"
    )
    unclip.add_argument("--seed", type=int, default=0, help="a picture is a function of the seed and of its place")
    unclip.add_argument("--weights", choices=("ema", "params"), default="ema", help="averaged or raw weights")
    unclip.add_argument(
        "--scale",
        type=int,
        metavar="N",
        default=12,
        help="pixels of the PNG a pixel of a picture, fewer for an edge above 32",
    )
    unclip.add_argument("--out", required=True, metavar="FILE", help="a .png file")
    unclip.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    for option in unclip._actions:
        if option.dest in OPTIONS:
            option.help = f"{', '.join(OPTIONS[option.dest])}: {option.help}"
