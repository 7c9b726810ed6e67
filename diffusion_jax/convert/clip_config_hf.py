"""Hugging Face's `config.json` of CLIP and SigLIP as keyword arguments of `nets.CLIP`; a row for every field there is.

`GENERAL` are the fields of every transformers config, old and new: labels, dtypes, and the defaults of text generation that
files of 2021 to 2023 write out by the dozen. None of them enters CLIP's or SigLIP's computation but those that are marked.
Dropout acts in training alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_jax.convert.clip_config import HF_ACTIVATIONS, Config, vision_sizes
from diffusion_jax.convert.fields import (
    UNUSED,
    Field,
    Table,
    choice,
    group,
    natural,
    number,
    only,
    read,
    reads,
    square,
    whole,
)
from diffusion_jax.typing import UserError

__all__ = ["HF_TABLES", "from_hf"]

_OLD = [
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "experts_implementation",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_composition",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "penalty_alpha",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "target_lookbehind",
]
GENERAL: dict[str, Field] = {
    **dict.fromkeys(_OLD, UNUSED),
    "pruned_heads": only({}, why="heads that were pruned leave other shapes behind"),
    "per_layer_config": only({}, why="all layers of a tower are alike here"),
    "quantization_config": only(None, why="weights are read as they are, not unpacked; save them dequantized"),
    "auto_map": only(None, why="it names code in the folder, which is not run"),
}

_activation = choice(HF_ACTIVATIONS)


def _tower(width: int, hidden: int, layers: int, heads: int, activation: str, eps: float) -> dict[str, Field]:
    return {
        **GENERAL,
        "hidden_size": reads(whole, width),
        "intermediate_size": reads(whole, hidden),
        "num_hidden_layers": reads(whole, layers),
        "num_attention_heads": reads(whole, heads),
        "hidden_act": reads(_activation, activation),
        "layer_norm_eps": reads(number, eps),
        "attention_dropout": UNUSED,
        "dropout": UNUSED,
    }


def _words(vocabulary: int, context: int) -> dict[str, Field]:
    return {"vocab_size": reads(whole, vocabulary), "max_position_embeddings": reads(whole, context)}


def _pictures(patch: int) -> dict[str, Field]:
    sizes = {"image_size": reads(square, 224), "patch_size": reads(square, patch)}
    return {**sizes, "num_channels": reads(whole, 3)}


def _kind(*names: str) -> dict[str, Field]:
    return {"model_type": only(*names, "", why="it would be a tower of another architecture")}


CLIP_TEXT: Table = {
    **_tower(512, 2048, 12, 8, "quick_gelu", 1e-5),
    **_words(49408, 77),
    **_kind("clip_text_model", "clip"),
    "projection_dim": reads(whole, 512),
    "eos_token_id": reads(natural, 49407),
}
CLIP_VISION: Table = {
    **_tower(768, 3072, 12, 12, "quick_gelu", 1e-5),
    **_pictures(32),
    **_kind("clip_vision_model", "clip"),
    "projection_dim": reads(whole, 512),
    "eos_token_id": UNUSED,
}
_SIGLIP = _tower(768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6)
SIGLIP_TEXT: Table = {
    **_SIGLIP,
    **_words(32000, 64),
    **_kind("siglip_text_model", "siglip2_text_model", "siglip", "siglip2"),
    "eos_token_id": UNUSED,  # the feature stands at the last place, whatever its id
    "projection_dim": UNUSED,
    "projection_size": reads(whole, None),
}
SIGLIP_VISION: Table = {
    **_SIGLIP,
    **_pictures(16),
    **_kind("siglip_vision_model", "siglip2_vision_model", "siglip", "siglip2"),
    **dict.fromkeys(("eos_token_id", "projection_dim"), UNUSED),
    "vision_use_head": only(True, why="without its head the tower gives no embedding"),
}
CLIP: Table = {
    **GENERAL,
    "model_type": only("clip", why="it is another architecture"),
    "text_config": reads(group),
    "vision_config": reads(group),
    "text_config_dict": reads(group),
    "vision_config_dict": reads(group),
    "projection_dim": reads(whole, 512),
    "logit_scale_init_value": UNUSED,
    "eos_token_id": UNUSED,  # that of text_config counts
}
SIGLIP: Table = {
    **GENERAL,
    "model_type": only("siglip", "siglip2", why="it is another architecture"),
    "text_config": reads(group),
    "vision_config": reads(group),
    "text_config_dict": only(None, why="SigLIP's sizes stand in text_config"),
    "vision_config_dict": only(None, why="SigLIP's sizes stand in vision_config"),
    **dict.fromkeys(("logit_scale_init_value", "projection_dim", "eos_token_id"), UNUSED),
}
HF_TABLES: dict[str, Table] = {
    "clip": CLIP,
    "clip text_config": CLIP_TEXT,
    "clip vision_config": CLIP_VISION,
    "siglip": SIGLIP,
    "siglip text_config": SIGLIP_TEXT,
    "siglip vision_config": SIGLIP_VISION,
}


def from_hf(found: Mapping[str, Any], where: str) -> Config:
    """The model of a Hugging Face `config.json`: CLIPModel, SiglipModel, or one tower of CLIP.

    Raises UserError for another architecture and for a field or value that the tables do not have.
    """
    kind = str(found.get("model_type"))
    alone = {"clip_text_model": "text", "clip_vision_model": "vision"}.get(kind)
    family = "clip" if alone else kind
    patches = found.get("vision_config") or {}
    if family == "siglip2" and not (isinstance(patches, Mapping) and "num_patches" in patches):
        family = "siglip"
    if family not in {"clip", "siglip"}:
        names = ", ".join(map(str, found.get("architectures") or [])) or "no architecture named"
        raise UserError(f"{where}: model_type {found.get('model_type')!r} ({names}) is not CLIP or SigLIP")
    if alone:
        return _alone(found, alone, where)
    top = read(HF_TABLES[family], found, where)
    sizes = {}
    for tower in ("text", "vision"):
        name = f"{tower}_config"
        table, given = HF_TABLES[f"{family} {name}"], top[name] or {}
        old = top.get(f"{name}_dict")
        sizes[tower] = read(table, given, f"{where}: {name}")
        if old is not None:
            # transformers makes a whole config of it, whose values, defaults too, go before those of `text_config`.
            sizes[tower] = read(table, old, f"{where}: {name}_dict")
    config: Config = {"embed": top.get("projection_dim"), "logit_bias": family == "siglip"}
    config |= {tower: _made(family, tower, sizes[tower], f"{where}: {tower}_config") for tower in sizes}
    if family == "siglip":
        config["embed"] = sizes["vision"]["hidden_size"]
        projected = sizes["text"]["projection_size"] or sizes["text"]["hidden_size"]
        if projected != config["embed"]:
            raise UserError(
                f"{where}: text_config: projection_size {projected} is not the vision tower's hidden_size {config['embed']}: "
                "the two embeddings cannot be compared"
            )
    return config


def _alone(found: Mapping[str, Any], tower: str, where: str) -> Config:
    """One tower of CLIP; without a projection where the architecture has none."""
    sizes = read(HF_TABLES[f"clip {tower}_config"], found, where)
    bare = tower == "text" and (found.get("architectures") or ["CLIPTextModel"]) == ["CLIPTextModel"]
    made: Config = {"embed": None if bare else sizes["projection_dim"], "logit_bias": False}
    return made | {tower: _made("clip", tower, sizes, where)}


def _made(family: str, tower: str, sizes: Mapping[str, Any], where: str) -> Config:
    width = sizes["hidden_size"]
    if width % sizes["num_attention_heads"]:
        raise UserError(
            f"{where}: hidden_size {width} is not divided by num_attention_heads {sizes['num_attention_heads']}"
        )
    made: Config = {
        "width": width,
        "layers": sizes["num_hidden_layers"],
        "heads": sizes["num_attention_heads"],
        "mlp_ratio": sizes["intermediate_size"] / width,
        "activation": HF_ACTIVATIONS[sizes["hidden_act"]],
        "eps": sizes["layer_norm_eps"],
    }
    if tower == "vision":
        pool = "class" if family == "clip" else "map"
        return made | vision_sizes(sizes["image_size"], sizes["patch_size"], sizes["num_channels"], pool)
    end, vocabulary = sizes.get("eos_token_id"), sizes["vocab_size"]
    if end is not None and end != 2 and end >= vocabulary:
        raise UserError(f"{where}: eos_token_id {end} is not below vocab_size {vocabulary}: no text would have an end")
    # 2 stands in old files for "the largest id"; so does the last id of a vocabulary.
    named = end not in (None, 2, vocabulary - 1)
    return made | {
        "vocabulary_size": vocabulary,
        "context_length": sizes["max_position_embeddings"],
        "pool": "end" if family == "clip" else "last",
        "end_token": end if named else None,
    }
