"""The arguments of `diffusion-jax convert`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    convert = commands.add_parser(
        "convert",
        help="weights of a CLIP, U-Net, DiT, prior, autoencoder or fine-tuned run from one library's format into another's",
        formatter_class=Help,
        description="Read the CLIP or SigLIP in a Hugging Face or open_clip folder, the U-Net, DiT, unCLIP's prior or\n"
        "autoencoder in a folder of diffusers, a file of weights or a run of one's own, and write it for another library.",
        epilog="examples: diffusion-jax convert ViT-B-32.pt --out clip-b32 --format hf\n"
        "          diffusion-jax convert model.safetensors --model ViT-B-32 --out clip-b32 --format hf\n"
        "          diffusion-jax convert clip-l14 --image-size 336 --out clip-l14-336 --format open_clip\n"
        "          diffusion-jax convert runs/my_clip --out my_clip --format hf\n"
        "          diffusion-jax convert runs/stable_diffusion/lora --out mine.safetensors\n"
        "          diffusion-jax convert stable-diffusion-v1-5/unet --out unet.safetensors --format latent\n"
        "          diffusion-jax convert 64x64_diffusion.pt --model adm-64 --out adm-64 --format diffusers",
    )
    convert.add_argument("path", metavar="PATH", help="a folder or file of weights, or a run")
    convert.add_argument(
        "--model", metavar="NAME", help="what the weights are, such as ViT-B-32 or sd-1.5, if they do not say"
    )
    convert.add_argument(
        "--format",
        metavar="NAME",
        help="of a CLIP (default: hf), of a U-Net, DiT, prior or autoencoder (default: diffusers) or of a fine-tuned run "
        "(default: what it trained): hf, open_clip, openai, diffusers, guided, latent, meta or peft",
    )
    convert.add_argument("--dtype", default="float32", metavar="NAME", help="float32, float16 or bfloat16")
    convert.add_argument("--image-size", type=int, metavar="N", help="interpolate the positions to this resolution")
    convert.add_argument("--context-length", type=int, metavar="N", help="texts of this many tokens")
    convert.add_argument(
        "--weights", choices=("ema", "params"), default="ema", help="of a run: averaged or raw weights"
    )
    convert.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a new folder; with openai, guided, latent or meta a .pt or .safetensors file, with peft a .safetensors file",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace what is at --out")
