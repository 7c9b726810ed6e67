"""LoRA files: PEFT's there and back bit for bit, kohya's and older names the same adapters, and what is refused."""

import json

import jax
import numpy as np
import pytest
from lora_samples import (
    CONV,
    HEADER,
    LARGE,
    LDM,
    OF_TEXT,
    STABLE,
    STABLE_KOHYA,
    TEXT,
    TEXT_2,
    Q,
    V,
    coarse,
    filled,
    halves,
    peft,
    same,
    zeros,
)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from diffusion_jax.convert import load_lora, save_lora
from diffusion_jax.convert.entries import flatten
from diffusion_jax.convert.lora_names import kohya, places
from diffusion_jax.nets import complete_unet, unet_model
from diffusion_jax.train.lora import merge_lora
from diffusion_jax.typing import UserError


@pytest.mark.parametrize(
    ("config", "linear", "dtype"), [(STABLE, False, "float32"), (STABLE, True, "float16"), (LARGE, True, "bfloat16")]
)
def test_adapters_of_every_weight_come_back_bit_for_bit(config, linear, dtype, tmp_path):
    loras = {
        "unet": filled("unet", config, 3, alpha=1.5),
        "text_encoder": filled("text_encoder", TEXT, 2),
        "text_encoder_2": filled("text_encoder_2", TEXT_2, 2, (r"in_proj/[qv]$", "c_fc", "text/proj"), 8.0),
    }
    configs = {"unet": config, "text_encoder": TEXT, "text_encoder_2": TEXT_2}
    file = save_lora(tmp_path / "new" / "a.safetensors", loras, linear=linear, dtype=dtype, **configs)
    tensors = load_file(file)
    assert {str(value.dtype) for value in tensors.values()} == {dtype}
    assert same(load_lora(file, **configs), loras)
    ends = [value.ndim for name, value in tensors.items() if "proj_in.lora" in name]
    assert ends and set(ends) == {2 if linear else 4}
    assert tensors["text_encoder_2.text_projection.lora_B.weight"].shape == (6, 2)
    only = load_lora(file, unet=config, without=("text_encoder", "text_encoder_2"))
    assert same(only["unet"], loras["unet"]) and only.keys() == {"unet"}


def test_a_file_of_peft_is_written_as_it_was_read(tmp_path):
    """Layers without adapters, ranks and alphas of their own: the same tensors, and the same scale of each."""
    up = "up_blocks.0.attentions.1.transformer_blocks"
    modules = [f"{up}.0.attn1.to_q", f"{up}.1.attn1.to_q", f"{up}.1.attn1.to_v", f"{up}.1.ff.net.2", "conv_in"]
    tensors = peft("unet", LARGE, modules) | peft("unet", LARGE, [f"{up}.0.attn2.to_out.0", f"{up}.1.attn2.to_out.0"])
    tensors |= peft("unet", LARGE, [f"{up}.1.attn2.to_out.0"], rank=5) | peft("text_encoder", TEXT, [OF_TEXT], rank=4)
    told = {
        "unet.r": 2, "unet.lora_alpha": 4, "unet.rank_pattern": {f"^{up}.1.attn2.to_out.0": 5},
        "unet.alpha_pattern": {"ff.net.2": 0.5}, "text_encoder.r": 4, "text_encoder.lora_alpha": 1,
    }  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", {HEADER: json.dumps(told)})
    configs = {"unet": LARGE, "text_encoder": TEXT}
    lora = load_lora(tmp_path / "a.safetensors", **configs)
    block = lora["unet"]["up"]["0"]["attentions"]["1"]["blocks"]["layers"]
    assert block["attn1"]["qkv"]["q"]["alpha"].tolist() == [4, 4] and block["attn1"]["qkv"]["v"].keys() == {"1"}
    assert [block["attn2"]["out"][i]["A"].shape[-1] for i in "01"] == [2, 5]
    assert float(block["ff_out"]["1"]["alpha"]) == 0.5
    assert lora["text_encoder"]["text"]["blocks"]["layers"]["attn"]["in_proj"]["k"].keys() == {"1"}
    save_lora(tmp_path / "b.safetensors", lora, **configs)
    back = load_file(tmp_path / "b.safetensors")
    assert back.keys() == tensors.keys() and all(np.array_equal(back[name], tensors[name]) for name in back)
    again = load_lora(tmp_path / "b.safetensors", **configs)
    assert all(same(again[component], lora[component]) for component in lora)
    with safe_open(tmp_path / "b.safetensors", "numpy") as file:
        settings = json.loads(file.metadata()[HEADER])
    assert settings["unet.r"] == 2 and settings["unet.lora_alpha"] == 4 and settings["text_encoder.r"] == 4
    assert settings["unet.rank_pattern"] == {f"^{up}.1.attn2.to_out.0": 5}
    assert settings["unet.target_modules"] == sorted({*modules, f"{up}.0.attn2.to_out.0", f"{up}.1.attn2.to_out.0"})


def test_a_merge_is_that_of_the_file(tmp_path):
    """The change of each weight as the file's own layout has it, W + (alpha / r) B A."""
    save_file(
        peft("unet", STABLE, [Q, V, CONV]),
        tmp_path / "a.safetensors",
        {HEADER: json.dumps({"unet.r": 2, "unet.lora_alpha": 3})},
    )
    base = zeros("unet", STABLE)
    merged = merge_lora(base, load_lora(tmp_path / "a.safetensors", unet=STABLE)["unet"])
    changed = {path: np.asarray(leaf) for path, leaf in flatten(merged) if np.asarray(leaf).any()}
    (a, b), (c, d), (e, f) = (halves("unet", STABLE, module, 2, i) for i, module in enumerate((Q, V, CONV)))
    wanted = {
        "down/0/attentions/0/blocks/layers/attn1/qkv/kernel": np.pad(1.5 * (b @ a).T, ((0, 0), (0, 32)))[None],
        "middle/attention/blocks/layers/attn2/kv/kernel": np.pad(1.5 * (d @ c).T, ((0, 0), (32, 0)))[None],
        "down/0/blocks/0/conv1/kernel": 1.5 * np.einsum("orxy,rihw->hwio", f, e),
    }
    assert changed.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(changed[path], value, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "names", "linear"), [(STABLE, STABLE_KOHYA, False), (LARGE, LDM, True)], ids=["sd", "xl"]
)
def test_kohyas_file_holds_the_same_adapters(config, names, linear, tmp_path):
    texts = (
        {"lora_te_": "text_encoder"}
        if config is STABLE
        else {"lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
    )
    configs = {"unet": config} | dict.fromkeys(texts.values(), TEXT)
    ours, theirs, settings = {}, {}, {}
    for prefix, component in (
        {"lora_unet_": "unet"} | texts.items() if False else {"lora_unet_": "unet", **texts}.items()
    ):
        modules = (
            names
            if component == "unet"
            else {name.replace(".", "_"): name for name in (OF_TEXT, "text_model.encoder.layers.0.mlp.fc1")}
        )
        for i, (flat, module) in enumerate(modules.items()):
            a, b = halves(component, configs[component], module, 2, i, linear)
            ours |= {f"{component}.{module}.lora_A.weight": a, f"{component}.{module}.lora_B.weight": b}
            name = f"{prefix}{flat}"
            theirs |= {f"{name}.lora_down.weight": a.astype(np.float16), f"{name}.lora_up.weight": b.astype(np.float16)}
            if i % 2:
                theirs[f"{name}.alpha"] = np.array(i, np.float16)
        settings |= {f"{component}.r": 2, f"{component}.lora_alpha": 2}
        settings[f"{component}.alpha_pattern"] = {f"^{m}": i for i, m in enumerate(modules.values()) if i % 2}
    save_file(ours, tmp_path / "ours.safetensors", {HEADER: json.dumps(settings)})
    save_file(theirs, tmp_path / "theirs.safetensors", {"ss_network_module": "networks.lora"})
    wanted, found = (load_lora(tmp_path / f"{name}.safetensors", **configs) for name in ("ours", "theirs"))
    assert wanted.keys() == found.keys() == configs.keys()
    assert all(same(found[component], wanted[component]) for component in wanted)


def test_every_weight_has_a_name_of_its_own_in_kohyas_habit():
    for config in (STABLE, LARGE):
        table = kohya("unet", config)
        assert {place.layer for place in table.values()} == {place.layer for place in places("unet", config).values()}
        assert len(set(table.values())) == len(places("unet", config))


@pytest.mark.parametrize(("name", "transformers", "ends"), [("sd-1.5", 16, 16), ("sdxl", 70, 11)])
def test_published_networks_have_the_modules_that_sd_scripts_counts(name, transformers, ends):
    """10 linear maps a transformer block and 2 ends a transformer: 192 of Stable Diffusion 1, 722 of XL."""
    table = places("unet", complete_unet(unet_model(name)))
    modules = [m for m in table if ".attentions." in m]
    assert len(modules) == 10 * transformers + 2 * ends == {"sd-1.5": 192, "sdxl": 722}[name]


@pytest.mark.parametrize("prefix", ["unet.", "", "base_model.model."])
def test_older_names_and_names_without_a_component(prefix, tmp_path):
    out = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    names = {
        Q: "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.",
        out: "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.",
        V: f"{V}.lora.",
        CONV: f"{CONV}.lora.",
    }
    old = {}
    for i, (module, name) in enumerate(names.items()):
        a, b = halves("unet", STABLE, module, 2, i)
        old |= {f"{prefix}{name}down.weight": a, f"{prefix}{name}up.weight": b}
    save_file(old, tmp_path / "old.safetensors")
    save_file(peft("unet", STABLE, names), tmp_path / "new.safetensors")
    new = load_lora(tmp_path / "new.safetensors", unet=STABLE)
    assert same(load_lora(tmp_path / "old.safetensors", unet=STABLE, text_encoder=TEXT)["unet"], new["unet"])


def test_older_names_of_text_encoders(tmp_path):
    fc = "text_model.encoder.layers.0.mlp.fc2"
    plain = OF_TEXT.removeprefix("text_model.")
    forms = [OF_TEXT.replace("k_proj", "to_k_lora"), f"{OF_TEXT}.lora_linear_layer", f"{plain}.lora"]
    save_file(peft("text_encoder", TEXT, [OF_TEXT, fc]), tmp_path / "new.safetensors")
    wanted = load_lora(tmp_path / "new.safetensors", text_encoder=TEXT)
    for form in forms:
        (a, b), (c, d) = (halves("text_encoder", TEXT, module, 2, i) for i, module in enumerate((OF_TEXT, fc)))
        old = {f"text_encoder.{form}.down.weight": a, f"text_encoder.{form}.up.weight": b}
        old |= {
            f"text_encoder.{fc}.lora_linear_layer.down.weight": c,
            f"text_encoder.{fc}.lora_linear_layer.up.weight": d,
        }
        save_file(old, tmp_path / "old.safetensors")
        assert same(load_lora(tmp_path / "old.safetensors", text_encoder=TEXT)["text_encoder"], wanted["text_encoder"])


def test_a_folder_of_peft_says_its_alpha_beside_the_weights(tmp_path):
    tensors = {name.replace("unet.", "base_model.model."): value for name, value in peft("unet", STABLE, [Q]).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    for told, alpha in (
        ({"r": 2, "lora_alpha": 16}, 16.0),
        ({"r": 2, "lora_alpha": 16, "use_rslora": True}, 16 * 2**0.5),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(told))
        node = load_lora(tmp_path, unet=STABLE)["unet"]["down"]["0"]["attentions"]["0"]["blocks"]["layers"]["attn1"][
            "qkv"
        ]["q"]
        np.testing.assert_allclose(node["alpha"], [alpha], rtol=1e-6)


def test_one_adapter_of_a_joined_kernel_is_written_as_one_of_each_part(tmp_path):
    node = {"A": coarse(0, 1, 16, 2), "B": coarse(1, 1, 2, 48), "alpha": np.array([2.0], np.float32)}
    lora = {"down": {"0": {"attentions": {"0": {"blocks": {"layers": {"attn1": {"qkv": node}}}}}}}}
    save_lora(tmp_path / "a.safetensors", {"unet": lora}, unet=STABLE)
    base = zeros("unet", STABLE)
    back = load_lora(tmp_path / "a.safetensors", unet=STABLE)["unet"]
    jax.tree.map(np.testing.assert_array_equal, merge_lora(base, back), merge_lora(base, lora))


def refused(tensors, said, tmp_path, header=None, **given):
    save_file(tensors, tmp_path / "a.safetensors", header)
    with pytest.raises(UserError) as caught:
        load_lora(tmp_path / "a.safetensors", **given or {"unet": STABLE})
    assert said in str(caught.value) and "\n" not in str(caught.value)


A, B = halves("unet", STABLE, Q, 2)
GOOD = {f"unet.{Q}.lora_A.weight": A, f"unet.{Q}.lora_B.weight": B}
ONE = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"lora_unet_conv_in.hada_w1_a": ONE}, "not read here, LoHa: lora_unet_conv_in.hada_w1_a; read is LoRA of two factors"),
        ({"lora_unet_conv_in.lokr_w1": ONE}, "LoKr: lora_unet_conv_in.lokr_w1"),
        ({"lora_unet_conv_in.dora_scale": ONE}, "DoRA: lora_unet_conv_in.dora_scale"),
        ({f"unet.{Q}.lora_magnitude_vector": ONE}, f"DoRA: unet.{Q}.lora_magnitude_vector"),
        ({"lora_unet_conv_in.lora_mid.weight": ONE}, "LoRA of three factors"),
        ({f"unet.{Q}.lora_B.bias": ONE}, "LoRA with biases"),
        ({"lora_unet_conv_in.diff_b": ONE}, "differences of whole weights: lora_unet_conv_in.diff_b"),
        ({"emphasis": ONE, "ghost.weight": ONE}, "2 not of LoRA: emphasis, ghost.weight"),
        ({"unet.ears.lora_A.weight": ONE}, "1 of no weight of the network: unet.ears.lora_A.weight"),
        ({"lora_unet_ears.lora_up.weight": ONE}, "1 of no weight of the network: lora_unet_ears.lora_up.weight"),
        ({"unet.conv_norm_out.lora_A.weight": ONE}, "1 of no weight of the network: unet.conv_norm_out.lora_A.weight"),
        ({f"unet.{V}.lora_A.weight": ONE}, f"1 without its other half: {V} (no B)"),
        ({f"unet.{V}.alpha": np.ones((), np.float32)}, f"1 without its other half: {V} (no A)"),
        ({f"unet.{Q}.lora_A.weight": ONE}, f"1 misshapen: {Q} A [2, 2], B [16, 2] (of a weight [16, 16])"),
        ({f"unet.{Q}.lora_B.weight": np.ones((16, 3), np.float32)}, f"1 of ranks that disagree: {Q} (A 2, B 3)"),
        ({f"unet.{Q}.alpha": np.ones(2, np.float32)}, f"1 misshapen: {Q} alpha [2]"),
        ({f"unet.{Q}.alpha": np.array(np.nan, np.float32)}, f"1 of an alpha that is not finite: {Q}"),
        ({f"{Q}.lora.down.weight": A}, "1 there twice: "),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": ONE}, "adapts text_encoder too (1 tensors): give its config"),
        ({"text_encoder_2.x.lora_A.weight": ONE}, "leave it out, without=('text_encoder_2',)"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_one_line(more, said, tmp_path):
    refused(GOOD | more, said, tmp_path)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("{", "lora_adapter_metadata in its header is not JSON"),
        ("[]", "holds no JSON object"),
        ({"unet.r": 4, "unet.lora_alpha": 4}, f"1 of ranks that disagree: {Q} (2, and its settings say 4)"),
        ({"unet.r": 2, "unet.use_dora": True}, "says use_dora true, which is not read here"),
        ({"unet.r": 2, "unet.init_lora_weights": "pissa"}, "says init_lora_weights 'pissa'"),
        ({"unet.r": 2, "unet.lora_alpha": "many"}, "are not readable"),
        ({"unet.r": 2, "unet.rank_pattern": {"(": 3}}, "are not readable"),
    ],
)
def test_settings_that_are_not_read_are_one_line(told, said, tmp_path):
    refused(GOOD, said, tmp_path, {HEADER: told if isinstance(told, str) else json.dumps(told)})


def test_two_alphas_of_one_adapter_and_names_of_two_encoders(tmp_path):
    told = {HEADER: json.dumps({"unet.r": 2, "unet.lora_alpha": 3})}
    refused(GOOD | {f"unet.{Q}.alpha": np.array(1.0, np.float32)}, f"1 of two alphas: {Q} (1.0 and 3)", tmp_path, told)
    both = {"text_encoder": TEXT, "text_encoder_2": TEXT_2}
    bare = {name.removeprefix("text_encoder."): value for name, value in peft("text_encoder", TEXT, [OF_TEXT]).items()}
    refused(bare, "2 that do not say of which component they are", tmp_path, **both)


def test_no_safetensors_and_no_file_and_no_config(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "b.safetensors").write_bytes(b"damaged")
    for path, said in (
        ("a.pt", "is read from .safetensors"),
        ("b.safetensors", "is damaged"),
        ("c.safetensors", "does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            load_lora(tmp_path / path, unet=STABLE)
    save_file(GOOD, tmp_path / "good.safetensors")
    with pytest.raises(UserError, match="holds no adapters of text_encoder"):
        load_lora(tmp_path / "good.safetensors", text_encoder=TEXT, without=("unet",))
    with pytest.raises(UserError, match="holds no adapters of anything: give the config"):
        load_lora(tmp_path / "good.safetensors", without=("unet",))
    with pytest.raises(UserError, match="the config of unet does not say 'channels': give one as load_unet"):
        load_lora(tmp_path / "good.safetensors", unet={})
    with pytest.raises(UserError, match="without 'unett' is not known; did you mean 'unet'"):
        load_lora(tmp_path / "good.safetensors", without=("unett",))


FINE = {
    "A": np.ones((16, 16, 2), np.float32)[:1],
    "B": np.ones((1, 2, 16), np.float32),
    "alpha": np.ones(1, np.float32),
}
END = {"A": np.ones((32, 1), np.float32), "B": np.ones((1, 32), np.float32), "alpha": np.ones((), np.float32)}


def at_out(node):
    return {"unet": {"down": {"0": {"attentions": {"0": {"blocks": {"layers": {"attn1": {"out": node}}}}}}}}}


@pytest.mark.parametrize(
    ("loras", "said"),
    [
        ({"vae": {}}, "component 'vae' is not known"),
        ({"text_encoder": {}}, "adapters of text_encoder are given without its config"),
        ({"unet": {}}, "no adapters of unet to write"),
        ({}, "there are no adapters to write"),
        ({"unet": {"ears": {"A": np.ones(2)}}}, "'ears/A' is in no layer of unet"),
        (at_out({}), "attn1/out holds no adapter"),
        (at_out({"q": FINE}), "attn1/out/q is no part of the layer; its parts are none"),
        (at_out({"A": FINE["A"]}), "attn1/out is no adapter: it holds A, not A, B, alpha"),
        (at_out(FINE | {"alpha": np.ones(2, np.float32)}), "alpha [2]; the layers there are 1"),
        (at_out({"1": {name: leaf[0] for name, leaf in FINE.items()}}), "attn1/out/1: the layers there are 1"),
        (at_out(FINE | {"B": np.ones((1, 2, 8), np.float32)}), "A [16, 2] and B [2, 8] do not fit the weight [16, 16]"),
        (at_out(FINE | {"A": FINE["A"] * np.inf}), "the weights are not finite"),
        (at_out(FINE | {"alpha": np.full(1, np.nan)}), "has alpha nan, which is not finite"),
        ({"unet": {"middle": {"attention": {"proj_in": END}}}}, "say linear=False"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_one_line(loras, said, tmp_path):
    with pytest.raises(UserError) as caught:
        save_lora(tmp_path / "a.safetensors", loras, unet=STABLE)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"nearest: .*a\.pt\.safetensors"):
        save_lora(tmp_path / "a.pt", loras, unet=STABLE)
