"""`sample --pretrained`: the fingerprint by which a folder of pictures is gone on with, and how many are drawn at a time."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from described import build
from PIL import Image

from diffusion_jax.cli import main
from diffusion_jax.cli.asking import _alone
from diffusion_jax.cli.pretrained import Published
from diffusion_jax.pipelines import Sizes, load_pipeline
from diffusion_jax.pipelines.checks import check_negative, guiding
from diffusion_jax.pipelines.pictures import masks_of
from diffusion_jax.pipelines.scheduler import read_scheduler
from diffusion_jax.typing import UserError, texts_of

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(GOLDEN / "sd1.json", tmp_path_factory.mktemp("published") / "sd1")


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder)


def more(params):
    """The tree with its first array a little greater."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([leaves[0] + 0.1, *leaves[1:]])


def encoders(pipeline, **changed):
    """The pipeline with another text encoder."""
    return dataclasses.replace(pipeline, encoders=(dataclasses.replace(pipeline.encoders[0], **changed),))


def words(pipeline, **changed):
    """The pipeline with another tokenizer."""
    return encoders(pipeline, tokenizer=dataclasses.replace(pipeline.encoders[0].tokenizer, **changed))


def autoencoder(pipeline, **changed):
    """The pipeline with another autoencoder."""
    return dataclasses.replace(pipeline, vae=dataclasses.replace(pipeline.vae, **changed))


CHANGES = {
    "network": lambda one: dataclasses.replace(one, params=more(one.params)),
    "what the network is": lambda one: dataclasses.replace(one, unet_config={**one.unet_config, "heads": 3}),
    "autoencoder": lambda one: autoencoder(one, params=more(one.vae.params)),
    "scale": lambda one: autoencoder(one, scale=np.asarray(one.vae.scale) * 2),
    "shift": lambda one: autoencoder(one, shift=np.asarray(one.vae.shift) + 1),
    "text encoder": lambda one: encoders(one, params=more(one.encoders[0].params)),
    "vocabulary": lambda one: words(one, symbols=one.encoders[0].tokenizer.symbols[::-1]),
    "merges": lambda one: words(one, merges=one.encoders[0].tokenizer.merges[:-1]),
    "context length": lambda one: words(one, context_length=7),
    "scheduler": lambda one: dataclasses.replace(
        one, scheduler=dataclasses.replace(one.scheduler, fields={**one.scheduler.fields, "beta_end": 0.02})
    ),
}


def test_the_fingerprint_is_of_all_that_draws(folder, pipeline):
    """Each part changed alone gives another; the same folder loaded again gives the same."""
    same, again = (Published(one, ("prompt",)).fingerprint for one in (pipeline, load_pipeline(folder)))
    others = {name: Published(change(pipeline), ("prompt",)).fingerprint for name, change in CHANGES.items()}
    assert same == again
    assert len({same, *others.values()}) == 1 + len(CHANGES), others


@pytest.fixture
def asked(monkeypatch):
    """[(requests, how many at a time)] of every call of `Published.generate`, which draws grey."""
    found = []

    def generate(run, requests, *, batch_size, count=None, **settings):
        found.append((list(requests), batch_size))
        return np.zeros((len(requests), *run.shape), np.float32)

    monkeypatch.setattr(Published, "generate", generate)
    return found


@pytest.mark.parametrize(("given", "size"), [([], 4 * 8), (["--batch-size", "3"], 3)])
def test_four_a_device_are_drawn_at_a_time(folder, tmp_path, asked, given, size):
    """Of 8 devices; a number that is given is taken as it is."""
    out = ["--format", "png", "--num-images", "40", "--out", str(tmp_path / "cats")]
    assert main(["sample", "--pretrained", str(folder), "--prompt", "a cat", *out, *given]) == 0
    assert {batch for _, batch in asked} == {size}
    counts = [len(requests) for requests, _ in asked]
    assert max(counts) == size and sum(counts) == 40


def test_a_file_of_prompts_may_begin_with_pictures(folder, tmp_path, asked, capsys):
    """One image a line where no number is said; what is the same for all is an option, and a line may name another."""
    for name, grey in (("a.png", 90), ("b.png", 200)):
        Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(tmp_path / name)
    lines = ["a cat", json.dumps({"prompt": "red dog"})]
    (tmp_path / "asked.txt").write_text("\n".join([*lines, "{a} cat"]))
    command = ["sample", "--pretrained", str(folder), "--format", "png", "--prompts", str(tmp_path / "asked.txt")]
    assert main([*command, "--out", str(tmp_path / "texts")]) == 0
    assert asked.pop()[0] == ["a cat", "red dog", "{a} cat"] and not asked
    a, b = (str(tmp_path / name) for name in ("a.png", "b.png"))
    lines.append(json.dumps({"prompt": "a dog", "image": b}))
    (tmp_path / "asked.txt").write_text("\n".join(lines))
    assert main([*command, "--image", a, "--strength", "0.5", "--out", str(tmp_path / "begun")]) == 0
    requests = [("a cat", a), ("red dog", a), ("a dog", b)]
    assert asked.pop()[0] == [{"image": image, "prompt": text} for text, image in requests]
    assert main([*command, "--out", str(tmp_path / "none")]) == 2
    assert "line 3 has 'prompt', 'image': it may have prompt; what is the same" in capsys.readouterr().err
    # Of several sizes one is said; null names no other picture; a line that is a folder's name here is a text.
    Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(b)
    assert main([*command, "--image", a, "--out", str(tmp_path / "sizes")]) == 2
    assert "the pictures are of several sizes, 16 x 16 and 16 x 32: say --size" in capsys.readouterr().err
    (tmp_path / "asked.txt").write_text(json.dumps({"prompt": "a dog", "image": None}) + f"\n{tmp_path}")
    assert main([*command, "--image", a, "--out", str(tmp_path / "null")]) == 0
    assert asked.pop()[0] == [{"image": a, "prompt": "a dog"}, {"image": a, "prompt": str(tmp_path)}]
    for line, said in (
        ('{"prompt": "x", "prompt": "y"}', "line 1 has the key 'prompt' twice"),
        ('{"prompt": 3}', "line 1 has prompt '3', which is no text"),
        ("{}", "line 1 has nothing: it may have prompt"),
    ):
        (tmp_path / "asked.txt").write_text(line)
        assert main([*command, "--out", str(tmp_path / "none")]) == 2
        assert said in capsys.readouterr().err
    for text in (f'{{"a": {"1" * 4400}}}', '{"a":' * 20_000):
        assert _alone("prompt", text, "line 1") == text
    assert _alone("label", '{"label": 3}', "line 1") == 3
    (tmp_path / "asked.txt").write_text("a cat")
    for wrong, said in (
        (["--mask", a], "--mask is of a picture to begin with: give --image as well"),
        (["--strength", "0.5"], "--strength is of a picture to begin with: give --image as well"),
        (["--solver-option", "order=3"], "--solver-option order=3 needs --solver"),
        (["--size", "16,16"], "--size '16,16' is not an edge in pixels, such as 512, or HEIGHTxWIDTH"),
    ):
        assert main([*command, *wrong, "--out", str(tmp_path / "none")]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("tile", "message"), [(0, "tile 0 is not .* at least 8; nearest: 8"), (12, "nearest: 16")])
def test_a_tile_names_the_nearest_that_is_taken(pipeline, tile, message):
    with pytest.raises(UserError, match=message):
        pipeline.generate("a cat", num_steps=2, tile=tile)


def test_a_negative_that_is_no_text_is_told_as_one():
    """What it would change comes first, and has nothing to say of a number."""
    check_negative((5, None), None, 7.5, told=False)
    with pytest.raises(UserError, match="negative"):
        texts_of("negative", 5)


def test_scales_and_what_they_switch_off():
    assert [guiding(scale, 7.5) for scale in (None, 0, 0.5, 1, 3)] == [7.5, 1, 1, 1, 3]
    assert [guiding(scale, 7.5, "cfg_plus_plus") for scale in (0.3, None)] == [0.3, 0.6]
    assert guiding(0, 7.5, told=True) == 0


def test_latent_consistency_has_steps_of_its_own(pipeline):
    """Four of its own pipelines, where none are asked for; also from a picture, which fifty are too many for."""
    scheduler = read_scheduler({"_class_name": "LCMScheduler"}, "f")
    own = dataclasses.replace(pipeline, scheduler=dataclasses.replace(scheduler, shortens=True))
    drawn, told = own.generate("a cat", output="latent"), own.generate("a cat", num_steps=4, output="latent")
    np.testing.assert_array_equal(drawn, told)
    Published(own, ("prompt",), strength=0.8).settings()
    own.generate("a cat", image=np.zeros((16, 16, 3), np.uint8), output="latent")
    assert [one.usual_steps for one in (scheduler, own.scheduler)] == [50, 4]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda p: Sizes(original_size=(0, 5)),
            r"original_size of Sizes is \(0, 5\), not two whole numbers \(height",
        ),
        (lambda p: Sizes(crop=(0, -1)), r"crop of Sizes is \(0, -1\), not two whole numbers \(top, left\)"),
        (
            lambda p: p.generate("a", sizes=Sizes(original_size=(5, 5))),
            "original_size of Sizes: this U-Net is told none",
        ),
        (lambda p: Sizes(aesthetic_score=5.0).check(6), "aesthetic_score of Sizes: this U-Net is told none"),
        (lambda p: Sizes(target_size=(5, 5)).check(5), "target_size of Sizes: this U-Net is told none"),
        (
            lambda p: p.pixels(image=[np.zeros((16, 16, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)]),
            "the pictures are of several sizes, 16 x 16 and 16 x 32: say size",
        ),
        (
            lambda p: masks_of(np.ones((16, 16), np.uint8), (16, 16), [(16, 16)]),
            "of which 1 is black: give booleans, or 255",
        ),
        (lambda p: load_pipeline("runwayml/stable-diffusion-v1-5"), "does not exist: .* a folder of yours, not a name"),
    ],
)
def test_what_is_no_size_picture_or_folder_is_one_line(pipeline, ask, message):
    with pytest.raises(UserError, match=message):
        ask(pipeline)
    assert pipeline.pixels(image=[np.zeros((16, 16, 3), np.uint8), np.zeros((17, 16, 3), np.uint8)]) == (16, 16)


def test_a_pointer_in_place_of_weights_is_told(folder, tmp_path):
    """What a clone without Git LFS holds."""
    other = shutil.copytree(folder, tmp_path / "cloned")
    file = next((other / "unet").glob("*.safetensors"))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="a pointer of Git LFS, not the weights themselves"):
        load_pipeline(other)
