"""Small Stable Diffusion folders with random weights, written by diffusers: as 1, 2, XL, its refiner, and of 9 channels."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusion_jax.data.text.bpe import ALPHABET, BpeTokenizer

MERGES = (("a", "</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>"))
WIDTH, CONTEXT = 32, 12
SCHEDULER = {
    "_diffusers_version": "0.42.0", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "epsilon",
}  # fmt: skip
EXTRA = {
    "DDIMScheduler": {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    "PNDMScheduler": {"steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True},
    "EulerDiscreteScheduler": {"steps_offset": 1, "timestep_spacing": "leading"},
    "DPMSolverMultistepScheduler": {"solver_order": 2},
    "UniPCMultistepScheduler": {"solver_order": 2},
}


def tokenizer(folder: Path, pad: str) -> int:
    """A vocabulary of the bytes and a few words in `folder`; gives its size."""
    symbols = (*ALPHABET, *(a + b for a, b in MERGES if a + b not in ALPHABET), "<start_of_text>", "<end_of_text>")
    merges = tuple(pair for pair in MERGES if pair[0] + pair[1] not in ALPHABET)
    BpeTokenizer(symbols, merges, len(symbols) - 2, len(symbols) - 1, CONTEXT).save(folder)
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, "pad_token": pad, "do_lower_case": True,
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(symbols)


def save(model: torch.nn.Module, folder: Path, half: bool) -> None:
    """float32 in the usual file, or float16 in that of the variant."""
    if half:
        model.half().save_pretrained(folder, variant="fp16")
    else:
        model.save_pretrained(folder)


def text(
    folder: Path,
    size: int,
    *,
    act: str,
    projection: int | None,
    layers: int = 3,
    half: bool = False,
    width: int = WIDTH,
) -> None:
    config = CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=CONTEXT, hidden_act=act, projection_dim=projection or width, eos_token_id=size - 1,
        bos_token_id=size - 2, pad_token_id=1,
    )  # fmt: skip
    model = (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config)
    spread(model, 0.15)
    save(model, folder, half)


def spread(model: torch.nn.Module, std: float | None = None) -> None:
    """Weights large enough that every part is heard: diffusers' own are, transformers' are near 0."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if std is not None and value.ndim > 1:
                value.normal_(0, std)
            elif value.ndim == 1:
                value.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)


def unet(
    folder: Path, *, kind: str, channels: int = 4, context: int = WIDTH, pooled: int = 0, half: bool = False
) -> None:
    settings = {
        "sample_size": 8, "in_channels": channels, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": [16, 32] if half else [32, 64],
        "norm_num_groups": 8, "cross_attention_dim": context, "attention_head_dim": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }  # fmt: skip
    if kind != "sd1":
        settings |= {"use_linear_projection": True, "attention_head_dim": [2, 4]}
    if pooled:
        ids = 5 if kind == "refiner" else 6
        settings |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": pooled + 8 * ids,
        }  # fmt: skip
    model = UNet2DConditionModel(**settings)
    spread(model)
    save(model, folder, half)


def autoencoder(folder: Path, scale: float = 0.18215, half: bool = False) -> None:
    model = AutoencoderKL(
        block_out_channels=[8, 16] if half else [16, 32],
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=16, scaling_factor=scale,
    )  # fmt: skip
    spread(model)
    save(model, folder, half)


def scheduler(folder: Path, name: str, **fields) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"_class_name": name, **SCHEDULER, **EXTRA.get(name, {}), **fields}
    (folder / "scheduler_config.json").write_text(json.dumps(told))


def with_scheduler(folder: Path, name: str, **fields) -> None:
    """Another scheduler in a folder of a pipeline."""
    scheduler(folder / "scheduler", name, **fields)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", name]
    (folder / "model_index.json").write_text(json.dumps(index))


def stable(
    folder: Path,
    kind: str = "sd1",
    *,
    seed: int = 0,
    channels: int = 4,
    image: str = "",
    half: bool = False,
    second: int = WIDTH,
) -> Path:
    """A folder of `kind` "sd1", "sd2", "xl" or "refiner"; `image` "Img2Img" or "Inpaint" names the pipeline's class.

    With `half` a smaller one, of float16 weights in files of the variant fp16. `second` is the width of XL's second encoder.
    """
    torch.manual_seed(seed)
    xl = kind in ("xl", "refiner")
    pooled = {"xl": 24, "refiner": 1280}.get(kind, 0)
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    parts |= {"scheduler": ["diffusers", "DDIMScheduler"]}
    if kind != "refiner":
        size = tokenizer(folder / "tokenizer", "!" if kind == "sd2" else "<|endoftext|>")
        text(folder / "text_encoder", size, act="gelu" if kind == "sd2" else "quick_gelu", projection=None, half=half)
        parts |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    if xl:
        size = tokenizer(folder / "tokenizer_2", "!")
        text(folder / "text_encoder_2", size, act="gelu", projection=pooled, half=half, width=second)
        parts |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
        parts |= {"tokenizer_2": ["transformers", "CLIPTokenizer"]}
    if kind == "refiner":
        parts |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    unet(
        folder / "unet",
        kind=kind,
        channels=channels,
        context=WIDTH + second if kind == "xl" else WIDTH,
        pooled=pooled,
        half=half,
    )
    autoencoder(folder / "vae", 0.13025 if xl else 0.18215, half)
    scheduler(folder / "scheduler", "DDIMScheduler")
    flags = (
        {"force_zeros_for_empty_prompt": kind == "xl"}
        if xl
        else {"safety_checker": [None, None], "feature_extractor": [None, None]}
    )
    flags |= {"requires_aesthetics_score": True} if kind == "refiner" else {}
    if xl:
        image = "Img2Img" if kind == "refiner" else image
    name = f"StableDiffusion{'XL' if xl else ''}{image}Pipeline"
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": name, "_diffusers_version": "0.42.0", **parts, **flags})
    )
    return folder


def noise(count: int, seed: int = 0, edge: int = 8, channels: int = 4) -> np.ndarray:
    """Unit noise NHWC."""
    return np.random.default_rng(seed).standard_normal((count, edge, edge, channels)).astype(np.float32)
