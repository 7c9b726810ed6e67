"""`weights.path`: what training begins with is the config's model in everything that changes what it computes."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import smallruns as tiny

from diffusion_jax import build, load_config, load_pretrained
from diffusion_jax.convert import save_clip
from diffusion_jax.convert.clip import described
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.data.text.bpe_learning import learn_vocabulary
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.nets import complete
from diffusion_jax.systems.clip import pretrained
from diffusion_jax.systems.clip.pretrained import initial_params
from diffusion_jax.systems.clip.run import clip_model_of
from diffusion_jax.typing import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

from test_clip_held import OPENAI, RESNET, model, weights

WORDS = WordTokenizer(tuple("abcdefghijklmnopq"), 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights")
    config = model()
    save_clip(place / "hf", config, weights(config), "hf")
    return place / "hf"


def begun(folder, here, tokenizer=WORDS, prepare=None, **spec):
    prepare = prepare or {**OPENAI, **here.pop("preprocess", {})}
    return initial_params({"path": str(folder), **spec}, complete(here), tokenizer, Preprocess(size=8, **prepare))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vision": {"heads": 4}}, "model.vision.heads 1 there, 4 here; set model.vision.heads=1"),
        ({"text": {"heads": 2}}, "model.text.heads 1 there, 2 here"),
        ({"vision": {"activation": "gelu"}}, "model.vision.activation 'quick_gelu' there, 'gelu' here"),
        ({"text": {"activation": "gelu_tanh"}}, "set model.text.activation=quick_gelu"),
        ({"vision": {"eps": 1e-6}}, "model.vision.eps 1e-05 there, 1e-06 here"),
        ({"text": {"end_token": 3}}, "model.text.end_token None there, 3 here"),
        ({"text": {"pool": "last"}}, "model.text.pool 'end' there, 'last' here"),
        ({"vision": {"pool": "map"}}, "model.vision.pool 'class' there, 'map' here"),
        ({"logit_bias": True}, "model.logit_bias False there, True here"),
        ({"embed": 32}, "model.embed 64 there, 32 here"),
        ({"text": {"width": 128}}, "model.text.width 64 there, 128 here"),
        ({"vision": {"mlp_ratio": 2.0}}, "model.vision.mlp_ratio 4.0 there, 2.0 here"),
        ({"vision": {"channels": 1}}, "model.vision.channels 3 there, 1 here"),
        ({"vision": RESNET}, "model.vision.tower 'vit' there, 'resnet' here"),
        ({"vision": {"image_size": 16}}, "--image-size 16 --out NEW`"),
        ({"text": {"context_length": 9}}, "--context-length 9 --out NEW`"),
        ({"text": {"vocabulary_size": 30}}, "model.text.vocabulary_size 20 there, 30 here; set the tokenizer"),
        ({"preprocess": {"mean": (0.5, 0.5, 0.5)}}, "there, (0.5, 0.5, 0.5) here; set preprocess.mean=(0.48145466,0."),
        ({"preprocess": {"resize": "squash"}}, "set preprocess.resize=shortest, or weights.preprocess=config"),
        ({"preprocess": {"interpolation": "bilinear"}}, "preprocess.interpolation 'bicubic' there, 'bilinear' here"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_weights_of_another_model_are_refused_by_the_settings_that_differ(folder, changed, said):
    with pytest.raises(UserError) as error:
        begun(folder, model(**changed))
    assert said in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_what_changes_nothing_may_differ(folder, caplog):
    how = {"scan": True, "remat": "full", "norm": "plain", "dtype": "bfloat16", "init": "glorot"}
    same = model(vision={**how, "patch_dropout": 0.5}, text={**how, "end_token": 19, "mlp_ratio": 4.001})
    found = begun(folder, same)
    for name, value in weights(model()).items():
        if name.startswith("logit"):
            np.testing.assert_array_equal(found[name], value)
    begun(folder, model(preprocess={"mean": (0.5, 0.5, 0.5)}), preprocess="config")
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match=r"weights\.preprocess 'confg' is not known"):
        begun(folder, model(), preprocess="confg")


def test_a_vocabulary_beside_the_weights_is_the_config_s(tmp_path):
    for name, texts in (
        ("one", ["a red square", "a red circle"] * 3),
        ("two", ["some blue seas", "some blue sky"] * 3),
    ):
        learn_vocabulary(texts, 6, tmp_path / name)
    one, two = (build.tokenizer({"name": "bpe", "path": str(tmp_path / n)}, 6) for n in ("one", "two"))
    assert one.vocabulary_size == two.vocabulary_size and one != two
    config = model(text={"vocabulary_size": one.vocabulary_size})
    beside = {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()}
    save_clip(tmp_path / "hf", config, weights(config), "hf", beside=beside)
    begun(tmp_path / "hf", config, one)
    for other in (two, WordTokenizer(tuple(f"w{i}" for i in range(one.vocabulary_size - 3)), 6)):
        with pytest.raises(
            UserError, match=r"the same ids would be other words; set tokenizer\.name=bpe tokenizer\.path"
        ):
            begun(tmp_path / "hf", config, other)


PUBLISHED = {
    "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "model_type": "clip",
    "projection_dim": 512,
    "text_config": {
        "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
        "hidden_size": 512, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 2048,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 8,
        "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 512, "vocab_size": 49408,
    },
    "vision_config": {
        "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 768, "image_size": 224,
        "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model", "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 32,
        "projection_dim": 512,
    },
}  # fmt: skip
PREPARED = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224,
}  # fmt: skip


class Published(WordTokenizer):
    """A tokenizer of the size of CLIP's."""

    vocabulary_size, end = 49408, 49407


class EndsAtOne(WordTokenizer):
    """A tokenizer whose end token is not its largest id."""

    end = 1


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_finetune_variant_is_the_published_model(activation, tmp_path, monkeypatch):
    told = json.loads(json.dumps(PUBLISHED).replace("quick_gelu", activation))
    found = described({}, {"config.json": told, "preprocessor_config.json": PREPARED}, "")
    monkeypatch.setattr(pretrained, "read_weights", lambda path, model: (dict(found), {}))
    config = load_config(f"{tiny.FOLDER}:finetune")
    sizes = clip_model_of(config, Published(("a",), 77))
    prepare = build.preprocess(config.preprocess, sizes)
    spec = {"path": str(tmp_path)}
    if activation == "quick_gelu":
        assert initial_params(spec, sizes, Published(("a",), 77), prepare) == {}
    else:
        with pytest.raises(UserError, match=r"set model\.preset=ViT-B-32 with model\.vision and model\.text emptied"):
            initial_params(spec, sizes, Published(("a",), 77), prepare)


def test_a_tokenizer_that_ends_elsewhere_than_the_tower_looks_is_refused(tmp_path):
    config = model(text={"end_token": None, "vocabulary_size": 30})
    save_clip(tmp_path / "hf", config, weights(config), "hf")
    assert load_pretrained(tmp_path / "hf", tokenizer=WORDS).encode_text(["a b"]).shape == (1, 64)
    with pytest.raises(
        UserError, match="takes its feature at the largest id of a row, and the tokenizer ends a text with id 1"
    ):
        load_pretrained(tmp_path / "hf", tokenizer=EndsAtOne(WORDS.vocabulary, 6))
