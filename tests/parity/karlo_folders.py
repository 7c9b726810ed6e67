"""Small folders of Karlo's two pipelines with random weights, written by diffusers."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import (
    PriorTransformer,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from stable_folders import CONTEXT, WIDTH, save, spread, text, tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

TIME, CROSS, SMALL, LARGE = 128, 24, 12, 24  # not 8: diffusers mistakes 4 x 4 places for the 16 tokens
EYE = {
    "size": {"shortest_edge": 16},
    "crop_size": {"height": 16, "width": 16},
    "image_processor_type": "CLIPImageProcessor",
}


def decoder() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SMALL, in_channels=3, out_channels=6, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", cross_attention_dim=CROSS, attention_head_dim=8,
        resnet_time_scale_shift="scale_shift", class_embed_type="identity",
    )  # fmt: skip


def upsampler() -> UNet2DModel:
    return UNet2DModel(
        sample_size=LARGE, in_channels=6, out_channels=3, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D",) * 2, up_block_types=("ResnetUpsampleBlock2D",) * 2,
        add_attention=False,
    )  # fmt: skip


def prior() -> PriorTransformer:
    made = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, embedding_dim=WIDTH, num_embeddings=CONTEXT,
        additional_embeddings=4,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in made.named_parameters():
            value.normal_(0, 0.3 if name in ("clip_mean", "prd_embedding", "positional_embedding") else 0.15)
        made.clip_std.uniform_(0.5, 1.5)
    return made


def projection() -> UnCLIPTextProjModel:
    made = UnCLIPTextProjModel(
        clip_extra_context_tokens=4, clip_embeddings_dim=WIDTH, time_embed_dim=TIME, cross_attention_dim=CROSS
    )
    with torch.no_grad():
        made.learned_classifier_free_guidance_embeddings.normal_(0, 0.5)
    return made


def eye(folder: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4,
        projection_dim=WIDTH, hidden_act="quick_gelu",
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config)
    spread(model, 0.15)
    save(model, folder, False)


def karlo(folder: Path, *, variations: bool = False, seed: int = 0) -> Path:
    """A folder of UnCLIPPipeline, or with `variations` of UnCLIPImageVariationPipeline."""
    torch.manual_seed(seed)
    size = tokenizer(folder / "tokenizer", "!")
    text(folder / "text_encoder", size, act="quick_gelu", projection=WIDTH)
    networks = {
        "decoder": decoder(),
        "super_res_first": upsampler(),
        "super_res_last": upsampler(),
        "text_proj": projection(),
    }
    if not variations:
        networks["prior"] = prior()
    for name, made in networks.items():
        if name.startswith(("decoder", "super")):
            spread(made)
        save(made, folder / name, False)
    schedulers = {
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    }
    if not variations:
        schedulers["prior_scheduler"] = UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
    for name, made in schedulers.items():
        made.save_pretrained(folder / name)
    index = {
        "_class_name": "UnCLIPImageVariationPipeline" if variations else "UnCLIPPipeline",
        "_diffusers_version": "0.42.0",
    }
    index |= {name: ["diffusers", type(made).__name__] for name, made in {**networks, **schedulers}.items()}
    index["text_proj"] = ["unclip", "UnCLIPTextProjModel"]
    index |= {
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    if variations:
        eye(folder / "image_encoder")
        (folder / "feature_extractor").mkdir()
        (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(EYE))
        index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def peer(folder: Path):
    """diffusers' pipeline of a folder in float64; its parts are loaded one by one, as its own loading wants torchvision."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    index = json.loads((folder / "model_index.json").read_text())
    classes = {
        "decoder": UNet2DConditionModel, "super_res_first": UNet2DModel, "super_res_last": UNet2DModel,
        "text_proj": UnCLIPTextProjModel, "prior": PriorTransformer, "text_encoder": CLIPTextModelWithProjection,
        "image_encoder": CLIPVisionModelWithProjection,
        **dict.fromkeys(("decoder_scheduler", "super_res_scheduler", "prior_scheduler"), UnCLIPScheduler),
    }  # fmt: skip
    parts = {name: classes[name].from_pretrained(folder / name) for name in index if name in classes}
    for name, part in parts.items():
        if name.endswith("_scheduler"):
            for table in ("betas", "alphas", "alphas_cumprod", "one"):
                setattr(part, table, getattr(part, table).double())
        else:
            part.double()
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if "image_encoder" in index:
        parts["feature_extractor"] = None
        made = UnCLIPImageVariationPipeline(**parts)
    else:
        made = UnCLIPPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def noises(seed: int, *shapes) -> list[np.ndarray]:
    """For each number of steps and shape of a stage that draws two, [1 + steps, n, ...] with channels last."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1 + steps, 2, *shape)).astype(np.float32) for steps, shape in shapes]


def first(array: np.ndarray) -> torch.Tensor:
    """Channels last as torch has them first."""
    return torch.tensor(array if array.ndim < 4 else np.moveaxis(array, -1, -3), dtype=torch.float64)


def staged(peer, prompts: list[str], steps: tuple[int, int, int]) -> tuple:
    """The peer's own embedding, small picture and large one, with the arrays that it drew."""
    edges = [(edge, edge, 3) for edge in (SMALL, LARGE)]
    stages = noises(0, *zip(steps, [(WIDTH,), *edges]))
    rows = iter([row for stage in stages for row in stage[:-1]])  # the last step of each draws nothing
    kept = {}
    project, interpolate = peer.text_proj.forward, torch.nn.functional.interpolate

    def projected(**given):
        kept["embedding"] = given["image_embeddings"].numpy().astype(np.float32)
        return project(**given)

    def enlarged(image, size=None, *more, antialias=False, **given):  # the peer looks for the name of the last
        if image.shape[1] == 3:
            kept["small"] = np.moveaxis(image.numpy(), 1, -1).astype(np.float32)
        return interpolate(image, size, *more, antialias=antialias, **given)

    names = ["diffusers.schedulers.scheduling_unclip.randn_tensor", f"{type(peer).__module__}.randn_tensor"]
    with (
        mock.patch(names[0]) as one,
        mock.patch(names[1]) as two,
        mock.patch.object(peer.text_proj, "forward", projected),
        mock.patch(f"{type(peer).__module__}.F.interpolate", enlarged),
    ):
        one.side_effect = two.side_effect = lambda *_, **__: first(next(rows))
        images = peer(
            prompts, prior_num_inference_steps=steps[0], decoder_num_inference_steps=steps[1],
            super_res_num_inference_steps=steps[2], output_type="np",
        ).images  # fmt: skip
    assert next(rows, None) is None
    return kept["embedding"], kept["small"], 2.0 * images - 1.0, stages
