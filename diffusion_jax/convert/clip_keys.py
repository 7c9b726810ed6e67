"""The names of CLIP's and SigLIP's weights in OpenAI's and open_clip's files and in Hugging Face's, as entries.

Three layouts: "open_clip" (OpenAI's own keys; the same for its ResNets; SigLIP with the vision tower of timm and a
`text.` prefix) and "hf" (CLIPModel, SiglipModel). What a layout cannot hold (a ResNet in "hf") is a UserError.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from diffusion_jax.convert.entries import Entry, conv, fused, linear, patches, plain, split
from diffusion_jax.typing import UserError, one_of

__all__ = ["LAYOUTS", "entries", "ignored", "untexted"]

LAYOUTS = ("open_clip", "hf")
_LEFT_OUT = re.compile(
    r"(^|\.)(position_ids|attn_mask|num_batches_tracked)$|^(input_resolution|context_length|vocab_size)$"
)


def ignored(name: str) -> bool:
    """True for what files carry beside weights: buffers of positions and masks, counters, the sizes in OpenAI's archives."""
    return _LEFT_OUT.search(name) is not None


def untexted(name: str) -> str:
    """A text key of open_clip's CustomTextCLIP without its `text.`; other names as they are."""
    return name.removeprefix("text.")


def entries(config: Mapping[str, Any], layout: str) -> list[Entry]:
    """All entries of a model (keyword arguments of `nets.CLIP`, with every size in it) in a layout."""
    one_of("layout", layout, LAYOUTS)
    vision, text = config.get("vision"), config.get("text")
    embed: Any = config.get("embed")
    biased = bool(config.get("logit_bias"))
    timm = layout != "hf" and vision is not None and vision.get("pool") == "map"
    if layout == "hf":
        _check_hf(vision or {}, text or {})
    found: list[Entry] = []
    if vision is not None and vision.get("tower") == "resnet":
        if layout == "hf":
            raise UserError("a ResNet tower has no layout in Hugging Face folders")
        found += _resnet(vision, embed)
    elif vision is not None:
        found += (_hf_vision if layout == "hf" else _timm_vision if timm else _vision)(vision, embed)
    if text is not None:
        found += _hf_text(text, embed) if layout == "hf" else _text(text, embed, prefix="text." if timm else "")
    if vision is not None and text is not None:
        shape = (1,) if layout == "hf" and biased else ()
        found.append(plain("logit_scale", "logit_scale", shape, reshaped=()))
        if biased:
            found.append(plain("logit_bias", "logit_bias", shape, reshaped=()))
    return found


def _check_hf(vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """UserError for a tower that is neither CLIPModel's nor SiglipModel's."""
    last = text.get("pool") == "last"
    usual = {"causal": not last, "proj_bias": last, "projected": True, "pre_norm": True, "norm_after_pool": False}
    for name, tower, pools in (("vision", vision, ("class", "map")), ("text", text, ("end", "last"))):
        if tower.get("pool", pools[0]) not in pools:
            raise UserError(f"Hugging Face's models have no {name}.pool {tower['pool']!r}")
        for key, wanted in usual.items():
            if tower.get(key) not in (None, wanted):
                raise UserError(f"Hugging Face's models have no {name}.{key} {tower[key]!r}")


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [plain(f"{ours}/scale", f"{theirs}.weight", (width,)), plain(f"{ours}/bias", f"{theirs}.bias", (width,))]


def _at(layer: int, found: list[Entry]) -> list[Entry]:
    return [dataclasses.replace(entry, layer=layer) for entry in found]


def _hidden(tower: Mapping[str, Any]) -> int:
    return round(tower["width"] * tower["mlp_ratio"])


def _blocks(ours: str, theirs: str, tower: Mapping[str, Any], names: Mapping[str, str]) -> list[Entry]:
    """The stacked blocks; `names` gives the parts of a block, "in_proj" the fused map or "q", "k", "v" three of them."""
    width, hidden, found = tower["width"], _hidden(tower), []
    for i in range(tower["layers"]):
        their = {part: f"{theirs}.{i}.{name}" for part, name in names.items()}
        if "in_proj_weight" in names:
            attention = split([(f"{ours}/attn/in_proj", 3)], their["in_proj_weight"], their["in_proj_bias"], width)
        else:
            attention = fused(f"{ours}/attn/in_proj", [their["q"], their["k"], their["v"]], width)
        found += _at(
            i,
            [
                *_norm(f"{ours}/ln_1", their["ln_1"], width),
                *attention,
                *linear(f"{ours}/attn/out_proj", their["out_proj"], width, width),
                *_norm(f"{ours}/ln_2", their["ln_2"], width),
                *linear(f"{ours}/mlp/c_fc", their["fc"], width, hidden),
                *linear(f"{ours}/mlp/c_proj", their["proj"], hidden, width),
            ],
        )
    return found


_OPENAI = {
    "ln_1": "ln_1", "ln_2": "ln_2", "in_proj_weight": "attn.in_proj_weight", "in_proj_bias": "attn.in_proj_bias",
    "out_proj": "attn.out_proj", "fc": "mlp.c_fc", "proj": "mlp.c_proj",
}  # fmt: skip
_HF = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
    "v": "self_attn.v_proj", "out_proj": "self_attn.out_proj", "fc": "mlp.fc1", "proj": "mlp.fc2",
}  # fmt: skip
_TIMM = {
    "ln_1": "norm1", "ln_2": "norm2", "in_proj_weight": "attn.qkv.weight", "in_proj_bias": "attn.qkv.bias",
    "out_proj": "attn.proj", "fc": "mlp.fc1", "proj": "mlp.fc2",
}  # fmt: skip


def _tokens(vision: Mapping[str, Any]) -> int:
    return (vision["image_size"] // vision["patch"]) ** 2 + (vision["pool"] != "map")


def _vision(vision: Mapping[str, Any], embed: int) -> list[Entry]:
    width, visual = vision["width"], "visual"
    return [
        patches(f"{visual}/patchify/proj", "visual.conv1.weight", vision["channels"], width, vision["patch"]),
        plain(f"{visual}/class_embedding", "visual.class_embedding", (width,)),
        plain(f"{visual}/positional_embedding", "visual.positional_embedding", (_tokens(vision), width)),
        *(_norm(f"{visual}/ln_pre", "visual.ln_pre", width) if vision.get("pre_norm", True) else ()),
        *_blocks(f"{visual}/blocks/layers", "visual.transformer.resblocks", vision, _OPENAI),
        *_norm(f"{visual}/ln_post", "visual.ln_post", width),
        plain(f"{visual}/proj/kernel", "visual.proj", (width, embed)),
    ]


def _text(text: Mapping[str, Any], embed: int | None, prefix: str) -> list[Entry]:
    width = text["width"]
    biased = text.get("proj_bias")
    if embed is None or not text.get("projected", True):
        projection = []
    elif text["pool"] == "last" if biased is None else biased:
        projection = linear("text/proj", f"{prefix}text_projection", width, embed)
    else:
        projection = [plain("text/proj/kernel", f"{prefix}text_projection", (width, embed))]
    return [
        plain("text/token_embedding", f"{prefix}token_embedding.weight", (text["vocabulary_size"], width)),
        plain("text/positional_embedding", f"{prefix}positional_embedding", (text["context_length"], width)),
        *_blocks("text/blocks/layers", f"{prefix}transformer.resblocks", text, _OPENAI),
        *_norm("text/ln_final", f"{prefix}ln_final", width),
        *projection,
    ]


def _timm_vision(vision: Mapping[str, Any], embed: int) -> list[Entry]:
    width, hidden, trunk, head = vision["width"], _hidden(vision), "visual.trunk", "visual.trunk.attn_pool"
    shape = (_tokens(vision), width)
    kv = split([("visual/head/attn/kv_proj", 2)], f"{head}.kv.weight", f"{head}.kv.bias", width)
    return [
        patches("visual/patchify/proj", f"{trunk}.patch_embed.proj.weight", vision["channels"], width, vision["patch"]),
        plain("visual/patchify/proj/bias", f"{trunk}.patch_embed.proj.bias", (width,)),
        plain("visual/positional_embedding", f"{trunk}.pos_embed", (1, *shape), reshaped=shape),
        *_blocks("visual/blocks/layers", f"{trunk}.blocks", vision, _TIMM),
        *_norm("visual/ln_post", f"{trunk}.norm", width),
        plain("visual/head/probe", f"{head}.latent", (1, 1, width), reshaped=(1, width)),
        *linear("visual/head/attn/q_proj", f"{head}.q", width, width),
        *kv,
        *linear("visual/head/attn/out_proj", f"{head}.proj", width, width),
        *_norm("visual/head/ln", f"{head}.norm", width),
        *linear("visual/head/mlp/c_fc", f"{head}.mlp.fc1", width, hidden),
        *linear("visual/head/mlp/c_proj", f"{head}.mlp.fc2", hidden, width),
        *_joint(vision, embed, "visual.head.proj"),
    ]


def _joint(vision: Mapping[str, Any], embed: int, theirs: str) -> list[Entry]:
    """The projection of a pooled tower whose width is not the embedding's."""
    return [] if vision["width"] == embed else linear("visual/proj", theirs, vision["width"], embed, bias=False)


def _hf_vision(vision: Mapping[str, Any], embed: int) -> list[Entry]:
    width, hidden, model = vision["width"], _hidden(vision), "vision_model"
    at = f"{model}.embeddings"
    found = [
        patches("visual/patchify/proj", f"{at}.patch_embedding.weight", vision["channels"], width, vision["patch"]),
        plain("visual/positional_embedding", f"{at}.position_embedding.weight", (_tokens(vision), width)),
        *_blocks("visual/blocks/layers", f"{model}.encoder.layers", vision, _HF),
        *_norm("visual/ln_post", f"{model}.post_layernorm", width),
    ]
    if vision["pool"] == "class":
        return [
            *found,
            plain("visual/class_embedding", f"{at}.class_embedding", (width,)),
            *_norm("visual/ln_pre", f"{model}.pre_layrnorm", width),
            *linear("visual/proj", "visual_projection", width, embed, bias=False),
        ]
    if width != embed:
        raise UserError(f"Hugging Face's SigLIP has no projection of its vision tower: embed {embed}, width {width}")
    head = f"{model}.head"
    parts = [("visual/head/attn/q_proj", 1), ("visual/head/attn/kv_proj", 2)]
    return [
        *found,
        plain("visual/patchify/proj/bias", f"{at}.patch_embedding.bias", (width,)),
        plain("visual/head/probe", f"{head}.probe", (1, 1, width), reshaped=(1, width)),
        *split(parts, f"{head}.attention.in_proj_weight", f"{head}.attention.in_proj_bias", width),
        *linear("visual/head/attn/out_proj", f"{head}.attention.out_proj", width, width),
        *_norm("visual/head/ln", f"{head}.layernorm", width),
        *linear("visual/head/mlp/c_fc", f"{head}.mlp.fc1", width, hidden),
        *linear("visual/head/mlp/c_proj", f"{head}.mlp.fc2", hidden, width),
    ]


def _hf_text(text: Mapping[str, Any], embed: int | None) -> list[Entry]:
    width, model = text["width"], "text_model"
    if embed is None:
        projection = []
    elif text["pool"] == "last":
        projection = linear("text/proj", f"{model}.head", width, embed)
    else:
        projection = linear("text/proj", "text_projection", width, embed, bias=False)
    at = f"{model}.embeddings"
    return [
        plain("text/token_embedding", f"{at}.token_embedding.weight", (text["vocabulary_size"], width)),
        plain("text/positional_embedding", f"{at}.position_embedding.weight", (text["context_length"], width)),
        *_blocks("text/blocks/layers", f"{model}.encoder.layers", text, _HF),
        *_norm("text/ln_final", f"{model}.final_layer_norm", width),
        *projection,
    ]


def _batch_norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [
        *_norm(ours, theirs, width),
        plain(f"{ours}/mean", f"{theirs}.running_mean", (width,)),
        plain(f"{ours}/var", f"{theirs}.running_var", (width,)),
    ]


def _bottleneck(ours: str, theirs: str, features_in: int, width: int, changed: bool) -> list[Entry]:
    found = []
    for n, (first, last, size) in enumerate(((features_in, width, 1), (width, width, 3), (width, 4 * width, 1)), 1):
        found.append(conv(f"{ours}/conv{n}", f"{theirs}.conv{n}", first, last, size))
        found += _batch_norm(f"{ours}/bn{n}", f"{theirs}.bn{n}", last)
    if changed:
        found.append(conv(f"{ours}/shortcut", f"{theirs}.downsample.0", features_in, 4 * width, 1))
        found += _batch_norm(f"{ours}/shortcut_bn", f"{theirs}.downsample.1", 4 * width)
    return found


def _resnet(vision: Mapping[str, Any], embed: int) -> list[Entry]:
    width, found = vision["width"], []
    half = width // 2
    for n, (first, last) in enumerate(((vision["channels"], half), (half, half), (half, width)), 1):
        found.append(conv(f"visual/conv{n}", f"visual.conv{n}", first, last, 3))
        found += _batch_norm(f"visual/bn{n}", f"visual.bn{n}", last)
    features = width
    for stage, blocks in enumerate(vision["layers"], 1):
        inner, name = width * 2 ** (stage - 1), f"layer{stage}"
        found += _bottleneck(f"visual/{name}/first", f"visual.{name}.0", features, inner, True)
        features = 4 * inner
        for block in range(1, blocks):
            rest = _bottleneck(f"visual/{name}/rest/layers", f"visual.{name}.{block}", features, inner, False)
            found += _at(block - 1, rest)
    tokens = (vision["image_size"] // 32) ** 2 + 1
    pool = "visual/attnpool"
    found.append(plain(f"{pool}/positional_embedding", "visual.attnpool.positional_embedding", (tokens, features)))
    for part in "qkv":
        found += linear(f"{pool}/{part}_proj", f"visual.attnpool.{part}_proj", features, features)
    return [*found, *linear(f"{pool}/c_proj", "visual.attnpool.c_proj", features, embed)]
