"""LoRA against diffusers and PEFT on random networks: what is merged here gives what their adapters give, file by file."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from diffusion_jax.convert import load_clip, load_lora, save_lora  # noqa: E402
from diffusion_jax.convert.lora_names import kohya, places  # noqa: E402
from diffusion_jax.convert.unet import load_unet  # noqa: E402
from diffusion_jax.nets import Network, TextTransformer, UNet, complete_unet  # noqa: E402
from diffusion_jax.train.lora import init_lora, merge_lora, merge_loras  # noqa: E402

BOUND = 1e-5
STABLE = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 48], "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24, "attention_head_dim": [4, 3], "sample_size": 8,
}  # fmt: skip
LARGE = STABLE | {
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": [2, 4, 4],
    "transformer_layers_per_block": [1, 1, 2], "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 12,
}  # fmt: skip
KINDS = {"sd": (STABLE, StableDiffusionPipeline), "xl": (LARGE, StableDiffusionXLPipeline)}
TARGETS = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv_shortcut",
    "downsamplers.0.conv",
]
TARGETS += ["time_emb_proj", "conv_in", "linear_1"]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random(module, seed, scale=1.0, only=""):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if only in name:
                size = 0.1 if value.ndim < 2 else scale * value[0].numel() ** -0.5
                value.copy_(torch.randn(value.shape, generator=generator) * size)
    return module.eval()


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    """(its U-Net, its pipeline's class, ours: config and parameters)."""
    told, pipeline = KINDS[request.param]
    peer = random(diffusers.UNet2DConditionModel(**told), 0)
    peer.save_pretrained(tmp_path / "unet")
    return peer, pipeline, load_unet(tmp_path / "unet", complete_unet)


def outputs(peer, config, params):
    """(theirs, ours) for the same picture, times and texts."""
    x, tokens, t = normal(1, 2, 8, 8, 4), normal(2, 2, 5, 24), np.array([17.0, 803.0], np.float32)
    cond, given = {"tokens": tokens}, {}
    if config["hearing"].get("ids"):
        cond |= {"pooled": normal(3, 2, 12), "ids": np.abs(normal(4, 2, 6)) * 500}
        given = {
            "added_cond_kwargs": {"text_embeds": torch.tensor(cond["pooled"]), "time_ids": torch.tensor(cond["ids"])}
        }
    with torch.no_grad():
        theirs = peer(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), torch.tensor(tokens), **given
        ).sample.numpy()
    network = Network(lambda rngs: UNet(rngs, **config))
    ours = network.apply(params, *map(jnp.asarray, (x, t)), {name: jnp.asarray(value) for name, value in cond.items()})
    return theirs.transpose(0, 2, 3, 1), np.asarray(ours)


def close(found, wanted):
    error = np.abs(found - wanted).max()
    print(f"max-abs error {error:.2e} of {np.abs(wanted).max():.2f}")
    assert error <= BOUND * max(1.0, np.abs(wanted).max())
    return True


def theirs_loads(peer, pipeline, file, name="default"):
    """Adapters as diffusers' pipelines load a file into a U-Net."""
    state, alphas, settings = pipeline.lora_state_dict(
        str(file.parent),
        weight_name=file.name,
        unet_config=peer.config,
        return_lora_metadata=True,
        local_files_only=True,
    )
    pipeline.load_lora_into_unet(state, network_alphas=alphas, unet=peer, metadata=settings, adapter_name=name)
    return state


def adapted(peer, seed, name="default"):
    """PEFT's adapters of many kinds of layers, ranks and alphas of their own among them; the settings."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS,
        rank_pattern={"attn2.to_k": 2, "conv1": 3},
        alpha_pattern={"to_out.0": 1.5},
    )
    peer.add_adapter(config, name)
    return random(peer, seed, 1.0, "lora_"), {
        k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()
    }


def test_a_file_of_theirs_merged_is_their_network(kind, tmp_path):
    peer, pipeline, (config, params) = kind
    plain = outputs(peer, config, params)
    peer, settings = adapted(peer, 1)
    state = peft.get_peft_model_state_dict(peer, adapter_name="default")
    pipeline.save_lora_weights(tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=settings)
    lora = load_lora(tmp_path, unet=config)["unet"]
    wanted, found = outputs(peer, config, merge_lora(params, lora))
    assert np.abs(wanted - plain[0]).max() > 0.01 and close(plain[1], plain[0]) and close(found, wanted)
    peer.fuse_lora(lora_scale=0.6)
    peer.unload_lora()
    assert close(*outputs(peer, config, merge_lora(params, lora, 0.6))[::-1])
    back = save_lora(
        tmp_path / "back.safetensors", {"unet": lora}, unet=config, linear=bool(peer.config.use_linear_projection)
    )
    first, again = load_file(tmp_path / "pytorch_lora_weights.safetensors"), load_file(back)
    assert first.keys() == again.keys() and all(np.array_equal(first[name], again[name]) for name in first)


def filled(params, rank, paths, seed, alpha=None):
    """Adapters of this package, none of whose factors is 0."""
    lora = init_lora(params, jax.random.key(seed), rank=rank, paths=paths, alpha=alpha)

    def moved(path, leaf):
        return normal([seed, leaf.size], *leaf.shape) * 0.2 if path[-1].key == "B" else leaf

    return jax.tree_util.tree_map_with_path(moved, lora)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_files_of_ours_load_there_and_several_are_weighed(kind, tmp_path):
    peer, pipeline, (config, params) = kind
    linear = bool(peer.config.use_linear_projection)
    one, two = filled(params, 3, (".",), 0, 1.2), filled(params, 2, ("attn", "ff_in"), 1)
    for name, lora in (("one", one), ("two", two)):
        file = save_lora(tmp_path / f"{name}.safetensors", {"unet": lora}, unet=config, linear=linear)
        theirs_loads(peer, pipeline, file, name)
    peer.set_adapters(["one"], [1.0])
    wanted, found = outputs(peer, config, merge_lora(params, one))
    assert close(found, wanted)
    peer.set_adapters(["one", "two"], [0.5, -0.75])
    wanted, found = outputs(peer, config, merge_loras(params, [(one, 0.5), (two, -0.75)]))
    assert np.abs(wanted - outputs(peer, config, params)[1]).max() > 0.01 and close(found, wanted)


def test_kohyas_names_are_what_their_converter_makes_of_them(kind, tmp_path):
    peer, pipeline, (config, params) = kind
    large = pipeline is StableDiffusionXLPipeline
    table = kohya("unet", config)
    own = {name.replace(".", "_") for name in places("unet", config)}
    # As sd-scripts names them: of XL by latent diffusion's blocks, of the others by diffusers'.
    names = [name for name in table if (name not in own) == large]
    modules = {place: module for module, place in places("unet", config, linear=True).items()}
    shapes = places("unet", config, linear=large)
    tensors = {}
    for i, name in enumerate(names):
        shape = shapes[modules[table[name]]].shape
        ones = (1,) * (len(shape) - 2)
        rank = 2 + i % 2
        tensors[f"lora_unet_{name}.lora_down.weight"] = normal(i, rank, *shape[1:]) * np.prod(shape[1:]) ** -0.5
        tensors[f"lora_unet_{name}.lora_up.weight"] = normal(i + 1000, shape[0], rank, *ones) * 0.2
        # Of attention's alphas diffusers 0.42 knows the commonest alone: the patterns that it makes of others match no module.
        tensors[f"lora_unet_{name}.alpha"] = np.array(3 if "attn" in name else 1 + i % 3, np.float32)
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    save_file(tensors, tmp_path / "kohya.safetensors")
    state = theirs_loads(peer, pipeline, tmp_path / "kohya.safetensors")
    assert len(names) == len(shapes) or large
    assert len(state) == 2 * len(names)
    lora = load_lora(tmp_path / "kohya.safetensors", unet=config)["unet"]
    wanted, found = outputs(peer, config, merge_lora(params, lora))
    assert np.abs(wanted - outputs(peer, config, params)[1]).max() > 0.01 and close(found, wanted)


@pytest.fixture(params=[False, True], ids=["bare", "projected"])
def text(request, tmp_path):
    """(a text encoder, ours: config and parameters)."""
    sizes = transformers.CLIPTextConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, vocab_size=40, projection_dim=20,
        max_position_embeddings=9, eos_token_id=39, bos_token_id=38, pad_token_id=0,
    )  # fmt: skip
    make = transformers.CLIPTextModelWithProjection if request.param else transformers.CLIPTextModel
    peer = random(make(sizes), 0)
    peer.save_pretrained(tmp_path / "text_encoder")
    return peer, load_clip(tmp_path / "text_encoder")


def texts(peer, config, params):
    tokens = np.array([[38, 5, 7, 39, 0, 0, 0, 0, 0], [38, 1, 2, 3, 4, 5, 6, 8, 39]])
    with torch.no_grad():
        given = peer(torch.tensor(tokens), output_hidden_states=True)
    theirs = given.text_embeds if hasattr(given, "text_embeds") else given.pooler_output
    network = Network(lambda rngs: TextTransformer(rngs, embed=config["embed"], **config["text"]))
    made = network.apply(jax.tree.map(jnp.asarray, params["text"]), jnp.asarray(tokens, jnp.int32))
    return theirs.numpy(), np.asarray(made.embedding)


@pytest.mark.parametrize("habit", ["peft", "kohya"])
def test_text_encoders(text, habit, tmp_path):
    peer, (config, params) = text
    modules = places("text_encoder", config)
    names = [name for name in modules if "encoder.layers" in name]
    tensors, told = (
        {},
        {
            "text_encoder.r": 3,
            "text_encoder.lora_alpha": 4.5,
            "text_encoder.target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        },
    )
    for i, name in enumerate(names):
        features_out, features_in = modules[name].shape
        a, b = normal(i, 3, features_in) * 0.2, normal(i + 99, features_out, 3) * 0.2
        if habit == "peft":
            tensors |= {f"text_encoder.{name}.lora_A.weight": a, f"text_encoder.{name}.lora_B.weight": b}
        else:
            flat = f"lora_te_{name.replace('.', '_')}"
            tensors |= {
                f"{flat}.lora_down.weight": a,
                f"{flat}.lora_up.weight": b,
                f"{flat}.alpha": np.array(4.5, np.float32),
            }
    file = tmp_path / "text.safetensors"
    save_file(
        {k: v.astype(np.float32) for k, v in tensors.items()},
        file,
        {"lora_adapter_metadata": json.dumps(told)} if habit == "peft" else None,
    )
    lora = load_lora(file, text_encoder=config)
    ours = save_lora(tmp_path / "ours.safetensors", lora, text_encoder=config)
    plain = texts(peer, config, params)
    assert close(plain[1], plain[0])
    for given in (file, ours):
        fresh = copy.deepcopy(peer)
        state, alphas, settings = StableDiffusionPipeline.lora_state_dict(
            str(given.parent), weight_name=given.name, return_lora_metadata=True, local_files_only=True
        )
        StableDiffusionPipeline.load_lora_into_text_encoder(
            state, network_alphas=alphas, text_encoder=fresh, metadata=settings
        )
        wanted, found = texts(fresh, config, merge_lora(params, lora["text_encoder"]))
        assert np.abs(wanted - plain[0]).max() > 0.01 and close(found, wanted)
