"""What is refused before anything is written: values out of range, and config files written by hand with a mistake."""

import pytest
import smallruns as tiny

from diffusion_jax.cli import main


def test_help_shows_a_default_of_zero(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "--seed SEED image i is a function of the seed and of i (default: 0)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["more"], "argument 'more' is not known"),
        (["--seed", "-1"], "--seed -1 is not from 0 to 4294967295"),
        (["--seed", str(2**70)], f"--seed {2**70} is not from 0"),
        (["--batch-size", "0"], "--batch-size 0 is not at least 1"),
        (["--scale", "0"], "--scale 0 is not at least 1"),
        (["--num-i", "0"], "--num-images 0 is not at least 1"),  # options may be abbreviated
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_values_out_of_range_are_one_line(extra, said, capsys):
    tiny.fails(capsys, ["sample", "--run", "x", "--prompt", "a", "--out", "a.png", *extra], said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"log_every": 0}, "config key 'log_every' is 0; it is a whole number of at least 1"),
        ({"seed": 2**32}, f"config key 'seed' is {2**32}; it is a whole number from 0 to {2**32 - 1}"),
        ({"model.name": "dit"}, "model 'dit' is not known (known: clip)"),
        ({"model.vision.heads": 3}, "width 16 is not divided by 3 heads"),
        ({"data.noise": -1}, "config key 'data.noise' is -1.0; it is a standard deviation from 0 to 10; nearest: 0.0"),
        ({"workdir": "b [1]/run"}, "no checkpoint can lie below [ ] in a path"),
        ({"optimizer.learning_rate": "1e999"}, "config key 'optimizer.learning_rate' is inf"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_clip_config_is_one_line_and_leaves_no_folder(tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.clip_arguments(tmp_path, **changed), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prediction": "score"}, "prediction 'score' cannot represent t = 1.0 under Cosine"),
        (
            {"sampler.guidance_scale": "1e999"},
            "config key 'sampler.guidance_scale' is inf; it is a number from 0 to 1e+06",
        ),
        ({"model.heads": 3}, "width 16 is not divided by 3 heads"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_diffusion_config_is_one_line_and_leaves_no_folder(run, tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.diffusion_arguments(tmp_path, condition__encoder=run / "clip", **changed), said)
    assert list(tmp_path.iterdir()) == []


HAND_WRITTEN = """
import importlib.util

def get_config():
    spec = importlib.util.spec_from_file_location("base", {base!r})
    base = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(base)
    config = base.get_config()
    config.workdir = {workdir!r}
    {change}
    return config
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("del config.model.dtype", "config key 'model.dtype' is missing"),
        ("config.mesh = {'date': 1}", "mesh takes no 'date'; did you mean 'data'?"),
        ("del config.log_every", "config key 'log_every' is missing"),
        ("with config.unlocked(): config.bacth_size = 3", "'bacth_size' is not known; did you mean 'batch_size'?"),
        ("with config.ignore_type(): config.data = 'digits'", "config key 'data' is 'digits'; it is a group of keys"),
    ],
    ids=lambda value: value[:20],
)
def test_wrong_config_file_is_one_line(tmp_path, capsys, change, said):
    file, workdir = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(HAND_WRITTEN.format(base=tiny.CLIP, workdir=str(workdir), change=change))
    tiny.fails(capsys, ["train", "--config", str(file)], said)
    assert not workdir.exists()
