"""Karlo from diffusers' folder: what diffusers drew with the same folder, what the command does with it, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from described import build
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffusion_jax.cli import main
from diffusion_jax.pipelines import load_pipeline
from diffusion_jax.typing import UserError

GOLDEN = Path(__file__).parent / "golden"
PROMPTS = ["a cat", "red dog"]
FEW = ["--num-steps", "2", "--num-images", "1"]


@pytest.fixture(scope="module")
def folder(once):
    return once("karlo", lambda place: build(GOLDEN / "karlo.json", place))


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder)


@pytest.fixture
def changed(folder, tmp_path):
    """`changed(part)`: a folder of links to the whole one, but for a part that is a copy."""

    def made(*parts):
        for path in folder.iterdir():
            if path.name not in parts:
                (tmp_path / path.name).symlink_to(path)
            elif path.is_dir():
                shutil.copytree(path, tmp_path / path.name)
            else:
                shutil.copy(path, tmp_path / path.name)
        return tmp_path

    return made


def test_every_stage_draws_what_diffusers_draws(pipeline):
    """Each fed the peer's input and noise; the golden file was made by `make_pipeline_goldens`."""
    with np.load(GOLDEN / "karlo.npz") as golden:
        held = {name: golden[name] for name in golden.files}
    rng = np.random.default_rng(0)
    inputs = [(1 + steps, *held[name].shape) for steps, name in zip(held["steps"], ("embedding", "small", "large"))]
    of_prior, of_decoder, of_upsampler = (rng.normal(size=shape).astype(np.float32) for shape in inputs)
    prior, decoder, upsampler = (int(steps) for steps in held["steps"])
    (enlarge,) = pipeline.upsamplers
    for name, found in {
        "embedding": pipeline.prior.draw(PROMPTS, num_steps=prior, noise=of_prior),
        "small": pipeline.decoder.draw(held["embedding"], PROMPTS, num_steps=decoder, noise=of_decoder),
        "large": enlarge.draw(held["small"], num_steps=upsampler, noise=of_upsampler),
    }.items():
        assert np.abs(found - held[name]).max() <= 1e-4 * np.abs(held[name]).max(), name


def test_the_command_draws_from_the_folder(folder, tmp_path):
    out = tmp_path / "a.png"
    told = ["unclip", "generate", "--pretrained", str(folder), "--prompt", "a cat", *FEW, "--out", str(out)]
    assert main(told) == 0
    with Image.open(out) as picture:
        assert picture.height == picture.width >= 24 and np.asarray(picture).std() > 1


def test_what_the_folder_cannot_do_is_said(folder, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    words = ["unclip", "variations", "--pretrained", str(folder), "--image", str(tmp_path / "a.png"), *FEW]
    assert main([*words, "--out", str(tmp_path / "b.png")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "has no image_encoder" in said[-1] and not (tmp_path / "b.png").exists()


def test_a_part_that_is_missing_is_named(changed):
    folder = changed("decoder")
    shutil.rmtree(folder / "decoder")
    with pytest.raises(UserError, match="decoder"):
        load_pipeline(folder)


def test_a_scheduler_that_is_missing_is_named(changed):
    folder = changed("decoder_scheduler")
    (folder / "decoder_scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(UserError, match=r"lacks scheduler_config\.json"):
        load_pipeline(folder)


def test_parts_of_two_models_are_refused_with_their_numbers(changed):
    folder = changed("text_proj")
    file = folder / "text_proj" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    config = json.loads((folder / "text_proj" / "config.json").read_text())
    config["cross_attention_dim"] = 40
    (folder / "text_proj" / "config.json").write_text(json.dumps(config))
    for name, value in tensors.items():
        if value.shape[0] == 24:
            tensors[name] = np.resize(value, (40, *value.shape[1:]))
        elif value.shape[0] == 4 * 24:
            tensors[name] = np.resize(value, (4 * 40, *value.shape[1:]))
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match="what the projection makes of tokens and what the decoder attends to have 40 and 24"
    ):
        load_pipeline(folder)


def test_upsamplers_of_two_sizes_are_refused(changed):
    folder = changed("super_res_last")
    file = folder / "super_res_last" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": 48}))
    with pytest.raises(UserError, match="super_res_first draws 24 pixels, super_res_last 48"):
        load_pipeline(folder)


def test_a_truncated_part_is_one_line(changed):
    folder = changed("prior")
    file = folder / "prior" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="prior"):
        load_pipeline(folder)
