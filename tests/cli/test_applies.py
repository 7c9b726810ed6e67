"""Options that would change nothing are refused, and what is written is checked before any work."""

import argparse
import errno
import json
import os

import jax
import jax.numpy as jnp
import pytest
import smallruns as tiny

from diffusion_jax import cli
from diffusion_jax.cli import commands, keyvalues, sample
from diffusion_jax.cli.applies import APART, GOES_WITH
from diffusion_jax.cli.notices import in_short
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.files import check_file, check_folder
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.systems.clip import evaluate as clip_evaluate
from diffusion_jax.systems.diffusion import measures as diffusion_measures
from diffusion_jax.typing import UserError
from experiments.digits import measures as digits_measures

SAMPLE = ["sample", "--run", "x", "--prompt", "a", "--out", "a.png"]
MANY = ["sample", "--run", "x", "--prompts", "a.txt", "--out", "many"]
EVALUATE = ["evaluate", "--run", "x"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*SAMPLE, "--shard-size", "1000"], "--shard-size does not go with --prompt"),  # the default, but written
        ([*SAMPLE, "--shard", "10"], "--shard-size does not go with --prompt"),  # options may be abbreviated
        ([*MANY, "--scale", "3"], "--scale does not go with --prompts"),
        ([*EVALUATE, "--classes", "c.json"], "--classes needs --zero-shot"),
        ([*EVALUATE, "--retrieval", "d", "--templates=seven"], "--templates needs --zero-shot"),
        ([*EVALUATE, "--scans", "3"], "--scans needs --bits-per-dim"),
        ([*EVALUATE, "--divergence", "exact"], "--divergence needs --bits-per-dim"),
        ([*EVALUATE, "--model", "ViT-B-32"], "--model needs --zero-shot, --retrieval, --linear-probe or --clip-score"),
        ([*EVALUATE, "--tokenizer", "t"], "--tokenizer needs --zero-shot"),
        ([*EVALUATE, "--retrieval", "d", "--samples", "500"], "--samples does not go with --retrieval"),
        ([*EVALUATE, "--bits-per-dim", "--samples", "500"], "--samples does not go with --bits-per-dim"),
        ([*EVALUATE, "--clip-score", "d", "--seed=0"], "--seed does not go with --clip-score"),
        ([*EVALUATE, "--clip-score", "d", "--bits-per-dim"], "--bits-per-dim does not go with --clip-score"),
        ([*EVALUATE, "--zero-shot", "d", "--split", "test"], "--split does not go with --zero-shot"),
        ([*EVALUATE, "--retrieval", ""], "--retrieval is empty"),
        ([*EVALUATE, "--linear-probe", "d", ""], "--linear-probe is empty"),
        (["report", "--run", ""], "--run is empty"),
        (["report", "--run", "a\0b"], "null character"),
        ([*SAMPLE, "--negative", "\udc80"], "--negative is not valid text at character 1"),
        ([*SAMPLE, "--eta", "nan"], "eta nan is not finite; it is a number, usually from 0 (none) to 1"),
        ([*SAMPLE, "--eta=-inf"], "eta -inf is not finite"),
        ([*SAMPLE, "--guidance-scale", "nan"], "guidance scale nan is not finite"),
        ([*EVALUATE, "--seed", "-1"], "--seed -1 is not from 0"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(arguments, said, capsys):
    tiny.fails(capsys, arguments, said)


def test_every_option_of_the_tables_is_one():
    for table in (GOES_WITH, APART):
        for command, rows in table.items():
            words = vars(cli.parser().parse_known_args({"sample": SAMPLE, "evaluate": EVALUATE}[command])[0])
            for option, others in rows.items():
                assert {option, *others} <= words.keys()


def test_an_option_of_weights_is_refused_for_a_run_and_the_other_way_round(run, tmp_path, capsys):
    clip = str(run / "clip")
    tiny.fails(
        capsys, ["convert", clip, "--out", str(tmp_path / "a"), "--model", "ViT-B-32"], "is a run, which says it"
    )
    arguments = ["evaluate", "--run", clip, "--zero-shot", str(tmp_path), "--tokenizer", "a"]
    tiny.fails(capsys, arguments, "--tokenizer changes nothing")
    (tmp_path / "weights.pt").touch()
    arguments = ["convert", str(tmp_path / "weights.pt"), "--out", str(tmp_path / "a"), "--weights", "ema"]
    tiny.fails(capsys, arguments, "is no run")
    tiny.fails(capsys, ["evaluate", "--run", clip, "--samples", "40"], "--samples is of the samples of a diffusion run")


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "-1e999", "0.3,1e999", "True", ""])
def test_a_guidance_option_is_a_finite_number(value):
    given = argparse.Namespace(guidance="apg", guidance_option=[f"eta={value}"])
    with pytest.raises(UserError, match="is not KEY=NUMBER, finite"):
        keyvalues.guidance_of(given, {})


def test_notices_of_many_prompts_are_counted():
    tokenizer = WordTokenizer(("a", "seven"))
    lines = in_short(tokenizer.explain([f"a seven {i:x}x" for i in range(1000)]))
    assert len(lines) == 21 and lines[-1] == "and 980 more notices like these"
    assert in_short(tokenizer.explain(["a seven"])) == []


# What is written


def test_a_vocabulary_of_too_little_names_the_fault_and_leaves_nothing(tmp_path, capsys):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    (pictures / "a.png").touch()
    for rows, said in (
        ("a.png,ab", "too few captions to learn a pair from"),
        ("a.png,ab\na.png,", "1 empty captions, the first in captions.csv, line 3"),
        ("a.png,", "1 empty captions, the first in captions.csv, line 2"),
    ):
        (pictures / "captions.csv").write_text(f"image,caption\n{rows}\n")
        tiny.fails(capsys, ["vocabulary", str(pictures), "--out", str(out)], said)
        assert not out.exists()


def test_a_prompt_file_is_sought_by_its_name(tmp_path, capsys):
    for name in ("bad.txt", "prompts.txt"):
        (tmp_path / name).touch()
    asked = ["sample", "--run", "x", "--out", str(tmp_path / "o"), "--prompts", str(tmp_path / "prompt.txt")]
    tiny.fails(capsys, asked, "does not exist; did you mean 'prompts.txt'?")


def test_out_is_checked_before_any_work(tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("work began")

    for module, name in (
        (commands, "load_run"),
        (sample, "load_run"),
        (diffusion_measures, "load_run"),
        (clip_evaluate, "load_clip"),
        (clip_evaluate, "_measured"),
    ):
        monkeypatch.setattr(module, name, work)
    file, long = tmp_path / "file", "x" * 300
    file.touch()
    (tmp_path / "taken" / "clip_metrics.json").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "a.txt").write_text("a seven\n")
    for out, said in (
        (file, "is a file; give a folder"),
        (file / "deep" / "er", f"{file} is not a folder"),
        (tmp_path / long, "a name of 300 bytes, and 255 is the most"),
        (tmp_path / "new" / long / "deep", "a name of 300 bytes, and 255 is the most"),
        (tmp_path / ("ü" * 130), "a name of 260 bytes"),
        (tmp_path.joinpath(*["x" * 250] * 20), "more than 4095 bytes"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
    ):
        tiny.fails(capsys, [*EVALUATE, "--out", str(out)], said)
        tiny.fails(capsys, [*EVALUATE, "--retrieval", "d", "--out", str(out)], said)
        many = ["sample", "--run", "x", "--prompts", str(tmp_path / "a.txt"), "--out", str(out)]
        tiny.fails(capsys, many, said)
        tiny.fails(capsys, ["vocabulary", "x", "--out", str(out)], said)
        tiny.fails(capsys, ["convert", "x", "--overwrite", "--out", str(out)], "is a file" if out == file else said)
    tiny.fails(
        capsys, [*EVALUATE, "--retrieval", "d", "--out", str(tmp_path / "taken")], "clip_metrics.json' is a folder"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report").touch()
    (tmp_path / "run" / "config.json").write_text('{"system": "clip"}')
    tiny.fails(capsys, ["evaluate", "--run", str(tmp_path / "run")], "is a file; give a folder")
    picture = tmp_path / "folder.png"
    picture.mkdir()
    one = ["sample", "--run", "x", "--prompt", "a", "--overwrite", "--out"]
    tiny.fails(capsys, [*one, str(picture)], "is a folder; give the name of a file in it")
    tiny.fails(capsys, [*one, str(tmp_path / f"{long}.png")], "a name of 304 bytes")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "file", "folder.png", "loop", "run", "taken"]


def test_a_path_that_can_be_made_is_given_back(tmp_path):
    assert check_folder(tmp_path / "a" / "b", ("c.json",)) == tmp_path / "a" / "b"
    assert check_file(tmp_path / ("x" * 255)) == tmp_path / ("x" * 255)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="--out is empty"):
        check_file("")


def test_numbers_are_printed_where_they_cannot_be_written(run, tmp_path, monkeypatch, capsys):
    def full(folder, evaluation):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(digits_measures, "save_evaluation", full)
    assert cli.main(["evaluate", "--run", str(run / "clip"), "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr()
    assert 0 <= json.loads(said.out)["clip"]["zero_shot_accuracy"] <= 1
    assert said.err.splitlines()[-1].startswith("error: No space left on device")


# Memory


def test_what_does_not_fit_the_memory_is_one_line(run, tmp_path, monkeypatch, capsys):
    @enough_memory("lower it")
    def fill():
        jax.jit(lambda: jnp.ones((10**7, 10**6)))().block_until_ready()

    with pytest.raises(UserError, match=r"not enough memory \(Out of memory allocating \d+ bytes\): lower it"):
        fill()
    with pytest.raises(UserError, match="not enough memory: lower it"), enough_memory("lower it"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="other"), enough_memory("lower it"):
        raise RuntimeError("other")

    def generate(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.\nmore")

    monkeypatch.setattr("diffusion_jax.systems.diffusion.run.DiffusionRun.generate", generate)
    arguments = ["sample", "--run", str(run), "--prompt", "a seven", "--out", str(tmp_path / "a.png")]
    tiny.fails(capsys, arguments, "not enough memory (Out of memory allocating 12 bytes): lower --batch-size 256")
    monkeypatch.setattr(commands, "train_run", generate)
    tiny.fails(capsys, tiny.clip_arguments(tmp_path), "lower --config.batch_size=16 or the size of the model, or raise")


def test_a_picture_of_too_many_pixels_is_refused(run, tmp_path, capsys):
    arguments = ["sample", "--run", str(run), "--prompt", "a", "--out", str(tmp_path / "a.png"), "--num-images"]
    tiny.fails(capsys, [*arguments, str(10**12)], f"--num-images {10**12} at --scale 12 make a picture of 768 x")
    tiny.fails(capsys, [*arguments, "1", "--scale", "5000"], "40000 x 40000 pixels")
