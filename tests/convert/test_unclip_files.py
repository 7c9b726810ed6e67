"""unCLIP's prior and text projection in files: there and back, bit for bit, by the command too, and what is refused."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled
from ml_collections import ConfigDict
from safetensors.numpy import load_file
from test_unet_files import equal, filled
from unclip_cases import DECODER, PRIORS, PROJECTION, UPSAMPLER

from diffusion_jax import load_pretrained
from diffusion_jax.cli import main
from diffusion_jax.convert import prior, unclip_text
from diffusion_jax.convert.dit import to_diffusers as to_dit
from diffusion_jax.convert.unet_config import from_diffusers
from diffusion_jax.nets import Network, PriorTransformer, TextProjection, complete_unet, prior_model, unet_model
from diffusion_jax.systems.diffusion.convert import _of_run as of_run
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import UserError

SMALL = prior.from_diffusers(PRIORS["karlo"], "case")
TEXT = unclip_text.from_diffusers(PROJECTION, "case")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_comes_back_bit_for_bit(name, dtype, tmp_path):
    config = prior.from_diffusers(PRIORS[name], "case")
    params = filled(PriorTransformer, config)
    prior.save_prior(tmp_path / "prior", config, params, dtype=dtype)
    found, back = prior.load_prior(tmp_path / "prior")
    assert found == config and equal(back, params) and np.any(params["mean"]) and np.any(params["std"] != 1)
    written = load_file(tmp_path / "prior" / "diffusion_pytorch_model.safetensors")
    assert {str(value.dtype) for value in written.values()} == {dtype}
    assert written["clip_mean"].shape == written["clip_std"].shape == (1, config["out_dim"])


def test_a_text_projection_comes_back_bit_for_bit(tmp_path):
    params = filled(TextProjection, TEXT)
    unclip_text.save_text_projection(tmp_path / "text", TEXT, params)
    found, back = unclip_text.load_text_projection(tmp_path / "text")
    assert found == TEXT and equal(back, params)


def test_published_configs_are_the_presets():
    """Karlo's: of the prior diffusers' defaults; the others with their true widths."""
    assert prior.from_diffusers({"_class_name": "PriorTransformer"}, "karlo") == prior_model("karlo-prior")
    wide = {"block_out_channels": [320, 640, 960, 1280]}
    decoder = DECODER | wide | {"attention_head_dim": 64, "cross_attention_dim": 1536}
    for name, told in (("karlo-decoder", decoder), ("karlo-upsampler", UPSAMPLER | wide)):
        assert complete_unet(from_diffusers(told, name)) == complete_unet(unet_model(name)), name
    text = unclip_text.from_diffusers(
        {"_class_name": "UnCLIPTextProjModel", "time_embed_dim": 1280, "cross_attention_dim": 1536}, "karlo"
    )
    network = Network(lambda rngs: TextProjection(rngs, **text))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 7_878_400  # diffusers' count


def test_a_folder_is_loaded_as_a_network(tmp_path):
    params = filled(PriorTransformer, SMALL)
    prior.save_prior(tmp_path / "prior", SMALL, params)
    loaded = load_pretrained(tmp_path / "prior", scan=True)
    x, time = jnp.ones((2, 12)), jnp.array([17.0, 803.0])
    cond = {"pooled": jnp.ones((2, 12)), "tokens": jnp.ones((2, 7, 12)), "length": jnp.array([2, 7])}
    wanted = Compiled(lambda rngs: PriorTransformer(rngs, **SMALL)).apply(params, x, time, cond)
    np.testing.assert_allclose(jax.jit(loaded.network.apply)(loaded.params, x, time, cond), wanted, atol=1e-5)
    assert loaded.kind == "PriorTransformer" and loaded.config == SMALL


def test_the_command_writes_it_in_half_precision(tmp_path, capsys):
    params = filled(PriorTransformer, SMALL)
    prior.save_prior(tmp_path / "prior", SMALL, params)
    asked = ["convert", str(tmp_path / "prior"), "--dtype", "bfloat16", "--out"]
    assert main([*asked, str(tmp_path / "half")]) == 0
    assert "million parameters of a PriorTransformer written to" in capsys.readouterr().err
    assert equal(prior.load_prior(tmp_path / "half")[1], params)
    assert main([*asked, str(tmp_path / "half.pt"), "--format", "latent"]) != 0
    assert "format 'latent' holds no prior; nearest: 'diffusers'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shape", "entries", "counts"),
    [("prior", (12,), {"pooled": (12,)}, {}), ("dit", (8, 8, 4), {"label": ()}, {"label": 6})],
)
def test_of_a_run_that_leaves_sizes_at_their_defaults_they_are_written(name, shape, entries, counts):
    model = ConfigDict({"name": name, "layers": 1, "time_scale": 1.0})
    config = ConfigDict({"model": model, "prediction": "x0", "time": "t1000", "schedule": {"name": "cosine"}})
    run = object.__new__(DiffusionRun)
    condition = SimpleNamespace(entries=entries, counts=counts)
    run.__dict__.update(config=config, condition=condition, space=SimpleNamespace(shape=shape))
    kind, keywords, size, _ = of_run(run)
    if kind == "DiT":
        wanted = keywords | {"time_shift": 1.0}
        assert (size, to_dit(wanted)["num_attention_heads"]) == (8, 6)
    else:
        told = prior.to_diffusers(keywords)
        assert (size, told["num_attention_heads"], told["attention_head_dim"]) == (None, 8, 64)
        assert prior.from_diffusers(told, "run")["context_length"] is None


SHAP_E = {"num_embeddings": 1024, "additional_embeddings": 0, "encoder_hid_proj_type": None, "added_emb_type": None}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (SHAP_E, "additional_embeddings 0 is not possible with added_emb_type None, only 3"),
        ({"additional_embeddings": 3}, "additional_embeddings 3 is not possible with added_emb_type 'prd', only 4"),
        ({"encoder_hid_proj_type": None}, "encoder_hid_proj_type None is not possible with num_embeddings 7"),
        ({"num_embeddings": 0}, "encoder_hid_proj_type 'linear' is not possible with num_embeddings 0"),
        ({"encoder_hid_proj_type": "mlp"}, "encoder_hid_proj_type 'mlp' is not known"),
        ({"added_emb_type": "time"}, "added_emb_type 'time' is not known"),
        ({"norm_in_type": "group"}, "norm_in_type 'group' is not known"),
        ({"embedding_proj_norm_type": "rms"}, "embedding_proj_norm_type 'rms' is not known"),
        ({"time_embed_act_fn": "tanh"}, "time_embed_act_fn 'tanh' is not known"),
        ({"embeding_dim": 8}, "embeding_dim 8 is not known; did you mean 'embedding_dim'?"),
        ({"num_layers": 0}, "num_layers 0 is not a whole number of at least 1"),
        ({"num_layers": 3}, "missing: transformer_blocks.2.norm1.weight"),
        ({"norm_in_type": "layer"}, "2 missing: norm_in.weight, norm_in.bias"),
        ({"clip_embed_dim": 14}, "clip_mean [1, 12] (should be [1, 14])"),
        ({"_class_name": "UnCLIPTextProjModel"}, "holds a UnCLIPTextProjModel, which is not read here; read are"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_that_is_not_read_is_one_line(fields, said, tmp_path):
    prior.save_prior(tmp_path / "prior", SMALL, filled(PriorTransformer, SMALL))
    file = tmp_path / "prior" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_pretrained(tmp_path / "prior")
    assert "\n" not in str(caught.value)


def test_what_diffusers_has_not_is_refused_by_its_keyword(tmp_path):
    params, text = filled(PriorTransformer, SMALL), filled(TextProjection, TEXT)
    prior.save_prior(tmp_path / "prior", SMALL, params)
    (tmp_path / "prior" / "config.json").unlink()
    for wrong, said in (
        (lambda: prior.save_prior(tmp_path / "a", SMALL | {"time_scale": 1000.0}, params), "has no time_scale 1000.0"),
        (
            lambda: prior.save_prior(tmp_path / "a", SMALL | {"mlp_ratio": 2.0}, params),
            "has no mlp_ratio 2.0, only 4.0",
        ),
        (lambda: prior.save_prior(tmp_path / "a", SMALL | {"context": 8}, params), "has no context 8, only 12"),
        (lambda: prior.save_prior(tmp_path / "a", SMALL | {"layers": 3}, params), "do not fit diffusers' layout"),
        (lambda: prior.load_prior(tmp_path / "prior"), "config.json is missing beside the weights"),
        (lambda: prior.from_diffusers(PROJECTION, "x"), "'UnCLIPTextProjModel' is no prior; it is PriorTransformer"),
        (lambda: unclip_text.from_diffusers(PRIORS["karlo"], "x"), "'PriorTransformer' is no text projection"),
        (
            lambda: unclip_text.from_diffusers({"_class_name": "UnCLIPTextProjModel", "time_embed_dim": 8}, "x"),
            "x: cross_attention_dim is missing",
        ),
        (
            lambda: unclip_text.save_text_projection(tmp_path / "a", TEXT | {"tokens": 8}, text),
            "has no tokens 8, only 12, those of its embeddings",
        ),
        (lambda: unclip_text.load_text_projection(tmp_path / "prior"), "config.json is missing beside the weights"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            wrong()
    assert [path.name for path in tmp_path.iterdir()] == ["prior"]
