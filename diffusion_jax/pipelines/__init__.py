"""Published systems joined for sampling: `load_pipeline("stable-diffusion-v1-5").generate("a lighthouse")`."""

from diffusion_jax.pipelines.class_to_image import ClassToImage, class_to_image
from diffusion_jax.pipelines.loading import load_pipeline
from diffusion_jax.pipelines.prompts import Sizes
from diffusion_jax.pipelines.scheduler import Plan, Scheduler, read_scheduler
from diffusion_jax.pipelines.text_to_image import TextToImage
from diffusion_jax.pipelines.unclip import UnCLIP
from diffusion_jax.pipelines.unclip_runs import load_unclip, unclip_of

__all__ = [
    "ClassToImage",
    "Plan",
    "Scheduler",
    "Sizes",
    "TextToImage",
    "UnCLIP",
    "class_to_image",
    "load_pipeline",
    "load_unclip",
    "read_scheduler",
    "unclip_of",
]
