"""Every field that another library's config knows: read, refused by name or without effect; the tables are walked by row."""

import json

import numpy as np
import pytest
from foreign import BASES, CASES, OC_VIT, TABLES, hf, open_clip, understood, with_fields
from PIL import Image
from safetensors.numpy import save_file
from test_clip_goldens import checkpoint

from diffusion_jax import build
from diffusion_jax.convert import load_clip
from diffusion_jax.convert.clip import described
from diffusion_jax.convert.clip_preprocess import resized_preprocess
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.systems.clip.pretrained import load_pretrained
from diffusion_jax.typing import UserError

ROWS = [(table, name) for table, rows in TABLES.items() for name in rows]
ODD = (7, "x", {"a": [1]}, True, [0.5], -0.25)


def refusal(files):
    with pytest.raises(UserError) as error:
        understood(files)
    assert "\n" not in str(error.value)
    return str(error.value)


def outcome(files):
    """What is read, or None where it is refused."""
    try:
        return understood(files)
    except UserError:
        return None


def test_every_table_has_a_base_and_every_field_that_is_read_a_case():
    assert BASES.keys() == TABLES.keys() == CASES.keys()
    for table, rows in TABLES.items():
        assert {name for name, field in rows.items() if field.use == "read"} == CASES[table].keys(), table


@pytest.mark.parametrize(("table", "name"), ROWS, ids=lambda part: part.replace(" ", "_"))
def test_a_field_is_read_refused_or_without_effect(table, name):
    base, field = understood(BASES[table][0]), TABLES[table][name]
    place = f"at/{BASES[table][1][0]}"
    if field.use == "unused":
        for value in ODD:
            assert understood(with_fields(table, {name: value})) == base, value
        return
    if field.use == "only":
        possible = [value for value in ODD if outcome(with_fields(table, {name: value})) == base]
        for value in (value for value in ODD if value not in possible):
            said = refusal(with_fields(table, {name: value}))
            assert said.startswith(place) and f"{name} {value!r}" in said, said
        assert len(possible) <= 1
        return
    for fields, wanted in CASES[table][name]:
        assert name in fields or fields.keys() <= CASES[table].keys()
        if isinstance(wanted, str):
            said = refusal(with_fields(table, fields))
            assert said.startswith(place) and wanted in said, said
            continue
        found = understood(with_fields(table, fields))
        changed = {key: found.get(key) for key in found.keys() | base.keys() if found.get(key) != base.get(key)}
        assert changed.keys() == wanted.keys(), (fields, changed)
        for key, value in wanted.items():
            assert changed[key] == (pytest.approx(value) if not isinstance(value, str) else value), (fields, key)


@pytest.mark.parametrize("table", TABLES)
def test_what_no_table_has_is_refused_by_name_and_nothing_is_nothing(table):
    base = understood(BASES[table][0])
    known = next(name for name in TABLES[table] if len(name) > 5)
    said = refusal(with_fields(table, {f"{known}x": 3}))
    assert f"{known}x 3 is not known; did you mean '{known}'?" in said and said.startswith(f"at/{BASES[table][1][0]}")
    assert understood(with_fields(table, {f"{known}x": None, "_note": "of the tool"})) == base


def test_a_group_that_is_none_is_one_line():
    for files in (
        {"open_clip_config.json": {"model_cfg": 3}},
        {"open_clip_config.json": {"model_cfg": {"embed_dim": 4}}},
    ):
        assert "open_clip_config.json" in refusal(files)
    assert "did you mean 'preprocess_cfg'" in refusal(
        {"open_clip_config.json": {**open_clip(OC_VIT)["open_clip_config.json"], "preproces_cfg": {}}}
    )
    assert "preprocess_cfg 3 is no group" in refusal(
        {"open_clip_config.json": {**open_clip(OC_VIT)["open_clip_config.json"], "preprocess_cfg": 3}}
    )


def test_one_tower_has_its_own_projection():
    text = hf("clip")["config.json"]["text_config"]
    alone = {**text, "model_type": "clip_text_model", "projection_dim": 20}
    assert (
        described({}, {"config.json": {**alone, "architectures": ["CLIPTextModelWithProjection"]}}, "")["embed"] == 20
    )
    assert described({}, {"config.json": {**alone, "architectures": ["CLIPTextModel"]}}, "")["embed"] is None


def test_palette_pictures_of_hugging_face_are_made_rgb_before_the_resize():
    """As transformers does; open_clip resizes first, and a palette's indices have no mean."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)).quantize(16)
    prepared = {}
    for name, table in (("hf", "clip"), ("open_clip", "vision_cfg")):
        config = described({}, BASES[table][0], "")
        prepared[name] = build.preprocess(config["preprocess"], config).pixels(noise).astype(int)
    wide = noise.convert("RGB").resize((24, 16), Image.Resampling.BICUBIC)  # int(16 x 61 / 40)
    np.testing.assert_array_equal(prepared["hf"], np.asarray(wide)[:, 4:20])
    assert np.abs(prepared["hf"] - prepared["open_clip"]).max() > 60


def test_another_size_keeps_the_share_of_the_border():
    told = {"size": 20, "mean": [0.5] * 3}
    assert resized_preprocess(told, 16, 32) == {**told, "size": 40}
    pre = build.preprocess(told, {"vision": {"image_size": 16}, "logit_bias": False})
    assert (pre.size, pre.edge) == (20, 16)
    with pytest.raises(UserError, match=r"crop 16 is not in 1 \.\. 12"):
        build.preprocess({"size": 12}, {"vision": {"image_size": 16}, "logit_bias": False})


OLD = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0, "bad_words_ids": None,
    "bos_token_id": 0, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0, "do_sample": False, "dropout": 0.0,
    "early_stopping": False, "eos_token_id": 2, "finetuning_task": None, "hidden_act": "quick_gelu", "hidden_size": 512,
    "id2label": {"0": "LABEL_0"}, "initializer_factor": 1.0, "intermediate_size": 2048, "is_decoder": False,
    "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20, "max_position_embeddings": 77, "min_length": 0,
    "model_type": "clip_text_model", "no_repeat_ngram_size": 0, "num_attention_heads": 8, "num_beams": 1,
    "num_hidden_layers": 12, "num_return_sequences": 1, "output_attentions": False, "pad_token_id": 1, "prefix": None,
    "projection_dim": 512, "pruned_heads": {}, "repetition_penalty": 1.0, "return_dict": True, "temperature": 1.0,
    "tie_word_embeddings": True, "top_k": 50, "top_p": 1.0, "torch_dtype": None, "torchscript": False,
    "transformers_version": "4.16.0.dev0", "typical_p": 1.0, "use_bfloat16": False, "vocab_size": 49408,
}  # fmt: skip


def test_published_folders_keep_loading():
    """As the files of openai/clip-vit-base-patch32, google/siglip-base-patch16-224 and a CLIPA of open_clip are written."""
    told = {
        "config.json": {
            "_name_or_path": "openai/clip-vit-base-patch32", "architectures": ["CLIPModel"], "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 512, "text_config": OLD,
            "text_config_dict": None, "torch_dtype": "float32", "transformers_version": None, "vision_config_dict": None,
            "vision_config": {
                **{k: v for k, v in OLD.items() if k not in ("vocab_size", "max_position_embeddings")}, "image_size": 224,
                "patch_size": 32, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                "model_type": "clip_vision_model",
            },
        },
        "preprocessor_config.json": {
            "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 224,
            "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    }  # fmt: skip
    found = understood(told)
    assert found["text.end_token"] is None and found["vision.patch"] == 32 and found["preprocess.resize"] == "shortest"
    told = {
        "config.json": {
            "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip", "torch_dtype": "float32",
            "text_config": {"model_type": "siglip_text_model"}, "transformers_version": "4.37.0.dev0",
            "vision_config": {"model_type": "siglip_vision_model"},
        },
        "preprocessor_config.json": {
            "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5], "resample": 3,
            "processor_class": "SiglipProcessor", "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
        },
    }  # fmt: skip
    assert understood(told)["preprocess.resize"] == "squash"
    vision = {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14, "no_ln_pre": True, "pool_type": "avg"}
    text = {
        "context_length": 32, "vocab_size": 32000, "hf_tokenizer_name": "bert-base-uncased", "width": 768, "heads": 12,
        "tokenizer_kwargs": {"strip_sep_token": True}, "layers": 12, "pool_type": "last", "no_causal_mask": True,
    }  # fmt: skip
    found = understood(open_clip({**vision, "final_ln_after_pool": True}, text, 768))
    assert (found["vision.pool"], found["text.pool"], found["text.proj_bias"]) == ("avg", "last", False)


def test_a_tokenizer_that_is_not_clips_is_asked_for(tmp_path):
    checkpoint("openai_vit", tmp_path)
    told = json.loads((tmp_path / "open_clip_config.json").read_text())
    told["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "bert-base-uncased"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    assert load_clip(tmp_path)[0]["text"]["pool"] == "end"  # the model itself is whole
    for tokenizer in (None, tmp_path):
        with pytest.raises(UserError, match="the tokenizer 'bert-base-uncased' is neither CLIP's nor SigLIP's"):
            load_pretrained(tmp_path, tokenizer=tokenizer)
    assert load_pretrained(tmp_path, tokenizer=WordTokenizer(("a",), 12)).tokenizer.context_length == 12


def test_a_refusal_reaches_the_user_of_a_folder(tmp_path):
    save_file({"visual.conv1.weight": np.zeros((1, 1), np.float32)}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps(with_fields("text_cfg", {"hf_model_name": "roberta-base"})["open_clip_config.json"])
    )
    with pytest.raises(
        UserError, match=r"open_clip_config\.json: text_cfg: hf_model_name 'roberta-base' is not possible here"
    ):
        load_clip(tmp_path)
