"""A small DiT folder with random weights, written by diffusers, and what its pipeline draws from noise that is given."""

import json
from pathlib import Path

import diffusers
import numpy as np
import stable_folders as folders
import torch
from diffusers.pipelines.dit import pipeline_dit
from diffusers.schedulers import scheduling_ddpm

NAMES = {"0": "tench, Tinca tinca", "1": "goldfish", "207": "golden retriever", "134": "crane", "517": "crane"}
PUBLISHED = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


def dit(folder: Path, *, learned: bool = True, half: bool = False) -> Path:
    """A folder of DiTPipeline: 1000 classes, as the pipeline's own number of none wants."""
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8 if learned else 4, num_layers=2,
        sample_size=8, num_embeds_ada_norm=1000,
    )  # fmt: skip
    folders.spread(model, 0.15)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    folders.save(model, folder / "transformer", half)
    folders.autoencoder(folder / "vae", half=half)
    parts = {
        name: ["diffusers", kind] for name, kind in (("transformer", "DiTTransformer2DModel"), ("vae", "AutoencoderKL"))
    }
    index = {"_class_name": "DiTPipeline", "_diffusers_version": "0.42.0", "id2label": NAMES, **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    folders.with_scheduler(folder, "DDIMScheduler", **PUBLISHED)
    return folder


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def drawn(pipe, labels, noise: np.ndarray, *, steps: int, scale: float, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """(latents, images in [-1, 1]) NHWC of DiTPipeline; noise [1 + steps, n, h, w, c] is what begins and each step's."""
    given = iter(noise)

    def next_noise(shape, **_):
        z = nchw(next(given))
        return torch.cat([z] * (shape[0] // len(z)))

    monkeypatch.setattr(pipeline_dit, "randn_tensor", next_noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", next_noise)
    seen = []
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z: (seen.append(z), decode(z))[1])
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        images = pipe(labels, guidance_scale=scale, num_inference_steps=steps, output_type="np").images
    latents = seen[0] * pipe.vae.config.scaling_factor
    return np.moveaxis(latents.numpy(), 1, -1), 2.0 * images - 1.0
