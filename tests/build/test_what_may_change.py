"""Which keys may change when a run is gone on with: every key has its place, and files may move."""

import json
import shutil
from pathlib import Path

import pytest
from flax import nnx
from ml_collections import ConfigDict

from diffusion_jax import training
from diffusion_jax.config import flatten, load_config
from diffusion_jax.nets import Network
from diffusion_jax.systems.resume import FIXED, FREE, MOVED, changes_of, contents_of, differences, kind_of
from diffusion_jax.systems.system import Task
from diffusion_jax.systems.table import keys, ranges_of
from diffusion_jax.typing import UserError

ROOT = Path(__file__).parents[2]
TASK = Task(Network(lambda rngs: nnx.Linear(1, 1, rngs=rngs)), lambda *_: None, lambda step: {})
BY_NAME = {path.stem: load_config(str(path)) for path in sorted((ROOT / "configs").glob("*.py"))}
CONFIGS = list(BY_NAME.values())
MAY_CHANGE = {
    "workdir", "steps", "log_every", "eval_every", "checkpoint_every", "condition.encoder", "condition.cache", "space.encoder",
    "condition.sample_level", "data.path", "data.data_dir",
    "data.index", "data.on_error", "data.error_share",
    "data.workers", "data.eval_pairs", "tokenizer.path", "model.scan", "model.remat",
    "pretrained.path", "pretrained.tokenizer", "pretrained.remat", "model.norm", "loss.chunk", "loss.micro_batches",
}  # fmt: skip
OWN = {"fine_tune": ("space.autoencoder",)}
GROUPS = ("zero_shot.", "weights.", "mesh.", "sampler.")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.workdir)
def test_every_key_is_fixed_or_may_change(config):
    for key in {*flatten(config), *keys(config)}:
        free = key in MAY_CHANGE | set(OWN.get(config.system, ())) or key.startswith(GROUPS)
        assert (kind_of(key, changes_of(config)) != FIXED) == free, key


def test_every_row_is_a_key_or_a_group_with_a_reason():
    for config in CONFIGS:
        rows, changes = {"system", *ranges_of(config)}, changes_of(config)
        known = {row.replace("[", ".").partition(".")[0] if "[" in row else row for row in rows}
        known |= {row.rpartition(".")[0] for row in rows} | {row.partition(".")[0] for row in rows}
        assert set(changes) <= known
        assert all(kind in (FIXED, FREE, MOVED) and reason for kind, reason in changes.values())
        with pytest.raises(KeyError):
            kind_of("unheard.of", changes)


def changed(config, **values):
    made = ConfigDict(config.to_dict())
    for key, value in values.items():
        node = made
        *inner, last = key.split("__")
        for name in inner:
            node = node[name]
        with node.ignore_type():
            node[last] = value
    return made


def test_defaults_that_are_written_out_are_no_difference():
    digits, diffusion = BY_NAME["digits_clip"], BY_NAME["digits_diffusion"]
    same = changed(digits, optimizer__end_scale=0.0, ema__warmup=True, locked=[], model__vision__mlp_ratio=4.0)
    assert differences(digits, same) == {FIXED: [], FREE: [], MOVED: []}
    assert differences(diffusion, changed(diffusion, sampler__guidance=None)) == {FIXED: [], FREE: [], MOVED: []}
    assert differences(diffusion, changed(diffusion, space={"name": "pixels"})) == {FIXED: [], FREE: [], MOVED: []}
    assert differences(diffusion, changed(diffusion, space={"name": "embeddings"}))[FIXED]
    old = changed(digits, data__nois=0.5)  # of a run before such keys were refused
    assert differences(old, digits)[FREE] == ["data.nois: 0.5 -> (absent)"]
    preset = BY_NAME["clip_b16"]  # of a preset the sizes are its own, not the constructors' defaults
    assert differences(preset, changed(preset, model__vision__heads=12))[FIXED]


@pytest.fixture
def begun(tmp_path):
    """A run folder of a CLIP on pictures as `_prepare` leaves it; and its config."""
    pictures, words = tmp_path / "pictures", tmp_path / "words"
    for folder, files in (
        (pictures, {"a.png": "1", "b/c.png": "22"}),
        (words, {"vocab.json": "{}", "merges.txt": "x"}),
    ):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    config = changed(
        BY_NAME["clip_folder"], data__path=str(pictures), tokenizer__path=str(words), workdir=str(tmp_path / "run")
    )
    training._prepare(tmp_path / "run", config, TASK, False, print)
    return tmp_path, config


def go_on(folder, config):
    said = []
    training._prepare(folder / "run", config, TASK, False, said.append)
    return said


def test_files_may_move_when_they_are_the_same(begun):
    folder, config = begun
    assert go_on(folder, config) == []
    for name in ("pictures", "words"):
        (folder / name).rename(folder / f"moved_{name}")
    moved = changed(config, data__path=str(folder / "moved_pictures"), tokenizer__path=str(folder / "moved_words"))
    (said,) = go_on(folder, moved)
    assert "(the same pictures)" in said and "(the same words)" in said
    assert json.loads((folder / "run" / "config.json").read_text())["data"]["path"] == moved.data.path
    assert go_on(folder, moved) == []  # the run knows where they lie now
    shutil.copytree(folder / "moved_words", folder / "others")
    (folder / "others" / "merges.txt").write_text("y")
    with pytest.raises(UserError, match=r"tokenizer\.path: .*, where words are others than those trained on"):
        go_on(folder, changed(moved, tokenizer__path=str(folder / "others")))
    (folder / "moved_words" / "merges.txt").write_text("y")
    with pytest.raises(UserError, match=r"tokenizer\.path: words are others than before"):
        go_on(folder, moved)


def test_a_mended_picture_is_a_word_and_other_pictures_are_another_run(begun):
    folder, config = begun
    (folder / "pictures" / "a.png").write_text("mended")
    (said,) = go_on(folder, config)
    assert "data.path: pictures are others than before" in said
    (folder / "other").mkdir()
    (folder / "other" / "z.png").write_text("3")
    with pytest.raises(UserError, match=r"where pictures are others .*--overwrite"):
        go_on(folder, changed(config, data__path=str(folder / "other")))


def test_what_may_change_is_said_and_what_may_not_is_refused(begun):
    folder, config = begun
    free = changed(
        config, data__on_error="skip", data__workers=3, data__eval_pairs=7, loss__micro_batches=4, loss__chunk=8,
        model__scan=True, weights__path="gone", zero_shot__templates="plain", steps=900,
    )  # fmt: skip
    (said,) = go_on(folder, free)
    for word in ("on_error: raise -> skip", "workers: 0 -> 3", "eval_pairs", "micro_batches: 1 -> 4", "chunk", "scan"):
        assert word in said
    for wrong in (
        {"data__validation": 0.2},
        {"seed": 1},
        {"loss__identity": False},
        {"preprocess__exif": not config.preprocess.exif},
    ):
        with pytest.raises(UserError, match="holds a run of another config"):
            go_on(folder, changed(free, **wrong))


def test_a_run_without_a_note_is_compared_with_what_lies_there(begun):
    folder, config = begun
    (folder / "run" / "inputs.json").unlink()
    shutil.copytree(folder / "pictures", folder / "copy")
    (said,) = go_on(folder, changed(config, data__path=str(folder / "copy")))
    assert "(the same pictures)" in said
    (folder / "run" / "inputs.json").unlink()
    shutil.rmtree(folder / "copy")
    (said,) = go_on(folder, config)
    assert "(what lay there before is not known)" in said


def test_shards_are_known_by_name_and_size(tmp_path):
    config = changed(BY_NAME["clip_b16"], data__path=str(tmp_path / "{0..1}.tar"), tokenizer__path="")
    assert contents_of(config) == {}
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_text(name)
    before = contents_of(config)
    assert set(before) == {"data.path"}
    (tmp_path / "1.tar").write_text("longer")
    assert contents_of(config) != before


def test_files_of_arrays_are_known_by_their_bytes_wherever_they_lie(tmp_path):
    """Two arrays of one shape have one size."""
    (tmp_path / "moved").mkdir()
    for name, bytes_ in (("a.npz", b"one"), ("moved/b.npz", b"one"), ("c.npz", b"two")):
        (tmp_path / name).write_bytes(bytes_)
    found = [
        contents_of(changed(BY_NAME["clip_b16"], data__path=str(tmp_path / name), tokenizer__path=""))["data.path"]
        for name in ("a.npz", "moved/b.npz", "c.npz")
    ]
    assert found[0] == found[1] != found[2]
