"""Small configs of every kind that `convert.described` reads, and for every field that is read a value other than its default.

`CASES[table][field]` are pairs: what is put into the group (the field and what it needs beside it), and what of the config then
differs, by dotted name; or, in place of the latter, a part of the refusal.
"""

import copy

import numpy as np

from diffusion_jax.convert.clip import described
from diffusion_jax.convert.clip_config_hf import HF_TABLES
from diffusion_jax.convert.clip_config_open_clip import OPEN_CLIP_TABLES
from diffusion_jax.convert.clip_preprocess import PREPROCESS_TABLES

TABLES = {**HF_TABLES, **OPEN_CLIP_TABLES, **PREPROCESS_TABLES}
HF_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60,
    "max_position_embeddings": 12,
}  # fmt: skip
HF_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
OC_TEXT = {"context_length": 12, "vocab_size": 60, "width": 64, "heads": 2, "layers": 2}
OC_VIT = {"image_size": 16, "patch_size": 4, "width": 64, "head_width": 32, "layers": 2}
OC_RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
OC_TIMM = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none", "image_size": 32}
LAST = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
TRUNK = {
    f"visual.trunk.{name}": np.broadcast_to(np.float32(0), shape)
    for name, shape in {
        "patch_embed.proj.weight": (768, 3, 16, 16), "pos_embed": (1, 4, 768), "blocks.0.mlp.fc1.weight": (3072, 768),
    }.items()
}  # fmt: skip


def hf(family):
    text = {**HF_TEXT, "eos_token_id": 59} if family == "clip" else HF_TEXT
    sizes = {"model_type": family, "text_config": text, "vision_config": HF_VISION}
    return {"config.json": sizes | ({"projection_dim": 24} if family == "clip" else {})}


def open_clip(vision, text=None, embed=24):
    model = {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text or OC_TEXT}
    return {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": {}}}


_PROCESSOR = {"size": 16, "crop_size": 16}
# table: (config files, the group's place in them)
BASES = {
    "clip": (hf("clip"), ("config.json",)),
    "clip text_config": (hf("clip"), ("config.json", "text_config")),
    "clip vision_config": (hf("clip"), ("config.json", "vision_config")),
    "siglip": (hf("siglip"), ("config.json",)),
    "siglip text_config": (hf("siglip"), ("config.json", "text_config")),
    "siglip vision_config": (hf("siglip"), ("config.json", "vision_config")),
    "model_cfg": (open_clip(OC_VIT), ("open_clip_config.json", "model_cfg")),
    "vision_cfg": (open_clip(OC_VIT), ("open_clip_config.json", "model_cfg", "vision_cfg")),
    "vision_cfg of a ResNet": (open_clip(OC_RESNET), ("open_clip_config.json", "model_cfg", "vision_cfg")),
    "vision_cfg of SigLIP": (
        open_clip(OC_TIMM, {**OC_TEXT, **LAST}, 768),
        ("open_clip_config.json", "model_cfg", "vision_cfg"),
    ),
    "text_cfg": (open_clip(OC_VIT), ("open_clip_config.json", "model_cfg", "text_cfg")),
    "preprocessor_config.json": ({**hf("clip"), "preprocessor_config.json": _PROCESSOR}, ("preprocessor_config.json",)),
    "preprocess_cfg": (open_clip(OC_VIT), ("open_clip_config.json", "preprocess_cfg")),
}


def with_fields(table, fields):
    """The config files of a table's base with these fields in its group."""
    files, place = copy.deepcopy(BASES[table])
    group = files
    for name in place:
        group = group[name]
    group.update(fields)
    return files


def understood(files):
    """The config by dotted names."""
    flat = {}

    def walk(tree, prefix):
        for key, value in tree.items():
            walk(value, f"{prefix}{key}.") if isinstance(value, dict) else flat.__setitem__(f"{prefix}{key}", value)

    walk(described(TRUNK, files, "at/"), "")
    return flat


def _tower(side, wider):
    sizes = [
        ({"hidden_size": 48}, {f"{side}.width": 48, f"{side}.mlp_ratio": 64 / 48, **wider}),
        ({"hidden_size": 30}, "hidden_size 30 is not divided by num_attention_heads 4"),
    ]
    return {
        "hidden_size": sizes,
        "intermediate_size": [({"intermediate_size": 80}, {f"{side}.mlp_ratio": 2.5})],
        "num_hidden_layers": [({"num_hidden_layers": 3}, {f"{side}.layers": 3})],
        "num_attention_heads": [({"num_attention_heads": 2}, {f"{side}.heads": 2})],
        "hidden_act": [
            ({"hidden_act": "gelu"}, {f"{side}.activation": "gelu"}),
            ({"hidden_act": "relu"}, "hidden_act 'relu' is not known"),
            ({"hidden_act": 3}, "hidden_act '3' is not known"),
        ],
        "layer_norm_eps": [
            ({"layer_norm_eps": 1e-3}, {f"{side}.eps": 1e-3}),
            ({"layer_norm_eps": 0}, "layer_norm_eps 0 is not a finite number above 0"),
        ],
    }


def _words(**more):
    return {
        "vocab_size": [({"vocab_size": 70}, {"text.vocabulary_size": 70, **more})],
        "max_position_embeddings": [({"max_position_embeddings": 9}, {"text.context_length": 9})],
    }


_PICTURES = {
    "image_size": [
        ({"image_size": 20}, {"vision.image_size": 20}),
        ({"image_size": [20, 20]}, {"vision.image_size": 20}),
        ({"image_size": 18}, {"vision.image_size": 18, "vision.trim": True}),
        ({"image_size": [16, 20]}, "image_size [16, 20] is not square"),
        ({"image_size": "16"}, "image_size '16' is not a whole number of at least 1"),
    ],
    "patch_size": [
        ({"patch_size": 8}, {"vision.patch": 8}),
        ({"patch_size": [4, 8]}, "patch_size [4, 8] is not square"),
    ],
    "num_channels": [({"num_channels": 4}, {"vision.channels": 4})],
}
_ACT = {
    "act_kwargs": lambda side: [
        ({"act_kwargs": {"approximate": "tanh"}}, {f"{side}.activation": "gelu_tanh"}),
        ({"act_kwargs": {"approximate": "sigmoid"}}, "act_kwargs: approximate 'sigmoid' is not known"),
        ({"act_kwargs": {"inplace": True}}, "act_kwargs: inplace True is not known"),
    ],
    "norm_kwargs": lambda side: [
        ({"norm_kwargs": {"eps": 1e-3}}, {f"{side}.eps": 1e-3}),
        ({"norm_kwargs": {"bias": False}}, "norm_kwargs: bias False is not possible"),
        ({"norm_kwargs": 1e-3}, "norm_kwargs 0.001 is no group of fields"),
    ],
    "mlp_ratio": lambda side: [
        ({"mlp_ratio": 3.5}, {f"{side}.mlp_ratio": 3.5}),
        ({"mlp_ratio": 3.99}, {f"{side}.mlp_ratio": 3.99}),  # 255.36, 255 either way
        ({"mlp_ratio": 3.995}, {f"{side}.mlp_ratio": 255 / 64}),  # 255.68 is cut to 255, not rounded to 256
    ],
}
_BLOCKS = {side: {name: cases(side) for name, cases in _ACT.items()} for side in ("text", "vision")}
_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]
_PIXELS = [255 * 0.5] * 3

CASES = {
    "clip": {
        "text_config": [({"text_config": 3}, "text_config 3 is no group of fields")],
        "vision_config": [({"vision_config": [1]}, "vision_config [1] is no group of fields")],
        "text_config_dict": [
            (
                {"text_config_dict": {**HF_TEXT, "eos_token_id": 7, "num_hidden_layers": 3}},
                {"text.end_token": 7, "text.layers": 3},
            ),
        ],
        "vision_config_dict": [({"vision_config_dict": {**HF_VISION, "num_hidden_layers": 3}}, {"vision.layers": 3})],
        "projection_dim": [({"projection_dim": 20}, {"embed": 20})],
    },
    "clip text_config": {
        **_tower("text", {}),
        **_words(**{"text.end_token": 59}),
        "projection_dim": [({"projection_dim": 20}, {})],  # of a tower alone; see test_one_tower_has_its_own_projection
        "eos_token_id": [
            ({"eos_token_id": 7}, {"text.end_token": 7}),
            ({"eos_token_id": 2}, {}),
            ({"eos_token_id": 60}, "eos_token_id 60 is not below vocab_size 60"),
            ({"eos_token_id": [7, 8]}, "eos_token_id [7, 8] is not a whole number"),
        ],
    },
    "clip vision_config": {**_tower("vision", {}), **_PICTURES, "projection_dim": [({"projection_dim": 20}, {})]},
    "siglip": {
        "text_config": [({"text_config": 3}, "text_config 3 is no group of fields")],
        "vision_config": [({"vision_config": 3}, "vision_config 3 is no group of fields")],
    },
    "siglip text_config": {
        **_tower("text", {}),
        "hidden_size": [
            ({"hidden_size": 48, "projection_size": 32}, {"text.width": 48, "text.mlp_ratio": 64 / 48}),
            ({"hidden_size": 48}, "projection_size 48 is not the vision tower's hidden_size 32"),
        ],
        **_words(),
        "projection_size": [({"projection_size": 20}, "projection_size 20 is not the vision tower's hidden_size 32")],
    },
    "siglip vision_config": {
        **_tower("vision", {}),
        "hidden_size": [({"hidden_size": 48}, "projection_size 32 is not the vision tower's hidden_size 48")],
        **_PICTURES,
    },
    "model_cfg": {
        "embed_dim": [({"embed_dim": 20}, {"embed": 20}), ({"embed_dim": None}, "lacks 'embed_dim'")],
        "vision_cfg": [({"vision_cfg": 3}, "vision_cfg 3 is no group of fields")],
        "text_cfg": [({"text_cfg": "clip"}, "text_cfg 'clip' is no group of fields")],
        "quick_gelu": [
            ({"quick_gelu": True}, {"text.activation": "quick_gelu", "vision.activation": "quick_gelu"}),
            ({"quick_gelu": "yes"}, "quick_gelu 'yes' is neither true nor false"),
        ],
        "init_logit_bias": [({"init_logit_bias": -10}, {"logit_bias": True})],
    },
    "vision_cfg": {
        **_BLOCKS["vision"],
        "layers": [
            ({"layers": 3}, {"vision.layers": 3}),
            ({"layers": [1, 1, 1]}, "layers [1, 1, 1] of a ResNet are not four numbers"),
            ({"layers": 0}, "layers 0 is not a whole number of at least 1"),
        ],
        "width": [
            ({"width": 96}, {"vision.width": 96, "vision.heads": 3}),
            ({"width": "64"}, "width '64' is not a whole number"),
        ],
        "head_width": [
            ({"head_width": 16}, {"vision.heads": 4}),
            ({"width": 65, "head_width": 32}, "which do not divide it"),
        ],
        "patch_size": _PICTURES["patch_size"],
        "image_size": [*_PICTURES["image_size"], ({"image_size": [28, 42]}, "image_size [28, 42] is not square")],
        "no_ln_pre": [({"no_ln_pre": True}, {"vision.pre_norm": False})],
        "final_ln_after_pool": [
            ({"final_ln_after_pool": True}, {}),  # the same on the class token
            ({"final_ln_after_pool": True, "pool_type": "avg"}, {"vision.pool": "avg", "vision.norm_after_pool": True}),
        ],
        "pool_type": [
            ({"pool_type": "avg"}, {"vision.pool": "avg"}),
            ({"pool_type": "none"}, "pool_type 'none' is not known"),
        ],
    },
    "vision_cfg of a ResNet": {
        "layers": [({"layers": [1, 2, 1, 1]}, {"vision.layers": [1, 2, 1, 1]})],
        "width": [({"width": 32}, {"vision.width": 32})],
        "image_size": [
            ({"image_size": 96}, {"vision.image_size": 96}),
            ({"image_size": [64, 96]}, "[64, 96] is not square"),
        ],
        "head_width": [({"head_width": 128}, {"vision.heads": 4})],
    },
    "vision_cfg of SigLIP": {
        "timm_model_name": [
            ({"timm_model_name": "vit_base_patch16_clip_224"}, "'vit_base_patch16_clip_224' is not SigLIP's"),
            (
                {"timm_model_name": "vit_base_patch16_siglip_gap_256", "image_size": None},
                "image_size 256 is not that of the weights",
            ),
        ],
        "image_size": [
            ({"image_size": 47}, {"vision.image_size": 47, "vision.trim": True}),
            ({"image_size": 64}, "image_size 64 is not that of the weights, 2 x 2 patches of 16"),
        ],
    },
    "text_cfg": {
        **_BLOCKS["text"],
        "context_length": [({"context_length": 9}, {"text.context_length": 9})],
        "vocab_size": [({"vocab_size": 70}, {"text.vocabulary_size": 70})],
        "width": [({"width": 96}, {"text.width": 96}), ({"width": 65}, "width 65 is not divided by heads 2")],
        "heads": [({"heads": 4}, {"text.heads": 4})],
        "layers": [({"layers": 3}, {"text.layers": 3})],
        "eos_id": [
            ({"eos_id": 7}, {}),  # read where pool_type asks for it
            ({"pool_type": "eos", "eos_id": 7}, {"text.end_token": 7}),
            ({"pool_type": "eos", "eos_id": 60}, "needs eos_id, an id below vocab_size 60; it is 60"),
        ],
        "no_causal_mask": [({"no_causal_mask": True}, {"text.causal": False})],
        "pool_type": [
            ({"pool_type": "last"}, {"text.pool": "last", "text.causal": True, "text.proj_bias": False}),
            (LAST, {"text.pool": "last"}),
            ({"pool_type": "first"}, {"text.pool": "first", "text.causal": True}),
            ({"pool_type": "eos"}, "pool_type 'eos' needs eos_id, an id below vocab_size 60; it is None"),
            ({"pool_type": "none"}, "pool_type 'none' is not known"),
        ],
        "proj_bias": [({"proj_bias": True}, {"text.proj_bias": True})],
        "proj_type": [
            ({"proj_type": "none"}, "proj_type 'none' gives 64 features, and embed_dim is 24"),
            ({"proj_type": "none", "width": 24}, {"text.width": 24, "text.projected": False}),
            ({"proj_type": "mlp"}, "proj_type 'mlp' is not known"),
        ],
    },
    "preprocessor_config.json": {
        "image_processor_type": [
            (
                {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}},
                {"preprocess.mean": [0.5] * 3, "preprocess.std": [0.5] * 3, "preprocess.resize": "squash"},
            ),
            ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor' is not known"),
        ],
        "feature_extractor_type": [
            ({"feature_extractor_type": "CLIPFeatureExtractor"}, {}),
            ({"feature_extractor_type": "CLIPSegFeatureExtractor"}, "'CLIPSegFeatureExtractor' is not known"),
        ],
        "size": [
            ({"size": {"shortest_edge": 20}}, {"preprocess.size": 20}),
            ({"size": {"height": 18, "width": 18}}, {"preprocess.size": 18, "preprocess.resize": "squash"}),
            ({"size": [16, 16]}, {"preprocess.resize": "squash"}),
            ({"size": 12}, "crop_size 16 is above size 12"),
            ({"size": {"longest_edge": 16}}, "size {'longest_edge': 16} is not possible here"),
            ({"size": {"shortest_edge": 16, "longest_edge": 32}}, "is not possible here"),
            ({"size": {"height": 16, "width": 20}}, "is not square"),
        ],
        "default_to_square": [({"default_to_square": True}, {"preprocess.resize": "squash"})],
        "resample": [
            *(
                ({"resample": n}, {"preprocess.interpolation": name})
                for n, name in enumerate(("nearest", "lanczos", "bilinear"))
            ),
            ({"resample": 3}, {}),
            ({"resample": 4}, {"preprocess.interpolation": "box"}),
            ({"resample": 5}, {"preprocess.interpolation": "hamming"}),
            ({"resample": None}, "resample None is not known"),
            ({"resample": 6}, "resample 6 is not known (known: 0 nearest, 1 lanczos"),
        ],
        "do_center_crop": [
            ({"do_center_crop": None}, "size 16 of the shortest edge without do_center_crop"),
            ({"do_center_crop": False}, "size 16 of the shortest edge without do_center_crop"),
            ({"do_center_crop": False, "size": [16, 16], "crop_size": 9}, {"preprocess.resize": "squash"}),
        ],
        "crop_size": [
            ({"crop_size": {"height": 16, "width": 16}, "size": 20}, {"preprocess.size": 20}),
            ({"crop_size": 12}, "crop_size 12 is not the model's image_size 16"),
            ({"crop_size": {"height": 16, "width": 12}}, "is not square"),
        ],
        "do_rescale": [
            (
                {"do_rescale": False, "image_mean": _PIXELS, "image_std": _PIXELS},
                {"preprocess.mean": [0.5] * 3, "preprocess.std": [0.5] * 3},
            )
        ],
        "rescale_factor": [
            ({"rescale_factor": 0.00392156862745098}, {}),
            (
                {"rescale_factor": 1 / 51},
                {"preprocess.mean": [m / 5 for m in _MEAN], "preprocess.std": [s / 5 for s in _STD]},
            ),
            ({"rescale_factor": 0}, "rescale_factor 0 is not a finite number above 0"),
        ],
        "do_normalize": [
            ({"do_normalize": None}, "do_normalize None is neither true nor false"),
            ({"do_normalize": False}, {"preprocess.mean": [0.0] * 3, "preprocess.std": [1.0] * 3}),
        ],
        "image_mean": [
            ({"image_mean": [0.1, 0.2, 0.3]}, {"preprocess.mean": [0.1, 0.2, 0.3]}),
            ({"image_mean": 0.5}, {"preprocess.mean": [0.5] * 3}),
            ({"image_mean": None}, {}),
            ({"image_mean": [0.5]}, "image_mean [0.5] is neither a number nor three of them"),
            ({"image_mean": "0.5"}, "image_mean '0.5' is neither"),
        ],
        "image_std": [
            ({"image_std": [0.1, 0.2, 0.3]}, {"preprocess.std": [0.1, 0.2, 0.3]}),
            ({"image_std": [0.1, 0, 0.3]}, "image_std [0.1, 0, 0.3] must be above 0"),
        ],
    },
    "preprocess_cfg": {
        "mean": [
            ({"mean": [0.5, 0.5, 0.5]}, {"preprocess.mean": [0.5] * 3}),
            ({"mean": 0.5}, {"preprocess.mean": [0.5] * 3}),
        ],
        "std": [({"std": [0.5, 0.5, 0.5]}, {"preprocess.std": [0.5] * 3}), ({"std": -1}, "std -1 must be above 0")],
        "interpolation": [
            ({"interpolation": "bilinear"}, {"preprocess.interpolation": "bilinear"}),
            ({"interpolation": "random"}, {}),
            ({"interpolation": "lanczos"}, "interpolation 'lanczos' is not known"),
        ],
        "resize_mode": [
            ({"resize_mode": "squash"}, {"preprocess.resize": "squash"}),
            ({"resize_mode": "longest"}, "resize_mode 'longest' is not known"),
        ],
    },
}
