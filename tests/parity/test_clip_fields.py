"""Every field of a config that is read, at a value other than its default, beside the peer built from the same config."""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

from families import fill  # noqa: E402
from foreign import BASES, CASES, TABLES, with_fields  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from diffusion_jax import build  # noqa: E402
from diffusion_jax.convert import load_clip  # noqa: E402
from diffusion_jax.convert.clip import described  # noqa: E402
from diffusion_jax.nets import CLIP, Network  # noqa: E402

NOT_BUILT = ("vision_cfg of SigLIP",)  # 86 million parameters: test_clip_families
MODELS = [
    (table, fields)
    for table, rows in CASES.items()
    if table not in (*NOT_BUILT, "preprocessor_config.json", "preprocess_cfg")
    for cases in rows.values()
    for fields, wanted in cases
    if isinstance(wanted, dict) and not (table.endswith("vision_config") and list in map(type, fields.values()))
]
UNUSED = [
    ("vision_cfg", {"patch_dropout": 0.5, "attn_pooler_queries": 3, "attn_pooler_heads": 2, "timm_pool": "map"}),
    ("vision_cfg", {"block_type": "custom", "pos_embed_type": "learnable"}),
    (
        "vision_cfg of a ResNet",
        {"pool_type": "avg", "mlp_ratio": 2.0, "patch_size": 3, "no_ln_pre": True, "qk_norm": True},
    ),
    (
        "text_cfg",
        {"pad_id": 5, "eos_id": 9, "hf_proj_type": "x", "hf_pooler_type": "cls_pooler", "final_ln_after_pool": True,
         "tokenizer_kwargs": {"clean": "x"}, "hf_tokenizer_name": "x", "hf_model_pretrained": False, "block_type": "custom"},
    ),
    ("model_cfg", {"init_logit_scale": 1.0, "nonscalar_logit_scale": True, "init_logit_bias": -3.0}),
    (
        "clip text_config",
        {"attention_dropout": 0.5, "dropout": 0.5, "top_k": 7, "length_penalty": 3.0, "bos_token_id": 3, "pad_token_id": 4,
         "is_decoder": True, "chunk_size_feed_forward": 2, "tie_word_embeddings": False, "initializer_range": 3.0},
    ),
    ("clip vision_config", {"attention_dropout": 0.5, "dropout": 0.5, "top_p": 0.5, "projection_dim": 99}),
    ("clip", {"logit_scale_init_value": 1.0, "initializer_factor": 3.0, "id2label": {"0": "a"}}),
    ("siglip text_config", {"eos_token_id": 3, "bos_token_id": 3, "pad_token_id": 4, "attention_dropout": 0.5}),
    ("siglip vision_config", {"attention_dropout": 0.5, "initializer_range": 3.0}),
]  # fmt: skip


def peer(files):
    """The peer's model and its kind."""
    if "config.json" in files:
        config = copy.deepcopy(files["config.json"])
        family = {"clip": "CLIP", "siglip": "Siglip"}[config.pop("model_type")]
        model, made = (getattr(transformers, f"{family}{part}") for part in ("Model", "Config"))
        return model(made(**config)).eval(), "hf"
    config = copy.deepcopy(files["open_clip_config.json"]["model_cfg"])
    return open_clip.CLIP(**config).eval(), "open_clip"


def embeddings(model, kind, images, tokens):
    pixels, ids = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(tokens)
    with torch.no_grad():
        if kind == "hf":
            found = model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=ids)
        else:
            found = model.encode_image(pixels), model.encode_text(ids)
    return [getattr(x, "pooler_output", x).numpy() for x in found]


@pytest.mark.parametrize(("table", "fields"), [*MODELS, *UNUSED], ids=str)
def test_embeddings_are_the_peers(table, fields, tmp_path):
    files = with_fields(table, fields)
    model, kind = peer(files)
    state = {k: v for k, v in model.state_dict().items() if v.dtype.is_floating_point and not k.endswith("attn_mask")}
    weights = fill({name: tuple(value.shape) for name, value in state.items()})
    model.load_state_dict(
        {k: torch.from_numpy(np.array(v)).reshape(state[k].shape) for k, v in weights.items()}, strict=False
    )
    save_file(weights, tmp_path / ("model.safetensors" if kind == "hf" else "open_clip_model.safetensors"))
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    config, params = load_clip(tmp_path)
    vision, text = config["vision"], config["text"]
    rng = np.random.default_rng(1)
    size = vision["image_size"]
    images = rng.standard_normal((3, size, size, vision["channels"])).astype(np.float32)
    tokens = rng.integers(1, text["vocabulary_size"] - 2, (3, text["context_length"]))
    for row, end in enumerate((5, text["context_length"] - 1, 2)):
        tokens[row, end], tokens[row, end + 1 :], tokens[row, end - 1] = text["vocabulary_size"] - 1, 0, 7
    network = Network(
        lambda rngs: CLIP(rngs, **{key: config[key] for key in ("embed", "vision", "text", "logit_bias")})
    )
    wanted = embeddings(model, kind, images, tokens)
    for tower, given, there in zip(("image", "text"), (images, tokens), wanted):
        here = np.asarray(jax.jit(network.method(f"encode_{tower}"))(params, given).embedding)
        assert np.abs(here - there).max() <= 1e-5 * max(1, np.abs(there).max()), tower


def pictures():
    rng = np.random.default_rng(0)
    shapes = {"RGB": [(33, 50), (50, 37), (16, 19)], "P": [(40, 61)], "L": [(23, 21)], "1": [(30, 30)]}
    for mode, shape in ((mode, shape) for mode, those in shapes.items() for shape in those):
        noise = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        yield noise.quantize(16) if mode == "P" else noise.convert(mode)


PREPARED = [
    (table, fields)
    for table in ("preprocessor_config.json", "preprocess_cfg")
    for cases in CASES[table].values()
    for fields, wanted in cases
    if isinstance(wanted, dict) and None not in fields.values()  # newer transformers stops at a null mean
]


@pytest.mark.parametrize(
    ("table", "fields"), [*PREPARED, ("preprocessor_config.json", {"do_convert_rgb": True})], ids=str
)
def test_pictures_are_the_peers(table, fields):
    files = with_fields(table, fields)
    config = described({}, files, "")
    ours = build.preprocess(config.pop("preprocess"), {**config})
    if table == "preprocess_cfg":
        from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

        told = merge_preprocess_dict(PreprocessCfg(), {**files["open_clip_config.json"]["preprocess_cfg"], "size": 16})
        transform = image_transform_v2(PreprocessCfg(**told), is_train=False)
        there = lambda picture: transform(picture).numpy()  # noqa: E731
    else:
        told = files[table]
        name = told.get("image_processor_type") or "CLIPImageProcessor"
        processor = getattr(transformers, f"{name}Pil")(**told)
        there = lambda picture: np.asarray(processor(picture)["pixel_values"][0])  # noqa: E731
    for picture in pictures():
        wanted = there(picture).transpose(1, 2, 0)
        found = ours(picture)
        assert np.abs(found - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max()), (picture.mode, picture.size)
        if picture.mode == "RGB":
            device = np.asarray(ours.on_device(np.asarray(picture)[None])[0])
            assert np.abs(device - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


def test_every_field_of_the_peers_has_a_row():
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg
    from open_clip.transform import PreprocessCfg
    from transformers.processing_utils import ImagesKwargs

    def fields(cls):
        return {field.name for field in dataclasses.fields(cls)}

    for table, names in {
        "vision_cfg": fields(CLIPVisionCfg),
        "vision_cfg of a ResNet": fields(CLIPVisionCfg),
        "vision_cfg of SigLIP": fields(CLIPVisionCfg),
        "text_cfg": fields(CLIPTextCfg),
        "preprocess_cfg": fields(PreprocessCfg),
        "preprocessor_config.json": set(ImagesKwargs.__annotations__),
        "clip": fields(transformers.CLIPConfig),
        "clip text_config": fields(transformers.CLIPTextConfig),
        "clip vision_config": fields(transformers.CLIPVisionConfig),
        "siglip": fields(transformers.SiglipConfig),
        "siglip text_config": fields(transformers.SiglipTextConfig),
        "siglip vision_config": fields(transformers.SiglipVisionConfig),
    }.items():
        missing = {name for name in names if not name.startswith("_")} - TABLES[table].keys()
        assert not missing, (table, missing)
    assert transformers.GenerationConfig._get_default_generation_params().keys() <= TABLES["clip text_config"].keys()
    assert BASES.keys() == TABLES.keys()
