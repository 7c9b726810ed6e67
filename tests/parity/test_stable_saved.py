"""What is saved here is diffusers' pipeline, what diffusers reads of a single file is read here, and a LoRA is its LoRA."""

import dataclasses
import json

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import jax  # noqa: E402
import stable_folders as folders  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from test_stable_diffusion import NEGATIVE, PROMPTS, compare, nchw, peer  # noqa: E402

from diffusion_jax.convert import save_lora  # noqa: E402
from diffusion_jax.convert.entries import write  # noqa: E402
from diffusion_jax.pipelines import load_pipeline  # noqa: E402
from diffusion_jax.pipelines.descriptions import DDIM, Description, Tower  # noqa: E402
from diffusion_jax.pipelines.single_file import single_file_entries  # noqa: E402
from diffusion_jax.train.lora import init_lora  # noqa: E402

TOWERS = {
    "sd1": [("cond_stage_model.transformer.", "hf", None)],
    "sd2": [("cond_stage_model.model.", "open_clip", "!")],
    "xl": [("conditioner.embedders.0.transformer.", "hf", None), ("conditioner.embedders.1.model.", "open_clip", "!")],
    "refiner": [("conditioner.embedders.0.model.", "open_clip", "!")],
}
CLASSES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "xl": "StableDiffusionXLPipeline"}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def drawn_by(pipe, noise, **given):
    """Their latents."""
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        return pipe(
            PROMPTS, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=4.0, latents=nchw(noise),
            output_type="latent", **given,
        ).images  # fmt: skip


def drawn_here(pipeline, noise):
    return pipeline.generate(PROMPTS, negative=NEGATIVE, num_steps=5, guidance_scale=4.0, noise=noise, output="latent")


def same_weights(first, second):
    """Every part of two of their pipelines, bit for bit."""
    for name in PARTS:
        one, other = getattr(first, name, None), getattr(second, name, None)
        assert (one is None) == (other is None), name
        if one is not None:
            held, there = one.state_dict(), other.state_dict()
            assert held.keys() == there.keys() and all(torch.equal(held[key], there[key]) for key in held), name
    return True


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_latents_of_any_scale_are_drawn_as_pictures_there(tmp_path, kind):
    """A mean and a deviation of each channel: told in XL's config, taken up by the maps beside the latents of others."""
    base, noise = load_pipeline(folders.stable(tmp_path / "first", kind)), folders.noise(2)
    std, mean = np.array([2.0, 1.0, 0.5, 4.0], np.float32), np.array([0.5, -1.0, 2.0, 0.0], np.float32)
    config = {**base.vae.config, "scale": 1.0, "shift": None, "mean": mean.tolist(), "std": std.tolist()}
    vae = dataclasses.replace(base.vae, config=config, scale=1 / std, shift=mean)
    pipeline = dataclasses.replace(base, vae=vae)
    saved = peer(pipeline.save(tmp_path / "saved"))
    with torch.no_grad():
        wanted = saved(
            PROMPTS, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=4.0, latents=nchw(noise),
            output_type="np",
        ).images  # fmt: skip
    ours = pipeline.generate(PROMPTS, negative=NEGATIVE, num_steps=5, guidance_scale=4.0, noise=noise)
    assert np.abs(ours - (2 * wanted - 1)).max() <= 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("sd1", {}), ("sd1", {"channels": 9, "image": "Inpaint"}), ("sd2", {}), ("xl", {}), ("refiner", {})],
    ids=["sd1", "inpaint", "sd2", "xl", "refiner"],
)
def test_a_saved_folder_is_their_pipeline(tmp_path, kind, options, dtype):
    folder, noise = folders.stable(tmp_path / "first", kind, **options), folders.noise(2)
    pipeline = load_pipeline(folder)
    saved, first = peer(pipeline.save(tmp_path / "saved", dtype)), peer(folder)
    assert type(saved) is type(first)
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(first, name, None) is not None:
            both = [getattr(pipe, name)(PROMPTS, padding="max_length", max_length=12) for pipe in (first, saved)]
            assert both[0]["input_ids"] == both[1]["input_ids"]
    if dtype == "float32":
        assert same_weights(first, saved)
        if kind in CLASSES and not options:
            compare(drawn_here(pipeline, noise), drawn_by(saved, noise), saved, pipeline)
    for name, fields in TOLD.items():
        ours, theirs = (getattr(pipe, name).config for pipe in (saved, first))
        assert {field: ours[field] for field in fields} == {field: theirs[field] for field in fields}


TOLD = {
    "unet": (
        "sample_size",
        "in_channels",
        "out_channels",
        "cross_attention_dim",
        "use_linear_projection",
        "norm_num_groups",
    ),
    "vae": ("sample_size", "scaling_factor", "force_upcast", "latent_channels", "norm_num_groups"),
    "scheduler": ("beta_start", "beta_end", "beta_schedule", "steps_offset", "set_alpha_to_one", "prediction_type"),
}
"""Fields of configs that must say the same; others say the same in more words."""


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("PNDMScheduler", {}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "prediction_type": "v_prediction"}),
        ("UniPCMultistepScheduler", {}),
        ("DEISMultistepScheduler", {}),
        ("LCMScheduler", {}),
        ("HeunDiscreteScheduler", {}),
    ],
)
def test_every_scheduler_comes_back(tmp_path, name, fields):
    folder = folders.stable(tmp_path / "first")
    folders.with_scheduler(folder, name, **fields)
    load_pipeline(folder).save(tmp_path / "saved")
    first, saved = peer(folder).scheduler, peer(tmp_path / "saved").scheduler
    assert type(first) is type(saved)
    for field, value in first.config.items():
        if not field.startswith("_") and field != "trained_betas":
            assert saved.config.get(field) == value, field


def described(pipeline, kind, scheduler=DDIM):
    towers = tuple(
        Tower(prefix, layout, encoder.config["embed"], encoder.config["text"], pad)
        for (prefix, layout, pad), encoder in zip(TOWERS[kind], pipeline.encoders, strict=True)
    )
    return Description(
        pipeline.kind, pipeline.unet_config, pipeline.vae.config, towers, scheduler, pipeline.size, zeros=kind == "xl"
    )


@pytest.mark.parametrize("kind", CLASSES)
def test_a_single_file_is_what_they_read(tmp_path, kind):
    folder, noise = folders.stable(tmp_path / "first", kind, second=48), folders.noise(2)
    pipeline = load_pipeline(folder)
    description = described(pipeline, kind)
    lying = "linear" if pipeline.linear else "conv"
    rules = single_file_entries(description, pipeline.unet_config, pipeline.vae.config, projections=lying, square=True)
    texts = {str(i): {"text": encoder.params} for i, encoder in enumerate(pipeline.encoders)}
    tensors = write(rules, {"unet": pipeline.params, "vae": pipeline.vae.params, "text": texts}, "a file")
    if kind == "xl":  # by which their reader tells XL from the rest, in towers of ten blocks and more
        tensors["conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"] = np.zeros(48, np.float32)
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    theirs = getattr(diffusers, CLASSES[kind]).from_single_file(file, config=str(folder), local_files_only=True)
    assert same_weights(theirs, peer(folder))
    if kind == "xl":
        del tensors["conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"]
        save_file(tensors, file)
    ours = load_pipeline(
        file, tokenizer=folder / "tokenizer", model=description, prediction="eps" if kind == "sd2" else None
    )
    compare(drawn_here(ours, noise), drawn_by(theirs, noise), theirs, ours)


def filled(tree, seed):
    """Adapters of `tree` that are heard."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32) if leaf.ndim >= 2 else np.asarray(leaf),
        init_lora(tree, jax.random.key(0), rank=2, alpha=3.0),
    )


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_a_lora_is_their_lora(tmp_path, kind):
    folder, noise = folders.stable(tmp_path / "first", kind), folders.noise(2)
    pipeline, pipe = load_pipeline(folder), peer(folder)
    names = ("text_encoder", "text_encoder_2")[: len(pipeline.encoders)]
    configs = {"unet": pipeline.unet_config, **{n: e.config for n, e in zip(names, pipeline.encoders, strict=True)}}
    files = []
    for seed in (1, 2):
        loras = {"unet": filled(pipeline.params, seed)}
        loras |= {n: filled({"text": e.params}, seed + 5) for n, e in zip(names, pipeline.encoders, strict=True)}
        files.append(save_lora(tmp_path / f"{seed}.safetensors", loras, **configs))
    plain = drawn_here(pipeline, noise)
    for file in files:
        pipe.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name=f"of_{file.stem}")
    pipe.set_adapters(["of_1"], [1.0])
    ours = drawn_here(pipeline.with_lora(files[0]), noise)
    compare(ours, drawn_by(pipe, noise), pipe, pipeline)
    assert np.abs(ours - plain).max() > 0.05 * np.abs(plain).max()
    pipe.set_adapters(["of_1", "of_2"], [0.7, -0.4])
    both = pipeline.with_lora(files[0], 0.7).with_lora(files[1], -0.4)
    compare(drawn_here(both, noise), drawn_by(pipe, noise), pipe, pipeline)
    index = json.loads((both.save(tmp_path / "merged") / "model_index.json").read_text())
    assert index["_class_name"] == type(pipe).__name__
    compare(drawn_here(both, noise), drawn_by(peer(tmp_path / "merged"), noise), pipe, pipeline)
