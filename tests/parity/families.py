"""Models of the PyTorch peers, one of every family, with hooks on each layer: what ours is put beside.

`python tests/parity/families.py` measures them all and writes the table of docs/clip.md; `python tests/parity/families.py
--goldens` writes tests/convert/goldens/*.npz from small ones.
"""

import contextlib
import dataclasses
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "parity"), str(ROOT / "tests" / "convert")]

if __name__ == "__main__":
    import conftest  # noqa: F401

import torch  # noqa: E402
from filled import fill, inputs  # noqa: E402

GOLDENS = ROOT / "tests" / "convert" / "goldens"
CONTEXT, VOCABULARY = 77, 49408


@dataclasses.dataclass(frozen=True)
class Family:
    """`build()` -> (model, config to be saved); `kind` "open_clip" | "hf"; `activation` where the config cannot tell it."""

    name: str
    what: str
    build: Callable
    kind: str
    activation: str | None = None


def open_clip_model(vision, text, embed, *, quick=True, **more):
    import open_clip

    config = {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text} | ({"quick_gelu": True} if quick else {})
    cls = open_clip.CustomTextCLIP if more.pop("custom", False) else open_clip.CLIP
    return cls(**config, **more), {**config}


def published(name, *, quick=False, layers=None):
    """open_clip's own config of a name, with fewer layers where the whole would be over 1 GB."""
    import open_clip

    config = open_clip.get_model_config(name)
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    if layers:
        vision["layers"], text["layers"] = layers if isinstance(layers, tuple) else (layers, layers)
    return open_clip_model(vision, text, config["embed_dim"], quick=quick)


def timm_siglip(name):
    import open_clip

    config = open_clip.get_model_config(name)
    kept = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg", "init_logit_bias")}
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    return open_clip.CustomTextCLIP(**{**kept, "vision_cfg": vision}), config


def hugging(kind, text, vision, **more):
    import transformers

    cls, config = {
        "clip": (transformers.CLIPModel, transformers.CLIPConfig),
        "siglip": (transformers.SiglipModel, transformers.SiglipConfig),
    }[kind]
    return cls(config(text_config=text, vision_config=vision, **more)), None


def _hf_sizes(width, layers, heads, hidden=None):
    return {
        "hidden_size": width, "intermediate_size": hidden or 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }  # fmt: skip


def _hf_clip(width, text_width, heads, text_heads, layers, patch, embed):
    text = {**_hf_sizes(text_width, layers, text_heads), "eos_token_id": 2, "projection_dim": embed}
    vision = {**_hf_sizes(width, layers, heads), "patch_size": patch, "projection_dim": embed}
    return hugging("clip", text, vision, projection_dim=embed)


def _hf_siglip(width, layers, heads, hidden, patch, vocabulary=32000):
    sizes = _hf_sizes(width, layers, heads, hidden)
    return hugging("siglip", {**sizes, "vocab_size": vocabulary}, {**sizes, "patch_size": patch, "image_size": 224})


LARGE = (
    Family("ViT-B-32", "open_clip, whole, QuickGELU", lambda: published("ViT-B-32", quick=True), "open_clip"),
    Family("ViT-B-16", "open_clip, whole, GELU", lambda: published("ViT-B-16"), "open_clip"),
    Family("ViT-L-14", "open_clip, 2 layers", lambda: published("ViT-L-14", layers=2), "open_clip"),
    Family("ViT-L-14-336", "open_clip, 2 layers", lambda: published("ViT-L-14-336", layers=2), "open_clip"),
    Family("ViT-H-14", "open_clip, 2 layers", lambda: published("ViT-H-14", layers=2), "open_clip"),
    Family("ViT-g-14", "open_clip, 2 layers", lambda: published("ViT-g-14", layers=2), "open_clip"),
    Family("ViT-bigG-14", "open_clip, 2 layers", lambda: published("ViT-bigG-14", layers=2), "open_clip"),
    Family("RN50", "open_clip, whole", lambda: published("RN50", quick=True), "open_clip"),
    Family("RN101", "open_clip, whole", lambda: published("RN101", quick=True), "open_clip"),
    Family("RN50x4", "open_clip, whole", lambda: published("RN50x4", quick=True), "open_clip"),
    Family("RN50x16", "open_clip, 2 blocks", lambda: published("RN50x16", layers=([2] * 4, 2)), "open_clip"),
    Family("RN50x64", "open_clip, 2 blocks", lambda: published("RN50x64", layers=([2] * 4, 2)), "open_clip"),
    Family("ViT-B-16-SigLIP", "open_clip and timm, whole", lambda: timm_siglip("ViT-B-16-SigLIP"), "open_clip", "gelu"),
    Family("CLIP B/32", "transformers, whole", lambda: _hf_clip(768, 512, 12, 8, 12, 32, 512), "hf"),
    Family("CLIP L/14", "transformers, 2 layers", lambda: _hf_clip(1024, 768, 16, 12, 2, 14, 768), "hf"),
    Family("SigLIP B/16", "transformers, whole", lambda: _hf_siglip(768, 12, 12, 3072, 16), "hf"),
    Family("SigLIP L/16", "transformers, 2 layers", lambda: _hf_siglip(1024, 2, 16, 4096, 16), "hf"),
    Family("SigLIP so400m/14", "transformers, 2 layers", lambda: _hf_siglip(1152, 2, 16, 4304, 14), "hf"),
    Family("SigLIP 2 B/16", "transformers, 2 layers", lambda: _hf_siglip(768, 2, 12, 3072, 16, 256000), "hf"),
)
_TINY_TEXT = {"context_length": 12, "vocab_size": 60, "width": 64, "heads": 1, "layers": 2}
_TINY_VIT = {"image_size": 16, "patch_size": 4, "width": 64, "layers": 3}
SMALL = (
    Family("openai_vit", "", lambda: open_clip_model(_TINY_VIT, _TINY_TEXT, 24), "open_clip"),
    Family("laion_vit", "", lambda: open_clip_model(_TINY_VIT, _TINY_TEXT, 24, quick=False), "open_clip"),
    Family(
        "openai_resnet",
        "",
        lambda: open_clip_model({"image_size": 64, "layers": [2, 1, 2, 1], "width": 16}, _TINY_TEXT, 24),
        "open_clip",
    ),
    Family(
        "hf_clip",
        "",
        lambda: hugging(
            "clip",
            {**_hf_sizes(32, 2, 4), "vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 59},
            {**_hf_sizes(48, 3, 4), "image_size": 16, "patch_size": 4},
            projection_dim=24,
        ),
        "hf",
    ),
    Family(
        "hf_siglip",
        "",
        lambda: hugging(
            "siglip",
            {**_hf_sizes(48, 2, 4, 96), "vocab_size": 60, "max_position_embeddings": 12},
            {**_hf_sizes(48, 3, 4, 96), "image_size": 18, "patch_size": 4},
        ),
        "hf",
    ),
)


def make(family, folder):
    """The peer with the weights of `fill`, saved into `folder` in its own format."""
    logging.disable(logging.WARNING)
    with contextlib.suppress(Exception):
        import transformers

        transformers.logging.set_verbosity_error()
    model, config = family.build()
    state = model.state_dict()
    weights = fill({k: tuple(v.shape) for k, v in state.items() if _is_weight(k, v)})
    model.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in weights.items()}, strict=False)
    model.eval()
    if family.kind == "hf":
        model.save_pretrained(folder)
    else:
        from safetensors.torch import save_file

        kept = {k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
        save_file(kept, Path(folder) / "open_clip_model.safetensors")
        (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return model, weights


def _is_weight(name, value):
    return value.dtype.is_floating_point and name != "attn_mask"


def layers_of(model, family):
    """(vision modules, text modules) whose outputs are the hidden states."""
    if family.kind == "hf":
        return list(model.vision_model.encoder.layers), list(model.text_model.encoder.layers)
    text = model.text if hasattr(model, "text") else model
    if hasattr(model.visual, "trunk"):
        vision = list(model.visual.trunk.blocks)
    elif hasattr(model.visual, "layer1"):
        vision = [getattr(model.visual, f"layer{i}") for i in range(1, 5)]
    else:
        vision = list(model.visual.transformer.resblocks)
    return vision, list(text.transformer.resblocks)


def answers(model, family, images, tokens):
    """{"image", "text": embeddings, "image_0", ..., "text_0", ...: what each layer gives}, NumPy."""
    found, hooks = {}, []
    for tower, modules in zip(("image", "text"), layers_of(model, family)):
        for i, module in enumerate(modules):

            def keep(_, __, output, name=f"{tower}_{i}"):
                output = output[0] if isinstance(output, tuple) else output
                found[name] = output.permute(0, 2, 3, 1) if output.ndim == 4 else output

            hooks.append(module.register_forward_hook(keep))
    pixels, ids = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(tokens)
    with torch.no_grad():
        if family.kind == "hf":
            image, text = model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=ids)
            # Newer versions give the whole output of the tower.
            found["image"] = getattr(image, "pooler_output", image)
            found["text"] = getattr(text, "pooler_output", text)
        else:
            found["image"], found["text"] = model.encode_image(pixels), model.encode_text(ids)
    for hook in hooks:
        hook.remove()
    return {name: value.numpy() for name, value in found.items()}


def ours(folder, images, tokens, activation=None):
    """The same of our model, loaded from the folder."""
    import jax

    from diffusion_jax.convert import load_clip
    from diffusion_jax.nets import CLIP, Network

    config, params = load_clip(folder)
    for tower in ("vision", "text") if activation else ():
        config[tower]["activation"] = activation
    network = Network(
        lambda rngs: CLIP(rngs, **{key: config[key] for key in ("embed", "vision", "text", "logit_bias")})
    )
    found = {}
    for tower, given in (("image", images), ("text", tokens)):
        found[tower] = jax.jit(network.method(f"encode_{tower}"))(params, given).embedding
        states = jax.jit(network.method(f"{tower}_states"))(params, given)[1:]
        found |= {f"{tower}_{i}": state for i, state in enumerate(states)}
    return {name: np.asarray(value) for name, value in found.items()}


def sizes(model, family):
    """(image size, vocabulary, context) of a peer."""
    if family.kind == "hf":
        text = model.config.text_config
        return model.config.vision_config.image_size, text.vocab_size, text.max_position_embeddings
    text = model.text if hasattr(model, "text") else model
    size = model.visual.image_size
    return size[0] if isinstance(size, tuple) else size, text.vocab_size, text.context_length


def compare(family):
    """{output: max |a - b| / max(1, max |b|)} of every layer and both embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        model, _ = make(family, folder)
        given = inputs(*sizes(model, family))
        wanted = answers(model, family, *given)
        del model
        got = ours(folder, *given, family.activation)
    assert got.keys() == wanted.keys()
    return {
        name: float(np.abs(got[name].reshape(value.shape) - value).max() / max(1.0, np.abs(value).max()))
        for name, value in wanted.items()
    }


def write_goldens():
    GOLDENS.mkdir(exist_ok=True)
    for family in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            model, weights = make(family, folder)
            given = inputs(*sizes(model, family))
            found = answers(model, family, *given)
            config = next(Path(folder).glob("*onfig.json")).read_text()
        shapes = json.dumps({name: list(value.shape) for name, value in weights.items()})
        about = {"shapes": shapes, "config": config, "kind": family.kind, "sizes": np.array(sizes(model, family))}
        np.savez_compressed(GOLDENS / f"{family.name}.npz", **about, **found)
        print(family.name, (GOLDENS / f"{family.name}.npz").stat().st_size, flush=True)


def main():
    if "--goldens" in sys.argv:
        return write_goldens()
    import open_clip
    import transformers

    versions = f"open_clip {open_clip.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    rows = [
        f"max |a - b| / max(1, max |b|) in float32 on a CPU against {versions}, weights filled at random.",
        "",
        "| model | peer | image embedding | text embedding | worst vision layer | worst text layer |",
        "|---|---|---|---|---|---|",
    ]
    for family in LARGE:
        found = compare(family)
        worst = [max(v for k, v in found.items() if k.startswith(f"{tower}_")) for tower in ("image", "text")]
        numbers = " | ".join(f"{value:.1e}" for value in (found["image"], found["text"], *worst))
        rows.append(f"| {family.name} | {family.what} | {numbers} |")
        print(rows[-1], flush=True)
    Path(ROOT / "docs" / "clip_parity.md").write_text("# CLIP beside its peers\n\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
