"""PyTorch's own files: OpenAI's TorchScript archives in half precision, state dicts, and what we write for open_clip."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

from test_clip_goldens import checkpoint  # noqa: E402

from diffusion_jax.convert import load_clip, save_clip  # noqa: E402
from diffusion_jax.typing import UserError  # noqa: E402


class Archive(torch.nn.Module):
    """Tensors under OpenAI's names, as a module that TorchScript can save."""

    def __init__(self, tensors):
        super().__init__()
        for name, value in tensors.items():
            place, *rest = self, name.split(".")
            *folders, last = rest[0]
            for folder in folders:
                if not hasattr(place, folder):
                    place.add_module(folder, torch.nn.Module())
                place = getattr(place, folder)
            place.register_buffer(last, value)

    def forward(self, x):
        return x


@pytest.fixture
def model(tmp_path):
    (tmp_path / "a").mkdir()
    checkpoint("openai_vit", tmp_path / "a")
    return load_clip(tmp_path / "a")


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_a_state_dict_is_written_and_read(model, tmp_path):
    config, params = model
    file = save_clip(tmp_path / "x.pt", config, params, "openai")
    state = torch.load(file, weights_only=True)
    assert int(state["input_resolution"]) == 16 and state["logit_scale"].shape == ()
    again, found = load_clip(file)
    same(params, found)
    assert again["vision"]["heads"] == 1 and again["vision"]["activation"] == "quick_gelu"


def test_a_torchscript_archive_in_half_precision_is_read(model, tmp_path):
    config, params = model
    state = torch.load(save_clip(tmp_path / "x.pt", config, params, "openai"), weights_only=True)
    half = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value for name, value in state.items()
    }
    torch.jit.script(Archive(half)).save(str(tmp_path / "jit.pt"))
    _, found = load_clip(tmp_path / "jit.pt")
    wanted = jax.tree.map(lambda x: x, params)
    rounded = np.asarray(wanted["text"]["proj"]["kernel"]).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found["text"]["proj"]["kernel"], rounded)


def test_bfloat16_and_prefixes_of_training_are_read(model, tmp_path):
    config, params = model
    state = torch.load(save_clip(tmp_path / "x.pt", config, params, "openai"), weights_only=True)
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": v for n, v in state.items()}}, tmp_path / "epoch.pt")
    same(params, load_clip(tmp_path / "epoch.pt")[1])
    torch.save({n: v.bfloat16() if v.is_floating_point() else v for n, v in state.items()}, tmp_path / "b.pt")
    found = load_clip(tmp_path / "b.pt")[1]
    wanted = torch.from_numpy(np.array(params["text"]["token_embedding"])).bfloat16().float().numpy()
    np.testing.assert_array_equal(found["text"]["token_embedding"], wanted)


def test_files_that_are_none_are_one_line(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="is neither a state dict nor a TorchScript archive"):
        load_clip(tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "y.pt")
    with pytest.raises(UserError, match="holds no state dict of tensors"):
        load_clip(tmp_path / "y.pt")


def test_open_clip_reads_what_we_write(model, tmp_path):
    import json

    import open_clip
    from filled import inputs

    config, params = model
    file = save_clip(tmp_path / "oc", config, params, "open_clip")
    told = json.loads((tmp_path / "oc" / "open_clip_config.json").read_text())["model_cfg"]
    peer = open_clip.CLIP(**told)
    from safetensors.torch import load_file

    missing = peer.load_state_dict(load_file(file), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"attn_mask"}
    images, _ = inputs(16, 60, 12)
    golden = np.load(Path(__file__).parents[1] / "convert" / "goldens" / "openai_vit.npz")
    with torch.no_grad():
        found = peer.eval().encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(found, golden["image"], atol=1e-5)


@pytest.mark.parametrize("name", ["hf_clip", "hf_siglip"])
def test_transformers_reads_what_we_write(name, tmp_path):
    import transformers
    from filled import inputs

    (tmp_path / "a").mkdir()
    golden, _ = checkpoint(name, tmp_path / "a")
    config, params = load_clip(tmp_path / "a")
    save_clip(tmp_path / "b", config, params, "hf")
    cls = transformers.CLIPModel if name == "hf_clip" else transformers.SiglipModel
    peer = cls.from_pretrained(tmp_path / "b").eval()
    images, tokens = inputs(*golden["sizes"])
    with torch.no_grad():
        image = peer.get_image_features(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        text = peer.get_text_features(input_ids=torch.from_numpy(tokens))
    for found, wanted in ((image, golden["image"]), (text, golden["text"])):
        np.testing.assert_allclose(getattr(found, "pooler_output", found).numpy(), wanted, atol=1e-5)
